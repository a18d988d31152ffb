//! The connections to all other members: each has a small lane and one for large objects.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ringfort_proto::peer::{self, peer_client::PeerClient};
use ringfort_ring::{NodeName, StoreId};
use tokio::{sync::watch, task::AbortHandle};
use tonic::transport::Channel;

pub use super::lane::Item;
use super::{
    fence::{Fenced, Fences, Heard},
    lane::{Budget, Lane},
};
use crate::{
    counters::{Counters, add},
    limits::{Limits, PEER_BACKOFF_MAX, PEER_LARGE_BYTES, PEER_MESSAGE_BYTES_MAX},
    net::{Net, connect_channel},
    view::Views,
};

/// The first pause after a connection failed.
const BACKOFF_FIRST: Duration = Duration::from_millis(20);

/// A peer, as this process numbers it: by the order in which it met the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerId(pub u16);

/// What the links tell.
pub trait LinkEvents: Send + Sync + 'static {
    /// Replies came from a peer.
    fn on_replies(&self, peer: PeerId, replies: peer::Replies);
    /// A connection to a peer broke: what it had not answered yet has failed.
    fn on_peer_down(&self, peer: PeerId);
}

/// What links are made of.
#[derive(Clone)]
pub struct LinkParts {
    /// The current view: whom to connect to, and where.
    pub views: Views,
    /// Fences of what is sent.
    pub fences: Fences,
    /// What is learned from fences that come.
    pub heard: Arc<Heard>,
    /// Opens connections.
    pub net: Arc<dyn Net>,
    /// Limits.
    pub limits: Limits,
    /// Counters.
    pub counters: Arc<Counters>,
    /// Seeds the jitter of reconnects: the same on one node every time, different between nodes.
    pub seed: u64,
}

pub(super) struct Link {
    id: PeerId,
    name: NodeName,
    lanes: [Arc<Lane>; 2],
    up: [AtomicBool; 2],
    /// Attempts to connect that have ended, of both lanes.
    attempts: AtomicU64,
    channel: Mutex<Option<Channel>>,
}

impl Link {
    fn is_up(&self) -> bool {
        self.up.iter().all(|up| up.load(Ordering::Acquire))
    }
}

/// How the links stand: for `status` and readiness.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkStates {
    /// By name: whether all connections to that member stand.
    pub connected: BTreeMap<NodeName, bool>,
    /// Whether each member was tried at least once.
    pub all_attempted: bool,
}

/// The links to all other members of the view.
pub struct Links {
    parts: LinkParts,
    links: RwLock<Vec<Arc<Link>>>,
    states: watch::Sender<LinkStates>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Links {
    /// Links to the members of the current view, none connected before [`Self::start`].
    pub fn new(parts: LinkParts) -> Arc<Self> {
        let links = Arc::new(Links {
            parts,
            links: RwLock::new(Vec::new()),
            states: watch::Sender::new(LinkStates::default()),
            tasks: Mutex::new(Vec::new()),
        });
        let view = links.parts.views.current();
        for (index, member) in view.layout().members().iter().enumerate() {
            if index != view.me() {
                links.peer(&member.name);
            }
        }
        links
    }

    /// The number of the peer called `name`; numbers it if it is new.
    pub fn peer(&self, name: &NodeName) -> PeerId {
        let find = |links: &[Arc<Link>]| links.iter().find(|l| l.name == *name).map(|l| l.id);
        if let Some(id) = find(&self.links.read().unwrap_or_else(PoisonError::into_inner)) {
            return id;
        }
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = find(&links) {
            return id;
        }
        let id = PeerId(u16::try_from(links.len()).expect("a layout has at most 4,096 members"));
        let counters = Arc::clone(&self.parts.counters);
        let budget = Arc::new(Budget::new(self.parts.limits.peer_queue_bytes, counters));
        links.push(Arc::new(Link {
            id,
            name: name.clone(),
            lanes: std::array::from_fn(|_| Arc::new(Lane::new(Arc::clone(&budget)))),
            up: Default::default(),
            attempts: AtomicU64::new(0),
            channel: Mutex::new(None),
        }));
        id
    }

    /// Connects, and keeps connected, until [`Self::close`]. New members of later views are linked too.
    pub fn start(self: &Arc<Self>, events: Arc<dyn LinkEvents>) {
        let links = Arc::clone(self);
        let mut views = self.parts.views.subscribe();
        let follow = tokio::spawn(async move {
            let mut started = 0;
            loop {
                started = links.start_from(started, &events);
                if views.changed().await.is_err() {
                    return;
                }
            }
        });
        self.tasks().push(follow.abort_handle());
    }

    /// Starts the lanes of the links numbered from `first`; returns how many links there are.
    fn start_from(self: &Arc<Self>, first: usize, events: &Arc<dyn LinkEvents>) -> usize {
        let view = self.parts.views.current();
        for (index, member) in view.layout().members().iter().enumerate() {
            if index != view.me() {
                self.peer(&member.name);
            }
        }
        let all = self
            .links
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for link in &all[first..] {
            for lane in 0..link.lanes.len() {
                let task = run_lane(Arc::clone(self), Arc::clone(link), lane, Arc::clone(events));
                self.tasks().push(tokio::spawn(task).abort_handle());
            }
        }
        self.publish();
        all.len()
    }

    /// Ends all connections. What is outstanding is answered by nobody any more: it ends by its deadline.
    pub fn close(&self) {
        for task in self.tasks().drain(..) {
            task.abort();
        }
        for link in self
            .links
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            for (lane, up) in link.lanes.iter().zip(&link.up) {
                up.store(false, Ordering::Release);
                lane.close();
            }
        }
        self.publish();
    }

