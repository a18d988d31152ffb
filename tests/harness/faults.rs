//! Faults: their kinds, and the schedule that a seed gives. They come alone and in pairs, and all end before the run heals.

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
    /// Nodes and clients fall into two halves that do not hear each other.
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
}

/// All kinds.
pub const KINDS: [Kind; 17] = [
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
];

impl Kind {
    /// Whether a copy of what was synced may be gone after it. Such faults come to one node of a run only: that all copies go
    /// at once is beyond what N copies promise.
    pub fn damages(self) -> bool {
        matches!(self, Kind::BitFlip | Kind::FailEngine)
    }

    /// Whether a node may end by itself because of it.
    pub fn ends_nodes(self) -> bool {
        matches!(
            self,
            Kind::FailDisk | Kind::FullDisk | Kind::FailEngine | Kind::BitFlip
        )
    }
}

/// One fault of a schedule.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// What happens.
    pub kind: Kind,
    /// When, in ms after the storm began.
    pub at_ms: u64,
    /// For how long, in ms.
    pub for_ms: u64,
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

/// The faults of a run with `nodes` nodes whose storm lasts `storm_ms`, in order of time.
pub fn schedule(seed: u64, nodes: usize, storm_ms: u64) -> Vec<Fault> {
    let kinds = kinds_of(seed);
    let mut chance = StdRng::seed_from_u64(seed ^ 0x6661_756c_7473);
    let mut faults = Vec::new();
    if kinds.is_empty() {
        return faults;
    }
    let rotten = chance.random_range(0..nodes);
    for _ in 0..chance.random_range(1..=3) {
        let at_ms = chance.random_range(0..storm_ms * 3 / 4);
        for &kind in &kinds {
            let node = match kind.damages() {
                true => rotten,
                false => chance.random_range(0..nodes),
            };
            faults.push(Fault {
                kind,
                at_ms: at_ms + chance.random_range(0..400),
                for_ms: match kind {
                    Kind::Cut => chance.random_range(5..100),
                    // Until somebody meets it.
                    Kind::FailEngine => storm_ms,
                    _ => chance.random_range(100..=storm_ms / 2),
                },
                node,
                other: (node + chance.random_range(1..nodes)) % nodes,
                seed: chance.random(),
            });
        }
    }
    faults.sort_by_key(|fault| fault.at_ms);
    faults
}
