//! Reap generations and absent lists: what is older is refused, what is listed counts as nothing and still merges, and every step
//! outlives a crash or was never told.

mod concurrent;
mod cuts;
mod due;
mod limits;
mod steps;

use bytes::Bytes;

use super::rig::{Rig, applied, foreign, key, put, small_config};
use crate::key::Key;
use crate::merkle::Tree;
use crate::store::{
    Advance, Advanced, Folds, HintRefused, MergeRefused, Read, StoreConfig, Tomb, Written,
};
use crate::version::{Floor, NewPayload, Object, RequestId};

const PARTITION: u32 = 3;

/// The n-th key of the partition.
fn mine(n: u64) -> Key {
    key(u64::from(PARTITION) + 16 * n)
}

fn rig(seed: u64) -> Rig {
    let config = StoreConfig {
        table_bytes: 512 << 10,
        ..small_config()
    };
    Rig::new(seed, config)
}

/// Deletes a key with the context of all that is there.
fn delete(rig: &mut Rig, key: &Key) -> Tomb {
    let context = Some(rig.get(key).object().into());
    let mut write = put(rig.request(), b"", context);
    write.payload = NewPayload::Delete;
    applied(rig.write(key, &write));
    tomb(rig, key)
}

/// A tombstone of what is there.
fn tomb(rig: &Rig, key: &Key) -> Tomb {
    let record = rig.get(key);
    Tomb {
        key: key.clone(),
        leaf: record.leaf(),
        clock: record.object().clock().clone(),
    }
}

/// A value, and then the tombstones of so many keys; durable.
fn deleted(rig: &mut Rig, keys: std::ops::Range<u64>) -> Vec<Tomb> {
    let tombs = keys.map(|n| {
        rig.put(&mine(n), b"old", None);
        delete(rig, &mine(n))
    });
    let mut tombs: Vec<Tomb> = tombs.collect();
    tombs.sort_by(|one, other| one.key.cmp(&other.key));
    rig.sync_log();
    tombs
}

fn step(to: u64, tombs: &[Tomb]) -> Advance {
    Advance {
        partition: PARTITION,
        to,
        tombs: tombs.to_vec(),
    }
}

fn advance(rig: &Rig, to: u64, tombs: &[Tomb]) -> Advanced {
    let steps = [step(to, tombs)];
    let advanced = rig.store().advance_reaping(&steps).expect("durable");
    assert_eq!(advanced.len(), 1);
    advanced[0]
}

fn is_done(advanced: Advanced) -> bool {
    matches!(advanced, Advanced::Done { .. })
}

/// Erases what is listed, and drops the list.
fn finish(rig: &mut Rig, generation: u64) -> usize {
    let finished = rig.store().finish_reaping(PARTITION, generation);
    let finished = finished.expect("there is room");
    rig.sync_log();
    assert!(rig.store().stats().durable_sequence >= finished.sequence);
    let ended = rig.store().end_reaping(&[(PARTITION, generation)]);
    ended.expect("durable");
    finished.erased
}

/// Generation, floor, whether there is a list.
fn at(rig: &Rig) -> (u64, u64, bool) {
    let store = rig.store();
    let is_listed = store.reaping(PARTITION).is_some();
    assert_eq!(store.partitions_reaping().contains(&PARTITION), is_listed);
    let (generation, floor) = (store.generation(PARTITION), store.floor(PARTITION));
    let known = store
        .generations()
        .contains(&(PARTITION, generation, floor));
    assert_eq!(known, generation > 0);
    (generation, floor, is_listed)
}

/// An older copy of another store.
fn old(n: u64) -> Object {
    let request = RequestId {
        client: 77,
        sequence: n,
    };
    foreign(&Object::empty(), 77, n, request, b"older")
}

fn tree(rig: &Rig) -> Tree {
    let tree = rig.store().exact_tree(PARTITION, &mut Folds(1_000));
    tree.expect("the engine is well").expect("nobody writes")
}

