//! A scrub finds what is damaged, and nothing that is not.

use bytes::Bytes;

use super::damage::{filled, rot, scrub};
use super::rig::{Dice, Rig, key, small_config};
use crate::codec::rows::{self, RowKind};
use crate::store::{DrainStep, Read, StoreConfig};

/// Chunk rows in the engine.
fn chunks(rig: &Rig) -> Vec<Bytes> {
    let rows = rig.home.rows().into_iter().map(|(row, _)| row);
    let is_chunk = |row: &Bytes| matches!(rows::parse_key(row), Some((_, RowKind::Chunk { .. })));
    rows.filter(is_chunk).collect()
}

#[test]
fn it_reads_every_record_with_its_chunks() {
    let rig = filled(1);
    let whole = scrub(&rig);
    assert_eq!(
        (whole.records, whole.quarantined, whole.orphans),
        (160, 0, 0)
    );
    let bytes: usize = rig.home.rows().iter().map(|(k, v)| k.len() + v.len()).sum();
    assert_eq!(whole.bytes, bytes as u64);
    let (small, large, chunkless) = (key(5), key(7), key(27));
    rot(&rig, &small);
    rot(&rig, &large);
    let gone = chunks(&rig);
    let of = |row: &Bytes| rows::parse_key(row).expect("a row").0;
    let gone = gone.iter().find(|row| of(row) == chunkless);
    rig.home.poke(gone.expect("it has chunks"), None);
    let damaged = scrub(&rig);
    assert_eq!((damaged.records, damaged.quarantined), (157, 3));
    for key in [small, large, chunkless] {
        assert!(matches!(rig.store().read(&key), Read::Quarantined));
    }
    assert_eq!(scrub(&rig).quarantined, 0, "it is known by now");
}

#[test]
fn what_memory_has_is_written_down_anew() {
    let mut rig = filled(2);
    let (lost, actor) = (key(5), rig.store().actor());
    let before = rig.get(&lost);
    rot(&rig, &lost);
    let found = scrub(&rig);
    assert_eq!((found.quarantined, found.rewritten), (0, 1));
    assert_eq!((rig.get(&lost), rig.store().actor()), (before, actor));
    assert!(rig.store().unsynced().is_empty());
    // From the log, if the drain does not come to it.
    rig.sync_log();
    rig.crash(1, 0);
    rig.restart();
    assert_eq!(rig.report().damaged_records, 0);
    assert_eq!(rig.values(&lost), [vec![5; 100]]);
    rig.drain();
    rig.store().inner.table.evict_all();
    let found = scrub(&rig);
    assert_eq!((found.records, found.rewritten), (160, 0));
    assert_eq!(rig.values(&lost), [vec![5; 100]]);
}

#[test]
fn chunks_without_a_head_go() {
    let mut rig = filled(3);
    let before = chunks(&rig);
    for chunk in 0..3 {
        let row = rows::chunk_key(&key(7), 4_711, chunk);
        rig.home.poke(&row, Some(b"left behind"));
        let row = rows::chunk_key(&key(1_000), 4_711, chunk);
        rig.home.poke(&row, Some(b"left behind"));
    }
    assert_eq!(scrub(&rig).orphans, 6);
    assert_eq!(chunks(&rig).len(), before.len() + 6, "the drain does it");
    while rig.step_drain() != DrainStep::Idle {}
    assert_eq!(chunks(&rig), before);
    assert_eq!(scrub(&rig).quarantined, 0);
}

/// Large records are replaced, removed and written again underneath, and a page is read between any two steps.
#[test]
fn beside_a_drain_it_finds_no_damage_and_no_orphans_that_are_none() {
    for seed in 0..20 {
        let mut dice = Dice::new(seed);
        let config = StoreConfig {
            table_bytes: 1 << 20,
            segment_bytes: 1 << 20,
            ..small_config()
        };
        let mut rig = Rig::new(seed, config);
        let mut after: Option<Bytes> = None;
        for step in 0..600_u64 {
            match dice.below(8) {
                0 => {
                    let number = dice.below(12);
                    let size = dice.below(20_000) as usize;
                    let context = Some(rig.get(&key(number)).object().into());
                    rig.put(&key(number), &vec![step as u8; size], context);
                }
                1 => {
                    let number = dice.below(12);
                    rig.store().erase(&key(number)).expect("there is room");
                }
                2 => rig.sync_log(),
                3 => rig.store().inner.table.evict_all(),
                _ => {
                    rig.now_ms += 700;
                    rig.step_drain();
                }
            }
            let page = rig.store().scrub(after.as_deref(), dice.below(12_000));
            let page = page.expect("the engine is well");
            assert_eq!((page.quarantined, page.rewritten), (0, 0), "seed {seed}");
            after = page.next;
        }
        rig.drain();
        rig.store().inner.table.evict_all();
        assert_eq!(scrub(&rig).orphans, 0, "seed {seed}");
        let held: Vec<_> = (0..12).map(|number| rig.get(&key(number))).collect();
        rig.crash(seed, 0);
        rig.restart();
        assert_eq!(rig.report().newly_unsynced, Some(vec![]), "seed {seed}");
        let again: Vec<_> = (0..12).map(|number| rig.get(&key(number))).collect();
        assert_eq!(again, held, "seed {seed}");
    }
}
