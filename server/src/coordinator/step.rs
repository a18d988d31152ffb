//! One event: what the state is, and what every kind of event does with it.

use std::{collections::VecDeque, mem, sync::Arc, sync::atomic::Ordering::Relaxed};

use ringfort_proto::{
    Failure, Reason, peer,
    v1::{self, operation_result::Kind},
};
use ringfort_ring::{Epoch, PartitionId};
use ringfort_storage::{Key, store::Read};
use tokio::time::Instant;

use super::{
    CoordinatorParts,
    pending::{Pending, Phase, forward_unanswered, outcome_unknown},
    running::Running,
    sink::Deliveries,
    slab::{Deadlines, OpId, Slab},
};
use crate::{
    core::repairs::Repairs,
    counters::Verb,
    giveway::Felt,
    peer::{PeerId, links::Item},
    view::{Live, View},
    wire::decode_object,
};

/// Keys to load, each for the operation that misses it.
pub(super) type Loads = Vec<(OpId, Key)>;

/// All that is in work.
pub(super) struct State {
    pub ops: Slab<Pending>,
    pub deadlines: Deadlines,
    pub running: Running,
    /// Own copies that wait for the log: (sequence, operation), ascending by sequence.
    pub own_waits: VecDeque<(u64, OpId)>,
    /// The sequence that the log was last said to be durable to.
    pub durable: u64,
    /// Writes that wait for a newer view: refused for their epoch, or not minted because too few owners take them yet.
    pub waiting: Vec<OpId>,
    /// Repairs that were sent just now.
    pub repairs: Repairs,
    /// Writes among `ops` that are answered.
    pub lingering: usize,
    /// Sequence of the requests that came without an id.
    pub request_sequence: u64,
    /// What clients feel.
    pub felt: Felt,
    routes: Routes,
    /// What the event sends, by peer.
    outgoing: Vec<Vec<Item>>,
    loads: Loads,
    pub deliveries: Deliveries,
    /// Peers that lack something of a partition: what was not sent, or not acknowledged. Of one event.
    pub lacking: Vec<(PeerId, PartitionId)>,
}

/// The peers of a view's members.
#[derive(Default)]
struct Routes {
    view: Option<Arc<View>>,
    /// By live layout and member; `None`: this node.
    peers: Vec<Vec<Option<PeerId>>>,
}

impl State {
    pub fn new(now: Instant, durable: u64) -> Self {
        State {
            ops: Slab::new(),
            deadlines: Deadlines::new(now),
            running: Running::default(),
            own_waits: VecDeque::new(),
            durable,
            waiting: Vec::new(),
            repairs: Repairs::default(),
            lingering: 0,
            request_sequence: 0,
            felt: Felt::new(now),
            routes: Routes::default(),
            outgoing: Vec::new(),
            loads: Vec::new(),
            deliveries: Deliveries::default(),
            lacking: Vec::new(),
        }
    }

    /// Operations that are to be answered, and reads that are to be completed.
    pub fn pending(&self) -> usize {
        self.ops.len() - self.lingering
    }
}

/// What an event leaves to do without the lock.
pub(super) struct Outcome {
    pub loads: Loads,
    pub deliveries: Deliveries,
    pub lacking: Vec<(PeerId, PartitionId)>,
}

/// One event being played.
pub(super) struct Step<'a> {
    pub parts: &'a CoordinatorParts,
    pub state: &'a mut State,
    pub view: Arc<View>,
    pub now: Instant,
    pub wall_ms: u64,
    /// What the ages of request ids are counted by.
    pub steady_ms: u64,
    pub draining: bool,
    pub disk_full: bool,
    /// By peer: whether it is down, as far as that was asked in this event.
    pub down: Vec<Option<bool>>,
}