/// The keys that this store tells others of, checked against its root and its tree.
fn shown(rig: &Rig) -> Vec<Key> {
    let store = rig.store();
    let leaves = store.leaves(PARTITION, u64::MAX, None, 1_000);
    let leaves = leaves.expect("the engine is well").leaves;
    let mut expected = Tree::EMPTY;
    for (key, leaf) in &leaves {
        let bucket = crate::store::digest::bucket_of(key.token(), 16);
        expected.apply(bucket, crate::record::NO_LEAF, *leaf);
    }
    assert_eq!(tree(rig), expected);
    let root = store.root(PARTITION, &mut Folds(1_000)).expect("well");
    assert_eq!(root.map(|root| root.hash), Some(expected.root()));
    let (first, last) = crate::store::digest::token_range(PARTITION, 16);
    let page = store.scan(first, None, last, 1_000, usize::MAX);
    let scanned = page.expect("the engine is well").records.into_iter();
    let scanned: Vec<Key> = scanned.map(|(key, _)| key).collect();
    let keys: Vec<Key> = leaves.into_iter().map(|(key, _)| key).collect();
    assert_eq!(scanned, keys);
    for read in store.load_to_send(&keys).expect("the engine is well") {
        assert!(matches!(read, Read::Found(record) if !record.object().is_empty()));
    }
    keys
}

fn sorted(keys: impl IntoIterator<Item = u64>) -> Vec<Key> {
    let mut keys: Vec<Key> = keys.into_iter().map(mine).collect();
    keys.sort();
    keys
}

/// Wherever the records lie: in the table, or in the engine alone.
fn everywhere(test: impl Fn(&mut dyn FnMut(&mut Rig))) {
    test(&mut |_| {});
    test(&mut |rig| rig.drain());
    test(&mut |rig| {
        rig.drain();
        rig.store().inner.table.evict_all();
    });
    test(&mut |rig| {
        rig.sync_log();
        rig.crash(5, 0);
        rig.restart();
    });
}

#[test]
fn a_round_takes_tombstones_away_and_leaves_the_rest() {
    everywhere(|settle| {
        let mut rig = rig(1);
        let tombs = deleted(&mut rig, 0..6);
        rig.put(&mine(9), b"value", None);
        settle(&mut rig);
        let confirmed = rig.store().confirm_reaping(PARTITION, 0, &tombs);
        assert_eq!(confirmed.expect("synced").exact, [true; 6]);
        assert_eq!(at(&rig), (0, 0, false));

        assert!(is_done(advance(&rig, 1, &tombs)));
        for _ in 0..2 {
            assert_eq!(at(&rig), (1, 0, true));
            let listed = rig.store().reaping(PARTITION).expect("listed");
            assert_eq!((listed.generation, &listed.tombs), (1, &tombs));
            assert_eq!(shown(&rig), [mine(9)]);
            for tomb in &tombs {
                assert!(rig.store().is_absent(&tomb.key, tomb.leaf));
                assert!(!rig.store().is_absent(&tomb.key, tomb.leaf ^ 1));
                assert_eq!(rig.get(&tomb.key).leaf(), tomb.leaf, "still there");
                let sent = rig.store().load_to_send(std::slice::from_ref(&tomb.key));
                let sent = sent.expect("the engine is well").remove(0);
                assert!(matches!(sent, Read::Found(record) if record.object().is_empty()));
            }
            assert!(!rig.store().is_empty(PARTITION));
            settle(&mut rig);
        }
        assert_eq!(finish(&mut rig, 1), 6);
        for _ in 0..2 {
            assert_eq!(at(&rig), (1, 1, false));
            assert_eq!(shown(&rig), [mine(9)]);
            for tomb in &tombs {
                assert!(rig.get(&tomb.key).object().is_empty());
            }
            settle(&mut rig);
        }
        rig.drain();
        assert_eq!(rig.home.rows().len(), 1 + 1, "one record, the applied row");
    });
}

