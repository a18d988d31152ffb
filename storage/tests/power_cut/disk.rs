//! A disk as a trace leaves it: what the process saw, what is certain to be durable, and what lies between. A power cut
//! keeps everything synced; of what is not,
//!
//! - each block (of 512 bytes, or of 4 KiB) is as it was at the last sync or as after any later write into it;
//! - a length is the synced one, any since, or one between; bytes that never arrived read as zeros;
//! - the names in a directory are those at its last sync with any number of the later changes, in their order.
//!
//! The last is weaker than what file systems do (a synced new file keeps its name on ext4 and XFS), so it is on the safe side.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::chance::Chance;
use crate::recorder::{FileId, Op, Trace};

/// The content of a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// By path relative to the root, parts joined by `/`.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Without the root itself.
    pub directories: BTreeSet<String>,
}

impl Image {
    /// Reads a directory.
    pub fn read(root: &Path) -> Self {
        let mut image = Self::default();
        image.read_into(root, "");
        image
    }

    fn read_into(&mut self, root: &Path, directory: &str) {
        for entry in std::fs::read_dir(root.join(directory)).expect("lists") {
            let entry = entry.expect("an entry");
            let name = entry
                .file_name()
                .into_string()
                .expect("our names are UTF-8");
            let path = match directory {
                "" => name,
                directory => format!("{directory}/{name}"),
            };
            if entry.file_type().expect("a type").is_dir() {
                self.read_into(root, &path);
                self.directories.insert(path);
            } else {
                let bytes = std::fs::read(entry.path()).expect("reads");
                self.files.insert(path, bytes);
            }
        }
    }

    /// Makes the directory, which must not exist.
    pub fn write(&self, root: &Path) {
        std::fs::create_dir_all(root).expect("makes the root");
        for directory in &self.directories {
            std::fs::create_dir(root.join(directory)).expect("makes a directory");
        }
        for (path, bytes) in &self.files {
            std::fs::write(root.join(path), bytes).expect("writes");
        }
    }

    /// Where the two first differ, in words.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self.directories != other.directories {
            let (ours, theirs) = (&self.directories, &other.directories);
            return Some(format!("directories {ours:?}, not {theirs:?}"));
        }
        let names = self.files.keys().chain(other.files.keys());
        for name in names {
            match (self.files.get(name), other.files.get(name)) {
                (Some(ours), Some(theirs)) if ours == theirs => {}
                (Some(ours), Some(theirs)) => {
                    let at = ours.iter().zip(theirs).position(|(a, b)| a != b);
                    let (ours, theirs) = (ours.len(), theirs.len());
                    return Some(format!("{name} at {at:?} ({ours} and {theirs} bytes)"));
                }
                (ours, _) => return Some(format!("{name} is there only {}", ours.is_some())),
            }
        }
        None
    }
}

#[derive(Debug, Clone)]
enum Pending {
    Write { offset: usize, bytes: Arc<[u8]> },
    Resize(usize),
}

#[derive(Debug, Clone, Default)]
struct File {
    synced: Vec<u8>,
    /// Since then, in order.
    pending: Vec<Pending>,
}

#[derive(Debug, Clone)]
enum NameChange {
    File(String, FileId),
    Directory(String),
    Rename(String, String),
    Remove(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    files: BTreeMap<String, FileId>,
    directories: BTreeSet<String>,
}

/// A disk at one position of a trace.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    files: BTreeMap<FileId, File>,
    synced: Names,
    /// Changes since, in order.
    pending: Vec<NameChange>,
}

/// How much of the unsynced survives a cut.
#[derive(Debug, Clone, Copy)]
enum Kept {
    Nothing,
    Everything,
    /// Each with this chance, in percent.
    Some(usize),
}

impl Disk {
    /// The disk before the first operation of a trace: everything in the base is durable.
    pub fn new(trace: &Trace) -> Self {
        let files = trace.files.iter().map(|(path, file)| {
            let synced = trace.base.files[path].clone();
            let pending = Vec::new();
            (*file, File { synced, pending })
        });
        Self {
            files: files.collect(),
            synced: Names {
                files: trace.files.clone(),
                directories: trace.base.directories.clone(),
            },
            pending: Vec::new(),
        }
    }

