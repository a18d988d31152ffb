//! Operations in work, by id; and their deadlines.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::limits::TICK;

/// Names one operation in work: a place, and how often that place was used. A late reply to an operation that ended
/// finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OpId(pub u64);

impl OpId {
    fn new(place: usize, uses: u32) -> Self {
        OpId(u64::from(uses) << 32 | place as u64)
    }

    fn place(self) -> usize {
        (self.0 & u64::from(u32::MAX)) as usize
    }

    fn uses(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

struct Place<T> {
    uses: u32,
    value: Option<T>,
}

/// Values by [`OpId`].
pub(super) struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<usize>,
}

impl<T> Slab<T> {
    pub fn new() -> Self {
        Slab {
            places: Vec::new(),
            free: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub fn insert(&mut self, value: T) -> OpId {
        if let Some(place) = self.free.pop() {
            let slot = &mut self.places[place];
            // Uses start at 1 and skip 0 when they wrap, so that no id is ever 0.
            slot.uses = slot.uses.wrapping_add(1).max(1);
            slot.value = Some(value);
            return OpId::new(place, slot.uses);
        }
        self.places.push(Place {
            uses: 1,
            value: Some(value),
        });
        OpId::new(self.places.len() - 1, 1)
    }

    pub fn get(&self, id: OpId) -> Option<&T> {
        self.places
            .get(id.place())
            .filter(|p| p.uses == id.uses())?
            .value
            .as_ref()
    }

    pub fn get_mut(&mut self, id: OpId) -> Option<&mut T> {
        self.places
            .get_mut(id.place())
            .filter(|p| p.uses == id.uses())?
            .value
            .as_mut()
    }

    pub fn remove(&mut self, id: OpId) -> Option<T> {
        let slot = self
            .places
            .get_mut(id.place())
            .filter(|p| p.uses == id.uses())?;
        let value = slot.value.take()?;
        self.free.push(id.place());
        Some(value)
    }

    /// Ids of the values that are `wanted`.
    pub fn find(&self, wanted: impl Fn(&T) -> bool) -> Vec<OpId> {
        let places = self.places.iter().enumerate();
        let found = places.filter(|(_, p)| p.value.as_ref().is_some_and(&wanted));
        found.map(|(place, p)| OpId::new(place, p.uses)).collect()
    }
}

/// Ended operations whose deadlines are kept before they are swept, at least.
const SWEEP_MIN: usize = 8_192;

/// Deadlines in buckets of one [`TICK`], removed lazily.
pub(super) struct Deadlines {
    origin: Instant,
    buckets: BTreeMap<u64, Vec<OpId>>,
    entries: usize,
}

impl Deadlines {
    pub fn new(origin: Instant) -> Self {
        Deadlines {
            origin,
            buckets: BTreeMap::new(),
            entries: 0,
        }
    }

    fn bucket(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.origin);
        u64::try_from(since.as_micros() / Duration::as_micros(&TICK)).unwrap_or(u64::MAX)
    }

    pub fn add(&mut self, at: Instant, id: OpId) {
        let bucket = self.bucket(at);
        self.buckets.entry(bucket).or_default().push(id);
        self.entries += 1;
    }

    /// Takes the ids whose bucket has passed: late by one tick at most, never early.
    pub fn due(&mut self, now: Instant) -> Vec<OpId> {
        let now = self.bucket(now);
        let later = self.buckets.split_off(&now);
        let due: Vec<OpId> = std::mem::replace(&mut self.buckets, later)
            .into_values()
            .flatten()
            .collect();
        self.entries -= due.len();
        due
    }

    /// Drops entries of operations that have ended, if they are the most by far: long deadlines would pile up (I7).
    pub fn sweep(&mut self, alive: usize, is_alive: impl Fn(OpId) -> bool) {
        if self.entries < SWEEP_MIN.max(4 * alive) {
            return;
        }
        self.buckets.retain(|_, ids| {
            ids.retain(|&id| is_alive(id));
            !ids.is_empty()
        });
        self.entries = self.buckets.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_outlives_nothing() {
        let mut slab = Slab::new();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_ne!(first, second);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!((slab.get(second), slab.len()), (Some(&'b'), 1));
        assert_eq!(slab.get(OpId(u64::MAX)), None);
    }

    #[tokio::test]
    async fn deadlines_come_due_late_by_a_tick_and_never_early() {
        let origin = Instant::now();
        let mut deadlines = Deadlines::new(origin);
        deadlines.add(origin + Duration::from_millis(12), OpId(1));
        deadlines.add(origin + Duration::from_millis(40), OpId(2));
        assert_eq!(deadlines.due(origin + Duration::from_millis(12)), []);
        assert_eq!(deadlines.due(origin + Duration::from_millis(15)), [OpId(1)]);
        assert_eq!(deadlines.due(origin + Duration::from_secs(1)), [OpId(2)]);
    }

    #[tokio::test]
    async fn ended_operations_do_not_pile_up() {
        let origin = Instant::now();
        let mut deadlines = Deadlines::new(origin);
        for n in 0..SWEEP_MIN as u64 {
            deadlines.add(origin + Duration::from_secs(60), OpId(n));
        }
        deadlines.sweep(1, |id| id == OpId(7));
        assert_eq!(deadlines.entries, 1);
        assert_eq!(deadlines.due(origin + Duration::from_secs(61)), [OpId(7)]);
    }
}
