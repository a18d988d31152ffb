//! The steps of a round. Each may be cut short by a crash after any of its effects, and each can be taken again.
//!
//! *Why it is sound.* An object only grows until it is erased, so a key that was seen past its tombstone stays so, and may be judged
//! before the step. A step counts once it is in the file and the log is durable to what was judged by; before that nobody is told.
//! A start that finds the one without the other takes the step back.

use std::sync::Arc;

use super::file::{File, Kept};
use super::{
    Advance, AdvanceError, Advanced, ConfirmRefused, Confirmed, Finish, REAPED_BYTES_MAX,
    REAPED_TOMBS_MAX, REAPING_LISTS_MAX, Reaping, Tomb,
};
use crate::engine::EngineError;
use crate::key::Key;
use crate::mutants::{Mutant, is_planted};
use crate::record::{NO_LEAF, Record};
use crate::store::{EraseError, Read, Store, StoreFull};
use crate::twoslot::SlotError;

/// Absent lists of one store, at most (I7): what was confirmed before another's list came still has a place.
const LISTS_MAX: usize = 2 * REAPING_LISTS_MAX;

/// Times that a record is read again that was evicted before it could be looked at under its lock.
const LOOKS_MAX: usize = 8;

/// What became of one step, before it is made.
enum Judged {
    Already(u64),
    Missed,
    Step(u64),
}

impl Store {
    /// Tells which of these tombstones the objects here exactly are. To be told to others once the log is durable to the sequence.
    ///
    /// Blocks: to be run on the engine pool.
    ///
    /// # Errors
    /// [`ConfirmRefused`].
    pub fn confirm_reaping(
        &self,
        partition: u32,
        generation: u64,
        tombs: &[Tomb],
    ) -> Result<Confirmed, ConfirmRefused> {
        self.check_confirm(partition, generation)?;
        let lists = self.inner.reaper.listed().len();
        if !fits(tombs) || lists >= REAPING_LISTS_MAX {
            return Err(ConfirmRefused::TooMany);
        }
        let mut confirmed = Confirmed::default();
        for tomb in tombs {
            let found = self.settled(&tomb.key)?;
            let found = found.filter(|(record, _)| {
                record.leaf() == tomb.leaf && self.partition_of(tomb.key.token()) == partition
            });
            confirmed.exact.push(found.is_some());
            let sequence = found.map_or(0, |(_, sequence)| sequence);
            confirmed.sequence = confirmed.sequence.max(sequence);
        }
        if is_planted(Mutant::ConfirmBeforeSync) {
            confirmed.sequence = 0;
        }
        // Nothing came in between that would make it another round's word, or that of a copy that lacks something.
        self.check_confirm(partition, generation)?;
        Ok(confirmed)
    }

    fn check_confirm(&self, partition: u32, generation: u64) -> Result<(), ConfirmRefused> {
        if let Some(reaping) = self.reaping(partition) {
            return Err(ConfirmRefused::Reaping(reaping));
        }
        let (at, floor) = (self.generation(partition), self.floor(partition));
        if at != generation {
            return Err(ConfirmRefused::Generation {
                generation: at,
                floor,
            });
        }
        match self.is_synced(partition) {
            true => Ok(()),
            false => Err(ConfirmRefused::NotSynced),
        }
    }

    /// Makes these steps, in one durable write.
    ///
    /// Blocks: to be run on the engine pool.
    ///
    /// # Errors
    /// [`AdvanceError`].
    pub fn advance_reaping(&self, steps: &[Advance]) -> Result<Vec<Advanced>, AdvanceError> {
        let inner = &*self.inner;
        let mut file = inner.reaper.file();
        let is_new = |step: &&Advance| {
            !step.tombs.is_empty() && file.get(step.partition).generation < step.to
        };
        let new = steps.iter().filter(is_new).count();
        if steps.iter().any(|step| !fits(&step.tombs)) || file.lists() + new > LISTS_MAX {
            return Err(AdvanceError::TooMany);
        }
        let mut all = Vec::with_capacity(steps.len());
        for step in steps {
            let sequence = match self.judge(&file, step)? {
                Judged::Missed => {
                    all.push(Advanced::Missed);
                    continue;
                }
                Judged::Already(sequence) => sequence,
                Judged::Step(sequence) => {
                    let kept = advanced(&self.known(&file, step.partition), step, sequence);
                    // In memory first: what is taken from now on was read under the new generation.
                    inner.show_reaping(step.partition, &kept);
                    file.set(step.partition, kept);
                    sequence
                }
            };
            all.push(Advanced::Done { sequence });
        }
        inner.write_reaping(&mut file)?;
        Ok(all)
    }

