//! What was written, when it was acknowledged, and what may be read after a cut.
//!
//! One thread makes all changes, so the log is one line of events, and a recovered store is what it was at one point of
//! that line: at or after the last acknowledged event, at or before the last one begun.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringfort_storage::store::Hint;
use ringfort_storage::version::{Clock, Dot, Object, Sibling};
use ringfort_storage::{Key, Record};

/// One change of one key.
#[derive(Clone)]
pub struct Event {
    /// Its log sequence.
    pub sequence: u64,
    /// Operations recorded before it.
    pub position: usize,
    /// What the store holds for its key from then on.
    pub state: Arc<Record>,
}

/// One change of a key's hint.
#[derive(Clone)]
pub struct HintEvent {
    /// Its log sequence.
    pub sequence: u64,
    /// Operations recorded before it.
    pub position: usize,
    /// What the store held from then on; `None`: no hint.
    pub state: Option<Hint>,
}

/// What one write minted, here or at a peer.
#[derive(Clone)]
pub struct Minted {
    pub sibling: Sibling,
    /// What its writer had read: it replaces what this covers.
    pub context: Clock,
    /// Operations recorded before it.
    pub position: usize,
}

/// The keys of a store with all that ever happened to each.
#[derive(Clone, Default)]
pub struct History {
    pub keys: BTreeMap<Key, KeyHistory>,
    /// Operations recorded → the log was acknowledged up to there.
    pub durable: Vec<(usize, u64)>,
}

#[derive(Clone, Default)]
pub struct KeyHistory {
    /// In order of their sequences.
    pub events: Vec<Event>,
    /// Those of its hint, likewise.
    pub hints: Vec<HintEvent>,
    pub minted: BTreeMap<Dot, Minted>,
    /// Erased once: what a clock says of before does not count any more.
    pub erased: bool,
}

impl History {
    /// What the store held for a key at a log sequence.
    pub fn state(&self, key: &Key, sequence: u64) -> Arc<Record> {
        let events = self.keys.get(key).map_or(&[][..], |key| &key.events);
        let event = events.iter().rev().find(|event| event.sequence <= sequence);
        match event {
            Some(event) => Arc::clone(&event.state),
            None => Arc::new(Record::new(key, Object::empty())),
        }
    }

    /// The hint that the store held of a key at a log sequence.
    pub fn hint(&self, key: &Key, sequence: u64) -> Option<Hint> {
        let events = self.keys.get(key).map_or(&[][..], |key| &key.hints);
        let event = events.iter().rev().find(|event| event.sequence <= sequence);
        event.and_then(|event| event.state.clone())
    }

    /// The last state of a key.
    pub fn last_state(&self, key: &Key) -> Arc<Record> {
        self.state(key, u64::MAX)
    }

    /// The log was acknowledged up to there when that many operations were recorded.
    pub fn durable(&self, position: usize) -> u64 {
        let mark = self
            .durable
            .iter()
            .rev()
            .find(|(from, _)| *from <= position);
        mark.map_or(0, |(_, sequence)| *sequence)
    }

    /// Sequences of the last event that can have begun, and of the first that cannot, when that many operations were
    /// recorded.
    pub fn begun(&self, position: usize) -> (u64, u64) {
        let records = || self.keys.values().flat_map(|key| &key.events);
        let hints = || self.keys.values().flat_map(|key| &key.hints);
        let events = || {
            let records = records().map(|event| (event.position, event.sequence));
            records.chain(hints().map(|event| (event.position, event.sequence)))
        };
        let begun = events().filter(|(at, _)| *at <= position);
        let later = events().filter(|(at, _)| *at > position);
        (
            begun.map(|(_, sequence)| sequence).max().unwrap_or(0),
            later
                .map(|(_, sequence)| sequence)
                .min()
                .unwrap_or(u64::MAX),
        )
    }

    /// The history of a store that ended at `position` and came back with the log up to `sequence`: the beginning of
    /// another life, with all of that acknowledged if it is `durable` by now.
    pub fn go_on(&self, position: usize, sequence: u64, durable: bool) -> Self {
        let keys = self.keys.iter().map(|(key, history)| {
            let events = history.events.iter().filter(|e| e.sequence <= sequence);
            let hints = history.hints.iter().filter(|e| e.sequence <= sequence);
            let minted = history
                .minted
                .iter()
                .filter(|(_, m)| m.position <= position);
            let history = KeyHistory {
                events: events
                    .map(|event| Event {
                        position: 0,
                        ..event.clone()
                    })
                    .collect(),
                hints: hints
                    .map(|event| HintEvent {
                        position: 0,
                        ..event.clone()
                    })
                    .collect(),
                minted: minted
                    .map(|(dot, minted)| {
                        (
                            *dot,
                            Minted {
                                position: 0,
                                ..minted.clone()
                            },
                        )
                    })
                    .collect(),
                erased: history.erased,
            };
            (key.clone(), history)
        });
        let durable = if durable {
            sequence
        } else {
            self.durable(position)
        };
        Self {
            keys: keys.collect(),
            durable: vec![(0, durable)],
        }
    }
}

impl KeyHistory {
    /// Whether an object is one that a store may serve which has lost something of this key: what its clock claims was
    /// written, and it holds of that exactly what nothing else of it replaces. Anything else would make others drop
    /// acknowledged writes, or bring back replaced ones.
    pub fn check_honest(&self, object: &Object) -> Result<(), String> {
        let clock = object.clock();
        for (actor, counter) in clock.iter() {
            let dot = Dot { actor, counter };
            if !self.minted.contains_key(&dot) {
                return Err(format!("it claims {dot:?}, which nobody wrote"));
            }
        }
        let known = |sibling: &Sibling| {
            let minted = self.minted.get(&sibling.dot);
            minted.is_some_and(|minted| minted.sibling == *sibling)
        };
        if let Some(sibling) = object.siblings().iter().find(|s| !known(s)) {
            return Err(format!("it holds {sibling:?}, which nobody wrote"));
        }
        if self.erased {
            return check_values(object);
        }
        let seen = || self.minted.iter().filter(|(dot, _)| clock.covers(**dot));
        let live = seen().filter(|(dot, _)| !seen().any(|(_, by)| by.context.covers(**dot)));
        let live: Vec<&Sibling> = live.map(|(_, minted)| &minted.sibling).collect();
        let held: Vec<&Sibling> = object.siblings().iter().collect();
        if live != held {
            let dots = |siblings: &[&Sibling]| siblings.iter().map(|s| s.dot).collect::<Vec<_>>();
            let (live, held) = (dots(&live), dots(&held));
            return Err(format!(
                "it holds {held:?}, and by its clock should hold {live:?}"
            ));
        }
        check_values(object)
    }
}

/// Whether all values of an object are there and are what was written.
pub fn check_values(object: &Object) -> Result<(), String> {
    for sibling in object.siblings() {
        for value in sibling.values() {
            if value.bytes().is_none() || !value.verify() {
                return Err(format!(
                    "the value of {:?} is not what was written",
                    sibling.dot
                ));
            }
        }
    }
    Ok(())
}
