//! Owners counted anew: before a write, when the layouts have changed since it came; after a definite refusal, when a store
//! knew of a change before this node did, or came to a higher reap generation before it.
//!
//! Keeps I3 (a write counts W in each layout that lives by the decree under which it is sent), I4 (what is sent names the reap
//! generation that it was read under) and I10: sending the object again after a refusal of its epoch or generation is no
//! retry, happens only once this node knows a newer decree or is at a higher generation, and mints nothing.
//!
//! A store that a new layout gives a partition refuses its objects until it has acknowledged that layout. So a write is neither
//! minted nor sent again before as many owners as it needs are known to have done so: until then it waits, within its deadline
//! and with nothing changed. Only where a layout gives a partition to so many new owners that the others are no quorum does
//! that take any time, and then the little that acknowledging takes.

use ringfort_ring::Epoch;
use ringfort_storage::store::Read;

use super::{
    pending::{Phase, outcome_unknown},
    slab::OpId,
    step::{State, Step},
};
use crate::{limits::LINGER, peer::PeerId};

/// The epoch of a write whose owners are not counted yet. No decree has it.
pub(super) const UNCOUNTED: Epoch = Epoch(0);
/// Ended writes among those that wait, at least, before they are swept out.
const WAITING_MIN: usize = 1_024;

impl Step<'_> {
    /// Whether a write that is about to be minted has its owners counted by the present decree; counts them if not. One
    /// whose key this node may not coordinate any more ends here.
    pub fn is_counted(&mut self, id: OpId) -> bool {
        let Some(pending) = self.state.ops.get(id) else {
            return false;
        };
        if pending.epoch == self.view.epoch() && !self.view.has_missed(pending.partition) {
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

    /// Whether a write that is about to be minted would find enough owners that take it; else it waits for them to say so.
    pub fn is_taken_or_waits(&mut self, id: OpId) -> bool {
        let Some(pending) = self.state.ops.get(id) else {
            return false;
        };
        let Phase::Loading(intent) = &pending.phase else {
            return false;
        };
        let taken = self.view.is_taken(pending.partition, intent.w);
        if !taken {
            self.state.waiting.push(id);
        }
        taken
    }

    fn count_anew(&mut self, id: OpId) {
        let epoch = self.view.epoch();
        let Some(partition) = self.state.ops.get(id).map(|pending| pending.partition) else {
            return;
        };
        let owners = self.writers(partition);
        let owners = self.with_fallbacks(partition, owners);
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
        if deadlines.is_empty() {
            self.state.deadlines.add(self.now + LINGER, id);
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
        if !std::mem::replace(&mut writing.outdated, true) {
            self.send_again_or_wait(id);
        }
        true
    }

    /// A store is at a higher reap generation of an operation's partition, and nothing was stored or told there. Gives whether that was
    /// dealt with: a write is sent again as soon as this node is at a higher one, too; a read begins anew if it is by now.
    pub fn refused_as_older(
        &mut self,
        peer: PeerId,
        id: OpId,
        (generation, floor): (u64, u64),
    ) -> bool {
        let Some(pending) = self.state.ops.get_mut(id) else {
            return false;
        };
        let partition = pending.partition;
        if self.parts.store.generation(partition.0) < floor {
            self.state.newer.push((partition, generation, floor));
            return false;
        }
        let Some(place) = pending.owners.place_of(peer) else {
            return false;
        };
        match &mut pending.phase {
            Phase::Writing(writing) => {
                let is_news = writing.put.waits_for(place) && generation > writing.generation;
                if is_news && !std::mem::replace(&mut writing.outdated, true) {
                    self.send_again_or_wait(id);
                }
                is_news
            }
            Phase::Reading(reading) => {
                let is_awaited = reading.get.waits_for(place) && !reading.answered;
                is_awaited && self.begin_anew_if_reaped(id)
            }
            Phase::Loading(_) | Phase::Forwarded(_) => false,
        }
    }

    /// What was refused for its epoch or its generation is sent again, if this node knows the newer one by now, and what waits for
    /// owners goes on, if enough of them take it by now.
    pub fn view_changed(&mut self) {
        for id in std::mem::take(&mut self.state.waiting) {
            match self.state.ops.get(id).map(|pending| &pending.phase) {
                Some(Phase::Writing(_)) => self.send_again_or_wait(id),
                Some(Phase::Loading(_)) => self.apply(id),
                _ => {}
            }
        }
    }

    fn send_again_or_wait(&mut self, id: OpId) {
        let Some(pending) = self.state.ops.get(id) else {
            return;
        };
        let Phase::Writing(writing) = &pending.phase else {
            return;
        };
        let partition = pending.partition;
        let may_go = match pending.epoch < self.view.epoch() {
            true => self.view.is_taken(partition, writing.w),
            false => writing.generation < self.parts.store.generation(partition.0),
        };
        if may_go {
            self.send_again(id);
        } else {
            self.state.waiting.push(id);
        }
    }

    /// Forgets those that have ended, if they are the most: what they wait for may be long in coming (I7).
    pub fn sweep_waiting(&mut self) {
        let State { ops, waiting, .. } = &mut *self.state;
        if waiting.len() > 2 * ops.len() + WAITING_MIN {
            waiting.retain(|id| ops.get(*id).is_some());
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
        let put = self.new_put(pending.owners, writing.w, writing.strict);
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
        let generation = self.parts.store.generation(pending.partition.0);
        match self.parts.store.read(&key) {
            Read::Miss => self.load(id, key),
            read => self.read_again(id, read, generation),
        }
    }

    /// The object was read again, under that reap generation.
    pub fn read_again(&mut self, id: OpId, read: Read, generation: u64) {
        if let Read::Found(record) = read {
            let pending = self.state.ops.get_mut(id);
            if let Some(Phase::Writing(writing)) = pending.map(|pending| &mut pending.phase) {
                writing.generation = generation;
            }
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
