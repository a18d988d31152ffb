//! The same store on sled and real files.

use std::path::Path;
use std::sync::Arc;

use super::rig::{Dice, applied, key, put, small_config};
use crate::disk::RealDisk;
use crate::driver::{Threads, spawn_threads};
use crate::engine::EngineHome;
use crate::engine::sled::SledHome;
use crate::key::Key;
use crate::store::{OpenReport, Read, Store, StoreConfig, StoreParts, WriteLimits, Written};
use crate::version::RequestId;

pub(super) fn open(directory: &Path, config: &StoreConfig, seed: u64) -> (Threads, OpenReport) {
    let parts = StoreParts {
        disk: Arc::new(RealDisk::open(directory).expect("a directory")),
        engine: Arc::new(SledHome::new(directory.join("sled"), 1 << 20)),
        chance: Dice::new(seed).chance(),
    };
    let opened = Store::open(parts, config).expect("opens");
    spawn_threads(opened, 2).expect("threads start")
}

/// Writes through the pool, like a node does; waits for nothing.
pub(super) fn put_now(threads: &Threads, key: &Key, request: RequestId, value: &[u8]) -> u64 {
    let store = threads.store();
    let context = match store.read(key) {
        Read::Found(record) => Some(record.object().into()),
        _ => None,
    };
    let write = put(request, value, context);
    loop {
        match store.write(key, &write, 1, &WriteLimits::default()) {
            Ok(Written::Miss) => drop(
                store
                    .load(std::slice::from_ref(key))
                    .expect("the engine is well"),
            ),
            Ok(written) => return applied(written).1,
            Err(refused) => {
                assert!(
                    matches!(refused, crate::store::WriteRefused::Full(_)),
                    "{refused}"
                );
                assert_well(threads);
                std::thread::yield_now();
            }
        }
    }
}

/// A wait for a store that has failed would not end.
fn assert_well(threads: &Threads) {
    let fatal = threads.fatal().borrow().clone();
    assert_eq!(fatal, None);
}

pub(super) fn wait_durable(threads: &Threads, sequence: u64) {
    while threads.store().stats().durable_sequence < sequence {
        assert_well(threads);
        std::thread::yield_now();
    }
}

fn values(store: &Store, key: &Key) -> Vec<bytes::Bytes> {
    match store
        .load(std::slice::from_ref(key))
        .expect("the engine is well")
        .remove(0)
    {
        Read::Found(record) => {
            let live = record
                .object()
                .live(0)
                .map(|s| s.live_value(0).and_then(|v| v.bytes().cloned()));
            live.map(|bytes| bytes.expect("has bytes")).collect()
        }
        other => panic!("{key:?}: {other:?}"),
    }
}

#[test]
fn everything_is_there_after_a_clean_restart_and_sled_makes_no_blobs() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = StoreConfig {
        table_bytes: 4 << 20,
        segment_bytes: 2 << 20,
        ..small_config()
    };
    let (threads, report) = open(directory.path(), &config, 1);
    assert!(report.created);
    let sizes = [0, 1, 100, 4_096, 4_097, 20_000, 130_000, 400_000, 1 << 20];
    let mut last = 0;
    for number in 0..36_u64 {
        let size = sizes[number as usize % sizes.len()];
        let request = RequestId {
            client: 1,
            sequence: number + 1,
        };
        last = put_now(&threads, &key(number), request, &vec![number as u8; size]);
    }
    wait_durable(&threads, last);
    let actor = threads.store().actor();
    threads.close().expect("closes");

    let blobs = directory.path().join("sled").join("blobs");
    let blobs: Vec<_> = std::fs::read_dir(blobs)
        .map(|files| files.collect())
        .unwrap_or_default();
    assert!(blobs.is_empty(), "a blob is never synced: {blobs:?}");

    let (threads, report) = open(directory.path(), &config, 2);
    assert!(report.clean, "{report:?}");
    assert_eq!(threads.store().actor(), actor);
    for number in 0..36_u64 {
        let size = sizes[number as usize % sizes.len()];
        assert_eq!(
            values(threads.store(), &key(number)),
            [vec![number as u8; size]]
        );
    }
    assert_eq!(threads.store().stats().keys, 36);
    threads.close().expect("closes again");
}

#[test]
fn a_second_user_and_a_newer_format_are_refused_with_words() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (threads, _) = open(directory.path(), &small_config(), 1);
    let parts = || StoreParts {
        disk: Arc::new(RealDisk::open(directory.path()).expect("a directory")),
        engine: Arc::new(SledHome::new(directory.path().join("sled"), 1 << 20)),
        chance: Dice::new(2).chance(),
    };
    let refused = Store::open(parts(), &small_config())
        .err()
        .expect("it is in use");
    assert!(refused.to_string().contains("in use"), "{refused}");
    threads.close().expect("closes");
    let disk = Arc::new(RealDisk::open(directory.path()).expect("a directory"));
    let newer = crate::checkpoint::FORMAT + 1;
    let (mut slots, _) =
        crate::twoslot::TwoSlot::open(disk, crate::checkpoint::NAME, newer).expect("opens");
    slots.write(newer, b"from the future").expect("writes");
    drop(slots);
    let refused = Store::open(parts(), &small_config())
        .err()
        .expect("it is newer");
    assert!(refused.to_string().contains("newer"), "{refused}");
}

#[test]
fn a_lost_or_broken_sled_is_set_aside_and_the_store_starts_unsynced() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (threads, _) = open(directory.path(), &small_config(), 1);
    let request = RequestId {
        client: 1,
        sequence: 1,
    };
    put_now(&threads, &key(1), request, b"v");
    threads.close().expect("closes");
    // Opened anew it is empty, without an error: the row `applied` tells.
    SledHome::new(directory.path().join("sled"), 1 << 20)
        .set_aside()
        .expect("is moved");
    let (threads, report) = open(directory.path(), &small_config(), 2);
    assert!(report.engine_replaced.is_some());
    assert_eq!(report.newly_unsynced, None);
    assert_eq!(threads.store().unsynced().len(), 16);
    threads.close().expect("closes");
    let (threads, report) = open(directory.path(), &small_config(), 3);
    assert!(
        report.engine_replaced.is_none() && report.clean,
        "{report:?}"
    );
    assert_eq!(threads.store().unsynced().len(), 16);
    threads.close().expect("closes");
}
