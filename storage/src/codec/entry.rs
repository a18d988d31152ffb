//! What the commit log holds: one entry per change.
//!
//! Shape: `kind 1 ‖ …`; objects (merged, or whole) and erasures go on with `token 8 LE ‖ length of framed key 2 LE ‖ framed key`, an
//! object with its record to the end of the entry; hints likewise, but for `generation 8 LE ‖ taken at 8 LE` before the record of
//! one that is taken; an intent with `sequence 8 LE ‖ (root 8 LE ‖ count 4 LE)*`, first of hints; a start is its kind alone. The length and checksum of an entry are the log's.

use bytes::Bytes;

use super::{CodecError, decode_record, encode_record};
use crate::key::Key;
use crate::record::Record;

const KIND_OBJECT: u8 = 1;
const KIND_ERASE: u8 = 2;
const KIND_INTENT: u8 = 3;
const KIND_START: u8 = 4;
const KIND_HINT: u8 = 5;
const KIND_HINT_GONE: u8 = 6;
const KIND_WHOLE: u8 = 11;
const ROOT_BYTES: usize = 12;

/// One entry of the log, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEntry {
    /// The object of `key` is now this one, whole.
    Object {
        /// Its key.
        key: Key,
        /// The whole object.
        record: Record,
    },
    /// The object of `key` is now this one, whatever is under it: that was damaged, and this was earned without it.
    Whole {
        /// Its key.
        key: Key,
        /// The whole object.
        record: Record,
    },
    /// Nothing is stored for `key` any more.
    Erase {
        /// Its key.
        key: Key,
    },
    /// A drain is about to bring sled to `sequence`.
    Intent {
        /// Everything up to it will be in sled.
        sequence: u64,
        /// Sum and count of all hints at `sequence`.
        hints: (u64, u32),
        /// Root and count of every partition at `sequence`, by partition.
        partitions: Vec<(u64, u32)>,
    },
    /// The store began to be served. It changes nothing but the sequence.
    Start,
    /// The hint of `key` is now this one, whole.
    Hint {
        /// Its key.
        key: Key,
        /// The whole object.
        record: Record,
        /// The reap generation that it was taken under.
        generation: u64,
        /// When it was taken, in ms since the Unix epoch.
        taken_ms: u64,
    },
    /// There is no hint of `key` any more: it was delivered, or grew too old.
    HintGone {
        /// Its key.
        key: Key,
    },
}

impl LogEntry {
    /// Appends the entry. The functions that this calls do the same without owning anything.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            LogEntry::Object { key, record } => encode_object(key, record, out),
            LogEntry::Whole { key, record } => encode_whole(key, record, out),
            LogEntry::Erase { key } => encode_erase(key, out),
            LogEntry::Intent {
                sequence,
                hints,
                partitions,
            } => encode_intent(*sequence, *hints, partitions, out),
            LogEntry::Start => encode_start(out),
            LogEntry::Hint {
                key,
                record,
                generation,
                taken_ms,
            } => encode_hint(key, record, *generation, *taken_ms, out),
            LogEntry::HintGone { key } => encode_hint_gone(key, out),
        }
    }

    /// Decodes one entry, the whole of `bytes`. Everything kept is copied.
    ///
    /// # Errors
    /// [`CodecError`]. `verify_values` is for [`decode_record`].
    pub fn decode(bytes: &[u8], verify_values: bool) -> Result<LogEntry, CodecError> {
        let (kind, body) = bytes.split_first().ok_or(CodecError::Length)?;
        match *kind {
            KIND_OBJECT => {
                let (key, encoded) = decode_key(body)?;
                let record = decode_record(&key, encoded, verify_values)?;
                Ok(LogEntry::Object { key, record })
            }
            KIND_WHOLE => {
                let (key, encoded) = decode_key(body)?;
                let record = decode_record(&key, encoded, verify_values)?;
                Ok(LogEntry::Whole { key, record })
            }
            KIND_ERASE => match decode_key(body)? {
                (key, []) => Ok(LogEntry::Erase { key }),
                _ => Err(CodecError::Length),
            },
            KIND_INTENT => decode_intent(body),
            KIND_START if body.is_empty() => Ok(LogEntry::Start),
            KIND_START => Err(CodecError::Length),
            KIND_HINT => decode_hint(body, verify_values),
            KIND_HINT_GONE => match decode_key(body)? {
                (key, []) => Ok(LogEntry::HintGone { key }),
                _ => Err(CodecError::Length),
            },
            kind => Err(CodecError::Kind(kind)),
        }
    }
}

