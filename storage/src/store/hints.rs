//! Hints: whole objects that this store holds for owners that were down, of keys that it owns in no layout that it has
//! acknowledged. Keeps I1 (a hint is in the log before it counts, and stays until its owners have it durably) and I7 (a budget
//! of bytes: past it the newest is refused, since what was acknowledged is not dropped for what is not).
//!
//! They lie beside the records, never among them: in no tree, on no page of a scan, and no erasing of a partition takes
//! them. All of them are in memory; the engine has a copy of each, so that the log may go on.
//!
//! *Architecture invariant:* locks are taken in the order shard, hints. A change is appended to the log under the lock of the
//! hints, and a freeze holds that, too: so log order is apply order here as well (I2).

mod held;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use self::held::{Held, Set};
use super::digest::token_range;
use super::merging::merge;
use super::write::check_stored;
use super::{Inner, MergeRefused, Store, StoreFull};
use crate::codec::rows::Shelf;
use crate::codec::{self, HintRow};
use crate::engine::{Engine, EngineError};
use crate::key::Key;
use crate::record::Record;
use crate::store::rowio;
use crate::version::{Floor, Object};

/// Default byte budget of hints.
pub const HINT_BYTES_DEFAULT: usize = 64 << 20;

/// A whole object, held for its owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// Whose it is, and so which owners it is for: those of the moment at which it is delivered.
    pub key: Key,
    /// The object.
    pub record: Arc<Record>,
    /// The reap generation that it was taken under; the lowest, of several merged.
    pub generation: u64,
    /// When it was taken, in ms since the Unix epoch; the earliest, of several merged.
    pub taken_ms: u64,
}

/// Why a hint was not taken. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HintRefused {
    /// Hints have as many bytes as they may.
    #[error("the hints held here have as many bytes as they may ({max})")]
    Budget {
        /// That they may have.
        max: usize,
    },
    /// The store takes nothing now.
    #[error(transparent)]
    Full(#[from] StoreFull),
    /// It was read under a lower reap generation than this store is at.
    #[error("read under an older reap generation than {generation}")]
    StaleGeneration {
        /// The one that this store is at.
        generation: u64,
        /// Its floor.
        floor: u64,
    },
}

impl From<MergeRefused> for HintRefused {
    fn from(refused: MergeRefused) -> Self {
        match refused {
            MergeRefused::Full(full) => HintRefused::Full(full),
            MergeRefused::StaleGeneration { generation, floor } => {
                HintRefused::StaleGeneration { generation, floor }
            }
        }
    }
}

/// Figures of hints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HintStats {
    /// Keys with a hint.
    pub count: usize,
    /// Memory that they take.
    pub bytes: usize,
    /// When the oldest was taken, in ms since the Unix epoch; 0: there is none.
    pub oldest_ms: u64,
    /// Refused for the budget since the start.
    pub refused: u64,
    /// Dropped for their age since the start.
    pub dropped: u64,
}

/// One hint's change to the engine: what it shall hold, or (`None`) nothing.
pub(super) type HintChange = (Key, Option<Hint>);

/// The hints of a store.
pub(super) struct Hints {
    budget: usize,
    set: Mutex<Set>,
    /// Bytes of what changed since the last freeze.
    dirty_bytes: Arc<AtomicUsize>,
    /// Counts those that are taken.
    taken: watch::Sender<u64>,
}

