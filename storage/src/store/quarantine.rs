//! Keys whose record on disk failed its verification. Keeps "what cannot be verified is not served": such a key is
//! answered with [`Read::Quarantined`](super::Read) until its partition is synced again, see [`Store::settle`](super::Store::settle).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::key::Key;

/// Keys that are remembered one by one: 1 % of six million. Past this many, whole partitions are quarantined.
pub const QUARANTINED_KEYS_MAX: usize = 65_536;

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
    /// Keys with a damaged row of which the kept tree has no leaf. Changed by the drain alone; as many as there are damaged rows in
    /// what was last looked through.
    left_out: Mutex<BTreeSet<Key>>,
    any_left_out: AtomicUsize,
}

/// What came of adding a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Added {
    /// It was there.
    Known,
    /// It is listed.
    Key,
    /// Its whole partition is.
    Partition,
}

impl Quarantine {
    /// Adds a key.
    pub(super) fn add(&self, key: &Key, partition: u32) -> Added {
        self.update(|set| {
            if set.partitions.contains(&partition) || set.keys.contains(key) {
                return Added::Known;
            }
            if set.keys.len() < QUARANTINED_KEYS_MAX {
                set.keys.insert(key.clone());
                Added::Key
            } else {
                set.partitions.insert(partition);
                Added::Partition
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
    pub(super) fn release(&self, key: &Key) {
        if self.len() > 0 {
            self.update(|set| set.keys.remove(key));
        }
    }

    /// Removes a partition with all its keys, whose tokens are from `first` to `last`.
    pub(super) fn release_partition(&self, partition: u32, tokens: (u64, u64)) {
        if self.len() == 0 {
            return;
        }
        let keys = self.keys_between(tokens);
        self.update(|set| {
            set.partitions.remove(&partition);
            for key in &keys {
                set.keys.remove(key);
            }
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

    /// Those with these tokens, the last included.
    pub(super) fn keys_between(&self, (first, last): (u64, u64)) -> Vec<Key> {
        if self.len() == 0 {
            return Vec::new();
        }
        let set = self.lock();
        let from = set.keys.range(Key::floor(first)..);
        from.take_while(|key| key.token() <= last)
            .cloned()
            .collect()
    }

    /// Whether a partition is quarantined as a whole.
    pub(super) fn has_partition(&self, partition: u32) -> bool {
        self.len() > 0 && self.lock().partitions.contains(&partition)
    }

    /// The kept tree has no leaf of these damaged rows. Others of which it had none have one now if they `verify`.
    pub(super) fn leave_out(
        &self,
        damaged: impl Iterator<Item = Key>,
        verify: impl Fn(&Key) -> bool,
    ) {
        let mut left_out = self.left_out();
        left_out.retain(|key| !verify(key));
        left_out.extend(damaged);
        self.any_left_out.store(left_out.len(), Ordering::Release);
    }

    /// The same of one that no scan shows.
    pub(super) fn leave_out_too(&self, key: &Key) {
        self.leave_out(std::iter::once(key.clone()), |_| false);
    }

    /// Whether a key has a damaged row of which the kept tree has no leaf.
    pub(super) fn is_left_out(&self, key: &Key) -> bool {
        self.any_left_out.load(Ordering::Acquire) > 0 && self.left_out().contains(key)
    }

    /// The row of a key was replaced.
    pub(super) fn replaced(&self, key: &Key) {
        if self.any_left_out.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut left_out = self.left_out();
        left_out.remove(key);
        self.any_left_out.store(left_out.len(), Ordering::Release);
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

    fn left_out(&self) -> MutexGuard<'_, BTreeSet<Key>> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
