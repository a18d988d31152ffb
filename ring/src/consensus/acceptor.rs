//! A voter: what it promised and voted for in the epoch that is being decided.
//!
//! *Invariant:* a vote is never given below a promise, and neither is told before it is durable.

use super::{Ballot, Request, Response};
use crate::id::{Epoch, StoreId};

/// What a store has said in the epoch that is being decided; kept durably.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Votes<V> {
    /// The epoch that these belong to. What was said of decided epochs is of no use to anybody.
    pub instance: Epoch,
    /// No lower ballot is voted for.
    pub promised: Ballot,
    /// The last vote.
    pub accepted: Option<(Ballot, V)>,
    /// The last round that this store used as a proposer.
    pub proposed: u64,
}

impl<V> Votes<V> {
    /// Nothing said yet.
    pub fn none(instance: Epoch) -> Votes<V> {
        Votes {
            instance,
            promised: Ballot::NONE,
            accepted: None,
            proposed: 0,
        }
    }

    /// These votes, or none if they belong to an epoch before `instance`, which is decided by now.
    #[must_use]
    pub fn of_instance(self, instance: Epoch) -> Votes<V> {
        if self.instance < instance {
            Votes::none(instance)
        } else {
            self
        }
    }
}

/// What a store is by the newest decree that it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// The newest epoch that it knows to be decided.
    pub newest: Epoch,
    /// Whether that decree names it as a voter.
    pub votes: bool,
}

impl Seat {
    /// The seat of store `me` by `decree`.
    pub fn of(me: StoreId, decree: &crate::Decree) -> Seat {
        Seat {
            newest: decree.epoch(),
            votes: decree.voters().contains(&me),
        }
    }
}

/// What is to be done, in this order. If one cannot be done, none after it may be: a store whose disk failed has no vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect<V> {
    /// Make this durable.
    Persist(Votes<V>),
    /// Then answer.
    Reply(Response<V>),
}

/// A voter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Acceptor<V> {
    votes: Votes<V>,
}

impl<V: Clone + PartialEq> Acceptor<V> {
    /// A voter that has said this, durably.
    pub fn new(votes: Votes<V>) -> Self {
        Acceptor { votes }
    }

    /// What it has said.
    pub fn votes(&self) -> &Votes<V> {
        &self.votes
    }

    /// Answers a request.
    pub fn handle(&mut self, seat: Seat, request: Request<V>) -> Vec<Effect<V>> {
        let (instance, ballot) = (request.instance(), request.ballot());
        let newest = seat.newest;
        if instance <= newest {
            return vec![Effect::Reply(Response::Decided { newest })];
        }
        if instance > newest.next() {
            return vec![Effect::Reply(Response::Behind { newest })];
        }
        if !seat.votes {
            return vec![Effect::Reply(Response::NoVote)];
        }
        let before = self.votes.clone();
        self.votes = before.clone().of_instance(instance);
        let promised = self.votes.promised;
        if ballot < promised {
            self.votes = before;
            return vec![Effect::Reply(Response::Outbid { ballot, promised })];
        }
        self.votes.promised = ballot;
        let reply = match request {
            Request::Prepare { .. } => Response::Promised {
                ballot,
                accepted: self.votes.accepted.clone(),
            },
            Request::Accept { value, .. } => {
                self.votes.accepted = Some((ballot, value));
                Response::Accepted { ballot }
            }
        };
        // What was said before, and is said again, is durable already.
        let mut effects = Vec::with_capacity(2);
        if self.votes != before {
            effects.push(Effect::Persist(self.votes.clone()));
        }
        effects.push(Effect::Reply(reply));
        effects
    }
}
