//! The decisions of a request, as pure state machines: events in, a verdict out.
//!
//! *Leaves out on purpose*: time, tasks, sockets, storage, and owners' names. An owner is a number here, and so is a fallback.

pub mod get;
pub mod put;
pub mod repairs;

/// Owners of a partition by one layout, at most (N ≤ 7).
pub const OWNERS_MAX: usize = 7;
/// Layouts that live at once, at most.
pub const LAYOUTS_MAX: usize = ringfort_ring::LIVE_MAX;
/// Owners of a partition by all live layouts together, at most.
pub const UNION_MAX: usize = LAYOUTS_MAX * OWNERS_MAX;
/// Fallbacks that one operation asks, at most: one for each owner by one layout.
pub const FALLBACKS_MAX: usize = OWNERS_MAX;
/// Nodes that one operation asks, at most: a set of them fits four bytes.
pub const PLACES_MAX: usize = UNION_MAX + FALLBACKS_MAX;

/// A set of owners, and of fallbacks, by their place in the list of an operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnerSet(u32);

impl OwnerSet {
    /// The set of the first `count` owners.
    pub fn first(count: usize) -> Self {
        debug_assert!(count <= PLACES_MAX);
        OwnerSet((1 << count) - 1)
    }

    /// Those in either.
    #[must_use]
    pub fn union(self, other: OwnerSet) -> OwnerSet {
        OwnerSet(self.0 | other.0)
    }

    /// Those in both.
    #[must_use]
    pub fn common(self, other: OwnerSet) -> OwnerSet {
        OwnerSet(self.0 & other.0)
    }

    /// Those that are not in the other.
    #[must_use]
    pub fn without(self, other: OwnerSet) -> OwnerSet {
        OwnerSet(self.0 & !other.0)
    }

    /// Whether `owner` is in the set.
    pub fn contains(self, owner: usize) -> bool {
        self.0 & (1 << owner) != 0
    }

    /// Adds `owner`.
    pub fn insert(&mut self, owner: usize) {
        self.0 |= 1 << owner;
    }

    /// Takes `owner` out.
    pub fn remove(&mut self, owner: usize) {
        self.0 &= !(1 << owner);
    }

    /// How many there are.
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The owners in the set, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..PLACES_MAX).filter(move |&owner| self.contains(owner))
    }
}
