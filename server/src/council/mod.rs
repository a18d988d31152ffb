//! This node's part in deciding the layout: it votes, proposes, and follows what was decided.
//!
//! Keeps I9: what this node promised, voted for or learned is durable in its identity before anybody hears of it, and a
//! word of another cluster is refused. The rules are `ring`'s (`consensus`, `layout/history.rs`); here they meet the disk
//! and the network.
//!
//! `ring` says which decrees may follow which; what they move `mover/` moves.

pub mod auto;
pub mod listen;
pub mod own;
mod propose;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use ringfort_proto::{
    Failure, Reason,
    peer::{self, peer_client::PeerClient},
};
use ringfort_ring::{
    ClusterId, DecodeError, Decree, Epoch, History, Layout, Member, StoreId, Trackers, TwoDecrees,
    consensus::{Acceptor, Effect, Promises, Request, Response, Seat},
};
use ringfort_storage::{
    identity::{Identity, IdentityFile},
    mutants::{Mutant, is_planted},
};
use tokio::sync::watch;
use tonic::Status;

use crate::{
    gossip::Routes,
    limits::PEER_MESSAGE_BYTES_MAX,
    net::{Net, channel},
};

/// How long one question to a member may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a decree is not taken over, or a vote not given. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum CouncilError {
    /// The disk failed: nobody knows what is on it.
    #[error("the identity cannot be made durable: {0}")]
    Disk(io::Error),
    /// The message makes no sense.
    #[error("a message that makes no sense: {0}")]
    Message(String),
    /// A decree that does not decode.
    #[error("a decree that does not decode: {0}")]
    Decree(#[from] DecodeError),
    /// Consensus is broken.
    #[error(transparent)]
    TwoDecrees(#[from] TwoDecrees),
    /// A decree that may not follow the newest one.
    #[error(transparent)]
    NotSuccessor(#[from] ringfort_ring::NotSuccessor),
    /// Another cluster's message.
    #[error("this node belongs to cluster {mine}, not to {theirs}")]
    WrongCluster {
        /// This node's.
        mine: ClusterId,
        /// The sender's.
        theirs: ClusterId,
    },
    /// The member did not answer, or refused.
    #[error("{addr}: {words}")]
    Peer {
        /// Who was asked.
        addr: String,
        /// What came of it.
        words: String,
    },
}

impl From<CouncilError> for Failure {
    fn from(error: CouncilError) -> Self {
        let reason = match &error {
            CouncilError::WrongCluster { .. } => Reason::WrongCluster,
            CouncilError::Disk(_) | CouncilError::Peer { .. } => Reason::QuorumUnavailable,
            _ => Reason::BadRequest,
        };
        Failure::new(reason, error.to_string())
    }
}

impl From<CouncilError> for Status {
    fn from(error: CouncilError) -> Self {
        Failure::from(error).into()
    }
}

/// Who is told of a new decree, and of news in others' trackers.
pub type Follow = Box<dyn Fn(&History) + Send + Sync>;

/// What the council is made of.
pub struct Parts {
    /// This node's cluster.
    pub cluster: ClusterId,
    /// Where promises are kept.
    pub identity: Arc<IdentityFile>,
    /// The layout that the cluster was founded with.
    pub founding: Layout,
    /// How members are reached.
    pub net: Arc<dyn Net>,
    /// Where they are now.
    pub routes: Arc<Routes>,
}

/// What this store is by the newest decree that it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A layout lists it.
    Member,
    /// The operator has said that its machine is off: it is refused.
    Excused,
    /// No layout has listed it yet.
    Waiting,
    /// A layout listed it, and none does any more.
    Removed,
}

/// What is known, as it is durable.
struct State {
    history: History,
    promises: Promises,
}

/// One store's voice.
pub struct Council {
    me: StoreId,
    cluster: ClusterId,
    identity: Arc<IdentityFile>,
    net: Arc<dyn Net>,
    routes: Arc<Routes>,
    state: Mutex<State>,
    follow: OnceLock<Follow>,
    /// What this store has to tell has changed.
    changed: watch::Sender<()>,
    /// One proposal of this node at a time: a second would outbid the first.
    proposing: tokio::sync::Mutex<()>,
}

/// What a store has promised, by its identity; of one that never heard of a change: nothing since the founding.
///
/// # Errors
/// The identity was written by a newer version.
pub fn promises_of(identity: &Identity, founding: &Layout) -> Result<Promises, DecodeError> {
    if identity.votes.is_empty() {
        return Ok(Promises::start(Arc::new(Decree::founding(
            founding.clone(),
        ))));
    }
    Promises::decode(&identity.votes)
}

/// What the store `me` is by what it keeps.
pub fn part_of(promises: &Promises, me: StoreId) -> Part {
    let decree = &promises.decree;
    match decree.lists(me) {
        true if decree.excused().contains_key(&me) => Part::Excused,
        true => Part::Member,
        false if promises.was_member() => Part::Removed,
        false => Part::Waiting,
    }
}

impl Council {
    /// The voice of the store whose identity this is.
    ///
    /// # Errors
    /// The identity was written by a newer version.
    pub fn new(parts: Parts) -> Result<Arc<Self>, DecodeError> {
        let identity = parts.identity.current();
        let promises = promises_of(&identity, &parts.founding)?;
        let me = StoreId(identity.store_id);
        let mut history = History::new(promises.decree.clone());
        history.hear(me, promises.trackers);
        let state = State { history, promises };
        Ok(Arc::new(Council {
            me,
            changed: watch::Sender::new(()),
            cluster: parts.cluster,
            identity: parts.identity,
            net: parts.net,
            routes: parts.routes,
            state: Mutex::new(state),
            follow: OnceLock::new(),
            proposing: tokio::sync::Mutex::default(),
        }))
    }

    /// Calls `follow` with each new state from now on, and once with the present one.
    pub fn follow(&self, follow: Follow) {
        let state = self.state();
        follow(&state.history);
        // Set once, at the start.
        let _ = self.follow.set(follow);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest decree that this node knows.
    pub fn newest(&self) -> Arc<Decree> {
        self.state().history.decree().clone()
    }

    /// What this store is.
    pub fn part(&self) -> Part {
        part_of(&self.state().promises, self.me)
    }

    /// Where a member is reached: by its own word, else where it is listed.
    fn addr_of(&self, member: &Member) -> String {
        let said = self.routes.peer_addr(member.store_id);
        said.unwrap_or_else(|| member.peer_addr.clone())
    }

    /// The cluster's id.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Makes promises durable; only then are they this store's.
    fn keep(&self, state: &mut State, promises: Promises) -> Result<(), CouncilError> {
        let bytes = promises.encode();
        self.identity
            .update(|identity| identity.votes = bytes)
            .map_err(|error| CouncilError::Disk(io::Error::other(error)))?;
        state.promises = promises;
        Ok(())
    }

    /// Answers a proposer. What the answer rests on is durable by then.
    ///
    /// # Errors
    /// [`CouncilError`]: no answer, and nothing changed.
    pub fn vote(&self, request: Request<Decree>) -> Result<Response<Decree>, CouncilError> {
        let mut state = self.state();
        let newest = state.history.decree().clone();
        if let Request::Accept {
            value, instance, ..
        } = &request
            && *instance == newest.epoch().next()
        {
            value.follows(&newest)?;
        }
        let mut acceptor = Acceptor::new(state.promises.votes.clone());
        for effect in acceptor.handle(Seat::of(self.me, &newest), request) {
            match effect {
                Effect::Persist(votes) => {
                    let promises = Promises {
                        votes,
                        ..state.promises.clone()
                    };
                    match is_planted(Mutant::ForgetVote) {
                        true => state.promises = promises,
                        false => self.keep(&mut state, promises)?,
                    }
                }
                Effect::Reply(response) => return Ok(response),
            }
        }
        Err(CouncilError::Message(
            "a request without an answer: a bug".to_owned(),
        ))
    }

    /// Takes over a decided decree: durably, then for the whole node. Gives whether it was news.
    ///
    /// # Errors
    /// [`CouncilError`]: nothing changed.
    pub fn adopt(&self, decree: Arc<Decree>) -> Result<bool, CouncilError> {
        let mut state = self.state();
        let mut history = state.history.clone();
        if !history.adopt(decree.clone())? {
            return Ok(false);
        }
        let promises = state.promises.clone().with_decree(decree.clone(), self.me);
        self.keep(&mut state, promises)?;
        // Its own word is the durable one.
        history.hear(self.me, state.promises.trackers);
        state.history = history;
        let live: Vec<u64> = decree
            .live()
            .iter()
            .map(|layout| layout.epoch().0)
            .collect();
        tracing::info!(epoch = %decree.epoch(), ?live, "a new decree");
        self.told(&state);
        Ok(true)
    }

    /// Raises this store's own trackers: durably, then for the whole node, and only then for others to hear. When this returns,
    /// all work done by the older word has ended (see [`Views::update`](crate::view::Views::update)).
    ///
    /// # Errors
    /// [`CouncilError::Disk`]: nothing was told, and nobody knows what is on the disk. The process has to end.
    pub fn raise(&self, trackers: Trackers) -> Result<(), CouncilError> {
        let mut state = self.state();
        let higher = state.promises.trackers.union(trackers);
        if higher == state.promises.trackers {
            return Ok(());
        }
        debug_assert!(higher.in_order(), "{higher:?}");
        let promises = Promises {
            trackers: higher,
            ..state.promises.clone()
        };
        self.keep(&mut state, promises)?;
        state.history.hear(self.me, higher);
        tracing::info!(ack = %higher.ack, merged = %higher.merged, flipped = %higher.flipped, "so far through the change");
        self.told(&state);
        Ok(())
    }

    /// Does `work` if the newest decree is of that epoch, and one layout lives; none comes meanwhile, and this store acknowledges
    /// none. Blocks.
    pub fn while_settled_at<T>(&self, epoch: Epoch, work: impl FnOnce() -> T) -> Option<T> {
        let state = self.state();
        let decree = state.history.decree();
        let is_settled = decree.epoch() == epoch && decree.live().len() == 1;
        is_settled.then(work)
    }

    /// Told of every change of what this node knows.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// This node's store.
    pub fn me(&self) -> StoreId {
        self.me
    }

    /// Takes over what others said of their trackers; of this store its own durable word alone counts.
    pub fn hear(&self, said: impl IntoIterator<Item = (StoreId, Trackers)>) {
        let mut state = self.state();
        let others = said.into_iter().filter(|(store, _)| *store != self.me);
        let mut news = false;
        for (store, trackers) in others {
            news |= state.history.hear(store, trackers);
        }
        if news {
            self.told(&state);
        }
    }

    fn told(&self, state: &State) {
        if let Some(follow) = self.follow.get() {
            follow(&state.history);
        }
        self.changed.send_replace(());
    }

    /// What this node knows.
    pub fn history(&self) -> History {
        self.state().history.clone()
    }

    /// Answers [`peer::VoteRequest`].
    ///
    /// # Errors
    /// [`CouncilError`].
    pub fn answer_vote(
        &self,
        request: peer::VoteRequest,
    ) -> Result<peer::VoteResponse, CouncilError> {
        self.fence(request.cluster_id)?;
        let (ballot, request) = wire::request_from_wire(request)?;
        let response = self.vote(request)?;
        Ok(wire::response_to_wire(self.me, ballot, response))
    }

    /// Answers [`peer::DecreesRequest`].
    ///
    /// # Errors
    /// [`CouncilError`].
    pub fn answer_decrees(
        &self,
        request: &peer::DecreesRequest,
    ) -> Result<peer::DecreesResponse, CouncilError> {
        self.fence(request.cluster_id)?;
        if !request.newest.is_empty() {
            self.adopt(Arc::new(Decree::decode(&request.newest)?))?;
        }
        self.hear(request.mine.map(wire::trackers_from_wire));
        Ok(peer::DecreesResponse {
            newest: self.newest().encode().into(),
            mine: Some(self.my_word()),
        })
    }

    fn my_word(&self) -> peer::Trackers {
        wire::trackers_to_wire(self.me, self.state().history.trackers_of(self.me))
    }

    fn fence(&self, theirs: u64) -> Result<(), CouncilError> {
        if theirs == self.cluster.0 {
            return Ok(());
        }
        Err(CouncilError::WrongCluster {
            mine: self.cluster,
            theirs: ClusterId(theirs),
        })
    }

    /// Tells the member at `addr` the newest decree and this store's trackers, and takes over what it knows.
    ///
    /// # Errors
    /// [`CouncilError`].
    pub async fn exchange(&self, addr: &str) -> Result<(), CouncilError> {
        let request = peer::DecreesRequest {
            cluster_id: self.cluster.0,
            newest: self.newest().encode().into(),
            mine: Some(self.my_word()),
        };
        let mut client = self.client(addr);
        let asked = tokio::time::timeout(ASK_TIMEOUT, client.decrees(request)).await;
        let answer = asked
            .map_err(|_| peer_error(addr, "no answer in time"))?
            .map_err(|status| peer_error(addr, status.message()))?
            .into_inner();
        self.adopt(Arc::new(Decree::decode(&answer.newest)?))?;
        self.hear(answer.mine.map(wire::trackers_from_wire));
        Ok(())
    }

    fn client(&self, addr: &str) -> PeerClient<tonic::transport::Channel> {
        PeerClient::new(channel(&self.net, addr, ASK_TIMEOUT))
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
    }
}

fn peer_error(addr: &str, words: &str) -> CouncilError {
    CouncilError::Peer {
        addr: addr.to_owned(),
        words: words.to_owned(),
    }
}
