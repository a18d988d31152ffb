//! I1 and I2 under kill -9 of all nodes at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ringfort_client::Client;

use crate::{
    cluster::{Cluster, copy_tree},
    writers::{Ledger, check, write_until},
};

/// Writers at work while the nodes are killed.
const WRITERS: usize = 256;

/// Rounds of killing everything: `RINGFORT_KILL_ROUNDS`, or few enough for every day.
fn rounds() -> u32 {
    std::env::var("RINGFORT_KILL_ROUNDS")
        .ok()
        .map_or(3, |rounds| rounds.parse().expect("a number of rounds"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_kill_9_of_all_nodes() {
    let mut cluster = Cluster::start(3);
    let mut ledger = Ledger::new();
    for round in 1..=rounds() {
        let client = Client::builder()
            .endpoints(cluster.endpoints())
            .build()
            .expect("a client");
        let stop = Arc::new(AtomicBool::new(false));
        let writers = {
            let (client, ledger, stop) = (client.clone(), ledger, stop.clone());
            tokio::spawn(async move { write_until(&client, WRITERS, ledger, stop).await })
        };
        // Another moment of the node's life in every round: young, in a drain, after several.
        tokio::time::sleep(Duration::from_millis(700 + u64::from(round * 397 % 2300))).await;
        cluster.kill_all();
        stop.store(true, Ordering::Relaxed);
        let (known, tally) = writers.await.expect("the writers end");
        ledger = known;
        assert!(tally.acked > 0, "round {round}: nothing was written");
        cluster.start_all();
        let keys = check(&client, &ledger).await;
        eprintln!(
            "round {round}: {} writes acknowledged, {} failed, {keys} keys whole",
            tally.acked, tally.failed
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_may_die_and_come_back_under_writes() {
    let mut cluster = Cluster::start(3);
    let client = Client::builder()
        .endpoints(cluster.endpoints())
        .build()
        .expect("a client");
    let stop = Arc::new(AtomicBool::new(false));
    let writers = {
        let (client, stop) = (client.clone(), stop.clone());
        tokio::spawn(async move { write_until(&client, 32, Ledger::new(), stop).await })
    };
    for victim in 0..3 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        cluster.kill(victim);
        tokio::time::sleep(Duration::from_millis(400)).await;
        cluster.restart(victim);
    }
    stop.store(true, Ordering::Relaxed);
    let (ledger, tally) = writers.await.expect("the writers end");
    eprintln!(
        "{} writes acknowledged, {} failed",
        tally.acked, tally.failed
    );
    check(&client, &ledger).await;
}

/// Writes to all three owners; waits until the others have found a node that just came back.
async fn put_everywhere(client: &Client, key: &str, value: &'static str) {
    for _ in 0..200 {
        match client.put(key, value).w(3).if_absent().await {
            Ok(_) => return,
            Err(error) => assert!(error.is_retryable(), "{key}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{key}: three owners are never reachable");
}

/// A directory put back from a copy remembers less than the others have heard of it: it must not mint the same dots
/// again, and its copies must not count toward a read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_directory_loses_nothing() {
    let mut cluster = Cluster::start(3);
    let client = Client::builder()
        .endpoints(cluster.endpoints())
        .build()
        .expect("a client");
    for i in 0..200 {
        let key = format!("old-{i}");
        put_everywhere(&client, &key, "old").await;
    }
    assert!(cluster.terminate(0).success());
    let backup = cluster.nodes[0].data_dir.with_extension("backup");
    copy_tree(&cluster.nodes[0].data_dir, &backup);
    cluster.restart(0);
    for i in 0..200 {
        let key = format!("new-{i}");
        put_everywhere(&client, &key, "new").await;
    }
    // What the others have heard is carried once a second at the latest.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    cluster.kill(0);
    std::fs::remove_dir_all(&cluster.nodes[0].data_dir).expect("it is ours");
    copy_tree(&backup, &cluster.nodes[0].data_dir);
    cluster.restart(0);
    for i in 0..200 {
        let key = format!("after-{i}");
        client.put(key, "after").await.expect("a quorum is up");
    }
    for (kind, count) in [("old", 200), ("new", 200), ("after", 200)] {
        for i in 0..count {
            let key = format!("{kind}-{i}");
            let read = client.get(key.as_str()).r(2).await.expect("a quorum is up");
            let value = read.one().expect("one value");
            assert_eq!(value.as_deref(), Some(kind.as_bytes()), "{key}");
        }
    }
}
