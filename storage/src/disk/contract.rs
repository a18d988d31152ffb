//! One contract for both disks, and what the simulated one adds: losing what was not synced.

use std::io::ErrorKind;

use super::sim::{BLOCK_BYTES, Fault, SimDisk};
use super::{Disk, LockError, RealDisk};

/// Runs a part of the contract on a real and on a simulated disk.
fn on_both(contract: impl Fn(&dyn Disk)) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    contract(&RealDisk::open(directory.path().join("made/here")).expect("a directory can be made"));
    contract(&SimDisk::new(1));
}

#[test]
fn reads_return_what_was_written() {
    on_both(|disk| {
        let file = disk.create("file").unwrap();
        assert!(file.is_empty().unwrap());
        file.write_at(3, b"abc").unwrap();
        assert_eq!(file.len().unwrap(), 6);
        let mut buffer = [9; 10];
        assert_eq!(file.read_full(0, &mut buffer).unwrap(), 6);
        assert_eq!(&buffer[..6], b"\0\0\0abc");
        file.write_at(1, b"xyz").unwrap();
        assert_eq!(file.read_at(0, &mut buffer[..5]).unwrap(), 5);
        assert_eq!(&buffer[..5], b"\0xyzb");
        assert_eq!(file.read_at(6, &mut buffer).unwrap(), 0);
        assert_eq!(file.read_at(1_000, &mut buffer).unwrap(), 0);
        file.sync_data().unwrap();
        let again = disk.open("file").unwrap();
        assert_eq!(again.read_full(4, &mut buffer).unwrap(), 2);
        assert_eq!(&buffer[..2], b"bc");
    });
}

#[test]
fn lengths_are_set_and_allocation_never_cuts() {
    on_both(|disk| {
        let file = disk.create("file").unwrap();
        file.write_at(0, &[7; 1_000]).unwrap();
        file.allocate_zeroed(500).unwrap();
        assert_eq!(file.len().unwrap(), 1_000);
        file.allocate_zeroed(3_000_000).unwrap();
        assert_eq!(file.len().unwrap(), 3_000_000);
        let mut buffer = [1; 2_000];
        file.read_full(0, &mut buffer).unwrap();
        assert!(buffer[..1_000].iter().all(|byte| *byte == 7));
        assert!(buffer[1_000..].iter().all(|byte| *byte == 0));
        file.set_len(10).unwrap();
        file.set_len(20).unwrap();
        assert_eq!(file.read_full(0, &mut buffer).unwrap(), 20);
        assert_eq!(&buffer[..20], &[[7; 10], [0; 10]].concat());
    });
}