impl<'a> Step<'a> {
    pub fn new(
        parts: &'a CoordinatorParts,
        state: &'a mut State,
        draining: bool,
        disk_full: bool,
    ) -> Self {
        let view = parts.views.current();
        if !state
            .routes
            .view
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, &view))
        {
            let peers_of = |live: &Live| {
                let members = live.layout().members().iter().enumerate();
                let peers =
                    members.map(|(i, m)| (Some(i) != live.me()).then(|| parts.links.peer(m)));
                peers.collect()
            };
            state.routes = Routes {
                peers: view.live().iter().map(peers_of).collect(),
                view: Some(Arc::clone(&view)),
            };
        }
        let (now, wall_ms) = (parts.clock.now(), parts.clock.wall_ms());
        let steady_ms = parts.steady.at(now);
        Step {
            parts,
            state,
            view,
            now,
            wall_ms,
            steady_ms,
            draining,
            disk_full,
            down: Vec::new(),
        }
    }

    /// Sends what is to be sent, and returns the rest.
    pub fn end(mut self) -> Outcome {
        self.flush();
        let pending = self.state.pending();
        let state = &mut *self.state;
        let ops = &state.ops;
        state.deadlines.sweep(ops.len(), |id| ops.get(id).is_some());
        self.parts.counters.pending.store(pending as u64, Relaxed);
        Outcome {
            loads: mem::take(&mut state.loads),
            deliveries: mem::take(&mut state.deliveries),
            lacking: mem::take(&mut state.lacking),
        }
    }

    /// The peer that a member of the layout read from is; `None`: this node.
    pub fn peer_of(&self, member: usize) -> Option<PeerId> {
        self.peers(self.view.read_index())[member]
    }

    /// The peers that the members of a live layout are; `None`: this node.
    pub fn peers(&self, layout: usize) -> &[Option<PeerId>] {
        &self.state.routes.peers[layout]
    }

    /// Queues an operation for a peer until the end of the event.
    pub fn send(&mut self, peer: PeerId, item: Item) {
        let index = usize::from(peer.0);
        if self.state.outgoing.len() <= index {
            self.state.outgoing.resize_with(index + 1, Vec::new);
        }
        self.state.outgoing[index].push(item);
    }

    /// Asks for a key to be loaded for an operation, after the event.
    pub fn load(&mut self, id: OpId, key: Key) {
        self.state.loads.push((id, key));
    }

    /// Hands what was queued to the links. What they do not take has failed, which may make more to send.
    fn flush(&mut self) {
        let mut rejected = Vec::new();
        let mut index = 0;
        while index < self.state.outgoing.len() {
            if self.state.outgoing[index].is_empty() {
                index += 1;
                continue;
            }
            let peer = PeerId(index as u16);
            let mut items = mem::take(&mut self.state.outgoing[index]);
            self.parts.links.push(peer, &mut items, &mut rejected);
            if self.state.outgoing[index].is_empty() {
                self.state.outgoing[index] = items; // keeps its room
            }
            if !rejected.is_empty() {
                self.note_down(peer);
            }
            for id in rejected.drain(..) {
                self.peer_failed(peer, OpId(id), Failed::NotSent);
                index = 0;
            }
        }
    }

    pub fn replies(&mut self, peer: PeerId, replies: peer::Replies) {
        for id in replies.stored {
            self.stored(peer, OpId(id));
        }
        for (id, leaf) in replies.digest_ids.into_iter().zip(replies.digests) {
            self.digest(peer, OpId(id), leaf);
        }
        for fetched in replies.fetched {
            match decode_object(fetched.object) {
                Ok(object) => self.fetched(peer, OpId(fetched.id), object),
                Err(why) => {
                    tracing::warn!(%why, "a peer sent an object that is none");
                    self.peer_failed(peer, OpId(fetched.id), Failed::Refused);
                }
            }
        }
        for refused in replies.refused {
            tracing::debug!(
                reason = refused.reason,
                epoch = refused.epoch,
                "a peer refused"
            );
            let id = OpId(refused.id);
            let stale = refused.reason == Reason::StaleEpoch.as_str();
            if !(stale && self.refused_as_stale(peer, id, Epoch(refused.epoch))) {
                self.peer_failed(peer, id, Failed::Refused);
            }
        }
        for result in replies.forwarded {
            self.forwarded(peer, result);
        }
    }

    pub fn peer_down(&mut self, peer: PeerId) {
        self.note_down(peer);
        for id in self.state.ops.find(|pending| pending.waits_for(peer)) {
            self.peer_failed(peer, id, Failed::Lost);
        }
    }

    /// A peer will not answer an operation.
    fn peer_failed(&mut self, peer: PeerId, id: OpId, how: Failed) {
        let Some(pending) = self.state.ops.get_mut(id) else {
            return;
        };
        let place = pending.owners.place_of(peer);
        if how != Failed::Refused
            && let Some(place) = place
        {
            self.fall_back(id, place);
        }
        let Some(pending) = self.state.ops.get_mut(id) else {
            return;
        };
        match (&mut pending.phase, place) {
            (Phase::Writing(writing), Some(place)) => {
                let step = writing.put.fail(place);
                self.settle_write(id, step);
            }
            (Phase::Reading(reading), Some(place)) => {
                reading.get.fail(place);
                self.advance_read(id);
            }
            (Phase::Forwarded(target), _) if *target == peer => {
                let failure = match how {
                    Failed::Lost | Failed::Refused if pending.verb != Verb::Get => {
                        forward_unanswered()
                    }
                    _ => Failure::new(
                        Reason::QuorumUnavailable,
                        "the owner it was sent on to is not reachable",
                    ),
                };
                self.finish(id, Err(failure));
            }
            _ => {}
        }
    }

    fn forwarded(&mut self, peer: PeerId, result: v1::OperationResult) {
        let id = OpId(result.id);
        let pending = self.state.ops.get(id);
        if !pending.is_some_and(|p| matches!(p.phase, Phase::Forwarded(target) if target == peer)) {
            return;
        }
        let kind = result
            .kind
            .unwrap_or_else(|| Kind::Error(self.signed(forward_unanswered()).to_wire()));
        self.answer_kind(id, kind);
        self.state.ops.remove(id);
    }

    pub fn durable(&mut self, sequence: u64) {
        self.state.durable = sequence.max(self.state.durable);
        while let Some(&(waits_for, id)) = self.state.own_waits.front()
            && waits_for <= self.state.durable
        {
            self.state.own_waits.pop_front();
            self.own_stored(id);
        }
    }

    pub fn tick(&mut self) {
        let pending = self.state.pending();
        self.state.felt.tick(self.now, pending);
        self.sweep_waiting();
        for id in self.state.deadlines.due(self.now) {
            self.expire(id);
        }
    }

    pub fn loaded(&mut self, id: OpId, read: Read) {
        let phase = self.state.ops.get(id).map(|pending| &pending.phase);
        match phase {
            Some(Phase::Loading(_)) => self.apply(id),
            Some(Phase::Reading(_)) => self.own_read(id, read),
            Some(Phase::Writing(_)) => self.read_again(id, read),
            _ => {}
        }
    }

    pub fn load_failed(&mut self, id: OpId) {
        if let Some(pending) = self.state.ops.get(id) {
            let failure = match &pending.phase {
                Phase::Writing(writing) => outcome_unknown(&writing.put),
                _ => Failure::new(Reason::Overloaded, "the key could not be loaded now"),
            };
            self.finish(id, Err(failure));
        }
    }
}

/// How an operation failed at a peer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Failed {
    /// It never left.
    NotSent,
    /// It may have reached the peer, which is not reached any more.
    Lost,
    /// The peer said so.
    Refused,
}
