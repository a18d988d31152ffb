//! Reaping: tombstones go once nothing older than they can come back. Keeps I4: time only offers them; that every owner and every
//! member takes part is what lets them go.
//!
//! A *round* of one partition leads from reap generation g to g + 1:
//!
//! 1. *Confirm.* The first owner finds what is past the undelete window and the grace, and asks every owner whether its own
//!    object is exactly that tombstone, durably.
//! 2. *Commit and advance.* If all do, by the newest decree and while one layout lives, the list is made durable here, and every
//!    member told: from then on it refuses what was read under g or below. What is listed counts as nothing, stays, and still merges.
//! 3. *Finish.* Once every member is at g + 1 and holds no hint taken under g or below, the owners erase what is listed.
//!
//! Whoever has a list carries its round on; all steps can be repeated. A member that is silent stops the round and nothing else;
//! one that is excused is not waited for. [`core`] decides, `answers` is the side of those who are asked, [`Missed`] what a store does
//! that was not asked: only a directory that was put back, or that is new to the partition.
//!
//! Keeps I7: few rounds at a time, few partitions in a request, bounded lists, one request under way to each member.

mod answers;
mod carry;
pub mod core;
pub mod figures;
mod missed;
mod wire;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ringfort_ring::{PartitionId, StoreId};
use ringfort_storage::{
    Store,
    mutants::{Mutant, is_planted},
    store::{REAPED_BYTES_MAX, REAPED_TOMBS_MAX, ReapWindow},
};
use tokio::time::Instant;

pub use self::{
    answers::Answerer,
    figures::Figures,
    missed::{At, Missed},
};
use self::{
    core::{Action, Core, Known, Stalled, TURN},
    wire::LISTS_AT_ONCE,
};
use crate::{
    clock::{Clock, SteadyClock},
    coordinator::Coordinator,
    council::Council,
    counters::Counters,
    gossip::Routes,
    mover::local::Local,
    net::Net,
    peer::{Bulk, Fences, Links},
    pool::EnginePool,
    view::{View, Views},
};

/// It is looked for something to do after this, and up to as much more by the node's jitter.
const LOOK: Duration = Duration::from_millis(500);
/// Between two steps of the same rounds: others' work goes on.
const STEP: Duration = Duration::from_millis(5);
/// Rounds that this node has to do with at once, at most: the lists of all owners together have room in each store.
const ROUNDS_MAX: usize = LISTS_AT_ONCE;
/// Partitions that are walked through at one look, at most.
const WALKS_MAX: usize = 4;
/// A partition of which a round was not confirmed is left alone for so long.
const SETBACK: Duration = Duration::from_secs(2);
/// A round that takes so long is stalled, and operators are told.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// What a worker is made of.
pub struct Parts {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Time for the ages of request ids, and of deletes.
    pub steady: Arc<SteadyClock>,
    /// The current view.
    pub views: Views,
    /// This node's store.
    pub store: Store,
    /// Knows the newest decree.
    pub council: Arc<Council>,
    /// Where what blocks is done.
    pub pool: Arc<dyn EnginePool>,
    /// Connections of its own.
    pub net: Arc<dyn Net>,
    /// Who is down, and where nodes are now.
    pub routes: Arc<Routes>,
    /// Who is connected.
    pub links: Arc<Links>,
    /// Fences of what is asked.
    pub fences: Fences,
    /// Told of new generations; whose clients it gives way to.
    pub coordinator: Arc<Coordinator>,
    /// What this store answers, to others and to itself.
    pub answerer: Answerer,
    /// What is told of it.
    pub figures: Arc<Figures>,
    /// Counters.
    pub counters: Arc<Counters>,
    /// When a tombstone is offered.
    pub window: ReapWindow,
    /// Any number; fixes the jitter.
    pub jitter: u64,
}

/// The worker of one node.
pub struct Reaper {
    parts: Parts,
    local: Local,
    bulk: Bulk,
    core: Core,
    /// Partitions of which a round was not confirmed, and until when they are left alone.
    setbacks: BTreeMap<u32, Instant>,
    /// Something could be reaped since then, and no round is begun, because these members are down.
    held_up: Option<(Instant, Vec<StoreId>)>,
}

/// The newest decree, as far as this node's view goes.
struct Cluster {
    view: Arc<View>,
    members: BTreeSet<StoreId>,
}

impl Cluster {
    fn of(view: Arc<View>) -> Cluster {
        let members = view.history().decree().present();
        Cluster {
            members: members.keys().copied().collect(),
            view,
        }
    }

    /// The same, as the core is told.
    fn known<'a>(&'a self, owners: &'a dyn Fn(u32) -> BTreeSet<StoreId>) -> Known<'a> {
        Known {
            epoch: self.view.epoch(),
            members: &self.members,
            owners,
            me: self.view.my_store(),
        }
    }

    fn owners(&self, partition: u32) -> BTreeSet<StoreId> {
        let mut owners = self.view.owners_everywhere(PartitionId(partition));
        owners.retain(|owner| self.members.contains(owner));
        owners
    }
}

impl Reaper {
    /// A worker that has done nothing.
    pub fn new(parts: Parts) -> Reaper {
        Reaper {
            local: Local::new(&parts.store, &parts.pool, &parts.views, &parts.coordinator),
            bulk: Bulk::new(&parts.net, &parts.routes, &parts.fences),
            core: Core::default(),
            setbacks: BTreeMap::new(),
            held_up: None,
            parts,
        }
    }

