//! The worker that delivers hints: to every owner by all live layouts, oldest first, as soon as those are up.
//!
//! Keeps I2 (a hint goes only when all of its owners have it durably, this node itself among them) and I3 (owners are counted
//! by the view that every message names: one that has promised more refuses). Keeps I7: pages of bounded size, one at a time, at
//! a bounded rate; what is too old is dropped, and its owners are marked for anti-entropy.
//!
//! I8: it runs every day. With all owners up there is nothing to deliver.

pub mod core;
pub mod figures;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use ringfort_proto::peer::{self, DeliveryOutcome};
use ringfort_ring::{PartitionId, StoreId};
use ringfort_storage::{Key, Store, store::Hint};
use tokio::time::Instant;

use self::{
    core::{Book, Standing},
    figures::Figures,
};
use crate::{
    clock::{Clock, SteadyClock},
    coordinator::Coordinator,
    gossip::Routes,
    limits::{DELIVERIES_MAX, DELIVERY_BYTES_MAX},
    marks::Marks,
    mover::pace::Pace,
    net::Net,
    peer::{Bulk, Fences, Links},
    view::{View, Views},
    wire::encode_object,
};

/// When nothing is heard it is looked again after this, and up to as much more by the node's jitter: gossip tells nobody.
const LOOK: Duration = Duration::from_millis(500);
/// Between two looks, so that hints that come one by one go in batches.
const GATHER: Duration = Duration::from_millis(20);
/// All hints are looked at after this, news or none: some become old, and some are merged with later ones.
const ALL_EVERY: Duration = Duration::from_secs(15);
/// How long a delivery may take.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);
/// A store that did not answer, or had no room, is left alone for so long.
const SETBACK: Duration = Duration::from_secs(1);

/// What a worker is made of.
pub struct Parts {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Time for the ages of hints.
    pub steady: Arc<SteadyClock>,
    /// The current view.
    pub views: Views,
    /// This node's store.
    pub store: Store,
    /// Connections of its own, so that a delivery does not hold up operations.
    pub net: Arc<dyn Net>,
    /// Who is down, and where nodes are now.
    pub routes: Arc<Routes>,
    /// Who is connected.
    pub links: Arc<Links>,
    /// Fences of what is sent.
    pub fences: Fences,
    /// Whose clients it gives way to.
    pub coordinator: Arc<Coordinator>,
    /// Where it is kept who lacks something.
    pub marks: Arc<Marks>,
    /// Hints that are older are dropped.
    pub age_max: Duration,
    /// Bytes a second that are delivered, at most.
    pub bytes_per_s: u64,
    /// Any number; fixes the jitter.
    pub jitter: u64,
}

/// Who is up, as this node sees it now.
#[derive(Clone)]
pub(super) struct Standings {
    links: Arc<Links>,
    routes: Arc<Routes>,
}

impl Standings {
    fn is_up(&self, store: StoreId) -> bool {
        let states = self.links.states();
        let connected = states.borrow().connected.get(&store) == Some(&true);
        connected && !self.routes.is_down(store)
    }
}

/// See the module.
pub struct Handoff {
    parts: Parts,
    bulk: Bulk,
    book: Book,
    pace: Mutex<Pace>,
    standings: Standings,
    /// How others stood when they were last looked at.
    known: BTreeMap<StoreId, Standing>,
    /// Until when a store is left alone.
    setbacks: BTreeMap<StoreId, Instant>,
    figures: Arc<Figures>,
}

/// Which hints a pass looks at.
#[derive(Clone, PartialEq, Eq)]
enum From {
    /// All.
    Oldest,
    /// Those that were taken after this one.
    After((u64, Key)),
}

/// A hint of a page, with its owners and those that it is sent to.
struct Parcel {
    hint: Hint,
    owners: Vec<(StoreId, Standing)>,
    /// As it is sent.
    delivery: peer::Delivery,
}

impl Handoff {
    /// A worker that has done nothing.
    pub fn new(parts: Parts) -> Handoff {
        let standings = Standings {
            links: Arc::clone(&parts.links),
            routes: Arc::clone(&parts.routes),
        };
        let figures = Figures::new(
            parts.store.clone(),
            Arc::clone(&parts.steady),
            parts.views.clone(),
            standings.clone(),
        );
        Handoff {
            bulk: Bulk::new(&parts.net, &parts.routes, &parts.fences),
            book: Book::default(),
            pace: Mutex::new(Pace::new(parts.bytes_per_s)),
            standings,
            known: BTreeMap::new(),
            setbacks: BTreeMap::new(),
            figures: Arc::new(figures),
            parts,
        }
    }

    /// What it tells.
    pub fn figures(&self) -> Arc<Figures> {
        Arc::clone(&self.figures)
    }

