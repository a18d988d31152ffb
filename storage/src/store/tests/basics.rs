//! One promise of the store at a time.

use super::rig::{Rig, applied, foreign, key, put, small_config};
use crate::disk::Disk;
use crate::key::Key;
use crate::store::{
    DrainStep, MergeRefused, Read, StoreConfig, StoreFull, WriteLimits, WriteRefused, Written,
};
use crate::version::{ActorId, Clock, Context, NewPayload, Object, RequestId, Write};

fn rig() -> Rig {
    Rig::new(1, small_config())
}

#[test]
fn a_write_needs_a_whole_base() {
    let mut rig = rig();
    let write = put(rig.request(), b"v", None);
    let refused = rig
        .store()
        .write(&key(1), &write, 1, &WriteLimits::default());
    assert!(matches!(refused, Ok(Written::Miss)));
    let (record, sequence) = applied(rig.put(&key(1), b"v", None));
    assert_eq!(sequence, 1);
    assert_eq!(rig.get(&key(1)), record);
    assert_eq!(rig.values(&key(1)), ["v"]);
}

#[test]
fn a_sequence_becomes_durable_with_the_log() {
    let mut rig = rig();
    let (_, sequence) = applied(rig.put(&key(1), b"v", None));
    assert_eq!(*rig.store().durable().borrow(), 0);
    rig.sync_log();
    assert_eq!(*rig.store().durable().borrow(), sequence);
}

#[test]
fn a_request_is_applied_once_also_after_it_was_overwritten_and_drained() {
    let mut rig = rig();
    let write = put(rig.request(), b"one", None);
    let (record, first) = applied(rig.write(&key(1), &write));
    let over = rig.put(&key(1), b"two", Some(record.object().into()));
    let (_, second) = applied(over);
    assert!(second > first);
    for turn in 0..3 {
        match rig.write(&key(1), &write) {
            Written::Repeated {
                sequence,
                live_siblings,
                ..
            } => {
                assert_eq!(live_siblings, 1);
                // Known from the table, its last sequence; from the engine, durable.
                assert_eq!(sequence, if turn < 2 { second } else { 0 });
            }
            other => panic!("{other:?}"),
        }
        if turn == 0 {
            rig.drain();
        } else {
            rig.store().inner.table.evict_all();
        }
    }
    assert_eq!(rig.values(&key(1)), ["two"]);
}

#[test]
fn a_peers_copy_is_kept_without_reading_the_engine_and_folded_later() {
    let mut rig = rig();
    rig.put(&key(1), b"mine", None);
    rig.drain();
    rig.store().inner.table.evict_all();
    let request = RequestId {
        client: 9,
        sequence: 1,
    };
    let theirs = foreign(&Object::empty(), 77, 1, request, b"theirs");
    let sequence = rig
        .store()
        .merge(&key(1), theirs.clone(), 0)
        .expect("there is room");
    assert!(
        matches!(rig.store().read(&key(1)), Read::Miss),
        "an operand is not the whole object"
    );
    assert_eq!(
        rig.store().merge(&key(1), theirs.clone(), 0),
        Ok(sequence),
        "nothing new is not logged again"
    );
    rig.drain();
    assert!(
        matches!(rig.store().read(&key(1)), Read::Found(_)),
        "the drain folded it"
    );
    rig.store().inner.table.evict_all();
    let mut values = rig.values(&key(1));
    values.sort();
    assert_eq!(values, ["mine", "theirs"]);
    assert_eq!(
        rig.store().merge(&key(1), theirs, 0),
        Ok(0),
        "durable already"
    );
}

#[test]
fn an_erased_key_is_gone_from_the_engine() {
    let mut rig = rig();
    rig.put(&key(1), &[7; 20_000], None);
    rig.drain();
    assert!(
        rig.home.rows().len() > 5,
        "head, chunks and the applied row"
    );
    rig.store().inner.table.evict_all();
    rig.store().erase(&key(1)).expect("there is room");
    assert!(rig.get(&key(1)).object().is_empty());
    rig.drain();
    assert_eq!(rig.home.rows().len(), 1, "the applied row");
    assert_eq!(rig.store().stats().keys, 0);
    rig.store().inner.table.evict_all();
    assert!(rig.get(&key(1)).object().is_empty());
}

