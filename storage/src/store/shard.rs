//! One of the table's 256 shards. Keeps the order of I2: the log record of a change is appended while the shard's
//! lock is held, so the log's order is the order in which changes apply.

use std::hash::{BuildHasherDefault, Hasher};

use indexmap::IndexMap;

use super::entry::{Entry, Generation, Slot, Weight};
use crate::key::Key;

/// Hashes a key to its token, which is a hash already.
///
/// The shard fixes a token's first byte, and the map takes its tag from the upper and its position from the lower bits of the hash:
/// rotated by half, both come from bits that differ within a shard.
#[derive(Default)]
pub(super) struct TokenHasher(u64);

impl Hasher for TokenHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        // The token covers the key's bytes.
    }

    fn write_u64(&mut self, token: u64) {
        self.0 = token.rotate_left(32);
    }

    fn write_usize(&mut self, _: usize) {}
}

type Entries = IndexMap<Key, Entry, BuildHasherDefault<TokenHasher>>;

/// Entries of the keys whose tokens start with one byte.
pub(super) struct Shard {
    entries: Entries,
    /// The freeze that will take what is written now. Equal in all shards while no freeze runs.
    pub(super) generation: Generation,
    /// Keys of the entries that `generation` will take, in the order of their first change.
    dirty: Vec<Key>,
    /// Where the eviction hand stands.
    hand: usize,
    /// A write that a planted bug holds back.
    late: Option<(Key, Slot, u64)>,
}

impl Shard {
    pub(super) fn new() -> Self {
        Self {
            entries: Entries::default(),
            generation: 1,
            dirty: Vec::new(),
            hand: 0,
            late: None,
        }
    }

    /// Holds a write back: [`ApplyLate`](crate::mutants::Mutant::ApplyLate).
    pub(super) fn put_off(&mut self, key: Key, slot: Slot, sequence: u64) {
        self.late = Some((key, slot, sequence));
    }

    /// The write that was held back.
    pub(super) fn take_late(&mut self) -> Option<(Key, Slot, u64)> {
        self.late.take()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter()
    }

    /// Read access that tells the eviction hand.
    pub(super) fn touch(&mut self, key: &Key) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(key)?;
        entry.referenced = true;
        Some(entry)
    }

    /// Changes an entry that the caller knows to be there, other than by a write. Returns its weight before and after.
    pub(super) fn change(
        &mut self,
        key: &Key,
        change: impl FnOnce(&mut Entry),
    ) -> Option<(Weight, Weight)> {
        let entry = self.entries.get_mut(key)?;
        let before = entry.weight(key.framed().len());
        change(entry);
        Some((before, entry.weight(key.framed().len())))
    }

    /// Puts a clean entry. The key must not be in the table.
    pub(super) fn insert_clean(&mut self, key: &Key, entry: Entry) -> Weight {
        let weight = entry.weight(key.framed().len());
        self.entries.insert(key.clone(), entry);
        weight
    }

    /// Writes `slot` under `key`, logged as `sequence`: keeps the value that a running drain still needs, and lists the
    /// entry for the next freeze. Returns the entry's weight before and after.
    pub(super) fn write(&mut self, key: &Key, slot: Slot, sequence: u64) -> (Weight, Weight) {
        let generation = self.generation;
        let Some(entry) = self.entries.get_mut(key) else {
            let entry = Entry {
                dirty: generation,
                sequence,
                ..Entry::clean(slot, None)
            };
            self.dirty.push(key.clone());
            return (Weight::default(), self.insert_clean(key, entry));
        };
        let before = entry.weight(key.framed().len());
        let old = std::mem::replace(&mut entry.slot, slot);
        if entry.dirty != 0 && entry.dirty != generation {
            entry.frozen = Some(Box::new(old));
        }
        if entry.dirty != generation {
            entry.dirty = generation;
            self.dirty.push(key.clone());
        }
        entry.sequence = sequence;
        entry.referenced = true;
        (before, entry.weight(key.framed().len()))
    }

    /// Hands out the keys of what was written since the last freeze, and starts the next generation.
    pub(super) fn freeze(&mut self) -> Vec<Key> {
        self.generation += 1;
        std::mem::take(&mut self.dirty)
    }

    /// Removes a clean, unpinned entry.
    pub(super) fn remove(&mut self, key: &Key) -> Option<(Weight, Entry)> {
        self.entries.get(key).filter(|entry| entry.evictable())?;
        let entry = self.entries.swap_remove(key)?;
        Some((entry.weight(key.framed().len()), entry))
    }

    /// Moves the eviction hand over up to `visits` entries, each at most once, and takes out those that nobody used
    /// since it last passed, until they weigh `bytes`.
    pub(super) fn evict(&mut self, visits: usize, bytes: usize) -> Evicted {
        let mut evicted = Evicted::default();
        let visits = visits.min(self.entries.len());
        while evicted.visits < visits && evicted.bytes < bytes {
            evicted.visits += 1;
            if self.hand >= self.entries.len() {
                self.hand = 0;
            }
            let (key, entry) = self
                .entries
                .get_index_mut(self.hand)
                .expect("the hand is within");
            if entry.referenced || !entry.evictable() {
                entry.referenced = false;
                self.hand += 1;
                continue;
            }
            evicted.bytes += entry.weight(key.framed().len()).all;
            // The last entry moves to the hand's place and is looked at next.
            evicted
                .entries
                .extend(self.entries.swap_remove_index(self.hand));
        }
        evicted
    }
}

/// What one pass of the eviction hand took out; to be dropped off-lock.
#[derive(Default)]
pub(super) struct Evicted {
    /// Entries looked at.
    pub(super) visits: usize,
    /// Weight of what was taken out.
    pub(super) bytes: usize,
    pub(super) entries: Vec<(Key, Entry)>,
}
