use std::sync::Arc;

use super::*;
use crate::disk::SimDisk;
use crate::disk::sim::Fault;

fn open(disk: &SimDisk) -> Result<(TwoSlot, Option<Loaded>), SlotError> {
    TwoSlot::open(Arc::new(disk.clone()), "file", 1)
}

fn loaded(disk: &SimDisk) -> Loaded {
    open(disk).expect("readable").1.expect("there")
}

/// A disk with three writes done: slots hold "two" (as a) and "three" (as b).
fn written() -> SimDisk {
    let disk = SimDisk::new(1);
    let (mut file, found) = open(&disk).unwrap();
    assert_eq!(found, None);
    for payload in ["one", "two", "three"] {
        file.write(1, payload.as_bytes()).unwrap();
    }
    disk
}

#[test]
fn the_newest_payload_is_read_and_the_other_beside_it() {
    let found = loaded(&written());
    assert_eq!(found.payload, b"three");
    assert_eq!(found.other, Some((b"two".to_vec(), 1)));
    assert!(found.both_valid());
}

#[test]
fn the_first_write_fills_both_slots() {
    let disk = SimDisk::new(1);
    open(&disk).unwrap().0.write(1, b"one").unwrap();
    let found = loaded(&disk);
    assert_eq!(
        (found.payload.as_slice(), found.other),
        (b"one".as_slice(), Some((b"one".to_vec(), 1)))
    );
}

#[test]
fn shorter_and_longer_payloads_follow_each_other() {
    let disk = SimDisk::new(1);
    let (mut file, _) = open(&disk).unwrap();
    for bytes in [0, 5_000, 1, 700, 699, 0] {
        let payload = vec![bytes as u8; bytes];
        file.write(1, &payload).unwrap();
        assert_eq!(loaded(&disk).payload, payload);
    }
    let (mut again, _) = open(&disk).unwrap();
    again.write(1, b"by another handle").unwrap();
    assert_eq!(loaded(&disk).payload, b"by another handle");
}

#[test]
fn any_damaged_byte_of_one_slot_leaves_the_other() {
    let disk = written();
    for (slot, other) in [("file.a", "three"), ("file.b", "two")] {
        let content = disk.content(slot).unwrap();
        for offset in 0..content.len() as u64 {
            for mask in [0x01, 0x80, 0xff] {
                disk.flip(slot, offset, mask);
                let found = loaded(&disk);
                assert_eq!(
                    (found.payload.as_slice(), found.other),
                    (other.as_bytes(), None),
                    "{slot} {offset}"
                );
                disk.flip(slot, offset, mask);
            }
        }
        for length in 0..content.len() {
            let cut = disk.fork();
            cut.put_durable(slot, &content[..length]);
            assert_eq!(
                loaded(&cut).payload,
                other.as_bytes(),
                "{slot} cut at {length}"
            );
        }
    }
}

#[test]
fn two_invalid_slots_are_damage_and_not_a_new_file() {
    let disk = written();
    assert!(disk.flip("file.a", 33, 1));
    assert!(disk.flip("file.b", 3, 1));
    assert!(matches!(open(&disk), Err(SlotError::Damaged { .. })));
    disk.remove("file.a").unwrap();
    assert!(
        matches!(open(&disk), Err(SlotError::Damaged { .. })),
        "one is enough to be there"
    );
}

#[test]
fn a_newer_format_is_refused_in_whichever_slot() {
    for writes in 1..4 {
        let disk = SimDisk::new(1);
        let (mut file, _) = open(&disk).unwrap();
        for write in 0..3 {
            file.write(if write + 1 == writes { 2 } else { 1 }, b"x")
                .unwrap();
        }
        let newer = open(&disk);
        let overwritten = writes == 1;
        match newer {
            Err(SlotError::NewerFormat {
                found: 2, known: 1, ..
            }) => assert!(!overwritten),
            Ok(_) => assert!(overwritten, "write {writes}"),
            other => panic!("write {writes}: {other:?}"),
        }
    }
}

