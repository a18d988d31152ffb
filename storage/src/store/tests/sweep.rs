//! A crash between any two steps of a drain, and of a close, loses nothing that was durable.

use super::rig::{Rig, foreign, key, small_config};
use crate::store::{DrainStep, StoreConfig};
use crate::version::{Floor, Object};

/// Fills a store in two layers: some keys drained, some of these and others changed since.
fn filled(seed: u64) -> Rig {
    let config = StoreConfig {
        table_bytes: 512 << 10,
        hint_bytes: 512 << 10,
        ..small_config()
    };
    let mut rig = Rig::new(seed, config);
    for number in 0..12 {
        rig.put(&key(number), &[1; 200], None);
    }
    rig.put(&key(12), &[1; 9_000], None);
    rig.put(&key(13), &[1; 9_000], None);
    for number in 30..36 {
        hint(&mut rig, number, 3);
    }
    rig.drain();
    for number in 6..18 {
        let context = Some(rig.get(&key(number)).object().into());
        rig.put(&key(number), &[2; 5_000], context);
    }
    for number in 33..39 {
        hint(&mut rig, number, 4);
    }
    for number in [30, 33, 36] {
        let held = rig.store().hint(&key(number)).expect("taken");
        assert_eq!(rig.store().forget_hint(&held), Ok(true));
    }
    rig.store().erase(&key(0)).expect("there is room");
    rig.store().erase(&key(12)).expect("there is room");
    rig.sync_log();
    rig
}

/// A hint, small or large by its number; the second of a key has two siblings.
fn hint(rig: &mut Rig, number: u64, actor: u64) {
    let request = rig.request();
    let bytes = if number.is_multiple_of(2) { 300 } else { 9_000 };
    let object = foreign(&Object::empty(), actor, number, request, &vec![3; bytes]);
    let (floor, now_ms) = (Floor::default(), 100 * actor);
    let taken = rig
        .store()
        .take_hint(&key(number), object, floor, actor, now_ms);
    taken.expect("there is room");
}

fn check_hints(rig: &Rig, at: &str) {
    for number in 30..40 {
        let held = rig.store().hint(&key(number)).map(|hint| {
            let siblings = hint.record.object().siblings().len();
            (siblings, hint.generation, hint.taken_ms)
        });
        let expected = match number {
            30 | 33 | 36 | 39 => None,
            31 | 32 => Some((1, 3, 300)),
            34 | 35 => Some((2, 3, 300)),
            _ => Some((1, 4, 400)),
        };
        assert_eq!(held, expected, "hint {number}, {at}");
    }
}

/// What `filled` left.
fn check(rig: &Rig, at: &str) {
    for number in 0..20 {
        let expected: &[Vec<u8>] = match number {
            0 | 12 | 18.. => &[],
            1..6 => &[vec![1; 200]],
            _ => &[vec![2; 5_000]],
        };
        assert_eq!(rig.values(&key(number)), expected, "key {number}, {at}");
    }
    check_hints(rig, at);
}

/// Lets the drain see the changes, and grow them old.
fn age(rig: &mut Rig) {
    while rig.step_drain() != DrainStep::Idle {}
    rig.now_ms += 10_000;
}

/// Crashes after `steps` steps of the drain, with a share of the engine's unflushed changes kept; true: the drain got
/// to its end before.
fn crash_after(steps: usize, close: bool, kept_share: usize) -> bool {
    let at = format!("crash after {steps} steps, close {close}, kept {kept_share}/2");
    let mut rig = filled(7);
    age(&mut rig);
    if close {
        rig.store().close();
    }
    let mut ended = false;
    for _ in 0..steps {
        let step = rig.step_drain();
        ended = step == DrainStep::Closed || step == DrainStep::Idle;
    }
    let kept = rig.home.pending() * kept_share / 2;
    rig.crash(steps as u64, kept);
    rig.restart();
    assert_eq!(rig.report().newly_unsynced, Some(vec![]), "{at}");
    assert_eq!(rig.report().damaged_records, 0, "{at}");
    assert!(!rig.report().lost_hints, "{at}");
    check(&rig, &at);
    // And once more on top of whatever that start made of it, with a drain between.
    age(&mut rig);
    for _ in 0..steps {
        rig.step_drain();
    }
    let kept = rig.home.pending() * kept_share / 2;
    rig.crash(steps as u64 + 1, kept);
    rig.restart();
    assert_eq!(rig.report().newly_unsynced, Some(vec![]), "{at}, again");
    assert!(!rig.report().lost_hints, "{at}, again");
    check(&rig, &at);
    rig.drain();
    check(&rig, &at);
    assert_no_orphans(&rig);
    ended
}

/// Every chunk row belongs to a head row: the rows are those of the records, and no more.
fn assert_no_orphans(rig: &Rig) {
    // 5 records of one row, 11 of a head row and two chunks, the applied row; 3 hints of one row, 2 of a head row and three
    // chunks, 1 of a head row and five.
    let hints = 3 + 2 * 4 + 6;
    assert_eq!(rig.home.rows().len(), 5 + 11 * 3 + 1 + hints);
}

#[test]
fn a_crash_between_any_two_steps_of_a_drain() {
    for kept_share in 0..=2 {
        let ended = (0..200).find(|&steps| crash_after(steps, false, kept_share));
        assert!(
            ended.is_some_and(|steps| steps > 10),
            "the sweep covers the whole drain: {ended:?}"
        );
    }
}

#[test]
fn a_crash_between_any_two_steps_of_a_close() {
    let ended = (0..200).find(|&steps| crash_after(steps, true, 1));
    assert!(
        ended.is_some_and(|steps| steps > 10),
        "the sweep covers the whole close: {ended:?}"
    );
}

/// The engine recovers a prefix of its unflushed changes: each of them must hold whole records.
#[test]
fn every_prefix_of_a_drains_changes_holds_whole_records() {
    let mut kept = 0;
    loop {
        let mut rig = filled(7);
        age(&mut rig);
        let last = rig.store().stats().last_sequence;
        // Up to the step before the flush, where most is pending.
        let mut most = 0;
        for _ in 0..200 {
            rig.step_drain();
            assert!(
                rig.home.pending() >= most,
                "nothing is flushed before the row `applied`"
            );
            most = rig.home.pending();
            let applied = crate::store::rowio::applied(&rig.store().inner.engine);
            let applied = applied.expect("the engine is well");
            if applied.is_some_and(|applied| applied.sequence == last) {
                break;
            }
        }
        assert!(most > 30, "chunks, heads, removals: {most}");
        rig.crash(kept as u64, kept);
        rig.restart();
        let at = format!("{kept} of {most} changes kept");
        assert_eq!(rig.report().damaged_records, 0, "{at}");
        assert!(!rig.report().lost_hints, "{at}");
        assert_eq!(rig.report().newly_unsynced, Some(vec![]), "{at}");
        check(&rig, &at);
        rig.drain();
        assert_no_orphans(&rig);
        if kept == most {
            return;
        }
        kept += 1;
    }
}
