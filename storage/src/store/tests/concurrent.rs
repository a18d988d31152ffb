//! Writers, readers, scans and the drain at once, on real threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::real::{open, put_now, wait_durable};
use super::rig::{key, small_config};
use crate::store::{Read, StoreConfig};
use crate::version::RequestId;

const WRITERS: u64 = 3;
const KEYS: u64 = 60;
const WRITES: u64 = 1_000;

/// Each writer has keys of its own and counts in their values, so that a reader can tell a step back.
#[test]
fn no_reader_sees_a_step_back_and_no_scan_misses_a_key() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    // Small, so that drains and evictions run all the time.
    let config = StoreConfig {
        table_bytes: 128 << 10,
        segment_bytes: 256 << 10,
        ..small_config()
    };
    let (threads, _) = open(directory.path(), &config, 1);
    let store = threads.store().clone();
    for number in 0..KEYS {
        put_now(
            &threads,
            &key(number),
            RequestId {
                client: 9,
                sequence: number + 1,
            },
            &0_u64.to_be_bytes(),
        );
    }
    let done = AtomicBool::new(false);
    let highest: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (threads, highest) = (&threads, &highest);
                scope.spawn(move || {
                    for count in 1..=WRITES {
                        let number = (count * 7 % (KEYS / WRITERS)) * WRITERS + writer;
                        let mut value = vec![0; 8 + (count % 50) as usize * 20];
                        value[..8].copy_from_slice(&count.to_be_bytes());
                        put_now(
                            threads,
                            &key(number),
                            RequestId {
                                client: writer,
                                sequence: count,
                            },
                            &value,
                        );
                        highest[number as usize].store(count, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                for number in 0..KEYS {
                    let at_least = highest[number as usize].load(Ordering::SeqCst);
                    let read = store
                        .load(&[key(number)])
                        .expect("the engine is well")
                        .remove(0);
                    assert!(count_of(&read) >= at_least, "key {number}");
                }
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                let page = store
                    .scan(0, None, u64::MAX, 10_000, usize::MAX)
                    .expect("the engine is well");
                assert_eq!(page.records.len() as u64, KEYS);
            }
        });
        for writer in writers {
            writer.join().expect("a writer is well");
        }
        done.store(true, Ordering::SeqCst);
    });
    wait_durable(&threads, store.stats().last_sequence);
    assert!(store.stats().drains > 2, "{:?}", store.stats());
    drop(store);
    threads.close().expect("closes");
    let (threads, report) = open(directory.path(), &config, 2);
    assert!(report.clean, "{report:?}");
    for number in 0..KEYS {
        let read = threads
            .store()
            .load(&[key(number)])
            .expect("the engine is well")
            .remove(0);
        assert_eq!(
            count_of(&read),
            highest[number as usize].load(Ordering::SeqCst),
            "key {number}"
        );
    }
    threads.close().expect("closes again");
}

fn count_of(read: &Read) -> u64 {
    let Read::Found(record) = read else {
        panic!("{read:?}")
    };
    let counts = record.object().live(0).map(|sibling| {
        let bytes = sibling
            .live_value(0)
            .and_then(|value| value.bytes())
            .expect("has bytes");
        u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"))
    });
    counts.max().expect("never deleted")
}
