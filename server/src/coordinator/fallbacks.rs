//! Who holds a hint in the place of an owner that is down.
//!
//! The next reachable node of the clockwise walk after the owners, another one for each; by the newest layout, so that who is
//! about to leave gets none. An owner that is lost on the way gets its fallback then. Keeps I6: owners stay who they are.

use ringfort_proto::peer;
use ringfort_ring::PartitionId;
use ringfort_storage::store::Read;

use super::{
    pending::{Owners, Pending, Phase},
    slab::OpId,
    step::Step,
};
use crate::{
    peer::{PeerId, links::Item},
    wire::encode_object,
};

/// Nodes of the walk that are looked at for one fallback, at most.
const WALK_MAX: usize = 64;

impl Step<'_> {
    /// Adds a fallback for each owner that is down.
    pub fn with_fallbacks(&mut self, partition: PartitionId, mut owners: Owners) -> Owners {
        for (place, peer) in owners.others() {
            if self.is_down(peer)
                && let Some(fallback) = self.next_fallback(partition, &owners)
            {
                owners.add_fallback(fallback, place);
            }
        }
        owners
    }

    /// The next node of the walk that is reached, and that the operation does not ask yet.
    fn next_fallback(&mut self, partition: PartitionId, owners: &Owners) -> Option<PeerId> {
        let view = std::sync::Arc::clone(&self.view);
        let newest = view.live().len() - 1;
        let walk = view.live()[newest].fallbacks(partition).iter();
        for &member in walk.take(WALK_MAX) {
            if let Some(peer) = self.peers(newest)[usize::from(member)]
                && owners.place_of(peer).is_none()
                && !self.is_down(peer)
            {
                return Some(peer);
            }
        }
        None
    }

    /// A node that a write waits for is not reached any more: the next fallback gets the object as it is now.
    pub fn fall_back(&mut self, id: OpId, place: usize) {
        let Some(pending) = self.state.ops.get(id) else {
            return;
        };
        let Phase::Writing(writing) = &pending.phase else {
            return;
        };
        let (key, partition, mut owners) = (pending.key.clone(), pending.partition, pending.owners);
        if !writing.put.waits_for(place) || owners.has_fallback(place) {
            return;
        }
        // Before the object is read.
        let generation = self.parts.store.generation(partition.0);
        // In memory, since it was written just now; if not, the owner is marked when the operation ends.
        let Read::Found(record) = self.parts.store.read(&key) else {
            return;
        };
        let Some(peer) = self.next_fallback(partition, &owners) else {
            return;
        };
        let Some(fallback) = owners.add_fallback(peer, place) else {
            return;
        };
        let Some(pending) = self.state.ops.get_mut(id) else {
            return;
        };
        pending.owners = owners;
        if let Phase::Writing(writing) = &mut pending.phase {
            writing.put.add_fallback(fallback, place, writing.strict);
        }
        let object = encode_object(record.object());
        if let Some(pending) = self.state.ops.get(id) {
            let store = self.hint_of(id, pending, (object, generation));
            self.send(peer, Item::Store(store));
        }
    }

    /// The object of a write, to be held for its owners.
    pub fn hint_of(&self, id: OpId, pending: &Pending, object: (bytes::Bytes, u64)) -> peer::Store {
        peer::Store {
            hint: true,
            ..self.store_of(id, pending, object)
        }
    }

    /// Whether nothing is to be expected of a peer: not connected, or held to be down. Looked up once in an event.
    pub fn is_down(&mut self, peer: PeerId) -> bool {
        let index = usize::from(peer.0);
        if self.down.len() <= index {
            self.down.resize(index + 1, None);
        }
        *self.down[index].get_or_insert_with(|| {
            let links = &self.parts.links;
            let store = links.store(peer);
            !links.connected(peer) || store.is_none_or(|store| self.parts.routes.is_down(store))
        })
    }

    /// What was to go to a peer did not.
    pub fn note_down(&mut self, peer: PeerId) {
        self.is_down(peer);
        self.down[usize::from(peer.0)] = Some(true);
    }

    /// A write has ended: of an owner that has not acknowledged, nor a fallback for it, it is known that it lacks something.
    pub fn mark_lacking(&mut self, pending: &Pending) {
        let Phase::Writing(writing) = &pending.phase else {
            return;
        };
        for (place, peer) in pending.owners.others() {
            let mut at = Some(place);
            while let Some(place) = at.filter(|place| !writing.put.has(*place)) {
                at = pending.owners.fallback_of(place);
            }
            if at.is_none() {
                self.state.lacking.push((peer, pending.partition));
            }
        }
    }
}
