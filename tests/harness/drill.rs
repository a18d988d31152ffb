//! Drills: runs that are about one promise. Nodes, clients and faults are set up so that what breaks it, if anything does, is likely to
//! be met; what they do is the same as everywhere else, and so is the judge.
//!
//! *Invariant:* what destroys synced data strikes one node of a drill only, as in every run.

mod reaped;

use std::ops::Range;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    ambush::{Ambush, Moment, Strike, Who, mask},
    faults::{Fault, Kind},
    operator::{Errand, WISHES, Wish},
    reaping::Reaping,
    workload::Manner,
};

/// What a drill is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drill {
    /// One epoch has one decree: two operators want different things at once, and whoever has voted or decided is cut off or loses power.
    Decide,
    /// Reads meet writes while layouts change: the cluster falls apart just when some have acknowledged, received or flipped.
    Flip,
    /// An empty disk counts toward no read: a write is left on one disk, as another was cut off and a third is lost.
    Loss,
    /// What a fallback holds is not lost, and is nobody else's.
    Hints,
    /// What rots is not served and not sent on.
    Rot,
    /// What an expired value has replaced does not come back.
    Expire,
    /// What was on its way while a delete was forgotten does not come back: messages between two nodes are held for a whole round of reaping.
    Late,
    /// A delete that an owner has confirmed is not lost there: it comes late, to a slow disk, whose power goes as soon as the round begins.
    Confirm,
}

/// All drills, by what `sim` calls them.
pub const DRILLS: [(&str, Drill); 8] = [
    ("decide", Drill::Decide),
    ("flip", Drill::Flip),
    ("loss", Drill::Loss),
    ("hints", Drill::Hints),
    ("rot", Drill::Rot),
    ("expire", Drill::Expire),
    ("late", Drill::Late),
    ("confirm", Drill::Confirm),
];

/// How a run is set up for it.
#[derive(Debug, Clone)]
pub struct Script {
    /// Nodes that found the cluster, and spare ones.
    pub sizes: (usize, usize),
    /// Number of clients.
    pub clients: usize,
    /// Number of keys.
    pub keys: usize,
    /// Pause between two calls of a client, at most, in ms.
    pub pause_ms: u64,
    /// What clients do.
    pub manner: Manner,
    /// How long clients work and faults come, in ms.
    pub storm_ms: u64,
    /// What operators do.
    pub errands: Vec<Errand>,
    /// Faults with a time, in its order.
    pub faults: Vec<Fault>,
    /// How deleted keys are reaped, if that is not left to the seed.
    pub reaping: Option<Reaping>,
    /// When clients wait, in ms.
    pub hushes: Vec<Range<u64>>,
    /// Faults that wait for what stores say.
    pub ambushes: Vec<Ambush>,
}

/// How long a drill lasts, in ms.
const STORM_MS: u64 = 5_000;

impl Drill {
    /// The run of a seed.
    pub fn script(self, seed: u64) -> Script {
        let mut chance = StdRng::seed_from_u64(seed ^ 0x6472_696c_6c73);
        let founding = [3, 3, 4, 5][chance.random_range(0..4)];
        let script = Script {
            sizes: (founding, 0),
            clients: chance.random_range(3..=6),
            keys: chance.random_range(2..8),
            pause_ms: chance.random_range(5..30),
            manner: Manner::HotReads,
            storm_ms: STORM_MS,
            errands: Vec::new(),
            faults: Vec::new(),
            reaping: None,
            hushes: Vec::new(),
            ambushes: Vec::new(),
        };
        let mut script = match self {
            Drill::Decide => decide(script, &mut chance),
            Drill::Flip => flip(script, &mut chance),
            Drill::Loss => loss(script, &mut chance),
            Drill::Hints => hints(script, &mut chance),
            Drill::Rot => rot(script, &mut chance),
            Drill::Expire => expire(script, &mut chance),
            Drill::Late => reaped::late(script, &mut chance),
            Drill::Confirm => reaped::confirm(script, &mut chance),
        };
        script.faults.sort_by_key(|fault| fault.at_ms);
        script.errands.sort_by_key(|errand| errand.at_ms);
        script
    }
}

