//! What a node tells of itself on the peer port: answers `Hello` and `Accept`. Keeps I9: a foreign cluster is refused.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use ringfort_proto::{Failure, Reason, peer};
use ringfort_ring::StoreId;
use ringfort_storage::Store;
use tokio::time::Instant;
use tonic::Status;

use crate::{
    bootstrap::Roster,
    clock::Clock,
    counters::{Counters, add},
    health::{Health, Phase},
    peer::{Heard, Membership},
};

/// When each member was last heard of.
pub struct Seen {
    clock: Arc<dyn Clock>,
    started: Instant,
    last: Mutex<BTreeMap<String, Instant>>,
}

/// Names that are remembered, at most: more never are members at once.
const MAX_SEEN: usize = 4_096;

impl Seen {
    /// Nobody was heard of yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Seen {
            started: clock.now(),
            clock,
            last: Mutex::new(BTreeMap::new()),
        }
    }

    /// The node called `name` was heard of just now.
    pub fn note(&self, name: &str) {
        let now = self.clock.now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = last.get_mut(name) {
            *at = now;
        } else if last.len() < MAX_SEEN {
            last.insert(name.to_owned(), now);
        }
    }

    /// How long ago that was; of one never heard of, how long this node has been waiting.
    pub fn ago(&self, name: &str) -> Duration {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let at = last.get(name).copied().unwrap_or(self.started);
        self.clock.now().saturating_duration_since(at)
    }
}

/// Answers for this node.
pub struct Greeter {
    /// Who this node is and what it accepted.
    pub roster: Arc<Roster>,
    /// Its phase.
    pub health: Arc<Health>,
    /// Its store, once that is open.
    pub store: OnceLock<Store>,
    /// What it heard of others' logs.
    pub heard: Arc<Heard>,
    /// When it heard of others.
    pub seen: Arc<Seen>,
    /// Counters.
    pub counters: Arc<Counters>,
}

impl Greeter {
    /// What this node says of itself, without what it heard of anybody.
    pub fn about_me(&self) -> peer::HelloResponse {
        let mut response = self.roster.hello();
        response.draining = self.health.phase() == Phase::Draining;
        if let Some(store) = self.store.get() {
            let stats = store.stats();
            response.durable_sequence = stats.durable_sequence;
            response.keys = stats.keys;
            response.unsynced = store.unsynced();
        }
        response
    }

    /// Refuses who belongs to another cluster; 0 belongs to none yet.
    fn fence(&self, theirs: u64) -> Result<(), Failure> {
        let standing = self.roster.standing();
        let mine = match standing.decree() {
            Some(decree) if theirs != 0 && theirs != decree.cluster.0 => decree.cluster,
            _ => return Ok(()),
        };
        add(&self.counters.wrong_cluster, 1);
        let failure = Failure::new(
            Reason::WrongCluster,
            format!("this node belongs to cluster {mine}, not to {theirs:016x}"),
        );
        tracing::warn!(%failure, "refused a node of another cluster");
        Err(failure.with("cluster", mine))
    }
}

#[tonic::async_trait]
impl Membership for Greeter {
    async fn hello(&self, request: peer::HelloRequest) -> Result<peer::HelloResponse, Status> {
        self.fence(request.cluster_id)?;
        if request.cluster_id != 0 {
            self.seen.note(&request.name);
        }
        let mut response = self.about_me();
        response.heard_sequence = self.heard.of(StoreId(request.store_id));
        Ok(response)
    }

    async fn accept(&self, request: peer::AcceptRequest) -> Result<peer::AcceptResponse, Status> {
        Ok(self.roster.accept(request))
    }
}
