//! Time takes values from readers, and nothing from anybody else.

use proptest::prelude::*;

use super::*;
use crate::key::Key;
use crate::record::Record;

/// A put whose value reads as a tombstone from `expires_at_ms` on.
fn mortal(sequence: u64, text: &str, context: Option<&Clock>, expires_at_ms: u64) -> Write {
    Write {
        expires_at_ms,
        ..put(sequence, text, context)
    }
}

/// What a value that has expired covers does not come back: with its event in the clock the older copy is known to be older.
#[test]
fn an_expired_value_still_stands_for_what_it_replaced() {
    let old = Object::empty().write(&put(1, "old", None), dot(X, 1), NOW);
    let replaced = old.write(
        &mortal(2, "mortal", Some(old.clock()), NOW + 10),
        dot(Y, 1),
        NOW,
    );
    let later = NOW + 20;
    assert_eq!(replaced.live_count(later), 0);
    // Somebody writes without having read, after the end.
    let written = replaced.write(&put(3, "new", None), dot(Z, 1), later);
    assert_eq!(
        written.siblings().len(),
        2,
        "the expired one is a tombstone"
    );
    for merged in [written.clone().merge(old.clone()), old.merge(written)] {
        let live: Vec<_> = merged.live(later).map(|s| s.dot).collect();
        assert_eq!(live, [dot(Z, 1)]);
    }
}

#[test]
fn what_was_deleted_is_offered_until_its_window_ends() {
    let object = Object::empty().write(&put(1, "kept", None), dot(X, 1), NOW);
    let other = object.write(&put(2, "beside", None), dot(Y, 1), NOW);
    let gone = other.write(&delete(3, other.clock()), dot(X, 2), NOW);
    let texts = |object: &Object, at_ms: u64| -> Vec<Vec<u8>> {
        let values = object.deleted(at_ms, 1_000).into_iter();
        let bytes = values.map(|v| v.bytes().expect("offered with its bytes").to_vec());
        bytes.collect()
    };
    assert_eq!(
        texts(&gone, NOW + 999),
        [b"kept".to_vec(), b"beside".to_vec()]
    );
    assert_eq!(texts(&gone, NOW + 1_000), Vec::<Vec<u8>>::new());
    // Two deletes of one value, each unaware of the other: it is one value.
    let one = object.write(&delete(4, object.clock()), dot(X, 2), NOW);
    let later = Write {
        at_ms: NOW + 5,
        ..delete(5, object.clock())
    };
    let two = object.write(&later, dot(Z, 1), NOW + 5);
    let both = one.merge(two);
    assert_eq!((both.siblings().len(), texts(&both, NOW).len()), (2, 1));
    assert_eq!(texts(&both, NOW + 1_002).len(), 1, "the later one keeps it");
    assert_eq!(texts(&both, NOW + 1_005).len(), 0);
    // A delete of what has expired keeps nothing: nobody could read it any more.
    let mortal = Object::empty().write(&mortal(6, "mortal", None, NOW + 10), dot(X, 9), NOW);
    let gone = mortal.write(&delete(7, mortal.clock()), dot(X, 10), NOW + 10);
    assert_eq!(texts(&gone, NOW), Vec::<Vec<u8>>::new());
    let purge = Write {
        payload: NewPayload::Purge,
        ..delete(8, object.clock())
    };
    let purged = object.write(&purge, dot(X, 2), NOW);
    assert_eq!((purged.live_count(NOW), texts(&purged, NOW).len()), (0, 0));
}

#[test]
fn a_value_without_its_bytes_is_no_value() {
    let object = Object::empty().write(&mortal(1, "v", None, NOW + 10), dot(X, 1), NOW);
    let (clock, mut siblings, applied) = object.into_parts();
    siblings[0].payload = Payload::Value(value("v").without_bytes());
    let dropped = Object::from_parts(clock, siblings, applied).expect("valid");
    // A slower clock would still show it.
    assert_eq!(dropped.live_count(NOW), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Write {
        at: usize,
        ttl: u64,
        delete: bool,
        blind: bool,
    },
    Merge {
        from: usize,
        to: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let write = (0..3_usize, 0..50_u64, any::<bool>(), any::<bool>()).prop_map(
        |(at, ttl, delete, blind)| Step::Write {
            at,
            ttl,
            delete,
            blind,
        },
    );
    let merge = (0..3_usize, 0..3_usize).prop_map(|(from, to)| Step::Merge { from, to });
    prop_oneof![write, merge]
}

/// Three copies after these steps, with a clock at each of them that runs ahead of the true time by so much.
fn played(steps: &[Step], ahead: [u64; 3]) -> [Object; 3] {
    let mut copies = [Object::empty(), Object::empty(), Object::empty()];
    for (number, step) in steps.iter().enumerate() {
        let now = NOW + 10 * number as u64;
        match *step {
            Step::Merge { from, to } => {
                copies[to] = copies[to].clone().merge(copies[from].clone());
            }
            Step::Write {
                at,
                ttl,
                delete,
                blind,
            } => {
                let read = copies[at].clone();
                let context = (!blind && !read.is_empty()).then_some(read.clock());
                let expires = if ttl < 10 { 0 } else { now + ttl };
                let mut write = mortal(number as u64 + 1, "v", context, expires);
                if delete && context.is_some() {
                    write.payload = NewPayload::Delete;
                }
                let counter = number as u64 + 1;
                let actor = [X, Y, Z][at];
                copies[at] = read.write(&write, dot(actor, counter), now + ahead[at]);
            }
        }
    }
    copies
}

proptest! {
    /// Clocks that disagree, and any time that passes, change what readers get and what tombstones keep, and neither which siblings
    /// there are nor any clock.
    #[test]
    fn what_is_stored_does_not_depend_on_any_clock(
        steps in prop::collection::vec(step(), 0..40),
        ahead in prop::array::uniform3(0..500_u64),
    ) {
        let key = Key::new(1, b"n", b"k").expect("short");
        let exact = played(&steps, [0; 3]);
        let skewed = played(&steps, ahead);
        for (exact, skewed) in exact.iter().zip(&skewed) {
            prop_assert_eq!(exact.clock(), skewed.clock());
            prop_assert_eq!(dots(exact), dots(skewed));
            check(exact);
            let leaf = Record::new(&key, exact.clone()).leaf();
            for later in [NOW, NOW + 100, NOW + 10_000] {
                // Reading at any time changes nothing, and an expired sibling reads as a tombstone does.
                let expired = |s: &&Sibling| s.is_expired(later);
                let tombstone = |s: &&Sibling| matches!(s.payload, Payload::Tombstone { .. });
                let (gone, dead) = (
                    exact.siblings().iter().filter(expired).count(),
                    exact.siblings().iter().filter(tombstone).count(),
                );
                prop_assert_eq!(exact.live_count(later), exact.siblings().len() - gone - dead);
                prop_assert_eq!(Record::new(&key, exact.clone()).leaf(), leaf);
            }
            // Bytes that go with time leave the leaf as it is.
            let (clock, mut siblings, applied) = exact.clone().into_parts();
            for sibling in &mut siblings {
                if let Payload::Value(value) = &mut sibling.payload && sibling.expires_at_ms != 0 {
                    *value = value.without_bytes();
                }
            }
            let dropped = Object::from_parts(clock, siblings, applied).expect("valid");
            prop_assert_eq!(Record::new(&key, dropped).leaf(), leaf);
        }
    }
}