/// A fault of a node, and another of the same run.
fn fault(kind: Kind, node: usize, nodes: usize, chance: &mut StdRng) -> Fault {
    Fault {
        kind,
        at_ms: 0,
        for_ms: 0,
        worn_ms: 0,
        aids: false,
        node,
        other: (node + chance.random_range(1..nodes)) % nodes,
        seed: chance.random(),
    }
}

/// A strike that lasts for some time of this range, in ms.
fn strike(who: Who, kind: Kind, for_ms: std::ops::Range<u64>, chance: &mut StdRng) -> Strike {
    let fault = fault(kind, 0, 2, chance);
    let for_ms = chance.random_range(for_ms);
    Strike {
        who,
        fault: Fault { for_ms, ..fault },
    }
}

/// A process that ends, in one way or another.
fn ends(chance: &mut StdRng) -> Kind {
    [Kind::Crash, Kind::Kill][chance.random_range(0..2)]
}

/// Two operators each want something at about the same time, twice.
fn decide(script: Script, chance: &mut StdRng) -> Script {
    let mut errands = Vec::new();
    let mut ambushes = Vec::new();
    for round in 0..2 {
        let at_ms = 300 + round * STORM_MS / 2;
        for operator in 0..2 {
            errands.push(Errand {
                at_ms: at_ms + operator * chance.random_range(0..30),
                wish: WISHES[chance.random_range(0..WISHES.len())],
                operator: operator as usize,
                seed: chance.random(),
            });
        }
        let moments = [
            Moment::Promised,
            Moment::Accepted,
            Moment::Accepted,
            Moment::Decreed,
            Moment::Decreed,
            Moment::Decreed,
        ];
        let moment = moments[chance.random_range(0..moments.len())];
        let count = match moment {
            Moment::Decreed => chance.random_range(1..=2),
            _ => chance.random_range(1..=script.sizes.0),
        };
        // Who spoke last is heard by nobody; the others go on, or begin anew from what their disks have kept.
        let mut strikes = vec![strike(Who::Said, Kind::Split, 800..2_000, chance)];
        if chance.random() {
            strikes[0].who = Who::Speaker;
        }
        match chance.random_range(0..4) {
            0 => strikes.push(strike(Who::Speaker, ends(chance), 500..1_500, chance)),
            1 | 2 => strikes.push(strike(Who::Silent, ends(chance), 50..300, chance)),
            _ => {}
        }
        ambushes.push(Ambush::new(at_ms, moment, count, strikes));
    }
    let (founding, _) = script.sizes;
    Script {
        sizes: (founding, 2),
        clients: 1,
        pause_ms: 100,
        errands,
        ambushes,
        ..script
    }
}

