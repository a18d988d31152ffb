//! What the worker does to this node's own store: erases, marks, merges.
//!
//! Keeps I1: what a mark or a tracker rests on is durable before it is said.

use std::{sync::Arc, time::Duration};

use ringfort_ring::PartitionId;
use ringfort_storage::{
    Key, Store,
    store::{EraseError, Erased, StoreFull},
    version::{ActorId, Object},
};
use tokio::sync::oneshot;

use super::{End, until_durable};
use crate::{
    coordinator::Coordinator,
    pool::EnginePool,
    view::{Views, own_unsynced},
};

/// Keys that one page of an erasing takes that writes wait for.
const ERASE_KEYS: usize = 256;
/// The same if none do: each key costs the log and the drain some work, too.
const ERASE_KEYS_AT_LEISURE: usize = 64;
/// Between two pages of an erasing, at least.
const ERASE_REST: Duration = Duration::from_millis(2);
/// When log, table, disk or engine pool have no room, it is tried again after this.
const FULL_REST: Duration = Duration::from_millis(20);

/// How fast partitions are erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// Writes wait that need this store as an owner.
    Needed,
    /// None do, and it gives way to clients.
    AtLeisure,
}

impl Haste {
    fn keys(self) -> usize {
        match self {
            Haste::Needed => ERASE_KEYS,
            Haste::AtLeisure => ERASE_KEYS_AT_LEISURE,
        }
    }
}

/// This node's store, as the worker uses it.
pub struct Local {
    store: Store,
    pool: Arc<dyn EnginePool>,
    views: Views,
    /// Whose clients an erasing gives way to.
    coordinator: Arc<Coordinator>,
}

impl Local {
    pub fn new(
        store: &Store,
        pool: &Arc<dyn EnginePool>,
        views: &Views,
        coordinator: &Arc<Coordinator>,
    ) -> Local {
        Local {
            coordinator: Arc::clone(coordinator),
            store: store.clone(),
            pool: Arc::clone(pool),
            views: views.clone(),
        }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Does what blocks on the engine pool.
    pub async fn block<T: Send + 'static>(
        &self,
        job: impl Fn(&Store) -> T + Send + Sync + 'static,
    ) -> T {
        let job = Arc::new(job);
        loop {
            let (done, result) = oneshot::channel();
            let (job, store) = (Arc::clone(&job), self.store.clone());
            let run = move || drop(done.send(job(&store)));
            let submitted = self.pool.submit(Box::new(run));
            if submitted.is_ok()
                && let Ok(result) = result.await
            {
                return result;
            }
            tokio::time::sleep(FULL_REST).await;
        }
    }

    /// Says durably of these partitions that they are not synced, and lets this node's view know.
    pub async fn mark_unsynced(&self, partitions: &[PartitionId]) -> Result<(), End> {
        if partitions.is_empty() {
            return Ok(());
        }
        let marked: Vec<u32> = partitions.iter().map(|partition| partition.0).collect();
        let mark = move |store: &Store| store.set_all_synced(&marked, false);
        let marked = self.block(mark).await;
        marked.map_err(|error| End::Broken(error.to_string()))?;
        self.tell_view();
        Ok(())
    }

    /// Says durably of these partitions that they are synced, see [`Store::vouch`]; gives whether it was said.
    pub async fn vouch(&self, partitions: &[PartitionId], actor: ActorId) -> Result<bool, End> {
        let marked: Vec<u32> = partitions.iter().map(|partition| partition.0).collect();
        let vouch = move |store: &Store| store.vouch(&marked, actor);
        let vouched = self.block(vouch).await;
        let vouched = vouched.map_err(|error| End::Broken(error.to_string()))?;
        self.tell_view();
        Ok(vouched)
    }

    fn tell_view(&self) {
        self.views.set_own_unsynced(|| own_unsynced(&self.store));
    }

    /// Erases partitions, durably; false: not all, because it is no longer to be done.
    pub async fn erase(
        &self,
        partitions: &[PartitionId],
        haste: impl Fn() -> Haste,
        still: impl Fn() -> bool,
    ) -> Result<bool, End> {
        let ids: Vec<u32> = partitions.iter().map(|partition| partition.0).collect();
        let held = move |store: &Store| {
            let held = ids.iter().filter(|partition| !store.is_empty(**partition));
            held.copied().collect::<Vec<u32>>()
        };
        let held = self.block(held).await;
        let (mut keys, mut last) = (0, 0);
        for partition in &held {
            let mut after: Option<Key> = None;
            loop {
                if !still() {
                    return Ok(false);
                }
                let haste = haste();
                let clock = &self.coordinator.parts().clock;
                let began = clock.now();
                let page = self
                    .erase_page(*partition, after.clone(), haste.keys())
                    .await;
                let rest = match haste {
                    Haste::Needed => ERASE_REST,
                    Haste::AtLeisure => self.coordinator.beside().rest(clock.now() - began),
                };
                keys += page.keys;
                last = page.sequence.max(last);
                after = page.next;
                tokio::time::sleep(rest.max(ERASE_REST)).await;
                if after.is_none() {
                    break;
                }
            }
        }
        if keys > 0 {
            tracing::info!(partitions = held.len(), keys, "erased");
        }
        until_durable(self.store.durable(), last).await;
        Ok(true)
    }

    async fn erase_page(&self, partition: u32, after: Option<Key>, keys: usize) -> Erased {
        loop {
            let after = after.clone();
            let page = move |store: &Store| store.erase_page(partition, after.as_ref(), keys);
            match self.block(page).await {
                Ok(page) => return page,
                Err(EraseError::Full(full)) => tracing::debug!(%full, "erasing waits"),
                // The store says so itself, and the node ends.
                Err(EraseError::Engine(error)) => {
                    tracing::error!(%error, "the engine failed while erasing");
                    std::future::pending::<()>().await;
                }
            }
            tokio::time::sleep(FULL_REST).await;
        }
    }

    /// Ends the quarantine of a partition's keys, see [`Store::settle`]. Gives the log sequence that makes it durable.
    pub async fn settle(&self, partition: PartitionId) -> u64 {
        loop {
            match self.block(move |store| store.settle(partition.0)).await {
                Ok(sequence) => return sequence,
                Err(EraseError::Full(full)) => tracing::debug!(%full, "a repair waits"),
                // The store says so itself, and the node ends.
                Err(EraseError::Engine(error)) => {
                    tracing::error!(%error, "the engine failed while repairing");
                    std::future::pending::<()>().await;
                }
            }
            tokio::time::sleep(FULL_REST).await;
        }
    }

    /// Merges a copy that was received; waits for room. Gives the log sequence that makes it durable.
    ///
    /// # Errors
    /// The object is larger than any may be.
    pub async fn merge(&self, key: &Key, object: Object) -> Result<u64, StoreFull> {
        loop {
            match self.store.merge(key, object.clone()) {
                Ok(sequence) => return Ok(sequence),
                Err(too_large @ StoreFull::Object { .. }) => return Err(too_large),
                Err(full) => tracing::debug!(%full, "a transfer waits"),
            }
            tokio::time::sleep(FULL_REST).await;
        }
    }
}
