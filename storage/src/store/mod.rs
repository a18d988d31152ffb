//! The durable store of one node: log, memory table and engine as one map from keys to objects. Keeps I1 (a sequence that [`Store::durable`]
//! reached survives) and I2 (log order is apply order, a read sees every write before it).
//!
//! ```text
//! write, merge ─► log record + table entry, under one shard's lock
//! read         ─► table; a miss is loaded from the engine by a job of the engine pool
//! drain        ─► frozen entries ─► engine ─► checkpoint ─► log segments are free again
//! ```
//!
//! *Architecture invariant:* nothing here knows time, threads or chance: they are handed in. `read`, `write` and `merge` touch
//! memory only; whatever blocks says so.

mod changes;
mod digest;
mod drain;
mod entry;
mod erase;
mod evidence;
mod hints;
mod load;
mod merging;
mod mint;
mod quarantine;
mod reaping;
mod recovery;
mod rowio;
mod scan;
mod scrub;
mod settle;
mod shard;
mod table;
mod wake;
mod write;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

pub use changes::Root;
pub use digest::{Folds, Leaves, PartitionTree};
pub use drain::{
    DrainFailed, DrainStep, Drainer, FREEZE_AGE_MS_MAX, IDLE_MS_MAX, RENEW_OFFSET_BYTES_DEFAULT,
    RENEW_STEP_ROWS_DEFAULT,
};
pub use erase::{EraseError, Erased};
pub use evidence::{Loss, Missing};
pub use hints::{HINT_BYTES_DEFAULT, Hint, HintRefused, HintStats};
pub use load::Read;
pub use mint::Chance;
pub use quarantine::QUARANTINED_KEYS_MAX;
pub use reaping::{
    Advance, AdvanceError, Advanced, ConfirmRefused, Confirmed, Finish, MergeRefused,
    REAPED_BYTES_MAX, REAPED_TOMBS_MAX, REAPING_LISTS_MAX, ReapWindow, Reapable, Reaping, Tomb,
};
pub use recovery::{
    LOCK_FILE, OpenError, OpenReport, Opened, SEGMENT_BYTES_DEFAULT, StoreConfig, StoreParts,
};
pub use scan::{SCAN_KEYS_MAX, ScanPage};
pub use scrub::{SCRUB_ROWS_MAX, Scrubbed};
pub use table::TABLE_BYTES_DEFAULT;
pub use write::{STORED_BYTES_MAX, StoreFull, WriteLimits, WriteRefused, Written};

use self::digest::token_range;
use self::evidence::Evidence;
use self::hints::Hints;
use self::mint::Mint;
use self::quarantine::Quarantine;
use self::reaping::Reaper;
use self::table::{SHARDS, Table};
use self::wake::Bell;
use crate::codec;
use crate::disk::DirectoryLock;
use crate::engine::EngineError;
use crate::engine::renew::Renewing;
use crate::identity::{IdentityFile, Unsynced};
use crate::key::Key;
use crate::log::Log;
use crate::merkle::Forest;
use crate::mutants::{Mutant, is_planted};
use crate::record::Record;
use crate::twoslot::SlotError;
use crate::version::{ActorId, Object};

/// A handle to the store; clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What all handles, the drain and the loads share. Locks are taken in the order file of reaping, shard, forest or
/// hints, lists of reaping; the others alone.
struct Inner {
    table: Table,
    log: Log,
    engine: Renewing,
    /// What the engine took on the disk when the drain last looked; 0: it has not yet.
    engine_bytes: AtomicU64,
    identity: Arc<IdentityFile>,
    mint: Mint,
    quarantine: Quarantine,
    hints: Hints,
    evidence: Evidence,
    reaper: Reaper,
    /// The trees of what the engine holds; changed together with an entry's `base_leaf`, under its shard's lock.
    forest: Mutex<Forest>,
    /// Q: a power of two.
    partitions: u32,
    /// Nothing is taken any more; the drain writes down what is left.
    closing: AtomicBool,
    /// Free space is below the reserve: nothing is taken, and no drain begins.
    out_of_space: AtomicBool,
    /// Rung when the drain has something to do.
    wake: Bell,
    /// Partitions in which damage was found: the drain rebuilds their kept trees without it. At most Q.
    heal: Mutex<BTreeSet<u32>>,
    /// Chunk rows that seemed to belong to no record. Bounded by [`scrub`].
    orphans: Mutex<BTreeSet<Bytes>>,
    drains: AtomicU64,
    /// Records that failed their verification.
    damaged: AtomicU64,
    /// Whether this start set the engine aside.
    engine_replaced: bool,
    /// When the flush that runs began, by the drain's clock; 0: none runs.
    flush_began_ms: AtomicU64,
    /// The first failure of the engine.
    engine_failure: OnceLock<EngineError>,
    /// Highest durable log sequence heard of other stores; goes into checkpoints.
    heard: Mutex<BTreeMap<u64, u64>>,
    /// Keeps other processes off the directory.
    _lock: DirectoryLock,
}

