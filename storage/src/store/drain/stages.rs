//! Second half of a drain: changes the engine, makes that durable, and only then lets go of the log. Keeps I1: each step
//! rests on the one before being durable.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::pace::Done;
use super::{DrainFailed, DrainStep, Drainer, Stage};
use crate::checkpoint::{Checkpoint, PartitionSum};
use crate::engine::Engine;
use crate::key::Key;
use crate::mutants::{Mutant, is_planted};
use crate::record::Record;
use crate::store::entry::Generation;
use crate::store::hints::{self, HintChange};
use crate::store::rowio::{self, Applied};

/// Keys inserted in one step.
const INSERT_BATCH: usize = 32;

/// Entries marked clean in one step.
const CLEAN_BATCH: usize = 256;

/// One key's change to the engine.
pub(super) struct Change {
    pub(super) key: Key,
    /// What the engine shall hold; empty: nothing.
    pub(super) record: Arc<Record>,
    /// The leaf that the kept tree has for it.
    pub(super) old_leaf: u64,
}

/// A freeze whose changes go into the engine.
pub(super) struct Inserting {
    /// S.
    pub(super) sequence: u64,
    pub(super) generation: Generation,
    /// Root and count of every partition at S.
    pub(super) roots: Vec<(u64, u32)>,
    pub(super) changes: Vec<Change>,
    /// After these.
    pub(super) hints: Vec<HintChange>,
    /// Sum and count of all hints at S.
    pub(super) hints_sum: (u64, u32),
    /// The next of `changes`, and then of `hints`.
    pub(super) next: usize,
}

impl Drainer {
    pub(super) fn insert(
        &mut self,
        mut inserting: Inserting,
        now_ms: u64,
    ) -> Result<DrainStep, DrainFailed> {
        let inner = &*self.inner;
        let mut buffer = Vec::new();
        let (from, records) = (inserting.next, inserting.changes.len());
        let end = (records + inserting.hints.len()).min(from + INSERT_BATCH);
        for Change {
            key,
            record,
            old_leaf,
        } in &inserting.changes[from.min(records)..end.min(records)]
        {
            rowio::replace(&inner.engine, key, record, &mut buffer)?;
            inner.quarantine.replaced(key);
            // Kept tree and known leaf change together, so that a tree made of both is never off by this key.
            let mut shard = inner.table.lock_key(key);
            let mut shows = false;
            inner.table.change(&mut shard, key, |entry| {
                entry.base_leaf = Some(record.leaf());
                shows = entry.slot.whole().is_none();
            });
            if !(record.object().is_empty() && is_planted(Mutant::TreeMissesErase)) {
                inner.forest().apply(key.token(), *old_leaf, record.leaf());
            }
            // A whole entry says all of its key; of any other the kept tree does.
            if shows {
                inner.table.changes().note(key.token());
            }
        }
        let hints = from.saturating_sub(records)..end.saturating_sub(records);
        for change in &inserting.hints[hints] {
            hints::drain(&inner.engine, change, &mut buffer)?;
        }
        inserting.next = end;
        if end == records + inserting.hints.len() {
            return self.worked(Stage::SetApplied(inserting));
        }
        self.paced(Stage::Insert(inserting), now_ms, Done::Inserted(end))
    }

    pub(super) fn set_applied(&mut self, inserting: Inserting) -> Result<DrainStep, DrainFailed> {
        let applied = Applied {
            sequence: inserting.sequence,
            hints: inserting.hints_sum,
        };
        rowio::set_applied(&self.inner.engine, applied)?;
        self.worked(Stage::Flush(inserting))
    }

    pub(super) fn flush(
        &mut self,
        inserting: Inserting,
        now_ms: u64,
    ) -> Result<DrainStep, DrainFailed> {
        // For the watchdog: a flush that never returns.
        self.inner
            .flush_began_ms
            .store(now_ms.max(1), Ordering::Relaxed);
        let flushed = self.inner.engine.flush();
        self.inner.flush_began_ms.store(0, Ordering::Relaxed);
        flushed?;
        self.worked(Stage::WriteCheckpoint(inserting))
    }