#[test]
fn a_slot_of_another_file_is_not_valid() {
    let disk = written();
    for slot in ["a", "b"] {
        disk.put_durable(
            &format!("other.{slot}"),
            &disk.content(&format!("file.{slot}")).unwrap(),
        );
    }
    assert!(matches!(
        TwoSlot::open(Arc::new(disk), "other", 1),
        Err(SlotError::Damaged { .. })
    ));
}

#[test]
fn a_lost_slot_is_made_anew() {
    let disk = written();
    disk.remove("file.a").unwrap();
    let (mut file, found) = open(&disk).unwrap();
    assert_eq!(found.map(|found| found.both_valid()), Some(false));
    file.write(1, b"four").unwrap();
    assert_eq!(loaded(&disk).other, Some((b"three".to_vec(), 1)));
}

#[test]
fn after_a_failed_sync_nothing_is_written() {
    let disk = written();
    let (mut file, _) = open(&disk).unwrap();
    disk.inject(0, Fault::WriteFails);
    assert!(matches!(
        file.write(1, b"four"),
        Err(SlotError::Io {
            action: "write",
            ..
        })
    ));
    assert_eq!(
        loaded(&disk).payload,
        b"three",
        "a failed write leaves what was"
    );
    disk.inject(0, Fault::SyncFails);
    assert!(matches!(
        file.write(1, b"four"),
        Err(SlotError::Io { action: "sync", .. })
    ));
    assert!(matches!(
        file.write(1, b"five"),
        Err(SlotError::Poisoned { .. })
    ));
}

#[test]
fn a_payload_over_the_limit_is_refused() {
    let disk = SimDisk::new(1);
    let (mut file, _) = open(&disk).unwrap();
    assert!(matches!(
        file.write(1, &vec![0; PAYLOAD_BYTES_MAX + 1]),
        Err(SlotError::TooLarge { .. })
    ));
    assert!(!file.exists());
}

/// A process dies between write and sync; the next one reads the payload from memory, and may act on it.
#[test]
fn what_a_start_read_survives_the_next_crash() {
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let (mut file, _) = open(&disk).unwrap();
        let payload = vec![1; 3_000];
        file.write(1, b"zero").unwrap();
        if seed % 2 == 0 {
            file.stage(1, &payload).unwrap();
        } else {
            disk.inject(0, Fault::SyncFails);
            file.write(1, &payload).unwrap_err();
        }
        disk.kill();
        assert_eq!(loaded(&disk).payload, payload);
        disk.crash(seed);
        assert_eq!(loaded(&disk).payload, payload, "seed {seed}");
    }
}

/// Crashes after each number of disk actions: what was committed, or what was being written, comes back.
#[test]
fn a_crash_at_any_action_leaves_the_last_commit_or_the_next() {
    let mut kept_the_next = 0;
    for seed in 0..400 {
        let disk = SimDisk::new(seed);
        let payload = |write: u64| vec![write as u8; 400 + 100 * write as usize];
        let (mut file, _) = open(&disk).unwrap();
        let before = seed % 4;
        for write in 0..before {
            file.write(1, &payload(write)).unwrap();
        }
        // Either of the two kinds of fault stops the write under way somewhere.
        let fault = if seed % 3 == 0 {
            Fault::SyncFails
        } else {
            Fault::WriteTorn
        };
        disk.inject(seed / 4 % 5, fault);
        if seed % 7 == 0 {
            file.stage(1, &payload(before)).ok();
        } else {
            file.write(1, &payload(before)).ok();
        }
        let committed = file.version >= 2 + before;
        disk.crash(seed);
        match open(&disk).expect("no crash makes damage").1 {
            None => assert_eq!(before, 0),
            Some(found) if found.payload == payload(before) => kept_the_next += 1,
            Some(found) => {
                assert!(before > 0 && !committed);
                assert_eq!(found.payload, payload(before - 1), "seed {seed}");
            }
        }
    }
    assert!(kept_the_next > 20, "{kept_the_next}");
}
