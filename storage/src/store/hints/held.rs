//! All hints of a store, by key and by age, and which of them the engine has yet to hear of.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Hint, HintChange, HintStats};
use crate::key::Key;
use crate::record::Record;

/// Bytes that a hint costs beside its key and its record: two places in maps, and one among the changes.
const HINT_OVERHEAD_BYTES: usize = 256;

/// One hint without its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) record: Arc<Record>,
    pub(super) generation: u64,
    pub(super) taken_ms: u64,
    /// Log sequence of its last change; 0: before this start, and so durable.
    pub(super) sequence: u64,
}

impl Held {
    /// With what came later: the lower generation and the earlier time stay.
    pub(super) fn merged(
        &self,
        record: Arc<Record>,
        generation: u64,
        taken_ms: u64,
        sequence: u64,
    ) -> Self {
        Self {
            record,
            generation: self.generation.min(generation),
            taken_ms: self.taken_ms.min(taken_ms),
            sequence,
        }
    }

    pub(super) fn hint(&self, key: Key) -> Hint {
        Hint {
            key,
            record: Arc::clone(&self.record),
            generation: self.generation,
            taken_ms: self.taken_ms,
        }
    }

    /// What tells this hint from any other: the leaf covers the key, too.
    fn mark(&self) -> u64 {
        let mut stamp = [0; 16];
        stamp[..8].copy_from_slice(&self.generation.to_le_bytes());
        stamp[8..].copy_from_slice(&self.taken_ms.to_le_bytes());
        xxh3_64_with_seed(&stamp, self.record.leaf())
    }

    pub(super) fn weight(&self, key: &Key) -> usize {
        HINT_OVERHEAD_BYTES + 2 * key.framed().len() + self.record.weight()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Set {
    by_key: BTreeMap<Key, Held>,
    by_age: BTreeSet<(u64, Key)>,
    bytes: usize,
    /// Of what each hint is, wrapping.
    sum: u64,
    /// What the next freeze takes, with the bytes that the change of each weighed.
    changed: BTreeMap<Key, usize>,
    /// The sum of these; read without the lock.
    changed_bytes: Arc<AtomicUsize>,
    /// Refused for the budget since the start.
    pub(super) refused: u64,
    /// Dropped for their age since the start.
    pub(super) dropped: u64,
}

impl Set {
    /// No hints; tells the bytes of its changes in `changed_bytes`.
    pub(super) fn new(changed_bytes: Arc<AtomicUsize>) -> Self {
        Self {
            changed_bytes,
            ..Self::default()
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Held> {
        self.by_key.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Held)> {
        self.by_key.iter()
    }

    /// Those of the keys with `first ≤ token ≤ last`.
    pub(super) fn between(&self, first: u64, last: u64) -> impl Iterator<Item = &Held> {
        let from = Key::from_framed(first, Bytes::from_static(FIRST)).expect("a key");
        self.by_key
            .range(from..)
            .take_while(move |(key, _)| key.token() <= last)
            .map(|(_, held)| held)
    }

    /// Whether all weigh no more than `budget` with this one in the place of what is there.
    pub(super) fn has_room(&self, key: &Key, held: &Held, budget: usize) -> bool {
        let before = self.get(key).map_or(0, |before| before.weight(key));
        self.bytes - before + held.weight(key) <= budget
    }

    /// Puts a hint in the place of what is there; `changed`: the engine does not hold it.
    pub(super) fn put(&mut self, key: Key, held: Held, changed: bool) {
        self.take_out(&key);
        let weight = held.weight(&key);
        self.bytes += weight;
        self.sum = self.sum.wrapping_add(held.mark());
        if changed {
            self.note(&key, weight);
        }
        self.by_age.insert((held.taken_ms, key.clone()));
        self.by_key.insert(key, held);
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.take_out(key);
        self.note(key, HINT_OVERHEAD_BYTES);
    }

    fn take_out(&mut self, key: &Key) {
        if let Some(held) = self.by_key.remove(key) {
            self.bytes -= held.weight(key);
            self.sum = self.sum.wrapping_sub(held.mark());
            self.by_age.remove(&(held.taken_ms, key.clone()));
        }
    }

    fn note(&mut self, key: &Key, weight: usize) {
        let before = self.changed.insert(key.clone(), weight).unwrap_or(0);
        self.changed_bytes.fetch_add(weight, Ordering::Relaxed);
        self.changed_bytes.fetch_sub(before, Ordering::Relaxed);
    }

    /// Sum and count of all.
    pub(super) fn sum(&self) -> (u64, u32) {
        let count = self.by_key.len() as u32; // bounded by the budget, far below 2^32
        (self.sum, count)
    }

    /// What changed since this was asked last, as it is now, in key order.
    pub(super) fn take_changes(&mut self) -> Vec<HintChange> {
        self.changed_bytes.store(0, Ordering::Relaxed);
        let changed = std::mem::take(&mut self.changed);
        let now = |key: Key| {
            let held = self.by_key.get(&key);
            let hint = held.map(|held| held.hint(key.clone()));
            (key, hint)
        };
        changed.into_keys().map(now).collect()
    }

    pub(super) fn page(
        &self,
        after: Option<&(u64, Key)>,
        keys_max: usize,
        bytes_max: usize,
    ) -> Vec<Hint> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut bytes = 0;
        let mut page = Vec::new();
        for (_, key) in self.by_age.range::<(u64, Key), _>((from, Bound::Unbounded)) {
            if page.len() >= keys_max || bytes >= bytes_max {
                break;
            }
            let held = &self.by_key[key];
            bytes += held.record.object().byte_len();
            page.push(held.hint(key.clone()));
        }
        page
    }

    pub(super) fn older_than(&self, before_ms: u64) -> impl Iterator<Item = &Key> {
        self.by_age
            .iter()
            .take_while(move |(taken_ms, _)| *taken_ms < before_ms)
            .map(|(_, key)| key)
    }

    pub(super) fn stats(&self) -> HintStats {
        HintStats {
            count: self.by_key.len(),
            bytes: self.bytes,
            oldest_ms: self.by_age.first().map_or(0, |(taken_ms, _)| *taken_ms),
            refused: self.refused,
            dropped: self.dropped,
        }
    }
}

/// The framed bytes that sort before those of all keys: an empty namespace, and the least key.
const FIRST: &[u8] = &[0, 0, 0];
