//! The reap generations that others are at, as they say when they are asked: at a start, and when a layout gives this store partitions.
//!
//! Keeps I4: a store that has missed a round erases the partition before it takes or answers anything of it, and no hint of before
//! that round is delivered any more.

use std::collections::BTreeMap;

use ringfort_proto::peer;
use ringfort_ring::PartitionId;
use ringfort_storage::{
    Key, Store,
    store::{Hint, StoreFull},
    twoslot::SlotError,
};

use super::ask::Answers;
use crate::{
    limits::{DELIVERIES_MAX, DELIVERY_BYTES_MAX},
    reaper::{At, Missed},
    view::View,
};

/// A store's generations as they travel.
pub fn generations_to_wire(store: &Store) -> peer::Generations {
    let mut wire = peer::Generations::default();
    for (partition, generation, floor) in store.generations() {
        wire.partitions.push(partition);
        wire.generations.push(generation);
        wire.floors.push(floor);
    }
    wire
}

/// By partition the highest generation, and the highest floor, of those that answered.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Generations(BTreeMap<PartitionId, At>);

impl Generations {
    /// What was answered.
    pub fn of(answers: &Answers) -> Generations {
        let mut highest = BTreeMap::<PartitionId, At>::new();
        let told = answers.values().flatten();
        for told in told.filter_map(|answer| answer.generations.as_ref()) {
            let numbers = told.generations.iter().zip(&told.floors);
            for (partition, (generation, floor)) in told.partitions.iter().zip(numbers) {
                let at = highest.entry(PartitionId(*partition)).or_default();
                at.generation = at.generation.max(*generation);
                at.floor = at.floor.max(*floor);
            }
        }
        Generations(highest)
    }

    /// At a start, before anything is served: what this store owns and has missed a round of is noted; at what it does not own it
    /// comes to the others' generations. Blocks.
    ///
    /// # Errors
    /// Nobody knows what is on the disk.
    pub fn take_over(&self, store: &Store, view: &View, missed: &Missed) -> Result<(), SlotError> {
        let partitions = view.layout().partitions();
        let known = self.0.iter().filter(|(p, _)| p.0 < partitions);
        for (partition, at) in known {
            if store.generation(partition.0) < at.floor {
                self.drop_hints(store, *partition, *at);
            }
            if view.owns(*partition) {
                missed.heard(*partition, at.generation, at.floor);
            } else if store.generation(partition.0) < at.generation {
                store.adopt_generation(partition.0, at.generation, at.floor)?;
            }
        }
        Ok(())
    }

    /// Comes to the others' generations at these partitions, of which nothing is here. Blocks.
    ///
    /// # Errors
    /// Nobody knows what is on the disk.
    pub fn adopt(&self, store: &Store, partitions: &[PartitionId]) -> Result<(), SlotError> {
        for partition in partitions {
            if let Some(at) = self.0.get(partition)
                && store.generation(partition.0) < at.generation
            {
                store.adopt_generation(partition.0, at.generation, at.floor)?;
            }
        }
        Ok(())
    }

    /// Hints of before a round that is finished are of a directory that was put back: all that stays of them was delivered.
    fn drop_hints(&self, store: &Store, partition: PartitionId, at: At) {
        let mut after: Option<(u64, Key)> = None;
        loop {
            let page = store.hints_after(after.as_ref(), DELIVERIES_MAX, DELIVERY_BYTES_MAX);
            let Some(last) = page.last() else { return };
            after = Some((last.taken_ms, last.key.clone()));
            let is_old = |hint: &&Hint| {
                let of = store.partition_of(hint.key.token());
                of == partition.0 && hint.generation < at.floor
            };
            for hint in page.iter().filter(is_old) {
                let gone: Result<bool, StoreFull> = store.forget_hint(hint);
                if let Err(full) = gone {
                    // Owners refuse it, and then it goes.
                    tracing::debug!(%full, "an old hint stays for now");
                }
            }
        }
    }
}
