//! Writers that remember what was acknowledged, and the check that nothing of it is missing.
//!
//! Each writer owns its keys and writes versions 1, 2, 3, … to each. A read must then show, for every key, a version at
//! least as new as the last acknowledged one, and only versions that were really written.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ringfort_client::{Client, Context};

/// Keys that each writer goes round.
const KEYS_PER_WRITER: u64 = 8;
/// Reads in flight during a check.
const CHECKS_AT_ONCE: usize = 64;

/// What one writer knows of one key.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The newest version that was handed to the cluster.
    pub tried: u64,
    /// The newest version that was acknowledged.
    pub acked: u64,
    context: Option<Context>,
    /// The last try ended without an answer: read before the next write.
    unsure: bool,
}

/// What all writers know, by key.
pub type Ledger = BTreeMap<String, Known>;

/// What a writer does in one run, and how it went.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub acked: u64,
    pub failed: u64,
}

/// The value of a version of a key: 100 B, 10 KB or 200 KB, and different in every byte position from its neighbours.
pub fn value(key: &str, version: u64) -> Vec<u8> {
    let seed = key.bytes().fold(version, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let length = match (seed >> 7) % 50 {
        0 => 200_000,
        1..=4 => 10_000,
        _ => 100,
    };
    let mut bytes = format!("{version:020} {key} ").into_bytes();
    let mut state = seed | 1;
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// The version that a value claims to be; checks every byte of it.
pub fn version_of(key: &str, bytes: &[u8]) -> u64 {
    let version = std::str::from_utf8(&bytes[..20])
        .ok()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_else(|| panic!("{key}: not a value that a writer wrote"));
    assert!(
        bytes == value(key, version),
        "{key}: version {version} came back changed"
    );
    version
}

/// Runs `count` writers until `stop` is set, and returns what they know, with what was known before.
pub async fn write_until(
    client: &Client,
    count: usize,
    ledger: Ledger,
    stop: Arc<AtomicBool>,
) -> (Ledger, Tally) {
    let mut parts: Vec<Ledger> = vec![Ledger::new(); count];
    for (key, known) in ledger {
        let writer: usize = key[1..5].parse().expect("keys are w0001-…");
        parts[writer].insert(key, known);
    }
    let tasks: Vec<_> = parts
        .into_iter()
        .enumerate()
        .map(|(writer, part)| tokio::spawn(write(client.clone(), writer, part, stop.clone())))
        .collect();
    let (mut all, mut sum) = (Ledger::new(), Tally::default());
    for task in tasks {
        let (part, tally) = task.await.expect("a writer does not panic");
        all.extend(part);
        sum.acked += tally.acked;
        sum.failed += tally.failed;
    }
    (all, sum)
}

async fn write(
    client: Client,
    writer: usize,
    mut part: Ledger,
    stop: Arc<AtomicBool>,
) -> (Ledger, Tally) {
    let mut tally = Tally::default();
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let key = format!("w{writer:04}-{}", round % KEYS_PER_WRITER);
        let known = part.entry(key.clone()).or_default();
        if known.unsure {
            match client.get(key.as_str()).await {
                Ok(read) => known.context = read.context().cloned(),
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            }
        }
        known.tried += 1;
        let mut put = client.put(key.as_str(), value(&key, known.tried));
        if let Some(context) = &known.context {
            put = put.context(context.clone());
        }
        match put.await {
            Ok(done) => {
                known.acked = known.tried;
                known.unsure = done.context.is_none();
                known.context = done.context.clone();
                tally.acked += 1;
            }
            Err(_) => {
                known.unsure = true;
                tally.failed += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    (part, tally)
}

/// Reads every key of the ledger and panics with a list of what is missing. Returns the number of keys read.
pub async fn check(client: &Client, ledger: &Ledger) -> usize {
    let mut missing = Vec::new();
    let keys: Vec<(&String, &Known)> = ledger.iter().collect();
    for chunk in keys.chunks(CHECKS_AT_ONCE) {
        let reads = chunk.iter().map(|(key, _)| read_patiently(client, key));
        for ((key, known), versions) in chunk.iter().zip(join_all(reads).await) {
            let newest = versions.iter().copied().max().unwrap_or(0);
            assert!(
                newest <= known.tried,
                "{key}: version {newest} was never written"
            );
            if newest < known.acked {
                missing.push(format!(
                    "{key}: acknowledged {}, found {versions:?}",
                    known.acked
                ));
            }
        }
    }
    assert!(
        missing.is_empty(),
        "acknowledged writes are missing:\n{}",
        missing.join("\n")
    );
    ledger.len()
}

/// The versions stored under a key. Tries again while the cluster is coming back.
async fn read_patiently(client: &Client, key: &str) -> Vec<u64> {
    let mut last = None;
    for _ in 0..100 {
        match client.get(key).r(2).timeout(Duration::from_secs(5)).await {
            Ok(read) => {
                return read
                    .siblings()
                    .iter()
                    .map(|sibling| version_of(key, &sibling.value))
                    .collect();
            }
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{key} cannot be read: {}", last.expect("an error"));
}

async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    futures::future::join_all(futures).await
}
