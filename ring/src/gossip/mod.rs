//! Gossip: heartbeats, a little typed state of each node, and who is down.
//!
//! *Invariants.* What is gossiped spreads and decides nothing: layouts come from decrees, and who is down changes routing only
//! (I6). Each state has one writer, its node, and only goes forward ([`entry`]), so that any order of messages, each any number
//! of times, leads all to the same. A node is **down** when two observers (or all there are) suspect it since its latest known
//! heartbeat; observers that are suspected themselves do not count (`judge`); or when its own last word was that it stops
//! ([`Gossip::leave`]). It is up again with the next heartbeat.
//!
//! Pure: `now` and the seed of all chance are handed in, and effects are returned. Whoever drives this calls
//! [`Gossip::tick`] once in [`Gossip::period_ms`] and sends its digest to the targets, and hands each message that comes to
//! [`Gossip::receive`] and sends back the reply. What either has in a hurry goes out at once, as a digest does (`rumour`).
//!
//! ```
//! use ringfort_ring::{StoreId, gossip::{Gossip, Message, Settings, Topic, Value}};
//!
//! let (ash, birch) = (StoreId(1), StoreId(2));
//! let mut a = Gossip::new(ash, 1, Settings::default(), 7);
//! let mut b = Gossip::new(birch, 1, Settings::default(), 8);
//! b.set(Topic::EPOCH, Value::number(3)).expect("small");
//! // a has heard nothing of b yet: somebody's address came from a list of seeds.
//! let digest = a.tick(1_000, 1).spread.message;
//! let answer = b.receive(1_001, ash, digest).expect("sound").reply.expect("answers a digest");
//! let last = a.receive(1_002, birch, answer).expect("sound").reply.expect("b wants to know of a");
//! assert!(b.receive(1_003, ash, last).expect("sound").reply.is_none());
//! assert_eq!(a.value(birch, Topic::EPOCH), Some(&Value::number(3)));
//! assert!(a.is_up(birch) && b.is_up(ash));
//! ```

mod draw;
pub mod entry;
mod exchange;
mod judge;
pub mod link;
pub mod message;
mod node;
mod rumour;
#[cfg(test)]
mod tests;
mod tick;

use std::sync::Arc;

use self::{
    draw::{Draw, mix},
    message::{ENTRIES_MAX, ENTRY_BYTES_MAX, NODES_MAX},
    node::Node,
};
pub use self::{
    entry::{Age, Beat, Entry, Suspicion, Topic, Value},
    link::LinkHealth,
    message::{BadMessage, Message, News},
    node::{NodeHealth, Standing},
    tick::{Spread, Target, Tick},
};
use crate::{
    id::StoreId,
    layout::{Member, Trackers},
    phi::Expected,
};

/// A node that stalls this much longer than a tick, in ms, does not count the time as the silence of others.
pub const STALL_MS: u64 = 500;
/// A silence this long is suspicious, however irregular the node's heartbeats were, in ms.
pub const SILENCE_MAX_MS: u64 = 15_000;
/// A node in no layout that is not up is told of no more after so long, in ms …
pub const HIDE_AFTER_MS: u64 = 10 * 60_000;
/// … and forgotten after so long, in ms: by then nobody tells of it.
pub const FORGET_AFTER_MS: u64 = 30 * 60_000;

/// What gossip is tuned by. The defaults notice a killed node within 5 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Time between two ticks, in ms.
    pub tick_ms: u64,
    /// Nodes that each tick talks to.
    pub fanout: usize,
    /// A silence with a larger φ is suspicious, in thousandths.
    pub phi_milli_max: u64,
    /// Heartbeats are never expected to be more regular than this, in ms.
    pub deviation_min_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            tick_ms: 1_000,
            fanout: 3,
            phi_milli_max: 8_000,
            deviation_min_ms: 250,
        }
    }
}

impl Settings {
    fn expected(&self) -> Expected {
        Expected {
            gap_ms: self.tick_ms,
            deviation_min_ms: self.deviation_min_ms,
        }
    }
}

/// What came to be different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The node is up.
    Up(StoreId),
    /// The node is down.
    Down(StoreId),
    /// The node says something new on that topic.
    Entry(StoreId, Topic),
    /// Others know a later life of this node than it does: it took a later generation. Once after a start of a node without
    /// a good clock this is normal; again and again it means that two processes run one store.
    Renewed(u64),
}