#[test]
fn what_the_log_cannot_carry_is_refused_and_harms_nothing() {
    let config = StoreConfig {
        table_bytes: 256 << 20,
        ..small_config()
    };
    let mut rig = Rig::new(1, config);
    let copy = |actor: u64| {
        let request = RequestId {
            client: actor,
            sequence: 1,
        };
        foreign(
            &Object::empty(),
            actor,
            1,
            request,
            &vec![actor as u8; 5 << 20],
        )
    };
    for actor in 1..=4 {
        let merged = rig.store().merge(&key(1), copy(actor), 0);
        match actor {
            1 | 2 => assert!(merged.is_ok(), "{merged:?}"),
            _ => assert!(
                matches!(merged, Err(MergeRefused::Full(StoreFull::Object { .. }))),
                "{merged:?}"
            ),
        }
    }
    assert_eq!(rig.values(&key(1)).len(), 2);
    // A context is a client's, and may name any number of actors.
    let actors = (1..=1 << 20).map(|actor| (ActorId(actor), 1));
    let wide = Clock::from_parts(actors.collect()).expect("ascending");
    let wide = Object::from_parts(wide, Vec::new(), Vec::new()).expect("an object");
    let wide = Context::from(&wide);
    for payload in [None, Some(NewPayload::Delete)] {
        let mut write = put(rig.request(), b"small", Some(wide.clone()));
        write.payload = payload.unwrap_or(write.payload);
        let refused = rig
            .store()
            .write(&key(1), &write, 1, &WriteLimits::default())
            .expect_err("too large");
        assert!(matches!(refused, WriteRefused::ObjectTooLarge { .. }));
    }
    let context = rig.get(&key(1)).object().into();
    applied(rig.put(&key(1), b"small", Some(context)));
    assert!(rig.store().merge(&key(1), copy(3), 0).is_ok(), "room again");
    assert_eq!(rig.values(&key(1)).len(), 2);
}

#[test]
fn limits_are_judged_before_a_dot_is_minted() {
    let mut rig = rig();
    let limits = WriteLimits {
        siblings_max: 2,
        object_bytes_max: 1_000,
    };
    rig.put(&key(1), b"1", None);
    let (record, _) = applied(rig.put(&key(1), b"2", None));
    let before = rig.store().inner.mint.last();
    let context = Some(record.object().into());
    let third = put(rig.request(), b"3", None);
    let large = put(rig.request(), &[0; 1_000], context.clone());
    let refused = rig
        .store()
        .write(&key(1), &third, 1, &limits)
        .expect_err("a third sibling");
    assert_eq!(refused, WriteRefused::TooManySiblings { count: 3, max: 2 });
    let refused = rig
        .store()
        .write(&key(1), &large, 1, &limits)
        .expect_err("too large");
    assert!(matches!(refused, WriteRefused::ObjectTooLarge { .. }));
    assert_eq!(rig.store().inner.mint.last(), before);
    let delete = Write {
        payload: NewPayload::Delete,
        ..put(rig.request(), b"", context)
    };
    applied(
        rig.store()
            .write(&key(1), &delete, 1, &limits)
            .expect("a delete replaces"),
    );
    assert!(rig.values(&key(1)).is_empty());
}

#[test]
fn without_free_space_nothing_is_taken_and_no_drain_begins() {
    let mut rig = rig();
    rig.put(&key(1), b"before", None);
    rig.store().set_out_of_space(true);
    let theirs = foreign(&Object::empty(), 9, 1, rig.request(), b"theirs");
    let refused = rig.store().merge(&key(2), theirs.clone(), 0);
    assert_eq!(refused, Err(StoreFull::Space.into()));
    rig.sync_log();
    rig.now_ms += 10 * crate::store::FREEZE_AGE_MS_MAX;
    for _ in 0..20 {
        rig.now_ms += crate::store::FREEZE_AGE_MS_MAX;
        rig.step_drain();
    }
    assert_eq!(rig.step_drain(), DrainStep::Idle);
    assert_eq!(rig.store().stats().keys, 0, "the engine holds nothing yet");
    assert_eq!(rig.values(&key(1)), ["before"]);

    rig.store().set_out_of_space(false);
    assert_ne!(rig.step_drain(), DrainStep::Idle);
    assert!(rig.store().merge(&key(2), theirs, 0).is_ok());
    assert_eq!(rig.values(&key(2)), ["theirs"]);
}

#[test]
fn a_full_table_refuses_until_it_is_drained() {
    let mut rig = rig();
    let mut number = 0;
    let refused = loop {
        number += 1;
        rig.store()
            .load(&[key(number)])
            .expect("the engine is well");
        let write = put(rig.request(), &[1; 1_000], None);
        match rig
            .store()
            .write(&key(number), &write, 1, &WriteLimits::default())
        {
            Ok(written) => drop(applied(written)),
            Err(refused) => break refused,
        }
        assert!(number < 1_000, "the budget is 64 KiB");
    };
    assert_eq!(refused, WriteRefused::Full(StoreFull::Table));
    let theirs = foreign(
        &Object::empty(),
        77,
        1,
        RequestId {
            client: 9,
            sequence: 1,
        },
        b"v",
    );
    assert_eq!(
        rig.store().merge(&key(9_999), theirs, 0),
        Err(StoreFull::Table.into())
    );
    rig.drain();
    rig.put(&key(number), b"v", None);
    for number in 1..=number {
        assert_eq!(rig.values(&key(number)).len(), 1, "key {number}");
    }
}

