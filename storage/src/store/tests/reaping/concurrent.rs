//! Merges beside the steps of rounds.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{PARTITION, advance, is_done, mine, old, rig};
use crate::store::{MergeRefused, Store};

/// Merges ever new copies while the generation grows up to `last`: gives for each that was taken what it was read under, and its
/// log sequence.
fn merge_on(store: &Store, thread: u64, last: u64, tries: &AtomicU64) -> Vec<(u64, u64)> {
    let mut taken = Vec::new();
    for n in 1.. {
        let under = store.generation(PARTITION);
        if under == last {
            break;
        }
        match store.merge(&mine(1_000_000 * thread + n), old(n), under) {
            Ok(sequence) => taken.push((under, sequence)),
            Err(MergeRefused::Full(_)) => {}
            Err(MergeRefused::StaleGeneration { generation, .. }) => assert!(generation > under),
        }
        tries.fetch_add(1, Ordering::Relaxed);
    }
    taken
}

/// Whoever merges while a step is taken is either before it, or finds out.
#[test]
fn nothing_older_slips_past_a_step() {
    const STEPS: u64 = 40;
    let rig = rig(14);
    let tries = AtomicU64::new(0);
    let mut ends = Vec::new();
    let taken: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let merging = (1..=3).map(|thread| {
            let (store, tries) = (rig.store(), &tries);
            scope.spawn(move || merge_on(store, thread, STEPS, tries))
        });
        let merging: Vec<_> = merging.collect();
        for to in 1..=STEPS {
            let before = tries.load(Ordering::Relaxed);
            while tries.load(Ordering::Relaxed) == before
                && !merging.iter().all(|thread| thread.is_finished())
            {
                std::thread::yield_now();
            }
            assert!(is_done(advance(&rig, to, &[])));
            ends.push(rig.store().stats().last_sequence);
        }
        let taken = merging.into_iter().flat_map(|thread| thread.join());
        taken.flatten().collect()
    });
    assert!(!taken.is_empty());
    for (under, sequence) in taken {
        assert!(sequence <= ends[under as usize], "under {under}");
    }
}
