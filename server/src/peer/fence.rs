//! What every message between nodes carries, and what is learned from it.
//!
//! Keeps I9: a foreign cluster is refused, a stale epoch is told the newer one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use ringfort_proto::{Failure, Reason, peer};
use ringfort_ring::{Epoch, StoreId};
use ringfort_storage::mutants::{Mutant, is_planted};
use tokio::sync::watch;

use crate::view::Views;

/// The highest durable log sequence heard of each store, from the fences of its messages.
#[derive(Debug, Default)]
pub struct Heard(Mutex<BTreeMap<StoreId, u64>>);

/// Stores that [`Heard`] remembers, at most: members come and go, and each is 16 bytes.
const HEARD_STORES_MAX: usize = 65_536;

impl Heard {
    /// Notes that `store` has said `sequence` to be durable. Only grows.
    pub fn note(&self, store: StoreId, sequence: u64) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = heard.get_mut(&store) {
            *known = sequence.max(*known);
        } else if heard.len() < HEARD_STORES_MAX {
            heard.insert(store, sequence);
        }
    }

    /// What was heard of `store`; 0 if nothing.
    pub fn of(&self, store: StoreId) -> u64 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&store)
            .copied()
            .unwrap_or(0)
    }

    /// All that was heard, for the checkpoint.
    pub fn all(&self) -> BTreeMap<StoreId, u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The highest epoch heard, and of whom: what is not known here yet is to be fetched there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    /// The epoch.
    pub epoch: Epoch,
    /// Whose fence said so.
    pub store: StoreId,
}

/// How the words of a refusal begin that goes to a node of another cluster; its own cluster's id follows.
pub const OTHER_CLUSTER: &str = "this node belongs to cluster";

/// How a fence compares with this node's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fenced {
    /// Same cluster, and an epoch under which some layout that lives was known. Whether a *write* is too old the store
    /// judges, by its own promise.
    Current,
    /// Same cluster, and no layout that lives was known to the sender, or its store takes no part in it (any more, or yet):
    /// mine, the newer epoch, is to be told.
    Stale(Epoch),
    /// Another cluster: refuse.
    Foreign,
}

/// Writes this node's fences and judges those of others.
#[derive(Clone)]
pub struct Fences {
    views: Views,
    store_id: StoreId,
    durable: watch::Receiver<u64>,
    ahead: Arc<watch::Sender<Option<Ahead>>>,
}

impl Fences {
    /// The fences of the node that holds the store `store_id`, whose log is durable up to `durable`.
    pub fn new(views: Views, store_id: StoreId, durable: watch::Receiver<u64>) -> Self {
        Fences {
            views,
            store_id,
            durable,
            ahead: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Changes whenever a fence has a higher epoch than all before.
    pub fn ahead(&self) -> watch::Receiver<Option<Ahead>> {
        self.ahead.subscribe()
    }

    /// The fence of a message that is sent now.
    pub fn fence(&self) -> peer::Fence {
        let view = self.views.current();
        peer::Fence {
            cluster_id: view.cluster().0,
            epoch: view.epoch().0,
            store_id: self.store_id.0,
            durable_sequence: *self.durable.borrow(),
        }
    }

    /// Judges the fence of a message that came, and notes an epoch that is news.
    pub fn judge(&self, fence: &peer::Fence) -> Fenced {
        let view = self.views.current();
        let foreign = fence.cluster_id != view.cluster().0;
        // What a newer decree says of the sender is not known here yet.
        let outside =
            fence.epoch <= view.epoch().0 && view.present(StoreId(fence.store_id)).is_none();
        let stale = fence.epoch < view.oldest_epoch().0 || outside;
        if !foreign && fence.epoch > view.epoch().0 {
            self.note_ahead(Ahead {
                epoch: Epoch(fence.epoch),
                store: StoreId(fence.store_id),
            });
        }
        if foreign && !is_planted(Mutant::AcceptForeign) {
            Fenced::Foreign
        } else if stale && !is_planted(Mutant::AcceptStaleEpoch) {
            Fenced::Stale(view.epoch())
        } else {
            Fenced::Current
        }
    }

    fn note_ahead(&self, heard: Ahead) {
        self.ahead.send_if_modified(|known| {
            let news = known.is_none_or(|known| known.epoch < heard.epoch);
            if news {
                *known = Some(heard);
            }
            news
        });
    }

    /// The refusal of a message from another cluster.
    pub fn wrong_cluster(&self, fence: &peer::Fence) -> Failure {
        let mine = self.views.current().cluster();
        Failure::new(Reason::WrongCluster, format!("{OTHER_CLUSTER} {mine}"))
            .with("cluster", mine)
            .with("theirs", format!("{:016x}", fence.cluster_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_only_grows() {
        let heard = Heard::default();
        assert_eq!(heard.of(StoreId(1)), 0);
        for sequence in [5, 3, 9, 7] {
            heard.note(StoreId(1), sequence);
        }
        assert_eq!((heard.of(StoreId(1)), heard.all().len()), (9, 1));
    }
}
