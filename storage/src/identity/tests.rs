use std::sync::Arc;

use super::*;
use crate::disk::SimDisk;
use crate::disk::sim::Fault;

fn load(disk: &SimDisk) -> IdentityFile {
    IdentityFile::load_or_create(Arc::new(disk.clone()), || panic!("there is one"))
        .expect("readable")
}

fn create(disk: &SimDisk) -> IdentityFile {
    IdentityFile::load_or_create(Arc::new(disk.clone()), || Identity::new(1, 2, "n1"))
        .expect("writable")
}

#[test]
fn an_identity_is_made_once_and_lasts() {
    let disk = SimDisk::new(1);
    let file = create(&disk);
    assert!(file.created());
    disk.crash(3);
    let again = load(&disk);
    assert!(!again.created());
    assert_eq!(*again.current(), Identity::new(1, 2, "n1"));
}

#[test]
fn an_update_is_durable_when_it_returns() {
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let file = create(&disk);
        let change = |identity: &mut Identity| {
            identity.cluster_id = Some(9);
            identity.votes = vec![seed as u8; 2_000];
            identity.unsynced = Unsynced::All;
            identity.set_aside = true;
            identity.partitions
        };
        assert_eq!(file.update(change).unwrap(), 0);
        let expected = file.current();
        disk.crash(seed);
        assert_eq!(load(&disk).current(), expected);
    }
}

#[test]
fn an_update_without_a_change_writes_nothing() {
    let disk = SimDisk::new(1);
    let file = create(&disk);
    let before = disk.actions();
    file.update(|identity| identity.partitions = 0).unwrap();
    assert_eq!(disk.actions(), before);
}

#[test]
fn a_failed_update_changes_nothing_in_memory() {
    let disk = SimDisk::new(1);
    let file = create(&disk);
    disk.inject(0, Fault::WriteFails);
    let set = || file.update(|identity| identity.partitions = 64);
    set().unwrap_err();
    assert_eq!(
        *file.failure().borrow(),
        None,
        "what is on disk is as it was"
    );
    disk.inject(0, Fault::SyncFails);
    set().unwrap_err();
    assert_eq!(file.current().partitions, 0);
    assert!(file.failure().borrow().is_some());
    assert!(matches!(
        file.update(|identity| identity.partitions = 64),
        Err(SlotError::Poisoned { .. })
    ));
}

#[test]
fn unsynced_marks_are_kept_per_partition() {
    let mut unsynced = Unsynced::None;
    for partition in [0, 63, 64, 129] {
        unsynced.set(partition, 130, true);
        assert!(unsynced.contains(partition));
    }
    assert!(!unsynced.contains(1) && !unsynced.contains(128) && !unsynced.contains(1_000));
    assert_eq!(unsynced.count(130), 4);
    for partition in 0..130 {
        unsynced.set(partition, 130, true);
    }
    assert_eq!(unsynced, Unsynced::All);
    unsynced.set(70, 130, false);
    assert_eq!(unsynced.count(130), 129);
    assert!(!unsynced.contains(70));
    for partition in 0..130 {
        unsynced.set(partition, 130, false);
    }
    assert_eq!(unsynced, Unsynced::None);
}

#[test]
fn content_that_makes_no_sense_is_an_error() {
    let disk = SimDisk::new(1);
    let (mut slots, _) = TwoSlot::open(Arc::new(disk.clone()), NAME, FORMAT).unwrap();
    slots.write(FORMAT, &[0xff; 90]).unwrap();
    let refused = IdentityFile::load_or_create(Arc::new(disk), || panic!("it exists"));
    assert!(matches!(refused, Err(SlotError::Content { .. })));
}
