//! Random lives of a log against a model: append, step, seal, release, tend, crash or kill, recover, go on.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::disk::sim::Fault;

/// What must and what may come back.
#[derive(Default)]
struct Model {
    /// Every record appended since the last recovery, and all that recoveries handed out, by sequence.
    appended: BTreeMap<u64, Vec<u8>>,
    /// The highest sequence ever published as durable.
    durable: u64,
    /// What a durable checkpoint says.
    from: RecoverFrom,
    stamp: u64,
}

impl Model {
    /// Checks a recovery, and takes over what it found: what it handed out is the log from now on.
    fn check(&mut self, seed: u64, recovered: &Recovered, records: Records) {
        assert_eq!(recovered.damage, [], "seed {seed}: no crash makes damage");
        let expected = self.from.applied + 1..;
        for ((sequence, record), expected) in records.iter().zip(expected) {
            assert_eq!(*sequence, expected, "seed {seed}: in order, without a gap");
            assert_eq!(
                self.appended.get(sequence),
                Some(record),
                "seed {seed}: nothing invented"
            );
        }
        let last = records
            .last()
            .map_or(self.from.applied, |(sequence, _)| *sequence);
        assert!(
            last >= self.durable,
            "seed {seed}: {} was durable, {last} came back",
            self.durable
        );
        assert_eq!(recovered.last_sequence, last, "seed {seed}");
        assert_eq!(recovered.records, records.len() as u64);
        self.appended = records.into_iter().collect();
    }

    fn record(&mut self, rng: &mut StdRng) -> Vec<u8> {
        self.stamp += 1;
        let length = match rng.random_range(0..20) {
            0 => rng.random_range(0..3_000),
            1 => 0,
            _ => rng.random_range(0..120),
        };
        let mut record = vec![rng.random(); length];
        record.extend_from_slice(&self.stamp.to_le_bytes());
        record
    }
}

/// One life between two recoveries. Returns false if the disk failed the log.
fn live(rng: &mut StdRng, model: &mut Model, log: &Log, writer: &mut LogWriter) -> bool {
    for _ in 0..rng.random_range(0..80) {
        match rng.random_range(0..100) {
            0..25 => {
                let record = model.record(rng);
                let sequence = log.append(|buffer| buffer.extend_from_slice(&record));
                model.appended.insert(sequence, record);
            }
            25..85 => {
                let stepped = writer.step();
                model.durable = model.durable.max(log.durable_now());
                if stepped.is_err() {
                    return false;
                }
            }
            85..92 => writer.seal(),
            92..95 => {
                // A checkpoint, taken as durable at once.
                let durable = log.durable_now();
                if model.from.applied <= durable {
                    let applied = rng.random_range(model.from.applied..=durable);
                    model.from = RecoverFrom {
                        position: log.first_live(applied),
                        applied,
                    };
                }
            }
            // Segments may be released at any time after it.
            95..97 => log.release(model.from.position),
            _ => {
                // A disk that fails or is full says so; the writer goes on without.
                log.tend_spares().ok();
            }
        }
    }
    true
}

fn lives(seed: u64) -> (usize, u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let disk = SimDisk::new(seed);
    let config = small(rng.random_range(3..12));
    let mut model = Model::default();
    let (mut failures, mut handed_out) = (0, 0);
    for _ in 0..rng.random_range(2..8) {
        let (recovered, records) =
            try_recover(&disk, &config, model.from).expect("no crash makes an error");
        handed_out += records.len() as u64;
        model.check(seed, &recovered, records);
        // Read again: recovery changes nothing.
        let (again, records) =
            try_recover(&disk, &config, model.from).expect("no crash makes an error");
        model.check(seed, &again, records);
        let (log, mut writer) = start(&disk, config, recovered);
        assert!(
            log.durable_now() >= model.from.applied,
            "seed {seed}: the checkpoint is durable"
        );
        match rng.random_range(0..6) {
            0 => disk.inject(rng.random_range(0..30), Fault::SyncFails),
            1 => disk.inject(rng.random_range(0..30), Fault::WriteTorn),
            _ => {}
        }
        let used = disk.space().expect("told").total_bytes;
        let full = rng.random_range(0..8) == 0;
        if full {
            disk.set_capacity(config.segment_bytes * rng.random_range(1..6));
        }
        failures += usize::from(!live(&mut rng, &mut model, &log, &mut writer));
        if full {
            disk.set_capacity(used);
        }
        if rng.random_range(0..4) == 0 {
            disk.kill();
        } else {
            disk.crash(rng.random());
        }
    }
    (failures, handed_out)
}

use crate::disk::Disk;

#[test]
fn every_durable_record_survives_thousands_of_crashes() {
    let (mut failures, mut handed_out) = (0, 0);
    for seed in 0..3_000 {
        let (failed, handed) = lives(seed);
        failures += failed;
        handed_out += handed;
    }
    // The lives were not empty ones.
    assert!(failures > 500, "{failures} failures of the disk");
    assert!(handed_out > 30_000, "{handed_out} records");
}

#[test]
fn one_seed_replays_one_life() {
    let image = |seed| {
        let disk = SimDisk::new(seed);
        let (log, mut writer, _) = open(&disk, small(4));
        for record in 0..20u8 {
            log.append(|buffer| buffer.extend_from_slice(&[record; 99]));
            writer.step().unwrap();
        }
        disk.crash(seed);
        (1..10)
            .map(|segment| disk.content(&segment_name(segment)))
            .collect::<Vec<_>>()
    };
    assert_eq!(image(7), image(7));
}