#[test]
fn what_was_read_under_an_older_generation_is_refused() {
    let mut rig = rig(2);
    let tombs = deleted(&mut rig, 0..2);
    assert!(is_done(advance(&rig, 1, &tombs)));
    let stale = MergeRefused::StaleGeneration {
        generation: 1,
        floor: 0,
    };
    let floor = Floor::default();
    for n in [0, 5] {
        let store = rig.store();
        assert_eq!(store.merge(&mine(n), old(1), 0), Err(stale));
        assert_eq!(store.merge_write(&mine(n), old(1), floor, 0), Err(stale));
        let hint = store.take_hint(&mine(n), old(1), floor, 0, 1);
        assert_eq!(
            hint,
            Err(HintRefused::StaleGeneration {
                generation: 1,
                floor: 0
            })
        );
        assert_eq!(store.hint(&mine(n)), None);
    }
    // Another partition is at its own.
    assert!(rig.store().merge(&key(4), old(1), 0).is_ok());
    // A hint that was taken before comes to the tombstone, which is still there.
    assert!(rig.store().merge_hint(&mine(0), old(1), 0).is_ok());
    assert_eq!(rig.values(&mine(0)), [b"older".as_slice()]);
    assert!(rig.store().merge(&mine(5), old(1), 1).is_ok());
    let hint = rig.store().take_hint(&mine(6), old(1), floor, 2, 1);
    hint.expect("newer is no harm");
    assert_eq!(rig.store().lowest_hint_generation(PARTITION), Some(2));
    // From the end on, even before it is durable, it would come to nothing.
    let finished = rig.store().finish_reaping(PARTITION, 1);
    assert_eq!(finished.expect("room").erased, 1, "the other one has grown");
    let stale = MergeRefused::StaleGeneration {
        generation: 1,
        floor: 1,
    };
    for n in 0..2 {
        let late = rig.store().merge_hint(&mine(n), old(1), 0);
        assert_eq!(late, Err(stale));
    }
    finish(&mut rig, 1);
    let late = rig.store().merge_hint(&mine(1), old(1), 0);
    assert_eq!(late, Err(stale));
    assert_eq!(shown(&rig), sorted([0, 5]));
    rig.crash(3, 0);
    rig.restart();
    assert_eq!(at(&rig), (1, 1, false));
    let late = rig.store().merge(&mine(1), old(1), 0);
    assert_eq!(late, Err(stale), "after a start, too");
}

#[test]
fn a_write_tells_the_generation_that_it_was_made_under() {
    let mut rig = rig(3);
    let tombs = deleted(&mut rig, 0..1);
    assert!(is_done(advance(&rig, 7, &[])), "not an owner");
    let made = rig.put(&mine(0), b"new", None);
    assert!(matches!(made, Written::Applied { generation: 7, .. }));
    assert_eq!(rig.values(&mine(0)), [b"new".as_slice()]);
    let object = rig.get(&mine(0)).object().clone();
    assert!(object.clock().descends(&tombs[0].clock), "on a whole base");
    let again = put(object.siblings()[1].request, b"again", None);
    let again = rig.write(&mine(0), &again);
    assert!(matches!(again, Written::Repeated { generation: 7, .. }));
}

#[test]
fn what_is_written_over_a_listed_tombstone_counts_and_stays() {
    everywhere(|settle| {
        let mut rig = rig(4);
        let tombs = deleted(&mut rig, 0..4);
        settle(&mut rig);
        assert!(is_done(advance(&rig, 1, &tombs)));
        settle(&mut rig);
        let context = Some(rig.get(&mine(0)).object().into());
        rig.put(&mine(0), b"again", context);
        // The same tombstone once more changes nothing.
        let same = rig.get(&mine(2)).object().clone();
        rig.store().merge(&mine(2), same, 1).expect("there is room");
        let grown = foreign(rig.get(&mine(1)).object(), 9, 1, rig.request(), b"grown");
        rig.store()
            .merge(&mine(1), grown, 1)
            .expect("there is room");
        settle(&mut rig);
        assert_eq!(shown(&rig), sorted([0, 1]));
        rig.sync_log();
        rig.crash(1, 0);
        rig.restart();
        assert_eq!(shown(&rig), sorted([0, 1]));
        assert_eq!(finish(&mut rig, 1), 2);
        assert_eq!(shown(&rig), sorted([0, 1]));
        assert_eq!(rig.values(&mine(0)), [b"again".as_slice()]);
        assert_eq!(rig.values(&mine(1)), [b"grown".as_slice()]);
    });
}