    /// Goes on by one operation.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Create { file, path } => {
                self.files.insert(*file, File::default());
                self.pending.push(NameChange::File(path.clone(), *file));
            }
            Op::MakeDirectory { path } => self.pending.push(NameChange::Directory(path.clone())),
            Op::Rename { from, to } => {
                assert_eq!(parent(from), parent(to), "renames stay in their directory");
                let change = NameChange::Rename(from.clone(), to.clone());
                self.pending.push(change);
            }
            Op::Remove { path } => self.pending.push(NameChange::Remove(path.clone())),
            Op::SyncDirectory { path } => {
                let (done, rest) = std::mem::take(&mut self.pending)
                    .into_iter()
                    .partition(|change| change.directory() == path);
                self.pending = rest;
                let done: Vec<_> = done;
                done.iter().for_each(|change| self.synced.apply(change));
            }
            Op::Write {
                file,
                offset,
                bytes,
            } => self.file(*file).pending.push(Pending::Write {
                offset: *offset as usize,
                bytes: Arc::clone(bytes),
            }),
            Op::Resize { file, length } => {
                let length = *length as usize;
                self.file(*file).pending.push(Pending::Resize(length));
            }
            Op::Sync { file } => {
                let file = self.file(*file);
                for change in std::mem::take(&mut file.pending) {
                    change.apply(&mut file.synced);
                }
            }
        }
    }

    fn file(&mut self, file: FileId) -> &mut File {
        self.files.get_mut(&file).expect("files are made first")
    }

    /// What the process sees.
    pub fn seen(&self) -> Image {
        self.image(&mut Chance::new(0), Kept::Everything)
    }

    /// What a power cut at this position leaves, by chance.
    pub fn cut(&self, chance: &mut Chance) -> Image {
        let kept = match chance.below(6) {
            0 => Kept::Nothing,
            1 => Kept::Everything,
            2 => Kept::Some(10),
            3 => Kept::Some(90),
            _ => Kept::Some(50),
        };
        self.image(chance, kept)
    }

    fn image(&self, chance: &mut Chance, kept: Kept) -> Image {
        let names = self.names(chance, kept);
        let block = [512, 4096][chance.below(2)];
        let mut image = Image::default();
        let there = |path: &str| {
            let parent = parent(path);
            parent.is_empty() || names.directories.contains(parent)
        };
        let directories = names.directories.iter().filter(|path| there(path));
        image.directories = directories.cloned().collect();
        for (path, file) in names.files.iter().filter(|(path, _)| there(path)) {
            let bytes = self.files[file].image(block, chance, kept);
            image.files.insert(path.clone(), bytes);
        }
        image
    }

    fn names(&self, chance: &mut Chance, kept: Kept) -> Names {
        let directories: BTreeSet<&str> = self.pending.iter().map(|c| c.directory()).collect();
        let mut names = self.synced.clone();
        for directory in directories {
            let changes = || self.pending.iter().filter(|c| c.directory() == directory);
            let count = kept.prefix(changes().count(), chance);
            changes().take(count).for_each(|change| names.apply(change));
        }
        names
    }
}

impl Kept {
    /// How many of `count` changes in a row arrived.
    fn prefix(self, count: usize, chance: &mut Chance) -> usize {
        match self {
            Kept::Nothing => 0,
            Kept::Everything => count,
            Kept::Some(percent) if chance.percent(percent) => 1 + chance.below(count),
            Kept::Some(_) => 0,
        }
    }
}

impl File {
    fn image(&self, block: usize, chance: &mut Chance, kept: Kept) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        if self.pending.is_empty() {
            return bytes;
        }
        let lengths = self.lengths();
        let longest = *lengths.iter().max().expect("one at least");
        let length = match kept.prefix(lengths.len() - 1, chance) {
            0 => lengths[0],
            now if matches!(kept, Kept::Some(_)) && chance.percent(30) => {
                let (low, high) = (lengths[0].min(lengths[now]), lengths[0].max(lengths[now]));
                low + chance.below(high - low + 1)
            }
            now => lengths[now],
        };
        bytes.resize(longest, 0);
        for (number, changes) in self.by_block(block, longest) {
            let start = number * block;
            let end = (start + block).min(longest);
            let count = kept.prefix(changes.len(), chance);
            for change in changes.into_iter().take(count) {
                self.pending[change].apply_within(&mut bytes[start..end], start);
            }
        }
        bytes.truncate(length);
        bytes
    }

    /// The length at the last sync and after each change since.
    fn lengths(&self) -> Vec<usize> {
        let mut lengths = vec![self.synced.len()];
        let mut now = self.synced.len();
        for change in &self.pending {
            now = match change {
                Pending::Write { offset, bytes } => now.max(offset + bytes.len()),
                Pending::Resize(length) => *length,
            };
            lengths.push(now);
        }
        lengths
    }

    /// The indices of the changes of each block, in order.
    fn by_block(&self, block: usize, longest: usize) -> BTreeMap<usize, Vec<usize>> {
        let mut blocks: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, change) in self.pending.iter().enumerate() {
            let (start, end) = match change {
                Pending::Write { offset, bytes } => (*offset, offset + bytes.len()),
                Pending::Resize(length) => (*length, longest),
            };
            for number in start / block..end.div_ceil(block) {
                blocks.entry(number).or_default().push(index);
            }
        }
        blocks
    }
}

impl Pending {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Pending::Write { offset, bytes: new } => {
                let end = offset + new.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(new);
            }
            Pending::Resize(length) => bytes.resize(*length, 0),
        }
    }

    /// Applies the part that lies within one block, which starts at `start`.
    fn apply_within(&self, block: &mut [u8], start: usize) {
        let end = start + block.len();
        match self {
            Pending::Write { offset, bytes } => {
                let (from, to) = (start.max(*offset), end.min(offset + bytes.len()));
                if from < to {
                    block[from - start..to - start]
                        .copy_from_slice(&bytes[from - offset..to - offset]);
                }
            }
            Pending::Resize(length) => {
                if *length < end {
                    block[length.saturating_sub(start)..].fill(0);
                }
            }
        }
    }
}

impl NameChange {
    fn directory(&self) -> &str {
        match self {
            NameChange::File(path, _)
            | NameChange::Directory(path)
            | NameChange::Rename(path, _)
            | NameChange::Remove(path) => parent(path),
        }
    }
}

impl Names {
    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::File(path, file) => {
                self.files.insert(path.clone(), *file);
            }
            NameChange::Directory(path) => {
                self.directories.insert(path.clone());
            }
            NameChange::Rename(from, to) => {
                let file = self.files.remove(from).expect("only files are renamed");
                self.files.insert(to.clone(), file);
            }
            NameChange::Remove(path) => {
                self.files.remove(path);
            }
        }
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}