/// Figures of a store, for metrics and for the tracker of layout changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Keys that the engine holds, tombstones included.
    pub keys: u64,
    /// Memory that the table takes.
    pub table_bytes: usize,
    /// The part of it that the engine does not hold yet, and what it has yet to hear of hints.
    pub dirty_bytes: usize,
    /// The newest log sequence.
    pub last_sequence: u64,
    /// The newest one that is on stable storage.
    pub durable_sequence: u64,
    /// Keys (or whole partitions) in quarantine.
    pub quarantined: usize,
    /// Records that failed their verification since the start, which reads them all.
    pub damaged: u64,
    /// Whether this start set the engine aside for an empty one.
    pub engine_replaced: bool,
    /// Drains finished since the start.
    pub drains: u64,
    /// Bytes that the engine takes on the disk, as of the last drain.
    pub engine_bytes: u64,
    /// Bytes of the rows in it.
    pub engine_live_bytes: u64,
    /// Times that the engine was renewed since the start.
    pub renewals: u64,
    /// Since when the engine has been flushing, in ms by the drain's clock; 0: it is not.
    pub flush_began_ms: u64,
}

impl Store {
    /// Looks a key up in memory.
    pub fn read(&self, key: &Key) -> Read {
        let found = self
            .inner
            .table
            .lock_key(key)
            .touch(key)
            .and_then(|entry| entry.slot.whole().cloned());
        match found {
            Some(record) => Read::Found(record),
            None if self.inner.is_quarantined(key) => Read::Quarantined,
            None => Read::Miss,
        }
    }

