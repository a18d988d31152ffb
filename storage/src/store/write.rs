//! Changes: a coordinator's write, a peer's copy, an erasure. Each is one lock, one log record, one entry. Keeps
//! I2: log order is apply order, a dot is minted under its key's lock on a whole base, and once logged.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::entry::Slot;
use super::merging::merge;
use super::reaping::Reaper;
use super::shard::Shard;
use super::{Inner, MergeRefused, Store};
use crate::codec;
use crate::key::Key;
use crate::mutants::{Mutant, is_planted};
use crate::record::Record;
use crate::version::{Context, Dot, Floor, NewPayload, Object, Payload, Sibling, Write};

/// Bytes of one stored object, at most, whoever made it (I7): with what the log's and the wire's encodings add, it still
/// fits one record of the log and one message. A coordinator's own limit is far below; merges of many coordinators'
/// writes can come here.
pub const STORED_BYTES_MAX: usize = crate::log::RECORD_BYTES_MAX / 4 * 3;

/// What a coordinator judges before it mints (replicas take whatever was acknowledged elsewhere, up to
/// [`STORED_BYTES_MAX`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteLimits {
    /// Siblings that an object may have after the write.
    pub siblings_max: usize,
    /// Bytes that an object may have after the write.
    pub object_bytes_max: usize,
}

impl Default for WriteLimits {
    fn default() -> Self {
        Self {
            siblings_max: 64,
            object_bytes_max: 4 << 20,
        }
    }
}

/// What became of a coordinator's write.
#[derive(Debug, Clone)]
pub enum Written {
    /// It is in the log's queue and in the table.
    Applied {
        /// The object with the write in it, for the other owners.
        record: Arc<Record>,
        /// The event that it is.
        dot: Dot,
        /// Its log sequence: durable here once [`Store::durable`] reaches it.
        sequence: u64,
        /// Siblings that read as values now.
        live_siblings: usize,
        /// The reap generation of its partition at that moment.
        generation: u64,
    },
    /// The request was applied before; nothing changed. To be sent to the other owners again all the same.
    Repeated {
        /// The object as it is.
        record: Arc<Record>,
        /// The log sequence to wait for; 0 is durable.
        sequence: u64,
        /// Siblings that read as values now.
        live_siblings: usize,
        /// The reap generation of its partition at that moment.
        generation: u64,
    },
    /// The base is not in memory: [`Store::load`] it, then write again. Nothing changed.
    Miss,
}

/// Why a write was refused. Nothing changed and no dot was minted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteRefused {
    /// The object would have more siblings than it may.
    #[error(
        "the object would have {count} siblings, more than {max}; write with the context of a read to replace them"
    )]
    TooManySiblings {
        /// Siblings that it would have.
        count: usize,
        /// Siblings that it may have.
        max: usize,
    },
    /// The object would be larger than it may.
    #[error("the object would have {bytes} bytes, more than {max}")]
    ObjectTooLarge {
        /// Bytes that it would have.
        bytes: usize,
        /// Bytes that it may have.
        max: usize,
    },
    /// No room for more, for now.
    #[error(transparent)]
    Full(#[from] StoreFull),
    /// The key's record on disk failed its verification and waits for repair from the other owners.
    #[error("the key's record is damaged here and waits for repair")]
    Quarantined,
}

/// Why the store takes no change now. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreFull {
    /// The table holds as much as it may that the engine does not hold yet.
    #[error("the memory table is full until the next drain ends")]
    Table,
    /// The log's queue, or its segments on disk, are at their limit.
    #[error("the commit log has no room for more")]
    Log,
    /// Free space is below the reserve ([`Store::set_out_of_space`]).
    #[error("the disk has too little free space to store anything")]
    Space,
    /// The store is closing.
    #[error("the store is closing")]
    Closing,
    /// Not the store, but the object: with this copy merged in it would be larger than any may be. The way out is a put
    /// with the context of a read.
    #[error("the object would have {bytes} bytes, more than {STORED_BYTES_MAX}")]
    Object {
        /// Bytes that it would have.
        bytes: usize,
    },
}

