//! How far a store is through the change of layouts: three numbers that only grow.
//!
//! *Invariant:* a tracker is a promise. It is durable before anybody hears of it, only its own store raises it, and
//! whoever hears of two states of one store keeps the higher of each number; so what was learned late or twice does no
//! harm, and a step that trackers allowed once stays allowed. (After the layout history of Garage, `rpc/layout`.)

use crate::id::Epoch;

/// What one store has promised, as epochs of layouts that *placed* (amendments do not count).
// No order: the lexicographic maximum of two would not be their union.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Trackers {
    /// I write to all live layouts, and refuse *writes* of epochs before this one.
    pub ack: Epoch,
    /// Each partition that this layout gave me was erased before my `ack`, and then received whole.
    pub merged: Epoch,
    /// I read from this layout.
    pub flipped: Epoch,
}

impl Trackers {
    /// The trackers of a store of which nothing is known: all three at the oldest live layout.
    pub fn starting_at(oldest: Epoch) -> Trackers {
        Trackers {
            ack: oldest,
            merged: oldest,
            flipped: oldest,
        }
    }

    /// The higher of each number.
    #[must_use]
    pub fn union(self, other: Trackers) -> Trackers {
        Trackers {
            ack: self.ack.max(other.ack),
            merged: self.merged.max(other.merged),
            flipped: self.flipped.max(other.flipped),
        }
    }

    /// Whether the promises were made in their order: `flipped` ≤ `merged` ≤ `ack`. What comes from outside is checked.
    pub fn in_order(self) -> bool {
        self.flipped <= self.merged && self.merged <= self.ack
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trackers(ack: u64, merged: u64, flipped: u64) -> Trackers {
        Trackers {
            ack: Epoch(ack),
            merged: Epoch(merged),
            flipped: Epoch(flipped),
        }
    }

    #[test]
    fn merging_keeps_the_higher_of_each_whatever_the_order() {
        let heard = [trackers(3, 1, 1), trackers(2, 2, 1), trackers(3, 3, 2)];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let all = order
                .iter()
                .fold(Trackers::starting_at(Epoch(1)), |all, i| {
                    all.union(heard[*i])
                });
            assert_eq!(all, trackers(3, 3, 2));
            assert_eq!(all.union(all), all);
        }
    }

    #[test]
    fn promises_are_made_in_their_order() {
        assert!(trackers(3, 2, 1).in_order());
        assert!(Trackers::starting_at(Epoch(7)).in_order());
        assert!(!trackers(1, 2, 1).in_order());
        assert!(!trackers(3, 1, 2).in_order());
    }
}