#[test]
fn what_is_not_an_owner_goes_along_and_names_no_floor() {
    let mut rig = rig(9);
    assert!(is_done(advance(&rig, 1, &[])));
    assert_eq!(at(&rig), (1, 0, false));
    assert!(is_done(advance(&rig, 5, &[])), "it can miss nothing");
    rig.crash(1, 0);
    rig.restart();
    assert_eq!(at(&rig), (5, 0, false));
    rig.store()
        .adopt_generation(PARTITION, 4, 4)
        .expect("durable");
    assert_eq!(at(&rig), (5, 4, false), "the higher of both");
    rig.store()
        .adopt_generation(PARTITION, 6, 9)
        .expect("durable");
    let actions = rig.disk.actions();
    rig.store()
        .adopt_generation(PARTITION, 6, 6)
        .expect("durable");
    assert_eq!(rig.disk.actions(), actions, "nothing new");
    rig.crash(2, 0);
    rig.restart();
    assert_eq!(at(&rig), (6, 6, false));
}

#[test]
fn erasing_a_partition_drops_its_list_first() {
    for adopts in [false, true] {
        let mut rig = rig(10);
        let tombs = deleted(&mut rig, 0..5);
        rig.put(&mine(9), b"value", None);
        assert!(is_done(advance(&rig, 1, &tombs)));
        assert!(!rig.store().is_empty(PARTITION));
        let mut after = None;
        for page in 0.. {
            let erased = rig.store().erase_page(PARTITION, after.as_ref(), 4);
            let erased = erased.expect("there is room");
            assert_eq!(at(&rig), (1, 0, false), "page {page}");
            after = erased.next;
            if after.is_none() {
                break;
            }
        }
        rig.sync_log();
        assert!(rig.store().is_empty(PARTITION));
        assert!(shown(&rig).is_empty());
        if adopts {
            let adopted = rig.store().adopt_generation(PARTITION, 2, 2);
            adopted.expect("durable");
            assert!(rig.store().merge(&mine(0), old(1), 1).is_err());
        }
        rig.crash(1, 0);
        rig.restart();
        let expected = if adopts { (2, 2, false) } else { (1, 0, false) };
        assert_eq!(at(&rig), expected);
        assert!(shown(&rig).is_empty());
    }
}

#[test]
fn a_kept_root_is_renewed_when_a_list_comes_or_goes() {
    let mut rig = rig(11);
    let tombs = deleted(&mut rig, 0..3);
    let root = |rig: &Rig| rig.store().root(PARTITION, &mut Folds(10)).expect("well");
    let before = root(&rig).expect("nobody writes");
    assert_eq!(before.keys, 3);
    assert!(is_done(advance(&rig, 1, &tombs[..2])));
    assert_eq!(root(&rig).map(|root| root.keys), Some(1));
    rig.store()
        .adopt_generation(PARTITION, 1, 0)
        .expect("durable");
    assert_eq!(root(&rig), Some(before), "dropped");
    // What memory does not hold is read first, as far as there are turns.
    assert!(is_done(advance(&rig, 2, &tombs)));
    rig.drain();
    rig.store().inner.table.evict_all();
    assert_eq!(rig.store().partition_tree(PARTITION).unfolded.len(), 3);
    let short = rig.store().root(PARTITION, &mut Folds(2)).expect("well");
    assert_eq!(short, None);
    assert_eq!(root(&rig).map(|root| root.keys), Some(0));
}

#[test]
fn values_come_back_by_nothing_but_a_new_write() {
    let mut rig = rig(12);
    let request = rig.request();
    let value = foreign(&Object::empty(), 9, 1, request, b"value");
    rig.store()
        .merge(&mine(0), value.clone(), 0)
        .expect("there is room");
    let tomb = delete(&mut rig, &mine(0));
    rig.sync_log();
    assert!(is_done(advance(&rig, 1, &[tomb])));
    finish(&mut rig, 1);
    assert!(rig.store().merge(&mine(0), value.clone(), 0).is_err());
    assert!(rig.store().merge_hint(&mine(0), value, 0).is_err());
    assert!(rig.values(&mine(0)).is_empty());
    rig.put(&mine(0), b"new", None);
    assert_eq!(rig.values(&mine(0)), [Bytes::from_static(b"new")]);
}
