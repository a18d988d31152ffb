//! Asks the members now and then: who is there, and which of their copies count toward R.
//!
//! Keeps I6: what is heard changes routing only, never placement.

use std::{sync::Arc, time::Duration};

use prometheus_client::registry::Unit;
use ringfort_storage::{Store, disk::Disk};

use super::{
    ask::{Answers, Asker},
    start,
};
use crate::{
    coordinator::Coordinator,
    council::Council,
    gossip::Routes,
    metrics::{Gauge, Probe},
    peer::{Heard, Links},
    view::{Unsynced, Views, own_unsynced},
};

/// Pause between two rounds; to it comes a jitter, the same on one node every time.
const PERIOD: Duration = Duration::from_secs(1);
/// The jitter is less than this.
const JITTER_MS: u64 = 250;

/// What the refresh needs.
pub(super) struct Parts {
    pub learner: Learner,
    pub heard: Arc<Heard>,
    pub coordinator: Arc<Coordinator>,
    pub disk: Arc<dyn Disk>,
    pub floors: Floors,
    /// Any number; fixes the jitter.
    pub jitter: u64,
}

/// Asks the members which of their copies count toward R.
#[derive(Clone)]
pub(super) struct Learner {
    pub asker: Arc<Asker>,
    pub views: Views,
    pub store: Store,
    pub timeout: Duration,
}

/// Free space in bytes, judged before the disk is full.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floors {
    /// Below it puts of clients are refused; deletes, repair and drains go on.
    pub puts: u64,
    /// Below it nothing is stored any more and no drain begins.
    pub all: u64,
}

/// What free space was last judged to be too little for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct TooLittle {
    for_puts: bool,
    for_all: bool,
}

/// Once it was too little, free space must exceed the floor by this share of it, so that the verdict does not flap.
const FLOOR_MARGIN: u64 = 4;

/// Whether free space is below a floor, from it and the verdict before.
fn is_full(free_bytes: u64, floor: u64, was_full: bool) -> bool {
    let floor = if was_full {
        floor + floor / FLOOR_MARGIN
    } else {
        floor
    };
    free_bytes < floor
}

/// Refreshes for ever.
pub(super) async fn run(parts: Parts) {
    let pause = PERIOD + Duration::from_millis(parts.jitter % JITTER_MS);
    let mut too_little = TooLittle::default();
    loop {
        watch_space(&parts, &mut too_little);
        tokio::time::sleep(pause).await;
        parts.learner.learn().await;
        for (store_id, sequence) in parts.heard.all() {
            parts.learner.store.hear(store_id.0, sequence);
        }
    }
}

impl Learner {
    /// Asks once, and lets this node's view know.
    pub async fn learn(&self) {
        let answers = self.asker.ask(self.timeout).await;
        let view = self.views.current();
        let mut unsynced = start::unsynced(view.my_store(), &self.store, &answers);
        let mut changed = false;
        for member in view.members() {
            // Of one that is silent the last word stands.
            let known = view
                .unsynced_of(member.store_id)
                .cloned()
                .unwrap_or_default();
            let now = unsynced
                .entry(member.store_id)
                .or_insert_with(|| known.clone());
            changed |= *now != known;
        }
        if changed {
            replace(&self.views, &self.store, unsynced);
        }
    }
}

/// Acts before the disk is full.
fn watch_space(parts: &Parts, last: &mut TooLittle) {
    match parts.disk.space() {
        Ok(space) => {
            let now = TooLittle {
                for_puts: is_full(space.free_bytes, parts.floors.puts, last.for_puts),
                for_all: is_full(space.free_bytes, parts.floors.all, last.for_all),
            };
            if now != *last {
                tracing::warn!(free_bytes = space.free_bytes, too_little = ?now, "free space");
            }
            *last = now;
            parts.coordinator.set_disk_full(now.for_puts);
            parts.learner.store.set_out_of_space(now.for_all);
        }
        Err(error) => tracing::warn!(%error, "free space is unknown"),
    }
}

