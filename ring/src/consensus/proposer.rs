//! A proposer: brings one epoch to a decision, its own value or one that was on the way before.
//!
//! *Invariant:* it asks for votes only after a majority of the voters promised, and then for the value of the highest
//! ballot among their last votes; its own value only if there was none.

use std::collections::{BTreeMap, BTreeSet};

use super::{Ballot, Request, Response};
use crate::id::{Epoch, StoreId};

/// What a proposer wants done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act<V> {
    /// Make durable that this store has used this round in this epoch; after a restart it starts above.
    KeepRound(u64),
    /// Send this to all voters.
    Ask(Request<V>),
    /// The epoch is decided. Keep the decree durably, then tell everyone. If it is not the value that was proposed,
    /// another change won and this one did not happen.
    Decided(V),
    /// Another proposer is at work, with this ballot: wait a while, then [`Proposer::start`] again.
    Outbid(Ballot),
    /// The voter knows a newer decree, of this epoch: fetch it. This proposal has come to its end; whether it was decided
    /// on the way shows in the layout.
    Passed(Epoch),
    /// The voter needs to be told the newest decree first; then ask it again.
    Tell(StoreId),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Phase<V> {
    Idle,
    /// The last votes of those that have promised.
    Preparing(BTreeMap<StoreId, Option<(Ballot, V)>>),
    /// Those that have voted for this value.
    Accepting(V, BTreeSet<StoreId>),
    Done,
}

/// A proposer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Proposer<V> {
    me: StoreId,
    instance: Epoch,
    voters: BTreeSet<StoreId>,
    value: V,
    ballot: Ballot,
    /// The highest round met; the next attempt is above.
    highest: u64,
    phase: Phase<V>,
}

impl<V: Clone + PartialEq> Proposer<V> {
    /// The store `me` proposes `value` for `instance`, which `voters` decide; `proposed` is the last round that it ever
    /// used in this epoch. It need not be a voter itself.
    pub fn new(
        me: StoreId,
        instance: Epoch,
        voters: BTreeSet<StoreId>,
        proposed: u64,
        value: V,
    ) -> Self {
        Proposer {
            me,
            instance,
            voters,
            value,
            ballot: Ballot::NONE,
            highest: proposed,
            phase: Phase::Idle,
        }
    }

    /// The value that it was made for.
    pub fn value(&self) -> &V {
        &self.value
    }

    /// The epoch to be decided.
    pub fn instance(&self) -> Epoch {
        self.instance
    }

    /// The number of votes that decide.
    pub fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// Begins an attempt, above all that it has met. Nothing once decided.
    pub fn start(&mut self) -> Vec<Act<V>> {
        if self.phase == Phase::Done {
            return Vec::new();
        }
        let round = self.highest.saturating_add(1);
        self.highest = round;
        self.ballot = Ballot { round, by: self.me };
        self.phase = Phase::Preparing(BTreeMap::new());
        vec![Act::KeepRound(round), Act::Ask(self.request())]
    }

    /// What is being asked, to be sent again to voters that did not answer. `None` before the start and after the end.
    pub fn asking(&self) -> Option<Request<V>> {
        match self.phase {
            Phase::Preparing(_) | Phase::Accepting(..) => Some(self.request()),
            Phase::Idle | Phase::Done => None,
        }
    }

    fn request(&self) -> Request<V> {
        let (instance, ballot) = (self.instance, self.ballot);
        match &self.phase {
            Phase::Accepting(value, _) => Request::Accept {
                instance,
                ballot,
                value: value.clone(),
            },
            _ => Request::Prepare { instance, ballot },
        }
    }

    /// Hears an answer. One of an earlier attempt, of a stranger, or heard before, changes nothing.
    pub fn hear(&mut self, from: StoreId, response: Response<V>) -> Vec<Act<V>> {
        if !self.voters.contains(&from) || self.phase == Phase::Done {
            return Vec::new();
        }
        match response {
            Response::Promised { ballot, accepted } if ballot == self.ballot => {
                self.promised(from, accepted)
            }
            Response::Accepted { ballot } if ballot == self.ballot => self.accepted(from),
            Response::Outbid { ballot, promised } if ballot == self.ballot => {
                self.highest = self.highest.max(promised.round);
                vec![Act::Outbid(promised)]
            }
            Response::Decided { newest } if newest >= self.instance => {
                self.phase = Phase::Done;
                vec![Act::Passed(newest)]
            }
            Response::Behind { newest } if newest.next() < self.instance => vec![Act::Tell(from)],
            _ => Vec::new(),
        }
    }

    fn promised(&mut self, from: StoreId, accepted: Option<(Ballot, V)>) -> Vec<Act<V>> {
        let majority = self.majority();
        let Phase::Preparing(promises) = &mut self.phase else {
            return Vec::new();
        };
        promises.insert(from, accepted);
        if promises.len() < majority {
            return Vec::new();
        }
        let votes = promises.values().flatten();
        let last = votes.max_by_key(|(ballot, _)| *ballot);
        let value = last.map_or(&self.value, |(_, value)| value).clone();
        self.phase = Phase::Accepting(value, BTreeSet::new());
        vec![Act::Ask(self.request())]
    }

    fn accepted(&mut self, from: StoreId) -> Vec<Act<V>> {
        let majority = self.majority();
        let Phase::Accepting(value, votes) = &mut self.phase else {
            return Vec::new();
        };
        votes.insert(from);
        if votes.len() < majority {
            return Vec::new();
        }
        let decided = Act::Decided(value.clone());
        self.phase = Phase::Done;
        vec![decided]
    }
}
