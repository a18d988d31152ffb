//! What the store is put through while it is recorded, and what may be found of it afterwards.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use ringfort_storage::disk::RealDisk;
use ringfort_storage::driver::spawn_threads;
use ringfort_storage::engine::sled::SledHome;
use ringfort_storage::key::Key;
use ringfort_storage::store::{
    OpenError, Opened, Read, Store, StoreConfig, StoreParts, WriteLimits, WriteRefused, Written,
};
use ringfort_storage::version::{ActorId, Dot, NewPayload, RequestId, Value, Write};

use super::dice::Dice;
use super::recorder::{self, Event};

pub const KEYS: u64 = 40;

/// Changes that wait for their acknowledgement together.
const WINDOW: usize = 7;

/// Small, so that a short run drains, evicts and recycles segments many times.
fn config() -> StoreConfig {
    StoreConfig {
        table_bytes: 48 << 10,
        segment_bytes: 64 << 10,
        ..StoreConfig::new("a", 16)
    }
}

/// Opens the store of a directory without threads.
pub fn open(directory: &Path, seed: u64) -> Result<Opened, OpenError> {
    let mut dice = Dice(seed);
    let parts = StoreParts {
        disk: Arc::new(RealDisk::open(directory).map_err(OpenError::Io)?),
        engine: Arc::new(SledHome::new(directory.join("sled"), 1 << 20)),
        chance: Box::new(move || dice.next()),
    };
    Store::open(parts, &config())
}

pub fn key(number: u64) -> Key {
    let token = (number % 16) << 60 | number.wrapping_mul(0x0123_4567_89ab_cdef) >> 4;
    Key::new(token, b"n", format!("key-{number}").as_bytes()).expect("a short key")
}

/// A value that names its key and count, and in which no byte can be wrong unnoticed.
fn value(key: u64, count: u64) -> Vec<u8> {
    let bytes = match count % 10 {
        0 => 9_000,
        1..4 => 1_500,
        _ => 200,
    };
    let mut dice = Dice(key << 32 | count);
    let mut value = [key.to_be_bytes(), count.to_be_bytes()].concat();
    value.resize_with(bytes, || dice.next() as u8);
    value
}

/// The count of a value of `key`, if it is one that was written as a whole.
fn count_of(number: u64, bytes: &[u8]) -> Option<u64> {
    let count = u64::from_be_bytes(bytes.get(8..16)?.try_into().ok()?);
    (bytes == value(number, count)).then_some(count)
}

/// Writes counts `from..to`, a key each, in windows; notes what is issued and what is acknowledged.
pub fn run(opened: Opened, from: u64, to: u64, seed: u64) {
    let (threads, _) = spawn_threads(opened, 1).expect("threads start");
    let store = threads.store();
    let mut dice = Dice(seed);
    let mut waiting = Vec::new();
    for count in from..to {
        let number = dice.below(KEYS);
        recorder::note(Event::Issued { key: number, count });
        let sequence = if dice.below(4) == 0 {
            merge(store, number, count)
        } else {
            put(store, number, count)
        };
        waiting.push((number, count, sequence));
        if waiting.len() >= WINDOW {
            acknowledge(store, &mut waiting);
        }
    }
    acknowledge(store, &mut waiting);
    threads.close().expect("closes");
}

fn acknowledge(store: &Store, waiting: &mut Vec<(u64, u64, u64)>) {
    for (key, count, sequence) in waiting.drain(..) {
        while *store.durable().borrow() < sequence {
            std::thread::yield_now();
        }
        recorder::note(Event::Acknowledged { key, count });
    }
}

fn new_write(store: &Store, number: u64, count: u64) -> Write {
    let Read::Found(base) = store
        .load(&[key(number)])
        .expect("the engine is well")
        .remove(0)
    else {
        panic!("nothing is damaged yet");
    };
    Write {
        context: Some(base.object().clock().clone()),
        payload: NewPayload::Value(Value::new(Bytes::from(value(number, count)))),
        request: RequestId {
            client: 1,
            sequence: count,
        },
        lowest_unanswered: count,
        expires_at_ms: 0,
    }
}

