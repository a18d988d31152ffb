//! What a round has not got through with, so that its marks are not lost.

use std::collections::BTreeSet;

use ringfort_ring::PartitionId;

use crate::marks::Marked;

/// What a round has not got through with.
pub(super) struct Left {
    marks: Marked,
    /// Partitions that are dealt with, well or not.
    pub(super) done: usize,
    /// Nothing has failed so far.
    pub(super) is_well: bool,
    /// Known to be the same by now.
    clean: BTreeSet<PartitionId>,
}

impl Left {
    pub(super) fn new(marks: Marked) -> Left {
        Left {
            marks,
            done: 0,
            is_well: true,
            clean: BTreeSet::new(),
        }
    }

    pub(super) fn are_clean(&mut self, partitions: &[PartitionId]) {
        self.clean.extend(partitions);
    }

    /// What is to be marked again.
    pub(super) fn again(&mut self) -> Option<Marked> {
        match std::mem::take(&mut self.marks) {
            Marked::Nothing => None,
            // The roots find the rest: all that is shared is due when a store comes up.
            Marked::All => (!self.is_well).then_some(Marked::All),
            Marked::Some(mut partitions) => {
                partitions.retain(|partition| !self.clean.contains(partition));
                Some(Marked::Some(partitions))
            }
        }
    }
}
