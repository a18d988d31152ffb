//! An erased partition holds nothing, wherever its keys were, and what comes after the erasing stays.

use super::rig::{Rig, foreign, key, small_config};
use crate::key::Key;
use crate::merkle::Tree;
use crate::store::StoreConfig;
use crate::version::{Object, RequestId};

const PARTITION: u32 = 3;

/// The n-th key of the partition.
fn mine(n: u64) -> Key {
    key(u64::from(PARTITION) + 16 * n)
}

/// A key of another partition.
fn other(n: u64) -> Key {
    key(5 + 16 * n)
}

fn copy(actor: u64) -> Object {
    let request = RequestId {
        client: actor,
        sequence: 1,
    };
    foreign(&Object::empty(), actor, 1, request, b"copy")
}

/// Keys in the engine, in the table, in both, and as operands over the engine's.
fn filled() -> Rig {
    let config = StoreConfig {
        table_bytes: 512 << 10,
        ..small_config()
    };
    let mut rig = Rig::new(3, config);
    for n in 0..40 {
        rig.put(&mine(n), &[1; 300], None);
        rig.put(&other(n), &[1; 300], None);
    }
    rig.put(&mine(40), &[1; 9_000], None);
    rig.drain();
    rig.store().inner.table.evict_all();
    for n in 30..60 {
        rig.store()
            .merge(&mine(n), copy(n), 0)
            .expect("there is room");
    }
    rig.put(&mine(60), b"table", None);
    rig.sync_log();
    rig
}

/// Erases it in pages of few keys, and makes that durable; at most `pages`.
fn erase(rig: &mut Rig, pages: usize) -> usize {
    let (mut keys, mut after) = (0, None);
    for _ in 0..pages {
        let page = rig.store().erase_page(PARTITION, after.as_ref(), 7);
        let page = page.expect("there is room");
        assert!(page.keys <= 7);
        keys += page.keys;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    rig.sync_log();
    keys
}

/// The partition's tree, with everything folded.
fn tree(rig: &Rig) -> Tree {
    let unfolded = rig.store().partition_tree(PARTITION).unfolded;
    rig.store().load(&unfolded).expect("the engine is well");
    let tree = rig.store().partition_tree(PARTITION);
    assert_eq!(tree.unfolded, []);
    tree.tree
}

fn check_empty(rig: &Rig, at: &str) {
    assert_eq!(tree(rig), Tree::EMPTY, "{at}");
    assert!(rig.store().is_empty(PARTITION), "{at}");
    for n in 0..61 {
        assert!(rig.get(&mine(n)).object().is_empty(), "key {n}, {at}");
    }
    check_others(rig, at);
}

fn check_others(rig: &Rig, at: &str) {
    assert!(!rig.store().is_empty(5), "{at}");
    for n in 0..40 {
        assert_eq!(rig.values(&other(n)), [vec![1; 300]], "key {n}, {at}");
    }
}

#[test]
fn nothing_is_left_of_an_erased_partition() {
    let mut rig = filled();
    assert!(!rig.store().is_empty(PARTITION));
    assert_eq!(erase(&mut rig, usize::MAX), 61);
    check_empty(&rig, "at once");
    assert_eq!(erase(&mut rig, usize::MAX), 0, "once more");
    rig.drain();
    rig.store().inner.table.evict_all();
    check_empty(&rig, "drained");
    assert_eq!(rig.home.rows().len(), 40 + 1, "others, the applied row");
    rig.crash(1, 0);
    rig.restart();
    assert_eq!(rig.report().newly_unsynced, Some(vec![]));
    check_empty(&rig, "restarted");
}

#[test]
fn what_comes_after_the_erasing_stays() {
    let mut rig = filled();
    erase(&mut rig, usize::MAX);
    for n in 0..9 {
        let stored = rig.store().merge(&mine(n), copy(900 + n), 0);
        stored.expect("there is room");
    }
    rig.sync_log();
    let check = |rig: &Rig, at: &str| {
        for n in 0..9 {
            let object = rig.get(&mine(n)).object().clone();
            assert_eq!(object, copy(900 + n), "key {n}, {at}");
        }
        assert_eq!(tree(rig).count(), 9, "{at}");
        check_others(rig, at);
    };
    check(&rig, "at once");
    rig.crash(1, 0);
    rig.restart();
    check(&rig, "replayed");
    rig.drain();
    rig.store().inner.table.evict_all();
    check(&rig, "drained");
}

/// The power goes after any page, and in any step of the drain that follows.
#[test]
fn a_crash_within_the_erasing_leaves_keys_whole_or_gone() {
    for pages in 0..10 {
        for steps in [0, 3, 6, 9, 12, 15, 20, 40] {
            let at = format!("{pages} pages, {steps} steps");
            let mut rig = filled();
            erase(&mut rig, pages);
            rig.now_ms += 10_000;
            for _ in 0..steps {
                rig.step_drain();
                rig.now_ms += 1_000;
            }
            let kept = rig.home.pending() / 2;
            rig.crash(pages as u64, kept);
            rig.restart();
            assert_eq!(rig.report().newly_unsynced, Some(vec![]), "{at}");
            check_others(&rig, &at);
            let read = (0..61).filter(|n| !rig.get(&mine(*n)).object().is_empty());
            assert_eq!(tree(&rig).count() as usize, read.count(), "{at}");
            erase(&mut rig, usize::MAX);
            check_empty(&rig, &at);
        }
    }
}

#[test]
fn a_full_store_refuses_and_goes_on_later() {
    let mut rig = filled();
    rig.store().set_out_of_space(true);
    let refused = rig.store().erase_page(PARTITION, None, 7);
    assert_eq!(
        refused.expect_err("no space").to_string(),
        crate::store::StoreFull::Space.to_string()
    );
    rig.store().set_out_of_space(false);
    assert_eq!(erase(&mut rig, usize::MAX), 61);
}

#[test]
fn who_has_forgotten_something_vouches_for_nothing_before_it() {
    let mut rig = filled();
    rig.store().set_all_synced(&[3, 9], false).expect("durable");
    let actor = rig.store().actor();
    assert_eq!(rig.store().vouch(&[9], actor).ok(), Some(true));
    assert_eq!(rig.store().unsynced(), [3]);
    // A record fails its verification: so the actor is another one.
    rig.store().inner.quarantine(&mine(1));
    assert_ne!(rig.store().actor(), actor);
    assert_eq!(rig.store().vouch(&[3], actor).ok(), Some(false));
    assert_eq!(
        (rig.store().unsynced(), rig.store().quarantined()),
        (vec![3], vec![mine(1)])
    );
    let actor = rig.store().actor();
    assert_eq!(rig.store().vouch(&[3], actor).ok(), Some(true));
    assert_eq!(
        (rig.store().unsynced(), rig.store().quarantined()),
        (vec![], vec![])
    );
    rig.crash(1, 0);
    rig.restart();
    assert_eq!(rig.store().unsynced(), [0; 0]);
}

#[test]
fn many_partitions_change_in_one_write() {
    let mut rig = filled();
    rig.store()
        .set_all_synced(&[3, 9, 11], false)
        .expect("durable");
    assert_eq!(rig.store().unsynced(), [3, 9, 11]);
    rig.store().set_synced(9, true).expect("durable");
    rig.crash(1, 0);
    rig.restart();
    assert_eq!(rig.store().unsynced(), [3, 11]);
}