impl Store {
    /// Applies a client's write at its coordinator: mints a dot on the whole base, logs, and puts into the table.
    /// Judging `if_absent` is the coordinator's job.
    ///
    /// What the key and the write hold is kept: give copies, not slices of a receive buffer.
    ///
    /// # Errors
    /// [`WriteRefused`]; nothing changed then.
    pub fn write(
        &self,
        key: &Key,
        write: &Write,
        now_ms: u64,
        limits: &WriteLimits,
    ) -> Result<Written, WriteRefused> {
        let inner = &*self.inner;
        let mut shard = inner.table.lock_key(key);
        let Some((base, last)) = shard
            .touch(key)
            .and_then(|e| Some((Arc::clone(e.slot.whole()?), e.sequence)))
        else {
            drop(shard);
            return if inner.is_quarantined(key) {
                Err(WriteRefused::Quarantined)
            } else {
                Ok(Written::Miss)
            };
        };
        if is_planted(Mutant::ApplyTwice) && base.object().find(write.request).is_some() {
            let mut again = write.clone();
            again.request.client ^= inner.mint.chance() | 1;
            drop(shard);
            return self.write(key, &again, now_ms, limits);
        }
        if base.object().find(write.request).is_some() {
            let live_siblings = base.object().live_count(now_ms);
            return Ok(Written::Repeated {
                record: base,
                sequence: last,
                live_siblings,
                generation: self.generation(inner.partition_of(key.token())),
            });
        }
        inner.check_room()?;
        check_limits(base.object(), write, limits)?;
        let dot = inner.mint_for(base.object(), write);
        let record = Arc::new(Record::new(key, base.object().write(write, dot, now_ms)));
        let sequence = inner.log_and_put(&mut shard, key, Slot::Whole(Arc::clone(&record)));
        let generation = self.generation(inner.partition_of(key.token()));
        drop(shard);
        inner.after_change();
        let live_siblings = record.object().live_count(now_ms);
        Ok(Written::Applied {
            record,
            dot,
            sequence,
            live_siblings,
            generation,
        })
    }

    /// Merges a copy that another store sent. Never reads the engine, and judges none of a coordinator's limits: an
    /// acknowledged write is refused by no replica whose log can carry it. Returns the log sequence that makes it durable
    /// here (0: it is already).
    ///
    /// `read_under` is the reap generation that the other store was at before it read the object.
    ///
    /// What the key and the object hold is kept: give copies, not slices of a receive buffer.
    ///
    /// # Errors
    /// [`MergeRefused`]; nothing changed then.
    pub fn merge(&self, key: &Key, object: Object, read_under: u64) -> Result<u64, MergeRefused> {
        self.merge_write(key, object, Floor::default(), read_under)
    }

    /// [`Self::merge`] of a hint that is delivered, `taken_under` a reap generation: taken below that of this store, too, but not below
    /// its floor.
    ///
    /// # Errors
    /// [`MergeRefused`]; nothing changed then.
    pub fn merge_hint(
        &self,
        key: &Key,
        object: Object,
        taken_under: u64,
    ) -> Result<u64, MergeRefused> {
        let checked = |reaper: &Reaper, partition| reaper.check_hint(partition, taken_under);
        self.inner
            .merge_checked(key, object, Floor::default(), checked)
    }

    /// [`Self::merge`] of a copy that a client's write made, and with it forgets the requests that `floor` covers.
    ///
    /// # Errors
    /// [`MergeRefused`]; nothing changed then.
    pub fn merge_write(
        &self,
        key: &Key,
        object: Object,
        floor: Floor,
        read_under: u64,
    ) -> Result<u64, MergeRefused> {
        let checked = |reaper: &Reaper, partition| reaper.check(partition, read_under);
        self.inner.merge_checked(key, object, floor, checked)
    }

    /// Forgets a key: its rows go with the next drain. For reaping and for partitions that are acquired anew; a delete is
    /// a [`write`](Self::write) of a tombstone. Returns the log sequence that makes it durable.
    ///
    /// # Errors
    /// [`StoreFull`]; nothing changed then.
    pub fn erase(&self, key: &Key) -> Result<u64, StoreFull> {
        let inner = &*self.inner;
        let mut shard = inner.table.lock_key(key);
        let sequence = inner.erase_in(&mut shard, key)?;
        drop(shard);
        inner.after_change();
        Ok(sequence)
    }

    /// Forgets a key whose object has this leaf. False: it has another, or is not in memory.
    pub(super) fn erase_exactly(&self, key: &Key, leaf: u64) -> Result<bool, StoreFull> {
        let inner = &*self.inner;
        let mut shard = inner.table.lock_key(key);
        let whole = shard.get(key).and_then(|entry| entry.slot.whole());
        if whole.is_none_or(|record| record.leaf() != leaf) {
            return Ok(false);
        }
        inner.erase_in(&mut shard, key)?;
        drop(shard);
        inner.after_change();
        Ok(true)
    }
}

impl Inner {
    fn merge_checked(
        &self,
        key: &Key,
        object: Object,
        floor: Floor,
        check: impl FnOnce(&Reaper, u32) -> Result<(), MergeRefused>,
    ) -> Result<u64, MergeRefused> {
        let mut shard = self.table.lock_key(key);
        check(&self.reaper, self.partition_of(key.token()))?;
        let slot = match shard.touch(key) {
            None => {
                check_stored(&object)?;
                Slot::Operand(Arc::new(Record::new(key, object)))
            }
            Some(entry) => {
                let held = entry.slot.record();
                let record = Record::new(key, merge(held.object().clone(), object, floor));
                if record.leaf() == held.leaf() && record.object() == held.object() {
                    return Ok(entry.sequence);
                }
                check_stored(record.object())?;
                entry.slot.with(Arc::new(record))
            }
        };
        self.check_room()?;
        let sequence = self.log_and_put(&mut shard, key, slot);
        drop(shard);
        self.after_change();
        Ok(sequence)
    }

