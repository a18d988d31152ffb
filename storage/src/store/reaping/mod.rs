//! Reaping, the part of one store: the *reap generation* g of each partition, and the *absent lists*. Keeps I4: a tombstone's record
//! goes only once nothing older than it can come back.
//!
//! # A round, as this store sees it
//!
//! 1. [`Store::confirm_reaping`]: are these objects exactly these tombstones here, durably? Changes nothing.
//! 2. [`Store::advance_reaping`]: g becomes g + 1. From then on nothing is taken that was read under g or below, and each listed
//!    tombstone is *absent*: it counts as nothing in digests, trees and pages, but stays, and still merges.
//! 3. [`Store::finish_reaping`], once no such object can come any more: the records go, through the log; and once that is durable
//!    ([`Store::end_reaping`]) the list goes, too.
//!
//! The *floor* is the highest generation whose round this store knows to be finished: every member was at it, and no hint
//! taken below it was left. An owner of which the generation is below anybody's floor has missed a round. A store that was given an
//! empty list does not raise its floor, since it does not hear the end of the round.

use std::sync::Arc;

use super::{EraseError, Store, StoreFull};
use crate::engine::EngineError;
use crate::key::Key;
use crate::twoslot::SlotError;
use crate::version::Clock;

/// Tombstones of one absent list, at most (I7).
pub const REAPED_TOMBS_MAX: usize = 512;

/// Bytes of one absent list, at most, as [`Tomb::byte_len`] counts them (I7): it goes into a message and into a file that is written
/// as a whole.
pub const REAPED_BYTES_MAX: usize = 64 << 10;

/// Absent lists of one store at which it confirms no more (I7): each is read through with every tree of its partition.
pub const REAPING_LISTS_MAX: usize = 64;

/// A key of which the object is exactly this tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tomb {
    /// The key.
    pub key: Key,
    /// The leaf of the object.
    pub leaf: u64,
    /// Its clock: an object whose clock descends from this one is past the tombstone.
    pub clock: Clock,
}

impl Tomb {
    /// Bytes that it takes in a message or on disk, near enough to judge limits by.
    pub fn byte_len(&self) -> usize {
        const FIXED: usize = 40;
        FIXED + self.key.framed().len() + 16 * self.clock.len()
    }
}

/// The absent list of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reaping {
    /// The partition's reap generation.
    pub generation: u64,
    /// The floor.
    pub floor: u64,
    /// The tombstones that are absent, ascending by key; never none.
    pub tombs: Vec<Tomb>,
}

/// How long a dead object stays before it is offered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReapWindow {
    /// For so long after a delete the values that it replaced can be undeleted.
    pub soft_delete_ms: u64,
    /// For so long after that, or after it expired.
    pub grace_ms: u64,
}

/// What a walk found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reapable {
    /// Objects of which every sibling is dead and past the window, ascending by key.
    pub tombs: Vec<Tomb>,
    /// When another walk may find something more; `None`: not before something is written.
    pub next_due_ms: Option<u64>,
}

/// What a store confirms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// Of each tombstone that was asked for, in order: the object here is exactly it.
    pub exact: Vec<bool>,
    /// The log sequence to wait for before this is told; 0 is durable.
    pub sequence: u64,
}

/// Why a store confirms nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfirmRefused {
    /// It may lack something of the partition.
    #[error("the partition is not synced here")]
    NotSynced,
    /// It is at another generation.
    #[error("the partition is at reap generation {generation} here, its floor is {floor}")]
    Generation {
        /// The one that it is at.
        generation: u64,
        /// Its floor.
        floor: u64,
    },
    /// A round is not finished.
    #[error("the round to reap generation {} is not finished here", .0.generation)]
    Reaping(Arc<Reaping>),
    /// It has as many absent lists as it may ([`REAPING_LISTS_MAX`]), or more was asked for than one list may have.
    #[error("there are more absent lists, or longer ones, than may be")]
    TooMany,
    /// The engine is not to be used again, the process has to end.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The step of one partition to another generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// The partition.
    pub partition: u32,
    /// The generation that it shall be at.
    pub to: u64,
    /// What is absent then, at an owner; none: this store is not an owner.
    pub tombs: Vec<Tomb>,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advanced {
    /// The partition is at this generation, or at a higher one, durably once the log is durable to `sequence` (0: it is).
    Done {
        /// The log sequence to wait for before this is told.
        sequence: u64,
    },
    /// This owner has missed a round, or something older than a listed tombstone is here: nothing changed. The partition is to be
    /// erased, durably, then [`Store::adopt_generation`], then to be acquired anew.
    Missed,
}