    /// Whether all connections to `peer` stand.
    pub fn connected(&self, peer: PeerId) -> bool {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        links
            .get(usize::from(peer.0))
            .is_some_and(|link| link.is_up())
    }

    /// How the links stand, and every change of it.
    pub fn states(&self) -> watch::Receiver<LinkStates> {
        self.states.subscribe()
    }

    /// A connection for unary calls to `peer`, if one stands.
    pub fn client(&self, peer: PeerId) -> Option<PeerClient<Channel>> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        let link = links.get(usize::from(peer.0))?;
        let channel = link
            .channel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()?;
        Some(limited(channel))
    }

    /// Queues `items` for `peer`, emptying the list. Items that do not go out are put into `rejected` by id.
    pub fn push(&self, peer: PeerId, items: &mut Vec<Item>, rejected: &mut Vec<u64>) {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        let Some(link) = links.get(usize::from(peer.0)) else {
            rejected.extend(items.drain(..).map(|item| item.id()));
            return;
        };
        let before = rejected.len();
        if items.iter().any(|item| item.bytes() > PEER_LARGE_BYTES) {
            let (large, small): (Vec<_>, Vec<_>) = items
                .drain(..)
                .partition(|item| item.bytes() > PEER_LARGE_BYTES);
            link.lanes[LARGE].push(large.into_iter(), rejected);
            link.lanes[SMALL].push(small.into_iter(), rejected);
        } else {
            link.lanes[SMALL].push(items.drain(..), rejected);
        }
        add(&self.parts.counters.not_sent, rejected.len() - before);
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<AbortHandle>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self) {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        let states = LinkStates {
            connected: links
                .iter()
                .map(|link| (link.name.clone(), link.is_up()))
                .collect(),
            all_attempted: links.iter().all(|l| l.attempts.load(Ordering::Acquire) > 0),
        };
        self.states.send_if_modified(|now| {
            let changed = *now != states;
            *now = states;
            changed
        });
    }
}

const SMALL: usize = 0;
const LARGE: usize = 1;

fn limited(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel)
        .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
}

