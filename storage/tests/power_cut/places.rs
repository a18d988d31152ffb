//! Where a trace is cut, and where a byte is flipped: as often in a file of one kind as in one of another, or the log would
//! get nearly all.

use std::collections::BTreeMap;

use crate::chance::Chance;
use crate::image::Image;
use crate::life::{self, Life};
use crate::recorder::{FileId, Op, Trace};

/// Positions by the kind of a file: `log`, `sled`, `checkpoint`, `identity`, `mark`.
pub type ByKind = BTreeMap<String, Vec<usize>>;

/// The kind of what makes a copy of sled the current one.
pub const MARK: &str = "mark";

fn kind(path: &str) -> String {
    if path.ends_with("/complete") {
        return MARK.to_owned();
    }
    let end = path.find(['/', '.']).unwrap_or(path.len());
    path[..end].to_owned()
}

/// The paths of all files that a trace knows; of one that was renamed, the first.
fn paths(trace: &Trace) -> BTreeMap<FileId, &str> {
    let base = trace
        .files
        .iter()
        .map(|(path, file)| (*file, path.as_str()));
    let created = trace.ops.iter().filter_map(|op| match op {
        Op::Create { file, path } => Some((*file, path.as_str())),
        _ => None,
    });
    base.chain(created).collect()
}

/// The positions before syncs of files, from one on: where the most is unsynced.
pub fn syncs(trace: &Trace, from: usize) -> ByKind {
    let paths = paths(trace);
    let mut syncs = ByKind::new();
    for (at, op) in trace.ops.iter().enumerate().skip(from) {
        if let Op::Sync { file } = op {
            syncs.entry(kind(paths[file])).or_default().push(at);
        }
    }
    syncs
}

/// The first position of each kind.
pub fn firsts(positions: &ByKind) -> ByKind {
    let first = |(kind, positions): (&String, &Vec<usize>)| (kind.clone(), positions[..1].to_vec());
    positions.iter().map(first).collect()
}

/// One position, of any kind.
pub fn pick(positions: &ByKind, chance: &mut Chance) -> usize {
    let of_kind = positions.values().nth(chance.below(positions.len()));
    let of_kind = of_kind.expect("below their number");
    of_kind[chance.below(of_kind.len())]
}

/// Flips one bit. Returns where, the file's name fit to be part of another.
pub fn flip(image: &mut Image, chance: &mut Chance) -> (String, usize) {
    let mut kinds: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, _) in image.files.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        kinds.entry(kind(path)).or_default().push(path.clone());
    }
    let of_kind = kinds.values().nth(chance.below(kinds.len()));
    let of_kind = of_kind.expect("below their number");
    let path = &of_kind[chance.below(of_kind.len())];
    let bytes = image.files.get_mut(path).expect("listed");
    let offset = chance.below(bytes.len());
    bytes[offset] ^= 1 << chance.below(8);
    (path.replace('/', "-"), offset)
}

/// Says what a life came to; one in which little happened shows nothing.
pub fn describe(name: &str, life: &Life) {
    let syncs: BTreeMap<String, usize> = syncs(&life.trace, 0)
        .into_iter()
        .map(|(kind, positions)| (kind, positions.len()))
        .collect();
    let bytes: usize = life.end.files.values().map(Vec::len).sum();
    let (ops, changes, drains) = (life.trace.ops.len(), life.changes, life.drains);
    let (hints, renewals) = (life.hints, life.renewals);
    println!(
        "{name}: {changes} changes, {hints} of hints, {drains} drains, {renewals} renewals, {ops} operations, syncs {syncs:?}, {bytes} bytes"
    );
    assert!(
        life::is_enough(changes, hints, drains),
        "{name}: little happened"
    );
    // All of sled's go through the `sync_file_range` of storage.
    let there = |kind: &&str| syncs.contains_key(*kind);
    assert!(
        ["log", "sled", "checkpoint"].iter().all(there),
        "{name}: syncs pass the recorder by"
    );
}
