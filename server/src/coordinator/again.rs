//! Owners counted anew: before a write, when the layouts have changed since it came; after a definite refusal, when a store
//! knew of a change before this node did.
//!
//! Keeps I3 (a write counts W in each layout that lives by the decree under which it is sent) and I10: sending the object again
//! after a refusal of its epoch is no retry, happens only once this node knows a newer decree, and mints nothing.

use ringfort_ring::Epoch;
use ringfort_storage::store::Read;

use super::{
    pending::{Phase, outcome_unknown},
    slab::OpId,
    step::{State, Step},
};
use crate::peer::PeerId;

/// The epoch of a write whose owners are not counted yet. No decree has it.
pub(super) const UNCOUNTED: Epoch = Epoch(0);
/// Ended writes among those that wait for a newer decree, at least, before they are swept out.
const OUTDATED_MIN: usize = 1_024;

impl Step<'_> {
    /// Whether a write that is about to be minted has its owners counted by the present decree; counts them if not. One
    /// whose key this node may not coordinate any more ends here.
    pub fn is_counted(&mut self, id: OpId) -> bool {
        let Some(pending) = self.state.ops.get(id) else {
            return false;
        };
        if pending.epoch == self.view.epoch() {
            return true;
        }
        let partition = pending.partition;
        if !self.view.coordinates(partition) {
            let failure = self.not_synced(partition);
            self.finish(id, Err(failure));
            return false;
        }
        self.count_anew(id);
        true
    }

    fn count_anew(&mut self, id: OpId) {
        let epoch = self.view.epoch();
        let Some(partition) = self.state.ops.get(id).map(|pending| pending.partition) else {
            return;
        };
        let owners = self.writers(partition);
        if let Some(pending) = self.state.ops.get_mut(id) {
            (pending.owners, pending.epoch) = (owners, epoch);
        }
    }

    /// The same operation under a new id, so that a late reply to what it sent before is not taken for one to what it sends now.
    pub fn rename(&mut self, id: OpId) -> Option<OpId> {
        let pending = self.state.ops.remove(id)?;
        let request = pending.request;
        let deadlines: Vec<_> = pending.waiters.iter().map(|w| w.deadline).collect();
        let id = self.state.ops.insert(pending);
        if let Some(request) = request {
            self.state.running.enter(request, id);
        }
        for deadline in deadlines {
            self.state.deadlines.add(deadline, id);
        }
        Some(id)
    }

    /// A store refuses a write because it knows `newest`, and nothing was stored there. Gives whether that was dealt with: by
    /// sending again now, or as soon as this node knows a newer decree than it counted by.
    pub fn refused_as_stale(&mut self, peer: PeerId, id: OpId, newest: Epoch) -> bool {
        let Some(pending) = self.state.ops.get_mut(id) else {
            return false;
        };
        let (Phase::Writing(writing), Some(place)) =
            (&mut pending.phase, pending.owners.place_of(peer))
        else {
            return false;
        };
        if !writing.put.waits_for(place) || newest <= pending.epoch {
            return false;
        }
        if pending.epoch < self.view.epoch() {
            self.send_again(id);
        } else if !std::mem::replace(&mut writing.outdated, true) {
            self.state.outdated.push(id);
        }
        true
    }

    /// What was refused for its epoch is sent again, if this node has heard of the newer one by now.
    pub fn view_changed(&mut self) {
        for id in std::mem::take(&mut self.state.outdated) {
            match self.state.ops.get(id).map(|pending| pending.epoch) {
                Some(epoch) if epoch < self.view.epoch() => self.send_again(id),
                Some(_) => self.state.outdated.push(id),
                None => {}
            }
        }
    }

    /// Forgets those that have ended, if they are the most: the newer decree may be long in coming (I7).
    pub fn sweep_outdated(&mut self) {
        let State { ops, outdated, .. } = &mut *self.state;
        if outdated.len() > 2 * ops.len() + OUTDATED_MIN {
            outdated.retain(|id| ops.get(*id).is_some());
        }
    }

    /// Reads the object again, for the owners counted anew.
    fn send_again(&mut self, id: OpId) {
        let Some(id) = self.rename(id) else { return };
        self.count_anew(id);
        let Some(pending) = self.state.ops.get(id) else {
            return;
        };
        let Phase::Writing(writing) = &pending.phase else {
            return;
        };
        let put = self.new_put(pending.owners, writing.w);
        let Some(pending) = self.state.ops.get_mut(id) else {
            return;
        };
        let Phase::Writing(writing) = &mut pending.phase else {
            return;
        };
        (writing.put, writing.outdated) = (put, false);
        if pending.owners.own().is_none() {
            // What it holds of the partition may be erased by now.
            let failure = outcome_unknown(&writing.put);
            return self.finish(id, Err(failure));
        }
        let key = pending.key.clone();
        match self.parts.store.read(&key) {
            Read::Miss => self.load(id, key),
            read => self.read_again(id, read),
        }
    }

    /// The object was read again.
    pub fn read_again(&mut self, id: OpId, read: Read) {
        if let Read::Found(record) = read {
            return self.send_object(id, &record);
        }
        let Some(pending) = self.state.ops.get(id) else {
            return;
        };
        if let Phase::Writing(writing) = &pending.phase {
            let failure = outcome_unknown(&writing.put);
            self.finish(id, Err(failure));
        }
    }
}