impl Hints {
    /// No hints yet.
    pub(super) fn new(budget: usize) -> Self {
        let dirty_bytes = Arc::new(AtomicUsize::new(0));
        Self {
            budget,
            set: Mutex::new(Set::new(Arc::clone(&dirty_bytes))),
            dirty_bytes,
            taken: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Set> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something while no hint is taken or forgotten.
    pub(super) fn while_locked(&self, work: impl FnOnce()) {
        let set = self.lock();
        work();
        drop(set);
    }

    /// Bytes whose change the engine does not hold yet.
    pub(super) fn dirty_bytes(&self) -> usize {
        self.dirty_bytes.load(Ordering::Relaxed)
    }

    /// Takes what changed since the last freeze, as it is now, in key order. To be called with all shards locked; gives the
    /// log's last sequence by `sequence`, before anything more is appended, and sum and count of all hints.
    pub(super) fn freeze(
        &self,
        sequence: impl FnOnce() -> u64,
    ) -> (u64, Vec<HintChange>, (u64, u32)) {
        let mut set = self.lock();
        (sequence(), set.take_changes(), set.sum())
    }

    /// Sum and count of all: what a copy elsewhere is compared by.
    pub(super) fn sum(&self) -> (u64, u32) {
        self.lock().sum()
    }

    /// Puts in what the engine held when it was opened: its hints are clean.
    pub(super) fn restore(&self, key: Key, row: HintRow) {
        let held = Held {
            record: Arc::new(row.record),
            generation: row.generation,
            taken_ms: row.taken_ms,
            sequence: 0,
        };
        self.lock().put(key, held, false);
    }

    /// Puts in what the log says was taken: that, whole.
    pub(super) fn replay(&self, key: Key, row: HintRow, sequence: u64) {
        let held = Held {
            record: Arc::new(row.record),
            generation: row.generation,
            taken_ms: row.taken_ms,
            sequence,
        };
        self.lock().put(key, held, true);
    }

    /// Forgets what the log says is gone.
    pub(super) fn replay_gone(&self, key: &Key) {
        self.lock().remove(key);
    }

    /// Forgets all: the planted bug.
    pub(super) fn lose(&self) {
        self.dirty_bytes.store(0, Ordering::Relaxed);
        *self.lock() = Set::new(Arc::clone(&self.dirty_bytes));
    }
}

impl Store {
    /// Takes a copy as a hint, or merges it with the one that is there. Returns the log sequence that makes it durable here.
    /// `generation` is the reap generation that it was read under, `now_ms` the time in ms since the Unix epoch; `floor` as in
    /// [`Self::merge_write`].
    ///
    /// What the key and the object hold is kept: give copies, not slices of a receive buffer.
    ///
    /// # Errors
    /// [`HintRefused`]; nothing changed then.
    pub fn take_hint(
        &self,
        key: &Key,
        object: Object,
        floor: Floor,
        generation: u64,
        now_ms: u64,
    ) -> Result<u64, HintRefused> {
        let inner = &*self.inner;
        let mut set = inner.hints.lock();
        let partition = inner.partition_of(key.token());
        inner.reaper.check(partition, generation)?;
        let mut held = match set.get(key) {
            None => Held {
                record: Arc::new(Record::new(key, object)),
                generation,
                taken_ms: now_ms,
                sequence: 0,
            },
            Some(held) => {
                let merged = merge(held.record.object().clone(), object, floor);
                let record = Arc::new(Record::new(key, merged));
                let merged = held.merged(record, generation, now_ms, held.sequence);
                if merged == *held {
                    return Ok(held.sequence);
                }
                merged
            }
        };
        check_stored(held.record.object())?;
        inner.check_room()?;
        if !set.has_room(key, &held, inner.hints.budget) {
            set.refused += 1;
            let max = inner.hints.budget;
            return Err(HintRefused::Budget { max });
        }
        held.sequence = inner.log.append(|buffer| {
            codec::encode_hint(key, &held.record, held.generation, held.taken_ms, buffer);
        });
        let sequence = held.sequence;
        set.put(key.clone(), held, true);
        drop(set);
        inner.hints.taken.send_modify(|taken| *taken += 1);
        inner.after_change();
        Ok(sequence)
    }

    /// The hint of a key.
    pub fn hint(&self, key: &Key) -> Option<Hint> {
        let set = self.inner.hints.lock();
        set.get(key).map(|held| held.hint(key.clone()))
    }

    /// Hints after `after` in the order of their age (of one age by key), the oldest first: at most `keys_max`, and no more
    /// once their objects have `bytes_max` bytes.
    pub fn hints_after(
        &self,
        after: Option<&(u64, Key)>,
        keys_max: usize,
        bytes_max: usize,
    ) -> Vec<Hint> {
        self.inner.hints.lock().page(after, keys_max, bytes_max)
    }

    /// Forgets a hint, if it is still what was delivered: all owners have that durably. False: it is another by now.
    ///
    /// # Errors
    /// [`StoreFull`]; nothing changed then.
    pub fn forget_hint(&self, delivered: &Hint) -> Result<bool, StoreFull> {
        let inner = &*self.inner;
        let mut set = inner.hints.lock();
        let same = |held: &Held| {
            Arc::ptr_eq(&held.record, &delivered.record) || held.record == delivered.record
        };
        if !set.get(&delivered.key).is_some_and(same) {
            return Ok(false);
        }
        inner.check_room()?;
        inner.forget(&mut set, &delivered.key);
        drop(set);
        inner.after_change();
        Ok(true)
    }

    /// Drops hints that were taken before `before_ms`, at most `keys_max` of them, the oldest first. Returns their keys: their
    /// owners lack something, for all that this store knows.
    ///
    /// # Errors
    /// [`StoreFull`]; nothing changed then.
    pub fn drop_hints(&self, before_ms: u64, keys_max: usize) -> Result<Vec<Key>, StoreFull> {
        let inner = &*self.inner;
        let mut set = inner.hints.lock();
        let old: Vec<Key> = set.older_than(before_ms).take(keys_max).cloned().collect();
        if old.is_empty() {
            return Ok(old);
        }
        inner.check_room()?;
        for key in &old {
            inner.forget(&mut set, key);
        }
        set.dropped += old.len() as u64;
        drop(set);
        inner.after_change();
        Ok(old)
    }

    /// Figures of hints.
    pub fn hint_stats(&self) -> HintStats {
        self.inner.hints.lock().stats()
    }

    /// The lowest reap generation that a hint of this partition was taken under; `None`: there is no hint of it.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn lowest_hint_generation(&self, partition: u32) -> Option<u64> {
        let (first, last) = token_range(partition, self.inner.partitions);
        let set = self.inner.hints.lock();
        set.between(first, last).map(|held| held.generation).min()
    }

    /// How many keys have a hint, by partition.
    pub fn hints_by_partition(&self) -> BTreeMap<u32, usize> {
        let mut counts = BTreeMap::<u32, usize>::new();
        for (key, _) in self.inner.hints.lock().iter() {
            *counts.entry(self.partition_of(key.token())).or_default() += 1;
        }
        counts
    }

    /// How many hints were taken since the start, and every change of it.
    pub fn hints_taken(&self) -> watch::Receiver<u64> {
        self.inner.hints.taken.subscribe()
    }
}

impl Inner {
    fn forget(&self, set: &mut Set, key: &Key) {
        self.log
            .append(|buffer| codec::encode_hint_gone(key, buffer));
        set.remove(key);
    }

    /// What the engine does not hold yet, in bytes.
    pub(super) fn dirty_bytes(&self) -> usize {
        self.table.dirty_bytes() + self.hints.dirty_bytes()
    }
}

/// Writes one hint's change into the engine.
pub(super) fn drain(
    engine: &dyn Engine,
    (key, hint): &HintChange,
    buffer: &mut Vec<u8>,
) -> Result<(), EngineError> {
    let Some(hint) = hint else {
        return rowio::remove(engine, Shelf::Hints, key);
    };
    buffer.clear();
    codec::encode_hint_row(key, &hint.record, hint.generation, hint.taken_ms, buffer);
    rowio::put(engine, Shelf::Hints, key, buffer)
}
