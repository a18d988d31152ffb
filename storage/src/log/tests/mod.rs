//! Tests of the log on a simulated disk: steps, sweeps over damaged images, and a model over random crashes.

mod model;
mod recovery;
mod steps;
mod sweep;

use std::sync::Arc;

use super::format::BLOCK_BYTES;
use super::*;
use crate::disk::SimDisk;

/// What one recovery handed out.
type Records = Vec<(u64, Vec<u8>)>;

/// Settings with segments of this many blocks.
fn small(blocks: usize) -> LogConfig {
    LogConfig {
        segment_bytes: (blocks * BLOCK_BYTES) as u64,
        salt: 0x5a17,
    }
}

fn try_recover(
    disk: &SimDisk,
    config: &LogConfig,
    from: RecoverFrom,
) -> Result<(Recovered, Records), RecoverError> {
    let mut records = Records::new();
    let recovered = recover(disk, config, from, &mut |sequence, bytes| {
        records.push((sequence, bytes.to_vec()));
        Ok(())
    })?;
    Ok((recovered, records))
}

fn recover_all(disk: &SimDisk, config: &LogConfig) -> (Recovered, Records) {
    try_recover(disk, config, RecoverFrom::default()).expect("recoverable")
}

fn start(disk: &SimDisk, config: LogConfig, recovered: Recovered) -> (Log, LogWriter) {
    Log::start(Arc::new(disk.clone()), config, recovered).expect("the directory can be made")
}

/// A log recovered from whatever is on the disk, with its new segment open.
fn open(disk: &SimDisk, config: LogConfig) -> (Log, LogWriter, Records) {
    let (recovered, records) = recover_all(disk, &config);
    let (log, mut writer) = start(disk, config, recovered);
    run(&mut writer);
    (log, writer, records)
}

/// Steps until there is nothing more to do.
fn run(writer: &mut LogWriter) -> LogStep {
    let mut step = || writer.step().expect("no fault is planned");
    (0..100_000)
        .map(|_| step())
        .find(|step| *step != LogStep::Worked)
        .expect("work ends")
}

/// Appends a record, and writes it as a group of its own.
fn append(log: &Log, writer: &mut LogWriter, record: &[u8]) -> u64 {
    let sequence = log.append(|buffer| buffer.extend_from_slice(record));
    run(writer);
    sequence
}

fn seal(writer: &mut LogWriter) {
    writer.seal();
    run(writer);
}
