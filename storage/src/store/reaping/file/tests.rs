use super::*;
use crate::disk::SimDisk;
use crate::disk::sim::Fault;

fn open(disk: &SimDisk, last_sequence: u64) -> Result<File, SlotError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    File::open(&disk, 16, last_sequence)
}

fn tombs(count: u64) -> Vec<Tomb> {
    let tomb = |n| Tomb {
        key: Key::new(n, b"name space", &n.to_le_bytes()).expect("a short key"),
        leaf: n + 1,
        clock: Clock::from_parts((0..n).map(|actor| (ActorId(actor), n)).collect())
            .expect("ascending"),
    };
    (0..count).map(tomb).collect()
}

fn kept(generation: u64, floor: u64, sequence: u64, count: u64) -> Kept {
    let list = (count > 0).then(|| {
        Arc::new(Reaping {
            generation,
            floor,
            tombs: tombs(count),
        })
    });
    Kept {
        generation,
        floor,
        sequence,
        list,
    }
}

fn all(file: &File) -> Vec<(u32, Kept)> {
    file.all()
        .map(|(partition, kept)| (partition, kept.clone()))
        .collect()
}

#[test]
fn what_was_written_is_read_again() {
    let disk = SimDisk::new(1);
    let mut file = open(&disk, 0).expect("none yet");
    assert_eq!(all(&file), []);
    let written = [
        (0, kept(1, 0, 0, 0)),
        (3, kept(7, 5, 900, 6)),
        (15, kept(u64::MAX, u64::MAX, 0, 0)),
    ];
    for (partition, kept) in &written {
        file.set(*partition, kept.clone());
    }
    assert_eq!(file.lists(), 1);
    file.write().expect("durable");
    let actions = disk.actions();
    file.set(3, kept(7, 5, 900, 6));
    file.write().expect("nothing new");
    assert_eq!(disk.actions(), actions);
    drop(file);
    disk.crash(1);
    let file = open(&disk, 900).expect("it is there");
    assert_eq!(all(&file), written);
    assert_eq!(file.get(4), Kept::default());
}

#[test]
fn a_step_judged_by_more_than_the_log_has_is_taken_back_for_good() {
    let disk = SimDisk::new(2);
    let mut file = open(&disk, 0).expect("none yet");
    file.set(1, kept(3, 2, 901, 2));
    file.set(2, kept(3, 2, 900, 2));
    file.set(3, kept(3, 2, 901, 0));
    file.write().expect("durable");
    drop(file);
    for last_sequence in [900, 950] {
        disk.crash(last_sequence);
        let file = open(&disk, last_sequence).expect("it is there");
        assert_eq!(file.get(1), kept(2, 2, 0, 0));
        assert_eq!(file.get(2), kept(3, 2, 900, 2));
        assert_eq!(file.get(3), kept(3, 2, 901, 0), "nothing was judged");
    }
}

#[test]
fn a_file_that_makes_no_sense_is_refused() {
    let written = |payload: &[u8], format| {
        let disk = SimDisk::new(3);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let (mut slots, _) = TwoSlot::open(shared, NAME, format).expect("none yet");
        slots.write(format, payload).expect("durable");
        disk
    };
    let payload = |partition, kept| encode(&BTreeMap::from([(partition, kept)])).expect("short");
    let good = payload(1, kept(3, 2, 0, 3));
    assert!(open(&written(&good, FORMAT), 0).is_ok());
    let newer = open(&written(&good, FORMAT + 1), 0);
    assert!(matches!(newer, Err(SlotError::NewerFormat { .. })));
    let trailing = [&good[..], b"x"].concat();
    for bad in [
        &good[..good.len() - 1],
        &trailing,
        &payload(16, kept(1, 0, 0, 0)),
        &payload(1, kept(1, 2, 0, 0)),
        &payload(1, kept(0, 0, 0, 1)),
    ] {
        let refused = open(&written(bad, FORMAT), 0);
        assert!(matches!(refused, Err(SlotError::Content { .. })));
    }
    let disk = written(&good, FORMAT);
    for slot in ["reaping.a", "reaping.b"] {
        assert!(disk.flip(slot, 40, 1));
    }
    let refused = open(&disk, 0);
    assert!(matches!(refused, Err(SlotError::Damaged { .. })));
}

#[test]
fn a_failed_write_is_made_up_for_and_a_failed_sync_never() {
    let disk = SimDisk::new(4);
    let mut file = open(&disk, 0).expect("none yet");
    file.set(1, kept(1, 0, 0, 0));
    file.write().expect("durable");
    file.set(1, kept(2, 0, 0, 0));
    disk.inject(0, Fault::WriteFails);
    file.write().expect_err("it fails");
    assert!(!file.is_poisoned());
    file.write().expect("what is new is still to be written");
    file.set(1, kept(3, 0, 0, 0));
    disk.inject(0, Fault::SyncFails);
    file.write().expect_err("it fails");
    assert!(file.is_poisoned());
    file.write().expect_err("nobody knows what is there");
}