fn put(store: &Store, number: u64, count: u64) -> u64 {
    let write = new_write(store, number, count);
    loop {
        match store.write(&key(number), &write, 1, &WriteLimits::default()) {
            Ok(Written::Applied { sequence, .. }) => return sequence,
            Ok(Written::Miss) => drop(store.load(&[key(number)]).expect("the engine is well")),
            Err(WriteRefused::Full(_)) => std::thread::yield_now(),
            other => panic!("{other:?}"),
        }
    }
}

/// As if another node had coordinated the write.
fn merge(store: &Store, number: u64, count: u64) -> u64 {
    let write = new_write(store, number, count);
    let Read::Found(base) = store
        .load(&[key(number)])
        .expect("the engine is well")
        .remove(0)
    else {
        panic!("nothing is damaged yet");
    };
    let theirs = base.object().write(
        &write,
        Dot {
            actor: ActorId(2),
            counter: count,
        },
        1,
    );
    loop {
        match store.merge(&key(number), theirs.clone()) {
            Ok(sequence) => return sequence,
            Err(_) => std::thread::yield_now(),
        }
    }
}

/// What may be found: for each key the highest count acknowledged, and the highest issued.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    acknowledged: BTreeMap<u64, u64>,
    issued: BTreeMap<u64, u64>,
}

impl Expected {
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Issued { key, count } => drop(self.issued.insert(*key, *count)),
            Event::Acknowledged { key, count } => drop(self.acknowledged.insert(*key, *count)),
            _ => {}
        }
    }
}

/// How a store came out of what was done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Everything acknowledged is there.
    Whole,
    /// Something is damaged, the store says of what, and serves nothing wrong.
    Recognised,
    /// The store refuses to open.
    Refused,
}

/// Opens what is in a directory and compares it with what may be there.
pub fn check(directory: &Path, expected: &Expected, seed: u64) -> Result<Verdict, String> {
    let opened = match open(directory, seed) {
        Ok(opened) => opened,
        Err(_) => return Ok(Verdict::Refused),
    };
    let store = &opened.store;
    let unsynced = store.unsynced();
    let damaged = !unsynced.is_empty() || !opened.report.damaged_log.is_empty();
    let mut verdict = if damaged {
        Verdict::Recognised
    } else {
        Verdict::Whole
    };
    for number in 0..KEYS {
        let read = store
            .load(&[key(number)])
            .map_err(|error| error.to_string());
        let found = match read.map(|mut read| read.remove(0)) {
            // The process would end here and the next start set the engine aside.
            Err(_) => return Ok(Verdict::Recognised),
            Ok(Read::Quarantined) => {
                verdict = Verdict::Recognised;
                continue;
            }
            Ok(Read::Found(record)) => record,
            Ok(Read::Miss) => return Err(format!("a load of key {number} ended in a miss")),
        };
        let mut highest = 0;
        for sibling in found.object().siblings() {
            let bytes = sibling.live_value(0).and_then(|value| value.bytes());
            let count = bytes.and_then(|bytes| count_of(number, bytes));
            let count =
                count.ok_or_else(|| format!("key {number} has a value that nobody wrote"))?;
            if count > expected.issued.get(&number).copied().unwrap_or(0) {
                return Err(format!(
                    "key {number} has count {count} before it was written"
                ));
            }
            highest = highest.max(count);
        }
        let least = expected.acknowledged.get(&number).copied().unwrap_or(0);
        if highest < least && !unsynced.contains(&store.partition_of(key(number).token())) {
            return Err(format!(
                "key {number} has count {highest}, {least} was acknowledged; {:?}",
                opened.report
            ));
        }
    }
    Ok(verdict)
}
