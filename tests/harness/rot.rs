//! Damages what lies on a node's disk and in its engine, behind its back.

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use ringfort_storage::disk::Disk;

use super::{cluster::SimNode, trace::Trace};

/// So close to the end of a row, in bytes, there is nothing but the last value, mostly.
const VALUE_BYTES: usize = 16;
/// Where much rots, one of so many rows does.
const ROTTEN_ROWS_ONE_IN: u32 = 3;
/// Rows that rot at once elsewhere, at most.
const ROTTEN_ROWS_MAX: usize = 24;

/// Flips a bit in a log segment or in a few rows of the engine.
pub fn flip(trace: &Trace, node: &SimNode, seed: u64) {
    let mut chance = StdRng::seed_from_u64(seed);
    let mask = 1 << chance.random_range(0..8);
    let rows = node.medium.engine.rows();
    if chance.random() && !rows.is_empty() {
        return flip_rows(trace, node, &rows, mask, &mut chance);
    }
    let disk = &node.medium.disk;
    let segments = disk.list("log").unwrap_or_default();
    if segments.is_empty() {
        return;
    }
    let name = format!("log/{}", segments[chance.random_range(0..segments.len())]);
    // The end of a segment is zeros that nobody reads.
    let written = disk.content(&name).map_or(0, |content| {
        content.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64
    });
    let at = chance.random_range(0..=written);
    trace.line(format_args!("flips a bit of {name} at {at}"));
    disk.flip(&name, at, mask);
}

/// Flips a bit in each of many rows of a node that runs: half of the time in a value, which alone cannot be known to be wrong.
pub fn rot(trace: &Trace, node: &SimNode, chance: &mut StdRng) {
    let mut rows = node.medium.engine.rows();
    // What is of no key, the store meets itself when it drains, and ends.
    rows.retain(|(key, value)| key.len() > 1 && !value.is_empty());
    for (key, value) in &rows {
        let last = [value.len(), value.len().min(VALUE_BYTES)][chance.random_range(0..2)];
        let at = value.len() - chance.random_range(1..=last);
        let mask = 1 << chance.random_range(0..8);
        if chance.random_range(0..ROTTEN_ROWS_ONE_IN) == 0 {
            flip_row(trace, node, key, value, at, mask);
        }
    }
}

fn flip_rows(
    trace: &Trace,
    node: &SimNode,
    rows: &[(Bytes, Bytes)],
    mask: u8,
    chance: &mut StdRng,
) {
    for _ in 0..chance.random_range(1..=ROTTEN_ROWS_MAX) {
        let (key, value) = &rows[chance.random_range(0..rows.len())];
        let at = match value.is_empty() {
            true => 0,
            false => chance.random_range(0..value.len()),
        };
        flip_row(trace, node, key, value, at, mask);
    }
}

fn flip_row(trace: &Trace, node: &SimNode, key: &Bytes, value: &Bytes, at: usize, mask: u8) {
    let mut value = value.to_vec();
    if let Some(byte) = value.get_mut(at) {
        *byte ^= mask;
    }
    trace.line(format_args!("flips a bit of row {key:?}"));
    node.medium.engine.poke(key, Some(&value));
}
