//! The disk as a part that is handed in, so that one seed replays one crash.
//!
//! Invariant (I1): nothing counts as stable before `sync_data` of its file returned `Ok`, and, for a new name,
//! `sync_dir` of its directory too. Code that forgets either works on [`RealDisk`] and fails on [`SimDisk`].
//!
//! Both traits are object safe and blocking. Names are relative to the disk's root, parts joined by `/`; the root
//! itself is the empty string. One contract test runs on both implementations.

use std::fmt;
use std::io;

mod real;
pub mod sim;

#[cfg(test)]
mod contract;

pub use real::RealDisk;
pub use sim::SimDisk;

/// One data directory.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Opens a file that exists. `NotFound` if it does not.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Makes a new, empty file. `AlreadyExists` if the name is taken, `NotFound` if its directory is missing.
    /// The name is durable only after [`Disk::sync_dir`].
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Makes a directory; one that exists already is fine. Durable only after `sync_dir` of its parent.
    fn create_dir(&self, name: &str) -> io::Result<()>;

    /// The names in a directory (files and directories, without the directory's own), sorted.
    fn list(&self, directory: &str) -> io::Result<Vec<String>>;

    /// Removes a file. Durable only after `sync_dir`.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Renames a file or a directory, replacing a file of that name at once. Both names must lie in one directory
    /// (`InvalidInput` otherwise). Durable, wholly or not at all, only after `sync_dir`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, directory: &str) -> io::Result<()>;

    /// Whether a file or directory of this name exists.
    fn exists(&self, name: &str) -> io::Result<bool>;

    /// Takes the exclusive lock named by a file, which is made if missing. Held until the guard is dropped.
    fn lock(&self, name: &str) -> Result<DirectoryLock, LockError>;

    /// Free and total space, in bytes.
    fn space(&self) -> io::Result<Space>;
}

/// One open file.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; 0 only at or past the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`, growing the file if need be. After an error any part may be written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes content and length durable. After an error nobody knows what is on disk, and trying again proves nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or extends (with zeros) the file.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Extends the file to `bytes` with zeros that are really written, so that later writes inside change no metadata.
    /// Never cuts.
    fn allocate_zeroed(&self, bytes: u64) -> io::Result<()>;
}

impl dyn DiskFile + '_ {
    /// Reads from `offset` until `buffer` is full or the file ends; says how many bytes came.
    pub fn read_full(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_at(offset + filled as u64, &mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }
}

/// Space on the file system under a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that an unprivileged process may still fill.
    pub free_bytes: u64,
    /// Size of the file system.
    pub total_bytes: u64,
}

/// Holds the exclusive lock of a directory until dropped.
pub struct DirectoryLock {
    _guard: Box<dyn Send + Sync>,
}

impl DirectoryLock {
    /// Wraps whatever holds the lock.
    pub(crate) fn new(guard: impl Send + Sync + 'static) -> Self {
        Self {
            _guard: Box::new(guard),
        }
    }
}

impl fmt::Debug for DirectoryLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirectoryLock")
    }
}

/// Why a directory could not be locked. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process (or another handle of this one) holds it.
    #[error("the data directory is in use by another process (lock file {0:?} is held)")]
    Held(String),
    /// The lock file could not be opened or locked.
    #[error("cannot lock the data directory: {0}")]
    Io(#[from] io::Error),
}

/// The directory part of a name; the root is "".
pub(crate) fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// Refuses names that could leave the root: absolute, or with an empty, `.` or `..` part. The root ("") is allowed.
pub(crate) fn check_name(name: &str) -> io::Result<()> {
    let bad = |part: &str| part.is_empty() || part == "." || part == ".." || part.contains('\\');
    if !name.is_empty() && name.split('/').any(bad) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("bad file name {name:?}"),
        ));
    }
    Ok(())
}

/// Refuses a rename across directories.
pub(crate) fn check_rename(from: &str, to: &str) -> io::Result<()> {
    check_name(from)?;
    check_name(to)?;
    if from.is_empty() || to.is_empty() || parent(from) != parent(to) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("cannot rename {from:?} to {to:?}"),
        ));
    }
    Ok(())
}
