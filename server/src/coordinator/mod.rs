//! The coordinator: serves the operations of clients at this node.
//!
//! Keeps I1 (answers a write at W durable copies), I3 (merges R countable copies), I7 (a limit on everything that
//! waits), I8 (each write and read goes to all owners, every day) and I10 (it never retries).
//!
//! *Architecture invariant*: synchronous and batch-oriented. There is no task per operation and nothing awaits: pending
//! operations lie in a slab behind one mutex, and events (a batch from a client, replies of a peer, a durable log
//! sequence, loaded keys, a tick, a broken connection) move them on. What an event makes to be sent is queued per peer
//! once at its end; what it makes to be answered is delivered after the lock is released.

mod admit;
mod again;
mod answer;
mod fallbacks;
mod operation;
mod pending;
mod read;
mod route;
mod running;
mod sink;
mod slab;
mod step;
mod write;

#[cfg(test)]
mod tests;

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicBool, Ordering},
};

use ringfort_proto::{peer, v1};
use ringfort_storage::{Key, Store, engine::EngineError, store::Read};
use tokio::sync::watch;

pub(crate) use self::{
    operation::quorum,
    read::{context_of, live_siblings},
};
pub use self::{
    operation::{DEFAULT_NAMESPACE, locate},
    sink::{Collector, ReplySink},
};
use self::{
    slab::OpId,
    step::{Loads, State, Step},
};
use crate::{
    clock::{Clock, SteadyClock},
    counters::{Counters, add},
    giveway::Beside,
    gossip::Routes,
    limits::{Limits, TICK},
    marks::Marks,
    peer::{LinkEvents, Links, PeerId},
    pool::EnginePool,
    reaper::Missed,
    view::Views,
};

/// Operations that one hold of the lock admits at most, so that a large batch does not keep replies waiting.
const ADMIT_AT_ONCE: usize = 256;

/// Where an operation came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A client: may be forwarded.
    Client,
    /// Another node forwarded it: is never forwarded again.
    Peer,
}

/// What a [`Coordinator`] is made of.
#[derive(Clone)]
pub struct CoordinatorParts {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Time for the ages of request ids.
    pub steady: Arc<SteadyClock>,
    /// The current view.
    pub views: Views,
    /// This node's store.
    pub store: Store,
    /// The links to the other members.
    pub links: Arc<Links>,
    /// Who is down.
    pub routes: Arc<Routes>,
    /// Where misses are loaded.
    pub pool: Arc<dyn EnginePool>,
    /// Limits.
    pub limits: Limits,
    /// Counters.
    pub counters: Arc<Counters>,
    /// Which stores lack something.
    pub marks: Arc<Marks>,
    /// Partitions of which this store has missed a round of reaping.
    pub missed: Arc<Missed>,
    /// The client id of requests that came without one: random, of this process alone.
    pub client_id: u64,
}

/// See the module.
pub struct Coordinator {
    me: Weak<Coordinator>,
    parts: CoordinatorParts,
    state: Mutex<State>,
    draining: watch::Sender<bool>,
    disk_full: AtomicBool,
}

impl Coordinator {
    /// A coordinator with nothing in work. [`Self::run`] must run for deadlines to pass, and [`Self::on_durable`] be
    /// called for the store's log.
    pub fn new(parts: CoordinatorParts) -> Arc<Self> {
        let state = Mutex::new(State::new(
            parts.clock.now(),
            *parts.store.durable().borrow(),
        ));
        Arc::new_cyclic(|me| Coordinator {
            me: me.clone(),
            parts,
            state,
            draining: watch::Sender::new(false),
            disk_full: AtomicBool::new(false),
        })
    }

    /// Takes a batch of operations; each is answered once through `sink`, by its id, refusals included.
    pub fn submit(
        &self,
        operations: Vec<v1::Operation>,
        origin: Origin,
        sink: &Arc<dyn ReplySink>,
    ) {
        let mut operations = operations.into_iter().peekable();
        while operations.peek().is_some() {
            self.event(|step| {
                for operation in operations.by_ref().take(ADMIT_AT_ONCE) {
                    step.admit(operation, origin, sink);
                }
            });
        }
    }

