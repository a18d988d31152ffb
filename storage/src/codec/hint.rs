//! A hint in a row: what it was taken under and when, and its record.
//!
//! Shape, all integers little endian: `format 1 ‖ checksum 8 ‖ generation 8 ‖ taken at 8 ‖ record`. The checksum is that of
//! generation and time, seeded with the token; the record has its own.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{CodecError, FORMAT, decode_record, encode_record};
use crate::key::Key;
use crate::record::Record;

const STAMP_BYTES: usize = 8 + 8;

/// A hint without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HintRow {
    /// The whole object.
    pub record: Record,
    /// The reap generation that it was taken under.
    pub generation: u64,
    /// When it was taken, in ms since the Unix epoch.
    pub taken_ms: u64,
}

/// Appends the encoded hint.
pub fn encode_hint_row(
    key: &Key,
    record: &Record,
    generation: u64,
    taken_ms: u64,
    out: &mut Vec<u8>,
) {
    let mut stamp = [0; STAMP_BYTES];
    stamp[..8].copy_from_slice(&generation.to_le_bytes());
    stamp[8..].copy_from_slice(&taken_ms.to_le_bytes());
    out.push(FORMAT);
    out.extend_from_slice(&xxh3_64_with_seed(&stamp, key.token()).to_le_bytes());
    out.extend_from_slice(&stamp);
    encode_record(record, out);
}

/// Decodes what [`encode_hint_row`] wrote for this key, every byte verified. Everything kept is copied.
///
/// # Errors
/// [`CodecError`].
pub fn decode_hint_row(key: &Key, encoded: &[u8]) -> Result<HintRow, CodecError> {
    let (format, rest) = encoded.split_first().ok_or(CodecError::Length)?;
    match *format {
        0 => return Err(CodecError::Length),
        format if format > FORMAT => return Err(CodecError::NewerFormat(format)),
        _ => {}
    }
    let (checksum, rest) = rest.split_first_chunk::<8>().ok_or(CodecError::Length)?;
    let (stamp, record) = rest
        .split_first_chunk::<STAMP_BYTES>()
        .ok_or(CodecError::Length)?;
    if xxh3_64_with_seed(stamp, key.token()) != u64::from_le_bytes(*checksum) {
        return Err(CodecError::Head);
    }
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| stamp[at + i]));
    Ok(HintRow {
        record: decode_record(key, record, true)?,
        generation: u64_at(0),
        taken_ms: u64_at(8),
    })
}
