//! The memory table: write buffer and row cache in one, within one byte budget (I7). Keeps I2 with the drain: an entry
//! that the engine does not hold is never evicted.
//!
//! 256 shards by the token's first byte, so by partition as long as there are at least 256 of these, each behind its own
//! lock. Weights are counted over all shards: one large object may take what others leave.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::changes::Changes;
use super::entry::{Entry, Slot, Weight};
use super::shard::Shard;
use crate::key::Key;
use crate::mutants::{Mutant, is_planted};

/// Number of shards.
pub(super) const SHARDS: usize = 256;

/// Default byte budget of the table.
pub const TABLE_BYTES_DEFAULT: usize = 96 << 20;

/// Entries that one call looks at for eviction, at most.
const EVICT_VISITS_MAX: usize = 256;

/// Shards that one call looks into for eviction, at most: in a small table most are empty.
const EVICT_SHARDS_MAX: usize = 64;

/// Entries that the hand looks at in one shard before it moves to the next.
const EVICT_VISITS_PER_SHARD: usize = 16;

pub(super) struct Table {
    shards: Box<[Mutex<Shard>]>,
    budget: usize,
    bytes: AtomicUsize,
    dirty_bytes: AtomicUsize,
    /// The shard where eviction goes on.
    hand: AtomicUsize,
    /// What was changed, by partition: each write counts, and whatever else a tree shows.
    changes: Changes,
}

impl Table {
    pub(super) fn new(budget: usize, partitions: u32) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect(),
            budget,
            bytes: AtomicUsize::new(0),
            dirty_bytes: AtomicUsize::new(0),
            hand: AtomicUsize::new(0),
            changes: Changes::new(partitions),
        }
    }

    /// The shard of a token.
    pub(super) fn shard_of(token: u64) -> usize {
        (token >> 56) as usize
    }

    pub(super) fn lock(&self, shard: usize) -> MutexGuard<'_, Shard> {
        let mut shard = self.lock_as_it_is(shard);
        if is_planted(Mutant::ApplyLate)
            && let Some((key, slot, sequence)) = shard.take_late()
        {
            self.write(&mut shard, &key, slot, sequence);
        }
        shard
    }

    fn lock_as_it_is(&self, shard: usize) -> MutexGuard<'_, Shard> {
        // A panic under this lock is a bug of ours that ends the process; until then reads may go on.
        self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_key(&self, key: &Key) -> MutexGuard<'_, Shard> {
        self.lock(Self::shard_of(key.token()))
    }

    /// All shards, locked in order. Nobody else holds two of them out of order.
    pub(super) fn lock_all(&self) -> Vec<MutexGuard<'_, Shard>> {
        (0..SHARDS).map(|shard| self.lock_as_it_is(shard)).collect()
    }

    /// Counts a change of weight.
    pub(super) fn account(&self, before: Weight, after: Weight) {
        shift(&self.bytes, before.all, after.all);
        shift(&self.dirty_bytes, before.dirty, after.dirty);
    }

    pub(super) fn changes(&self) -> &Changes {
        &self.changes
    }

    pub(super) fn budget(&self) -> usize {
        self.budget
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes that the engine does not hold yet.
    pub(super) fn dirty_bytes(&self) -> usize {
        self.dirty_bytes.load(Ordering::Relaxed)
    }

    /// Nothing more may be written until a drain has ended.
    pub(super) fn is_full(&self) -> bool {
        self.dirty_bytes() >= self.budget
    }

    /// Evicts when over the budget. To be called with no shard locked, after the table grew.
    pub(super) fn make_room(&self) {
        let mut visits_left = EVICT_VISITS_MAX;
        for _ in 0..EVICT_SHARDS_MAX {
            let excess = self.bytes().saturating_sub(self.budget);
            if excess == 0 || visits_left == 0 {
                return;
            }
            let shard = self.hand.fetch_add(1, Ordering::Relaxed) % SHARDS;
            let visits = visits_left.min(EVICT_VISITS_PER_SHARD);
            let evicted = self.lock(shard).evict(visits, excess);
            self.account(
                Weight {
                    all: evicted.bytes,
                    dirty: 0,
                },
                Weight::default(),
            );
            visits_left -= evicted.visits;
            drop(evicted.entries);
        }
    }

    /// Evicts every clean, unpinned entry.
    #[cfg(test)]
    pub(super) fn evict_all(&self) {
        for shard in 0..SHARDS {
            let mut shard = self.lock(shard);
            for _ in 0..3 {
                let evicted = shard.evict(usize::MAX, usize::MAX);
                self.account(
                    Weight {
                        all: evicted.bytes,
                        dirty: 0,
                    },
                    Weight::default(),
                );
            }
        }
    }

    /// Writes a slot that was logged as `sequence` into its (locked) shard.
    pub(super) fn write(&self, shard: &mut Shard, key: &Key, slot: Slot, sequence: u64) {
        let (before, after) = shard.write(key, slot, sequence);
        self.account(before, after);
        self.changes.note(key.token());
    }

    /// Puts a clean entry under a key that is not in the (locked) shard.
    pub(super) fn insert_clean(&self, shard: &mut Shard, key: &Key, entry: Entry) {
        let weight = shard.insert_clean(key, entry);
        self.account(Weight::default(), weight);
    }

    /// Changes an entry of the (locked) shard, other than by a write. False: it is not there.
    pub(super) fn change(
        &self,
        shard: &mut Shard,
        key: &Key,
        change: impl FnOnce(&mut Entry),
    ) -> bool {
        let Some((before, after)) = shard.change(key, change) else {
            return false;
        };
        self.account(before, after);
        true
    }
}

fn shift(counter: &AtomicUsize, before: usize, after: usize) {
    if after >= before {
        counter.fetch_add(after - before, Ordering::Relaxed);
    } else {
        counter.fetch_sub(before - after, Ordering::Relaxed);
    }
}
