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

mod due;
mod file;
mod rounds;
mod state;
mod types;

use std::sync::Arc;

use super::Store;
use crate::key::Key;

pub(super) use state::Reaper;
pub use types::{
    Advance, AdvanceError, Advanced, ConfirmRefused, Confirmed, Finish, MergeRefused,
    REAPED_BYTES_MAX, REAPED_TOMBS_MAX, REAPING_LISTS_MAX, ReapWindow, Reapable, Reaping, Tomb,
};

impl Store {
    /// The reap generation of a partition. Takes no lock.
    ///
    /// # Panics
    /// If there is no such partition; so for all that take one.
    pub fn generation(&self, partition: u32) -> u64 {
        self.inner.reaper.generation(partition)
    }

    /// The highest generation whose round is known to be finished. Takes no lock.
    pub fn floor(&self, partition: u32) -> u64 {
        self.inner.reaper.floor(partition)
    }

    /// The partitions of which the generation is not 0, ascending: with it and the floor.
    pub fn generations(&self) -> Vec<(u32, u64, u64)> {
        let all = (0..self.inner.partitions).map(|p| (p, self.generation(p), self.floor(p)));
        all.filter(|(_, generation, _)| *generation > 0).collect()
    }

    /// The absent list of a partition.
    pub fn reaping(&self, partition: u32) -> Option<Arc<Reaping>> {
        self.inner.reaper.list(partition)
    }

    /// The partitions with an absent list, ascending.
    pub fn partitions_reaping(&self) -> Vec<u32> {
        self.inner.reaper.listed()
    }

    /// Whether an object with this leaf counts as nothing. Cheap while its partition has no list.
    pub fn is_absent(&self, key: &Key, leaf: u64) -> bool {
        self.inner.is_absent(key, leaf)
    }
}
