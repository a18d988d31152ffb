//! Hints beside the records.

use super::rig::{Rig, foreign, key, small_config};
use crate::codec::rows::Shelf;
use crate::key::Key;
use crate::store::{Hint, HintRefused, StoreConfig};
use crate::version::{Floor, Object};

fn rig() -> Rig {
    let config = StoreConfig {
        hint_bytes: 512 << 10,
        ..small_config()
    };
    Rig::new(3, config)
}

/// A store's only write, of a value with that many bytes.
fn object(rig: &mut Rig, actor: u64, bytes: usize) -> Object {
    let request = rig.request();
    foreign(&Object::empty(), actor, 1, request, &vec![7; bytes])
}

fn take(rig: &mut Rig, number: u64, generation: u64, now_ms: u64) -> u64 {
    let object = object(rig, number * 1_000 + now_ms, 10);
    rig.store()
        .take_hint(&key(number), object, Floor::default(), generation, now_ms)
        .expect("there is room")
}

fn keys(hints: &[Hint]) -> Vec<Key> {
    hints.iter().map(|hint| hint.key.clone()).collect()
}

#[test]
fn a_hint_is_in_no_record_no_tree_and_no_scan_and_no_erasing_takes_it() {
    let mut rig = rig();
    for number in 0..16 {
        take(&mut rig, number, 0, 1);
    }
    // The last partition of all is that next to the hints.
    let last = key(15);
    rig.put(&last, b"a record", None);
    for drained in [false, true] {
        if drained {
            rig.drain();
            rig.store().inner.table.evict_all();
        }
        let store = rig.store().clone();
        let page = store.scan(0, None, u64::MAX, 100, usize::MAX);
        let page = page.expect("the engine is well");
        let scanned: Vec<Key> = page.records.into_iter().map(|(key, _)| key).collect();
        assert_eq!((scanned, page.next), (vec![last.clone()], None));
        assert_eq!(store.hint_stats().count, 16);
        for partition in 0..15 {
            assert!(store.is_empty(partition));
            assert_eq!(store.lowest_hint_generation(partition), Some(0));
        }
    }
    assert_eq!(rig.store().stats().keys, 1);
    let erased = rig
        .store()
        .erase_page(15, None, 100)
        .expect("there is room");
    assert_eq!((erased.keys, erased.next), (1, None));
    rig.drain();
    rig.stop();
    rig.restart();
    assert!(rig.report().clean, "{:?}", rig.report());
    assert_eq!(rig.store().hint_stats().count, 16);
    assert!(rig.get(&last).object().is_empty());
}

#[test]
fn two_hints_of_one_key_become_one_with_the_lower_generation_and_the_earlier_time() {
    let mut rig = rig();
    take(&mut rig, 1, 5, 200);
    take(&mut rig, 1, 7, 100);
    take(&mut rig, 1, 4, 300);
    let held = rig.store().hint(&key(1)).expect("taken");
    let siblings = held.record.object().siblings().len();
    assert_eq!((held.generation, held.taken_ms, siblings), (4, 100, 3));
    // What is held already is not logged again.
    let (last, object) = (
        rig.store().stats().last_sequence,
        held.record.object().clone(),
    );
    let again = rig
        .store()
        .take_hint(&key(1), object, Floor::default(), 9, 900);
    assert_eq!(again, Ok(last));
    assert_eq!(rig.store().stats().last_sequence, last);
}

#[test]
fn only_what_was_delivered_is_forgotten() {
    let mut rig = rig();
    take(&mut rig, 1, 0, 100);
    let delivered = rig.store().hint(&key(1)).expect("taken");
    take(&mut rig, 1, 0, 200);
    assert_eq!(rig.store().forget_hint(&delivered), Ok(false));
    let delivered = rig.store().hint(&key(1)).expect("still there");
    assert_eq!(rig.store().forget_hint(&delivered), Ok(true));
    assert_eq!(rig.store().forget_hint(&delivered), Ok(false));
    assert_eq!(rig.store().hint(&key(1)), None);
}

#[test]
fn they_are_handed_out_by_age_in_pages() {
    let mut rig = rig();
    for (number, now_ms) in [(1, 300), (2, 100), (3, 200), (4, 100)] {
        take(&mut rig, number, 0, now_ms);
    }
    let all = rig.store().hints_after(None, 10, usize::MAX);
    assert_eq!(keys(&all), [key(2), key(4), key(3), key(1)]);
    let first = rig.store().hints_after(None, 2, usize::MAX);
    assert_eq!(keys(&first), [key(2), key(4)]);
    let place = (first[1].taken_ms, first[1].key.clone());
    let rest = rig.store().hints_after(Some(&place), 10, 1);
    assert_eq!(
        keys(&rest),
        [key(3)],
        "one at least, and no more past the bytes"
    );
    assert_eq!(rig.store().hint_stats().oldest_ms, 100);
}

