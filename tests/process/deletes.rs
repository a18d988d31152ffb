//! Deletes stay deleted and their records go, at size: measured, so it asserts counts alone and prints the rest, the disk among it, which
//! a renewal of the engine gives back between two drains.
//! `cargo test --release -p ringfort-tests --test process deletes -- --ignored --nocapture`.

#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use ringfort_client::{Client, Error};
use ringfort_tests::outside::http;

use crate::cluster::{Cluster, Node};

/// Keys that are written and deleted.
const DELETED: u64 = 1_000_000;
/// Keys that stay.
const KEPT: u64 = 10_000;
/// Calls under way at a time.
const CALLS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a node that has no room is left alone.
const REST: Duration = Duration::from_millis(200);
/// The node that does not hear of the deletes.
const AWAY: usize = 2;
/// Time between two looks, and how many until a test gives up: twenty minutes.
const LOOK: Duration = Duration::from_secs(1);
const LOOKS_MAX: u32 = 1_200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "some minutes: see the head of this file"]
async fn a_million_deletes_leave_no_record_behind() {
    let mut cluster = Cluster::start_with(
        3,
        &["--soft-delete", "0s", "--reap-early", "--reap-grace", "1s"],
    );
    let client = client_of(&cluster.endpoints());
    write(&client, "kept", KEPT).await;
    drained().await;
    tell("before", &cluster);
    let began = Instant::now();
    write(&client, "gone", DELETED).await;
    println!("{DELETED} puts: {:.1?}", began.elapsed());
    drained().await;
    tell("written", &cluster);

    cluster.kill(AWAY);
    let there: Vec<String> = cluster.endpoints().into_iter().take(AWAY).collect();
    let client = client_of(&there);
    let began = Instant::now();
    stream::iter(0..DELETED)
        .map(|n| {
            let client = client.clone();
            async move {
                let key = format!("gone-{n}");
                in_the_end(|| client.delete(&key).timeout(PATIENCE).into_future()).await
            }
        })
        .buffer_unordered(CALLS)
        .try_for_each(|_| async { Ok(()) })
        .await
        .expect("every delete is acknowledged");
    println!("{DELETED} deletes, one node away: {:.1?}", began.elapsed());
    drained().await;
    tell("deleted", &cluster);
    let reaped: f64 = cluster.nodes[..AWAY]
        .iter()
        .map(|node| metric(node, "ringfort_reaped_total").unwrap_or(0.0))
        .sum();
    assert_eq!(reaped, 0.0, "reaped though an owner is away");

    cluster.spawn(AWAY);
    cluster.wait_ready(AWAY);
    let began = Instant::now();
    until_gone(&cluster).await;
    println!(
        "one record of each kept key at each node: {:.1?} after its return",
        began.elapsed()
    );
    drained().await;
    tell("after", &cluster);
    let scanned = client_of(&cluster.endpoints())
        .scan()
        .try_fold(0, |seen, _| async move { Ok(seen + 1_u64) })
        .await
        .expect("a scan");
    assert_eq!(scanned, KEPT, "keys that a scan shows");
    for endpoint in cluster.endpoints() {
        let client = client_of(std::slice::from_ref(&endpoint));
        for n in (0..DELETED).step_by(10_007) {
            let read = client.get(format!("gone-{n}")).r(3).await.expect("a read");
            assert!(!read.is_found(), "gone-{n} is back at {endpoint}");
        }
    }
}

fn client_of(endpoints: &[String]) -> Client {
    let client = Client::builder().endpoints(endpoints.to_vec()).build();
    client.expect("a client")
}

async fn write(client: &Client, prefix: &str, count: u64) {
    stream::iter(0..count)
        .map(|n| {
            let (client, key) = (client.clone(), format!("{prefix}-{n}"));
            async move {
                let put = || client.put(&key, vec![b'v'; 100]).timeout(PATIENCE);
                in_the_end(|| put().into_future()).await
            }
        })
        .buffer_unordered(CALLS)
        .try_for_each(|_| async { Ok(()) })
        .await
        .expect("every put is acknowledged");
}

/// Calls again what a node has no room for just now, or no time: this goes as fast as the machine can.
async fn in_the_end<T, F: Future<Output = Result<T, Error>>>(
    call: impl Fn() -> F,
) -> Result<T, Error> {
    loop {
        match call().await {
            Err(error) if error.is_retryable() => tokio::time::sleep(REST).await,
            done => return done,
        }
    }
}

/// A drain comes every 2 s at the latest, and the next one releases what the one before it freed.
async fn drained() {
    tokio::time::sleep(Duration::from_secs(8)).await;
}

async fn until_gone(cluster: &Cluster) {
    let mut keys = Vec::new();
    for look in 0..LOOKS_MAX {
        keys = cluster.nodes.iter().map(keys_of).collect();
        if keys.iter().all(|keys| *keys == Some(KEPT as f64)) {
            return;
        }
        if look % 10 == 0 {
            println!("keys: {keys:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
    panic!("they are not reaped: {keys:?}");
}

fn tell(when: &str, cluster: &Cluster) {
    for node in &cluster.nodes {
        let bytes = bytes_of(&node.data_dir);
        println!(
            "{when}: {} keys {:?}, {} KiB on disk",
            node.name,
            keys_of(node),
            bytes >> 10
        );
    }
}

fn keys_of(node: &Node) -> Option<f64> {
    metric(node, "ringfort_store_keys")
}

fn metric(node: &Node, name: &str) -> Option<f64> {
    let (_, text) = http::get(&node.http.to_string(), "/metrics")?;
    let of = |line: &str| line.strip_prefix(name)?.rsplit_once(' ')?.1.parse().ok();
    text.lines().find_map(of)
}

/// Bytes that a directory takes on its disk.
fn bytes_of(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return 0;
    };
    let inside = fs::read_dir(path).into_iter().flatten().flatten();
    meta.blocks() * 512 + inside.map(|entry| bytes_of(&entry.path())).sum::<u64>()
}
