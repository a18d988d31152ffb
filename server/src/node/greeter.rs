//! What a node tells of itself on the peer port: answers `Hello`, `Accept` and `Gossip`. Keeps I9: a foreign cluster is refused.

use std::sync::{Arc, OnceLock};

use ringfort_proto::{Failure, Reason, peer};
use ringfort_ring::StoreId;
use ringfort_storage::Store;
use tonic::Status;

use crate::{
    bootstrap::Roster,
    clock::SteadyClock,
    council::Council,
    counters::{Counters, add},
    exchange::{Board, board::Standing},
    gossip::Gossiper,
    handoff,
    health::{Health, Phase},
    mover::progress::Progress,
    node::generations::generations_to_wire,
    peer::{Heard, Membership},
    reaper,
    scrub::Scrub,
};

/// Answers for this node.
pub struct Greeter {
    /// Who this node is and what it accepted.
    pub roster: Arc<Roster>,
    /// Its phase.
    pub health: Arc<Health>,
    /// Its store, once that is open.
    pub store: OnceLock<Store>,
    /// Its voice in deciding the layout, once it is a member and serves.
    pub council: OnceLock<Arc<Council>>,
    /// What it heard of others' logs.
    pub heard: Arc<Heard>,
    /// How far it is with what a new layout gives it.
    pub progress: Arc<Progress>,
    /// What it holds for owners that were down, once it is a member.
    pub hints: OnceLock<Arc<handoff::figures::Figures>>,
    /// Its part in reaping, once it takes part.
    pub reaping: OnceLock<Arc<reaper::Figures>>,
    /// Its scrub, once it is a member that has recovered.
    pub scrub: OnceLock<Arc<Scrub>>,
    /// Its gossip, once it is a member that has recovered.
    pub gossip: OnceLock<Arc<Gossiper>>,
    /// How its exchanges are, once it takes part.
    pub board: OnceLock<Arc<Board>>,
    /// Its time for the ages of request ids.
    pub steady: Arc<SteadyClock>,
    /// Counters.
    pub counters: Arc<Counters>,
}

impl Greeter {
    /// What this node says of itself, without what it heard of anybody.
    pub fn about_me(&self) -> peer::HelloResponse {
        let mut response = self.roster.hello();
        response.steady_ms = self.steady.ms();
        response.draining = self.health.phase() == Phase::Draining;
        response.epoch = self
            .council
            .get()
            .map_or(0, |council| council.newest().epoch().0);
        response.transfer = Some(self.transfer());
        response.held = self.hints.get().map(|hints| hints.held());
        if let Some(board) = self.board.get() {
            let Standing { ages, behind, left } = board.standing();
            response.exchange_age_ms = ages.oldest.as_millis() as u64;
            response.exchange_unclean = ages.unclean as u64;
            response.exchange_left_ms = left.as_millis() as u64;
            let behind = behind.into_iter();
            let behind = behind.map(|(store, partitions)| peer::Behind {
                store_id: store.0,
                partitions: partitions as u32,
            });
            response.behind = behind.collect();
        }
        response.reaping = self.reaping.get().map(|figures| figures.to_wire());
        response.scrub = self.scrub.get().map(|scrub| scrub.to_wire());
        if let Some(store) = self.store.get() {
            let stats = store.stats();
            response.durable_sequence = stats.durable_sequence;
            response.keys = stats.keys;
            response.hints = store.hint_stats().count as u64;
            response.unsynced = store.unsynced();
            response.quarantined = stats.quarantined as u64;
        }
        response
    }

    fn transfer(&self) -> peer::Transfer {
        let figures = self.progress.figures();
        peer::Transfer {
            epoch: figures.epoch,
            partitions: figures.partitions,
            received: figures.received,
            lost: figures.lost,
            bytes: figures.bytes,
            bytes_per_s: figures.bytes_per_s,
            left_ms: figures.left_ms,
        }
    }

    fn council(&self) -> Result<&Arc<Council>, Status> {
        let words = "this node takes no part in deciding the layout yet";
        let failure = || Failure::new(Reason::QuorumUnavailable, words);
        self.council.get().ok_or_else(|| failure().into())
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
        let mut response = self.about_me();
        let asking = StoreId(request.store_id);
        if request.asks_generations {
            response.generations = self.store.get().map(generations_to_wire);
        }
        response.heard_sequence = self.heard.of(asking);
        // A node that belongs to no cluster yet has nothing to be remembered.
        if request.cluster_id != 0 {
            self.heard.note(asking, request.durable_sequence);
        }
        Ok(response)
    }

    async fn accept(&self, request: peer::AcceptRequest) -> Result<peer::AcceptResponse, Status> {
        Ok(self.roster.accept(request))
    }

    async fn gossip(&self, message: peer::GossipMessage) -> Result<peer::GossipMessage, Status> {
        match self.gossip.get() {
            Some(gossip) => gossip.answer(message),
            None => Err(Status::unavailable("this node does not gossip yet")),
        }
    }

    async fn scrub(&self, request: peer::ScrubRequest) -> Result<peer::ScrubResponse, Status> {
        self.fence(request.cluster_id)?;
        let words = "this node holds nothing yet";
        let failure = || Failure::new(Reason::QuorumUnavailable, words);
        let scrub = self.scrub.get().ok_or_else(failure)?;
        Ok(peer::ScrubResponse {
            store_id: self.roster.store_id().0,
            pass: scrub.ask(),
        })
    }

    async fn vote(&self, request: peer::VoteRequest) -> Result<peer::VoteResponse, Status> {
        self.fence(request.cluster_id)?;
        Ok(self.council()?.answer_vote(request)?)
    }

    async fn decrees(
        &self,
        request: peer::DecreesRequest,
    ) -> Result<peer::DecreesResponse, Status> {
        self.fence(request.cluster_id)?;
        Ok(self.council()?.answer_decrees(&request)?)
    }
}