    fn erase_in(&self, shard: &mut Shard, key: &Key) -> Result<u64, StoreFull> {
        self.check_room()?;
        let sequence = self.log.append(|buffer| codec::encode_erase(key, buffer));
        self.table
            .write(shard, key, Slot::Whole(self.nothing(key)), sequence);
        self.quarantine.release(key);
        Ok(sequence)
    }

    /// Refuses what would not fit. To be asked under the lock of what is changed, so that nothing slips past a close.
    pub(super) fn check_room(&self) -> Result<(), StoreFull> {
        if self.closing.load(Ordering::Acquire) {
            return Err(StoreFull::Closing);
        }
        if self.out_of_space.load(Ordering::Acquire) {
            return Err(StoreFull::Space);
        }
        if self.table.is_full() {
            return Err(StoreFull::Table);
        }
        if !self.log.has_room() {
            return Err(StoreFull::Log);
        }
        Ok(())
    }

    /// Mints the dot of a write. That somebody has seen a coming dot means that this directory is a copy, or was
    /// restored: such an actor mints no more.
    fn mint_for(&self, base: &Object, write: &Write) -> Dot {
        let dot = self.mint.dot();
        if base.is_fresh(write, dot) {
            return dot;
        }
        let actor = self.mint.rotate();
        tracing::error!(
            ?dot,
            ?actor,
            "a dot of this store was seen before it was minted; the actor is replaced"
        );
        self.mint.dot()
    }

    fn log_and_put(&self, shard: &mut Shard, key: &Key, slot: Slot) -> u64 {
        let before = match is_planted(Mutant::LogBehind) {
            true => shard.touch(key).map(|entry| entry.slot.clone()),
            false => None,
        };
        let logged = before.as_ref().unwrap_or(&slot);
        let sequence = self
            .log
            .append(|buffer| codec::encode_object(key, logged.record(), buffer));
        self.note_due(key, slot.record());
        if is_planted(Mutant::ApplyLate) {
            shard.put_off(key.clone(), slot, sequence);
        } else {
            self.table.write(shard, key, slot, sequence);
        }
        sequence
    }

    /// What is due once the shard's lock is released.
    pub(super) fn after_change(&self) {
        self.table.make_room();
        if self.dirty_bytes() >= self.table.budget() / 2 {
            self.wake.notify();
        }
    }
}

/// Judges the object that `write` would make of `base`, before any dot is minted.
fn check_limits(base: &Object, write: &Write, limits: &WriteLimits) -> Result<(), WriteRefused> {
    let stays = |s: &&Sibling| {
        !write
            .context
            .as_ref()
            .is_some_and(|context| base.read_by(context, s))
    };
    let count = base.siblings().iter().filter(stays).count() + 1;
    if count > limits.siblings_max {
        return Err(WriteRefused::TooManySiblings {
            count,
            max: limits.siblings_max,
        });
    }
    let context = write.context.as_ref().map_or(0, Context::byte_len);
    let (bytes, max) = match &write.payload {
        NewPayload::Value(value) => {
            let gone = base.siblings().iter().filter(|s| !stays(s));
            let gone: usize = gone.map(stored_bytes).sum();
            let bytes = base.byte_len().saturating_sub(gone) + context + value.len() as usize;
            (bytes, limits.object_bytes_max)
        }
        // A delete keeps the values that it replaces and adds no others: it is a way out of an object that merges made
        // too large for puts.
        NewPayload::Delete | NewPayload::Purge => (base.byte_len() + context, STORED_BYTES_MAX),
    };
    if bytes > max {
        return Err(WriteRefused::ObjectTooLarge { bytes, max });
    }
    Ok(())
}

/// Refuses an object that the log could not carry.
pub(super) fn check_stored(object: &Object) -> Result<(), StoreFull> {
    let bytes = object.byte_len();
    if bytes > STORED_BYTES_MAX {
        return Err(StoreFull::Object { bytes });
    }
    Ok(())
}

fn stored_bytes(sibling: &Sibling) -> usize {
    let values = match &sibling.payload {
        Payload::Value(value) => std::slice::from_ref(value),
        Payload::Tombstone { kept } => kept.as_slice(),
    };
    values
        .iter()
        .filter_map(|value| value.bytes())
        .map(|bytes| bytes.len())
        .sum()
}
