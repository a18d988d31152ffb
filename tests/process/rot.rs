//! Files that rot while their node is stopped: nothing of it is served, and all of it comes back.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use ringfort_client::Client;
use ringfort_tests::outside::http;
use tokio::time::Instant;

use crate::cluster::{Cluster, ringfort};

/// The node whose files rot.
const STRUCK: usize = 1;
const KEYS: usize = 3_000;
/// How long healing may take before a test gives up.
const HANG: Duration = Duration::from_secs(120);

fn key(number: usize) -> String {
    format!("key-{number}")
}

/// A value that is found in a file again.
fn value(number: usize) -> String {
    format!("<{number:05}|{}>", "value".repeat(30))
}

/// Numbers that look random, from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        // SplitMix64 (Steele, Lea and Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

fn client(cluster: &Cluster, nodes: &[usize]) -> Client {
    let endpoints = nodes.iter().map(|i| cluster.nodes[*i].client.to_string());
    let built = Client::builder()
        .endpoints(endpoints.collect::<Vec<_>>())
        .timeout(Duration::from_secs(10));
    built.build().expect("a client")
}

/// Three nodes that have written everything down, the struck one stopped.
async fn filled() -> Cluster {
    let mut cluster = Cluster::start_with(3, &["--partitions", "64"]);
    let client = client(&cluster, &[0, 1, 2]);
    for first in (0..KEYS).step_by(300) {
        let puts = (first..first + 300).map(|n| {
            let put = client.put(key(n), value(n)).w(3);
            async move { put.await.expect("all are up") }
        });
        futures::future::join_all(puts).await;
    }
    assert!(cluster.terminate(STRUCK).success());
    cluster
}

/// The engine's largest file: its log.
fn sled_file(cluster: &Cluster) -> PathBuf {
    cluster.nodes[STRUCK].data_dir.join("sled").join("db")
}

/// Changes bytes of the file, and gives how many.
fn damage(cluster: &Cluster, change: impl FnOnce(&mut Vec<u8>) -> usize) {
    let path = sled_file(cluster);
    let mut bytes = fs::read(&path).expect("the engine's file");
    let changed = change(&mut bytes);
    assert!(changed > 0, "nothing was found in {} bytes", bytes.len());
    fs::write(&path, bytes).expect("it is ours");
    eprintln!("{changed} bytes are flipped");
}

/// Where a text stands in the file: in pages that are used, and in some that are not any more.
fn places(bytes: &[u8], text: &[u8]) -> Vec<usize> {
    let finder = bytes.windows(text.len()).enumerate();
    finder
        .filter(|(_, window)| *window == text)
        .map(|(at, _)| at)
        .collect()
}

fn metric(cluster: &Cluster, name: &str) -> f64 {
    let (_, page) = http::get(&cluster.nodes[STRUCK].http.to_string(), "/metrics")
        .expect("the struck node answers");
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = line.unwrap_or_else(|| panic!("no {name} in {page}"));
    value.parse().expect("a number")
}

