//! sled alone: what was flushed survives a cut, which it owes to storage's `sync_file_range`.

use ringfort_storage::engine::EngineHome;
use ringfort_storage::engine::sled::SledHome;

use crate::chance::Chance;
use crate::disk::Disk;
use crate::image::Image;
use crate::recorder;

const CACHE_BYTES: u64 = 1 << 20;
const ROWS: u32 = 4_000;
const CUTS: u64 = 40;

#[test]
fn flushed_rows_survive_a_cut() {
    let _turn = crate::turn();
    let seed = crate::setting("POWER_CUT_SEED", 1);
    let scratch = crate::scratch();
    let root = scratch.path().join("whole");
    std::fs::create_dir(&root).expect("makes a directory");

    recorder::start(&root);
    let engine = SledHome::new(root.join("sled"), CACHE_BYTES)
        .open()
        .expect("opens");
    // Position of the trace → rows that a cut from there on must leave.
    let mut flushed = vec![(recorder::position(), 0)];
    for row in 0..ROWS {
        let value = row.to_be_bytes().repeat(1 + row as usize % 50);
        engine.insert(&row.to_be_bytes(), &value).expect("inserts");
        if row % 200 == 199 {
            engine.flush().expect("flushes");
            flushed.push((recorder::position(), row + 1));
        }
    }
    let trace = recorder::stop();
    let real = Image::read(&root);
    drop(engine);

    let mut chance = Chance::new(seed);
    let mut cuts: Vec<_> = (0..CUTS)
        .map(|_| flushed[0].0 + chance.below(trace.ops.len() + 1 - flushed[0].0))
        .collect();
    cuts.sort_unstable();
    let mut disk = Disk::new(&trace);
    let mut at = 0;
    for (number, cut) in cuts.into_iter().enumerate() {
        trace.ops[at..cut].iter().for_each(|op| disk.apply(op));
        at = cut;
        let rows = flushed.iter().rev().find(|(from, _)| *from <= cut);
        let rows = rows.expect("no earlier cut is made").1;

        let root = scratch.path().join(format!("cut-{number}"));
        disk.cut(&mut chance.fork()).write(&root);
        let engine = SledHome::new(root.join("sled"), CACHE_BYTES)
            .open()
            .unwrap_or_else(|error| panic!("seed {seed}, cut {number} at {cut}: {error}"));
        let found = engine.range(b"", None).map(|row| row.expect("reads"));
        let found = found
            .take_while(|(key, value)| value[..4] == key[..])
            .count();
        assert!(
            found >= rows as usize,
            "seed {seed}, cut {number} at {cut}: {found} of {rows} flushed rows"
        );
    }
    trace.ops[at..].iter().for_each(|op| disk.apply(op));
    assert_eq!(
        disk.seen().difference(&real),
        None,
        "something was not recorded"
    );
}