    /// Works for ever.
    pub async fn run(mut self) {
        let mut taken = self.parts.store.hints_taken();
        let mut links = self.parts.links.states();
        let mut view = self.parts.views.current();
        let mut all_at = self.parts.clock.now();
        let mut from = From::Oldest;
        loop {
            taken.mark_unchanged();
            links.mark_unchanged();
            let current = self.parts.views.current();
            let changed = !Arc::ptr_eq(&current, &view);
            if changed {
                // An owner may have been given the partition anew since, and erased what it had.
                self.book.clear();
                view = current;
            }
            let now = self.parts.clock.now();
            if self.look_around(&view) || changed || now >= all_at {
                from = From::Oldest;
                all_at = now + ALL_EVERY;
            }
            self.drop_old(&view);
            from = self.pass(&view, from).await;
            tokio::time::sleep(GATHER).await;
            let jitter = self.parts.jitter % (LOOK.as_millis() as u64);
            let patience = LOOK + Duration::from_millis(jitter);
            // Store and links live as long as this worker.
            tokio::select! {
                _ = taken.changed() => {}
                _ = links.changed() => {}
                () = tokio::time::sleep(patience) => {}
            }
        }
    }

    /// Looks how the others stand; gives whether anybody came up.
    fn look_around(&mut self, view: &View) -> bool {
        let (now, now_ms) = (self.parts.clock.now(), self.parts.steady.ms());
        self.setbacks.retain(|_, until| *until > now);
        self.known.retain(|store, _| view.present(*store).is_some());
        let mut news = false;
        for member in view.members() {
            let store = member.store_id;
            let is_up = self.standings.is_up(store) && !self.setbacks.contains_key(&store);
            let known = self.known.entry(store).or_insert(Standing::Down);
            match (is_up, *known) {
                (true, Standing::Down) => {
                    *known = Standing::Up { since_ms: now_ms };
                    news = true;
                }
                (false, Standing::Up { .. }) => *known = Standing::Down,
                _ => {}
            }
        }
        news
    }

    fn owners(&self, view: &View, partition: PartitionId) -> Vec<(StoreId, Standing)> {
        let present = view.owners_everywhere(partition).into_iter();
        let present = present.filter(|store| view.present(*store).is_some());
        let standing = |store| match store == view.my_store() {
            // It takes its own once it has acknowledged that it is one.
            true if view.takes_writes(partition) => Standing::Up { since_ms: u64::MAX },
            true => Standing::Down,
            false => self.known.get(&store).copied().unwrap_or(Standing::Down),
        };
        present.map(|store| (store, standing(store))).collect()
    }

    /// Drops what is too old.
    fn drop_old(&mut self, view: &View) {
        let age_ms = self.parts.age_max.as_millis() as u64;
        let before_ms = self.parts.steady.ms().saturating_sub(age_ms);
        loop {
            let Ok(dropped) = self.parts.store.drop_hints(before_ms, DELIVERIES_MAX) else {
                return; // no room in the log: the next look tries again
            };
            if dropped.is_empty() {
                return;
            }
            tracing::warn!(
                count = dropped.len(),
                "hints were dropped for their age: anti-entropy will bring what their owners lack"
            );
            for key in dropped {
                self.book.forget(&key);
                let partition = PartitionId(self.parts.store.partition_of(key.token()));
                mark(view, partition, &self.parts.marks);
            }
        }
    }

    /// Delivers what can be delivered, oldest first; gives where the next pass goes on if nothing but hints is new.
    async fn pass(&mut self, view: &View, from: From) -> From {
        let mut after = match from {
            From::Oldest => None,
            From::After(place) => Some(place),
        };
        loop {
            let page =
                self.parts
                    .store
                    .hints_after(after.as_ref(), DELIVERIES_MAX, DELIVERY_BYTES_MAX);
            let Some(last) = page.last() else {
                return after.map_or(From::Oldest, From::After);
            };
            after = Some((last.taken_ms, last.key.clone()));
            self.page(view, page).await;
            if self.parts.views.current().epoch() != view.epoch() {
                return From::Oldest;
            }
        }
    }

    /// Delivers one page, to all at once, and forgets what all have.
    async fn page(&mut self, view: &View, page: Vec<Hint>) {
        let now_ms = self.parts.steady.ms();
        let mut parcels = Vec::new();
        let mut to: BTreeMap<StoreId, Vec<usize>> = BTreeMap::new();
        for hint in page {
            let partition = PartitionId(self.parts.store.partition_of(hint.key.token()));
            let owners = self.owners(view, partition);
            let targets = self.book.targets(&hint, &owners, now_ms);
            if targets.is_empty() && !self.book.is_through(&hint, &owners) {
                continue;
            }
            let place = parcels.len();
            for store in targets {
                to.entry(store).or_default().push(place);
            }
            parcels.push(Parcel {
                delivery: peer::Delivery {
                    key: hint.key.framed().clone(),
                    leaf: hint.record.leaf(),
                    object: encode_object(hint.record.object()),
                    reap_generation: hint.generation,
                },
                hint,
                owners,
            });
        }
        if parcels.is_empty() {
            return tokio::task::yield_now().await;
        }
        let began = self.parts.clock.now();
        let sent = to.iter().map(|(store, places)| {
            let chosen = places.iter().map(|place| &parcels[*place]);
            self.deliver(view, *store, chosen.collect())
        });
        let sent = futures::future::join_all(sent).await;
        let mut bytes = 0;
        for ((store, places), durable) in to.iter().zip(sent) {
            if durable.len() < places.len() || durable.contains(&false) {
                let until = self.parts.clock.now() + SETBACK;
                self.setbacks.insert(*store, until);
                self.known.insert(*store, Standing::Down);
            }
            for (place, _) in places.iter().zip(durable).filter(|(_, durable)| *durable) {
                bytes += parcels[*place].delivery.object.len() as u64;
                self.book.note(&parcels[*place].hint, *store);
            }
        }
        self.forget(view, &parcels);
        self.rest(began, bytes).await;
    }

