//! What is offered for reaping, and when.

use super::{PARTITION, advance, is_done, mine, old, rig, sorted};
use crate::key::Key;
use crate::store::tests::rig::{Rig, foreign, put};
use crate::store::{REAPED_BYTES_MAX, ReapWindow, Reapable};
use crate::version::{ActorId, Dot, NewPayload, Object, Write};

const WINDOW: ReapWindow = ReapWindow {
    soft_delete_ms: 1_000,
    grace_ms: 100,
};

fn walk(rig: &Rig, now_ms: u64) -> Reapable {
    let store = rig.store();
    let found = store.reapable(PARTITION, now_ms, WINDOW, 100, REAPED_BYTES_MAX);
    let found = found.expect("the engine is well");
    assert_eq!(found.next_due_ms, store.next_reapable_ms(PARTITION));
    for tomb in &found.tombs {
        let record = rig.get(&tomb.key);
        assert_eq!(tomb.leaf, record.leaf());
        assert_eq!(tomb.clock, *record.object().clock());
    }
    found
}

fn keys(found: &Reapable) -> Vec<Key> {
    found.tombs.iter().map(|tomb| tomb.key.clone()).collect()
}

/// A write of a client at this time.
fn write(rig: &mut Rig, n: u64, change: impl FnOnce(&mut Write)) {
    let context = Some(rig.get(&mine(n)).object().into());
    let mut write = put(rig.request(), b"value", context);
    change(&mut write);
    rig.write(&mine(n), &write);
}

fn delete_at(rig: &mut Rig, n: u64, at_ms: u64) {
    write(rig, n, |write| {
        write.payload = NewPayload::Delete;
        write.at_ms = at_ms;
    });
}

#[test]
fn tombstones_are_offered_after_window_and_grace() {
    let mut rig = rig(1);
    assert_eq!(rig.store().next_reapable_ms(PARTITION), Some(0));
    assert_eq!(walk(&rig, 5_000), Reapable::default());
    write(&mut rig, 0, |_| {});
    assert_eq!(rig.store().next_reapable_ms(PARTITION), None);
    delete_at(&mut rig, 0, 5_000);
    delete_at(&mut rig, 1, 4_000);
    // Noted by the writes themselves.
    assert_eq!(rig.store().next_reapable_ms(PARTITION), Some(5_100));
    for drained in [false, true] {
        if drained {
            rig.drain();
            rig.store().inner.table.evict_all();
        }
        let none = walk(&rig, 5_099);
        assert_eq!((keys(&none), none.next_due_ms), (vec![], Some(5_100)));
        let one = walk(&rig, 5_100);
        assert_eq!(
            (keys(&one), one.next_due_ms),
            (sorted([1]), Some(5_100)),
            "again at once: nobody has reaped it"
        );
        assert_eq!(keys(&walk(&rig, 6_100)), sorted([0, 1]));
    }
    // What is on its way is not offered again.
    let tombs = walk(&rig, 6_100).tombs;
    rig.sync_log();
    assert!(is_done(advance(&rig, 1, &tombs)));
    assert_eq!(walk(&rig, 9_000), Reapable::default());
    rig.crash(1, 0);
    rig.restart();
    assert_eq!(rig.store().next_reapable_ms(PARTITION), Some(0));
}

#[test]
fn expired_values_are_offered_too_and_living_ones_never() {
    let mut rig = rig(2);
    walk(&rig, 0);
    write(&mut rig, 0, |write| write.expires_at_ms = 7_000);
    write(&mut rig, 1, |_| {});
    // One sibling of each kind.
    write(&mut rig, 2, |write| {
        write.payload = NewPayload::Delete;
        write.at_ms = 100;
    });
    write(&mut rig, 2, |write| {
        write.context = None;
        write.expires_at_ms = 3_000;
    });
    // A living one beside a tombstone.
    delete_at(&mut rig, 3, 100);
    write(&mut rig, 3, |write| write.context = None);
    assert_eq!(keys(&walk(&rig, 3_099)), sorted([]));
    let one = walk(&rig, 3_100);
    assert_eq!(keys(&one), sorted([2]));
    assert_eq!(keys(&walk(&rig, 7_100)), sorted([0, 2]));
    // Requests that may be sent again keep it, too.
    write(&mut rig, 4, |write| {
        write.at_ms = 50_000;
        write.expires_at_ms = 8_000;
    });
    assert_eq!(keys(&walk(&rig, 50_099)), sorted([0, 2]));
    assert_eq!(keys(&walk(&rig, 50_100)), sorted([0, 2, 4]));
}

