//! The partitions of which this node knows that a store lacks something: exchanged with it first, as soon as it is up.
//!
//! A hint to the exchange and nothing more: what is not marked is found all the same, by the roots. Keeps I7: past a limit a
//! store is marked as a whole, so that nothing is forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ringfort_ring::{PartitionId, StoreId};

/// Pairs of store and partition that are marked one by one, at most; past it a whole store is.
const MARKS_MAX: usize = 65_536;

/// What is marked of one store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Marked {
    /// Nothing.
    #[default]
    Nothing,
    /// These partitions.
    Some(BTreeSet<PartitionId>),
    /// Whatever it owns: more was marked than is kept.
    All,
}

impl Marked {
    /// Whether this partition is.
    pub fn has(&self, partition: PartitionId) -> bool {
        match self {
            Marked::Nothing => false,
            Marked::Some(partitions) => partitions.contains(&partition),
            Marked::All => true,
        }
    }

    fn len(&self) -> usize {
        match self {
            Marked::Some(partitions) => partitions.len(),
            Marked::Nothing | Marked::All => 0,
        }
    }
}

/// The marks of one node. Kept in memory alone: after a start everything is compared anyway.
#[derive(Debug, Default)]
pub struct Marks {
    stores: Mutex<BTreeMap<StoreId, Marked>>,
}

impl Marks {
    fn stores(&self) -> MutexGuard<'_, BTreeMap<StoreId, Marked>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks pairs of a store and a partition of which it lacks something, or may lack it. One lock, however many.
    pub fn mark(&self, pairs: impl IntoIterator<Item = (StoreId, PartitionId)>) {
        let mut stores = self.stores();
        let mut count: usize = stores.values().map(Marked::len).sum();
        for (store, partition) in pairs {
            let marked = stores.entry(store).or_default();
            match marked {
                Marked::All => {}
                Marked::Some(partitions) if partitions.contains(&partition) => {}
                _ if count >= MARKS_MAX => {
                    count -= marked.len();
                    *marked = Marked::All;
                }
                Marked::Some(partitions) => {
                    partitions.insert(partition);
                    count += 1;
                }
                Marked::Nothing => {
                    *marked = Marked::Some([partition].into());
                    count += 1;
                }
            }
        }
    }

    /// Marks whatever a store owns.
    pub fn mark_all(&self, store: StoreId) {
        self.stores().insert(store, Marked::All);
    }

    /// Takes out what is marked of a store: whoever does not get through with it marks it again.
    pub fn take(&self, store: StoreId) -> Marked {
        self.stores().remove(&store).unwrap_or_default()
    }

    /// What is marked of every store.
    pub fn all(&self) -> BTreeMap<StoreId, Marked> {
        self.stores().clone()
    }

    /// Forgets the stores that take part no more.
    pub fn retain(&self, takes_part: impl Fn(StoreId) -> bool) {
        self.stores().retain(|store, _| takes_part(*store));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_taken_once_and_past_the_limit_the_store_is_marked() {
        let marks = Marks::default();
        let (one, other) = (StoreId(1), StoreId(2));
        marks.mark([
            (one, PartitionId(3)),
            (one, PartitionId(4)),
            (one, PartitionId(3)),
        ]);
        let taken = marks.take(one);
        assert!(
            taken.has(PartitionId(3)) && taken.has(PartitionId(4)) && !taken.has(PartitionId(5))
        );
        assert_eq!(marks.take(one), Marked::Nothing);
        marks.mark((0..MARKS_MAX as u32).map(|p| (one, PartitionId(p))));
        marks.mark([(other, PartitionId(1))]);
        assert_eq!(marks.take(other), Marked::All, "nothing is forgotten");
        marks.mark([(one, PartitionId(MARKS_MAX as u32))]);
        assert_eq!(marks.take(one), Marked::All);
        marks.mark([(one, PartitionId(1))]);
        marks.retain(|store| store != one);
        assert_eq!(marks.all(), BTreeMap::new());
    }
}
