use std::sync::Arc;

use super::*;
use crate::disk::SimDisk;

fn open(disk: &SimDisk) -> CheckpointFile {
    CheckpointFile::open(Arc::new(disk.clone())).expect("readable")
}

fn sample(applied: u64) -> Checkpoint {
    Checkpoint {
        applied,
        actor: u64::MAX - 1,
        last_counter: 12,
        first_live: LogPosition {
            generation: 3,
            segment: 9,
        },
        boot_id: 77,
        clean: false,
        heard: BTreeMap::from([(1, 2), (u64::MAX, 9)]),
        partitions: (0..1_024)
            .map(|each| PartitionSum {
                root: each << 40,
                count: each as u32,
            })
            .collect(),
    }
}

#[test]
fn a_checkpoint_comes_back_whole() {
    let disk = SimDisk::new(1);
    assert_eq!(open(&disk).current(), None);
    for applied in 1..4 {
        open(&disk).write(sample(applied)).unwrap();
        assert_eq!(open(&disk).current(), Some(&sample(applied)));
    }
}

#[test]
fn the_largest_partition_count_fits() {
    let disk = SimDisk::new(1);
    let largest = Checkpoint {
        partitions: vec![PartitionSum { root: 1, count: 1 }; 65_536],
        ..sample(1)
    };
    open(&disk).write(largest.clone()).unwrap();
    assert_eq!(open(&disk).current(), Some(&largest));
}

#[test]
fn a_stop_is_clean_only_if_both_slots_say_so() {
    let disk = SimDisk::new(1);
    let mut file = open(&disk);
    file.mark_clean().unwrap();
    assert!(!file.is_clean(), "there is nothing to mark");
    file.write(sample(1)).unwrap();
    assert!(!open(&disk).is_clean());
    file.write(Checkpoint {
        clean: true,
        ..sample(2)
    })
    .unwrap();
    assert!(
        !file.is_clean() && !open(&disk).is_clean(),
        "one slot says so"
    );
    file.mark_clean().unwrap();
    assert!(file.is_clean() && open(&disk).is_clean());
    assert_eq!(
        open(&disk).current().map(|current| current.applied),
        Some(2)
    );
    for slot in ["checkpoint.a", "checkpoint.b"] {
        let damaged = disk.fork();
        damaged.flip(slot, 100, 1);
        assert!(!open(&damaged).is_clean(), "{slot} is not valid");
    }
}

#[test]
fn one_synced_write_takes_the_clean_mark_away() {
    let disk = SimDisk::new(1);
    let mut file = open(&disk);
    file.write(sample(1)).unwrap();
    file.mark_clean().unwrap();
    let before = disk.actions();
    file.unmark_clean().unwrap();
    assert_eq!(disk.actions() - before, 2, "a write and a sync");
    file.unmark_clean().unwrap();
    assert_eq!(disk.actions() - before, 2, "nothing is left to take away");
    assert!(!file.is_clean() && !open(&disk).is_clean());
}

#[test]
fn segments_are_kept_for_either_slot() {
    let disk = SimDisk::new(1);
    let mut file = open(&disk);
    let position = |generation| LogPosition {
        generation,
        segment: 1,
    };
    assert_eq!(file.log_position(), LogPosition::default());
    for generation in [4, 5, 9] {
        file.write(Checkpoint {
            first_live: position(generation),
            ..sample(1)
        })
        .unwrap();
        let expected = position(match generation {
            9 => 5,
            _ => 4,
        });
        assert_eq!(file.log_position(), expected);
        assert_eq!(open(&disk).log_position(), expected);
    }
    // Damage to either slot leaves one whose segments are kept.
    for slot in ["checkpoint.a", "checkpoint.b"] {
        let damaged = disk.fork();
        damaged.flip(slot, 100, 1);
        let left = open(&damaged);
        assert!(
            left.current()
                .is_some_and(|left| left.first_live >= file.log_position()),
            "{slot}"
        );
    }
}

/// Whatever a crash makes of the write that takes the mark away, once it returned the stop is not clean; and the slot
/// that still says clean is not believed alone.
#[test]
fn a_mark_taken_away_never_comes_back() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let mut file = open(&disk);
        file.write(sample(1)).unwrap();
        file.mark_clean().unwrap();
        let mut file = open(&disk);
        file.unmark_clean().unwrap();
        // The next write is under way when the power goes.
        file.stage(sample(2)).unwrap();
        disk.crash(seed);
        assert!(!open(&disk).is_clean(), "seed {seed}");
    }
}

#[test]
fn content_that_makes_no_sense_is_an_error() {
    let disk = SimDisk::new(1);
    let (mut slots, _) = TwoSlot::open(Arc::new(disk.clone()), NAME, FORMAT).unwrap();
    let mut payload = encode(&sample(1)).unwrap();
    payload.push(0);
    for wrong in [
        payload.as_slice(),
        &payload[..payload.len() - 2],
        b"",
        &[0xff; 200],
    ] {
        slots.write(FORMAT, wrong).unwrap();
        let refused = CheckpointFile::open(Arc::new(disk.clone()));
        assert!(
            matches!(refused, Err(SlotError::Content { .. })),
            "{} bytes",
            wrong.len()
        );
    }
}

#[test]
fn a_newer_checkpoint_is_refused() {
    let disk = SimDisk::new(1);
    let (mut slots, _) = TwoSlot::open(Arc::new(disk.clone()), NAME, FORMAT + 1).unwrap();
    slots.write(FORMAT + 1, b"of tomorrow").unwrap();
    let refused = CheckpointFile::open(Arc::new(disk)).unwrap_err();
    assert!(matches!(refused, SlotError::NewerFormat { .. }));
    assert!(refused.to_string().contains("newer version"), "{refused}");
}
