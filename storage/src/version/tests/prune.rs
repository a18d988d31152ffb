//! What the list of applied requests forgets, and what it never does.

use super::*;

fn requests(object: &Object) -> Vec<u64> {
    object
        .applied()
        .iter()
        .map(|entry| entry.request.sequence)
        .collect()
}

/// Overwrites `object` with the request `sequence`.
fn overwrite(object: &Object, sequence: u64, counter: u64, at_ms: u64) -> Object {
    let write = Write {
        at_ms,
        ..put(sequence, "v", Some(object.clock()))
    };
    object.write(&write, dot(X, counter), NOW)
}

#[test]
fn requests_are_forgotten_by_age() {
    let one = overwrite(&Object::empty(), 1, 1, NOW);
    let two = overwrite(&one, 2, 2, NOW + APPLIED_AGE_MS_MAX);
    assert_eq!(requests(&two), [1, 2]);
    let three = overwrite(&two, 3, 3, NOW + APPLIED_AGE_MS_MAX + 1);
    assert_eq!(requests(&three), [2, 3]);
}

#[test]
fn requests_are_forgotten_by_the_floor_of_their_own_client() {
    let mut object = Object::empty();
    for sequence in 1..=4 {
        object = overwrite(&object, sequence, sequence, NOW);
    }
    let stranger = Write {
        request: RequestId::new(2, 1),
        lowest_unanswered: 4,
        ..put(0, "v", Some(object.clock()))
    };
    object = object.write(&stranger, dot(X, 5), NOW);
    assert_eq!(
        object.applied().len(),
        5,
        "another client's floor says nothing"
    );
    let floor = Write {
        lowest_unanswered: 3,
        ..put(5, "v", Some(object.clock()))
    };
    object = object.write(&floor, dot(X, 6), NOW);
    assert_eq!(requests(&object), [3, 4, 5, 1]);
}

#[test]
fn only_the_newest_are_kept_and_the_one_being_written_is_among_them() {
    let mut object = Object::empty();
    let writes = APPLIED_MAX as u64 + 10;
    for sequence in 1..=writes {
        // Time runs backwards: the coordinator's clock does not decide what is being written.
        object = overwrite(&object, sequence, sequence, NOW - sequence);
    }
    // The 64 newest by time are the first ones; the last has a sibling.
    let mut expected: Vec<u64> = (1..=APPLIED_MAX as u64).collect();
    expected.push(writes);
    assert_eq!(requests(&object), expected);
}

#[test]
fn a_sibling_keeps_its_entry_whatever_its_age() {
    // Without it x would look as if it had overwritten y's copy, and the merge would lose the write.
    let at_y = Object::empty().write(&put(1, "a", None), dot(Y, 1), NOW);
    let at_x = Object::empty()
        .write(&put(1, "a", None), dot(X, 1), NOW)
        .merge(at_y.clone());
    let much_later = NOW + 10 * APPLIED_AGE_MS_MAX;
    let beside = Write {
        lowest_unanswered: 9,
        at_ms: much_later,
        ..put(9, "b", None)
    };
    let at_x = at_x.write(&beside, dot(X, 2), NOW);
    assert_eq!(requests(&at_x), [1, 9]);
    assert_eq!(texts(&at_x.merge(at_y)), ["a", "b"]);
}