    /// Forgets the hints that all owners have, unless there are others by now.
    fn forget(&mut self, view: &View, parcels: &[Parcel]) {
        // Whoever took it under this epoch had promised nothing that a later owner rests on.
        if self.parts.views.current().epoch() != view.epoch() {
            return;
        }
        for parcel in parcels {
            let (hint, owners) = (&parcel.hint, &parcel.owners);
            if !self.book.is_through(hint, owners) {
                continue;
            }
            match self.parts.store.forget_hint(hint) {
                Ok(true) => {
                    self.book.forget(&hint.key);
                    self.figures.delivered.fetch_add(1, Relaxed);
                }
                // Another came meanwhile: that one is delivered next.
                Ok(false) => {}
                Err(full) => tracing::debug!(%full, "a delivered hint stays for now"),
            }
        }
    }

    /// Gives a store its parcels; says of each whether it has it durably.
    async fn deliver(&self, view: &View, store: StoreId, parcels: Vec<&Parcel>) -> Vec<bool> {
        if store == view.my_store() {
            return self.keep(view, parcels).await;
        }
        let deliveries = parcels.iter().map(|parcel| parcel.delivery.clone());
        let request = peer::DeliverRequest {
            fence: None,
            epoch: view.epoch().0,
            deliveries: deliveries.collect(),
        };
        let question = |mut client: peer::peer_client::PeerClient<_>, fence| {
            let request = peer::DeliverRequest {
                fence: Some(fence),
                ..request
            };
            async move { client.deliver(request).await }
        };
        let asked = self.bulk.ask(view, store, DELIVERY_TIMEOUT, question).await;
        let answer: peer::DeliverResponse = match asked {
            Ok(answer) => answer,
            Err(unreached) => {
                tracing::debug!(%unreached, "hints wait");
                return Vec::new();
            }
        };
        if answer.outcomes.len() != parcels.len() {
            tracing::warn!(%store, "an answer to another delivery");
            return Vec::new();
        }
        let durable = answer.outcomes().map(|outcome| {
            if outcome == DeliveryOutcome::Bad {
                tracing::warn!(%store, "a hint was refused as damaged");
            }
            outcome == DeliveryOutcome::Durable
        });
        durable.collect()
    }

    /// This node has become an owner itself: it merges what it holds into its own records.
    async fn keep(&self, view: &View, parcels: Vec<&Parcel>) -> Vec<bool> {
        let store = &self.parts.store;
        let (mut kept, mut last) = (Vec::with_capacity(parcels.len()), 0);
        {
            let held = self.parts.views.enter();
            for parcel in parcels {
                let key = &parcel.hint.key;
                let is_mine = held.takes_writes(PartitionId(store.partition_of(key.token())));
                let object = || parcel.hint.record.object().clone();
                let merged = match is_mine && !held.refuses_write(view.epoch()) {
                    true => store.merge(key, object()).ok(),
                    false => None,
                };
                kept.push(merged.is_some());
                last = last.max(merged.unwrap_or(0));
            }
        }
        let mut durable = store.durable();
        if durable.wait_for(|now| *now >= last).await.is_err() {
            // A log that has ended makes nothing durable any more, and the node ends with it.
            std::future::pending::<()>().await;
        }
        kept
    }

    async fn rest(&self, began: Instant, bytes: u64) {
        let now = self.parts.clock.now();
        let beside = self.parts.coordinator.beside();
        let rest = {
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.rest(now, bytes, now - began, beside)
        };
        tokio::time::sleep(rest).await;
    }
}

/// Marks what a start found missing among hints: the owners of these keys may lack something.
pub fn mark_damaged(view: &View, store: &Store, keys: &[Key], marks: &Marks) {
    let partitions: BTreeSet<u32> = keys.iter().map(|k| store.partition_of(k.token())).collect();
    for partition in partitions.into_iter().map(PartitionId) {
        mark(view, partition, marks);
    }
}

/// Each of the owners may lack something.
fn mark(view: &View, partition: PartitionId, marks: &Marks) {
    let owners = view.owners_everywhere(partition).into_iter();
    let others = owners.filter(|owner| *owner != view.my_store());
    marks.mark(others.map(|owner| (owner, partition)));
}

#[cfg(test)]
mod tests;
