//! What a power cut leaves of recorded files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::dice::Dice;
use super::recorder::{Event, FileId};

/// Relative paths with their contents.
pub type Image = Vec<(PathBuf, Vec<u8>)>;

/// A change of a file that no sync has covered yet, with the number of its event.
enum Change {
    Write {
        at: usize,
        offset: u64,
        bytes: Vec<u8>,
    },
    Length {
        at: usize,
        bytes: u64,
    },
}

impl Change {
    fn at(&self) -> usize {
        match self {
            Change::Write { at, .. } | Change::Length { at, .. } => *at,
        }
    }
}

#[derive(Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

/// Files as far as events have been replayed.
#[derive(Default)]
pub struct Replay {
    files: BTreeMap<FileId, File>,
    /// The file of each name, and the event since which it is there without a sync of its directory.
    names: BTreeMap<PathBuf, (FileId, Option<usize>)>,
}

impl Replay {
    /// Starts from files that are all durable.
    pub fn new(base: &Image) -> Self {
        let mut replay = Self::default();
        for (file, (path, bytes)) in (0..).zip(base) {
            replay.files.insert(
                file,
                File {
                    durable: bytes.clone(),
                    pending: Vec::new(),
                },
            );
            replay.names.insert(path.clone(), (file, None));
        }
        replay
    }

    /// Replays the event number `at`.
    pub fn apply(&mut self, at: usize, event: &Event) {
        match event {
            Event::Named { path, file } => {
                if !self.files.contains_key(file) {
                    self.files.insert(*file, File::default());
                    self.names.insert(path.clone(), (*file, Some(at)));
                }
            }
            Event::Removed { path } => {
                if let Some((file, _)) = self.names.remove(path) {
                    self.files.remove(&file);
                }
            }
            Event::Write {
                file,
                offset,
                bytes,
            } => {
                self.pend(
                    *file,
                    Change::Write {
                        at,
                        offset: *offset,
                        bytes: bytes.clone(),
                    },
                );
            }
            Event::Length { file, bytes } => self.pend(*file, Change::Length { at, bytes: *bytes }),
            Event::Synced { file, begun } => {
                if let Some(file) = self.files.get_mut(file) {
                    let covered = file.pending.partition_point(|change| change.at() < *begun);
                    for change in file.pending.drain(..covered).collect::<Vec<_>>() {
                        change.apply_blocks(&mut file.durable, usize::MAX, || true);
                    }
                }
            }
            Event::SyncedDirectory { path, begun } => {
                for (name, (_, pending)) in &mut self.names {
                    if name.parent() == Some(path) && pending.is_some_and(|since| since < *begun) {
                        *pending = None;
                    }
                }
            }
            Event::Issued { .. } | Event::Acknowledged { .. } => {}
        }
    }

    fn pend(&mut self, file: FileId, change: Change) {
        if let Some(file) = self.files.get_mut(&file) {
            file.pending.push(change);
        }
    }

    /// Cuts the power now: each unsynced block, length and name is kept in `kept_percent` of cases.
    pub fn cut(&self, dice: &mut Dice, kept_percent: u64) -> Image {
        let block_bytes = if dice.below(2) == 0 { 512 } else { 4096 };
        let mut image = Image::new();
        for (path, (file, pending)) in &self.names {
            if pending.is_some() && dice.below(100) >= kept_percent {
                continue;
            }
            let file = &self.files[file];
            let mut bytes = file.durable.clone();
            for change in &file.pending {
                change.apply_blocks(&mut bytes, block_bytes, || dice.below(100) < kept_percent);
            }
            image.push((path.clone(), bytes));
        }
        image
    }
}

impl Change {
    /// Applies what of a change `keep` keeps, block by block; blocks are aligned in the file.
    fn apply_blocks(&self, file: &mut Vec<u8>, block_bytes: usize, mut keep: impl FnMut() -> bool) {
        match self {
            Change::Length { bytes, .. } => {
                if keep() {
                    file.resize(*bytes as usize, 0);
                }
            }
            Change::Write { offset, bytes, .. } => {
                let (mut from, end) = (*offset as usize, *offset as usize + bytes.len());
                while from < end {
                    let to = (from / block_bytes)
                        .saturating_add(1)
                        .saturating_mul(block_bytes)
                        .min(end);
                    if keep() {
                        if file.len() < to {
                            file.resize(to, 0);
                        }
                        let start = from - *offset as usize;
                        file[from..to].copy_from_slice(&bytes[start..start + (to - from)]);
                    }
                    from = to;
                }
            }
        }
    }
}

/// Writes an image into an empty directory.
pub fn write(image: &Image, directory: &Path) {
    for (path, bytes) in image {
        let path = directory.join(path);
        std::fs::create_dir_all(path.parent().expect("below the directory")).expect("is made");
        std::fs::write(path, bytes).expect("is written");
    }
}