#[test]
fn memory_stays_within_the_budget() {
    let mut rig = rig();
    for number in 0..400 {
        rig.put(&key(number), &[number as u8; 900], None);
        if number % 20 == 19 {
            rig.drain();
        }
        let stats = rig.store().stats();
        assert!(
            stats.table_bytes <= rig.config.table_bytes + 16_384,
            "{stats:?}"
        );
    }
    for number in 0..400 {
        assert_eq!(rig.values(&key(number)), [vec![number as u8; 900]]);
    }
    assert!(rig.store().stats().table_bytes <= rig.config.table_bytes + 16_384);
}

#[test]
fn a_clean_stop_keeps_the_actor_and_a_crash_does_not() {
    let mut rig = rig();
    let (record, _) = applied(rig.put(&key(1), b"1", None));
    let actor = rig.store().actor();
    rig.stop();
    rig.restart();
    assert!(rig.report().clean, "{:?}", rig.report());
    assert_eq!(rig.store().actor(), actor);
    let (after, _) = applied(rig.put(&key(1), b"2", None));
    assert_eq!(
        after.object().siblings()[1].dot.counter,
        record.object().siblings()[0].dot.counter + 1
    );
    rig.crash(1, 0);
    rig.restart();
    assert!(!rig.report().clean);
    assert_ne!(rig.store().actor(), actor);
    // Nothing was written since, and yet the mark is gone: a crash right after a clean start is a crash.
    rig.stop();
    rig.restart();
    let actor = rig.store().actor();
    rig.crash(2, 0);
    rig.restart();
    assert_ne!(rig.store().actor(), actor);
    assert!(rig.store().unsynced().is_empty());
}

#[test]
fn a_closing_store_takes_nothing_more() {
    let mut rig = rig();
    rig.put(&key(1), b"1", None);
    rig.store().close();
    let theirs = foreign(
        &Object::empty(),
        77,
        1,
        RequestId {
            client: 9,
            sequence: 1,
        },
        b"v",
    );
    assert_eq!(
        rig.store().merge(&key(2), theirs, 0),
        Err(StoreFull::Closing.into())
    );
    rig.stop();
    rig.restart();
    assert_eq!(rig.values(&key(1)), ["1"]);
}

#[test]
fn the_directory_has_one_user() {
    let mut rig = rig();
    let parts = crate::store::StoreParts {
        disk: std::sync::Arc::new(rig.disk.clone()),
        engine: std::sync::Arc::new(rig.home.clone()),
        chance: Box::new(|| 4),
    };
    let refused = crate::store::Store::open(parts, &rig.config)
        .err()
        .expect("it is in use");
    assert!(refused.to_string().contains("in use"), "{refused}");
    rig.put(&key(1), b"1", None);
}

#[test]
fn a_damaged_record_is_never_served_and_its_actor_mints_no_more() {
    let mut rig = rig();
    for number in 0..40 {
        rig.put(&key(number), &[3; 100], None);
    }
    rig.drain();
    rig.store().inner.table.evict_all();
    let (row, value) = rig
        .home
        .rows()
        .into_iter()
        .find(|(row, _)| row.ends_with(b"key-5\0"))
        .expect("a head row");
    let mut value = value.to_vec();
    value[60] ^= 1;
    rig.home.poke(&row, Some(&value));
    let actor = rig.store().actor();
    let partition = rig.store().partition_of(key(5).token());

    let loaded = rig
        .store()
        .load(&[key(5), key(6)])
        .expect("the engine is well");
    assert!(matches!(loaded[..], [Read::Quarantined, Read::Found(_)]));
    assert!(matches!(rig.store().read(&key(5)), Read::Quarantined));
    let write = put(rig.request(), b"v", None);
    let refused = rig
        .store()
        .write(&key(5), &write, 1, &WriteLimits::default());
    assert_eq!(refused.err(), Some(WriteRefused::Quarantined));
    assert_ne!(rig.store().actor(), actor);
    assert_eq!(rig.store().unsynced(), [partition]);
    assert_eq!(rig.store().quarantined(), [key(5)]);
    let page = rig
        .store()
        .scan(0, None, u64::MAX, 100, 1 << 20)
        .expect("the engine is well");
    assert_eq!((page.records.len(), page.quarantined), (39, vec![key(5)]));

    // The tree no longer claims the record, so that an exchange with a peer finds it missing.
    assert!(matches!(rig.step_drain(), DrainStep::Worked { .. }));
    assert_eq!(rig.store().stats().keys, 39);
    // Repair: a peer's copy is taken, and served once somebody vouches for it.
    let theirs = foreign(
        &Object::empty(),
        77,
        1,
        RequestId {
            client: 9,
            sequence: 1,
        },
        b"theirs",
    );
    rig.store()
        .merge(&key(5), theirs.clone(), 0)
        .expect("there is room");
    assert!(matches!(rig.store().read(&key(5)), Read::Quarantined));
    rig.drain();
    assert!(matches!(rig.store().read(&key(5)), Read::Quarantined));
    assert_eq!(rig.store().stats().keys, 40);
    rig.store()
        .set_synced(partition, true)
        .expect("the disk is well");
    assert_eq!(rig.values(&key(5)), ["theirs"]);
    assert!(rig.store().unsynced().is_empty());
}