/// A change or two, in each of which the cluster falls apart at some moments.
fn flip(script: Script, chance: &mut StdRng) -> Script {
    let mut errands = Vec::new();
    let mut ambushes = Vec::new();
    let (founding, _) = script.sizes;
    for round in 0..2 {
        let at_ms = 400 + round * STORM_MS / 2;
        let wishes = [
            Wish::Join,
            Wish::Join,
            Wish::Leave,
            Wish::Replace,
            Wish::Resize,
        ];
        let wish = wishes[chance.random_range(0..wishes.len())];
        errands.push(Errand {
            at_ms,
            wish,
            operator: 0,
            seed: chance.random(),
        });
        match chance.random_range(0..3) {
            0 => {
                // Who decided it and who is new are alone with each other, and the others go on by the old layout.
                let mut alone = strike(Who::SaidOr, Kind::Split, 400..1_200, chance);
                alone.fault.seed = mask(&[founding, founding + 1]);
                let moment = [Moment::Decreed, Moment::Acked][chance.random_range(0..2)];
                ambushes.push(Ambush::new(at_ms, moment, 1, vec![alone]));
                continue;
            }
            1 => {
                // The last has received all that it is given, and the others have not heard of it.
                let new = usize::from(matches!(wish, Wish::Join | Wish::Replace));
                let apart = strike(Who::Some, Kind::Split, 500..1_500, chance);
                let all = founding + new;
                ambushes.push(Ambush::new(at_ms, Moment::Merged, all, vec![apart]));
                continue;
            }
            _ => {}
        }
        for _ in 0..chance.random_range(1..=2) {
            let moments = [
                Moment::Decreed,
                Moment::Acked,
                Moment::Acked,
                Moment::Merged,
                Moment::Merged,
                Moment::Flipped,
            ];
            let moment = moments[chance.random_range(0..moments.len())];
            let count = chance.random_range(1..=founding);
            let whos = [Who::Said, Who::Some, Who::Some, Who::Speaker];
            let who = whos[chance.random_range(0..whos.len())];
            let mut strikes = vec![strike(who, Kind::Split, 200..1_500, chance)];
            if chance.random_range(0..4) == 0 {
                strikes.push(strike(Who::Speaker, ends(chance), 100..800, chance));
            }
            ambushes.push(Ambush::new(at_ms, moment, count, strikes));
        }
    }
    Script {
        sizes: (founding, 2),
        errands,
        ambushes,
        ..script
    }
}

/// While one node is cut off, another loses its disk; when that is listed anew, those two are alone with each other.
fn loss(script: Script, chance: &mut StdRng) -> Script {
    let nodes = 3 + usize::from(chance.random_range(0..3) == 0);
    let struck = chance.random_range(0..nodes);
    let missing = (struck + chance.random_range(1..nodes)) % nodes;
    let at_ms = chance.random_range(800..1_500);
    let away_ms = chance.random_range(50..300);
    let split = |nodes: &[usize], at_ms: u64, for_ms: u64, chance: &mut StdRng| Fault {
        at_ms,
        for_ms,
        seed: mask(nodes),
        ..fault(Kind::Split, 0, 2, chance)
    };
    let gap_ms = chance.random_range(200..700);
    let back_ms = chance.random_range(0..300);
    let gap = split(
        &[missing],
        at_ms - gap_ms,
        gap_ms + away_ms + back_ms,
        chance,
    );
    let lost = Fault {
        at_ms,
        for_ms: away_ms,
        ..fault(Kind::LoseDisk, struck, nodes, chance)
    };
    let for_ms = chance.random_range(500..1_500);
    let alone = Strike {
        who: Who::Some,
        fault: split(&[struck, missing], 0, for_ms, chance),
    };
    Script {
        sizes: (nodes, 0),
        faults: vec![gap, lost],
        ambushes: vec![Ambush::new(at_ms, Moment::Listed, 1, vec![alone])],
        ..script
    }
}

/// All but two nodes are down, so that fallbacks hold what owners lack; then of those two one ends and the other loses its disk.
fn hints(script: Script, chance: &mut StdRng) -> Script {
    let nodes = chance.random_range(4..=5);
    let one = chance.random_range(0..nodes);
    let other = (one + chance.random_range(1..nodes)) % nodes;
    let at_ms = chance.random_range(300..800);
    let ends_ms = at_ms + chance.random_range(700..1_800);
    let back_ms = ends_ms + chance.random_range(300..1_200);
    let others = (0..nodes).filter(|node| ![one, other].contains(node));
    let mut faults = Vec::new();
    for node in others {
        faults.push(Fault {
            at_ms,
            for_ms: back_ms - at_ms,
            ..fault(ends(chance), node, nodes, chance)
        });
    }
    let how = [Kind::Crash, Kind::Kill, Kind::Restart][chance.random_range(0..3)];
    faults.push(Fault {
        at_ms: ends_ms,
        for_ms: chance.random_range(50..400),
        ..fault(how, one, nodes, chance)
    });
    // In half of the drills nothing is lost, and what fallbacks were asked is all there is.
    if chance.random() {
        faults.push(Fault {
            at_ms: ends_ms - 100 + chance.random_range(0..200),
            for_ms: chance.random_range(50..400),
            ..fault(Kind::LoseDisk, other, nodes, chance)
        });
    }
    Script {
        sizes: (nodes, 0),
        manner: Manner::Lenient,
        keys: chance.random_range(4..16),
        faults,
        ..script
    }
}

