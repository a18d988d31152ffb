//! Recovery of single, hand-made situations.

use super::*;
use crate::disk::Disk;
use crate::disk::sim::Fault;

#[test]
fn an_empty_disk_is_an_empty_log() {
    let (recovered, records) = recover_all(&SimDisk::new(1), &small(4));
    assert_eq!(
        (
            recovered.last_sequence,
            recovered.damage,
            recovered.torn_tail
        ),
        (0, vec![], None)
    );
    assert!(records.is_empty());
}

#[test]
fn each_start_opens_a_segment_of_a_higher_generation() {
    let disk = SimDisk::new(1);
    let config = small(8);
    for generation in 1..6 {
        let (log, mut writer, records) = open(&disk, config);
        assert_eq!(
            log.first_live(u64::MAX),
            LogPosition {
                generation,
                segment: generation as u32
            }
        );
        assert_eq!(records.len() as u64, generation - 1);
        append(&log, &mut writer, b"record");
        disk.crash(generation);
    }
}

#[test]
fn records_up_to_the_checkpoint_are_neither_handed_out_nor_missed() {
    let disk = SimDisk::new(1);
    let config = small(4);
    let (log, mut writer, _) = open(&disk, config);
    for record in 1..=9u8 {
        append(&log, &mut writer, &[record]);
    }
    let position = log.first_live(7);
    assert_eq!(position.generation, 3);
    disk.kill();
    let (recovered, records) = try_recover(
        &disk,
        &config,
        RecoverFrom {
            position,
            applied: 7,
        },
    )
    .unwrap();
    assert_eq!(records, [(8, vec![8]), (9, vec![9])]);
    assert_eq!((recovered.last_sequence, recovered.damage), (9, vec![]));
    let (recovered, records) = try_recover(
        &disk,
        &config,
        RecoverFrom {
            position,
            applied: 20,
        },
    )
    .unwrap();
    assert_eq!(
        (recovered.last_sequence, records.len()),
        (20, 0),
        "sequences go on after the checkpoint's"
    );
}

#[test]
fn a_missing_segment_is_damage() {
    let disk = SimDisk::new(1);
    let config = small(4);
    let (log, mut writer, _) = open(&disk, config);
    for record in 1..=9u8 {
        append(&log, &mut writer, &[record]);
    }
    let position = log.first_live(4);
    disk.kill();
    // In the middle.
    let fork = disk.fork();
    fork.remove(&segment_name(2)).unwrap();
    let (recovered, records) = recover_all(&fork, &config);
    assert_eq!(records.len(), 6);
    assert_eq!(
        recovered
            .damage
            .iter()
            .map(|damage| damage.missing)
            .collect::<Vec<_>>(),
        [Some((4, 6))]
    );
    // The one that the checkpoint names.
    let (recovered, records) = try_recover(
        &fork,
        &config,
        RecoverFrom {
            position,
            applied: 4,
        },
    )
    .unwrap();
    assert_eq!(records.len(), 3);
    assert_eq!(
        recovered.damage,
        [Damage {
            position,
            offset: 0,
            missing: Some((5, 6))
        }]
    );
    // All.
    for segment in 1..=3 {
        disk.remove(&segment_name(segment)).unwrap();
    }
    let (recovered, _) = try_recover(
        &disk,
        &config,
        RecoverFrom {
            position,
            applied: 4,
        },
    )
    .unwrap();
    assert_eq!(
        recovered.damage,
        [Damage {
            position,
            offset: 0,
            missing: Some((5, u64::MAX - 1))
        }]
    );
    assert_eq!(recovered.last_sequence, 4);
}

#[test]
fn a_tail_cut_at_one_start_stays_cut() {
    let disk = SimDisk::new(1);
    let config = small(8);
    let (log, mut writer, _) = open(&disk, config);
    append(&log, &mut writer, b"kept");
    append(&log, &mut writer, b"torn");
    disk.kill();
    let last = disk.content(&segment_name(1)).unwrap();
    disk.flip(&segment_name(1), 2 * BLOCK_BYTES as u64 + 60, 1);
    let (recovered, records) = recover_all(&disk, &config);
    assert_eq!(records, [(1, b"kept".to_vec())]);
    let position = LogPosition {
        generation: 1,
        segment: 1,
    };
    let torn = TornTail {
        position,
        offset: 2 * BLOCK_BYTES as u64,
        first: 2,
    };
    assert_eq!(
        (recovered.damage, recovered.torn_tail),
        (vec![], Some(torn))
    );
    let (log, mut writer, _) = open(&disk, config);
    assert_eq!(append(&log, &mut writer, b"instead"), 2);
    disk.kill();
    // Even if the torn group reads well again: another record 2 was written since.
    for heal in [false, true] {
        if heal {
            disk.put_durable(&segment_name(1), &last);
        }
        let (recovered, records) = recover_all(&disk, &config);
        assert_eq!(
            records,
            [(1, b"kept".to_vec()), (2, b"instead".to_vec())],
            "healed: {heal}"
        );
        assert_eq!((recovered.damage, recovered.torn_tail), (vec![], None));
    }
}

