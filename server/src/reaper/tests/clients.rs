//! What clients, repairs and fallbacks do: objects that are on their way.

use std::collections::BTreeSet;

use ringfort_storage::{
    Key,
    store::{Hint, MergeRefused, WriteLimits, Written},
    version::{Context, Dot, Floor, NewPayload, Object, Payload, RequestId, Value, Write},
};

use super::{
    message::{Bug, Message},
    site::Owed,
    world::{FALLBACK, Minted, NEWCOMER, OWNERS, PARTITION, World},
};

impl World {
    /// A client writes through an owner that is synced.
    pub fn write(&mut self) {
        let (at, key) = (self.dice.below(OWNERS), self.key());
        if !self.sites[at].is_synced() {
            return;
        }
        let base = self.sites[at].read(&key);
        let object = base.object();
        let live = object.siblings().iter();
        let live: Vec<Dot> = live
            .filter(|s| matches!(s.payload, Payload::Value(_)))
            .map(|s| s.dot)
            .collect();
        let delete = !live.is_empty() && !self.dice.one_in(4);
        let context =
            (delete || self.dice.one_in(2) && !object.is_empty()).then(|| Context::from(object));
        let payload = match delete {
            true => NewPayload::Purge,
            false => NewPayload::Value(Value::new(bytes::Bytes::from_static(b"v"))),
        };
        self.requests += 1;
        let write = Write {
            request: RequestId {
                client: 1,
                sequence: self.requests,
            },
            lowest_unanswered: self.requests,
            at_ms: 1,
            expires_at_ms: 0,
            payload,
            context: context.clone(),
        };
        let limits = WriteLimits::default();
        let written = self.sites[at].store.write(&key, &write, 1, &limits);
        let Ok(Written::Applied {
            record,
            dot,
            sequence,
            generation,
            ..
        }) = written
        else {
            panic!("{written:?}");
        };
        if context.is_some() {
            self.replaced.extend(live);
        }
        let number = (!delete).then(|| {
            self.minted.push(Minted {
                key: key.clone(),
                dot,
                copies: BTreeSet::new(),
                is_acked: false,
            });
            self.minted.len() - 1
        });
        if let Some(number) = number {
            self.sites[at].waiting.push((sequence, number));
        }
        let message = |hint| Message::Store {
            key: key.clone(),
            object: record.object().clone(),
            read_under: generation,
            hint,
            write: number,
        };
        for owner in (0..OWNERS).filter(|owner| *owner != at) {
            if self.dice.one_in(8) {
                let fallback = self.fallback_for(at);
                self.flying.push((at, fallback, message(true)));
            } else {
                self.flying.push((at, owner, message(false)));
            }
        }
    }

    /// A fallback that this site knows.
    pub fn fallback_for(&mut self, site: usize) -> usize {
        match self.sites[site].epoch {
            1 => FALLBACK,
            _ => FALLBACK + self.dice.below(2),
        }
    }

    /// Somebody reads an object, and sends it some time later: a repair, an exchange, a second sending.
    pub fn copy(&mut self) {
        if self.dice.one_in(2) || self.read.is_empty() {
            let (at, key) = (self.dice.below(OWNERS), self.key());
            let read_under = self.sites[at].generation();
            let record = self.sites[at].read(&key);
            let is_absent = self.sites[at].store.is_absent(&key, record.leaf());
            if !record.object().is_empty() && !is_absent && self.sites[at].is_synced() {
                let object = record.object().clone();
                self.read.push((at, key, object, read_under));
            }
            return;
        }
        let number = self.dice.below(self.read.len());
        let (at, key, object, read_under) = self.read.swap_remove(number);
        let hint = self.dice.one_in(4);
        let to = match hint {
            true => self.fallback_for(at),
            false => self.dice.below(OWNERS),
        };
        let message = Message::Store {
            key,
            object,
            read_under,
            hint,
            write: None,
        };
        // It goes to a member that the sender did not know when it read only if it reads again.
        if to != NEWCOMER {
            self.flying.push((at, to, message));
        }
    }

    pub fn offer_hint(&mut self) {
        let at = FALLBACK + self.dice.below(2);
        let hints = self.sites[at].store.hints_after(None, 10, 1 << 20);
        if hints.is_empty() {
            return;
        }
        let hint = hints[self.dice.below(hints.len())].clone();
        let owner = self.dice.below(OWNERS);
        self.flying.push((at, owner, Message::Delivery { hint }));
    }

    pub fn take(
        &mut self,
        from: usize,
        to: usize,
        (key, object, read_under): (Key, Object, u64),
        (hint, write): (bool, Option<usize>),
    ) {
        let under = match self.bug {
            Bug::TakeOlder => u64::MAX,
            _ => read_under,
        };
        let site = &mut self.sites[to];
        let refused = if hint {
            self.figures.hints += 1;
            let taken = site.store.take_hint(
                &key,
                object,
                Floor::default(),
                under.min(read_under.max(site.generation())),
                5,
            );
            taken.map_err(drop)
        } else {
            site.store
                .merge(&key, object, under)
                .map_err(|refused| match refused {
                    MergeRefused::StaleGeneration { .. } => (),
                    MergeRefused::Full(full) => panic!("{full}"),
                })
        };
        match (refused, write) {
            (Ok(sequence), Some(write)) => site.waiting.push((sequence, write)),
            (Ok(_), None) => {}
            (Err(()), _) => {
                self.figures.refused += 1;
                let store = &self.sites[to].store;
                let at = (store.generation(PARTITION), store.floor(PARTITION));
                self.heard(from, at);
            }
        }
    }

    pub fn take_delivery(&mut self, from: usize, to: usize, hint: Hint) {
        let store = &self.sites[to].store;
        let is_older = hint.generation < store.generation(PARTITION)
            && store.reaping(PARTITION).is_none()
            && self.bug != Bug::TakeOlder;
        let under = match self.bug {
            Bug::TakeOlder => u64::MAX,
            _ => hint.generation,
        };
        let sequence = match is_older {
            true => 0,
            false => match store.merge_hint(&hint.key, hint.record.object().clone(), under) {
                Ok(sequence) => sequence,
                Err(MergeRefused::StaleGeneration { .. }) => 0,
                Err(MergeRefused::Full(full)) => panic!("{full}"),
            },
        };
        self.sites[to].owed.push(Owed {
            sequence,
            to: from,
            message: Message::Delivered { hint, owner: to },
        });
    }

    pub fn note_delivered(&mut self, at: usize, hint: &Hint, owner: usize) {
        let place = (at, hint.key.clone());
        let leaf = hint.record.leaf();
        let had = self.had.entry(place).or_insert((leaf, BTreeSet::new()));
        if had.0 != leaf {
            *had = (leaf, BTreeSet::new());
        }
        had.1.insert(owner);
        if had.1.len() == OWNERS {
            let forgotten = self.sites[at].store.forget_hint(hint);
            forgotten.expect("there is room");
            self.had.remove(&(at, hint.key.clone()));
        }
    }
}
