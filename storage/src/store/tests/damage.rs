//! Damaged records come back: what was lost is known, is known again after restarts, and stands for itself once it is here.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::rig::{Rig, foreign, key, small_config};
use crate::codec::rows;
use crate::disk::Disk;
use crate::key::Key;
use crate::record::{NO_LEAF, Record};
use crate::store::{DrainStep, Read, Scrubbed, StoreConfig};
use crate::version::{Object, RequestId};

const KEYS: u64 = 160;

/// All keys in the engine, and nothing else in memory.
pub(super) fn filled(seed: u64) -> Rig {
    let config = StoreConfig {
        table_bytes: 1 << 20,
        segment_bytes: 1 << 20,
        ..small_config()
    };
    let mut rig = Rig::new(seed, config);
    for number in 0..KEYS {
        let size = if number % 20 == 7 { 9_000 } else { 100 };
        rig.put(&key(number), &vec![number as u8; size], None);
    }
    rig.drain();
    rig.store().inner.table.evict_all();
    rig
}

/// Damages what is under a key, without anybody's notice.
pub(super) fn rot(rig: &Rig, key: &Key) {
    let head = rows::head_key(key);
    let prefix = &head[..head.len() - 1];
    let mut rows = rig.home.rows().into_iter();
    // The last one: a chunk, if it has any.
    let row = rows.rfind(|(row, _)| row.starts_with(prefix));
    let (row, value) = row.expect("it is there");
    let mut value = value.to_vec();
    let at = value.len() / 2;
    value[at] ^= 4;
    rig.home.poke(&row, Some(&value));
}

