//! How the decree of one epoch is decided: single-decree Paxos, once per epoch (Lamport, *Paxos Made Simple*, 2001).
//!
//! *Invariants.* For each epoch at most one value is ever decided, whatever is lost, repeated, late or restarted:
//!
//! - the voters of epoch e + 1 are the stores that decree e names ([`crate::Decree::voters`]); a vote belongs to a *store*,
//!   so a node that lost its directory comes back as another store and cannot vote against its own forgotten word;
//! - effects are done in their order: what a promise, an acceptance or a ballot rests on is durable *before* it is told;
//! - a proposer never uses a ballot twice, not even after a restart ([`Act::KeepRound`]).
//!
//! A node votes with the store's [`Promises`] under one lock, in one durable write, and hands a decided decree to
//! [`crate::History::adopt`]. A proposer whose [`Act::Decided`] is not its own value tells its operator that another won.
//!
//! Left out on purpose: time (when to try again), chance, messages, and what the value means. The value is a type
//! parameter; whether a decree may follow the newest one is judged ([`crate::History::judge`]) before it is voted for.

mod acceptor;
mod promises;
mod proposer;
#[cfg(test)]
mod tests;

pub use acceptor::{Acceptor, Effect, Seat, Votes};
pub use promises::{DECREE_BYTES_MAX, Promises};
pub use proposer::{Act, Proposer};

use crate::id::{Epoch, StoreId};

/// The number of one attempt: ordered by round, then by who proposes, so that no two proposers share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// Counts a proposer's attempts within one epoch, from 1.
    pub round: u64,
    /// The proposer's store.
    pub by: StoreId,
}

impl Ballot {
    /// Below every ballot that is used.
    pub const NONE: Ballot = Ballot {
        round: 0,
        by: StoreId(0),
    };
}

/// What a proposer asks of a voter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request<V> {
    /// Promise to vote for no lower ballot, and tell what you have voted for.
    Prepare {
        /// The epoch to be decided.
        instance: Epoch,
        /// The attempt.
        ballot: Ballot,
    },
    /// Vote for this value.
    Accept {
        /// The epoch to be decided.
        instance: Epoch,
        /// The attempt.
        ballot: Ballot,
        /// What to decide.
        value: V,
    },
}

impl<V> Request<V> {
    /// The epoch to be decided.
    pub fn instance(&self) -> Epoch {
        match self {
            Request::Prepare { instance, .. } | Request::Accept { instance, .. } => *instance,
        }
    }

    /// The attempt.
    pub fn ballot(&self) -> Ballot {
        match self {
            Request::Prepare { ballot, .. } | Request::Accept { ballot, .. } => *ballot,
        }
    }
}

/// What a voter answers. Everything but `Promised` and `Accepted` says that nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Response<V> {
    /// No lower ballot will be voted for; this is what was voted for last.
    Promised {
        /// The attempt.
        ballot: Ballot,
        /// The last vote, if there was one.
        accepted: Option<(Ballot, V)>,
    },
    /// The vote is given.
    Accepted {
        /// The attempt.
        ballot: Ballot,
    },
    /// A higher ballot was promised.
    Outbid {
        /// The attempt.
        ballot: Ballot,
        /// The promise in its way.
        promised: Ballot,
    },
    /// The epoch is decided: ask for the newest decree.
    Decided {
        /// The newest epoch known.
        newest: Epoch,
    },
    /// This store has not heard of the decree before: tell it first.
    Behind {
        /// The newest epoch known.
        newest: Epoch,
    },
    /// This store is not listed, or excused: it has no vote.
    NoVote,
}
