//! The commit log: what an acknowledgement rests on.
//!
//! Invariants kept here:
//! - **I1 durable**: the published durable sequence covers a record only after its group was written and synced;
//! - **I2 nothing lost**: recovery hands out every record that was published as durable, in order, or names the range that
//!   is missing; it invents none, and records of recycled segments never come back;
//! - **I7 bounded**: the queue, the groups, the spares and the segments have named limits.
//!
//! # On disk
//!
//! A *segment* is a file of fixed length, zero-filled and synced before use, reused (never cut) once no longer needed.
//! Each use has a *generation*, one higher than any before; so a generation names one use of one file. Its first block is the
//! header: checksum, magic, format, log id, generation, first sequence. *Groups* follow, each starting at a block
//! boundary (512 bytes), so that writing one never touches a sector that holds another. A group has a header (checksum,
//! magic, generation, first sequence, count, length, log id, the payload's checksum) and its records, each after its
//! length. The checksums are xxh3 seeded by the store's random salt, so that no stored bytes can pass for a group. Records have consecutive sequences, from 1.
//!
//! Group n + 1 is written only after group n is synced, a segment's header only after the last group of the former
//! segment is. After 10 ms idle an empty group *seals* the last one. A start always opens a new segment.
//!
//! # What recovery promises
//!
//! 1. Every group that a later valid group or segment header proves durable is handed out; if it is damaged, everything else
//!    is handed out and the missing sequences are named ([`Damage`]).
//! 2. A bad group with nothing valid after it, or at or past a later segment's first sequence, was never
//!    acknowledged, as far as anyone can tell: it is cut ([`TornTail`]). So damage to the very last group passes for a
//!    torn tail until a seal or another group follows; a clean stop ends in a seal.
//! 3. With a single byte damaged anywhere, or a single block lost, all records but those of the group that holds it come
//!    back. Damage to a seal, or to a segment's header, costs no record.
//! 4. Groups of another generation than their segment's never count, so recycled segments replay nothing old.

pub mod driver;
mod format;
mod handle;
mod queue;
mod recover;
mod segments;
mod survey;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

use bincode::{Decode, Encode};

pub use handle::Log;
pub use recover::{Damage, RecoverError, RecoverFrom, Recovered, TornTail, Visit, recover};
pub use writer::{LogStep, LogWriter};

/// Directory of the segments.
pub const DIRECTORY: &str = "log";

/// A group is closed once its records reach this size; a single larger record is a group of its own.
pub const GROUP_BYTES_MAX: usize = 1 << 20;

/// Bytes waiting to be written past which [`Log::has_room`] says no.
pub const QUEUED_BYTES_MAX: usize = 64 << 20;

/// Largest record, in bytes.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

/// Segments past which [`Log::has_room`] says no: the drain does not keep up.
pub const SEGMENTS_MAX: usize = 256;

/// Spare segments kept for reuse; more are removed.
pub const SPARES_MAX: usize = 4;

/// Idle time after which the last group is sealed by an empty one.
pub const SEAL_AFTER: Duration = Duration::from_millis(10);

/// Settings of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// Length of a segment file, in bytes.
    pub segment_bytes: u64,
    /// The store's random salt, from its identity.
    pub salt: u64,
}

impl LogConfig {
    /// Segments of 32 MiB.
    pub fn new(salt: u64) -> Self {
        Self {
            segment_bytes: 32 << 20,
            salt,
        }
    }
}

/// Names one use of one segment file. The default stands for "from the very beginning".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct LogPosition {
    /// Generation of the segment; 0 is before all.
    pub generation: u64,
    /// Number of the segment file.
    pub segment: u32,
}

/// The log cannot go on: a write or sync failed, and nobody knows what is on disk. The process has to end; nothing past
/// the published durable sequence may be acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the commit log failed ({action} {file}): {reason}; restart the node, which recovers what is durable"
)]
pub struct LogFailed {
    /// What was tried.
    pub action: &'static str,
    /// On which file.
    pub file: String,
    /// The disk's words.
    pub reason: String,
}

impl LogFailed {
    pub(crate) fn new(action: &'static str, file: impl Into<String>, error: &io::Error) -> Self {
        Self {
            action,
            file: file.into(),
            reason: error.to_string(),
        }
    }
}

/// Name of a segment file.
pub(crate) fn segment_name(segment: u32) -> String {
    format!("{DIRECTORY}/{segment:08x}.seg")
}

/// The number of a segment file, from its name within the log directory.
pub(crate) fn segment_number(name: &str) -> Option<u32> {
    let digits = name
        .strip_suffix(".seg")
        .filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok()
}