/// What came of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// To be sent back to the sender.
    pub reply: Option<Message>,
    /// To be sent to others at once, who answer if they know better: somebody is suspected, or has left.
    pub hurry: Option<Spread>,
    /// What came to be different.
    pub changes: Vec<Change>,
}

/// A value that no entry may hold. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// It is too large.
    #[error("{0} bytes are too many for one entry of gossip; {ENTRY_BYTES_MAX} are the most")]
    TooLarge(usize),
    /// There are too many entries.
    #[error("a node gossips {ENTRIES_MAX} entries at most")]
    TooMany,
}

/// One node's part in gossip.
#[derive(Debug, Clone)]
pub struct Gossip {
    me: StoreId,
    settings: Settings,
    draw: Draw,
    /// All nodes that are known, this one too, ascending by store.
    nodes: Vec<Node>,
    /// When this was last called; `None` before.
    active_ms: Option<u64>,
    /// When silences were last judged.
    suspected_ms: u64,
    /// See [`Gossip::leave`].
    has_left: bool,
}

impl Gossip {
    /// The part of the store `me`, in a life that is later than all before: `generation` rises from start to start (a wall clock
    /// in ms will do; if it went back, the first exchange mends it). All chance comes from `seed`.
    pub fn new(me: StoreId, generation: u64, settings: Settings, seed: u64) -> Gossip {
        let beat = Beat {
            store: me,
            generation: generation.max(1),
            counter: 1,
            content: 0,
        };
        let mut node = Node::new(beat, 0);
        node.standing = Standing::Up;
        node.listed = true;
        Gossip {
            me,
            settings,
            draw: Draw::new(seed ^ mix(me.0)),
            nodes: vec![node],
            active_ms: None,
            suspected_ms: 0,
            has_left: false,
        }
    }

    /// The time between two ticks of this node, in ms: within 5 % of the setting, always the same here, different elsewhere.
    pub fn period_ms(&self) -> u64 {
        self.settings.tick_ms * (950 + mix(self.me.0) % 101) / 1_000
    }

    /// Says something of this node to all others, with the next exchanges. What is a promise must be durable before.
    ///
    /// # Errors
    /// [`SetError`].
    pub fn set(&mut self, topic: Topic, value: Value) -> Result<(), SetError> {
        if value.bytes() > ENTRY_BYTES_MAX {
            return Err(SetError::TooLarge(value.bytes()));
        }
        let me = self.mine();
        let node = &mut self.nodes[me];
        match node.entry(topic) {
            Some(known) if known.value == value => return Ok(()),
            None if node.entries.len() >= ENTRIES_MAX => return Err(SetError::TooMany),
            _ => {}
        }
        self.write(topic, value);
        Ok(())
    }

    /// Writes an entry of this node's own.
    fn write(&mut self, topic: Topic, value: Value) {
        let me = self.mine();
        let node = &mut self.nodes[me];
        node.beat.counter = node.beat.counter.saturating_add(1);
        node.beat.content = node.beat.counter;
        let version = node.beat.content;
        node.put(Entry {
            topic,
            version,
            value,
        });
    }