#[test]
fn copies_of_others_are_noted_as_they_come_together() {
    let mut rig = rig(3);
    let theirs = |of: &Object, actor, change: &dyn Fn(&mut Write)| {
        let mut write = put(
            crate::version::RequestId {
                client: actor,
                sequence: 1,
            },
            b"theirs",
            Some(of.into()),
        );
        change(&mut write);
        let dot = Dot {
            actor: ActorId(actor),
            counter: 1,
        };
        of.write(&write, dot, 1)
    };
    let delete = |write: &mut Write| {
        write.payload = NewPayload::Delete;
        write.at_ms = 4_000;
    };
    // Each has a living sibling that the other has deleted.
    let (one, other) = (theirs(&Object::empty(), 11, &|_| {}), old(1));
    let without_one = theirs(&one, 12, &delete).merge(other.clone());
    let without_other = theirs(&other, 13, &delete).merge(one);
    for drains in [false, true] {
        let n = u64::from(drains);
        rig.store()
            .merge(&mine(n), without_one.clone(), 0)
            .expect("there is room");
        rig.drain();
        rig.store().inner.table.evict_all();
        walk(&rig, 0);
        assert_eq!(
            rig.store().next_reapable_ms(PARTITION),
            drains.then_some(5_100)
        );
        rig.store()
            .merge(&mine(n), without_other.clone(), 0)
            .expect("there is room");
        match drains {
            true => rig.drain(),
            false => drop(rig.get(&mine(n))),
        }
        assert_eq!(rig.store().next_reapable_ms(PARTITION), Some(5_100));
        let expected: Vec<u64> = (0..=n).collect();
        assert_eq!(keys(&walk(&rig, 5_100)), sorted(expected));
    }
}

#[test]
fn a_walk_offers_no_more_than_is_asked_for() {
    let mut rig = rig(4);
    for n in 0..50 {
        delete_at(&mut rig, n, 1);
    }
    let all = walk(&rig, 9_000).tombs;
    assert_eq!(all.len(), 50);
    let store = rig.store();
    let few = store.reapable(PARTITION, 9_000, WINDOW, 7, REAPED_BYTES_MAX);
    assert_eq!(few.expect("well").tombs, all[..7]);
    let bytes: usize = all[..9].iter().map(|tomb| tomb.byte_len()).sum();
    let few = store.reapable(PARTITION, 9_000, WINDOW, 50, bytes);
    assert_eq!(few.expect("well").tombs, all[..9]);
    // One that is longer than any list is passed over.
    let request = rig.request();
    let mut object = foreign(&Object::empty(), 1, 1, request, b"");
    for actor in 2..200 {
        let request = rig.request();
        object = foreign(&object, actor, 1, request, b"");
    }
    let first = rig.get(&all[0].key).object().clone();
    rig.store()
        .merge(&all[0].key, object.merge(first), 0)
        .expect("there is room");
    let context = Some(rig.get(&all[0].key).object().into());
    let mut write = put(rig.request(), b"", context);
    write.payload = NewPayload::Delete;
    rig.write(&all[0].key, &write);
    let few = rig
        .store()
        .reapable(PARTITION, 9_000, WINDOW, 50, bytes)
        .expect("well");
    assert_eq!(few.tombs[0], all[1]);
    assert_eq!(few.tombs.len(), 9);
}

#[test]
fn another_window_makes_all_unknown() {
    let rig = rig(5);
    walk(&rig, 0);
    assert_eq!(rig.store().next_reapable_ms(PARTITION), None);
    let window = ReapWindow {
        grace_ms: 5,
        ..WINDOW
    };
    let walked = rig.store().reapable(PARTITION + 1, 0, window, 1, 1_000);
    assert_eq!(walked.expect("well"), Reapable::default());
    assert_eq!(rig.store().next_reapable_ms(PARTITION), Some(0));
}
