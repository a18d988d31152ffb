//! What was deleted is forgotten by all nodes, after they all took part; one that was away brings nothing back.

use std::time::Duration;

use ringfort_client::{Client, Kind, Read};
use ringfort_tests::outside::http;

use crate::{
    cluster::{Cluster, copy_tree},
    heal::until_the_same,
};

const SETTINGS: &[&str] = &[
    "--partitions",
    "16",
    "--soft-delete",
    "200ms",
    "--reap-grace",
    "300ms",
    "--reap-early",
    "--exchange-interval",
    "1s",
];
const KEYS: usize = 400;
/// Of these so many stay.
const STAY: usize = 50;
/// Nothing takes so long unless it hangs.
const LOOKS_MAX: u32 = 600;
const LOOK: Duration = Duration::from_millis(100);

fn client(cluster: &Cluster, node: Option<usize>) -> Client {
    let endpoints = match node {
        Some(node) => vec![cluster.nodes[node].client.to_string()],
        None => cluster.endpoints(),
    };
    let client = Client::builder().endpoints(endpoints).build();
    client.expect("a client")
}

/// A figure of a node.
fn figure(cluster: &Cluster, node: usize, name: &str) -> Option<f64> {
    let (_, page) = http::get(&cluster.nodes[node].http.to_string(), "/metrics")?;
    let mut lines = page.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line?.parse().ok()
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..LOOKS_MAX {
        if is_so() {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
    panic!("it never came true: {what}");
}

async fn hold(cluster: &Cluster, keys: usize) {
    let holds = |node| figure(cluster, node, "ringfort_store_keys") == Some(keys as f64);
    let what = format!("each node holds {keys} keys");
    eventually(&what, || (0..3).all(holds)).await;
}

async fn check(client: &Client) {
    for number in 0..KEYS {
        let key = format!("k{number}");
        let read = read_at_all(client, &key).await;
        let value = read.one().expect("no siblings");
        assert_eq!(value.is_some(), number < STAY, "{key}");
    }
}

/// Reads a key once all of its owners count: one that has missed a round of reaping receives its partitions first.
async fn read_at_all(client: &Client, key: &str) -> Read {
    for _ in 0..LOOKS_MAX {
        match client.get(key).r(3).await {
            Ok(read) => return read,
            Err(error) if error.kind() == Kind::Unavailable => {
                tokio::time::sleep(LOOK).await;
            }
            Err(error) => panic!("{key}: {error}"),
        }
    }
    panic!("{key}: some owner never counts");
}

/// I4, I5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_keys_are_reaped_once_all_nodes_take_part() {
    let mut cluster = Cluster::start_with(3, SETTINGS);
    let all = client(&cluster, None);
    for number in 0..KEYS {
        let put = all.put(format!("k{number}"), "v").await;
        put.expect("a quorum is up");
    }
    hold(&cluster, KEYS).await;
    // One is away while most are deleted, and so misses it. Its directory is kept as it was before.
    assert!(cluster.terminate(2).success());
    let from = cluster.nodes[2].data_dir.clone();
    let backup = from.with_extension("backup");
    copy_tree(&from, &backup);
    for number in STAY..KEYS {
        let key = format!("k{number}");
        let deleted = all.delete(key.as_str()).await;
        deleted.expect("a quorum is up");
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    for node in 0..2 {
        let reaped = figure(&cluster, node, "ringfort_reaped_total");
        assert_eq!(reaped, Some(0.0), "n3 does not take part");
    }
    cluster.restart(2);
    hold(&cluster, STAY).await;
    let each = client(&cluster, Some(2));
    check(&each).await;
    assert_eq!(until_the_same(&cluster).await, STAY as u64);
    // The directory from before all this is put back: it holds every key that was deleted.
    cluster.kill(2);
    std::fs::remove_dir_all(&from).expect("it is ours");
    copy_tree(&backup, &from);
    cluster.restart(2);
    hold(&cluster, STAY).await;
    check(&client(&cluster, Some(2))).await;
    assert_eq!(until_the_same(&cluster).await, STAY as u64);
}
