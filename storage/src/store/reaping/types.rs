//! What is asked and answered about reaping, and its limits.

use std::sync::Arc;

use crate::engine::EngineError;
use crate::key::Key;
use crate::store::StoreFull;
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
    /// When another walk may find something: at once, if this one did; `None`: not before something is written.
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
    /// erased, durably, then [`Store::adopt_generation`](crate::Store::adopt_generation), then to be acquired anew.
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
