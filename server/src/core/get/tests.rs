//! What a read merges, fetches, answers and repairs.

use bytes::Bytes;
use ringfort_storage::version::{ActorId, Dot, NewPayload, RequestId, Value, Write};

use super::{Verdict::*, *};

fn key() -> Key {
    Key::new(7, b"n", b"k").expect("short")
}

/// An object of one value, written by an actor of its own.
fn object(actor: u64) -> Object {
    let write = Write {
        context: None,
        payload: NewPayload::Value(Value::new(Bytes::from(vec![actor as u8]))),
        request: RequestId {
            client: actor,
            sequence: 1,
        },
        lowest_unanswered: 0,
        at_ms: 1,
        expires_at_ms: 0,
    };
    Object::empty().write(
        &write,
        Dot {
            actor: ActorId(actor),
            counter: 1,
        },
        1,
    )
}

fn record(object: Object) -> Arc<Record> {
    Arc::new(Record::new(&key(), object))
}

fn leaf(object: &Object) -> u64 {
    Record::new(&key(), object.clone()).leaf()
}

fn read(need: u32) -> Get {
    Get::new(key(), 3, 0, 0, need)
}

fn repaired(get: &Get) -> Vec<usize> {
    get.repair()
        .map_or_else(Vec::new, |repair| repair.owners.iter().collect())
}

#[test]
fn equal_digests_stand_for_the_own_object() {
    let mut get = read(2);
    assert!(get.own(record(object(1)), true, false).is_empty());
    assert_eq!(get.verdict(), Wait);
    assert!(!get.digest(1, leaf(&object(1))));
    assert_eq!((get.verdict(), get.is_settled()), (Ready, false));
    assert!(!get.digest(2, leaf(&object(1))));
    assert_eq!((get.is_settled(), repaired(&get)), (true, vec![]));
    assert_eq!(get.current().map(|r| r.object().clone()), Some(object(1)));
}

#[test]
fn a_digest_that_comes_before_the_own_copy_waits_for_it() {
    let mut get = read(2);
    assert!(!get.digest(1, leaf(&object(1))));
    assert!(!get.digest(2, leaf(&object(2))));
    assert_eq!(get.verdict(), Wait);
    let fetch = get.own(record(object(1)), true, false);
    assert_eq!(fetch.iter().collect::<Vec<_>>(), [2]);
    assert_eq!(get.verdict(), Ready);
}

#[test]
fn a_differing_digest_counts_only_once_its_object_is_merged() {
    let mut get = read(2);
    get.own(record(object(1)), true, false);
    assert!(get.digest(1, leaf(&object(2))));
    assert_eq!(get.verdict(), Wait);
    assert!(!get.digest(1, leaf(&object(1))), "it has answered");
    get.object(1, object(2));
    assert_eq!(get.verdict(), Ready);
    assert_eq!(
        get.current().map(|r| r.object().clone()),
        Some(object(1).merge(object(2)))
    );
    // What is part of the merge need not be fetched again, but is behind all the same.
    assert!(!get.digest(2, leaf(&object(2))));
    assert_eq!((get.is_settled(), repaired(&get)), (true, vec![0, 1, 2]));
}

#[test]
fn an_object_that_nobody_asked_for_is_not_merged() {
    let mut get = read(2);
    get.own(record(object(1)), true, false);
    get.object(1, object(2));
    assert_eq!((get.verdict(), get.merged()), (Wait, 1));
}

#[test]
fn nothing_stored_is_a_reply_and_is_repaired() {
    let mut get = read(2);
    get.own(record(object(1)), true, false);
    assert!(!get.digest(1, 0));
    assert_eq!(get.verdict(), Ready);
    get.fail(2);
    assert_eq!((get.is_settled(), repaired(&get)), (true, vec![1]));
    let mut nothing = read(2);
    nothing.own(record(Object::empty()), true, false);
    nothing.digest(1, 0);
    nothing.digest(2, 0);
    assert_eq!((nothing.verdict(), repaired(&nothing)), (Ready, vec![]));
}

#[test]
fn an_own_copy_that_does_not_count_is_no_reply() {
    let mut get = read(2);
    get.own(record(Object::empty()), false, false);
    assert!(get.digest(1, leaf(&object(1))));
    get.object(1, object(1));
    assert_eq!(get.verdict(), Wait);
    assert!(!get.digest(2, leaf(&object(1))));
    assert_eq!(get.verdict(), Ready);
    let mut alone = read(3);
    alone.own(record(Object::empty()), false, false);
    assert_eq!(alone.verdict(), Hopeless);
}

#[test]
fn failures_make_a_read_hopeless_and_take_nothing_back() {
    let mut get = read(2);
    get.own(record(object(1)), true, false);
    get.digest(1, leaf(&object(1)));
    get.fail(1);
    assert_eq!(get.verdict(), Ready);
    let mut get = read(2);
    get.own(record(object(1)), true, false);
    assert!(get.digest(1, leaf(&object(2))));
    get.fail(1);
    assert_eq!(get.verdict(), Wait);
    get.fail(2);
    assert_eq!((get.verdict(), get.is_settled()), (Hopeless, true));
}

#[test]
fn a_hint_counts_and_no_hint_says_nothing_and_neither_is_repaired() {
    // Owners 0, 1, 2, of which 1 and 2 are down, with fallbacks 3 and 4.
    let read = |need| Get::new(key(), 3, 2, 0, need);
    let two = object(1).merge(object(2));
    let mut get = read(2);
    get.own(record(object(1)), true, false);
    get.fail(1);
    get.fail(2);
    assert_eq!(get.verdict(), Wait);
    get.fail(4); // it holds none
    assert!(get.digest(3, leaf(&object(2))));
    get.object(3, object(2));
    assert_eq!((get.verdict(), get.is_settled()), (Ready, true));
    assert_eq!((get.merged(), get.merged_hints()), (2, 1));
    let merged = get.current().map(|record| record.object().clone());
    assert_eq!(merged, Some(two));
    // The own copy lacks what the hint has; the hint may lack what it likes.
    assert_eq!(repaired(&get), [0]);

    let mut get = read(2);
    get.own(record(object(1)), true, false);
    for place in 1..5 {
        assert_eq!(get.verdict(), Wait, "{place}");
        get.fail(place);
    }
    assert_eq!(get.verdict(), Hopeless);

    // A hint that differs from what the owners agree on.
    let mut get = read(2);
    get.own(record(object(1).merge(object(2))), true, false);
    assert!(!get.digest(1, leaf(&object(1).merge(object(2)))));
    assert!(get.digest(3, leaf(&object(1))));
    get.object(3, object(1));
    assert_eq!(repaired(&get), Vec::<usize>::new());
}
