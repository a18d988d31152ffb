//! A disk as a trace leaves it: what the process saw, what is certain to be durable, and what lies between. A power cut
//! keeps everything synced; of what is not,
//!
//! - each block (of 512 bytes, or of 4 KiB) is as it was at the last sync or as after any later write into it;
//! - a length is the synced one, any since, or one between; bytes that never arrived read as zeros;
//! - the names in a directory are those at its last sync with any number of the later changes, in their order.
//!
//! The last is weaker than what file systems do (a synced new file keeps its name on ext4 and XFS), so it is on the safe side.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::chance::Chance;
use crate::file::{File, Kept, Pending};
use crate::image::Image;
use crate::recorder::{FileId, Op, Trace};

#[derive(Debug, Clone)]
enum NameChange {
    File(String, FileId),
    Directory(String),
    Rename(String, String),
    Remove(String),
    RemoveDirectory(String),
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

    /// This disk before the first operation of a trace that begins with what the process saw: the process was killed, and
    /// what was not synced still is not.
    pub fn go_on(self, trace: &Trace) -> Self {
        let seen = self.names(&mut Chance::new(0), Kept::Everything);
        let mut now: BTreeMap<FileId, FileId> = BTreeMap::new();
        for (path, file) in &seen.files {
            now.insert(*file, trace.files[path]);
        }
        // Files that no name leads to any more, and that a cut may bring back.
        let mut free = FileId::MAX;
        for file in self.files.keys() {
            now.entry(*file).or_insert_with(|| {
                free -= 1;
                free
            });
        }
        let renumber = |(path, file): (String, FileId)| (path, now[&file]);
        Self {
            files: self
                .files
                .into_iter()
                .map(|(file, content)| (now[&file], content))
                .collect(),
            synced: Names {
                files: self.synced.files.into_iter().map(renumber).collect(),
                directories: self.synced.directories,
            },
            pending: self
                .pending
                .into_iter()
                .map(|change| match change {
                    NameChange::File(path, file) => NameChange::File(path, now[&file]),
                    change => change,
                })
                .collect(),
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
            Op::RemoveDirectory { path } => {
                let change = NameChange::RemoveDirectory(path.clone());
                self.pending.push(change);
            }
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

impl NameChange {
    fn directory(&self) -> &str {
        match self {
            NameChange::File(path, _)
            | NameChange::Directory(path)
            | NameChange::Rename(path, _)
            | NameChange::Remove(path)
            | NameChange::RemoveDirectory(path) => parent(path),
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
            NameChange::RemoveDirectory(path) => {
                self.directories.remove(path);
            }
        }
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}
