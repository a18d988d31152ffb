//! The writer's steps: one disk action each, groups, segments, failures.

#![expect(clippy::disallowed_methods, reason = "appenders that race")]

use super::*;
use crate::disk::sim::Fault;
use crate::disk::{Disk, RealDisk};

#[test]
fn a_step_takes_at_most_one_disk_action() {
    let disk = SimDisk::new(1);
    let config = small(6);
    let (recovered, _) = recover_all(&disk, &config);
    let (log, mut writer) = start(&disk, config, recovered);
    let mut most = 0;
    for round in 0..200u64 {
        if round % 3 == 0 {
            log.append(|buffer| buffer.extend_from_slice(&[1; 300]));
        }
        if round % 50 == 20 {
            log.release(log.first_live(log.durable_now()));
        }
        let before = disk.actions();
        match writer.step().unwrap() {
            LogStep::Worked => assert_eq!(disk.actions() - before, 1),
            step => {
                assert_eq!((step, disk.actions() - before), (LogStep::Idle, 0));
                writer.seal();
            }
        }
        most = most.max(log.segment_counts().0);
    }
    assert!(most > 3, "segments were opened: {most}");
}

#[test]
fn records_are_durable_after_the_sync_and_not_before() {
    let disk = SimDisk::new(1);
    let (log, mut writer, _) = open(&disk, small(8));
    let durable = log.durable();
    assert_eq!(log.append(|buffer| buffer.push(1)), 1);
    assert_eq!(log.append(|buffer| buffer.push(2)), 2);
    assert_eq!((log.last(), log.durable_now()), (2, 0));
    assert_eq!(log.queued_bytes(), 10);
    assert_eq!(writer.step().unwrap(), LogStep::Worked);
    assert_eq!(*durable.borrow(), 0, "written is not synced");
    assert_eq!(writer.step().unwrap(), LogStep::Worked);
    assert_eq!(*durable.borrow(), 2, "both went in one group");
    assert_eq!(log.queued_bytes(), 0);
    assert_eq!(writer.step().unwrap(), LogStep::Idle);
}

#[test]
fn what_queues_during_a_sync_is_one_group() {
    let disk = SimDisk::new(1);
    let (log, mut writer, _) = open(&disk, LogConfig::new(1));
    append(&log, &mut writer, b"first");
    for _ in 0..100 {
        log.append(|buffer| buffer.extend_from_slice(b"record"));
    }
    let before = disk.actions();
    run(&mut writer);
    assert_eq!(disk.actions() - before, 2, "one write, one sync");
    assert_eq!(log.durable_now(), 101);
}

#[test]
fn groups_close_at_their_limit_and_a_larger_record_is_alone() {
    let disk = SimDisk::new(1);
    let config = LogConfig {
        segment_bytes: 8 << 20,
        salt: 1,
    };
    let (log, mut writer, _) = open(&disk, config);
    let mut expected = Records::new();
    for length in [
        10,
        3 << 20,
        20,
        GROUP_BYTES_MAX / 2,
        GROUP_BYTES_MAX / 2,
        30,
        GROUP_BYTES_MAX,
        0,
    ] {
        let record = vec![expected.len() as u8; length];
        let sequence = log.append(|buffer| buffer.extend_from_slice(&record));
        expected.push((sequence, record));
    }
    let mut durable = Vec::new();
    while writer.step().unwrap() == LogStep::Worked {
        if durable.last() != Some(&log.durable_now()) {
            durable.push(log.durable_now());
        }
    }
    assert_eq!(durable, [0, 1, 2, 4, 6, 7, 8]);
    assert_eq!(recover_all(&disk, &config).1, expected);
}

#[test]
fn a_record_larger_than_a_segment_gets_a_longer_one() {
    let disk = SimDisk::new(1);
    let config = small(4);
    let (log, mut writer, _) = open(&disk, config);
    let record = vec![7; 20 * BLOCK_BYTES];
    for _ in 0..2 {
        append(&log, &mut writer, b"small");
        append(&log, &mut writer, &record);
    }
    seal(&mut writer);
    let (recovered, records) = recover_all(&disk, &config);
    assert_eq!(records.len(), 4);
    assert_eq!(records[1].1, record);
    assert_eq!(recovered.damage, []);
}

#[test]
fn there_is_room_until_the_queue_is_full() {
    let disk = SimDisk::new(1);
    let config = LogConfig {
        segment_bytes: 128 << 20,
        salt: 1,
    };
    let (log, _writer, _) = open(&disk, config);
    let record = vec![0; 8 << 20];
    let mut appended = 0;
    while log.has_room() {
        log.append(|buffer| buffer.extend_from_slice(&record));
        appended += record.len();
        assert!(appended <= QUEUED_BYTES_MAX);
    }
    assert_eq!(appended, QUEUED_BYTES_MAX);
}

