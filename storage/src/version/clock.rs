//! Vector clocks.
//!
//! Invariant: entries ascend by actor and have no zero counter, so that equal clocks are equal bytes.

use super::{ActorId, Dot};

/// A vector clock: for each actor the highest counter seen. Covers every dot up to it.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Clock {
    entries: Vec<(ActorId, u64)>,
}

/// Why entries are not a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadClock {
    /// Two entries are out of order, or of one actor.
    #[error("the entries of the clock do not ascend by actor")]
    NotAscending,
    /// A counter is zero: such an entry says nothing and is never written.
    #[error("a counter of the clock is zero")]
    ZeroCounter,
}

impl Clock {
    /// The clock that covers nothing.
    pub const EMPTY: Clock = Clock {
        entries: Vec::new(),
    };

    /// Takes entries that ascend by actor.
    ///
    /// # Errors
    /// [`BadClock`], if they do not ascend or hold a zero.
    pub fn from_parts(entries: Vec<(ActorId, u64)>) -> Result<Clock, BadClock> {
        if entries.iter().any(|&(_, counter)| counter == 0) {
            return Err(BadClock::ZeroCounter);
        }
        if !entries.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(BadClock::NotAscending);
        }
        Ok(Clock { entries })
    }

    /// The highest counter seen of `actor`; 0 if none.
    pub fn get(&self, actor: ActorId) -> u64 {
        // Clocks are short: a scan beats a binary search up to a dozen entries, and is never far behind.
        self.entries
            .iter()
            .find(|entry| entry.0 == actor)
            .map_or(0, |entry| entry.1)
    }

    /// The place of `actor` among the entries.
    pub(super) fn index(&self, actor: ActorId) -> Option<usize> {
        self.entries.iter().position(|entry| entry.0 == actor)
    }

    /// Whether the event of `dot` has been seen.
    pub fn covers(&self, dot: Dot) -> bool {
        self.get(dot.actor) >= dot.counter
    }

    /// Whether everything that `other` covers is covered here too.
    pub fn descends(&self, other: &Clock) -> bool {
        let mut mine = self.entries.iter();
        other.entries.iter().all(|theirs| {
            mine.by_ref()
                .find(|e| e.0 >= theirs.0)
                .is_some_and(|e| e.0 == theirs.0 && e.1 >= theirs.1)
        })
    }

    /// Adds what `other` covers: the pointwise maximum.
    pub fn join(&mut self, other: &Clock) {
        if self.descends(other) {
            return;
        }
        let mut joined = Vec::with_capacity(self.entries.len() + other.entries.len());
        let (mut left, mut right) = (&self.entries[..], &other.entries[..]);
        while let (Some(&a), Some(&b)) = (left.first(), right.first()) {
            if a.0 <= b.0 {
                left = &left[1..];
            }
            if b.0 <= a.0 {
                right = &right[1..];
            }
            joined.push(match a.0.cmp(&b.0) {
                std::cmp::Ordering::Less => a,
                std::cmp::Ordering::Greater => b,
                std::cmp::Ordering::Equal => (a.0, a.1.max(b.1)),
            });
        }
        joined.extend_from_slice(left);
        joined.extend_from_slice(right);
        self.entries = joined;
    }

    /// Adds one event, and with it all earlier ones of its actor. A dot with counter 0 adds nothing.
    pub fn insert(&mut self, dot: Dot) {
        if dot.counter == 0 {
            return;
        }
        match self
            .entries
            .binary_search_by_key(&dot.actor, |entry| entry.0)
        {
            Ok(at) => self.entries[at].1 = self.entries[at].1.max(dot.counter),
            Err(at) => self.entries.insert(at, (dot.actor, dot.counter)),
        }
    }

    /// The entries, ascending by actor.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ActorId, u64)> + '_ {
        self.entries.iter().copied()
    }

    /// The entries, ascending by actor.
    pub fn entries(&self) -> &[(ActorId, u64)] {
        &self.entries
    }

    /// The number of actors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(entries: &[(u64, u64)]) -> Clock {
        Clock::from_parts(entries.iter().map(|&(a, n)| (ActorId(a), n)).collect())
            .expect("ascending")
    }

    #[test]
    fn parts_are_checked() {
        let entry = |a, n| (ActorId(a), n);
        assert_eq!(
            Clock::from_parts(vec![entry(2, 1), entry(1, 1)]),
            Err(BadClock::NotAscending)
        );
        assert_eq!(
            Clock::from_parts(vec![entry(1, 1), entry(1, 2)]),
            Err(BadClock::NotAscending)
        );
        assert_eq!(
            Clock::from_parts(vec![entry(1, 0)]),
            Err(BadClock::ZeroCounter)
        );
        assert!(Clock::from_parts(vec![]).expect("empty is fine").is_empty());
    }

    #[test]
    fn covers_all_up_to_the_counter() {
        let c = clock(&[(1, 3), (5, 1)]);
        assert!(c.covers(Dot::new(ActorId(1), 1)) && c.covers(Dot::new(ActorId(1), 3)));
        assert!(!c.covers(Dot::new(ActorId(1), 4)) && !c.covers(Dot::new(ActorId(2), 1)));
    }

    #[test]
    fn join_is_the_pointwise_maximum() {
        let mut c = clock(&[(1, 3), (5, 1), (7, 9)]);
        c.join(&clock(&[(0, 2), (1, 1), (5, 4)]));
        assert_eq!(c, clock(&[(0, 2), (1, 3), (5, 4), (7, 9)]));
        let same = c.clone();
        c.join(&Clock::EMPTY);
        assert_eq!(c, same);
        let mut empty = Clock::EMPTY;
        empty.join(&c);
        assert_eq!(empty, c);
    }

    #[test]
    fn descends_is_join_absorbing() {
        let clocks = [
            clock(&[]),
            clock(&[(1, 1)]),
            clock(&[(1, 2)]),
            clock(&[(2, 1)]),
            clock(&[(1, 1), (2, 2)]),
            clock(&[(1, 2), (2, 1), (3, 1)]),
        ];
        for a in &clocks {
            for b in &clocks {
                let mut joined = a.clone();
                // Not through `join`'s own shortcut: insert entry by entry.
                b.iter()
                    .for_each(|(actor, n)| joined.insert(Dot::new(actor, n)));
                assert_eq!(a.descends(b), joined == *a, "{a:?} {b:?}");
                let mut by_join = a.clone();
                by_join.join(b);
                assert_eq!(by_join, joined);
            }
        }
    }

    #[test]
    fn insert_never_lowers() {
        let mut c = clock(&[(1, 3)]);
        c.insert(Dot::new(ActorId(1), 2));
        c.insert(Dot::new(ActorId(0), 1));
        c.insert(Dot::new(ActorId(9), 0));
        assert_eq!(c, clock(&[(0, 1), (1, 3)]));
    }
}