fn replace(views: &Views, store: &Store, mut unsynced: Unsynced) {
    // The layout may have been amended since: it is the present one that stays.
    views.update(|view| {
        // This node's own word is read anew: it may have changed since.
        unsynced.insert(view.my_store(), own_unsynced(store));
        view.with_unsynced(&unsynced)
            .inspect_err(|error| {
                tracing::error!(%error, "a view that was fine is none any more: a bug");
            })
            .ok()
    });
}

/// At the start: takes over the newest decree of a member that knows a newer one. Later the council listens.
pub(super) async fn catch_up(council: &Council, routes: &Routes, answers: &Answers) {
    let newest = council.newest();
    let ahead = answers
        .iter()
        .filter_map(|(store, answer)| Some((*store, answer.as_ref()?.epoch)))
        .filter(|(_, epoch)| *epoch > newest.epoch().0)
        .max_by_key(|(_, epoch)| *epoch);
    let Some(member) = ahead.and_then(|(store, _)| newest.member_of(store)) else {
        return;
    };
    let said = routes.peer_addr(member.store_id);
    let addr = said.unwrap_or_else(|| member.peer_addr.clone());
    if let Err(error) = council.exchange(&addr).await {
        tracing::warn!(%error, "a newer layout is not to be had yet");
    }
}

/// The figures of store and links, for `/metrics`.
pub(super) fn figures(store: &Store, links: &Arc<Links>, views: &Views) -> Probe {
    let (store, links, views) = (store.clone(), links.clone(), views.clone());
    Box::new(move || {
        let view = views.current();
        let unsynced = view.count_owned(view.my_store(), store.unsynced().into_iter());
        let stats = store.stats();
        let states = links.states().borrow().clone();
        let connected = states.connected.values().filter(|up| **up).count();
        let gauge = |name, help, unit, value: u64| -> Gauge { (name, help, unit, value as f64) };
        let bytes = || Some(Unit::Bytes);
        vec![
            gauge(
                "store_keys",
                "Keys in the engine, tombstones included; what is only in the table is not counted yet",
                None,
                stats.keys,
            ),
            gauge(
                "store_table",
                "Memory of the table, which is write buffer and row cache in one",
                bytes(),
                stats.table_bytes as u64,
            ),
            gauge(
                "store_dirty",
                "Memory of what is in the table and not yet in the engine",
                bytes(),
                stats.dirty_bytes as u64,
            ),
            gauge(
                "log_sequence",
                "Newest sequence of the commit log",
                None,
                stats.last_sequence,
            ),
            gauge(
                "log_durable_sequence",
                "Newest sequence of the commit log that is on stable storage",
                None,
                stats.durable_sequence,
            ),
            gauge(
                "store_quarantined_keys",
                "Keys whose record in the engine is damaged, until a repair",
                None,
                stats.quarantined as u64,
            ),
            gauge(
                "store_damaged_records",
                "Records that failed their verification since the start, which reads them all",
                None,
                stats.damaged,
            ),
            gauge(
                "store_engine_set_aside",
                "1 if this start found the engine's files unusable and put them aside",
                None,
                u64::from(stats.engine_replaced),
            ),
            gauge(
                "store_drains",
                "Times that the table was written down to the engine since the start",
                None,
                stats.drains,
            ),
            gauge(
                "store_engine",
                "What the engine takes on the disk, as of the last drain",
                bytes(),
                stats.engine_bytes,
            ),
            gauge(
                "store_engine_live",
                "Rows in the engine, keys and values; it is renewed when it takes far more than that",
                bytes(),
                stats.engine_live_bytes,
            ),
            gauge(
                "store_engine_renewals",
                "Times since the start that the engine's rows were moved into a fresh one, to give space back",
                None,
                stats.renewals,
            ),
            gauge(
                "unsynced_partitions",
                "Partitions that this node owns and whose copy here does not count toward R",
                None,
                unsynced as u64,
            ),
            gauge(
                "peers",
                "Members other than this node",
                None,
                states.connected.len() as u64,
            ),
            gauge(
                "peers_connected",
                "Members other than this node with all connections to them standing",
                None,
                connected as u64,
            ),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_must_gain_some_before_it_counts_as_not_full() {
        assert!(!is_full(100, 100, false));
        assert!(is_full(99, 100, false));
        assert!(is_full(124, 100, true));
        assert!(!is_full(125, 100, true));
    }
}