#[test]
fn a_seal_is_written_once_after_records() {
    let disk = SimDisk::new(1);
    let (log, mut writer, _) = open(&disk, small(8));
    let before = disk.actions();
    seal(&mut writer);
    assert_eq!(disk.actions(), before, "there is nothing to seal");
    append(&log, &mut writer, b"record");
    assert!(!writer.is_sealed());
    let before = disk.actions();
    seal(&mut writer);
    seal(&mut writer);
    assert_eq!(disk.actions() - before, 2);
    assert!(writer.is_sealed());
    assert_eq!(
        append(&log, &mut writer, b"record"),
        2,
        "a seal takes no sequence"
    );
}

#[test]
fn a_closed_log_is_written_and_sealed() {
    let disk = SimDisk::new(1);
    let config = small(8);
    let (log, mut writer, _) = open(&disk, config);
    log.append(|buffer| buffer.push(1));
    log.close();
    assert_eq!(run(&mut writer), LogStep::Closed);
    assert!(writer.is_sealed());
    disk.crash(1);
    assert_eq!(recover_all(&disk, &config).1, [(1, vec![1])]);
}

#[test]
fn released_segments_are_used_again() {
    let disk = SimDisk::new(1);
    let config = small(4);
    let (log, mut writer, _) = open(&disk, config);
    for _ in 0..40 {
        let sequence = append(&log, &mut writer, b"a record");
        let position = log.first_live(sequence);
        log.release(position);
        assert_eq!(
            log.first_live(0),
            position,
            "what a checkpoint names is what is kept"
        );
    }
    assert!(disk.list(DIRECTORY).unwrap().len() <= 2, "{disk:?}");
    assert_eq!(log.first_live(40).generation, 14);
}

#[test]
fn segments_that_are_needed_are_not_released() {
    let disk = SimDisk::new(1);
    let config = small(4);
    let (log, mut writer, _) = open(&disk, config);
    for _ in 0..12 {
        append(&log, &mut writer, b"a record");
    }
    assert_eq!(log.segment_counts(), (4, 0));
    log.release(log.first_live(2));
    assert_eq!(
        log.segment_counts(),
        (4, 0),
        "record 3 is in the first segment"
    );
    log.release(log.first_live(3));
    assert_eq!(log.segment_counts(), (3, 1));
    log.release(log.first_live(u64::MAX));
    assert_eq!(log.segment_counts(), (1, 3), "the current one stays");
}

#[test]
fn too_many_live_segments_leave_no_room() {
    let disk = SimDisk::new(1);
    let (log, mut writer, _) = open(&disk, small(2));
    for _ in 0..SEGMENTS_MAX {
        assert!(log.has_room());
        append(&log, &mut writer, b"x");
    }
    append(&log, &mut writer, b"x");
    assert!(!log.has_room());
    log.release(log.first_live(10));
    assert!(log.has_room());
}

#[test]
fn spares_are_made_ahead_and_removed_when_too_many() {
    let disk = SimDisk::new(1);
    let config = small(4);
    let (log, mut writer, _) = open(&disk, config);
    assert!(log.tend_spares().unwrap());
    assert!(!log.tend_spares().unwrap());
    assert_eq!(log.segment_counts(), (1, 1));
    for _ in 0..3 {
        append(&log, &mut writer, b"a record");
    }
    let before = disk.actions();
    append(&log, &mut writer, b"the next segment's first");
    assert_eq!(
        disk.actions() - before,
        4,
        "header and group, each written and synced"
    );
    for _ in 0..30 {
        append(&log, &mut writer, b"a record");
    }
    log.release(log.first_live(u64::MAX));
    while log.tend_spares().unwrap() {}
    assert_eq!(log.segment_counts(), (1, SPARES_MAX));
    assert_eq!(disk.list(DIRECTORY).unwrap().len(), 1 + SPARES_MAX);
}

#[test]
fn a_failed_write_or_sync_ends_the_log() {
    // Each action from the first one on, by a fault on either kind.
    for fault in [Fault::WriteFails, Fault::WriteTorn, Fault::SyncFails] {
        for let_pass in 0..12 {
            let disk = SimDisk::new(let_pass);
            let config = small(4);
            let (log, mut writer, _) = open(&disk, config);
            append(&log, &mut writer, b"durable");
            let mut waiter = log.durable();
            waiter.mark_unchanged();
            disk.inject(let_pass, fault);
            let mut fail = || {
                log.append(|buffer| buffer.extend_from_slice(b"record"));
                writer.step().err()
            };
            let failed = (0..1_000).find_map(|_| fail()).expect("the fault strikes");
            let durable = log.durable_now();
            assert!(waiter.has_changed().unwrap(), "waiters wake");
            assert_eq!(log.failed(), Some(failed.clone()));
            assert!(failed.to_string().contains("restart"), "{failed}");
            assert!(!log.has_room());
            log.append(|buffer| buffer.push(1));
            assert_eq!(writer.step(), Err(failed));
            assert_eq!((log.durable_now(), log.queued_bytes()), (durable, 0));
            disk.crash(let_pass);
            let (recovered, records) = recover_all(&disk, &config);
            assert_eq!(recovered.damage, []);
            assert!(records.len() as u64 >= durable, "{fault:?} {let_pass}");
        }
    }
}

