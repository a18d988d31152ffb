//! The data path, put together: what a node starts once it is a member, and stops at its end.

use std::{sync::Arc, time::Duration};

use ringfort_storage::Store;
use tokio::{sync::watch, task::AbortHandle};

use crate::{
    clock::{Clock, SteadyClock},
    coordinator::{Coordinator, CoordinatorParts},
    counters::Counters,
    exchange::Board,
    gossip::Routes,
    grpc::KvParts,
    limits::Limits,
    net::Net,
    peer::{Fences, Heard, LinkEvents, LinkParts, Links, Replica, ReplicaParts},
    pool::EnginePool,
    reaper::Missed,
    view::{View, Views},
};

/// How often what was heard of other stores is carried to the store.
const HEARD_EVERY: Duration = Duration::from_secs(1);

/// What a [`DataPath`] is made of.
#[derive(Clone)]
pub struct DataParts {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Time for the ages of request ids.
    pub steady: Arc<SteadyClock>,
    /// The current view of the cluster.
    pub views: Views,
    /// This node's store.
    pub store: Store,
    /// Fences of what is sent.
    pub fences: Fences,
    /// What was heard of other stores.
    pub heard: Arc<Heard>,
    /// Who is down, and where nodes are now.
    pub routes: Arc<Routes>,
    /// Connections.
    pub net: Arc<dyn Net>,
    /// The engine pool.
    pub pool: Arc<dyn EnginePool>,
    /// How exchanges with the other owners are.
    pub board: Arc<Board>,
    /// Partitions of which this store has missed a round of reaping.
    pub missed: Arc<Missed>,
    /// Limits.
    pub limits: Limits,
    /// Counters.
    pub counters: Arc<Counters>,
    /// Random, of this process alone: names requests that come without an id.
    pub client_id: u64,
    /// Seeds jitter: the same on one node every time.
    pub jitter_seed: u64,
}

/// The running data path of one node.
pub struct DataPath {
    /// Serves clients' operations.
    pub coordinator: Arc<Coordinator>,
    /// Connections to the other members.
    pub links: Arc<Links>,
    /// Fences of what is sent, and what epochs others' had.
    pub fences: Fences,
    /// Serves peers: goes into the [`DataSlot`](crate::peer::DataSlot).
    pub replica: Arc<Replica>,
    tasks: Vec<AbortHandle>,
}

impl DataPath {
    /// Starts it: connects to the other members, drives deadlines and acknowledgements.
    pub fn start(parts: DataParts) -> Self {
        let fences = parts.fences;
        let links = Links::new(LinkParts {
            views: parts.views.clone(),
            fences: fences.clone(),
            heard: Arc::clone(&parts.heard),
            routes: Arc::clone(&parts.routes),
            net: parts.net,
            limits: parts.limits.clone(),
            counters: Arc::clone(&parts.counters),
            seed: parts.jitter_seed,
        });
        let coordinator = Coordinator::new(CoordinatorParts {
            clock: parts.clock,
            steady: Arc::clone(&parts.steady),
            views: parts.views.clone(),
            store: parts.store.clone(),
            links: Arc::clone(&links),
            routes: parts.routes,
            pool: Arc::clone(&parts.pool),
            limits: parts.limits,
            counters: Arc::clone(&parts.counters),
            client_id: parts.client_id,
            marks: Arc::clone(&parts.board.marks),
            missed: Arc::clone(&parts.missed),
        });
        let views = parts.views.subscribe();
        let carried = carry_heard(Arc::clone(&parts.heard), parts.store.clone());
        let replica = Replica::new(ReplicaParts {
            views: parts.views,
            fences: fences.clone(),
            heard: parts.heard,
            store: parts.store.clone(),
            pool: parts.pool,
            coordinator: Arc::clone(&coordinator),
            counters: parts.counters,
            board: parts.board,
            missed: parts.missed,
            steady: parts.steady,
        });
        let follow = follow_log(
            parts.store.durable(),
            Arc::clone(&coordinator),
            Arc::clone(&replica),
        );
        let tasks = vec![
            tokio::spawn(Arc::clone(&coordinator).run()).abort_handle(),
            tokio::spawn(follow).abort_handle(),
            tokio::spawn(follow_views(views, Arc::clone(&coordinator))).abort_handle(),
            tokio::spawn(carried).abort_handle(),
        ];
        links.start(Arc::clone(&coordinator) as Arc<dyn LinkEvents>);
        DataPath {
            coordinator,
            links,
            fences,
            replica,
            tasks,
        }
    }

    /// What the `Kv` service is made of.
    pub fn kv(&self) -> KvParts {
        KvParts {
            coordinator: Arc::clone(&self.coordinator),
        }
    }

    /// Stops it: connections close, nothing is answered any more. Drain first.
    pub fn stop(&self) {
        self.links.close();
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Drop for DataPath {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Wakes once for each group of the log, and acknowledges all that it made durable.
async fn follow_log(
    mut durable: watch::Receiver<u64>,
    coordinator: Arc<Coordinator>,
    replica: Arc<Replica>,
) {
    while durable.changed().await.is_ok() {
        let sequence = *durable.borrow_and_update();
        replica.on_durable(sequence);
        coordinator.on_durable(sequence);
    }
}

/// Tells the coordinator of each new view.
async fn follow_views(mut views: watch::Receiver<Arc<View>>, coordinator: Arc<Coordinator>) {
    while views.changed().await.is_ok() {
        coordinator.on_view();
    }
}

/// Carries what was heard of other stores to where checkpoints take it from.
async fn carry_heard(heard: Arc<Heard>, store: Store) {
    let mut turns = tokio::time::interval(HEARD_EVERY);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        for (id, sequence) in heard.all() {
            store.hear(id.0, sequence);
        }
    }
}
