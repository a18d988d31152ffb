//! The decisions of a request, as pure state machines: events in, a verdict out.
//!
//! *Leaves out on purpose*: time, tasks, sockets, storage, and owners' names. An owner is a number below N here.

pub mod get;
pub mod put;

/// Owners of a partition at most (N ≤ 7): a set of them fits a byte.
pub const OWNERS_MAX: usize = 7;

/// A set of owners, by their place in the preference list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnerSet(u8);

impl OwnerSet {
    /// The set of the first `count` owners.
    pub fn first(count: usize) -> Self {
        debug_assert!(count <= OWNERS_MAX);
        OwnerSet(((1_u16 << count) - 1) as u8)
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
        (0..OWNERS_MAX).filter(move |&owner| self.contains(owner))
    }
}