    /// Tells how far the log is on stable storage.
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.inner.log.durable()
    }

    /// The actor whose dots this store mints.
    pub fn actor(&self) -> ActorId {
        self.inner.mint.last().0
    }

    /// Replaces the actor: gossip knows it at a higher counter than this store remembers (a copied or restored
    /// directory).
    pub fn replace_actor(&self) -> ActorId {
        self.inner.mint.rotate()
    }

    /// Appends an entry that changes nothing, and gives its log sequence. Once durable and told to others, every image of this
    /// directory from before it is seen to be older than what they heard.
    pub fn mark_start(&self) -> u64 {
        self.inner.log.append(codec::encode_start)
    }

    /// The store's identity file.
    pub fn identity(&self) -> &Arc<IdentityFile> {
        &self.inner.identity
    }

    /// Q, the number of partitions.
    pub fn partitions(&self) -> u32 {
        self.inner.partitions
    }

    /// The partition of a token.
    pub fn partition_of(&self, token: u64) -> u32 {
        self.inner.partition_of(token)
    }

    /// Figures.
    pub fn stats(&self) -> StoreStats {
        let inner = &*self.inner;
        StoreStats {
            keys: inner.forest().keys(),
            table_bytes: inner.table.bytes(),
            dirty_bytes: inner.dirty_bytes(),
            last_sequence: inner.log.last(),
            durable_sequence: inner.log.durable_now(),
            quarantined: inner.quarantine.len(),
            damaged: inner.damaged.load(Ordering::Relaxed),
            engine_replaced: inner.engine_replaced,
            drains: inner.drains.load(Ordering::Relaxed),
            engine_bytes: inner.engine_bytes.load(Ordering::Relaxed),
            engine_live_bytes: inner.engine.live_bytes(),
            renewals: inner.engine.renewals(),
            flush_began_ms: inner.flush_began_ms.load(Ordering::Relaxed),
        }
    }

    /// The partitions that this store may lack something of, ascending; they count neither toward R nor a not-found.
    pub fn unsynced(&self) -> Vec<u32> {
        let identity = self.inner.identity.current();
        (0..self.inner.partitions)
            .filter(|partition| identity.unsynced.contains(*partition))
            .collect()
    }

    /// Whether it lacks nothing of this partition, as far as it knows.
    pub fn is_synced(&self, partition: u32) -> bool {
        !self.inner.identity.current().unsynced.contains(partition)
    }

    /// Says durably whether a partition is synced. Synced also ends the quarantine of its keys: every other owner's
    /// copy was merged.
    ///
    /// # Errors
    /// [`SlotError`]: nobody knows which of the two is on disk; the process has to end.
    pub fn set_synced(&self, partition: u32, synced: bool) -> Result<(), SlotError> {
        self.set_all_synced(&[partition], synced)
    }

    /// The same of several partitions, in one write.
    ///
    /// # Errors
    /// As [`Self::set_synced`].
    pub fn set_all_synced(&self, partitions: &[u32], synced: bool) -> Result<(), SlotError> {
        let inner = &*self.inner;
        let forget = || inner.evidence.forget(partitions.iter().copied());
        if !synced {
            // Marked for another reason than damage, or for that, too.
            forget()?;
        }
        inner.identity.update(|identity| {
            identity
                .unsynced
                .set_all(partitions, inner.partitions, !synced);
        })?;
        if synced {
            inner.release_partitions(partitions);
            forget()?;
        }
        Ok(())
    }

    /// Says durably of partitions that they are synced, unless this store has forgotten something since it minted as `actor`:
    /// what was merged before then may be what it forgot. Gives whether it was said.
    ///
    /// # Errors
    /// As [`Self::set_synced`].
    pub fn vouch(&self, partitions: &[u32], actor: ActorId) -> Result<bool, SlotError> {
        let inner = &*self.inner;
        // Whoever quarantines a key replaces the actor, and only then says that the partition is unsynced.
        let vouched = inner.identity.update(|identity| {
            let same = self.actor() == actor;
            if same {
                let unsynced = &mut identity.unsynced;
                unsynced.set_all(partitions, inner.partitions, false);
            }
            same
        })?;
        if vouched {
            inner.release_partitions(partitions);
            inner.evidence.forget(partitions.iter().copied())?;
        }
        Ok(vouched)
    }

    /// Says durably that no copy of this store counts toward a read: it may lack anything.
    ///
    /// # Errors
    /// As [`Self::set_synced`].
    pub fn count_for_nothing(&self) -> Result<(), SlotError> {
        self.inner.evidence.forget_all()?;
        self.inner
            .identity
            .update(|identity| identity.unsynced = Unsynced::All)
    }

    /// Keys in quarantine, to be fetched from their other owners.
    pub fn quarantined(&self) -> Vec<Key> {
        self.inner.quarantine.keys()
    }

    /// Keeps the highest durable log sequence heard of another store, for the next checkpoint.
    pub fn hear(&self, store_id: u64, durable_sequence: u64) {
        let mut heard = self
            .inner
            .heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let entry = heard.entry(store_id).or_default();
        *entry = durable_sequence.max(*entry);
    }

    /// Takes nothing more from now on. The drain writes down what is left and then reports
    /// [`DrainStep::Closed`]; the log's writer must go on until it does.
    pub fn close(&self) {
        self.inner.closing.store(true, Ordering::Release);
        if is_planted(Mutant::ApplyLate) {
            (0..SHARDS).for_each(|shard| drop(self.inner.table.lock(shard)));
        }
        self.inner.wake.notify();
    }

    /// Says whether free space is below the reserve. While it is, nothing is taken and no drain begins: sled meets a full
    /// disk with an error that it never recovers from, so it must not meet one. A drain under way ends, and so does
    /// closing: the reserve is for them.
    pub fn set_out_of_space(&self, is_out: bool) {
        self.inner.out_of_space.store(is_out, Ordering::Release);
    }

    /// How the engine failed, if it did: the process has to end. The identity file says so already.
    pub fn engine_failure(&self) -> Option<EngineError> {
        self.inner.engine_failure.get().cloned()
    }

    /// Since when the engine has been flushing, in ms by the drain's clock; 0: it is not.
    pub(crate) fn flush_began_ms(&self) -> u64 {
        self.inner.flush_began_ms.load(Ordering::Relaxed)
    }

    /// Rung when the drain has something to do.
    pub(crate) fn bell(&self) -> &Bell {
        &self.inner.wake
    }
}

impl Inner {
    fn partition_of(&self, token: u64) -> u32 {
        partition_of(token, self.partitions)
    }

    /// Ends the quarantine of all keys of these partitions.
    fn release_partitions(&self, partitions: &[u32]) {
        for &partition in partitions {
            let tokens = token_range(partition, self.partitions);
            self.quarantine.release_partition(partition, tokens);
            self.table.changes().note_partition(partition);
        }
    }

    fn is_quarantined(&self, key: &Key) -> bool {
        self.quarantine
            .contains(key, self.partition_of(key.token()))
    }

    fn orphans(&self) -> MutexGuard<'_, BTreeSet<Bytes>> {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heal_queue(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.heal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forest(&self) -> MutexGuard<'_, Forest> {
        self.forest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record of a key of which nothing is stored.
    fn nothing(&self, key: &Key) -> Arc<Record> {
        Arc::new(Record::new(key, Object::empty()))
    }
}

/// The top log2(`partitions`) bits of a token.
fn partition_of(token: u64, partitions: u32) -> u32 {
    ((u128::from(token) * u128::from(partitions)) >> 64) as u32
}
