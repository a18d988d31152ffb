//! The power goes out between any two effects of a round. What was told holds, what was not told is whole either way, and the round
//! can be driven on from wherever it is.

use super::{
    PARTITION, advance, at, delete, deleted, finish, is_done, mine, old, rig, shown, sorted,
};
use crate::store::tests::rig::Rig;
use crate::store::{Advanced, Tomb};

/// What was told to others before the power went out.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Told {
    advanced: bool,
    ended: bool,
}

/// A store with tombstones, one of which was put there only just now.
fn filled(drained: bool) -> (Rig, Vec<Tomb>) {
    let mut rig = rig(1);
    let mut tombs = deleted(&mut rig, 0..4);
    rig.put(&mine(9), b"value", None);
    if drained {
        rig.drain();
        rig.store().inner.table.evict_all();
    }
    rig.sync_log();
    let fresh = delete(&mut rig, &mine(4));
    tombs.push(fresh);
    tombs.sort_by(|one, other| one.key.cmp(&other.key));
    (rig, tombs)
}

/// Drives a round until the power goes out.
fn drive(rig: &mut Rig, tombs: &[Tomb]) -> Told {
    let mut told = Told::default();
    let steps = [super::step(1, tombs)];
    let Ok(advanced) = rig.store().advance_reaping(&steps) else {
        return told;
    };
    assert!(is_done(advanced[0]));
    if !rig.try_sync_log() {
        return told;
    }
    told.advanced = true;
    let Ok(finished) = rig.store().finish_reaping(PARTITION, 1) else {
        return told;
    };
    if !rig.try_sync_log() {
        return told;
    }
    assert!(rig.store().stats().durable_sequence >= finished.sequence);
    told.ended = rig.store().end_reaping(&[(PARTITION, 1)]).is_ok();
    told
}

/// Cuts the power after so many actions of the disk; true: the round was through before.
fn cut_after(actions: u64, drained: bool, seed: u64) -> bool {
    let (mut rig, tombs) = filled(drained);
    rig.disk.cut_after(actions);
    let told = drive(&mut rig, &tombs);
    rig.disk.keep_power();
    rig.crash(seed, 0);
    rig.restart();
    let words = format!("{told:?} cut after {actions}, drained {drained}, seed {seed}");
    assert_eq!(rig.report().newly_unsynced, Some(vec![]), "{words}");
    let (generation, floor, is_listed) = at(&rig);
    assert_eq!(rig.values(&mine(9)), [b"value".as_slice()], "{words}");
    let there = |rig: &Rig, tomb: &Tomb| !rig.get(&tomb.key).object().is_empty();
    if told.advanced {
        assert_eq!(generation, 1, "{words}");
    }
    match (generation, is_listed) {
        (0, false) => {
            assert!(!told.advanced && floor == 0, "{words}");
            assert!(
                tombs
                    .iter()
                    .all(|tomb| { there(&rig, tomb) || tomb.key == mine(4) })
            );
            let merged = rig.store().merge(&mine(30), old(1), 0);
            merged.expect("as if nothing had been");
        }
        (1, true) => {
            assert!(!told.ended && floor == 0, "{words}");
            assert_eq!(shown(&rig), [mine(9)], "{words}");
            rig.store().merge(&mine(0), old(1), 0).expect_err("older");
        }
        (1, false) => {
            assert!(told.advanced && floor == 1, "{words}");
            assert!(!tombs.iter().any(|tomb| there(&rig, tomb)), "{words}");
        }
        other => panic!("{other:?}: {words}"),
    }
    // On from there; what was put in the place of nothing was the client's last, not yet acknowledged delete.
    let kept: Vec<Tomb> = tombs
        .into_iter()
        .filter(|tomb| {
            generation == 1 || there(&rig, tomb) && rig.get(&tomb.key).leaf() == tomb.leaf
        })
        .collect();
    assert!(is_done(advance(&rig, 1, &kept)), "{words}");
    rig.sync_log();
    finish(&mut rig, 1);
    assert_eq!(at(&rig), (1, 1, false), "{words}");
    let mut shown = shown(&rig);
    shown.retain(|key| *key != mine(30) && *key != mine(4));
    assert_eq!(shown, sorted([9]), "{words}");
    told.ended
}

#[test]
fn a_cut_between_any_two_effects_of_a_round() {
    for drained in [false, true] {
        for seed in 0..4 {
            let through = (0..200).find(|&actions| cut_after(actions, drained, seed));
            assert!(
                through.is_some_and(|actions| actions > 10),
                "the sweep covers a whole round: {through:?}"
            );
        }
    }
}

#[test]
fn a_step_that_rests_on_what_the_log_has_lost_is_taken_back() {
    for synced in [false, true] {
        let (mut rig, tombs) = filled(false);
        let last = rig.store().stats().last_sequence;
        let done = Advanced::Done { sequence: last };
        assert_eq!(advance(&rig, 1, &tombs), done);
        assert_eq!(at(&rig), (1, 0, true));
        if synced {
            rig.sync_log();
        }
        // What the log has not written yet is in memory alone.
        rig.crash(1, 0);
        rig.restart();
        assert_eq!(at(&rig), (u64::from(synced), 0, synced));
        let is_there = rig.get(&mine(4)).object().is_empty();
        assert_eq!(is_there, !synced);
        rig.crash(1, 0);
        rig.restart();
        assert_eq!(at(&rig), (u64::from(synced), 0, synced), "for good");
    }
}