/// While one node misses what is written, another is started anew, so that it holds its records on disk alone. There some rot, just before
/// the first one is back and asks for what it missed; mostly it reaches nobody but the one whose disk rots. Clients wait from before all
/// that: whoever reads a rotten record mends it.
fn rot(script: Script, chance: &mut StdRng) -> Script {
    let (nodes, _) = script.sizes;
    let struck = chance.random_range(0..nodes);
    let missing = (struck + chance.random_range(1..nodes)) % nodes;
    let at_ms = chance.random_range(500..1_500);
    let hush_ms = chance.random_range(2_500..3_000);
    let restart_ms = hush_ms + chance.random_range(100..600);
    let rot_ms = restart_ms + chance.random_range(1_500..2_500);
    let back_ms = rot_ms + chance.random_range(1..100);
    let storm_ms = back_ms + chance.random_range(2_000..4_000);
    let gap = Fault {
        at_ms,
        for_ms: back_ms - at_ms,
        seed: mask(&[missing]),
        ..fault(Kind::Split, 0, nodes, chance)
    };
    let restart = Fault {
        at_ms: restart_ms,
        for_ms: 1,
        ..fault(Kind::Restart, struck, nodes, chance)
    };
    let rot = Fault {
        at_ms: rot_ms,
        for_ms: 1,
        ..fault(Kind::Rot, struck, nodes, chance)
    };
    let mut faults = vec![gap, restart, rot];
    // Else any of the others may be the first to give what one lacks, or mend what rots there.
    if chance.random_range(0..4) > 0 {
        faults.push(Fault {
            // Once the first is over: it ends what it began.
            at_ms: back_ms + 2,
            for_ms: storm_ms - back_ms,
            seed: mask(&[missing, struck]),
            ..fault(Kind::Split, 0, nodes, chance)
        });
    }
    Script {
        faults,
        storm_ms,
        hushes: std::iter::once(hush_ms..storm_ms).collect(),
        keys: chance.random_range(15..40),
        pause_ms: 60,
        manner: Manner::Usual,
        ..script
    }
}

/// Values soon expire, and one node after the other misses some of them, and still has what they replaced.
fn expire(script: Script, chance: &mut StdRng) -> Script {
    let (nodes, _) = script.sizes;
    let mut faults = Vec::new();
    let mut at_ms = chance.random_range(400..800);
    while at_ms < STORM_MS - 1_000 {
        let for_ms = chance.random_range(500..2_000);
        let missing = chance.random_range(0..nodes);
        faults.push(Fault {
            at_ms,
            for_ms,
            seed: mask(&[missing]),
            ..fault(Kind::Split, 0, nodes, chance)
        });
        at_ms += for_ms + chance.random_range(50..400);
    }
    Script {
        faults,
        keys: chance.random_range(2..6),
        manner: Manner::Fleeting,
        ..script
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_destroys_synced_data_strikes_one_node_of_a_drill() {
        for (name, drill) in DRILLS {
            for seed in 0..300 {
                let script = drill.script(seed);
                let (founding, spares) = script.sizes;
                let struck = script.faults.iter().filter(|f| f.kind.damages());
                let struck: BTreeSet<usize> = struck.map(|fault| fault.node).collect();
                assert!(struck.len() <= 1, "{name}, seed {seed}: {struck:?}");
                assert!(struck.iter().all(|node| *node < founding));
                let strikes = script.ambushes.iter().flat_map(|a| &a.strikes);
                assert!(strikes.clone().all(|s| !s.fault.kind.damages()));
                assert!(script.faults.is_sorted_by_key(|fault| fault.at_ms));
                assert!(founding + spares <= 9 && founding >= 3);
            }
        }
    }
}