    /// Works for ever.
    pub async fn run(mut self) {
        loop {
            let cluster = Cluster::of(self.parts.views.current());
            self.follow_lists(&cluster);
            self.find(&cluster).await;
            let worked = self.work().await;
            self.tell();
            let rest = match worked {
                true => STEP,
                false => {
                    let jitter = self.parts.jitter % (LOOK.as_millis() as u64);
                    LOOK + Duration::from_millis(jitter)
                }
            };
            tokio::time::sleep(rest).await;
        }
    }

    /// Carries on the rounds of which this store has lists: at once those that it may have begun, others when whoever began them had
    /// the time to.
    fn follow_lists(&mut self, cluster: &Cluster) {
        let now = self.parts.clock.now();
        let held = self.parts.store.partitions_reaping();
        for partition in &held {
            if let Some(reaping) = self.parts.store.reaping(*partition) {
                let due = now + TURN * self.rank(cluster, *partition);
                let to = (*partition, reaping.generation);
                self.core.drive(now, due, to, &reaping.tombs);
            }
        }
        for partition in self.core.driven() {
            if !held.contains(&partition) {
                self.core.is_over(partition);
            }
        }
    }

    /// How many owners are before this store.
    fn rank(&self, cluster: &Cluster, partition: u32) -> u32 {
        let view = &cluster.view;
        let owners = view.owners(PartitionId(partition)).iter();
        let stores = owners.map(|o| view.layout().members()[usize::from(*o)].store_id);
        let present = stores.filter(|store| cluster.members.contains(store));
        present.take_while(|s| *s != view.my_store()).count() as u32
    }

    /// Begins rounds of partitions in which something is past the window.
    async fn find(&mut self, cluster: &Cluster) {
        let (view, now) = (&cluster.view, self.parts.clock.now());
        // A wall clock may be ahead: deletes are dated by the other.
        let now_ms = self.parts.clock.wall_ms().min(self.parts.steady.ms());
        self.setbacks.retain(|_, until| *until > now);
        let is_due = |partition: &PartitionId| {
            let due = self.parts.store.next_reapable_ms(partition.0);
            due.is_some_and(|due| due <= now_ms)
                && view.coordinates(*partition)
                && !self.setbacks.contains_key(&partition.0)
                && !self.core.has(partition.0)
                && self.parts.store.reaping(partition.0).is_none()
                && self.rank(cluster, partition.0) == 0
        };
        let room = ROUNDS_MAX.saturating_sub(self.core.len()).min(WALKS_MAX);
        let due = view.layout().partition_ids().filter(is_due);
        let due: Vec<PartitionId> = due.take(room).collect();
        // A round that waits for somebody holds up changes of the layout.
        let members = cluster.members.iter().copied();
        let down: Vec<StoreId> = members.filter(|store| !self.is_up(*store)).collect();
        if !due.is_empty() && !down.is_empty() {
            let since = self.held_up.as_ref().map_or(now, |(since, _)| *since);
            self.held_up = Some((since, down));
            return;
        }
        self.held_up = None;
        if view.live().len() > 1 {
            return;
        }
        for partition in due {
            self.walk(partition, now_ms).await;
        }
    }

    fn is_up(&self, store: StoreId) -> bool {
        let states = self.parts.links.states();
        let connected = states.borrow().connected.get(&store) == Some(&true);
        let is_me = store == self.parts.views.current().my_store();
        is_me || connected && !self.parts.routes.is_down(store)
    }

    async fn walk(&mut self, partition: PartitionId, now_ms: u64) {
        let window = self.parts.window;
        // Before it is walked through: what is found is of that generation, or the owners confirm nothing.
        let generation = self.parts.store.generation(partition.0);
        let found = self.local.block(move |store| {
            store.reapable(
                partition.0,
                now_ms,
                window,
                REAPED_TOMBS_MAX,
                REAPED_BYTES_MAX,
            )
        });
        match found.await {
            Ok(found) if is_planted(Mutant::ReapByTime) => {
                for tomb in found.tombs {
                    let _ = self.parts.store.erase(&tomb.key);
                }
            }
            Ok(found) => {
                let now = self.parts.clock.now();
                self.core.begin(now, partition.0, generation, found.tombs);
            }
            // The store says so itself, and the node ends.
            Err(error) => tracing::error!(%error, "the engine failed in a walk"),
        }
    }

    /// Does all that can be done now. Gives whether that was anything.
    async fn work(&mut self) -> bool {
        let mut worked = false;
        loop {
            let (view, actions) = self.next();
            if actions.is_empty() {
                return worked;
            }
            worked = true;
            self.carry_out(&view, actions).await;
        }
    }

    fn next(&mut self) -> (Arc<View>, Vec<Action>) {
        let cluster = Cluster::of(self.parts.views.current());
        let owners = |partition| cluster.owners(partition);
        let before = self.core.confirming();
        let now = self.parts.clock.now();
        let actions = self.core.next(now, &cluster.known(&owners));
        self.note_setbacks(before);
        (cluster.view, actions)
    }

    /// Rounds that were given up are begun again later.
    fn note_setbacks(&mut self, before: Vec<u32>) {
        let until = self.parts.clock.now() + SETBACK;
        let given_up = before.into_iter().filter(|p| !self.core.has(*p));
        self.setbacks.extend(given_up.map(|p| (p, until)));
    }

    /// Says what is under way.
    fn tell(&self) {
        let cluster = Cluster::of(self.parts.views.current());
        let owners = |partition| cluster.owners(partition);
        let now = self.parts.clock.now();
        let known = cluster.known(&owners);
        let mut stalled = self.core.stalled(now, &known, PATIENCE);
        if let Some((since, down)) = &self.held_up
            && now.saturating_duration_since(*since) >= PATIENCE
        {
            stalled.push(Stalled {
                since: *since,
                waits_for: down.clone(),
            });
        }
        self.parts
            .figures
            .stands(now, self.core.driven().len(), stalled);
    }
}