/// Keeps one lane of one link connected.
async fn run_lane(links: Arc<Links>, link: Arc<Link>, lane: usize, events: Arc<dyn LinkEvents>) {
    let mut backoff = Backoff::new(links.parts.seed ^ (u64::from(link.id.0) << 1 | lane as u64));
    loop {
        match connect(&links, &link, lane).await {
            Ok(stream) => {
                if serve_lane(&links, &link, lane, stream, &events).await {
                    backoff.reset();
                }
            }
            Err(why) => {
                tracing::debug!(peer = %link.name, lane, why, "no connection to a peer");
                link.lanes[lane].close();
                link.attempts.fetch_add(1, Ordering::AcqRel);
                links.publish();
            }
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

type Replies = tonic::Streaming<peer::Replies>;

/// Connects and opens the stream of a lane; nothing is queued on it yet.
async fn connect(links: &Links, link: &Link, lane: usize) -> Result<Replies, String> {
    let parts = &links.parts;
    let Some(addr) = parts
        .views
        .current()
        .member(&link.name)
        .map(|m| m.peer_addr.clone())
    else {
        return Err("no member of the layout".to_owned());
    };
    let limit = parts.limits.peer_connect_timeout;
    let attempt = async {
        let channel = connect_channel(&parts.net, &addr, limit)
            .await
            .map_err(|e| format!("{addr}: {e}"))?;
        if lane == LARGE {
            let mut shared = link.channel.lock().unwrap_or_else(PoisonError::into_inner);
            *shared = Some(channel.clone());
        }
        let batches = link.lanes[lane].connect(parts.fences.clone());
        let replies = limited(channel).exchange(batches).await;
        replies
            .map(tonic::Response::into_inner)
            .map_err(|status| format!("{addr}: {status}"))
    };
    // The stream must open too, not the connection alone: a hung process still accepts connections.
    tokio::time::timeout(2 * limit, attempt)
        .await
        .unwrap_or_else(|_| Err("timed out".to_owned()))
}

/// Hands on the replies of one stream until it ends, and then tells that the peer is down. Returns whether it
/// was of use (a reply came, or it stood a while): a peer that only hangs up is not to be called again at once.
async fn serve_lane(
    links: &Links,
    link: &Link,
    lane: usize,
    mut replies: Replies,
    events: &Arc<dyn LinkEvents>,
) -> bool {
    link.lanes[lane].open();
    link.up[lane].store(true, Ordering::Release);
    link.attempts.fetch_add(1, Ordering::AcqRel);
    if link.is_up() {
        tracing::info!(peer = %link.name, "connected");
    }
    links.publish();
    let mut proven = false;
    let mut stands = std::pin::pin!(tokio::time::sleep(PEER_BACKOFF_MAX));
    let why = loop {
        let message = tokio::select! {
            biased;
            message = replies.message() => message,
            () = &mut stands, if !proven => {
                proven = true;
                continue;
            }
        };
        match message {
            Ok(Some(message)) => {
                proven = true;
                if let Err(why) = accept(links, link, message, events) {
                    break why;
                }
            }
            Ok(None) => break "the peer ended the stream".to_owned(),
            Err(status) => break status.to_string(),
        }
    };
    tracing::info!(peer = %link.name, lane, why, "disconnected");
    link.up[lane].store(false, Ordering::Release);
    link.lanes[lane].close();
    if lane == LARGE {
        *link.channel.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
    links.publish();
    events.on_peer_down(link.id);
    proven
}

fn accept(
    links: &Links,
    link: &Link,
    message: peer::Replies,
    events: &Arc<dyn LinkEvents>,
) -> Result<(), String> {
    let parts = &links.parts;
    let fence = message.fence.unwrap_or_default();
    if parts.fences.judge(&fence) == Fenced::Foreign {
        add(&parts.counters.wrong_cluster, 1);
        return Err(parts.fences.wrong_cluster(&fence).to_string());
    }
    parts
        .heard
        .note(StoreId(fence.store_id), fence.durable_sequence);
    events.on_replies(link.id, message);
    Ok(())
}

/// Capped exponential pauses with jitter that is the same on one node every time.
struct Backoff {
    state: u64,
    pause: Duration,
}

impl Backoff {
    fn new(seed: u64) -> Self {
        Backoff {
            state: seed,
            pause: BACKOFF_FIRST,
        }
    }

    fn reset(&mut self) {
        self.pause = BACKOFF_FIRST;
    }

    /// Half the pause, and up to another half by chance.
    fn next(&mut self) -> Duration {
        self.state = xxhash_rust::xxh3::xxh3_64(&self.state.to_le_bytes());
        let half = self.pause / 2;
        self.pause = (self.pause * 2).min(PEER_BACKOFF_MAX);
        half + half.mul_f64((self.state >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_cap_and_is_the_same_for_one_seed() {
        let pauses = |seed| {
            let mut backoff = Backoff::new(seed);
            (0..20).map(|_| backoff.next()).collect::<Vec<_>>()
        };
        assert_eq!(pauses(1), pauses(1));
        assert_ne!(pauses(1), pauses(2));
        assert!(pauses(1).iter().all(|&pause| pause <= PEER_BACKOFF_MAX));
        assert!(pauses(1)[0] < BACKOFF_FIRST * 2);
        assert!(pauses(1)[19] >= PEER_BACKOFF_MAX / 2);
    }
}