    fn judge(&self, file: &File, step: &Advance) -> Result<Judged, EngineError> {
        let kept = file.get(step.partition);
        if kept.generation >= step.to {
            return Ok(Judged::Already(kept.sequence));
        }
        let is_owner = !step.tombs.is_empty();
        if is_owner && kept.generation + 1 < step.to {
            return Ok(Judged::Missed);
        }
        let mut sequence = 0;
        for tomb in &step.tombs {
            match self.settled(&tomb.key)? {
                Some((record, at)) if record.object().clock().descends(&tomb.clock) => {
                    sequence = at.max(sequence);
                }
                // Older, or damaged, so that nobody knows.
                _ => return Ok(Judged::Missed),
            }
        }
        Ok(Judged::Step(sequence))
    }

    /// Erases the listed records of a partition whose list is of this generation, or does nothing. Idempotent.
    ///
    /// Blocks: to be run on the engine pool.
    ///
    /// # Errors
    /// [`EraseError`]; what was erased before stays so.
    pub fn finish_reaping(&self, partition: u32, generation: u64) -> Result<Finish, EraseError> {
        let inner = &*self.inner;
        // Held so that nothing else becomes of the list meanwhile.
        let file = inner.reaper.file();
        let kept = file.get(partition);
        let Some(list) = kept
            .list
            .clone()
            .filter(|list| list.generation == generation)
        else {
            return Ok(Finish::default());
        };
        // No hint that was taken below it is left: one that was sent twice, and comes only now, must find that out.
        let kept = finished(&kept);
        inner.show_reaping(partition, &kept);
        let mut erased = 0;
        for tomb in &list.tombs {
            erased += usize::from(self.erase_tomb(tomb)?);
        }
        // Those that an earlier call has erased are in the log before this, too.
        let sequence = inner.log.last();
        inner.reaper.note_erased(partition, sequence);
        inner.after_change();
        drop(file);
        Ok(Finish { erased, sequence })
    }

    /// Drops, durably, the absent lists of these partitions that are of these generations, if all of them are erased durably. To
    /// be called once the log is durable to the sequence that [`Self::finish_reaping`] gave.
    ///
    /// # Errors
    /// [`SlotError`]: nobody knows what is on disk; the process has to end.
    pub fn end_reaping(&self, partitions: &[(u32, u64)]) -> Result<(), SlotError> {
        let inner = &*self.inner;
        let mut file = inner.reaper.file();
        let durable = inner.log.durable_now();
        let mut ended = Vec::new();
        for &(partition, generation) in partitions {
            let kept = file.get(partition);
            let erased_at = inner.reaper.erased_at(partition);
            if kept.list.is_some()
                && kept.generation == generation
                && erased_at.is_some_and(|sequence| sequence <= durable)
            {
                let kept = without_list(&finished(&kept));
                file.set(partition, kept.clone());
                ended.push((partition, kept));
            }
        }
        inner.write_reaping(&mut file)?;
        for (partition, kept) in ended {
            inner.show_reaping(partition, &kept);
        }
        Ok(())
    }

    /// Takes over, durably, generation and floor of another store, as far as they are higher; drops a list. For a partition of which
    /// nothing is here, or durably nothing of before the erasing, and for one that this store does not own.
    ///
    /// # Errors
    /// [`SlotError`]: nobody knows what is on disk; the process has to end.
    pub fn adopt_generation(
        &self,
        partition: u32,
        generation: u64,
        floor: u64,
    ) -> Result<(), SlotError> {
        self.change_kept(partition, |kept| {
            let generation = kept.generation.max(generation);
            Kept {
                generation,
                floor: kept.floor.max(floor).min(generation),
                ..without_list(kept)
            }
        })
    }

