//! One operation in work, and the owners it speaks to.

use std::sync::Arc;

use bytes::Bytes;
use ringfort_proto::{Failure, Reason};
use ringfort_ring::PartitionId;
use ringfort_storage::{
    Key,
    version::{RequestId, Write},
};
use tokio::time::Instant;

use super::sink::ReplySink;
use crate::{
    core::{OWNERS_MAX, get::Get, put::Put},
    counters::Verb,
    peer::PeerId,
};

/// Who waits for an operation, and until when.
pub(super) struct Waiter {
    pub sink: Arc<dyn ReplySink>,
    /// The id to answer with.
    pub id: u64,
    pub deadline: Instant,
}

/// The owners of a partition in preference order; this node is one of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owners {
    /// `None`: this node.
    peers: [Option<PeerId>; OWNERS_MAX],
    len: usize,
    own: usize,
}

impl Owners {
    /// `None` if this node is none of them. `peer_of` numbers a member, `None` for this node.
    pub fn new(members: &[u16], peer_of: impl Fn(usize) -> Option<PeerId>) -> Option<Self> {
        let mut owners = Owners {
            peers: [None; OWNERS_MAX],
            len: members.len(),
            own: OWNERS_MAX,
        };
        for (place, &member) in members.iter().enumerate() {
            owners.peers[place] = peer_of(usize::from(member));
            if owners.peers[place].is_none() {
                owners.own = place;
            }
        }
        (owners.own < OWNERS_MAX).then_some(owners)
    }

    /// No owners: the operation is another node's.
    pub fn none() -> Self {
        Owners {
            peers: [None; OWNERS_MAX],
            len: 0,
            own: OWNERS_MAX,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// This node's place.
    pub fn own(&self) -> usize {
        self.own
    }

    /// The others: place and peer.
    pub fn others(self) -> impl Iterator<Item = (usize, PeerId)> {
        (0..self.len).filter_map(move |place| self.peers[place].map(|peer| (place, peer)))
    }

    /// The peer at a place; `None` for this node.
    pub fn peer(&self, place: usize) -> Option<PeerId> {
        self.peers[place]
    }

    pub fn place_of(&self, peer: PeerId) -> Option<usize> {
        self.peers[..self.len]
            .iter()
            .position(|&at| at == Some(peer))
    }
}

/// A checked write, before its dot is minted.
pub(super) struct Intent {
    pub write: Write,
    pub need: u32,
    pub buffered: bool,
    /// How often its base was loaded.
    pub loads: u8,
}

/// A write after its dot was minted (or found to be minted before).
pub(super) struct Writing {
    pub put: Put,
    pub buffered: bool,
    /// What the answer says: empty unless the new sibling is the sole one.
    pub context: Bytes,
    pub siblings: u32,
}

/// A read, on its own or ahead of a write that is to happen only if it finds nothing.
pub(super) struct Reading {
    pub get: Get,
    pub then: Option<Intent>,
    pub answered: bool,
}

/// How far an operation is.
pub(super) enum Phase {
    /// Its base is being loaded; nothing is minted.
    Loading(Box<Intent>),
    Writing(Writing),
    Reading(Box<Reading>),
    Forwarded(PeerId),
}

/// One operation in work.
pub(super) struct Pending {
    pub verb: Verb,
    pub key: Key,
    pub partition: PartitionId,
    pub started: Instant,
    /// The first attempt, and those that joined it. Empty once answered.
    pub waiters: Vec<Waiter>,
    /// The id under which it is entered as running.
    pub request: Option<RequestId>,
    /// Unused while forwarded.
    pub owners: Owners,
    pub phase: Phase,
}

impl Pending {
    /// Whether a peer has still to answer.
    pub fn waits_for(&self, peer: PeerId) -> bool {
        let place = self.owners.place_of(peer);
        match &self.phase {
            Phase::Loading(_) => false,
            Phase::Writing(writing) => place.is_some_and(|p| writing.put.waits_for(p)),
            Phase::Reading(reading) => place.is_some_and(|p| reading.get.waits_for(p)),
            Phase::Forwarded(target) => *target == peer,
        }
    }

    /// What to say when the deadline passes now.
    pub fn too_late(&self) -> Failure {
        match &self.phase {
            Phase::Writing(writing) => outcome_unknown(&writing.put),
            Phase::Forwarded(_) if self.verb != Verb::Get => forward_unanswered(),
            Phase::Reading(_) | Phase::Loading(_) | Phase::Forwarded(_) => Failure::new(
                Reason::DeadlineExceeded,
                "the deadline passed; nothing changed",
            ),
        }
    }
}

/// The failure of a minted write: it may still apply.
pub(super) fn outcome_unknown(put: &Put) -> Failure {
    let why = format!(
        "{} of {} copies were acknowledged; the write may still apply",
        put.acks(),
        put.need()
    );
    Failure::new(Reason::OutcomeUnknown, why)
        .with("acks", put.acks())
        .with("need", put.need())
}

/// The failure of a forwarded write of which nothing was heard.
pub(super) fn forward_unanswered() -> Failure {
    Failure::new(
        Reason::OutcomeUnknown,
        "the node it was sent on to did not answer; the write may still apply",
    )
    .with("acks", 0)
}