#[test]
fn a_newer_format_is_refused() {
    use super::super::format::SegmentHeader;
    use xxhash_rust::xxh3::xxh3_64_with_seed;

    let disk = SimDisk::new(1);
    let config = small(4);
    let mut block = SegmentHeader {
        generation: 1,
        first: 1,
    }
    .encode(config.salt);
    block[16] = 2;
    disk.put_durable(&segment_name(1), &block);
    assert!(
        try_recover(&disk, &config, RecoverFrom::default()).is_ok(),
        "a flipped bit is damage"
    );
    let checksum = xxh3_64_with_seed(&block[8..40], config.salt ^ 0x7365_676d_656e_7400);
    block[..8].copy_from_slice(&checksum.to_le_bytes());
    disk.put_durable(&segment_name(1), &block);
    let refused = try_recover(&disk, &config, RecoverFrom::default()).unwrap_err();
    assert!(
        matches!(refused, RecoverError::NewerFormat { found: 2, .. }),
        "{refused}"
    );
}

#[test]
fn a_copied_segment_is_refused() {
    let disk = SimDisk::new(1);
    let config = small(4);
    let (log, mut writer, _) = open(&disk, config);
    append(&log, &mut writer, b"record");
    let content = disk.content(&segment_name(1)).unwrap();
    disk.put_durable(&segment_name(9), &content);
    let refused = try_recover(&disk, &config, RecoverFrom::default());
    assert!(matches!(refused, Err(RecoverError::Duplicate { .. })));
    disk.remove(&segment_name(9)).unwrap();
    disk.put_durable("log/00000001.seg.bak", &content);
    assert_eq!(
        recover_all(&disk, &config).1.len(),
        1,
        "other names are not ours"
    );
}

#[test]
fn a_log_of_another_store_is_not_read() {
    let disk = SimDisk::new(1);
    let (log, mut writer, _) = open(&disk, small(4));
    append(&log, &mut writer, b"record");
    let other = LogConfig {
        salt: 1,
        ..small(4)
    };
    assert!(recover_all(&disk, &other).1.is_empty());
}

#[test]
fn errors_of_the_disk_and_of_the_receiver_are_told() {
    let disk = SimDisk::new(1);
    let config = small(4);
    let (log, mut writer, _) = open(&disk, config);
    append(&log, &mut writer, b"record");
    disk.inject(0, Fault::ReadFails);
    let refused = try_recover(&disk, &config, RecoverFrom::default()).unwrap_err();
    assert!(matches!(refused, RecoverError::Io { .. }), "{refused}");
    let refused = recover(&disk, &config, RecoverFrom::default(), &mut |_, _| {
        Err("no".into())
    })
    .unwrap_err();
    assert!(
        matches!(refused, RecoverError::Refused { sequence: 1, .. }),
        "{refused}"
    );
}

/// A process dies between write and sync, or after a sync that failed; the next one hands the records out and calls
/// them durable.
#[test]
fn what_a_start_calls_durable_survives_the_next_crash() {
    let mut hardened = 0;
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let config = small(8);
        let (log, mut writer, _) = open(&disk, config);
        append(&log, &mut writer, b"first");
        log.append(|buffer| buffer.extend_from_slice(&[5; 1_000]));
        assert_eq!(writer.step().unwrap(), LogStep::Worked, "written");
        if seed % 2 == 0 {
            disk.inject(0, Fault::SyncFails);
            writer.step().unwrap_err();
        }
        disk.kill();
        let (recovered, records) = recover_all(&disk, &config);
        assert_eq!(records.len(), 2);
        // The power may go before the start is through, too.
        disk.inject(
            seed / 2 % 3,
            if seed % 5 == 0 {
                Fault::WriteFails
            } else {
                Fault::SyncFails
            },
        );
        let started = Log::start(Arc::new(disk.clone()), config, recovered);
        let durable = started.map_or(1, |(log, _)| log.durable_now());
        hardened += u64::from(durable == 2);
        disk.crash(seed);
        let (recovered, records) = recover_all(&disk, &config);
        assert!(records.len() as u64 >= durable, "seed {seed}");
        assert_eq!(recovered.damage, [], "seed {seed}");
    }
    assert!((20..180).contains(&hardened), "{hardened}");
}

#[test]
fn a_client_cannot_forge_a_group() {
    let disk = SimDisk::new(1);
    let config = small(64);
    let (log, mut writer, _) = open(&disk, config);
    append(&log, &mut writer, b"first");
    // The attacker knows the format and guesses generation and sequence, but not the salt: whole log files of
    // another salt, at every alignment of a block, inside a record.
    let other = LogConfig {
        salt: config.salt + 1,
        ..config
    };
    let elsewhere = SimDisk::new(1);
    let (theirs, mut their_writer, _) = open(&elsewhere, other);
    for _ in 0..4 {
        append(&theirs, &mut their_writer, b"forged");
    }
    let image = elsewhere.content(&segment_name(1)).unwrap();
    let mut record = vec![0; BLOCK_BYTES - 60];
    record.extend_from_slice(&image[BLOCK_BYTES..6 * BLOCK_BYTES]);
    append(&log, &mut writer, &record);
    disk.kill();
    // The group that carries it is damaged, so that recovery looks inside for what may follow.
    disk.flip(&segment_name(1), 2 * BLOCK_BYTES as u64 + 70, 1);
    let (recovered, records) = recover_all(&disk, &config);
    assert_eq!(records, [(1, b"first".to_vec())]);
    assert!(recovered.torn_tail.is_some());
}
