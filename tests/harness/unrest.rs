//! What happens on top of a schedule where the layout changes: disks that are lost, nodes that move or go for good, and faults that strike
//! just when some store has said something of layouts.
//!
//! Decided by a source of chance of its own, so that runs whose layout stays as it is are what they were.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    faults::{Fault, Kind, duration_ms, gap},
    operator::{Errand, OPERATORS, Wish},
};

/// A fault that waits for an errand's commit strikes after fewer words of stores than this: about as many as one change takes.
const WORDS_MAX: u32 = 60;
/// What strikes then.
const AIMED: [Kind; 8] = [
    Kind::Crash,
    Kind::Kill,
    Kind::Blackout,
    Kind::Partition,
    Kind::OneWay,
    Kind::Hold,
    Kind::Pause,
    Kind::Delay,
];

/// A fault that strikes when stores have said so much of layouts since its time.
#[derive(Debug, Clone, Copy)]
pub struct Aim {
    /// How many words.
    pub words: u32,
    /// It strikes the node that said the last of them; else the fault's own.
    pub at_speaker: bool,
    /// The rest.
    pub fault: Fault,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Unrest {
    /// Faults with a time, in its order.
    pub faults: Vec<Fault>,
    /// Faults that wait for words.
    pub aims: Vec<Aim>,
    /// A node is killed for good, excused, and comes back with an empty disk.
    pub excuse: Option<Errand>,
}

/// What comes to a `schedule` of `nodes` nodes, of which the first `founding` are members from the start. A run without faults stays so.
pub fn unrest(
    seed: u64,
    (nodes, founding): (usize, usize),
    storm_ms: u64,
    schedule: &[Fault],
    errands: &[Errand],
) -> Unrest {
    let mut unrest = Unrest::default();
    if schedule.is_empty() || errands.is_empty() {
        return unrest;
    }
    let mut chance = StdRng::seed_from_u64(seed ^ 0x756e_7265_7374);
    // What destroys synced data strikes one node of a run.
    let mut damaged = schedule.iter().filter(|fault| fault.kind.damages());
    let free = chance.random_range(0..founding);
    let struck = damaged.next().map_or(free, |fault| fault.node);
    // The image of a directory whose place another one has taken would be refused, and the node would stay away.
    let restores = schedule.iter().any(|fault| fault.kind == Kind::Restore);
    let at_ms = chance.random_range(0..storm_ms * 3 / 4);
    match chance.random_range(0..4) {
        0 if !restores => {
            let fault = fault(
                Kind::LoseDisk,
                struck,
                (at_ms, nodes, storm_ms),
                &mut chance,
            );
            if chance.random() {
                unrest.faults.push(gap(&fault, &mut chance));
            }
            unrest.faults.push(fault);
        }
        1 if !restores => {
            unrest.excuse = Some(Errand {
                at_ms,
                wish: Wish::Excuse,
                operator: chance.random_range(0..OPERATORS),
                seed: struck as u64,
            });
        }
        // One that moved and lost its disk would be refused, rightly: nobody could tell it from a stranger of that name.
        2 => {
            let node = chance.random_range(0..nodes);
            let fault = fault(Kind::Move, node, (at_ms, nodes, storm_ms), &mut chance);
            unrest.faults.push(fault);
        }
        _ => {}
    }
    for errand in errands {
        let kind = AIMED[chance.random_range(0..AIMED.len())];
        let node = chance.random_range(0..nodes);
        let fault = Fault {
            aids: true,
            ..fault(kind, node, (errand.at_ms, nodes, storm_ms), &mut chance)
        };
        let aim = Aim {
            words: chance.random_range(0..WORDS_MAX),
            at_speaker: chance.random(),
            fault,
        };
        if chance.random_range(0..4) > 0 {
            unrest.aims.push(aim);
        }
    }
    unrest
}

fn fault(
    kind: Kind,
    node: usize,
    (at_ms, nodes, storm_ms): (u64, usize, u64),
    chance: &mut StdRng,
) -> Fault {
    Fault {
        kind,
        at_ms,
        for_ms: duration_ms(kind, storm_ms, chance),
        worn_ms: 0,
        aids: false,
        node,
        other: (node + chance.random_range(1..nodes)) % nodes,
        seed: chance.random(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{faults::schedule, operator::errands};

    #[test]
    fn what_destroys_synced_data_still_strikes_one_node_of_a_run() {
        let (mut lost, mut excused, mut moved) = (0, 0, 0);
        for seed in 0..1_000 {
            let schedule = schedule(seed, 7, 4_000);
            let unrest = unrest(seed, (7, 5), 4_000, &schedule, &errands(seed, 2, 4_000));
            let damaging = schedule.iter().chain(&unrest.faults);
            let damaging = damaging.filter(|fault| fault.kind.damages());
            let excuse = unrest.excuse.map(|errand| errand.seed as usize);
            let struck: BTreeSet<usize> = damaging.map(|fault| fault.node).chain(excuse).collect();
            assert!(struck.len() <= 1, "seed {seed}: {struck:?}");
            let has = |kind| unrest.faults.iter().any(|fault| fault.kind == kind);
            lost += usize::from(has(Kind::LoseDisk));
            moved += usize::from(has(Kind::Move));
            excused += usize::from(excuse.is_some());
        }
        assert!(
            lost > 100 && excused > 100 && moved > 100,
            "{lost}, {excused}, {moved}"
        );
    }
}
