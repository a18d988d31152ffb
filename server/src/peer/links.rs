//! The connections to all other members: each has a small lane and one for large objects.
//!
//! A link leads to a store, not to a name: a member with a new disk is another peer, and the old store's link ends (I9).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use ringfort_proto::peer::{self, peer_client::PeerClient};
use ringfort_ring::{Member, NodeName, StoreId};
use tokio::{sync::watch, task::AbortHandle};
use tonic::transport::Channel;

pub use super::lane::Item;
use super::{
    dial::run_lane,
    fence::{Fences, Heard},
    lane::{Budget, Lane},
};
use crate::{
    counters::{Counters, add},
    gossip::Routes,
    limits::{Limits, PEER_LARGE_BYTES, PEER_MESSAGE_BYTES_MAX},
    net::Net,
    view::{View, Views},
};

/// A peer, as this process numbers it: by the order in which it met the stores.
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
    /// Where nodes are now.
    pub routes: Arc<Routes>,
    /// Opens connections.
    pub net: Arc<dyn Net>,
    /// Limits.
    pub limits: Limits,
    /// Counters.
    pub counters: Arc<Counters>,
    /// Seeds the jitter of reconnects: the same on one node every time, different between nodes.
    pub seed: u64,
}

/// One link: its lanes, and how they stand.
pub(super) struct Link {
    pub id: PeerId,
    pub store: StoreId,
    /// For the log.
    pub name: NodeName,
    pub lanes: [Arc<Lane>; 2],
    pub up: [AtomicBool; 2],
    /// Whether an attempt to connect has ended, by lane.
    pub attempted: [AtomicBool; 2],
    pub channel: Mutex<Option<Channel>>,
}

impl Link {
    fn was_attempted(&self) -> bool {
        self.attempted
            .iter()
            .all(|ended| ended.load(Ordering::Acquire))
    }

    /// Whether all connections stand.
    pub fn is_up(&self) -> bool {
        self.up.iter().all(|up| up.load(Ordering::Acquire))
    }
}

/// How the links stand: for `status` and readiness.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkStates {
    /// By the stores of the members: whether all connections to that one stand.
    pub connected: BTreeMap<StoreId, bool>,
    /// Whether each member was tried at least once.
    pub all_attempted: bool,
}

/// The links to all other members of the view.
pub struct Links {
    pub(super) parts: LinkParts,
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
        for member in others(&view) {
            links.peer(member);
        }
        links
    }

    /// The number of the member's store; numbers it if it is new.
    pub fn peer(&self, member: &Member) -> PeerId {
        let store = member.store_id;
        let find = |links: &[Arc<Link>]| links.iter().find(|l| l.store == store).map(|l| l.id);
        if let Some(id) = find(&self.links.read().unwrap_or_else(PoisonError::into_inner)) {
            return id;
        }
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = find(&links) {
            return id;
        }
        let id = u16::try_from(links.len()).expect("one life of a process sees fewer new stores");
        let id = PeerId(id);
        let counters = Arc::clone(&self.parts.counters);
        let budget = Arc::new(Budget::new(self.parts.limits.peer_queue_bytes, counters));
        links.push(Arc::new(Link {
            id,
            store,
            name: member.name.clone(),
            lanes: std::array::from_fn(|_| Arc::new(Lane::new(Arc::clone(&budget)))),
            up: Default::default(),
            attempted: Default::default(),
            channel: Mutex::new(None),
        }));
        id
    }

    /// The store that a peer is.
    pub fn store(&self, peer: PeerId) -> Option<StoreId> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        Some(links.get(usize::from(peer.0))?.store)
    }

    /// Connects, and keeps connected, until [`Self::close`]. New members of later views are linked too; links to stores that
    /// take part no more end.
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
        for member in others(&view) {
            self.peer(member);
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

    /// Tells how the links stand, if that has changed.
    pub(super) fn publish(&self) {
        let view = self.parts.views.current();
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        let links: Vec<_> = links
            .iter()
            .filter(|link| view.present(link.store).is_some())
            .collect();
        let states = LinkStates {
            connected: links
                .iter()
                .map(|link| (link.store, link.is_up()))
                .collect(),
            all_attempted: links.iter().all(|l| l.was_attempted()),
        };
        self.states.send_if_modified(|now| {
            let changed = *now != states;
            *now = states;
            changed
        });
    }
}

/// All members of live layouts but this node, and but those that are excused.
fn others(view: &View) -> impl Iterator<Item = &Member> {
    let me = view.my_store();
    let takes_part = move |store| store != me && view.present(store).is_some();
    view.members()
        .filter(move |member| takes_part(member.store_id))
}

pub(super) const SMALL: usize = 0;
pub(super) const LARGE: usize = 1;

/// A client of that connection, with the limits of messages between nodes.
pub(super) fn limited(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel)
        .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
}
