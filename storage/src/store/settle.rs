//! The end of a quarantine. Keeps "what cannot be verified is not served" and that repairs end: once what was lost has come from
//! other owners, it stands for itself, and the damaged rows under it mean nothing any more; a damaged row of which nobody knows
//! anything goes.
//!
//! Everything goes through the log, so a crash finds the copy either not synced yet, or without the damage.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::digest::token_range;
use super::entry::Slot;
use super::rowio::{self, Stored};
use super::{EraseError, Inner, Missing, Store};
use crate::codec;
use crate::codec::rows::{self, RowKind};
use crate::engine::{Engine, EngineError};
use crate::key::Key;
use crate::record::{NO_LEAF, Record};

impl Store {
    /// What a partition lacks because of damage, if that is all that is wrong with it and all of it is known.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn missing(&self, partition: u32) -> Option<Missing> {
        let inner = &*self.inner;
        let missing = inner.evidence.missing(partition, inner.partitions)?;
        let is_looked_at = inner.heal_queue().contains(&partition);
        let listed = missing.keys();
        let found = inner
            .quarantine
            .keys_between(token_range(partition, inner.partitions));
        let is_known = !inner.quarantine.has_partition(partition)
            && found.iter().all(|key| listed.contains(key));
        (!is_looked_at && is_known).then_some(missing)
    }

    /// Whether anything is known of what damage took from a partition; [`Self::missing`] may have nothing to tell yet.
    pub fn lost_to_damage(&self, partition: u32) -> bool {
        self.inner.evidence.lock().covers(partition)
    }

    /// Lets what was merged into the quarantined keys of a partition stand in the place of their damaged rows. To be called when all
    /// that the copy lacked was merged, and before it is said to be synced ([`Self::vouch`]): in between the sequence that this
    /// gives (0: nothing was to be done) has to be durable.
    ///
    /// Blocks: to be run on the engine pool.
    ///
    /// # Errors
    /// [`EraseError`]: full, for now; or the engine failed.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn settle(&self, partition: u32) -> Result<u64, EraseError> {
        let inner = &*self.inner;
        if inner.quarantine.len() == 0 {
            return Ok(0);
        }
        let tokens = token_range(partition, inner.partitions);
        let keys = inner.quarantine.keys_between(tokens).into_iter();
        let mut keys: BTreeSet<Key> = keys.collect();
        if inner.quarantine.has_partition(partition) {
            let damaged = inner.damaged_rows(partition);
            keys.extend(damaged.inspect_err(|error| inner.engine_failed(error))?);
        }
        let mut sequence = 0;
        for key in &keys {
            sequence = inner.settle_key(key)?.max(sequence);
        }
        inner.after_change();
        Ok(sequence)
    }
}

impl Inner {
    /// Has the drain look through a partition's rows, and make its kept tree anew.
    pub(super) fn look_through(&self, partition: u32) {
        self.heal_queue().insert(partition);
        self.wake.notify();
    }

    /// The keys of a partition whose head rows lead to no record.
    fn damaged_rows(&self, partition: u32) -> Result<Vec<Key>, EngineError> {
        let (first, last) = token_range(partition, self.partitions);
        let end = rows::end_after(last);
        let mut damaged = Vec::new();
        let heads = self.engine.range(&first.to_be_bytes(), Some(&end));
        for row in heads {
            let (row, value) = row?;
            let Some((key, RowKind::Head)) = rows::parse_key(&row) else {
                continue;
            };
            // A drain may be at it: what is settled needlessly is settled to what it is.
            if rowio::decode(&self.engine, &key, value)?.is_none() {
                damaged.push(key);
            }
        }
        Ok(damaged)
    }

    fn settle_key(&self, key: &Key) -> Result<u64, EraseError> {
        let mut shard = self.table.lock_key(key);
        let (record, sequence) = match shard.get(key) {
            // On its way to the engine already.
            Some(entry) if entry.slot.whole().is_some() && !entry.evictable() => {
                return Ok(entry.sequence);
            }
            Some(entry) => (Arc::clone(entry.slot.record()), entry.sequence),
            None => (self.nothing(key), 0),
        };
        // No drain is at the row while its key is locked and not in the table.
        if !matches!(rowio::read(&self.engine, key)?, Stored::Damaged) {
            // What was merged was drained since, or lies on a record that is well.
            return Ok(sequence);
        }
        if !self.quarantine.is_left_out(key) {
            // Damaged anew, or not looked at yet: what was received may be what was lost. Nobody vouches for it this time.
            self.look_through(self.partition_of(key.token()));
            self.mint.rotate();
            return Ok(sequence);
        }
        self.check_room()?;
        let sequence = self.log_whole(key, &record);
        self.table
            .write(&mut shard, key, Slot::Whole(record), sequence);
        // The kept tree was made without it.
        self.table.change(&mut shard, key, |entry| {
            entry.base_leaf.get_or_insert(NO_LEAF);
        });
        Ok(sequence)
    }

    fn log_whole(&self, key: &Key, record: &Arc<Record>) -> u64 {
        self.log.append(|buffer| match record.object().is_empty() {
            true => codec::encode_erase(key, buffer),
            false => codec::encode_whole(key, record, buffer),
        })
    }

    /// Judges a record in the engine that failed its verification, while no drain is at it. What the table holds whole is written
    /// down anew, and nothing is lost; else the key is quarantined. Gives whether this is news.
    pub(super) fn found_damaged(&self, key: &Key) -> Result<Damage, EngineError> {
        let mut shard = self.table.lock_key(key);
        let held = shard
            .get(key)
            .map(|entry| (entry.slot.clone(), entry.evictable()));
        // What is still to be drained, or being loaded, is judged when it has been.
        if held.as_ref().is_some_and(|(_, is_at_rest)| !is_at_rest)
            || !matches!(rowio::read(&self.engine, key)?, Stored::Damaged)
        {
            return Ok(Damage::None);
        }
        if let Some((Slot::Whole(record), _)) = held
            && !record.object().is_empty()
            && self.check_room().is_ok()
        {
            let sequence = self.log_whole(key, &record);
            self.table
                .write(&mut shard, key, Slot::Whole(record), sequence);
            drop(shard);
            self.damaged.fetch_add(1, Ordering::Relaxed);
            self.after_change();
            tracing::error!(?key, "a damaged record is written down anew from memory");
            return Ok(Damage::Rewritten);
        }
        drop(shard);
        let is_news = !self.is_quarantined(key);
        self.quarantine(key);
        Ok(match is_news {
            true => Damage::Quarantined,
            false => Damage::None,
        })
    }
}

/// What was done about a record that failed its verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// Nothing: it is known, or about to be replaced, or was replaced meanwhile.
    None,
    Rewritten,
    Quarantined,
}
