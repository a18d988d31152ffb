//! Lists are bounded, in number and in size.

use super::{PARTITION, advance, at, deleted, is_done, mine, rig};
use crate::store::tests::rig::{Rig, put, small_config};
use crate::store::{
    Advance, AdvanceError, Advanced, ConfirmRefused, REAPED_BYTES_MAX, REAPED_TOMBS_MAX,
    REAPING_LISTS_MAX, StoreConfig, Tomb,
};
use crate::version::{ActorId, Clock, NewPayload};

fn is_too_many(refused: Result<Vec<Advanced>, AdvanceError>) -> bool {
    matches!(refused, Err(AdvanceError::TooMany))
}

#[test]
fn a_list_has_no_more_than_it_may() {
    let mut rig = rig(1);
    let tombs = deleted(&mut rig, 0..1);
    let many: Vec<Tomb> = (0..=REAPED_TOMBS_MAX as u64)
        .map(|n| Tomb {
            key: mine(n),
            ..tombs[0].clone()
        })
        .collect();
    let entries = (0..REAPED_BYTES_MAX as u64 / 16).map(|n| (ActorId(n), 1));
    let large = Tomb {
        clock: Clock::from_parts(entries.collect()).expect("ascending"),
        ..tombs[0].clone()
    };
    let nothing = Tomb {
        leaf: crate::record::NO_LEAF,
        ..tombs[0].clone()
    };
    for list in [many, vec![large], vec![nothing]] {
        let refused = rig.store().confirm_reaping(PARTITION, 0, &list);
        assert_eq!(refused, Err(ConfirmRefused::TooMany));
        let step = Advance {
            partition: PARTITION,
            to: 1,
            tombs: list,
        };
        assert!(is_too_many(rig.store().advance_reaping(&[step])));
    }
    assert_eq!(at(&rig), (0, 0, false));
    assert!(is_done(advance(&rig, 1, &tombs)));
}

#[test]
fn a_store_has_no_more_lists_than_it_may() {
    const PARTITIONS: u64 = 256;
    let config = StoreConfig {
        table_bytes: 4 << 20,
        partitions: PARTITIONS as u32,
        ..small_config()
    };
    let mut rig = Rig::new(2, config);
    let max = 2 * REAPING_LISTS_MAX as u64;
    let steps: Vec<Advance> = (0..=max)
        .map(|n| {
            let key = crate::Key::new(n << 56, b"n", b"k").expect("a short key");
            let mut write = put(rig.request(), b"", None);
            write.payload = NewPayload::Delete;
            rig.write(&key, &write);
            Advance {
                partition: n as u32,
                to: 1,
                tombs: vec![super::tomb(&rig, &key)],
            }
        })
        .collect();
    rig.sync_log();
    let confirm = |rig: &Rig, step: &Advance| {
        let confirmed = rig.store().confirm_reaping(step.partition, 0, &step.tombs);
        confirmed.map(|confirmed| confirmed.exact)
    };
    let last = &steps[max as usize];
    for step in &steps[..max as usize] {
        let is_room = (step.partition as usize) < REAPING_LISTS_MAX;
        let expected = match is_room {
            true => Ok(vec![true]),
            false => Err(ConfirmRefused::TooMany),
        };
        assert_eq!(confirm(&rig, step), expected);
        // Confirmed before the others, for all that is known.
        let advanced = rig.store().advance_reaping(std::slice::from_ref(step));
        assert!(is_done(advanced.expect("there is a place")[0]));
    }
    assert!(is_too_many(
        rig.store().advance_reaping(std::slice::from_ref(last))
    ));
    // A step without a list needs no place, and neither does one that was taken.
    let others = [
        Advance {
            partition: 200,
            to: 1,
            tombs: Vec::new(),
        },
        steps[0].clone(),
    ];
    assert!(rig.store().advance_reaping(&others).is_ok());
    assert_eq!(rig.store().partitions_reaping().len(), max as usize);
    rig.crash(1, 0);
    rig.restart();
    assert_eq!(rig.store().partitions_reaping().len(), max as usize);
}
