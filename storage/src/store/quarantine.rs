//! Keys whose record on disk failed its verification. Keeps "what cannot be verified is not served": such a key is
//! answered with [`Read::Quarantined`](super::Read) until its peers' copies were merged and somebody
//! [releases](super::Store::release_quarantine) it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::key::Key;

/// Keys that are remembered one by one. Past this many, whole partitions are quarantined.
pub const QUARANTINED_KEYS_MAX: usize = 4096;

#[derive(Default)]
struct Set {
    keys: BTreeSet<Key>,
    /// Partitions with more damage than `keys` can list. At most as many as there are.
    partitions: BTreeSet<u32>,
}

/// The bounded set of quarantined keys.
#[derive(Default)]
pub(super) struct Quarantine {
    set: Mutex<Set>,
    /// Members of the set, to spare healthy stores its lock.
    len: AtomicUsize,
}

impl Quarantine {
    /// Adds a key. False: it was there.
    pub(super) fn add(&self, key: &Key, partition: u32) -> bool {
        self.update(|set| {
            if set.partitions.contains(&partition) || set.keys.contains(key) {
                return false;
            }
            if set.keys.len() < QUARANTINED_KEYS_MAX {
                set.keys.insert(key.clone())
            } else {
                set.partitions.insert(partition)
            }
        })
    }

    pub(super) fn contains(&self, key: &Key, partition: u32) -> bool {
        if self.len() == 0 {
            return false;
        }
        let set = self.lock();
        set.keys.contains(key) || set.partitions.contains(&partition)
    }

    /// Removes one key (not the mark of its whole partition).
    pub(super) fn release(&self, key: &Key) -> bool {
        self.update(|set| set.keys.remove(key))
    }

    /// Removes a partition with all its keys, which `partition_of` tells from their tokens.
    pub(super) fn release_partition(&self, partition: u32, partition_of: impl Fn(u64) -> u32) {
        self.update(|set| {
            set.partitions.remove(&partition);
            set.keys
                .retain(|key| partition_of(key.token()) != partition);
        });
    }

    /// Keys and partitions in the set.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// The keys listed one by one.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.lock().keys.iter().cloned().collect()
    }

    fn update<T>(&self, update: impl FnOnce(&mut Set) -> T) -> T {
        let mut set = self.lock();
        let result = update(&mut set);
        self.len
            .store(set.keys.len() + set.partitions.len(), Ordering::Release);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Set> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