#[test]
fn a_full_disk_stalls_the_log_until_a_segment_is_released() {
    let disk = SimDisk::new(1);
    let config = small(4);
    let (log, mut writer, _) = open(&disk, config);
    disk.set_capacity(2 * config.segment_bytes + 100);
    let mut last = 0;
    while log.has_room() {
        last = append(&log, &mut writer, b"record");
    }
    assert_eq!(last, 7, "two segments of three groups are full");
    assert_eq!(writer.step().unwrap(), LogStep::Worked, "it tries again");
    assert_eq!(writer.step().unwrap(), LogStep::Full);
    assert_eq!((log.durable_now(), log.failed()), (6, None));
    assert_eq!(
        disk.list(DIRECTORY).unwrap().len(),
        2,
        "nothing half made stays"
    );
    assert!(log.tend_spares().is_err(), "making one ahead fails, too");
    assert_eq!(disk.list(DIRECTORY).unwrap().len(), 2);
    log.release(log.first_live(3));
    run(&mut writer);
    assert_eq!(log.durable_now(), 7);
    assert!(log.has_room());
    let (recovered, records) = try_recover(
        &disk,
        &config,
        RecoverFrom {
            position: log.first_live(3),
            applied: 3,
        },
    )
    .unwrap();
    assert_eq!((recovered.damage.len(), records.len()), (0, 4));
}

#[test]
fn a_log_on_a_full_disk_can_be_closed() {
    let disk = SimDisk::new(1);
    disk.set_capacity(10);
    let config = small(4);
    let (recovered, _) = recover_all(&disk, &config);
    let (log, mut writer) = start(&disk, config, recovered);
    assert_eq!(run(&mut writer), LogStep::Full);
    log.close();
    assert_eq!(run(&mut writer), LogStep::Closed);
}

#[test]
#[should_panic(expected = "over the limit")]
fn a_record_over_the_limit_is_our_own_bug() {
    let (log, _writer, _) = open(&SimDisk::new(1), small(4));
    log.append(|buffer| buffer.resize(buffer.len() + RECORD_BYTES_MAX + 1, 0));
}

#[test]
fn the_thread_writes_seals_and_ends() {
    let directory = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(directory.path()).unwrap());
    let config = small(16);
    let recovered = recover(
        disk.as_ref(),
        &config,
        RecoverFrom::default(),
        &mut |_, _| Ok(()),
    )
    .unwrap();
    let (log, writer) = Log::start(disk.clone(), config, recovered).unwrap();
    let thread = driver::spawn(log.clone(), writer).unwrap();
    let appenders: Vec<_> = (0..4u8)
        .map(|appender| {
            let log = log.clone();
            std::thread::Builder::new()
                .spawn(move || {
                    for record in 0..50u8 {
                        log.append(|buffer| buffer.extend_from_slice(&[appender, record]));
                    }
                })
                .unwrap()
        })
        .collect();
    for appender in appenders {
        appender.join().unwrap();
    }
    log.close();
    thread.join().unwrap().unwrap();
    assert_eq!(log.durable_now(), 200);
    let mut next = [0; 4];
    let recovered = recover(
        disk.as_ref(),
        &config,
        RecoverFrom::default(),
        &mut |_, bytes| {
            assert_eq!(
                bytes[1],
                next[usize::from(bytes[0])],
                "each appender's records are in order"
            );
            next[usize::from(bytes[0])] += 1;
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(
        (next, recovered.last_sequence, recovered.damage.len()),
        ([50; 4], 200, 0)
    );
}

#[test]
fn a_waiter_learns_of_durability_and_of_failure() {
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    let disk = SimDisk::new(1);
    let (log, mut writer, _) = open(&disk, small(4));
    let mut context = Context::from_waker(Waker::noop());
    let first = log.append(|buffer| buffer.push(1));
    let mut waiting = Box::pin(log.wait_durable(first));
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    run(&mut writer);
    assert_eq!(waiting.as_mut().poll(&mut context), Poll::Ready(Ok(())));
    let second = log.append(|buffer| buffer.push(2));
    let mut waiting = Box::pin(log.wait_durable(second));
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    disk.inject(0, Fault::SyncFails);
    let failed = (0..10)
        .find_map(|_| writer.step().err())
        .expect("the fault strikes");
    assert_eq!(
        waiting.as_mut().poll(&mut context),
        Poll::Ready(Err(failed))
    );
}