/// Waits until every copy counts; reads everything meanwhile, if told to, from the struck node.
async fn healed(cluster: &Cluster, reads: bool) {
    let began = Instant::now();
    let asking = client(cluster, &[STRUCK]);
    let mut round = 0;
    loop {
        let status = asking.status().await.expect("it answers");
        let nodes = status.nodes.iter();
        let left: u64 = nodes
            .map(|node| {
                // What has come and is not in the engine yet.
                let drains = (KEYS as u64).saturating_sub(node.keys);
                node.unsynced + node.quarantined + drains
            })
            .sum();
        if reads && (round < 3 || left > 0) {
            round += 1;
            for first in (0..KEYS).step_by(300) {
                let gets = (first..first + 300).map(|n| {
                    let get = asking.get(key(n));
                    async move { (n, get.await.expect("two copies count")) }
                });
                for (n, read) in futures::future::join_all(gets).await {
                    let read = read.one().expect("one value");
                    assert_eq!(read.as_deref(), Some(value(n).as_bytes()), "{n}");
                }
            }
        }
        if left == 0 && (!reads || round >= 3) {
            break;
        }
        assert!(began.elapsed() < HANG, "not healed: {status:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eprintln!("healed after {:?}", began.elapsed());
}

/// The struck node alone has everything, as it was.
async fn alone(cluster: &mut Cluster) {
    for i in (0..3).filter(|i| *i != STRUCK) {
        assert!(cluster.terminate(i).success());
    }
    let client = client(cluster, &[STRUCK]);
    for n in 0..KEYS {
        let read = client.get(key(n)).r(1).await.expect("its own copy counts");
        let read = read.one().expect("one value");
        assert_eq!(read.as_deref(), Some(value(n).as_bytes()), "{n}");
    }
    assert!(cluster.terminate(STRUCK).success());
    let log = cluster.log(STRUCK);
    assert!(!log.contains("thread 'main' panicked"), "{log}");
}

/// One in a hundred bytes of all values.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_one_percent_flipped_bytes_is_served_and_all_is_repaired() {
    let mut cluster = filled().await;
    damage(&cluster, |bytes| {
        let mut dice = Dice(1);
        let mut changed = 0;
        for at in places(bytes, b"value") {
            for byte in &mut bytes[at..at + 5] {
                if dice.below(100) == 0 {
                    *byte ^= 1 << dice.below(8);
                    changed += 1;
                }
            }
        }
        changed
    });
    cluster.restart(STRUCK);
    healed(&cluster, true).await;
    let set_aside = metric(&cluster, "ringfort_store_engine_set_aside");
    let damaged = metric(&cluster, "ringfort_store_damaged_records");
    eprintln!("set aside: {set_aside}, damaged records: {damaged}");
    assert!(set_aside + damaged > 0.0, "it was seen and counted");
    scrubbed(&cluster);
    alone(&mut cluster).await;
}

/// A bit each in the values of a few keys; nobody reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_flipped_bits_are_repaired_without_any_read() {
    let mut cluster = filled().await;
    damage(&cluster, |bytes| {
        let mut dice = Dice(2);
        let texts = (0..KEYS).step_by(KEYS / 5).map(|n| value(n).into_bytes());
        let found: Vec<usize> = texts.flat_map(|text| places(bytes, &text)).collect();
        for at in &found {
            bytes[at + 20 + dice.below(100)] ^= 1 << dice.below(8);
        }
        found.len()
    });
    cluster.restart(STRUCK);
    healed(&cluster, false).await;
    let set_aside = metric(&cluster, "ringfort_store_engine_set_aside");
    let damaged = metric(&cluster, "ringfort_store_damaged_records");
    eprintln!("set aside: {set_aside}, damaged records: {damaged}");
    assert!(set_aside + damaged > 0.0, "it was seen and counted");
    alone(&mut cluster).await;
}

/// A file that sled does not even open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_does_not_open_is_set_aside_and_filled_anew() {
    let mut cluster = filled().await;
    damage(&cluster, |bytes| {
        let mut dice = Dice(3);
        bytes
            .iter_mut()
            .for_each(|byte| *byte = dice.below(256) as u8);
        bytes.len()
    });
    cluster.restart(STRUCK);
    assert_eq!(metric(&cluster, "ringfort_store_engine_set_aside"), 1.0);
    let dir = fs::read_dir(&cluster.nodes[STRUCK].data_dir).expect("its directory");
    let names = dir.map(|entry| entry.expect("an entry").file_name());
    let aside = names
        .filter(|name| name.to_string_lossy().starts_with("sled"))
        .count();
    assert_eq!(aside, 2, "the new one, and the one that was set aside");
    healed(&cluster, true).await;
    alone(&mut cluster).await;
}

/// All that all nodes hold is verified, and well.
fn scrubbed(cluster: &Cluster) {
    let scrub = ringfort()
        .args(["--endpoints", &cluster.endpoints().join(",")])
        .args(["scrub", "--wait", "--json"])
        .output()
        .expect("the command runs");
    assert!(scrub.status.success(), "{scrub:?}");
    let told: serde_json::Value = serde_json::from_slice(&scrub.stdout).expect("JSON");
    let nodes = told["nodes"].as_array().expect("nodes");
    let of = |node: &serde_json::Value| {
        let number = |name: &str| node[name].as_u64().expect("a number");
        let name = node["name"].as_str().expect("a name").to_owned();
        (name, (number("records"), number("damaged")))
    };
    let all: BTreeMap<String, (u64, u64)> = nodes.iter().map(of).collect();
    let expected = ["n1", "n2", "n3"].map(|name| (name.to_owned(), (KEYS as u64, 0)));
    assert_eq!(all, BTreeMap::from(expected));
}
