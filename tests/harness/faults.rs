//! Faults: their kinds, and the schedule that a seed gives. They come alone and in pairs, and all end before the run heals. What comes
//! on top of them where the layout changes is in [`super::unrest`].

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A power cut: what is not synced is lost by chance. The node stays away for a while.
    Crash,
    /// A power cut of all nodes at once.
    Blackout,
    /// A power cut, and another one in the midst of the start after it.
    CutRecovery,
    /// The process ends, the machine does not.
    Kill,
    /// A clean stop and a new start.
    Restart,
    /// Nodes and clients fall into two halves that do not hear each other; often one node is alone.
    Partition,
    /// One node is not heard by the others, but hears them.
    OneWay,
    /// The messages of one link are held back, then all arrive.
    Hold,
    /// One node's links become slow.
    Delay,
    /// One link loses what is on its way: connections break.
    Cut,
    /// Everything to and from one node is held back, as if it was stopped.
    Pause,
    /// Each step of a disk takes long.
    SlowDisk,
    /// A write or a sync fails.
    FailDisk,
    /// A disk has no room left.
    FullDisk,
    /// The engine fails for good: the next start sets it aside.
    FailEngine,
    /// A bit of what is on disk flips; then the process ends.
    BitFlip,
    /// A wall clock jumps.
    ClockJump,
    /// The node stops cleanly and goes on; later an older image of its disk, from that stop, is put back.
    Restore,
    /// Somebody who was a member once, or is one of another cluster, sends a node an object.
    Stranger,
    /// The disk is lost with all that is on it: the node comes back with an empty one. Only where the layout changes.
    LoseDisk,
    /// The node stops, and comes back at other ports. Only where the layout changes.
    Move,
    /// The nodes whose bits the seed has, and some of the clients, are cut off from the others. Only in drills.
    Split,
    /// Bits of a few rows of the engine flip while the node runs. Only in drills.
    Rot,
}

impl Kind {
    /// Whether it destroys what was synced. All such faults of a run strike one node: that all copies of a record go is
    /// beyond what N copies promise.
    pub fn damages(self) -> bool {
        use Kind::{BitFlip, FailEngine, LoseDisk, Restore, Rot};
        matches!(self, BitFlip | FailEngine | Restore | LoseDisk | Rot)
    }

    /// Whether it keeps messages from arriving, or from arriving soon.
    pub fn is_of_network(self) -> bool {
        use Kind::{Cut, Delay, Hold, OneWay, Partition, Pause, Split};
        matches!(
            self,
            Partition | OneWay | Hold | Delay | Cut | Pause | Split
        )
    }

    /// Whether a node may end by itself because of it.
    pub fn ends_nodes(self) -> bool {
        matches!(
            self,
            Kind::FailDisk | Kind::FullDisk | Kind::FailEngine | Kind::BitFlip | Kind::Rot
        )
    }
}

/// All kinds that come alone and in pairs.
pub const KINDS: [Kind; 19] = [
    Kind::Crash,
    Kind::Blackout,
    Kind::CutRecovery,
    Kind::Kill,
    Kind::Restart,
    Kind::Partition,
    Kind::OneWay,
    Kind::Hold,
    Kind::Delay,
    Kind::Cut,
    Kind::Pause,
    Kind::SlowDisk,
    Kind::FailDisk,
    Kind::FullDisk,
    Kind::FailEngine,
    Kind::BitFlip,
    Kind::ClockJump,
    Kind::Restore,
    Kind::Stranger,
];

/// The kinds that come only where the layout changes, and in drills.
pub const KINDS_OF_CHANGES: [Kind; 4] = [Kind::LoseDisk, Kind::Move, Kind::Split, Kind::Rot];

/// One fault of a schedule.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// What happens.
    pub kind: Kind,
    /// When, in ms after the storm began.
    pub at_ms: u64,
    /// For how long, in ms.
    pub for_ms: u64,
    /// For how long before a power cut the disk is slow, in ms: what a cut finds unsynced it may take.
    pub worn_ms: u64,
    /// It only makes another fault worse, and is not counted as one of the run's.
    pub aids: bool,
    /// The node that it happens to.
    pub node: usize,
    /// Another node, where a link is meant.
    pub other: usize,
    /// Decides the rest.
    pub seed: u64,
}

