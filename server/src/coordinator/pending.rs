//! One operation in work, and the owners it speaks to.

use std::sync::Arc;

use bytes::Bytes;
use ringfort_proto::{Failure, Reason};
use ringfort_ring::{Epoch, PartitionId};
use ringfort_storage::{
    Key,
    version::{Floor, RequestId, Write},
};
use tokio::time::Instant;

use super::sink::ReplySink;
use crate::{
    core::{FALLBACKS_MAX, LAYOUTS_MAX, OwnerSet, PLACES_MAX, UNION_MAX, get::Get, put::Put},
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

/// The owners that an operation speaks to: of a partition by one layout, in preference order, or by several. After them come
/// the fallbacks that it asks in the place of owners that are down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owners {
    /// `None`: this node.
    peers: [Option<PeerId>; PLACES_MAX],
    /// Owners.
    len: u8,
    /// Fallbacks.
    fallbacks: u8,
    /// This node's place; [`UNION_MAX`] if it is none of them.
    own: u8,
    by_layout: [OwnerSet; LAYOUTS_MAX],
    /// By fallback: in whose place it is asked, an owner's or another fallback's.
    stands_for: [u8; FALLBACKS_MAX],
}

impl Owners {
    /// No owners: the operation is another node's.
    pub fn none() -> Self {
        Owners {
            peers: [None; PLACES_MAX],
            len: 0,
            fallbacks: 0,
            own: UNION_MAX as u8,
            by_layout: [OwnerSet::default(); LAYOUTS_MAX],
            stands_for: [0; FALLBACKS_MAX],
        }
    }

    /// Adds the owners by the layout that lives at place `layout`. `peers` numbers its members, `None` for this node.
    pub fn add(&mut self, layout: usize, members: &[u16], peers: &[Option<PeerId>]) {
        for &member in members {
            let peer = peers[usize::from(member)];
            let place = self.place(peer).unwrap_or_else(|| {
                let place = usize::from(self.len);
                self.peers[place] = peer;
                if peer.is_none() {
                    self.own = self.len;
                }
                self.len += 1;
                place
            });
            self.by_layout[layout].insert(place);
        }
    }

    /// How many owners there are.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Adds a fallback in the place of an owner, or of a fallback, once all owners are in; gives its own. `None`: there are as
    /// many as there may be.
    pub fn add_fallback(&mut self, peer: PeerId, stands_for: usize) -> Option<usize> {
        if self.fallback_count() == FALLBACKS_MAX {
            return None;
        }
        let place = self.len() + self.fallback_count();
        self.peers[place] = Some(peer);
        self.stands_for[self.fallback_count()] = stands_for as u8; // below PLACES_MAX
        self.fallbacks += 1;
        Some(place)
    }

    /// In whose place a fallback is asked.
    pub fn stands_for(&self, fallback: usize) -> usize {
        usize::from(self.stands_for[fallback - self.len()])
    }

    /// The fallback that is asked in the place of that node.
    pub fn fallback_of(&self, place: usize) -> Option<usize> {
        let (first, end) = (self.len(), self.len() + self.fallback_count());
        (first..end).find(|&fallback| self.stands_for(fallback) == place)
    }

    /// Whether a fallback is asked in the place of that node.
    pub fn has_fallback(&self, place: usize) -> bool {
        self.fallback_of(place).is_some()
    }

    /// How many fallbacks there are.
    pub fn fallback_count(&self) -> usize {
        usize::from(self.fallbacks)
    }

    /// Whether a place is a fallback's.
    pub fn is_fallback(&self, place: usize) -> bool {
        place >= self.len()
    }

    /// The fallbacks: place and peer.
    pub fn fallbacks(self) -> impl Iterator<Item = (usize, PeerId)> {
        let places = self.len()..self.len() + self.fallback_count();
        places.filter_map(move |place| self.peers[place].map(|peer| (place, peer)))
    }

    /// This node's place, if it is one of them.
    pub fn own(&self) -> Option<usize> {
        (self.own < self.len).then_some(usize::from(self.own))
    }

    /// The owners by the layout that lives at this place.
    pub fn by_layout(&self, layout: usize) -> OwnerSet {
        self.by_layout[layout]
    }

    /// The other owners: place and peer.
    pub fn others(self) -> impl Iterator<Item = (usize, PeerId)> {
        (0..self.len()).filter_map(move |place| self.peers[place].map(|peer| (place, peer)))
    }

    /// The peer at a place; `None` for this node.
    pub fn peer(&self, place: usize) -> Option<PeerId> {
        self.peers[place]
    }

