//! Drills about deletes that are forgotten while messages, or a disk, are late.

use rand::{RngExt, rngs::StdRng};

use super::{Script, fault};
use crate::{
    ambush::{Ambush, Moment, Strike, Who},
    faults::{Fault, Kind},
    reaping::Reaping,
    workload::Manner,
};

/// Part of a drill in which what was deleted is reaped lasts so long, in ms: soon after it began clients wait for the rest of it.
const PART_MS: u64 = 5_500;
/// So long clients work in it, in ms.
const BUSY_MS: u64 = 700;
/// Less than it takes until a connection that is silent is given up, in ms.
const HOLD_MS_MAX: u64 = 4_400;

/// A drill in which what was deleted is reaped as soon as may be, in so many parts; `part` says what happens in each, and from when on.
fn reaping(
    script: Script,
    parts: u64,
    chance: &mut StdRng,
    mut part: impl FnMut(&mut Script, u64, &mut StdRng),
) -> Script {
    let mut script = Script {
        sizes: (3, 0),
        clients: 6,
        keys: chance.random_range(20..50),
        pause_ms: chance.random_range(5..20),
        manner: Manner::Hasty,
        storm_ms: parts * PART_MS,
        reaping: Some(Reaping::hasty()),
        ..script
    };
    for number in 0..parts {
        let at_ms = number * PART_MS + chance.random_range(50..200);
        part(&mut script, at_ms, chance);
        let end_ms = (number + 1) * PART_MS;
        script.hushes.push(at_ms + BUSY_MS..end_ms);
    }
    script
}

/// What two nodes send each other is held from before keys are deleted until they are reaped: the third one's rounds go on.
pub(super) fn late(script: Script, chance: &mut StdRng) -> Script {
    reaping(script, 3, chance, |script, at_ms, chance| {
        let node = chance.random_range(0..3);
        script.faults.push(Fault {
            at_ms,
            for_ms: chance.random_range(HOLD_MS_MAX - 400..HOLD_MS_MAX),
            ..fault(Kind::Hold, node, 3, chance)
        });
    })
}

/// A node hears late of deletes, and its disk is slow; a round begins that another node has a part in, and its power goes.
pub(super) fn confirm(script: Script, chance: &mut StdRng) -> Script {
    reaping(script, 4, chance, |script, at_ms, chance| {
        let node = chance.random_range(0..3);
        let hold = Fault {
            at_ms,
            for_ms: chance.random_range(1_300..3_500),
            ..fault(Kind::Hold, node, 3, chance)
        };
        let slow = Fault {
            at_ms: at_ms + BUSY_MS,
            for_ms: PART_MS - BUSY_MS - 200,
            // As slow as may be.
            seed: 199,
            ..fault(Kind::SlowDisk, node, 3, chance)
        };
        let cut = Strike {
            who: Who::Own,
            fault: Fault {
                for_ms: chance.random_range(50..500),
                ..fault(Kind::Crash, node, 3, chance)
            },
        };
        let from_ms = at_ms + hold.for_ms;
        script.faults.extend([hold, slow]);
        let ambush = Ambush::new(from_ms, Moment::Reaping, 1, vec![cut]);
        script.ambushes.push(ambush);
    })
}
