//! Records and log entries: there and back, and every mangled byte refused.

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;
use crate::key::Key;
use crate::record::{NO_LEAF, Record, leaf_of};
use crate::version::tests::{NOW, X, Y, Z, delete, dot, put, value};
use crate::version::{Applied, Dots, Object, Payload, RequestId, Sibling, Value, Write};

fn key() -> Key {
    Key::new(0x0123_4567_89ab_cdef, b"users", b"ada").expect("short")
}

/// One object for each shape that there is.
pub(crate) fn samples() -> Vec<Object> {
    let one = Object::empty().write(&put(1, "one", None), dot(X, 1), NOW);
    let empty_value = one.write(&put(2, "", Some(one.clock())), dot(X, 2), NOW);
    let expiring = Write {
        expires_at_ms: u64::MAX,
        ..put(u64::MAX, "gone by then", None)
    };
    let three = empty_value.write(&expiring, dot(Y, u64::MAX), NOW).write(
        &put(3, &"long ".repeat(50), None),
        dot(Z, 300),
        NOW,
    );
    let deleted = three.write(&delete(4, three.clock()), dot(Z, 70_000), NOW);
    let retried = Object::empty().write(&put(1, "one", None), dot(Y, 9), NOW + 1);
    let twice = one.clone().merge(retried);
    let (clock, mut siblings, applied) = deleted.clone().into_parts();
    if let Payload::Tombstone { kept } = &mut siblings[0].payload {
        kept[1] = kept[1].without_bytes();
    }
    let dropped = Object::from_parts(clock, siblings, applied).expect("still an object");
    vec![
        Object::empty(),
        one,
        empty_value,
        three,
        deleted,
        twice,
        dropped,
    ]
}

fn encode(record: &Record) -> Vec<u8> {
    // Something stands before: nothing may count on an empty buffer.
    let mut out = b"before".to_vec();
    encode_record(record, &mut out);
    out.split_off(6)
}

#[test]
fn records_come_back_as_they_were() {
    for object in samples() {
        let record = Record::new(&key(), object);
        let encoded = encode(&record);
        for verify in [true, false] {
            let decoded = decode_record(&key(), &encoded, verify).expect("as written");
            assert_eq!(decoded, record);
            assert_eq!(encode(&decoded), encoded);
            let bytes = |r: &Record| -> Vec<Option<Bytes>> {
                let values = r.object().siblings().iter().flat_map(Sibling::values);
                values.map(|v| v.bytes().cloned()).collect()
            };
            assert_eq!(bytes(&decoded), bytes(&record));
        }
        assert_eq!(verify_leaf(&key(), &encoded), Ok(record.leaf()));
    }
}