#[test]
fn past_the_budget_the_newest_is_refused_and_past_the_age_the_oldest_dropped() {
    let mut rig = rig();
    let mut taken = 0;
    let refused = loop {
        let object = object(&mut rig, taken + 1, 9_000);
        let floor = Floor::default();
        match rig.store().take_hint(&key(taken), object, floor, 0, taken) {
            Ok(_) => taken += 1,
            Err(refused) => break refused,
        }
        rig.drain();
    };
    assert_eq!(refused, HintRefused::Budget { max: 512 << 10 });
    let stats = rig.store().hint_stats();
    assert_eq!((stats.count as u64, stats.refused), (taken, 1));
    assert!(stats.bytes <= 512 << 10 && stats.bytes > 500 << 10);

    let dropped = rig.store().drop_hints(3, 2).expect("there is room");
    assert_eq!(dropped, [key(0), key(1)]);
    let dropped = rig.store().drop_hints(3, 2).expect("there is room");
    assert_eq!(dropped, [key(2)]);
    assert_eq!(rig.store().drop_hints(3, 2), Ok(vec![]));
    let stats = rig.store().hint_stats();
    assert_eq!((stats.count as u64, stats.dropped), (taken - 3, 3));
    take(&mut rig, 99, 0, 99);
}

#[test]
fn a_damaged_hint_is_told_and_its_rows_go() {
    for (number, bytes) in [(1, 10), (2, 9_000)] {
        let mut rig = rig();
        let (one, other) = (object(&mut rig, 1, bytes), object(&mut rig, 2, bytes));
        let floor = Floor::default();
        let keep = |number, object| {
            let taken = rig.store().take_hint(&key(number), object, floor, 0, 1);
            taken.expect("there is room");
        };
        keep(number, one);
        keep(7, other);
        rig.drain();
        rig.stop();
        let row = Shelf::Hints.head_key(&key(number));
        let (_, value) = rig
            .home
            .rows()
            .into_iter()
            .find(|(key, _)| *key == row)
            .expect("drained");
        let mut value = value.to_vec();
        value[12] ^= 1;
        rig.home.poke(&row, Some(&value));
        rig.restart();
        assert_eq!(rig.report().damaged_hints, [key(number)]);
        assert_eq!(rig.store().hint(&key(number)), None);
        assert!(rig.store().hint(&key(7)).is_some());
        assert_eq!(rig.report().newly_unsynced, Some(vec![]));
        rig.put(&key(3), b"for a drain", None);
        rig.drain();
        rig.stop();
        rig.restart();
        assert_eq!(rig.report().damaged_hints, []);
        assert_eq!(
            rig.home.rows().len(),
            2 + if bytes > 4_096 { 4 } else { 1 },
            "nothing of it is left"
        );
    }
}

#[test]
fn hints_alone_are_drained_by_their_age_so_that_the_log_goes_on() {
    let mut rig = rig();
    for number in 0..400 {
        let object = object(&mut rig, number + 1, 3_000);
        let floor = Floor::default();
        let taken = rig.store().take_hint(&key(number % 8), object, floor, 0, 1);
        taken.expect("the log has room");
        let held = rig.store().hint(&key(number % 8)).expect("taken");
        assert_eq!(rig.store().forget_hint(&held), Ok(true));
        rig.sync_log();
        rig.now_ms += 100;
        for _ in 0..20 {
            rig.step_drain();
        }
    }
    assert!(rig.store().stats().drains > 5);
    rig.drain();
    assert_eq!(rig.home.rows().len(), 1);
}

#[test]
fn hints_that_are_not_those_that_were_drained_are_told() {
    let mut rig = rig();
    take(&mut rig, 1, 0, 100);
    take(&mut rig, 2, 0, 100);
    rig.drain();
    let row = Shelf::Hints.head_key(&key(1));
    let rows = rig.home.rows();
    let (_, stale) = rows.iter().find(|(key, _)| *key == row).expect("drained");
    let stale = stale.clone();
    take(&mut rig, 1, 0, 200);
    rig.drain();
    rig.stop();
    rig.restart();
    assert!(!rig.report().lost_hints);
    rig.stop();
    // Each row for itself is as good as any.
    rig.home.poke(&row, Some(&stale));
    rig.restart();
    assert!(rig.report().lost_hints && rig.report().damaged_hints.is_empty());
    rig.stop();
    rig.home.poke(&row, None);
    rig.restart();
    assert!(rig.report().lost_hints);
}