#[test]
fn damage_found_at_a_start_makes_its_partition_unsynced() {
    let mut rig = rig();
    for number in 0..40 {
        rig.put(&key(number), &[3; 100], None);
    }
    rig.stop();
    let (row, _) = rig
        .home
        .rows()
        .into_iter()
        .find(|(row, _)| row.ends_with(b"key-5\0"))
        .expect("a head row");
    rig.home.poke(&row, None);
    rig.restart();
    // A row that is gone has no checksum to fail: the root tells.
    let partition = rig.store().partition_of(key(5).token());
    assert_eq!(rig.report().newly_unsynced, Some(vec![partition]));
    assert!(!rig.report().clean);
    assert_eq!(rig.store().unsynced(), [partition]);
}

/// Removes every segment of the commit log.
fn remove_log(rig: &Rig) {
    for name in rig.disk.list(crate::log::DIRECTORY).expect("a directory") {
        let path = format!("{}/{name}", crate::log::DIRECTORY);
        rig.disk.remove(&path).expect("it is there");
    }
}

#[test]
fn a_log_that_is_gone_is_noticed() {
    let mut rig = rig();
    rig.put(&key(1), b"in the engine", None);
    rig.stop();
    remove_log(&rig);
    rig.restart();
    // After a clean stop nothing is lost with it.
    assert_eq!(rig.report().newly_unsynced, Some(Vec::new()));
    rig.put(&key(2), b"in the log alone", None);
    rig.sync_log();
    rig.crash(1, 0);
    remove_log(&rig);
    rig.restart();
    assert_eq!(rig.report().newly_unsynced, None);
    assert!(!rig.report().clean);
    assert_eq!(rig.store().unsynced().len(), 16);
}

#[test]
fn siblings_and_sizes_of_all_kinds_come_back() {
    let mut rig = Rig::new(
        5,
        crate::store::StoreConfig {
            table_bytes: 32 << 20,
            segment_bytes: 8 << 20,
            ..small_config()
        },
    );
    let sizes = [0, 1, 100, 4_000, 4_096, 4_097, 8_192, 70_000, 1 << 20];
    for (number, size) in sizes.into_iter().enumerate() {
        rig.put(&key(number as u64), &vec![number as u8; size], None);
    }
    for number in 0..64_u8 {
        rig.put(&key(100), &[number; 300], None);
    }
    rig.drain();
    rig.crash(1, 0);
    rig.restart();
    assert_eq!(rig.report().newly_unsynced, Some(vec![]));
    for (number, size) in sizes.into_iter().enumerate() {
        assert_eq!(rig.values(&key(number as u64)), [vec![number as u8; size]]);
    }
    let values = rig.values(&key(100));
    assert_eq!(values.len(), 64);
    assert!((0..64_u8).all(|number| values.iter().any(|value| value[..] == [number; 300])));
}

/// Empty entries of the table count toward what a page takes from it, and are no reason to end the scan.
#[test]
fn a_scan_goes_on_past_entries_that_hold_nothing() {
    let mut rig = rig();
    let token = key(1).token();
    let keys =
        ["a", "b", "c"].map(|name| Key::new(token, b"n", name.as_bytes()).expect("a short key"));
    rig.store().load(&keys[..2]).expect("the engine is well");
    applied(rig.put(&keys[2], b"v", None));
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = rig
            .store()
            .scan(token, after.as_deref(), token, 1, 1 << 20)
            .expect("the engine is well");
        found.extend(page.records.into_iter().map(|(key, _)| key));
        match page.next {
            Some(next) => after = Some(next.framed().to_vec()),
            None => break,
        }
    }
    assert_eq!(found, [keys[2].clone()]);
}