    pub(super) fn stage_checkpoint(
        &mut self,
        inserting: Inserting,
    ) -> Result<DrainStep, DrainFailed> {
        let checkpoint = self.checkpoint_at(inserting.sequence, &inserting.roots, false);
        self.checkpoint.stage(checkpoint)?;
        self.worked(Stage::SyncCheckpoint(inserting))
    }

    pub(super) fn commit_checkpoint(
        &mut self,
        inserting: Inserting,
    ) -> Result<DrainStep, DrainFailed> {
        self.checkpoint.commit()?;
        self.applied = inserting.sequence;
        self.worked(Stage::Release(inserting))
    }

    pub(super) fn release(&mut self, inserting: Inserting) -> Result<DrainStep, DrainFailed> {
        self.inner.log.release(self.checkpoint.log_position());
        let Inserting {
            changes,
            generation,
            ..
        } = inserting;
        self.worked(Stage::Clean {
            changes: changes.into_iter(),
            generation,
        })
    }

    /// Marks a batch of entries clean, unless they were written since the freeze.
    pub(super) fn clean(
        &mut self,
        mut changes: std::vec::IntoIter<Change>,
        generation: Generation,
    ) -> Result<DrainStep, DrainFailed> {
        let inner = &*self.inner;
        for Change { key, record, .. } in changes.by_ref().take(CLEAN_BATCH) {
            let mut frozen = None;
            let mut shard = inner.table.lock_key(&key);
            inner.table.change(&mut shard, &key, |entry| {
                frozen = entry.frozen.take();
                if entry.dirty == generation {
                    entry.dirty = 0;
                }
            });
            // What may be large is dropped off-lock.
            drop(shard);
            drop((frozen, record));
        }
        if changes.len() > 0 {
            return self.worked(Stage::Clean {
                changes,
                generation,
            });
        }
        inner.drains.fetch_add(1, Ordering::Relaxed);
        inner.table.make_room();
        self.worked(Stage::TendLog)
    }

    /// Keeps a log segment ready.
    pub(super) fn tend_log(&mut self) -> Result<DrainStep, DrainFailed> {
        match self.inner.log.tend_spares() {
            Ok(true) => return self.worked(Stage::TendLog),
            Ok(false) => {}
            // The log's writer makes a segment when it needs one, and says so if it cannot.
            Err(error) => tracing::warn!(%error, "could not prepare a log segment"),
        }
        self.worked(Stage::Idle)
    }

    /// First of two writes for each slot: a stop is clean only if both slots say so.
    pub(super) fn stage_clean(&mut self) -> Result<DrainStep, DrainFailed> {
        if self.checkpoint.is_clean() {
            return self.go(Stage::Closed, DrainStep::Closed);
        }
        let roots = self.inner.forest().roots();
        let checkpoint = self.checkpoint_at(self.applied, &roots, true);
        self.checkpoint.stage(checkpoint)?;
        self.worked(Stage::SyncClean)
    }

    pub(super) fn commit_clean(&mut self) -> Result<DrainStep, DrainFailed> {
        self.checkpoint.commit()?;
        self.worked(Stage::WriteClean)
    }

    fn checkpoint_at(&self, applied: u64, roots: &[(u64, u32)], clean: bool) -> Checkpoint {
        let (actor, last_counter) = self.inner.mint.last();
        let heard = self
            .inner
            .heard
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        Checkpoint {
            applied,
            actor: actor.0,
            last_counter,
            first_live: self.inner.log.first_live(applied),
            boot_id: self.boot_id,
            clean,
            heard,
            partitions: roots
                .iter()
                .map(|&(root, count)| PartitionSum { root, count })
                .collect(),
        }
    }
}
