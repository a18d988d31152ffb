//! Filling the table from the engine. Keeps I2: a load never lets an older value win over a write that came while it
//! read, because the writes find its placeholder and merge into it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::entry::{Entry, Slot};
use super::merging::fold;
use super::quarantine::Added;
use super::rowio::{self, Stored};
use super::{Inner, Store};
use crate::engine::EngineError;
use crate::key::Key;
use crate::record::{NO_LEAF, Record};

/// What the store knows of a key.
#[derive(Debug, Clone)]
pub enum Read {
    /// The whole object; an empty one: nothing is stored.
    Found(Arc<Record>),
    /// Not in memory, or not all of it: [`Store::load`] tells.
    Miss,
    /// The record on disk failed its verification. Counts neither toward R nor as a not-found.
    Quarantined,
}

impl Store {
    /// Reads keys through to the engine and keeps what it finds in the table. Returns what each key then is, in order, never
    /// [`Read::Miss`]: a full table may evict the first key before the last is read.
    ///
    /// Blocks: to be run on the engine pool.
    ///
    /// # Errors
    /// [`EngineError`]: the engine is not to be used again, the process has to end.
    pub fn load(&self, keys: &[Key]) -> Result<Vec<Read>, EngineError> {
        let loaded: Result<_, _> = keys.iter().map(|key| self.inner.load_key(key)).collect();
        loaded.inspect_err(|error| self.inner.engine_failed(error))
    }
}

impl Inner {
    fn load_key(&self, key: &Key) -> Result<Read, EngineError> {
        if let Some(read) = self.begin_load(key) {
            return Ok(read);
        }
        let stored = rowio::read(&self.engine, key);
        let read = self.end_load(key, stored);
        self.table.make_room();
        read
    }

    /// Pins the key's entry, or a placeholder that gathers the writes to come. An answer: there is nothing to load.
    pub(super) fn begin_load(&self, key: &Key) -> Option<Read> {
        let quarantined = self.is_quarantined(key);
        let mut shard = self.table.lock_key(key);
        match shard.touch(key) {
            Some(Entry {
                slot: Slot::Whole(record),
                base_leaf: Some(_),
                ..
            }) => {
                return Some(Read::Found(Arc::clone(record)));
            }
            _ if quarantined => return Some(Read::Quarantined),
            Some(_) => {
                self.table.change(&mut shard, key, |entry| entry.pins += 1);
            }
            None => {
                let placeholder = Entry {
                    pins: 1,
                    ..Entry::clean(Slot::Operand(self.nothing(key)), None)
                };
                self.table.insert_clean(&mut shard, key, placeholder);
            }
        }
        None
    }

    /// Folds what the engine holds with what the entry has become, and unpins it.
    pub(super) fn end_load(
        &self,
        key: &Key,
        stored: Result<Stored, EngineError>,
    ) -> Result<Read, EngineError> {
        let record = match stored {
            Ok(Stored::Record(record)) => Some(Arc::new(record)),
            Ok(Stored::Nothing) => None,
            Ok(Stored::Damaged) => {
                if let Some(whole) = self.whole_meanwhile(key) {
                    return Ok(Read::Found(whole));
                }
                self.quarantine(key);
                self.abandon_load(key);
                return Ok(Read::Quarantined);
            }
            Err(error) => {
                self.abandon_load(key);
                return Err(error);
            }
        };
        let mut shard = self.table.lock_key(key);
        self.table.change(&mut shard, key, |entry| {
            entry.pins -= 1;
            // Known already: then the drain has written since the engine was read.
            entry
                .base_leaf
                .get_or_insert(record.as_ref().map_or(0, |record| record.leaf()));
            if let Slot::Operand(operand) = &entry.slot {
                let folded = fold(key, record.as_ref(), operand);
                self.note_due(key, &folded);
                entry.slot = Slot::Whole(folded);
            }
        });
        let entry = shard.get(key).expect("pinned since the load began");
        Ok(Read::Found(Arc::clone(entry.slot.record())))
    }

    /// Unpins, if what the engine holds matters no more: the entry is whole by itself.
    fn whole_meanwhile(&self, key: &Key) -> Option<Arc<Record>> {
        let mut shard = self.table.lock_key(key);
        let whole = Arc::clone(shard.get(key)?.slot.whole()?);
        let is_left_out = self.quarantine.is_left_out(key);
        let mut base_leaf = None;
        self.table.change(&mut shard, key, |entry| {
            entry.pins -= 1;
            if is_left_out {
                entry.base_leaf.get_or_insert(NO_LEAF);
            }
            base_leaf = entry.base_leaf;
        });
        if base_leaf.is_none() {
            // The kept tree may have the leaf of what is damaged.
            self.look_through(self.partition_of(key.token()));
        }
        Some(whole)
    }

    /// Unpins, and removes a placeholder that nothing was merged into.
    fn abandon_load(&self, key: &Key) {
        let mut shard = self.table.lock_key(key);
        self.table.change(&mut shard, key, |entry| entry.pins -= 1);
        if shard
            .get(key)
            .is_some_and(|entry| entry.slot.whole().is_none())
            && let Some((weight, _)) = shard.remove(key)
        {
            self.table.account(weight, Default::default());
        }
    }

    /// Takes a key out of service whose record on disk failed its verification: this store has forgotten something, so
    /// its actor is replaced, and the partition counts no longer as synced.
    pub(super) fn quarantine(&self, key: &Key) {
        let partition = self.partition_of(key.token());
        // Held until all is changed: the drain, which looks through the partition, notes what was lost under it, too.
        let mut evidence = self.evidence.lock();
        let added = self.quarantine.add(key, partition);
        if added == Added::Known {
            return;
        }
        self.damaged.fetch_add(1, Ordering::Relaxed);
        self.table.changes().note_partition(partition);
        let actor = self.mint.rotate();
        tracing::error!(
            ?key,
            partition,
            ?actor,
            "a record failed its verification and is quarantined"
        );
        let marked = self.identity.update(|identity| {
            let counted = !identity.unsynced.contains(partition);
            identity.unsynced.set(partition, self.partitions, true);
            counted
        });
        if let Ok(true) = marked {
            evidence.begin(partition);
        }
        if added == Added::Partition {
            evidence.give_up(partition);
        }
        self.look_through(partition);
        if let Err(error) = marked {
            // In memory the key stays quarantined; the next start finds the damage by the partition's root.
            tracing::error!(%error, partition, "could not mark the partition unsynced");
        }
    }
}

impl Inner {
    /// Notes durably that the engine failed, so that the next start sets it aside, unless the error says nothing of what it holds.
    /// The process has to end.
    pub(super) fn engine_failed(&self, error: &EngineError) {
        if error.spares_the_engine() {
            tracing::error!(%error, "the storage engine cannot work; nothing is wrong with what it holds");
            let _ = self.engine_failure.set(error.clone());
            return;
        }
        tracing::error!(%error, "the storage engine failed; it will be set aside at the next start");
        if let Err(unnoted) = self.identity.update(|identity| identity.set_aside = true) {
            tracing::error!(error = %unnoted, "could not note that the engine failed");
        }
        let _ = self.engine_failure.set(error.clone());
    }
}