    /// The log is durable to `sequence`. One call per group.
    pub fn on_durable(&self, sequence: u64) {
        self.event(|step| step.durable(sequence));
    }

    /// The view has changed: what was refused for its epoch is sent again.
    pub fn on_view(&self) {
        self.event(|step| step.view_changed());
    }

    /// Partitions have come to other reap generations: what was refused as older is sent again.
    pub fn on_generations(&self) {
        self.event(|step| step.view_changed());
    }

    /// Time has passed: deadlines come due.
    pub fn on_tick(&self) {
        self.event(|step| step.tick());
    }

    /// Drives the deadlines, for ever.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.on_tick();
        }
    }

    /// From now on new operations are refused with `DRAINING`; those in work go on.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Whether this node is draining.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Operations in work.
    pub fn pending(&self) -> usize {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pending()
    }

    /// What background work at this node has to give way to.
    pub fn beside(&self) -> Beside {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.felt.suffers() {
            Beside::Suffering
        } else if state.felt.is_anybody() || state.pending() > 0 {
            Beside::Clients
        } else {
            Beside::Nobody
        }
    }

    /// Whether free space is below the floor for client puts: they are refused with `DISK_FULL` while it is.
    pub fn set_disk_full(&self, full: bool) {
        self.disk_full.store(full, Ordering::Release);
    }

    /// The parts it was made of.
    pub fn parts(&self) -> &CoordinatorParts {
        &self.parts
    }

    /// Plays one event: changes the state under the lock, sends, and delivers what came of it.
    fn event(&self, play: impl FnOnce(&mut Step<'_>)) {
        // Whoever changes the view waits until what is done by the older one is done.
        let held = self.parts.views.enter();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let draining = *self.draining.borrow();
        let disk_full = self.disk_full.load(Ordering::Acquire);
        let mut step = Step::new(&self.parts, &mut state, draining, disk_full);
        play(&mut step);
        let outcome = step.end();
        drop(state);
        drop(held);
        if !outcome.lacking.is_empty() {
            let links = &self.parts.links;
            let lacking = outcome.lacking.into_iter();
            let pairs =
                lacking.filter_map(|(peer, partition)| Some((links.store(peer)?, partition)));
            self.parts.marks.mark(pairs);
        }
        for (partition, generation, floor) in outcome.newer {
            self.parts.missed.heard(partition, generation, floor);
        }
        if !outcome.loads.is_empty() {
            self.load(outcome.loads);
        }
        outcome.deliveries.deliver();
    }

    /// Loads all misses of an event in one job.
    fn load(&self, loads: Loads) {
        add(&self.parts.counters.loads, loads.len());
        let (ids, keys): (Vec<OpId>, Vec<Key>) = loads.into_iter().unzip();
        let (me, store, late) = (self.me.clone(), self.parts.store.clone(), ids.clone());
        let job = move || {
            let partitions = keys.iter().map(|key| store.partition_of(key.token()));
            // Before they are read: the objects may be older than a round of reaping that begins meanwhile.
            let generations = partitions.map(|p| store.generation(p)).collect();
            let reads = store.load(&keys);
            if let Some(me) = me.upgrade() {
                me.on_loaded(late, reads, generations);
            }
        };
        if self.parts.pool.submit(Box::new(job)).is_err() {
            self.event(|step| ids.iter().for_each(|&id| step.load_failed(id)));
        }
    }

    fn on_loaded(
        &self,
        ids: Vec<OpId>,
        reads: Result<Vec<Read>, EngineError>,
        generations: Vec<u64>,
    ) {
        self.event(|step| match reads {
            Ok(reads) => {
                for ((id, read), generation) in ids.into_iter().zip(reads).zip(generations) {
                    step.loaded(id, read, generation);
                }
            }
            Err(error) => {
                tracing::error!(%error, "the engine failed to load");
                ids.iter().for_each(|&id| step.load_failed(id));
            }
        });
    }
}

impl LinkEvents for Coordinator {
    fn on_replies(&self, peer: PeerId, replies: peer::Replies) {
        self.event(|step| step.replies(peer, replies));
    }

    fn on_peer_down(&self, peer: PeerId) {
        self.event(|step| step.peer_down(peer));
    }
}
