//! The sorted store under the memory table. Keeps I1 together with the drain: what `flush` returned for is on
//! stable storage, and nothing that an engine gives back is trusted unverified (the rows carry their own checksums,
//! the checkpoint their roots).
//!
//! *Architecture invariant:* an engine knows rows of bytes only: no keys, records or partitions. It promises order and, after a
//! crash, a **prefix** of the changes made since the last flush; atomicity comes from the log. Only the drain
//! (and recovery, before there is a drain) changes it.

pub mod mem;
pub mod renew;
pub mod sled;
mod sync;

#[cfg(test)]
mod contract;

use std::io::ErrorKind;
use std::sync::Arc;

use bytes::Bytes;

/// Set-aside engine directories that are kept, the newest first; older ones are removed.
pub const SET_ASIDE_MAX: usize = 2;

/// One row of an engine: its key and its bytes.
pub type Row = (Bytes, Bytes);

/// Rows in ascending order of their keys.
pub type RowIter<'a> = Box<dyn Iterator<Item = Result<Row, EngineError>> + Send + 'a>;

/// Why an engine could not do what it was asked. After any of these the engine is not to be used again: sled's
/// write errors are sticky, and nobody knows what is on disk after a failed sync.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The engine returned an error.
    #[error("the storage engine failed at {operation}: {detail}")]
    Failed {
        /// What it was asked to do.
        operation: &'static str,
        /// Its own words.
        detail: String,
    },
    /// The engine panicked; the panic was caught.
    #[error("the storage engine panicked at {operation}: {detail}")]
    Panicked {
        /// What it was asked to do.
        operation: &'static str,
        /// The panic's message.
        detail: String,
    },
    /// The machine did not let it work: no space, no permission, no more files. That says nothing of what it holds: the process has
    /// to end, and the engine is to be opened again, and verified as at every start, when the machine lets it.
    #[error("the storage engine cannot work at {operation}: {detail}")]
    Unavailable {
        /// What it was asked to do.
        operation: &'static str,
        /// The machine's own words.
        detail: String,
    },
    /// Another handle has the engine's files. Nothing is wrong with them.
    #[error("the storage engine's files are in use: {0}")]
    InUse(String),
    /// A flush after a write did not reach `fdatasync`: nothing that this build flushes would be durable.
    #[error(
        "the storage engine's flush does not reach the disk in this build (sync_file_range is not replaced); refusing to run"
    )]
    FlushNotDurable,
}

impl EngineError {
    /// Whether it says nothing of what the engine holds, so that the engine is not to be set aside for it: an emptied engine is
    /// no better off on a full disk, and if all nodes' disks are full at once, nobody is left to fetch from.
    pub fn spares_the_engine(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::InUse(_))
    }
}

/// Kinds of errors that speak of the machine and not of what a file holds.
const OF_THE_MACHINE: [ErrorKind; 5] = [
    ErrorKind::StorageFull,
    ErrorKind::QuotaExceeded,
    ErrorKind::PermissionDenied,
    ErrorKind::ReadOnlyFilesystem,
    ErrorKind::OutOfMemory,
];

/// Whether an error is of the machine: by its kind, or by the number of those that std has no kind for.
fn is_of_the_machine(error: &std::io::Error) -> bool {
    let out_of_files = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
    out_of_files || OF_THE_MACHINE.contains(&error.kind())
}

/// The same of a panic's words: sled unwraps some errors.
pub fn tells_of_the_machine(words: &str) -> bool {
    let mut kinds = OF_THE_MACHINE.iter();
    kinds.any(|kind| words.contains(&format!("{kind:?}")))
}

/// A sorted map of byte rows with a durable `flush`. All calls block; they belong on the drain thread or the
/// engine pool.
pub trait Engine: Send + Sync {
    /// The row under `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Puts one row and returns the one that it replaced.
    fn insert(&self, key: &[u8], value: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Removes one row and returns it.
    fn remove(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The rows with `first ≤ key`, and `key < end` if there is an end, in order. Rows changed during the
    /// iteration may be seen old or new; rows that are not changed are seen.
    fn range(&self, first: &[u8], end: Option<&[u8]>) -> RowIter<'_>;

    /// Returns when everything inserted and removed before the call is on stable storage.
    fn flush(&self) -> Result<(), EngineError>;

    /// Bytes that the engine takes on its medium. That they cannot be told says nothing of the engine.
    fn disk_bytes(&self) -> std::io::Result<u64>;
}

/// The place where an engine lives: opens it, moves a broken one out of the way, and puts a fresh one in its place
/// (see [`renew`]). One of the engines in it is the *current* one: what the next [`open`](Self::open) gives.
pub trait EngineHome: Send + Sync {
    /// Opens the current engine, or makes an empty one. Removes whatever else a crash left, copies and superseded engines.
    fn open(&self) -> Result<Arc<dyn Engine>, EngineError>;

    /// Moves the current engine aside, so that the next [`open`](Self::open) makes an empty one. Keeps the newest
    /// [`SET_ASIDE_MAX`] of what was set aside.
    fn set_aside(&self) -> Result<(), EngineError>;

    /// Makes an empty engine beside the current one, the *copy*. One at a time, and none while a superseded one is there.
    fn begin_copy(&self) -> Result<Arc<dyn Engine>, EngineError>;

    /// Makes the copy the current engine, durably; to be called right after its flush. After an error the former one is
    /// still in use, and nobody knows which of the two is current for the next open before
    /// [`discard`](Self::discard) has returned.
    fn complete_copy(&self) -> Result<(), EngineError>;

    /// Removes all but the current engine: a copy that was not completed, or what a completed one has superseded. No
    /// engine on it is in use any more, though it may be open still, if it has failed.
    fn discard(&self) -> Result<(), EngineError>;
}

/// Runs `call`, and turns its panic into [`EngineError::Panicked`].
fn guard<T>(
    operation: &'static str,
    call: impl FnOnce() -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    // What the closure leaves half changed is never looked at again: an engine that panicked is not used further.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let detail = panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        match tells_of_the_machine(&detail) && !sync::has_failed() {
            true => Err(EngineError::Unavailable { operation, detail }),
            false => Err(EngineError::Panicked { operation, detail }),
        }
    })
}
