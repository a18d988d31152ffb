//! I5 with real processes: a node that was away while others were written to comes to hold what they hold, and nobody reads
//! anything meanwhile. How long that takes and what it moves is printed, never judged.

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ringfort_client::{Client, Roots};
use ringfort_tests::outside::http;
use serde_json::Value;
use tokio::time::Instant;

use crate::cluster::{Cluster, ringfort};

/// Writers at work while a node is away.
const WRITERS: u64 = 16;
/// The node that goes.
const AWAY: usize = 2;
/// Time between two looks at the roots.
const LOOK: Duration = Duration::from_millis(200);
/// Looks until a test gives up: five minutes.
const LOOKS_MAX: u32 = 1_500;

/// What becomes of the disk of the node that is away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Disk {
    Kept,
    Emptied,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_for_a_moment_heals_without_a_read() {
    heals(Duration::from_secs(3), Disk::Kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_was_emptied_heals_without_a_read() {
    heals(Duration::from_secs(3), Disk::Emptied).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "two minutes: cargo test --release -p ringfort-tests --test process heal -- --ignored --nocapture --test-threads 1"]
async fn a_node_that_was_away_for_a_minute_heals_without_a_read() {
    heals(Duration::from_secs(60), Disk::Kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "two minutes, as the one before"]
async fn a_node_whose_disk_was_emptied_in_a_minute_heals_without_a_read() {
    heals(Duration::from_secs(60), Disk::Emptied).await;
}

async fn heals(away: Duration, disk: Disk) {
    let mut cluster = Cluster::start(3);
    let before = write_for(&cluster, "before", Duration::from_secs(1)).await;
    cluster.kill(AWAY);
    let meanwhile = write_for(&cluster, "meanwhile", away).await;
    if disk == Disk::Emptied {
        std::fs::remove_dir_all(&cluster.nodes[AWAY].data_dir).expect("its directory");
    }
    let moved_before = moved(&cluster);
    cluster.spawn(AWAY);
    let began = Instant::now();
    cluster.wait_ready(AWAY);
    let ready = began.elapsed();
    until_the_same(&cluster).await;
    let (took, bytes) = (began.elapsed(), moved(&cluster) - moved_before);
    eprintln!(
        "{before} writes before, {meanwhile} while it was away for {away:?}: ready {ready:.1?} after its start, the same roots \
         at all owners after {took:.1?}, {bytes} bytes moved by exchanges"
    );
    let repaired = ringfort()
        .args(["--endpoints", &cluster.endpoints().join(",")])
        .args(["repair", "--wait", "--json"])
        .stderr(Stdio::inherit())
        .output()
        .expect("the binary starts");
    assert!(repaired.status.success(), "{repaired:?}");
    let told: Value = serde_json::from_slice(&repaired.stdout).expect("JSON");
    let hashes: Vec<&Value> = told["roots"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|node| &node["roots"])
        .collect();
    assert_eq!(hashes.len(), 3, "{told}");
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{told}");
    assert_eq!(told["differing"], Value::Array(Vec::new()));
}

/// Writes new keys through all nodes that run; gives how many were acknowledged.
async fn write_for(cluster: &Cluster, prefix: &'static str, time: Duration) -> u64 {
    let client = Client::builder()
        .endpoints(cluster.endpoints())
        .build()
        .expect("a client");
    let stop = Arc::new(AtomicBool::new(false));
    let acked = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (client, stop, acked) = (client.clone(), stop.clone(), acked.clone());
            tokio::spawn(async move {
                for n in 0_u64.. {
                    if stop.load(Relaxed) {
                        return;
                    }
                    let key = format!("{prefix}-{writer}-{n}");
                    let put = client.put(&key, vec![b'v'; 100]).await;
                    acked.fetch_add(u64::from(put.is_ok()), Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    stop.store(true, Relaxed);
    for writer in writers {
        writer.await.expect("a writer ends");
    }
    let acked = acked.load(Relaxed);
    assert!(acked > 0, "nothing was written");
    acked
}

/// Waits until all nodes tell the same roots of all partitions; gives how many keys these have.
pub async fn until_the_same(cluster: &Cluster) -> u64 {
    let clients: Vec<Client> = cluster
        .endpoints()
        .into_iter()
        .map(|endpoint| {
            Client::builder()
                .endpoints([endpoint])
                .build()
                .expect("a client")
        })
        .collect();
    let keys = |told: &Roots| told.roots.values().map(|(_, keys)| keys).sum::<u64>();
    let mut last: Vec<Roots> = Vec::new();
    for _ in 0..LOOKS_MAX {
        last.clear();
        for client in &clients {
            last.extend(client.roots().await);
        }
        let same = |told: &Roots| told.roots == last[0].roots && told.changing.is_empty();
        if last.len() == clients.len() && last.iter().all(same) {
            return keys(&last[0]);
        }
        tokio::time::sleep(LOOK).await;
    }
    let keys: BTreeMap<_, _> = last.iter().map(|told| (&told.node, keys(told))).collect();
    panic!("they do not become the same: {keys:?}");
}

/// Bytes that exchanges of all nodes have moved.
fn moved(cluster: &Cluster) -> u64 {
    let of = |addr: String| {
        let (_, text) = http::get(&addr, "/metrics")?;
        let line = text
            .lines()
            .find(|line| line.starts_with("ringfort_exchange_moved_bytes{"))?;
        line.rsplit_once(' ')?.1.parse::<f64>().ok()
    };
    let nodes = cluster.nodes.iter();
    nodes
        .filter_map(|node| of(node.http.to_string()))
        .sum::<f64>() as u64
}