    /// The members of all layouts that this node knows. They are expected to be heard of; others may come and go. Of a store that
    /// was not heard of yet, the layout's word counts as its listing.
    pub fn follow<'a>(&mut self, now_ms: u64, members: impl IntoIterator<Item = &'a Member>) {
        self.nodes
            .iter_mut()
            .for_each(|node| node.listed = node.beat.store == self.me);
        for member in members {
            let Some(node) = self.known_or_new(member.store_id, now_ms) else {
                continue;
            };
            node.listed = true;
            if node.beat.generation == 0 {
                node.put(Entry {
                    topic: Topic::LISTING,
                    version: 0,
                    value: Value::Listing(Arc::new(member.clone())),
                });
            }
        }
    }

    /// What was known of another store in an earlier life of this node. Whatever is heard of that store itself replaces it.
    pub fn remember(&mut self, now_ms: u64, store: StoreId, topic: Topic, value: Value) {
        let Some(node) = self.known_or_new(store, now_ms) else {
            return;
        };
        if node.beat.generation == 0 && value.bytes() <= ENTRY_BYTES_MAX {
            node.beat.counter += 1;
            node.beat.content = node.beat.counter;
            let version = node.beat.content;
            node.put(Entry {
                topic,
                version,
                value,
            });
        }
    }

    /// What is known of `store`, or the begin of it; `None`: the table is full.
    fn known_or_new(&mut self, store: StoreId, now_ms: u64) -> Option<&mut Node> {
        let index = match self.find(store) {
            Ok(index) => index,
            Err(_) if self.nodes.len() >= NODES_MAX => return None,
            Err(place) => {
                let node = Node::new(Beat::unheard(store), now_ms);
                self.nodes.insert(place, node);
                place
            }
        };
        Some(&mut self.nodes[index])
    }

    /// An exchange that this node opened with `store` was answered after `round_trip_ms`.
    pub fn answered(&mut self, now_ms: u64, store: StoreId, round_trip_ms: u64) {
        if let Ok(index) = self.find(store) {
            self.nodes[index].link.answered(now_ms, round_trip_ms);
        }
    }

    /// An exchange that this node opened with `store` failed.
    pub fn failed(&mut self, store: StoreId) {
        if let Ok(index) = self.find(store) {
            self.nodes[index].link.failed();
        }
    }

    /// Draws up to `count` of `items` to their front; returns how many. For choices of whoever drives this, so that all chance
    /// comes from one seed.
    pub fn pick<T>(&mut self, items: &mut [T], count: usize) -> usize {
        self.draw.bring_forward(items, count)
    }

    /// This node's store.
    pub fn me(&self) -> StoreId {
        self.me
    }

    /// This node's heartbeat.
    pub fn my_beat(&self) -> Beat {
        self.nodes[self.mine()].beat
    }

    /// The stores of all known nodes, this one too, ascending.
    pub fn stores(&self) -> impl Iterator<Item = StoreId> + '_ {
        self.nodes.iter().map(|node| node.beat.store)
    }

    /// The latest known heartbeat of `store`.
    pub fn beat(&self, store: StoreId) -> Option<Beat> {
        self.find(store).ok().map(|index| self.nodes[index].beat)
    }

    /// What `store` last said on that topic, as far as it is known here.
    pub fn value(&self, store: StoreId, topic: Topic) -> Option<&Value> {
        let entry = self.nodes[self.find(store).ok()?].entry(topic)?;
        Some(&entry.value)
    }

    /// The numbers that `store` last said on that topic.
    pub fn numbers(&self, store: StoreId, topic: Topic) -> Option<&[u64]> {
        match self.value(store, topic)? {
            Value::Numbers(numbers) => Some(numbers),
            _ => None,
        }
    }

    /// The trackers that `store` last told of, as far as they are known here; in an earlier life of it, too, if [`Self::remember`]ed.
    pub fn trackers(&self, store: StoreId) -> Option<Trackers> {
        self.value(store, Topic::TRACKERS)?.as_trackers()
    }

    /// How `store` describes itself: its name, and its addresses as they are now.
    pub fn listing(&self, store: StoreId) -> Option<&Arc<Member>> {
        match self.value(store, Topic::LISTING)? {
            Value::Listing(member) => Some(member),
            _ => None,
        }
    }

    /// Whether `store` is up.
    pub fn is_up(&self, store: StoreId) -> bool {
        self.find(store)
            .is_ok_and(|index| self.nodes[index].standing == Standing::Up)
    }

    /// How `store` stands with this node at `now_ms`.
    pub fn health(&self, now_ms: u64, store: StoreId) -> Option<NodeHealth> {
        let node = &self.nodes[self.find(store).ok()?];
        Some(node.health(now_ms, store == self.me, self.settings.expected()))
    }

    fn find(&self, store: StoreId) -> Result<usize, usize> {
        self.nodes
            .binary_search_by_key(&store, |node| node.beat.store)
    }

    /// The place of this node.
    fn mine(&self) -> usize {
        self.find(self.me).expect("a node never forgets itself")
    }

    /// Notes that time has passed. A stall of this node is not the silence of others.
    fn wake(&mut self, now_ms: u64) {
        let since = now_ms.saturating_sub(self.active_ms.unwrap_or(now_ms));
        if since > self.settings.tick_ms + STALL_MS {
            let excess = since - self.settings.tick_ms;
            for node in &mut self.nodes {
                node.fresh_ms = (node.fresh_ms + excess).min(now_ms);
            }
        }
        self.active_ms = Some(now_ms);
    }
}