/// The kinds that a seed's run has: none, one, or a pair. Consecutive seeds go through all of them.
pub fn kinds_of(seed: u64) -> Vec<Kind> {
    let mut choices = vec![Vec::new()];
    for (i, kind) in KINDS.into_iter().enumerate() {
        choices.push(vec![kind]);
        choices.extend(KINDS[i + 1..].iter().map(|other| vec![kind, *other]));
        // Twice the same at once is a pair, too.
        choices.push(vec![kind, kind]);
    }
    choices.swap_remove((seed % choices.len() as u64) as usize)
}

/// The first seed whose run has just these kinds.
///
/// # Panics
/// If they are more than a pair, or not in the order of [`KINDS`].
pub fn first_seed_of(kinds: &[Kind]) -> u64 {
    (0..1_000)
        .find(|seed| kinds_of(*seed) == kinds)
        .expect("consecutive seeds have all pairs")
}

/// The faults of a run with `nodes` nodes whose storm lasts `storm_ms`, in order of time.
pub fn schedule(seed: u64, nodes: usize, storm_ms: u64) -> Vec<Fault> {
    let kinds = kinds_of(seed);
    let mut chance = StdRng::seed_from_u64(seed ^ 0x6661_756c_7473);
    let mut faults = Vec::new();
    if kinds.is_empty() {
        return faults;
    }
    let damaged = chance.random_range(0..nodes);
    for _ in 0..chance.random_range(1..=3) {
        let at_ms = chance.random_range(0..storm_ms * 3 / 4);
        // Half of all pairs meet on one node.
        let common = match kinds.iter().any(|kind| kind.damages()) {
            true => damaged,
            false => chance.random_range(0..nodes),
        };
        let together = chance.random();
        for &kind in &kinds {
            let node = match (together, kind.damages()) {
                (true, _) => common,
                (false, true) => damaged,
                (false, false) => chance.random_range(0..nodes),
            };
            let fault = Fault {
                kind,
                at_ms: at_ms + chance.random_range(0..400),
                for_ms: duration_ms(kind, storm_ms, &mut chance),
                worn_ms: match chance.random() {
                    true => chance.random_range(50..WORN_MS_MAX),
                    false => 0,
                },
                aids: false,
                node,
                other: (node + chance.random_range(1..nodes)) % nodes,
                seed: chance.random(),
            };
            if kind.damages() && fault.worn_ms > 0 {
                faults.push(gap(&fault, &mut chance));
            }
            faults.push(fault);
        }
    }
    faults.sort_by_key(|fault| fault.at_ms);
    faults
}

/// A disk is slow for less than this before a power cut, in ms.
const WORN_MS_MAX: u64 = 400;

/// Another node misses what is written before a disk loses it, and is back at about the time when that node is: so a write may be
/// on one disk in the end, and every quorum of a read has to have it.
pub(super) fn gap(damage: &Fault, chance: &mut StdRng) -> Fault {
    Fault {
        kind: Kind::Partition,
        at_ms: damage.at_ms.saturating_sub(damage.worn_ms),
        for_ms: damage.worn_ms + chance.random_range(200..1_200),
        worn_ms: 0,
        aids: true,
        node: damage.other,
        other: damage.node,
        seed: damage.seed & !1,
    }
}

/// How long a fault lasts, in ms: as often short as of any length.
pub(super) fn duration_ms(kind: Kind, storm_ms: u64, chance: &mut StdRng) -> u64 {
    match kind {
        Kind::Cut => chance.random_range(5..100),
        Kind::Restore => chance.random_range(500..=storm_ms / 2),
        // Until somebody meets it.
        Kind::FailEngine => storm_ms,
        _ if chance.random() => chance.random_range(100..500),
        _ => chance.random_range(100..=storm_ms / 2),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn consecutive_seeds_reach_every_kind_and_every_pair() {
        let seeds = 1 + 2 * KINDS.len() + KINDS.len() * (KINDS.len() - 1) / 2;
        let reached: BTreeSet<Vec<Kind>> = (7..7 + seeds as u64).map(kinds_of).collect();
        assert_eq!(reached.len(), seeds);
    }

    #[test]
    fn what_destroys_synced_data_strikes_one_node_of_a_run() {
        for seed in 0..1_000 {
            let faults = schedule(seed, 5, 4_000);
            let struck: BTreeSet<usize> = faults
                .iter()
                .filter(|fault| fault.kind.damages())
                .map(|fault| fault.node)
                .collect();
            assert!(struck.len() <= 1, "seed {seed}: {struck:?}");
        }
    }
}
