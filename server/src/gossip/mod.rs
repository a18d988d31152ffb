//! Gossip between nodes: drives the pure core of `ring` by clock and network, and tells the rest of the node what came of it.
//!
//! Keeps I6 (what is heard changes routing only, see [`Routes`]) and I9 (each message carries its fence; a foreign cluster is
//! refused, an older epoch is not: it learns of the newer one here).
//!
//! What other parts of the node have to tell goes in by [`Gossiper::say`], durable first if it is a promise; what was heard is read
//! by [`Gossiper::read`], and [`Gossiper::told`] says when there is something new.

mod calls;
mod figures;
mod routes;
pub mod wire;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use ringfort_proto::peer;
use ringfort_ring::{
    Member, StoreId,
    gossip::{
        Change, Gossip, Message, NodeHealth, SetError, Settings, Spread, Target, Topic, Value,
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tonic::Status;

use self::calls::{Calls, call};
pub use self::{figures::figures, routes::Routes};
use crate::{
    clock::Clock,
    counters::{Counters, add},
    net::Net,
    node::Event,
    peer::{
        Fences, Heard,
        fence::{Fenced, OTHER_CLUSTER},
    },
    view::Views,
};

/// Exchanges of this node at once, at most; more are left out.
const CALLS_MAX: usize = 64;
/// Rumours that wait to be sent, at most, which takes but a moment; who misses one hears of it by the next ticks.
const HURRIES_MAX: usize = 64;
/// Addresses of one seed that are tried at once.
const SEED_ADDRESSES_AT_ONCE: usize = 3;
/// The durable sequence is told once in so many ticks: it always changes, and each telling travels to all.
const SEQUENCE_EVERY_TICKS: u64 = 10;

/// What gossip is made of.
pub struct GossipParts {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The current view.
    pub views: Views,
    /// Fences of what is sent.
    pub fences: Fences,
    /// Highest durable sequences, as heard.
    pub heard: Arc<Heard>,
    /// How far this node's own log is durable.
    pub durable: watch::Receiver<u64>,
    /// Connections.
    pub net: Arc<dyn Net>,
    /// One attempt to connect takes at most so long.
    pub connect_timeout: Duration,
    /// This node, with its addresses as they are now.
    pub me: Member,
    /// Addresses to ask when nobody else is to be found, `host:port`.
    pub seeds: Vec<String>,
    /// What routing reads.
    pub routes: Arc<Routes>,
    /// Counters.
    pub counters: Arc<Counters>,
    /// Told who comes and goes.
    pub events: Arc<dyn Fn(Event) + Send + Sync>,
    /// All chance comes from here.
    pub seed: u64,
}

/// See the module.
pub struct Gossiper {
    core: Mutex<Gossip>,
    parts: GossipParts,
    began: Instant,
    calls: Calls,
    told: watch::Sender<u64>,
    hurry: mpsc::Sender<Spread>,
    hurried: Mutex<Option<mpsc::Receiver<Spread>>>,
}

impl Gossiper {
    /// Answers others at once; asks others while [`Self::run`] runs.
    pub fn new(parts: GossipParts) -> Arc<Self> {
        // A life is later than all before by the wall clock; where that went back, the first exchange mends it.
        let generation = parts.clock.wall_ms();
        let settings = Settings::default();
        let mut core = Gossip::new(parts.me.store_id, generation, settings, parts.seed);
        core.follow(0, parts.views.current().members());
        let listing = Value::Listing(Arc::new(parts.me.clone()));
        core.set(Topic::LISTING, listing)
            .expect("a listing is far smaller than an entry may be");
        // What is known of an earlier life goes on to those that have not heard of it.
        let view = parts.views.current();
        for (store, sequence) in parts.heard.all() {
            if store != parts.me.store_id && view.present(store).is_some() {
                core.remember(0, store, Topic::DURABLE_SEQUENCE, Value::number(sequence));
            }
        }
        let (hurry, hurried) = mpsc::channel(HURRIES_MAX);
        Arc::new(Gossiper {
            core: Mutex::new(core),
            began: parts.clock.now(),
            calls: Calls::new(Arc::clone(&parts.net), parts.connect_timeout),
            told: watch::Sender::new(0),
            hurry,
            hurried: Mutex::new(Some(hurried)),
            parts,
        })
    }

    fn core(&self) -> std::sync::MutexGuard<'_, Gossip> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        let since = self.parts.clock.now().saturating_duration_since(self.began);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Reads what is known.
    pub fn read<T>(&self, read: impl FnOnce(&Gossip) -> T) -> T {
        read(&self.core())
    }

    /// Tells all others, within a few ticks. What is a promise must be durable before.
    ///
    /// # Errors
    /// [`SetError`].
    pub fn say(&self, topic: Topic, value: Value) -> Result<(), SetError> {
        self.core().set(topic, value)
    }

    /// Changes whenever somebody told something new.
    pub fn told(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }

    /// How that node stands with this one; `None` of a store that was never heard of.
    pub fn health(&self, store: StoreId) -> Option<NodeHealth> {
        self.core().health(self.now_ms(), store)
    }

    /// The nodes that are up and wait to be added to a layout, in the order of their names, but for those that are `listed`.
    pub fn waiting(&self, listed: impl Fn(StoreId) -> bool) -> Vec<Arc<Member>> {
        let core = self.core();
        let waits = |store: &StoreId| {
            core.is_up(*store)
                && core.numbers(*store, Topic::WAITING) == Some(&[1])
                && !listed(*store)
        };
        let stores = core.stores().filter(waits);
        let mut waiting: Vec<_> = stores
            .filter_map(|store| core.listing(store).cloned())
            .collect();
        waiting.sort_by(|a, b| (&a.name, a.store_id).cmp(&(&b.name, b.store_id)));
        waiting
    }

    /// Gossips for ever. Calls end with it.
    pub async fn run(self: Arc<Self>) {
        let hurried = self
            .hurried
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(mut hurried) = hurried else { return };
        let period = Duration::from_millis(self.core().period_ms());
        let mut calls = JoinSet::new();
        let mut views = self.parts.views.subscribe();
        let mut next = self.parts.clock.now();
        for tick in 0_u64.. {
            let spread = self.tick(tick, &mut views);
            self.send(&mut calls, spread);
            next = (next + period).max(self.parts.clock.now());
            let mut sleep = std::pin::pin!(tokio::time::sleep_until(next));
            loop {
                tokio::select! {
                    biased;
                    () = &mut sleep => break,
                    Some(spread) = hurried.recv() => self.send(&mut calls, spread),
                    Some(_) = calls.join_next() => {}
                }
            }
        }
    }

    /// Tells some others that this node is gone, and raises no heartbeat any more.
    pub async fn goodbye(&self) {
        let spread = self.core().leave(self.now_ms());
        let told = spread.targets.into_iter();
        join_all(told.map(|target| self.reach(target, spread.message.clone()))).await;
    }

    fn tick(&self, tick: u64, views: &mut watch::Receiver<Arc<crate::view::View>>) -> Spread {
        let now_ms = self.now_ms();
        let mut core = self.core();
        if tick == 0 || views.has_changed().unwrap_or(false) {
            let view = views.borrow_and_update().clone();
            core.follow(now_ms, view.members());
        }
        if tick.is_multiple_of(SEQUENCE_EVERY_TICKS) {
            let sequence = *self.parts.durable.borrow();
            self.keep(core.set(Topic::DURABLE_SEQUENCE, Value::number(sequence)));
        }
        let tick = core.tick(now_ms, self.parts.seeds.len());
        self.note(&core, &tick.changes);
        drop(core);
        self.hurry(tick.hurry);
        tick.spread
    }

    /// Has a rumour sent at once.
    fn hurry(&self, rumour: Option<Spread>) {
        if let Some(spread) = rumour {
            // Without room: see HURRIES_MAX.
            let _ = self.hurry.try_send(spread);
        }
    }

    /// One number always fits; only a full list of topics could refuse it.
    fn keep(&self, set: Result<(), SetError>) {
        if let Err(error) = set {
            tracing::error!(%error, "an entry of gossip is left out: a bug");
        }
    }

    /// Starts the exchanges of one digest or rumour.
    fn send(self: &Arc<Self>, calls: &mut JoinSet<()>, spread: Spread) {
        for target in spread.targets {
            while calls.try_join_next().is_some() {}
            if calls.len() >= CALLS_MAX {
                return;
            }
            let (me, message) = (Arc::clone(self), spread.message.clone());
            calls.spawn(async move { me.reach(target, message).await });
        }
    }

    async fn reach(&self, target: Target, message: Message) {
        match target {
            Target::Node(store) => {
                let addr = self.read(|core| Some(core.listing(store)?.peer_addr.clone()));
                let Some(addr) = addr else { return };
                let client = self.calls.keep(&addr);
                match self.exchange(&client, message).await {
                    Ok((from, trip_ms)) if from == store => {
                        self.core().answered(self.now_ms(), store, trip_ms);
                    }
                    // Another node has taken over its address.
                    Ok(_) => self.core().failed(store),
                    Err(why) => {
                        add(&self.parts.counters.gossip_failed, 1);
                        tracing::debug!(%store, addr, why, "no gossip with a node");
                        self.calls.forget(&addr);
                        self.core().failed(store);
                    }
                }
            }
            Target::Seed(number) => {
                let Some(seed) = self.parts.seeds.get(number) else {
                    return;
                };
                let mut addrs = self.calls.resolve(seed).await;
                let picked = self.core().pick(&mut addrs, SEED_ADDRESSES_AT_ONCE);
                let exchanges = addrs[..picked]
                    .iter()
                    .map(|addr| self.reach_seed(addr, message.clone()));
                join_all(exchanges).await;
            }
        }
    }

    async fn reach_seed(&self, addr: &str, message: Message) {
        let client = self.calls.fresh(addr);
        if let Err(why) = self.exchange(&client, message).await {
            // Who was started with the address of another cluster is to hear of it.
            match why.contains(OTHER_CLUSTER) {
                true => tracing::warn!(addr, why, "a seed is a node of another cluster"),
                false => tracing::debug!(addr, why, "no gossip with a seed"),
            }
        }
    }

    /// One exchange; tells who answered, and after how many ms.
    async fn exchange(
        &self,
        client: &peer::peer_client::PeerClient<tonic::transport::Channel>,
        message: Message,
    ) -> Result<(StoreId, u64), String> {
        let asked_ms = self.now_ms();
        let reply = call(client.clone(), self.outgoing(Some(&message))).await?;
        let trip_ms = self.now_ms().saturating_sub(asked_ms);
        let fence = reply.fence.unwrap_or_default();
        let words = |status: Status| status.message().to_owned();
        if let Some(news) = self.take(&fence, reply).map_err(words)? {
            let last = call(client.clone(), self.outgoing(Some(&news))).await?;
            // Whom the news suspect wrongly, if any.
            self.take(&last.fence.unwrap_or_default(), last)
                .map_err(words)?;
        }
        Ok((StoreId(fence.store_id), trip_ms))
    }

    fn outgoing(&self, message: Option<&Message>) -> peer::GossipMessage {
        let wire = wire::to_wire(self.parts.fences.fence(), message);
        let bytes = prost::Message::encoded_len(&wire);
        add(&self.parts.counters.gossip_bytes_out, bytes);
        add(&self.parts.counters.gossip_messages, 1);
        wire
    }

    /// Answers a message of another node.
    ///
    /// # Errors
    /// It comes from another cluster, or no sound node sends it; nothing was changed.
    pub fn answer(&self, wire: peer::GossipMessage) -> Result<peer::GossipMessage, Status> {
        let fence = wire.fence.unwrap_or_default();
        let reply = self.take(&fence, wire)?;
        Ok(self.outgoing(reply.as_ref()))
    }

    /// Takes up what came; gives the next message of that exchange.
    fn take(
        &self,
        fence: &peer::Fence,
        wire: peer::GossipMessage,
    ) -> Result<Option<Message>, Status> {
        if self.parts.fences.judge(fence) == Fenced::Foreign {
            add(&self.parts.counters.wrong_cluster, 1);
            let failure = self.parts.fences.wrong_cluster(fence);
            tracing::warn!(%failure, "gossip with a node of another cluster is refused");
            return Err(failure.into());
        }
        let from = StoreId(fence.store_id);
        let view = self.parts.views.current();
        if view.history().decree().excused().contains_key(&from) {
            // The fence of the answer tells it that there is a newer decree; nothing of it is believed any more.
            tracing::debug!(%from, "gossip of an excused store is not taken");
            return Ok(None);
        }
        let bad = |error: &dyn std::fmt::Display| {
            tracing::warn!(%from, %error, "gossip that makes no sense");
            Status::invalid_argument(error.to_string())
        };
        let message = wire::from_wire(wire).map_err(|error| bad(&error))?;
        // A seed's name may lead here.
        let (Some(message), false) = (message, from == self.parts.me.store_id) else {
            return Ok(None);
        };
        self.parts.heard.note(from, fence.durable_sequence);
        let now_ms = self.now_ms();
        let mut core = self.core();
        let received = core
            .receive(now_ms, from, message)
            .map_err(|error| bad(&error))?;
        self.note(&core, &received.changes);
        drop(core);
        self.hurry(received.hurry);
        Ok(received.reply)
    }

    /// Tells the rest of the node what came to be different.
    fn note(&self, core: &Gossip, changes: &[Change]) {
        let mut moved = false;
        for change in changes {
            match *change {
                Change::Up(store) => self.come_or_go(core, store, true),
                Change::Down(store) => self.come_or_go(core, store, false),
                Change::Entry(store, Topic::LISTING) => {
                    if let Some(listing) = core.listing(store) {
                        self.parts.routes.set_peer_addr(store, &listing.peer_addr);
                        moved = true;
                    }
                }
                Change::Entry(store, Topic::DURABLE_SEQUENCE) => {
                    let said = core.numbers(store, Topic::DURABLE_SEQUENCE);
                    if let Some([sequence]) = said {
                        self.parts.heard.note(store, *sequence);
                    }
                }
                Change::Entry(..) => {}
                Change::Renewed(generation) => {
                    tracing::info!(generation, "others know a later life of this node");
                }
            }
        }
        if moved {
            let known: std::collections::BTreeSet<&str> = core
                .stores()
                .filter_map(|store| Some(core.listing(store)?.peer_addr.as_str()))
                .collect();
            self.calls.retain(|addr| known.contains(addr));
        }
        if changes.iter().any(|c| matches!(c, Change::Entry(..))) {
            self.told.send_modify(|count| *count += 1);
        }
    }

    fn come_or_go(&self, core: &Gossip, store: StoreId, up: bool) {
        self.parts.routes.set_down(store, !up);
        let Some(listing) = core.listing(store) else {
            return;
        };
        let peer = &listing.name;
        if up {
            tracing::info!(%peer, "the node is up");
        } else {
            tracing::warn!(%peer, "the node is down");
        }
        (self.parts.events)(Event::Peer {
            name: peer.to_string(),
            store,
            up,
        });
    }
}
