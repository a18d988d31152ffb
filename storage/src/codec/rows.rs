//! How an encoded record lies in the rows of the sorted store.
//!
//! Invariant: every prefix of the writes of a record (new chunk rows, the head row, old chunk rows out) leaves
//! a whole record: chunk rows are named by a hash of the encoded record, so old and new ones never mix.
//!
//! Row keys: `token 8 BE ‖ framed key ‖ 0x00` is the head row, `token 8 BE ‖ framed key ‖ name 8 BE ‖ chunk 4 BE ‖
//! 0x01` a chunk row. The last byte tells them apart, so no key can be mistaken for a chunk of another, and head
//! rows sort by (token, framed key): a partition is one range.
//!
//! The rows of a hint are those of a record behind ten bytes of 0xff ([`Shelf::Hints`]). No row of a record begins so (after
//! a token of ones comes the length of a namespace, and none is that long): hints lie after all partitions, and in none.
//!
//! Values: a record of up to [`ROW_BYTES_MAX`] bytes is its head row. Of a larger one the head row is
//! `0xff ‖ length 8 LE ‖ name 8 LE ‖ chunks 4 LE ‖ checksum 8 LE`. No format of records will ever be 255.

use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::key::Key;

#[cfg(test)]
mod tests;

/// The most bytes that a row's value has.
pub const ROW_BYTES_MAX: usize = 4096;

const HEAD_SUFFIX: u8 = 0;
const CHUNK_SUFFIX: u8 = 1;
const SPLIT: u8 = 0xff;
const SPLIT_BYTES: usize = 1 + 8 + 8 + 4 + 8;

/// What a row key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// The head row: the record, or where its chunks are.
    Head,
    /// One chunk of a large record.
    Chunk {
        /// The record that it belongs to.
        name: u64,
        /// Which, from 0.
        chunk: u32,
    },
}

/// The rows of one record, to be written in this order: chunks, then the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Key and value of each chunk row; none for a small record.
    pub chunks: Vec<(Vec<u8>, Bytes)>,
    /// The key of the head row.
    pub head_key: Vec<u8>,
    /// The value of the head row.
    pub head: Bytes,
}

/// What a head row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadRow {
    /// The encoded record itself.
    Whole(Bytes),
    /// The record is in chunk rows.
    Split(Split),
}

/// Where the chunks of a large record are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// The length of the encoded record in bytes.
    pub len: u64,
    /// `xxh3_64` of the encoded record; the name of its chunks.
    pub name: u64,
    /// The number of chunks.
    pub chunks: u32,
}

/// Why rows do not make a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The head row is neither a record nor the place of one.
    #[error("the head row is damaged")]
    Head,
    /// A chunk row is missing or has the wrong length.
    #[error("chunk row {0} is missing or cut")]
    Chunk(u32),
    /// The chunks are not those of the record.
    #[error("the chunks fail their checksum")]
    Checksum,
}

/// Where the last partition's rows end, and those of hints begin.
pub const RECORDS_END: &[u8] = &[0xff; 10];

/// Where the rows of records end whose tokens are not past `last`.
pub fn end_after(last: u64) -> Vec<u8> {
    match last.checked_add(1) {
        Some(token) => token.to_be_bytes().to_vec(),
        None => RECORDS_END.to_vec(),
    }
}

/// Which of the rows of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shelf {
    /// Those of its record.
    Records,
    /// Those of a hint of it.
    Hints,
}

impl Shelf {
    fn prefix(self) -> &'static [u8] {
        match self {
            Shelf::Records => &[],
            Shelf::Hints => RECORDS_END,
        }
    }

    /// The key of the head row.
    pub fn head_key(self, key: &Key) -> Vec<u8> {
        let mut row = self.row(key, 1);
        row.push(HEAD_SUFFIX);
        row
    }

    /// The key of a chunk row.
    pub fn chunk_key(self, key: &Key, name: u64, chunk: u32) -> Vec<u8> {
        let mut row = self.row(key, 13);
        row.extend_from_slice(&name.to_be_bytes());
        row.extend_from_slice(&chunk.to_be_bytes());
        row.push(CHUNK_SUFFIX);
        row
    }

    fn row(self, key: &Key, more: usize) -> Vec<u8> {
        let prefix = self.prefix();
        let mut row = Vec::with_capacity(prefix.len() + 8 + key.framed().len() + more);
        row.extend_from_slice(prefix);
        row.extend_from_slice(&key.token().to_be_bytes());
        row.extend_from_slice(key.framed());
        row
    }

    /// The rows of what was encoded. Values share its bytes.
    ///
    /// # Panics
    /// From 16 TiB on.
    pub fn split(self, key: &Key, encoded: Bytes) -> Rows {
        let head_key = self.head_key(key);
        if encoded.len() <= ROW_BYTES_MAX {
            return Rows {
                chunks: Vec::new(),
                head_key,
                head: encoded,
            };
        }
        let name = xxh3_64(&encoded);
        let starts = (0..encoded.len()).step_by(ROW_BYTES_MAX);
        let chunks: Vec<_> = (0u32..)
            .zip(starts)
            .map(|(chunk, start)| {
                let end = encoded.len().min(start + ROW_BYTES_MAX);
                (self.chunk_key(key, name, chunk), encoded.slice(start..end))
            })
            .collect();
        let split = Split {
            len: encoded.len() as u64,
            name,
            chunks: u32::try_from(chunks.len()).expect("records are far below 16 TiB"),
        };
        Rows {
            chunks,
            head_key,
            head: split.encode(),
        }
    }
}