    /// Drops the absent list of a partition that is about to be erased.
    ///
    /// # Errors
    /// As [`Self::adopt_generation`].
    pub(in crate::store) fn drop_list(&self, partition: u32) -> Result<(), SlotError> {
        self.change_kept(partition, without_list)
    }

    fn change_kept(
        &self,
        partition: u32,
        change: impl FnOnce(&Kept) -> Kept,
    ) -> Result<(), SlotError> {
        let inner = &*self.inner;
        let mut file = inner.reaper.file();
        let kept = change(&self.known(&file, partition));
        if kept != file.get(partition) {
            inner.show_reaping(partition, &kept);
            file.set(partition, kept);
        }
        inner.write_reaping(&mut file)
    }

    /// What is kept of a partition, with the floor that is known by now: once known to be finished, a round stays so.
    fn known(&self, file: &File, partition: u32) -> Kept {
        let kept = file.get(partition);
        Kept {
            floor: kept.floor.max(self.floor(partition)),
            ..kept
        }
    }

    /// Erases a listed record, if it is still the listed one.
    fn erase_tomb(&self, tomb: &Tomb) -> Result<bool, EraseError> {
        for _ in 0..LOOKS_MAX {
            match self.settled(&tomb.key)? {
                Some((record, _)) if record.leaf() == tomb.leaf => {}
                _ => return Ok(false),
            }
            if self.erase_exactly(&tomb.key, tomb.leaf)? {
                return Ok(true);
            }
        }
        // Memory is so short that it is gone each time: as if there were no room.
        Err(StoreFull::Table.into())
    }

    /// What is stored for a key, through to the engine, with the log sequence that makes it durable; `None`: it is damaged.
    fn settled(&self, key: &Key) -> Result<Option<(Arc<Record>, u64)>, EngineError> {
        let inner = &*self.inner;
        let read = self.load(std::slice::from_ref(key))?.pop();
        let Some(Read::Found(record)) = read.filter(|_| !inner.is_quarantined(key)) else {
            return Ok(None);
        };
        let shard = inner.table.lock_key(key);
        let entry = shard.get(key);
        let now = entry.and_then(|entry| Some((Arc::clone(entry.slot.whole()?), entry.sequence)));
        // Gone already: then the engine holds it, durably, and what was read was there before.
        Ok(Some(now.unwrap_or((record, 0))))
    }
}

/// What is kept after a step.
fn advanced(before: &Kept, step: &Advance, sequence: u64) -> Kept {
    let (generation, floor) = (step.to, before.floor);
    let mut tombs = step.tombs.clone();
    tombs.sort_by(|one, other| one.key.cmp(&other.key));
    tombs.dedup_by(|one, other| one.key == other.key);
    let list = (!tombs.is_empty()).then(|| {
        Arc::new(Reaping {
            generation,
            floor,
            tombs,
        })
    });
    Kept {
        generation,
        floor,
        sequence,
        list,
    }
}

/// The same once the round is known to be finished.
fn finished(kept: &Kept) -> Kept {
    let floor = kept.generation;
    let list = kept.list.as_ref().map(|list| {
        Arc::new(Reaping {
            floor,
            ..Reaping::clone(list)
        })
    });
    Kept {
        floor,
        list,
        ..kept.clone()
    }
}

fn without_list(kept: &Kept) -> Kept {
    Kept {
        sequence: 0,
        list: None,
        ..kept.clone()
    }
}

/// Whether a list is no longer than one may be, and of tombstones.
fn fits(tombs: &[Tomb]) -> bool {
    tombs.len() <= REAPED_TOMBS_MAX
        && tombs.iter().map(Tomb::byte_len).sum::<usize>() <= REAPED_BYTES_MAX
        && tombs.iter().all(|tomb| tomb.leaf != NO_LEAF)
}
