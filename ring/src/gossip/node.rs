//! What one node knows of another.

use super::{
    FORGET_AFTER_MS, HIDE_AFTER_MS,
    entry::{Age, Beat, Entry, Suspicion, Topic, Value},
    link::LinkHealth,
    rumour::PassedOn,
};
use crate::{
    id::StoreId,
    phi::{Arrivals, Expected},
};

/// Whether a node is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing proves yet that it lives: it is only known by hearsay.
    Unheard,
    /// Its heartbeats come.
    Up,
    /// Two observers (or all there are) suspect it.
    Down,
}

/// How a node stands with this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeHealth {
    /// Whether it is there.
    pub standing: Standing,
    /// Whether this node suspects it.
    pub suspected: bool,
    /// How suspicious its silence is, in thousandths.
    pub phi_milli: u64,
    /// Since its last heartbeat came, by whatever way, in ms.
    pub silence_ms: u64,
    /// How often it was down and came back without a new start.
    pub flaps: u64,
    /// How direct exchanges with it went.
    pub link: LinkHealth,
}

/// One known node.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub beat: Beat,
    /// Ascending by topic.
    pub entries: Vec<Entry>,
    /// Whether a layout lists it.
    pub listed: bool,
    /// When its heartbeat last rose here; before that, when it was first known.
    pub fresh_ms: u64,
    pub standing: Standing,
    /// Whether this node suspects it since its latest known heartbeat.
    pub suspected: bool,
    /// Whose word on the present silence this node has passed on.
    pub passed_on: PassedOn,
    pub arrivals: Arrivals,
    pub flaps: u64,
    pub link: LinkHealth,
}

impl Beat {
    /// Of a store that nobody has told of yet.
    pub(super) fn unheard(store: StoreId) -> Beat {
        Beat {
            store,
            generation: 0,
            counter: 0,
            content: 0,
        }
    }
}

impl Node {
    pub fn new(beat: Beat, now_ms: u64) -> Node {
        Node {
            beat,
            entries: Vec::new(),
            listed: false,
            fresh_ms: now_ms,
            standing: Standing::Unheard,
            suspected: false,
            passed_on: PassedOn::default(),
            arrivals: Arrivals::default(),
            flaps: 0,
            link: LinkHealth::default(),
        }
    }

    pub fn entry(&self, topic: Topic) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.topic == topic)
    }

    /// Takes the place of the entry on that topic.
    pub fn put(&mut self, entry: Entry) {
        match self
            .entries
            .binary_search_by_key(&entry.topic, |known| known.topic)
        {
            Ok(place) => self.entries[place] = entry,
            Err(place) => self.entries.insert(place, entry),
        }
    }

    /// Whom the node suspects.
    pub fn suspects(&self) -> &[Suspicion] {
        match self.entry(Topic::SUSPECTS).map(|entry| &entry.value) {
            Some(Value::Suspects(suspects)) => suspects,
            _ => &[],
        }
    }

    /// A later heartbeat came. Returns whether the node is up again, or for the first time.
    pub fn rise(&mut self, age: Age, now_ms: u64) -> bool {
        let known = self.beat.age();
        self.beat.generation = age.generation;
        self.beat.counter = age.counter;
        self.passed_on = PassedOn::default();
        if known.generation == 0 {
            // Hearsay: whether it rises is to be seen.
            self.fresh_ms = now_ms;
            return false;
        }
        let restarted = age.generation > known.generation;
        if self.standing != Standing::Unheard && !restarted {
            // The gap that ended in a return counts, too: the same silence is less suspicious the next time.
            self.arrivals.record(now_ms.saturating_sub(self.fresh_ms));
        }
        if self.standing == Standing::Down && !restarted {
            self.flaps = self.flaps.saturating_add(1);
        }
        self.fresh_ms = now_ms;
        self.suspected = false;
        let is_news = self.standing != Standing::Up;
        self.standing = Standing::Up;
        is_news
    }

    pub fn silence_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.fresh_ms)
    }

    /// Whether others are told of this node. One that is in no layout and long gone is not, so that all forget it.
    pub fn is_told(&self, now_ms: u64) -> bool {
        self.beat.counter > 0
            && (self.listed
                || self.standing == Standing::Up
                || self.silence_ms(now_ms) < HIDE_AFTER_MS)
    }

    pub fn is_forgotten(&self, now_ms: u64) -> bool {
        !self.listed && self.standing != Standing::Up && self.silence_ms(now_ms) >= FORGET_AFTER_MS
    }

    pub fn health(&self, now_ms: u64, is_me: bool, expected: Expected) -> NodeHealth {
        let silence_ms = if is_me { 0 } else { self.silence_ms(now_ms) };
        NodeHealth {
            standing: self.standing,
            suspected: self.suspected,
            phi_milli: self.arrivals.phi_milli(silence_ms, expected),
            silence_ms,
            flaps: self.flaps,
            link: self.link,
        }
    }
}
