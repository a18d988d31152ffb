//! Which of several directories beside each other holds the current database: `sled`, or the copy that was completed last
//! (`sled.copy-1`, `sled.copy-2`, …). sled writes snapshots and blobs by path, so a directory in use cannot be renamed, and the
//! switch to a copy is a mark in it.
//!
//! *Invariant:* the current database is the newest *complete* one: with the highest number of those that bear the mark, and the
//! one without a number if none does. A mark is made when the copy is durable, and is durable itself before the former
//! database is changed no more and removed. A directory goes only after its mark has durably gone.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The mark of a copy that is complete.
const COMPLETE: &str = "complete";

/// Comes between the name of the first directory and the number of a copy.
const COPY: &str = ".copy-";

/// The directories of one database, by number; 0 is the first, without one.
#[derive(Debug, Clone)]
pub(super) struct Generations {
    first: PathBuf,
}

impl Generations {
    /// With `first` as the one without a number.
    pub(super) fn new(first: PathBuf) -> Self {
        Self { first }
    }

    /// The directory of a generation, whether it is there or not.
    pub(super) fn path(&self, number: u64) -> PathBuf {
        if number == 0 {
            return self.first.clone();
        }
        let mut name = self.first.as_os_str().to_owned();
        name.push(format!("{COPY}{number}"));
        PathBuf::from(name)
    }

    /// The newest complete one; 0, too, if nothing is there.
    pub(super) fn newest(&self) -> io::Result<u64> {
        let mut newest = 0;
        for number in self.found()? {
            if has_mark(&self.path(number))? {
                newest = newest.max(number);
            }
        }
        Ok(newest)
    }

    /// Marks a copy as complete, durably.
    pub(super) fn complete(&self, number: u64) -> io::Result<()> {
        let directory = self.path(number);
        File::create_new(directory.join(COMPLETE))?.sync_all()?;
        sync_directory(&directory)?;
        sync_parent(&directory)
    }

    /// Removes all but one, durably.
    pub(super) fn keep(&self, number: u64) -> io::Result<()> {
        for other in self.found()? {
            if other != number {
                remove(&self.path(other))?;
            }
        }
        Ok(())
    }

    /// The numbers of those that are there.
    fn found(&self) -> io::Result<Vec<u64>> {
        let mut found = Vec::new();
        let entries = match fs::read_dir(parent(&self.first)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
            entries => entries?,
        };
        let first = self.first.file_name().unwrap_or_default();
        for entry in entries {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                continue;
            }
            let name = entry.file_name();
            let rest = name
                .as_encoded_bytes()
                .strip_prefix(first.as_encoded_bytes());
            match rest.and_then(|rest| std::str::from_utf8(rest).ok()) {
                Some("") => found.push(0),
                Some(rest) => {
                    let number = rest.strip_prefix(COPY).and_then(|n| n.parse::<u64>().ok());
                    // Nothing else that is called alike: `sled.copy-01` is not ours.
                    found.extend(number.filter(|n| *n > 0 && rest == format!("{COPY}{n}")));
                }
                None => {}
            }
        }
        Ok(found)
    }
}

/// Whether a directory bears the mark. Whatever else is called so is no mark of ours.
fn has_mark(directory: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(directory.join(COMPLETE)) {
        Ok(mark) => Ok(mark.is_file()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a directory with all that is in it, its mark first.
fn remove(directory: &Path) -> io::Result<()> {
    if has_mark(directory)? {
        fs::remove_file(directory.join(COMPLETE))?;
        sync_directory(directory)?;
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            // One that failed is not closed, and would keep its space.
            File::options().write(true).open(entry.path())?.set_len(0)?;
        }
    }
    fs::remove_dir_all(directory)?;
    sync_parent(directory)
}

fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Makes a created or renamed directory entry durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    sync_directory(parent(path))
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
