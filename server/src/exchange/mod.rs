//! Merkle anti-entropy between the owners of each partition, every day and all the time (I8): what one of them missed, by a link that
//! was down, a queue that was full, a disk that forgot, it gets from the others without any client asking.
//!
//! Keeps I5: owners of a partition become the same in bounded time. Roots are compared in rounds, one message for all that two stores
//! share; where they differ, buckets, then the leaves of those that do, then the objects, both ways: the cost follows the
//! difference, not the data. Keeps I7: one round at a time, few partitions at once, bounded pages, paced, giving way to clients.
//!
//! [`schedule`] says what is due and [`mend`] what is asked next, both pure; `round` and `partition` ask and merge; [`board`] is
//! what other parts of the node see. *Leaves out on purpose:* `synced`, which says that nothing is missing; only the mover gives that
//! back. A clean exchange says that two copies were the same.

pub mod board;
mod left;
pub mod mend;
mod partition;
mod round;
pub mod schedule;

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ringfort_ring::PartitionId;
use ringfort_storage::{Store, identity::Unsynced};

pub use self::board::Board;
use self::schedule::Round;
use crate::{
    clock::Clock,
    coordinator::Coordinator,
    gossip::Routes,
    mover::{local::Local, pace::Pace},
    net::Net,
    peer::{Bulk, Fences, Links},
    pool::EnginePool,
    view::{View, Views},
};

/// Looks at what is due in one interval, when nothing is heard.
const LOOKS_AN_INTERVAL: u32 = 20;

/// What a worker is made of.
pub struct Parts {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The current view.
    pub views: Views,
    /// This node's store.
    pub store: Store,
    /// Where what blocks is done.
    pub pool: Arc<dyn EnginePool>,
    /// Connections of its own, so that an exchange does not hold up operations.
    pub net: Arc<dyn Net>,
    /// Where nodes are now.
    pub routes: Arc<Routes>,
    /// Fences of what is asked.
    pub fences: Fences,
    /// Whose clients it gives way to.
    pub coordinator: Arc<Coordinator>,
    /// Who is connected.
    pub links: Arc<Links>,
    /// What is due, and where it tells how far it is.
    pub board: Arc<Board>,
    /// Bytes a second, at most.
    pub bytes_per_s: u64,
}

/// The worker of one node.
pub struct Exchanger {
    parts: Parts,
    local: Local,
    bulk: Bulk,
    pace: Mutex<Pace>,
    /// By which view the schedule is.
    followed: Option<Arc<View>>,
}

impl Exchanger {
    /// A worker that has done nothing.
    pub fn new(parts: Parts) -> Exchanger {
        Exchanger {
            local: Local::new(&parts.store, &parts.pool, &parts.views, &parts.coordinator),
            bulk: Bulk::new(&parts.net, &parts.routes, &parts.fences),
            pace: Mutex::new(Pace::new(parts.bytes_per_s)),
            followed: None,
            parts,
        }
    }

    /// Works for ever.
    pub async fn run(mut self) {
        let timing = self.parts.board.schedule().timing();
        let look = (timing.interval / LOOKS_AN_INTERVAL).max(Duration::from_millis(1));
        let mut states = self.parts.links.states();
        loop {
            let view = self.parts.views.current();
            self.learn(&view);
            if let Some(round) = self.due(&view) {
                self.round(&view, round).await;
                continue;
            }
            let board = &self.parts.board;
            tokio::select! {
                () = tokio::time::sleep(look) => {}
                () = board.wake.notified() => {}
                // The links live as long as this worker.
                _ = states.changed() => {}
            }
        }
    }

    /// Brings the schedule up to date: who owns what, who is connected, what was written to.
    fn learn(&mut self, view: &Arc<View>) {
        let Parts {
            board,
            store,
            links,
            ..
        } = &self.parts;
        let connected = links.states().borrow().connected.clone();
        let now = board.now();
        let mut schedule = board.schedule();
        if !self
            .followed
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, view))
        {
            schedule.follow(now, &view.shared());
            board.marks.retain(|store| view.present(store).is_some());
            self.followed = Some(Arc::clone(view));
        }
        for (store, is_up) in connected {
            schedule.connected(now, store, is_up);
        }
        for partition in schedule.partitions() {
            schedule.wrote(now, partition, store.changes(partition.0));
        }
    }

    fn due(&self, view: &View) -> Option<Round> {
        let board = &self.parts.board;
        let identity = self.parts.store.identity().current();
        let all_synced = identity.unsynced == Unsynced::None;
        let marked = board.marks.all();
        let synced = |store, partition: PartitionId| {
            let here = all_synced || !identity.unsynced.contains(partition.0);
            here && view.counts(store, partition)
        };
        board.schedule().next(board.now(), &marked, &synced)
    }
}
