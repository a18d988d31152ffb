//! The faults that real nodes meet: their kinds, and the order that a seed gives them.

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

/// A kind of fault that can be done to a node from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The process ends at once (kill -9); the node stays away for a while.
    Kill,
    /// The same, with all nodes at once.
    KillAll,
    /// The process stands still, with its connections open (SIGSTOP, `docker pause`).
    Pause,
    /// A clean stop and a new start (SIGTERM, `docker stop`).
    Restart,
    /// The node's disk is filled, up to a remainder that the seed decides.
    FullDisk,
    /// The node's network is taken away.
    Cut,
}

/// One fault of a schedule.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// What happens.
    pub kind: Kind,
    /// When, in ms after the storm began; a slow machine is later.
    pub at_ms: u64,
    /// For how long, in ms.
    pub for_ms: u64,
    /// The node that it happens to.
    pub node: usize,
    /// Decides the rest.
    pub seed: u64,
}

impl Fault {
    /// Whether `next` cannot come while this one lasts: all nodes at once is enough alone, and a node can be hurt further when its disk
    /// is full, but not when it is away.
    pub fn excludes(&self, next: &Fault) -> bool {
        let is_alone = self.kind == Kind::KillAll || next.kind == Kind::KillAll;
        let may_share = self.kind == Kind::FullDisk && next.kind != Kind::FullDisk;
        is_alone || (self.node == next.node && !may_share)
    }
}

/// Faults that last at once, at most.
pub const AT_ONCE_MAX: usize = 2;
/// The shortest and the longest fault, in ms.
const FOR_MS: std::ops::RangeInclusive<u64> = 400..=3_000;
/// The shortest and the longest rest between two faults, or two pairs, in ms.
const REST_MS: std::ops::RangeInclusive<u64> = 200..=1_200;

/// Faults of these kinds on `nodes` nodes for about `storm_ms`, in order of time: alone and in pairs, every kind before any comes again.
pub fn schedule(seed: u64, kinds: &[Kind], nodes: usize, storm_ms: u64) -> Vec<Fault> {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut faults: Vec<Fault> = Vec::new();
    let mut bag: Vec<Kind> = Vec::new();
    let mut at_ms = chance.random_range(REST_MS);
    while !kinds.is_empty() && (at_ms < storm_ms || faults.len() < kinds.len()) {
        let kind = draw(&mut bag, kinds, &mut chance);
        let first = fault(kind, at_ms, chance.random_range(0..nodes), &mut chance);
        faults.push(first);
        let mut end_ms = first.at_ms + first.for_ms;
        if first.kind != Kind::KillAll && chance.random() {
            let kind = draw(&mut bag, kinds, &mut chance);
            let at_ms = at_ms + chance.random_range(0..first.for_ms);
            let mut second = fault(kind, at_ms, chance.random_range(0..nodes), &mut chance);
            if first.excludes(&second) {
                second.node = (first.node + 1) % nodes;
            }
            if first.excludes(&second) {
                second.at_ms = end_ms + chance.random_range(REST_MS);
            }
            faults.push(second);
            end_ms = end_ms.max(second.at_ms + second.for_ms);
        }
        at_ms = end_ms + chance.random_range(REST_MS);
    }
    faults
}

fn draw(bag: &mut Vec<Kind>, kinds: &[Kind], chance: &mut StdRng) -> Kind {
    if bag.is_empty() {
        bag.extend(kinds);
        bag.shuffle(chance);
    }
    bag.pop().expect("there are kinds")
}

fn fault(kind: Kind, at_ms: u64, node: usize, chance: &mut StdRng) -> Fault {
    Fault {
        kind,
        at_ms,
        for_ms: chance.random_range(FOR_MS),
        node,
        seed: chance.random(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 4] = [Kind::Kill, Kind::KillAll, Kind::Pause, Kind::FullDisk];

    #[test]
    fn every_kind_comes_before_any_comes_again() {
        for seed in 0..200 {
            for storm_ms in [0, 30_000] {
                let faults = schedule(seed, &KINDS, 3, storm_ms);
                let mut first: Vec<Kind> = faults[..4].iter().map(|fault| fault.kind).collect();
                first.sort();
                assert_eq!(first, KINDS, "seed {seed}");
            }
        }
    }

    #[test]
    fn faults_come_in_pairs_that_go_together() {
        let mut pairs = 0;
        for seed in 0..200 {
            let faults = schedule(seed, &KINDS, 3, 30_000);
            let lasts = |i: usize, at_ms: u64| {
                faults[i].at_ms <= at_ms && at_ms < faults[i].at_ms + faults[i].for_ms
            };
            for i in 1..faults.len() {
                let at_ms = faults[i].at_ms;
                assert!(at_ms >= faults[i - 1].at_ms);
                let beside: Vec<usize> = (0..i).filter(|&j| lasts(j, at_ms)).collect();
                assert!(beside.len() < AT_ONCE_MAX, "seed {seed}: {faults:?}");
                assert!(beside.iter().all(|&j| !faults[j].excludes(&faults[i])));
                pairs += beside.len();
            }
        }
        assert!(pairs > 200);
    }
}