/// Reads everything through.
pub(super) fn scrub(rig: &Rig) -> Scrubbed {
    let (mut all, mut after) = (Scrubbed::default(), None);
    loop {
        let page = rig.store().scrub(after.as_deref(), 1_000);
        let page = page.expect("the engine is well");
        all.records += page.records;
        all.bytes += page.bytes;
        all.quarantined += page.quarantined;
        all.rewritten += page.rewritten;
        all.orphans += page.orphans;
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

/// Lets the drain look at what was found.
fn heal(rig: &mut Rig) {
    while rig.step_drain() != DrainStep::Idle {}
}

fn copies(rig: &Rig, keys: &[Key]) -> BTreeMap<Key, Arc<Record>> {
    keys.iter().map(|key| (key.clone(), rig.get(key))).collect()
}

fn leaves(copies: &BTreeMap<Key, Arc<Record>>) -> BTreeMap<Key, Vec<u64>> {
    let leaves = copies.iter();
    leaves
        .map(|(key, copy)| (key.clone(), vec![copy.leaf()]))
        .collect()
}

/// Merges copies into a partition and ends its quarantine, as the server does.
fn restore(rig: &mut Rig, partition: u32, copies: &BTreeMap<Key, Arc<Record>>) -> bool {
    let actor = rig.store().actor();
    for (key, copy) in copies {
        let merged = rig.store().merge(key, copy.object().clone(), 0);
        merged.expect("there is room");
    }
    rig.store().settle(partition).expect("there is room");
    rig.sync_log();
    rig.store()
        .vouch(&[partition], actor)
        .expect("the disk is well")
}

fn all_are_there(rig: &Rig) {
    for number in 0..KEYS {
        let size = if number % 20 == 7 { 9_000 } else { 100 };
        let values = rig.values(&key(number));
        assert_eq!(values, [vec![number as u8; size]], "key {number}");
    }
}

#[test]
fn a_record_that_came_back_stands_in_the_place_of_the_damaged_row() {
    for drained_first in [false, true] {
        for number in [5, 7] {
            let mut rig = filled(1);
            let lost = key(number);
            let partition = rig.store().partition_of(lost.token());
            let copies = copies(&rig, std::slice::from_ref(&lost));
            rig.store().inner.table.evict_all();
            let before = rig.store().partition_tree(partition);
            rot(&rig, &lost);
            assert_eq!(scrub(&rig).quarantined, 1);
            heal(&mut rig);
            if drained_first {
                let copy = copies[&lost].object().clone();
                rig.store().merge(&lost, copy, 0).expect("there is room");
                rig.drain();
                assert!(matches!(rig.store().read(&lost), Read::Quarantined));
            }
            assert!(restore(&mut rig, partition, &copies));
            all_are_there(&rig);
            assert_eq!(rig.store().partition_tree(partition), before);
            rig.drain();
            rig.store().inner.table.evict_all();
            let again = scrub(&rig);
            assert_eq!((again.records, again.quarantined), (KEYS, 0));
            all_are_there(&rig);
            rig.crash(1, 0);
            rig.restart();
            assert_eq!(rig.report().newly_unsynced, Some(vec![]));
            assert_eq!(rig.report().damaged_records, 0);
            all_are_there(&rig);
        }
    }
}

/// The log has the record whole before any drain has replaced its damaged row.
#[test]
fn a_crash_after_the_end_of_a_quarantine_brings_no_damage_back() {
    let mut rig = filled(2);
    let lost = key(5);
    let partition = rig.store().partition_of(lost.token());
    let copies = copies(&rig, std::slice::from_ref(&lost));
    rig.store().inner.table.evict_all();
    rot(&rig, &lost);
    scrub(&rig);
    heal(&mut rig);
    // Another key is drained, so that the checkpoint no longer expects the lost one.
    rig.put(&key(KEYS), b"later", None);
    rig.drain();
    assert!(restore(&mut rig, partition, &copies));
    rig.crash(1, 0);
    rig.restart();
    assert_eq!(rig.report().newly_unsynced, Some(vec![]));
    assert!(rig.store().quarantined().is_empty() && rig.store().unsynced().is_empty());
    all_are_there(&rig);
    rig.drain();
    rig.store().inner.table.evict_all();
    assert_eq!(scrub(&rig).quarantined, 0);
    all_are_there(&rig);
}

#[test]
fn a_damaged_row_of_which_nobody_knows_anything_goes() {
    let mut rig = filled(3);
    let bogus = Key::new(key(3).token() + 1, b"n", b"made by a flipped bit").expect("short");
    rig.home.poke(&rows::head_key(&bogus), Some(b"nothing"));
    let partition = rig.store().partition_of(bogus.token());
    assert_eq!(scrub(&rig).quarantined, 1);
    heal(&mut rig);
    assert!(restore(&mut rig, partition, &BTreeMap::new()));
    rig.drain();
    rig.store().inner.table.evict_all();
    assert_eq!(
        (scrub(&rig).quarantined, rig.report().damaged_records),
        (0, 0)
    );
    assert!(matches!(
        rig.store()
            .load(std::slice::from_ref(&bogus))
            .expect("well")[..],
        [Read::Found(_)]
    ));
    assert!(rig.get(&bogus).object().is_empty());
    all_are_there(&rig);
    rig.crash(1, 0);
    rig.restart();
    assert_eq!(rig.report().newly_unsynced, Some(vec![]));
}

#[test]
fn what_rots_again_before_the_end_of_its_quarantine_is_no_settled_matter() {
    let mut rig = filled(4);
    let lost = key(5);
    let partition = rig.store().partition_of(lost.token());
    let copies = copies(&rig, std::slice::from_ref(&lost));
    rig.store().inner.table.evict_all();
    rot(&rig, &lost);
    scrub(&rig);
    heal(&mut rig);
    let actor = rig.store().actor();
    let copy = copies[&lost].object().clone();
    rig.store()
        .merge(&lost, copy.clone(), 0)
        .expect("there is room");
    rig.drain();
    rig.store().inner.table.evict_all();
    rot(&rig, &lost);
    rig.store().settle(partition).expect("there is room");
    rig.sync_log();
    assert!(!rig.store().vouch(&[partition], actor).expect("well"));
    assert_eq!(rig.store().unsynced(), [partition]);
    heal(&mut rig);
    assert!(restore(&mut rig, partition, &copies));
    all_are_there(&rig);
}

#[test]
fn the_tree_tells_when_all_that_was_lost_is_back() {
    for at_start in [false, true] {
        let mut rig = filled(5);
        let lost = [key(5), key(21), key(37), key(7)];
        let copies = copies(&rig, &lost);
        rig.store().inner.table.evict_all();
        let partition = rig.store().partition_of(lost[0].token());
        assert_eq!(partition, rig.store().partition_of(lost[2].token()));
        if at_start {
            rig.stop();
        }
        lost.iter().for_each(|key| rot(&rig, key));
        if at_start {
            rig.restart();
        } else {
            assert_eq!(scrub(&rig).quarantined, 4);
            assert_eq!(rig.store().missing(partition), None, "not looked at yet");
            heal(&mut rig);
        }
        let missing = rig.store().missing(partition).expect("known");
        assert_eq!(missing.keys(), lost[..3].iter().cloned().collect());
        let whole = leaves(&copies);
        assert!(missing.is_explained_by(&whole));
        // Of several copies of a key one is enough.
        let mut several = whole.clone();
        several.insert(lost[1].clone(), vec![9, copies[&lost[1]].leaf(), NO_LEAF]);
        assert!(missing.is_explained_by(&several));
        let mut fewer = whole.clone();
        fewer.remove(&lost[1]);
        assert!(!missing.is_explained_by(&fewer));
        let mut newer = whole.clone();
        newer.insert(lost[1].clone(), vec![9]);
        assert!(!missing.is_explained_by(&newer));
        assert!(rig.store().missing(partition + 1).is_none());
        for partition in rig.store().unsynced() {
            assert!(restore(&mut rig, partition, &copies));
            assert_eq!(rig.store().missing(partition), None);
        }
        all_are_there(&rig);
    }
}

/// However often it starts, and whatever it drains meanwhile.
#[test]
fn what_was_lost_is_remembered() {
    let mut rig = filled(6);
    let lost = [key(5), key(21)];
    let copies = copies(&rig, &lost);
    rig.store().inner.table.evict_all();
    let partition = rig.store().partition_of(lost[0].token());
    rot(&rig, &lost[0]);
    scrub(&rig);
    heal(&mut rig);
    rig.crash(1, 0);
    rig.restart();
    let missing = rig.store().missing(partition).expect("remembered");
    assert!(missing.is_explained_by(&leaves(&copies)));
    // Newer copies come, and are drained: the damaged row is gone.
    let request = RequestId {
        client: 9,
        sequence: 1,
    };
    let newer = foreign(&Object::empty(), 77, 1, request, b"theirs");
    rig.store()
        .merge(&lost[0], newer, 0)
        .expect("there is room");
    rig.drain();
    rig.stop();
    // More is lost while it is stopped, and found at the start.
    rot(&rig, &lost[1]);
    rig.restart();
    rig.crash(2, 0);
    rig.restart();
    assert_eq!(rig.store().unsynced(), [partition]);
    let missing = rig.store().missing(partition).expect("remembered");
    assert_eq!(missing.keys(), lost.iter().cloned().collect());
    assert!(missing.is_explained_by(&leaves(&copies)));
    let half: BTreeMap<_, _> = leaves(&copies).into_iter().take(1).collect();
    assert!(!missing.is_explained_by(&half));
    assert!(restore(&mut rig, partition, &copies));
    let values = rig.values(&lost[0]);
    assert_eq!(values.len(), 2, "what came meanwhile stands beside it");
    assert_eq!(rig.values(&lost[1]), [vec![21; 100]]);
}

#[test]
fn a_row_that_vanished_or_is_of_another_time_is_explained_by_nothing() {
    let mut rig = filled(7);
    let lost = [key(5), key(21)];
    let copies = copies(&rig, &lost);
    let partition = rig.store().partition_of(lost[0].token());
    rig.stop();
    rot(&rig, &lost[0]);
    rig.home.poke(&rows::head_key(&lost[1]), None);
    rig.restart();
    let missing = rig.store().missing(partition).expect("something is");
    assert_eq!(missing.keys(), lost[..1].iter().cloned().collect());
    assert!(!missing.is_explained_by(&leaves(&copies)));
    rig.crash(1, 0);
    rig.restart();
    let missing = rig.store().missing(partition).expect("remembered");
    assert!(!missing.is_explained_by(&leaves(&copies)));
}

#[test]
fn a_copy_that_does_not_count_for_another_reason_has_no_evidence() {
    let lost = key(5);
    let damaged = |seed| {
        let rig = filled(seed);
        rot(&rig, &lost);
        rig
    };
    let mut rig = damaged(8);
    let partition = rig.store().partition_of(lost.token());
    // Before the damage.
    rig.store().set_synced(partition, false).expect("durable");
    scrub(&rig);
    heal(&mut rig);
    assert_eq!(rig.store().missing(partition), None);
    // After it, durably.
    for all in [false, true] {
        let mut rig = damaged(9);
        scrub(&rig);
        heal(&mut rig);
        assert!(rig.store().missing(partition).is_some());
        match all {
            true => rig.store().count_for_nothing().expect("durable"),
            false => rig.store().set_synced(partition, false).expect("durable"),
        }
        assert_eq!(rig.store().missing(partition), None);
        rig.crash(1, 0);
        rig.restart();
        assert_eq!(rig.store().missing(partition), None);
    }
    // A log with a hole, an engine that is gone: anything may be missing.
    let mut rig = damaged(10);
    scrub(&rig);
    heal(&mut rig);
    rig.crash(1, 0);
    rig.home.fail();
    rig.restart();
    assert_eq!(rig.report().newly_unsynced, None);
    assert_eq!(rig.store().missing(partition), None);
}

#[test]
fn a_damaged_file_of_evidence_is_as_good_as_none() {
    let mut rig = filled(11);
    let lost = key(5);
    let partition = rig.store().partition_of(lost.token());
    rot(&rig, &lost);
    scrub(&rig);
    heal(&mut rig);
    assert!(rig.store().missing(partition).is_some());
    rig.crash(1, 0);
    for slot in ["a", "b"] {
        let name = format!("{}.{slot}", crate::store::evidence::NAME);
        if rig.disk.list("").expect("lists").contains(&name) {
            let file = rig.disk.open(&name).expect("opens");
            file.write_at(40, b"rot").expect("writes");
            file.sync_data().expect("syncs");
        }
    }
    rig.restart();
    assert_eq!(rig.store().unsynced(), [partition]);
    assert_eq!(rig.store().missing(partition), None);
}

/// A drain that was cut in the midst: the intent tells what the copy was.
#[test]
fn damage_under_a_drain_that_was_cut_is_known_or_not_explained() {
    for steps in 0..60 {
        let mut rig = filled(12);
        let lost = key(5);
        let partition = rig.store().partition_of(lost.token());
        let copy = copies(&rig, std::slice::from_ref(&lost));
        for number in KEYS..KEYS + 40 {
            rig.put(&key(number), &[number as u8; 100], None);
        }
        rig.sync_log();
        rig.now_ms += 10_000;
        for _ in 0..steps {
            rig.step_drain();
        }
        rig.crash(steps, usize::MAX);
        rot(&rig, &lost);
        rig.restart();
        assert_eq!(rig.store().unsynced(), [partition], "after {steps} steps");
        let missing = rig.store().missing(partition).expect("known");
        assert!(missing.is_explained_by(&leaves(&copy)), "after {steps}");
        assert!(restore(&mut rig, partition, &copy));
        all_are_there(&rig);
    }
}
