//! Partitions of which this store has missed a round of reaping: what it has of them may be older than a delete that is forgotten
//! elsewhere by now.
//!
//! Keeps I4: from the moment it is heard nothing of such a partition is taken, answered, coordinated; the worker that carries
//! out changes of layouts erases it, and receives it again. That a store was away is no reason, since rounds wait for it: only
//! a directory that was put back or copied, or a store that is new to the partition, has missed one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ringfort_ring::PartitionId;
use ringfort_storage::Store;
use tokio::sync::Notify;

use crate::view::{View, Views};

/// What others are at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct At {
    /// The reap generation.
    pub generation: u64,
    /// The highest generation whose round is finished.
    pub floor: u64,
}

/// See the module. At most one entry a partition (I7).
pub struct Missed {
    views: Views,
    store: Store,
    noted: Mutex<BTreeMap<PartitionId, At>>,
    wake: Notify,
}

impl Missed {
    /// None yet.
    pub fn new(views: Views, store: Store) -> Missed {
        Missed {
            views,
            store,
            noted: Mutex::default(),
            wake: Notify::new(),
        }
    }

    fn noted(&self) -> MutexGuard<'_, BTreeMap<PartitionId, At>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another store is at this generation, and knows the rounds up to the floor to be finished. Gives whether this one has missed
    /// one of them. Not to be called where work is done by a view: this waits for its end.
    pub fn heard(&self, partition: PartitionId, generation: u64, floor: u64) -> bool {
        let is_missed = self.store.generation(partition.0) < floor;
        if is_missed {
            self.note(partition, At { generation, floor });
        }
        is_missed
    }

    /// This store has missed a round, and is to come to this generation. As [`Self::heard`].
    pub fn note(&self, partition: PartitionId, at: At) {
        {
            let mut noted = self.noted();
            let known = noted.entry(partition).or_insert_with(|| {
                tracing::warn!(
                    partition = partition.0,
                    generation = at.generation,
                    "a round of reaping was missed here: the partition is received anew"
                );
                At::default()
            });
            known.generation = known.generation.max(at.generation);
            known.floor = known.floor.max(at.floor);
        }
        self.tell();
        self.wake.notify_one();
    }

    /// The first that can be begun anew. One that is owned here and of which no other copy counts cannot: what is erased could be
    /// received from nobody. So where all owners were put back from older images nothing more is lost; nothing of it is served either.
    pub fn first(&self, view: &View) -> Option<(PartitionId, At)> {
        let counts_elsewhere = |partition| {
            let owners = view.owners_everywhere(partition);
            let mut others = owners.iter().filter(|store| **store != view.my_store());
            others.any(|store| view.counts(*store, partition))
        };
        let noted = self.noted();
        let mut all = noted.iter().map(|(partition, at)| (*partition, *at));
        all.find(|(partition, _)| !view.owns(*partition) || counts_elsewhere(*partition))
    }

    /// It is erased, and at that generation.
    pub fn mended(&self, partition: PartitionId, at: At) {
        {
            let mut noted = self.noted();
            // Of a still higher one it was heard meanwhile.
            if noted.get(&partition) == Some(&at) {
                noted.remove(&partition);
            }
        }
        self.tell();
    }

    fn tell(&self) {
        self.views.update(|view| {
            let missed: BTreeSet<PartitionId> = self.noted().keys().copied().collect();
            view.with_missed(&missed)
                .inspect_err(|error| {
                    tracing::error!(%error, "a view that was fine is none any more: a bug");
                })
                .ok()
        });
    }

    /// Completes when there may be one.
    pub async fn noted_some(&self) {
        self.wake.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Cluster;

    /// I2: a copy is not erased that could be received from nobody.
    #[tokio::test]
    async fn nothing_is_begun_anew_while_no_other_copy_counts() {
        let cluster = Cluster::of_three().await;
        let [node, others @ ..] = &cluster.nodes[..] else {
            panic!("there are three");
        };
        let missed = Missed::new(node.views.clone(), node.store.clone());
        let (partition, generation, floor) = (PartitionId(3), 2, 1);
        assert!(missed.heard(partition, generation, floor));
        let at = At { generation, floor };
        assert_eq!(missed.first(&node.views.current()), Some((partition, at)));
        let names: Vec<_> = others.iter().map(|other| &other.name).collect();
        node.mark_unsynced(&names[..1]);
        assert_eq!(missed.first(&node.views.current()), Some((partition, at)));
        node.mark_unsynced(&names);
        assert_eq!(missed.first(&node.views.current()), None);
        assert!(
            node.views.current().has_missed(partition),
            "nor is it served"
        );
        // Another one counts again.
        node.mark_unsynced(&[]);
        assert_eq!(missed.first(&node.views.current()), Some((partition, at)));
    }
}
