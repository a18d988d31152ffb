//! The bytes of everything that storage keeps: records, rows, log entries. The only place that knows bincode.
//!
//! Invariant: what is decoded is what was encoded, or it is refused: checksums are verified before any length
//! inside is believed, nothing may trail, and a format from the future is an error of its own.
//!
//! bincode is unmaintained; it is used for plain integers and lists only, and everything that it reads is
//! checksummed first. Its traits are implemented by hand in `head`, so that this module is the whole way out.

mod entry;
mod head;
mod hint;
mod record;
pub mod rows;

#[cfg(test)]
pub(crate) mod tests;

pub use entry::{
    LogEntry, encode_erase, encode_hint, encode_hint_gone, encode_intent, encode_object,
    encode_start, encode_whole,
};
pub(crate) use head::encode_head;
pub use hint::{HintRow, decode_hint_row, encode_hint_row};
pub(crate) use record::decode_as_it_is;
pub use record::{decode_record, encode_record, verify_leaf};

/// The newest format of records that this build reads, and the one that it writes.
pub const FORMAT: u8 = 1;

/// The most memory that the lists of one head may take when decoded: a named end for what is read from disk.
/// Limits on objects (a few MiB) are judged by the coordinator, long before this one.
pub const HEAD_BYTES_MAX: usize = 64 << 20;

/// Why bytes were refused. Nothing was decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Written by a newer release: not damage. Run that release, or a later one.
    #[error("written in format {0}, this release reads up to {FORMAT}")]
    NewerFormat(u8),
    /// The bytes end too early or too late, or a length inside does not fit.
    #[error("the lengths do not fit the bytes")]
    Length,
    /// The head is not that of the leaf, or not of this key.
    #[error("the head fails its checksum")]
    Head,
    /// The list of applied requests fails its checksum.
    #[error("the list of applied requests fails its checksum")]
    Applied,
    /// The bytes of a value are not those of its hash.
    #[error("a value fails its checksum")]
    Value,
    /// The checksums hold and the content does not: written by a broken build.
    #[error("the content is not that of an object")]
    Content,
    /// A log entry of no known kind.
    #[error("a log entry of unknown kind {0}")]
    Kind(u8),
    /// A log entry or a row whose key is not well formed.
    #[error("the key is not well formed")]
    Key,
}
