//! I2 while connections break: every acknowledged write is there, once, whatever was retried through whom.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use crate::{coordinator::Origin, testing::*};

/// Clients that write at the same time.
const CLIENTS: u64 = 8;
/// Writes of each.
const WRITES: u64 = 60;
/// So many acknowledged writes later connections break again: by progress, not by time, on however slow a machine.
const SHAKE_EVERY: usize = 12;

/// Writes one value, retrying the same request through other nodes until it is acknowledged.
async fn write_until_acknowledged(cluster: &Cluster, client: u64, sequence: u64) {
    let (name, value) = (
        format!("k{}", sequence % 20),
        format!("{client}-{sequence}"),
    );
    for attempt in 0.. {
        let node = &cluster.nodes[(client as usize + attempt) % cluster.nodes.len()];
        let kind = put_with(&name, &value, request(client, sequence));
        let answer = outcome(node.start_op(kind, Duration::from_secs(2), Origin::Client)).await;
        if answer.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn acknowledged_writes_are_there_once_though_connections_break() {
    let limits = crate::limits::Limits {
        siblings: 1_000,
        ..Default::default()
    };
    let cluster = Cluster::start(Options {
        limits,
        ..Options::default()
    })
    .await;
    let acknowledged = AtomicUsize::new(0);
    let clients = (0..CLIENTS).map(|client| {
        let (cluster, acknowledged) = (&cluster, &acknowledged);
        async move {
            for sequence in 0..WRITES {
                write_until_acknowledged(cluster, client, sequence).await;
                let count = acknowledged.fetch_add(1, Relaxed);
                if count % SHAKE_EVERY == 0 {
                    let node = &cluster.nodes[count / SHAKE_EVERY % cluster.nodes.len()];
                    node.net.shake(&node.member().peer_addr);
                }
            }
        }
    });
    let all =
        tokio::time::timeout(Duration::from_secs(60), futures::future::join_all(clients)).await;
    assert!(
        all.is_ok(),
        "{} writes were acknowledged in a minute",
        acknowledged.load(Relaxed)
    );
    for (at, other) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
        cluster.wait_link(at, other, true).await;
    }
    for key in 0..20 {
        let mut expected: Vec<String> = (0..CLIENTS)
            .flat_map(|client| (0..WRITES).map(move |sequence| (client, sequence)))
            .filter(|(_, sequence)| sequence % 20 == key)
            .map(|(client, sequence)| format!("{client}-{sequence}"))
            .collect();
        expected.sort();
        for node in &cluster.nodes {
            let read = async || values(node.run(get_r(&format!("k{key}"), 2)).await);
            assert_eq!(read().await, expected, "k{key} through {}", node.name);
        }
    }
}
