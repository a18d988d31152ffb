//! What the wall clocks of a run showed, and which copies its nodes lost: by these two a write may be gone that was acknowledged.
//!
//! Keeps the excuses sound and small: a value may count as expired only if some clock of the cluster, at some moment that matters,
//! showed a time past its end; and a buffered write may be lost only if enough nodes ended in an unclean way to take every copy
//! along that a reader would meet.

use std::collections::BTreeSet;

/// Both the start of a run and its moments are rounded down to ms: so much later a clock may show.
const ROUNDING_MS: u64 = 2;

/// Clocks and losses of all nodes, in the run's time.
#[derive(Debug, Clone, Default)]
pub struct Wall {
    /// What the clocks show when the run starts, in ms since the Unix epoch.
    epoch_ms: u64,
    /// Since when a node's clock is off, and by how much, in ms; in order of time.
    jumps: Vec<(u64, usize, i64)>,
    /// When a node ended without writing down what it held in memory.
    losses: Vec<(u64, usize)>,
    /// When a node lost its disk.
    disks: Vec<(u64, usize)>,
}

impl Wall {
    /// Right clocks, which show this when the run starts, and no losses.
    pub fn new(epoch_ms: u64) -> Self {
        Wall {
            epoch_ms,
            ..Wall::default()
        }
    }

    /// From now on a node's clock is off by this much.
    pub fn set_clock(&mut self, at_ms: u64, node: usize, offset_ms: i64) {
        self.jumps.push((at_ms, node, offset_ms));
    }

    /// A node has ended in an unclean way.
    pub fn lose(&mut self, at_ms: u64, node: usize) {
        self.losses.push((at_ms, node));
    }

    /// A node has lost its disk.
    pub fn lose_disk(&mut self, at_ms: u64, node: usize) {
        self.disks.push((at_ms, node));
    }

    /// The earliest time that any clock could show at or after `from_ms`, until `to_ms`.
    pub fn earliest(&self, from_ms: u64, to_ms: u64) -> u64 {
        let offset = self.offsets(from_ms, to_ms).min().unwrap_or(0).min(0);
        (self.epoch_ms + from_ms).saturating_add_signed(offset)
    }

    /// The latest time that any clock could show from `from_ms` on, at or before `to_ms`.
    pub fn latest(&self, from_ms: u64, to_ms: u64) -> u64 {
        let offset = self.offsets(from_ms, to_ms).max().unwrap_or(0).max(0);
        (self.epoch_ms + to_ms + ROUNDING_MS).saturating_add_signed(offset)
    }

    /// By how much some clock was off at some moment of this time. That clocks are right is always possible.
    fn offsets(&self, from_ms: u64, to_ms: u64) -> impl Iterator<Item = i64> {
        self.jumps.iter().enumerate().filter_map(move |(i, jump)| {
            let (since_ms, node, offset_ms) = *jump;
            let later = self.jumps[i + 1..].iter().find(|(_, n, _)| *n == node);
            let until_ms = later.map_or(u64::MAX, |(at_ms, _, _)| *at_ms);
            (since_ms <= to_ms && from_ms <= until_ms).then_some(offset_ms)
        })
    }

    /// How many different nodes ended in an unclean way in this time.
    pub fn lost(&self, from_ms: u64, to_ms: u64) -> usize {
        different(&self.losses, from_ms, to_ms)
    }

    /// How many different nodes lost their disks in this time.
    pub fn disks_lost(&self, from_ms: u64, to_ms: u64) -> usize {
        different(&self.disks, from_ms, to_ms)
    }
}

fn different(losses: &[(u64, usize)], from_ms: u64, to_ms: u64) -> usize {
    let times = from_ms..=to_ms;
    let lost = losses.iter().filter(|(at, _)| times.contains(at));
    lost.map(|(_, node)| *node).collect::<BTreeSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_counts_while_it_is_off_and_a_node_once() {
        let mut wall = Wall::new(1_000_000);
        wall.set_clock(100, 0, -500);
        wall.set_clock(200, 0, 700);
        assert_eq!(wall.earliest(0, 50), 1_000_000);
        assert_eq!(wall.latest(0, 50), 1_000_050 + ROUNDING_MS);
        assert_eq!(wall.earliest(150, 160), 999_650);
        assert_eq!(wall.latest(150, 160), 1_000_160 + ROUNDING_MS);
        assert_eq!(wall.earliest(300, 400), 1_000_300);
        assert_eq!(wall.latest(150, 400), 1_001_100 + ROUNDING_MS);
        wall.lose(10, 2);
        wall.lose(20, 2);
        wall.lose(30, 1);
        assert_eq!(
            (wall.lost(0, 25), wall.lost(0, 30), wall.lost(31, 90)),
            (1, 2, 0)
        );
    }
}