    pub fn place_of(&self, peer: PeerId) -> Option<usize> {
        self.place(Some(peer))
    }

    fn place(&self, peer: Option<PeerId>) -> Option<usize> {
        let mut taken = self.peers[..self.len() + self.fallback_count()].iter();
        taken.position(|&at| at == peer)
    }
}

/// A checked write, before its dot is minted.
pub(super) struct Intent {
    pub write: Write,
    /// W in each layout; `None`: the default of each.
    pub w: Option<u32>,
    pub buffered: bool,
    /// Only owners count.
    pub strict: bool,
    /// How often its base was loaded.
    pub loads: u8,
}

/// A write after its dot was minted (or found to be minted before).
pub(super) struct Writing {
    pub put: Put,
    /// A store knew a newer decree, or is at a higher reap generation: it is to be sent again once this node is as far, too.
    pub outdated: bool,
    /// The reap generation that the object was read under, as it was sent.
    pub generation: u64,
    pub w: Option<u32>,
    pub buffered: bool,
    pub strict: bool,
    /// W is reached and told; others may still acknowledge.
    pub answered: bool,
    pub floor: Floor,
    /// The own copy is durable with this sequence of the log.
    pub sequence: u64,
    /// What the answer says: empty unless the new sibling is the sole one.
    pub context: Bytes,
    pub siblings: u32,
}

/// A read, on its own or ahead of a write that is to happen only if it finds nothing.
pub(super) struct Reading {
    pub get: Get,
    pub then: Option<Intent>,
    pub answered: bool,
    /// Whether the answer tells what can be undeleted.
    pub tells_deleted: bool,
    /// The reap generation that it began under: replies of before and after a round do not go together.
    pub generation: u64,
    /// The lowest that anything of the merge was read under.
    pub lowest: u64,
    /// How often it began anew.
    pub restarts: u8,
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
    /// The decree by which `owners` are counted.
    pub epoch: Epoch,
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
    let (acks, need) = put.shortest();
    let why = format!("{acks} of {need} copies were acknowledged; the write may still apply");
    Failure::new(Reason::OutcomeUnknown, why)
        .with("acks", acks)
        .with("need", need)
}

/// The failure of a forwarded write of which nothing was heard.
pub(super) fn forward_unanswered() -> Failure {
    Failure::new(
        Reason::OutcomeUnknown,
        "the node it was sent on to did not answer; the write may still apply",
    )
    .with("acks", 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_by_two_layouts_are_each_spoken_to_once() {
        let (a, b, c) = (Some(PeerId(5)), Some(PeerId(6)), Some(PeerId(7)));
        let mut owners = Owners::none();
        assert_eq!((owners.len(), owners.own()), (0, None));
        owners.add(0, &[2, 0, 1], &[a, None, b]);
        // The same nodes under other places, and one more.
        owners.add(1, &[0, 3, 2], &[None, a, b, c]);
        assert_eq!((owners.len(), owners.own()), (4, Some(2)));
        let places = |set: OwnerSet| set.iter().collect::<Vec<_>>();
        assert_eq!(places(owners.by_layout(0)), [0, 1, 2]);
        assert_eq!(places(owners.by_layout(1)), [0, 2, 3]);
        let others: Vec<_> = owners.others().collect();
        assert_eq!(others, [(0, PeerId(6)), (1, PeerId(5)), (3, PeerId(7))]);
        assert_eq!(owners.place_of(PeerId(7)), Some(3));
        assert_eq!((owners.place_of(PeerId(8)), owners.peer(2)), (None, None));
        let owners_only = owners;
        assert_eq!(owners.add_fallback(PeerId(8), 3), Some(4));
        assert_eq!(owners.add_fallback(PeerId(9), 4), Some(5));
        assert_eq!((owners.fallback_of(3), owners.stands_for(5)), (Some(4), 4));
        assert!(owners.has_fallback(4) && !owners.has_fallback(0));
        assert_eq!((owners.len(), owners.place_of(PeerId(9))), (4, Some(5)));
        assert!(owners.is_fallback(4) && !owners.is_fallback(3));
        assert_eq!(owners.others().count(), owners_only.others().count());
        let fallbacks: Vec<_> = owners.fallbacks().collect();
        assert_eq!(fallbacks, [(4, PeerId(8)), (5, PeerId(9))]);
        for more in 10..15 {
            assert!(owners.add_fallback(PeerId(more), 0).is_some());
        }
        assert_eq!(owners.add_fallback(PeerId(15), 0), None);
    }
}