/// Appends the entry of a changed object.
pub fn encode_object(key: &Key, record: &Record, out: &mut Vec<u8>) {
    out.push(KIND_OBJECT);
    encode_key(key, out);
    encode_record(record, out);
}

/// Appends the entry of an object that stands in the place of what was damaged.
pub fn encode_whole(key: &Key, record: &Record, out: &mut Vec<u8>) {
    out.push(KIND_WHOLE);
    encode_key(key, out);
    encode_record(record, out);
}

/// Appends the entry of an erased key.
pub fn encode_erase(key: &Key, out: &mut Vec<u8>) {
    out.push(KIND_ERASE);
    encode_key(key, out);
}

/// Appends the entry of a drain that is about to start.
pub fn encode_intent(
    sequence: u64,
    hints: (u64, u32),
    partitions: &[(u64, u32)],
    out: &mut Vec<u8>,
) {
    out.reserve(1 + 8 + ROOT_BYTES * (1 + partitions.len()));
    out.push(KIND_INTENT);
    out.extend_from_slice(&sequence.to_le_bytes());
    for (root, count) in [hints].iter().chain(partitions) {
        out.extend_from_slice(&root.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
    }
}

/// Appends the entry of a start.
pub fn encode_start(out: &mut Vec<u8>) {
    out.push(KIND_START);
}

/// Appends the entry of a hint that was taken, or merged with one that was there.
pub fn encode_hint(key: &Key, record: &Record, generation: u64, taken_ms: u64, out: &mut Vec<u8>) {
    out.push(KIND_HINT);
    encode_key(key, out);
    out.extend_from_slice(&generation.to_le_bytes());
    out.extend_from_slice(&taken_ms.to_le_bytes());
    encode_record(record, out);
}

/// Appends the entry of a hint that is no more.
pub fn encode_hint_gone(key: &Key, out: &mut Vec<u8>) {
    out.push(KIND_HINT_GONE);
    encode_key(key, out);
}

fn encode_key(key: &Key, out: &mut Vec<u8>) {
    out.extend_from_slice(&key.token().to_le_bytes());
    out.extend_from_slice(&(key.framed().len() as u16).to_le_bytes()); // at most KEY_BYTES_MAX and its framing
    out.extend_from_slice(key.framed());
}

fn decode_key(bytes: &[u8]) -> Result<(Key, &[u8]), CodecError> {
    let (token, bytes) = bytes.split_first_chunk::<8>().ok_or(CodecError::Length)?;
    let (len, bytes) = bytes.split_first_chunk::<2>().ok_or(CodecError::Length)?;
    let len = usize::from(u16::from_le_bytes(*len));
    let (framed, rest) = bytes.split_at_checked(len).ok_or(CodecError::Length)?;
    let key = Key::from_framed(u64::from_le_bytes(*token), Bytes::copy_from_slice(framed));
    Ok((key.map_err(|_| CodecError::Key)?, rest))
}

fn decode_hint(body: &[u8], verify_values: bool) -> Result<LogEntry, CodecError> {
    let (key, body) = decode_key(body)?;
    let (generation, body) = body.split_first_chunk::<8>().ok_or(CodecError::Length)?;
    let (taken_ms, encoded) = body.split_first_chunk::<8>().ok_or(CodecError::Length)?;
    Ok(LogEntry::Hint {
        record: decode_record(&key, encoded, verify_values)?,
        key,
        generation: u64::from_le_bytes(*generation),
        taken_ms: u64::from_le_bytes(*taken_ms),
    })
}

fn decode_intent(body: &[u8]) -> Result<LogEntry, CodecError> {
    let (sequence, roots) = body.split_first_chunk::<8>().ok_or(CodecError::Length)?;
    let (roots, []) = roots.as_chunks::<ROOT_BYTES>() else {
        return Err(CodecError::Length);
    };
    let mut roots = roots.iter().map(|row| {
        let root = u64::from_le_bytes(std::array::from_fn(|i| row[i]));
        let count = u32::from_le_bytes(std::array::from_fn(|i| row[8 + i]));
        (root, count)
    });
    Ok(LogEntry::Intent {
        hints: roots.next().ok_or(CodecError::Length)?,
        sequence: u64::from_le_bytes(*sequence),
        partitions: roots.collect(),
    })
}