#[test]
fn names_are_made_listed_renamed_and_removed() {
    on_both(|disk| {
        assert_eq!(disk.open("a").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(disk.create("d/a").unwrap_err().kind(), ErrorKind::NotFound);
        disk.create_dir("d").unwrap();
        disk.create_dir("d").unwrap();
        disk.create("d/b").unwrap().write_at(0, b"b").unwrap();
        disk.create("d/a").unwrap();
        assert_eq!(
            disk.create("d/a").unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        assert_eq!(disk.list("d").unwrap(), ["a", "b"]);
        assert_eq!(disk.list("").unwrap(), ["d"]);
        assert_eq!(disk.list("none").unwrap_err().kind(), ErrorKind::NotFound);
        disk.rename("d/b", "d/a").unwrap();
        assert_eq!(disk.list("d").unwrap(), ["a"]);
        assert_eq!(disk.open("d/a").unwrap().len().unwrap(), 1);
        disk.rename("d", "aside").unwrap();
        assert!(!disk.exists("d").unwrap());
        assert!(disk.exists("aside/a").unwrap());
        disk.sync_dir("aside").unwrap();
        disk.sync_dir("").unwrap();
        disk.remove("aside/a").unwrap();
        assert_eq!(
            disk.remove("aside/a").unwrap_err().kind(),
            ErrorKind::NotFound
        );
        assert!(disk.list("aside").unwrap().is_empty());
    });
}

#[test]
fn names_that_leave_the_root_are_refused() {
    on_both(|disk| {
        for name in ["/etc/passwd", "../up", "a/../b", "a//b", "./a", "a/"] {
            assert_eq!(
                disk.open(name).unwrap_err().kind(),
                ErrorKind::InvalidInput,
                "{name}"
            );
            assert_eq!(
                disk.create(name).unwrap_err().kind(),
                ErrorKind::InvalidInput,
                "{name}"
            );
        }
        disk.create_dir("d").unwrap();
        disk.create("a").unwrap();
        assert_eq!(
            disk.rename("a", "d/a").unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    });
}

#[test]
fn a_lock_excludes_until_dropped() {
    on_both(|disk| {
        let held = disk.lock("lock").unwrap();
        let refused = disk.lock("lock").unwrap_err();
        assert!(matches!(&refused, LockError::Held(name) if name == "lock"));
        assert!(
            refused.to_string().contains("in use by another process"),
            "{refused}"
        );
        drop(held);
        disk.lock("lock").unwrap();
    });
}

#[test]
fn space_is_told() {
    on_both(|disk| {
        let space = disk.space().unwrap();
        assert!(space.free_bytes > 0);
        assert!(space.total_bytes >= space.free_bytes);
    });
}

/// A simulated disk with a synced file of `blocks` blocks of ones.
fn synced(seed: u64, blocks: usize) -> SimDisk {
    let disk = SimDisk::new(seed);
    let file = disk.create("file").unwrap();
    file.write_at(0, &vec![1; blocks * BLOCK_BYTES]).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir("").unwrap();
    disk
}

#[test]
fn what_is_synced_survives_every_crash() {
    for seed in 0..100 {
        let disk = synced(seed, 3);
        disk.crash(seed);
        assert_eq!(disk.content("file").unwrap(), vec![1; 3 * BLOCK_BYTES]);
    }
}

#[test]
fn unsynced_blocks_are_lost_or_kept_each_by_itself() {
    let mut images = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let disk = synced(seed, 2);
        disk.open("file")
            .unwrap()
            .write_at(0, &[2; 2 * BLOCK_BYTES])
            .unwrap();
        disk.crash(seed);
        let content = disk.content("file").unwrap();
        for block in content.chunks(BLOCK_BYTES) {
            assert!(
                block.iter().all(|byte| *byte == block[0]),
                "a block is whole"
            );
        }
        images.insert((content[0], content[BLOCK_BYTES]));
    }
    assert_eq!(images.len(), 4, "{images:?}");
}

#[test]
fn unsynced_names_and_lengths_are_lost_or_kept() {
    let (mut names, mut lengths) = (
        std::collections::BTreeSet::new(),
        std::collections::BTreeSet::new(),
    );
    for seed in 0..200 {
        let disk = synced(seed, 1);
        disk.create("new").unwrap().sync_data().unwrap();
        disk.rename("file", "moved").unwrap();
        disk.open("moved")
            .unwrap()
            .allocate_zeroed(2 * BLOCK_BYTES as u64)
            .unwrap();
        disk.crash(seed);
        let list = disk.list("").unwrap();
        assert_eq!(
            list.iter().filter(|name| *name != "new").count(),
            1,
            "a rename is whole: {list:?}"
        );
        for name in list.iter().filter(|name| *name != "new") {
            lengths.insert(disk.content(name).unwrap().len());
        }
        names.insert(list);
    }
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(
        lengths.contains(&BLOCK_BYTES) && lengths.contains(&(2 * BLOCK_BYTES)),
        "{lengths:?}"
    );
}

#[test]
fn one_seed_gives_one_image() {
    let image = |seed| {
        let disk = synced(1, 64);
        disk.open("file")
            .unwrap()
            .write_at(0, &[2; 64 * BLOCK_BYTES])
            .unwrap();
        disk.crash(seed);
        disk.content("file").unwrap()
    };
    assert_eq!(image(5), image(5));
    assert_ne!(image(5), image(6));
}

#[test]
fn handles_and_locks_end_with_a_crash_or_a_kill() {
    let disk = synced(1, 1);
    let file = disk.open("file").unwrap();
    let lock = disk.lock("lock").unwrap();
    file.write_at(0, &[2; BLOCK_BYTES]).unwrap();
    disk.kill();
    assert!(file.write_at(0, b"late").is_err());
    assert!(file.sync_data().is_err());
    let again = disk.lock("lock").unwrap();
    drop(lock);
    assert!(
        disk.lock("lock").is_err(),
        "the old guard does not release the new lock"
    );
    drop(again);
    assert_eq!(
        disk.content("file").unwrap(),
        vec![2; BLOCK_BYTES],
        "a kill loses nothing"
    );
}

#[test]
fn a_failed_sync_looks_fine_until_the_crash() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = synced(seed, 1);
        let file = disk.open("file").unwrap();
        disk.inject(0, Fault::SyncFails);
        file.write_at(0, &[2; BLOCK_BYTES]).unwrap();
        file.sync_data().unwrap_err();
        // The kernel calls the pages clean now: another sync says yes and proves nothing.
        file.sync_data().unwrap();
        assert_eq!(disk.content("file").unwrap(), vec![2; BLOCK_BYTES]);
        disk.crash(seed);
        lost += usize::from(disk.content("file").unwrap()[0] == 1);
    }
    assert!((5..45).contains(&lost), "{lost}");
}

#[test]
fn faults_strike_once_after_the_actions_they_let_pass() {
    let disk = synced(1, 1);
    let file = disk.open("file").unwrap();
    disk.inject(1, Fault::WriteFails);
    disk.inject(0, Fault::ReadFails);
    file.read_at(0, &mut [0; 4]).unwrap_err();
    file.read_at(0, &mut [0; 4]).unwrap();
    file.write_at(0, b"a").unwrap();
    file.write_at(0, b"b").unwrap_err();
    assert_eq!(disk.content("file").unwrap()[0], b'a');
    file.write_at(0, b"c").unwrap();
    let wide = disk.create("wide").unwrap();
    disk.inject(0, Fault::WriteTorn);
    wide.write_at(0, &[3; 64 * BLOCK_BYTES]).unwrap_err();
    let content = disk.content("wide").unwrap();
    let written = content
        .chunks(BLOCK_BYTES)
        .filter(|block| block[0] == 3)
        .count();
    assert!((1..64).contains(&written), "{written}");
}

#[test]
fn a_full_disk_refuses_growth_only() {
    let disk = synced(1, 4);
    disk.set_capacity(4 * BLOCK_BYTES as u64 + 10);
    let file = disk.open("file").unwrap();
    file.write_at(0, &[5; BLOCK_BYTES]).unwrap();
    assert_eq!(disk.space().unwrap().free_bytes, 10);
    let error = file.allocate_zeroed(5 * BLOCK_BYTES as u64).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    disk.create("small").unwrap().write_at(0, &[1; 10]).unwrap();
}

#[test]
fn a_flip_lasts_and_a_fork_is_apart() {
    let disk = synced(1, 1);
    let fork = disk.fork();
    assert!(disk.flip("file", 7, 0x80));
    assert!(!disk.flip("file", BLOCK_BYTES as u64, 1));
    assert!(!disk.flip("none", 0, 1));
    disk.crash(1);
    assert_eq!(disk.content("file").unwrap()[7], 0x81);
    assert_eq!(fork.content("file").unwrap()[7], 1);
}