/// Why no step was made.
#[derive(Debug, thiserror::Error)]
pub enum AdvanceError {
    /// There are more absent lists, or longer ones, than may be. Nothing changed.
    #[error("there are more absent lists, or longer ones, than may be")]
    TooMany,
    /// Nobody knows what is on disk; the process has to end.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The engine is not to be used again, the process has to end.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What finishing a round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Finish {
    /// Records erased by this call.
    pub erased: usize,
    /// The log sequence at which all of the list is gone for good; 0: there is no list.
    pub sequence: u64,
}

/// Why a copy was not merged. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MergeRefused {
    /// The store takes nothing now, or not this object.
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

impl Store {
    /// The reap generation of a partition. Takes no lock.
    pub fn generation(&self, _partition: u32) -> u64 {
        0
    }

    /// The highest generation whose round is known to be finished. Takes no lock.
    pub fn floor(&self, _partition: u32) -> u64 {
        0
    }

    /// The partitions of which the generation is not 0, ascending: with it and the floor.
    pub fn generations(&self) -> Vec<(u32, u64, u64)> {
        Vec::new()
    }

    /// The absent list of a partition.
    pub fn reaping(&self, _partition: u32) -> Option<Arc<Reaping>> {
        None
    }

    /// The partitions with an absent list, ascending.
    pub fn partitions_reaping(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Whether an object with this leaf counts as nothing. Cheap while its partition has no list.
    pub fn is_absent(&self, _key: &Key, _leaf: u64) -> bool {
        false
    }

    /// Dead objects of a partition that are past the window at `now_ms`: at most `max` of them, and no more once they have `bytes_max`
    /// bytes.
    ///
    /// Blocks: to be run on the engine pool.
    ///
    /// # Errors
    /// [`EngineError`]: the engine is not to be used again, the process has to end.
    pub fn reapable(
        &self,
        _partition: u32,
        _now_ms: u64,
        _window: ReapWindow,
        _max: usize,
        _bytes_max: usize,
    ) -> Result<Reapable, EngineError> {
        Ok(Reapable::default())
    }

    /// When [`Self::reapable`] may find something; `Some(0)`: not known yet. Takes no lock.
    pub fn next_reapable_ms(&self, _partition: u32) -> Option<u64> {
        None
    }

    /// Tells which of these tombstones the objects here exactly are. To be told to others once the log is durable to the sequence.
    ///
    /// Blocks: to be run on the engine pool.
    ///
    /// # Errors
    /// [`ConfirmRefused`].
    pub fn confirm_reaping(
        &self,
        _partition: u32,
        _generation: u64,
        tombs: &[Tomb],
    ) -> Result<Confirmed, ConfirmRefused> {
        Ok(Confirmed {
            exact: vec![false; tombs.len()],
            sequence: 0,
        })
    }

    /// Makes these steps, in one durable write.
    ///
    /// Blocks: to be run on the engine pool.
    ///
    /// # Errors
    /// [`AdvanceError`].
    pub fn advance_reaping(&self, steps: &[Advance]) -> Result<Vec<Advanced>, AdvanceError> {
        Ok(vec![Advanced::Done { sequence: 0 }; steps.len()])
    }

    /// Erases the listed records of a partition whose list is of this generation, or does nothing. Idempotent.
    ///
    /// Blocks: to be run on the engine pool.
    ///
    /// # Errors
    /// [`EraseError`]; what was erased before stays so.
    pub fn finish_reaping(&self, _partition: u32, _generation: u64) -> Result<Finish, EraseError> {
        Ok(Finish::default())
    }

    /// Drops, durably, the absent lists of these partitions that are of these generations. To be called once the log is durable to
    /// the sequence that [`Self::finish_reaping`] gave.
    ///
    /// # Errors
    /// [`SlotError`]: nobody knows what is on disk; the process has to end.
    pub fn end_reaping(&self, _partitions: &[(u32, u64)]) -> Result<(), SlotError> {
        Ok(())
    }

    /// Takes over, durably, the generation of another store, if it is higher, and its floor; drops a list. For a partition of
    /// which nothing is here, or durably nothing of before the erasing, and for one that this store does not own.
    ///
    /// # Errors
    /// [`SlotError`]: nobody knows what is on disk; the process has to end.
    pub fn adopt_generation(
        &self,
        _partition: u32,
        _generation: u64,
        _floor: u64,
    ) -> Result<(), SlotError> {
        Ok(())
    }
}