/// The key of the head row of a record.
pub fn head_key(key: &Key) -> Vec<u8> {
    Shelf::Records.head_key(key)
}

/// The key of a chunk row of a record.
pub fn chunk_key(key: &Key, name: u64, chunk: u32) -> Vec<u8> {
    Shelf::Records.chunk_key(key, name, chunk)
}

/// The rows of an encoded record. Values share its bytes.
///
/// # Panics
/// From 16 TiB on.
pub fn split(key: &Key, encoded: Bytes) -> Rows {
    Shelf::Records.split(key, encoded)
}

/// The same of any row: where it lies, too; `None` if it is neither of a record nor of a hint.
pub fn parse_any(row: &[u8]) -> Option<(Shelf, Key, RowKind)> {
    let (shelf, row) = match row.strip_prefix(RECORDS_END) {
        Some(row) => (Shelf::Hints, row),
        None => (Shelf::Records, row),
    };
    let (key, kind) = parse_key(row)?;
    Some((shelf, key, kind))
}

/// What a row key stands for; `None` if it is no row of a record.
pub fn parse_key(row: &[u8]) -> Option<(Key, RowKind)> {
    let (token, rest) = row.split_first_chunk::<8>()?;
    let (suffix, rest) = rest.split_last()?;
    let (framed, kind) = match *suffix {
        HEAD_SUFFIX => (rest, RowKind::Head),
        CHUNK_SUFFIX => {
            let (rest, chunk) = rest.split_last_chunk::<4>()?;
            let (rest, name) = rest.split_last_chunk::<8>()?;
            let (name, chunk) = (u64::from_be_bytes(*name), u32::from_be_bytes(*chunk));
            (rest, RowKind::Chunk { name, chunk })
        }
        _ => return None,
    };
    let key = Key::from_framed(u64::from_be_bytes(*token), Bytes::copy_from_slice(framed));
    Some((key.ok()?, kind))
}

/// Reads a record back: its head row, and chunk rows through `fetch(name, chunk)`. Whole records are passed on
/// as they are, unverified: the record's own checksums follow.
///
/// # Errors
/// What `fetch` returns, or a [`RowError`].
pub fn join<E: From<RowError>>(
    head: Bytes,
    mut fetch: impl FnMut(u64, u32) -> Result<Option<Bytes>, E>,
) -> Result<Bytes, E> {
    let split = match HeadRow::parse(head)? {
        HeadRow::Whole(encoded) => return Ok(encoded),
        HeadRow::Split(split) => split,
    };
    // Grows with what is found: the length is believed no further than the rows bear it out.
    let mut encoded = Vec::new();
    for chunk in 0..split.chunks {
        let left = split.len - encoded.len() as u64;
        let row = fetch(split.name, chunk)?
            .filter(|row| row.len() as u64 == left.min(ROW_BYTES_MAX as u64));
        encoded.extend_from_slice(&row.ok_or(RowError::Chunk(chunk))?);
    }
    if encoded.len() as u64 != split.len || xxh3_64(&encoded) != split.name {
        return Err(RowError::Checksum.into());
    }
    Ok(encoded.into())
}

impl HeadRow {
    /// Reads the value of a head row.
    ///
    /// # Errors
    /// [`RowError::Head`].
    pub fn parse(row: Bytes) -> Result<HeadRow, RowError> {
        match row.first() {
            None => Err(RowError::Head),
            Some(&SPLIT) => Split::decode(&row)
                .map(HeadRow::Split)
                .ok_or(RowError::Head),
            Some(_) => Ok(HeadRow::Whole(row)),
        }
    }
}

impl Split {
    /// The keys of the chunk rows: what to remove once the head row names others.
    pub fn chunk_keys(self, shelf: Shelf, key: &Key) -> impl Iterator<Item = Vec<u8>> + use<'_> {
        (0..self.chunks).map(move |chunk| shelf.chunk_key(key, self.name, chunk))
    }

    fn encode(self) -> Bytes {
        let mut row = Vec::with_capacity(SPLIT_BYTES);
        row.push(SPLIT);
        row.extend_from_slice(&self.len.to_le_bytes());
        row.extend_from_slice(&self.name.to_le_bytes());
        row.extend_from_slice(&self.chunks.to_le_bytes());
        let checksum = xxh3_64_with_seed(&row, u64::from(SPLIT));
        row.extend_from_slice(&checksum.to_le_bytes());
        row.into()
    }

    fn decode(row: &[u8]) -> Option<Split> {
        let (body, checksum) = row.split_last_chunk::<8>()?;
        if row.len() != SPLIT_BYTES
            || xxh3_64_with_seed(body, u64::from(SPLIT)) != u64::from_le_bytes(*checksum)
        {
            return None;
        }
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| body[at + i]));
        let chunks = u32::from_le_bytes(std::array::from_fn(|i| body[17 + i]));
        let (len, name) = (u64_at(1), u64_at(9));
        let expected = len.div_ceil(ROW_BYTES_MAX as u64);
        (u64::from(chunks) == expected).then_some(Split { len, name, chunks })
    }
}