#[test]
fn every_mangled_bit_is_refused() {
    for object in samples() {
        let mut encoded = encode(&Record::new(&key(), object));
        for at in 0..encoded.len() {
            for bit in 0..8 {
                encoded[at] ^= 1 << bit;
                let decoded = decode_record(&key(), &encoded, true);
                assert!(decoded.is_err(), "bit {bit} of byte {at} does not matter");
                encoded[at] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn unverified_values_are_all_that_goes_unnoticed() {
    for object in samples() {
        let values: usize = object
            .siblings()
            .iter()
            .flat_map(Sibling::values)
            .filter_map(Value::bytes)
            .map(Bytes::len)
            .sum();
        let mut encoded = encode(&Record::new(&key(), object));
        for at in 0..encoded.len() {
            encoded[at] ^= 0x40;
            let refused = decode_record(&key(), &encoded, false).is_err();
            assert_eq!(refused, at < encoded.len() - values, "byte {at}");
            encoded[at] ^= 0x40;
        }
    }
}

#[test]
fn every_other_length_is_refused() {
    for object in samples() {
        let encoded = encode(&Record::new(&key(), object));
        for len in 0..encoded.len() {
            assert!(
                decode_record(&key(), &encoded[..len], false).is_err(),
                "cut to {len}"
            );
        }
        let trailing = [&encoded[..], &[0]].concat();
        assert_eq!(
            decode_record(&key(), &trailing, false),
            Err(CodecError::Length)
        );
    }
}

#[test]
fn a_record_belongs_to_its_key() {
    let encoded = encode(&Record::new(&key(), samples().swap_remove(1)));
    let other_token = Key::from_framed(1, key().framed().clone()).expect("framed");
    let other_key = Key::new(key().token(), b"user", b"sada").expect("short");
    for other in [other_token, other_key] {
        assert_eq!(decode_record(&other, &encoded, true), Err(CodecError::Head));
        assert_eq!(verify_leaf(&other, &encoded), Err(CodecError::Head));
    }
}

#[test]
fn a_newer_format_is_an_error_of_its_own() {
    let mut encoded = encode(&Record::new(&key(), samples().swap_remove(1)));
    encoded[0] = FORMAT + 1;
    assert_eq!(
        decode_record(&key(), &encoded, true),
        Err(CodecError::NewerFormat(FORMAT + 1))
    );
    assert_eq!(
        verify_leaf(&key(), &encoded),
        Err(CodecError::NewerFormat(FORMAT + 1))
    );
}

#[test]
fn the_leaf_hashes_what_replicas_share_and_nothing_local() {
    let leaf = |object: Object| Record::new(&key(), object).leaf();
    let all = samples();
    let mut leaves: Vec<u64> = all.iter().cloned().map(leaf).collect();
    assert_eq!(leaves[0], NO_LEAF);
    assert_eq!(leaves[4], leaves[6], "bytes were dropped, no more");
    leaves.pop();
    leaves.sort_unstable();
    leaves.dedup();
    assert_eq!(leaves.len(), 6, "all others differ");

    let with = |change: &dyn Fn(&mut Sibling)| {
        let (mut clock, mut siblings, _) = all[1].clone().into_parts();
        change(&mut siblings[0]);
        clock.insert(siblings[0].dot);
        let entry = Applied {
            request: siblings[0].request,
            at_ms: 5,
            dots: Dots::one(siblings[0].dot),
        };
        leaf(Object::from_parts(clock, siblings, vec![entry]).expect("an object"))
    };
    let before = leaf(all[1].clone());
    assert_eq!(with(&|_| ()), before, "the applied list is local");
    assert_ne!(with(&|s| s.dot.counter += 1), before);
    assert_ne!(with(&|s| s.request.sequence += 1), before);
    assert_ne!(with(&|s| s.request.client += 1), before);
    assert_ne!(with(&|s| s.expires_at_ms = 1), before);
    assert_ne!(with(&|s| s.payload = Payload::Value(value("two"))), before);
    assert_ne!(
        with(&|s| s.payload = Payload::Tombstone {
            kept: vec![value("one")]
        }),
        before
    );
}

/// Guards the format: a change of these numbers is a new format, and needs a new `FORMAT`.
#[test]
fn leaves_are_the_same_in_every_release() {
    let leaves: Vec<u64> = samples()
        .into_iter()
        .map(|o| Record::new(&key(), o).leaf())
        .collect();
    assert_eq!(leaves, PINNED, "{leaves:#x?}");
}

const PINNED: [u64; 7] = [
    NO_LEAF,
    0x7d2e_e1b3_20f9_522d,
    0x867a_8db7_7178_f2b9,
    0xf6d1_d21b_38b4_370d,
    0x94ba_ead4_b8b4_6a4b,
    0x4083_94c1_65b7_bd9e,
    0x94ba_ead4_b8b4_6a4b,
];

/// Puts an envelope with valid checksums around any head and tail.
fn forge(head: &[u8], tail: &[u8], values: &[u8]) -> Vec<u8> {
    let leaf = if head.is_empty() {
        NO_LEAF
    } else {
        leaf_of(&key(), head)
    };
    let mut out = vec![FORMAT];
    out.extend_from_slice(&leaf.to_le_bytes());
    out.extend_from_slice(&(head.len() as u32).to_le_bytes());
    out.extend_from_slice(&(tail.len() as u32).to_le_bytes());
    out.extend_from_slice(&xxhash_rust::xxh3::xxh3_64_with_seed(tail, leaf).to_le_bytes());
    [&out[..], head, tail, values].concat()
}

#[test]
fn lengths_are_not_believed_even_under_a_valid_checksum() {
    let huge = [&[0xfd][..], &u64::MAX.to_le_bytes()].concat(); // a variable-length integer of eight bytes
    let clock_of_one = [1, 1, 1];
    for (head, tail) in [
        (&huge[..], &[0][..]),                        // a clock of 2^64 - 1 entries
        (&[&clock_of_one[..], &huge].concat(), &[0]), // as many siblings
        (&[&clock_of_one[..], &[0]].concat(), &huge), // as many requests
        (&[&clock_of_one[..], &[0]].concat(), &[1, 1, 1, 1, 0]), // a request without a dot
        (&[&clock_of_one[..], &[0, 0]].concat(), &[0]), // a byte too many in the head
        (&[1, 1, 0, 0], &[0]),                        // a counter of zero
        (&[0, 0], &[0]),                              // a head that says nothing
        (&[], &[1, 1, 1, 1, 1, 1, 1]),                // nothing stored, yet a request
    ] {
        assert_eq!(
            decode_record(&key(), &forge(head, tail, &[]), true),
            Err(CodecError::Content),
            "{head:?} {tail:?}"
        );
    }
    // The same envelope with an honest head is fine: the cases above fail for what they say.
    let fine = forge(&[1, 1, 1, 0], &[0], &[]);
    assert!(decode_record(&key(), &fine, true).is_ok());
    assert_eq!(
        decode_record(&key(), &forge(&[1, 1, 1, 0], &[0, 1], &[]), true),
        Err(CodecError::Length)
    );
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4_000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(7),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_content_under_valid_checksums_is_decoded_or_refused(
        head in prop::collection::vec(0u8..6, 0..40),
        tail in prop::collection::vec(0u8..4, 0..20),
        values in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        if let Ok(record) = decode_record(&key(), &forge(&head, &tail, &values), false) {
            prop_assert_eq!(decode_record(&key(), &encode(&record), false), Ok(record));
        }
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        prop_assert!(decode_record(&key(), &bytes, true).is_err());
        let with_format = [&[FORMAT][..], &bytes].concat();
        prop_assert!(decode_record(&key(), &with_format, true).is_err());
        if let Ok(entry) = LogEntry::decode(&bytes, true) {
            let mut again = Vec::new();
            entry.encode(&mut again);
            prop_assert_eq!(again, bytes);
        }
    }
}

fn entries() -> Vec<LogEntry> {
    let objects = samples().into_iter().map(|object| LogEntry::Object {
        key: key(),
        record: Record::new(&key(), object),
    });
    let mut entries: Vec<_> = objects.collect();
    let hints = samples().into_iter().map(|object| LogEntry::Hint {
        key: key(),
        record: Record::new(&key(), object),
        generation: 3,
        taken_ms: u64::MAX,
    });
    entries.extend(hints);
    entries.push(LogEntry::HintGone { key: key() });
    entries.extend(samples().into_iter().map(|object| LogEntry::Whole {
        key: key(),
        record: Record::new(&key(), object),
    }));
    entries.push(LogEntry::Erase { key: key() });
    entries.push(LogEntry::Start);
    entries.push(LogEntry::Intent {
        sequence: 7,
        hints: (0, 0),
        partitions: vec![],
    });
    entries.push(LogEntry::Intent {
        sequence: u64::MAX,
        hints: (u64::MAX, 3),
        partitions: vec![(1, 2), (u64::MAX, u32::MAX)],
    });
    entries
}

#[test]
fn log_entries_come_back_as_they_were() {
    for entry in entries() {
        let mut out = Vec::new();
        entry.encode(&mut out);
        assert_eq!(LogEntry::decode(&out, true), Ok(entry));
    }
}

#[test]
fn cut_or_longer_log_entries_are_refused() {
    for entry in entries() {
        let mut out = Vec::new();
        entry.encode(&mut out);
        for len in 0..out.len() {
            // An intent is a list of roots: cut between two it is a shorter one, and only the log can tell.
            let between =
                matches!(entry, LogEntry::Intent { .. }) && len >= 21 && (len - 9) % 12 == 0;
            assert_eq!(
                LogEntry::decode(&out[..len], true).is_ok(),
                between,
                "{entry:?} cut to {len}"
            );
        }
        out.push(0);
        assert!(LogEntry::decode(&out, true).is_err());
    }
    assert_eq!(LogEntry::decode(&[99], true), Err(CodecError::Kind(99)));
}

#[test]
fn hints_come_back_as_they_were_and_every_mangled_bit_is_refused() {
    for object in samples() {
        let record = Record::new(&key(), object);
        let mut row = Vec::new();
        encode_hint_row(&key(), &record, 7, 1_750_000_000_000, &mut row);
        let hint = HintRow {
            record,
            generation: 7,
            taken_ms: 1_750_000_000_000,
        };
        assert_eq!(decode_hint_row(&key(), &row), Ok(hint));
        for bit in 0..row.len() * 8 {
            row[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_hint_row(&key(), &row).is_err(), "bit {bit}");
            row[bit / 8] ^= 1 << (bit % 8);
        }
        for len in 0..row.len() {
            assert!(
                decode_hint_row(&key(), &row[..len]).is_err(),
                "cut to {len}"
            );
        }
        row.push(0);
        assert!(decode_hint_row(&key(), &row).is_err());
    }
}

#[test]
fn an_entry_of_another_request_does_not_fit() {
    // The tail's checksum is seeded with the leaf, so lists cannot change places between records.
    let all = samples();
    let [one, two] = [&all[1], &all[2]].map(|o| encode(&Record::new(&key(), o.clone())));
    let head_len =
        |bytes: &[u8]| u32::from_le_bytes(bytes[9..13].try_into().expect("four")) as usize;
    let (frame_one, head) = (&one[..13], &one[25..25 + head_len(&one)]);
    let tail_two = &two[25 + head_len(&two)..];
    let mixed = [frame_one, &two[13..25], head, tail_two].concat();
    assert_eq!(
        decode_record(&key(), &mixed, false),
        Err(CodecError::Applied)
    );
    assert!(all[1].find(RequestId::new(1, 1)).is_some());
}
