//! Records in and out of the engine's rows. Keeps "nothing unverified is served": what is returned as a record passed
//! every checksum; and the order of writes that leaves whole records at every prefix.

use bytes::Bytes;

use crate::codec;
use crate::codec::rows::{self, HeadRow, RowError, Shelf, Split};
use crate::engine::{Engine, EngineError};
use crate::key::Key;
use crate::record::Record;

/// The row that says up to which log sequence the engine holds everything, and which hints those are. Sorts before every
/// record's rows, which start with eight bytes of token.
pub(super) const APPLIED_ROW: &[u8] = &[0];

/// Reads that are tried while the drain replaces the rows of a large record underneath.
const READ_TRIES_MAX: usize = 4;

/// What the engine holds for a key.
#[derive(Debug)]
pub(super) enum Stored {
    Nothing,
    Record(Record),
    /// Rows that fail their verification.
    Damaged,
}

/// Why rows did not become a record.
enum Unread {
    Engine(EngineError),
    Damaged,
}

impl From<RowError> for Unread {
    fn from(_: RowError) -> Self {
        Unread::Damaged
    }
}

impl From<EngineError> for Unread {
    fn from(error: EngineError) -> Self {
        Unread::Engine(error)
    }
}

/// Reads and verifies a key's record.
pub(super) fn read(engine: &dyn Engine, key: &Key) -> Result<Stored, EngineError> {
    let head_key = rows::head_key(key);
    let Some(mut head) = engine.get(&head_key)? else {
        return Ok(Stored::Nothing);
    };
    for _ in 0..READ_TRIES_MAX {
        if let Some(record) = decode(engine, key, head.clone())? {
            return Ok(Stored::Record(record));
        }
        // A drain may have replaced the chunks since the head was read; then the head says so.
        match engine.get(&head_key)? {
            None => return Ok(Stored::Nothing),
            Some(now) if now == head => return Ok(Stored::Damaged),
            Some(now) => head = now,
        }
    }
    Ok(Stored::Damaged)
}

/// The record of a head row, with its chunks fetched; `None` if anything fails its verification.
///
/// A record of a newer format counts as damage here: a directory's format is that of its checkpoint, which a newer release
/// raises together with the records'.
pub(super) fn decode(
    engine: &dyn Engine,
    key: &Key,
    head: Bytes,
) -> Result<Option<Record>, EngineError> {
    let encoded = join(engine, Shelf::Records, key, head)?;
    Ok(encoded.and_then(|encoded| codec::decode_record(key, &encoded, true).ok()))
}

/// What the rows of a head hold, with its chunks fetched and nothing but these verified; `None` if they are damaged.
pub(super) fn join(
    engine: &dyn Engine,
    shelf: Shelf,
    key: &Key,
    head: Bytes,
) -> Result<Option<Bytes>, EngineError> {
    let fetch = |name, chunk| {
        engine
            .get(&shelf.chunk_key(key, name, chunk))
            .map_err(Unread::from)
    };
    match rows::join(head, fetch) {
        Ok(encoded) => Ok(Some(encoded)),
        Err(Unread::Damaged) => Ok(None),
        Err(Unread::Engine(error)) => Err(error),
    }
}

/// The record of a key's rows whether they match their checksums or not: for a planted bug.
pub(super) fn read_as_it_is(engine: &dyn Engine, key: &Key) -> Option<Record> {
    let head = engine.get(&rows::head_key(key)).ok()??;
    let fetch = |name, chunk| {
        let row = engine.get(&rows::chunk_key(key, name, chunk));
        row.map_err(Unread::from)
    };
    let encoded = rows::join(head, fetch).ok()?;
    codec::decode_as_it_is(key, &encoded).ok()
}

/// The chunks that a head row names.
pub(super) fn split_of(head: Bytes) -> Option<Split> {
    match HeadRow::parse(head) {
        Ok(HeadRow::Split(split)) => Some(split),
        _ => None,
    }
}

/// Replaces a key's record; an empty one removes the key.
pub(super) fn replace(
    engine: &dyn Engine,
    key: &Key,
    record: &Record,
    buffer: &mut Vec<u8>,
) -> Result<(), EngineError> {
    if record.object().is_empty() {
        return remove(engine, Shelf::Records, key);
    }
    buffer.clear();
    codec::encode_record(record, buffer);
    put(engine, Shelf::Records, key, buffer)
}

/// Puts what was encoded in the place of what is there: new chunk rows, then the head row, then the old chunk rows out.
pub(super) fn put(
    engine: &dyn Engine,
    shelf: Shelf,
    key: &Key,
    encoded: &[u8],
) -> Result<(), EngineError> {
    if encoded.len() <= rows::ROW_BYTES_MAX {
        let old = engine.insert(&shelf.head_key(key), encoded)?;
        return remove_chunks(engine, shelf, key, old, None);
    }
    let rows = shelf.split(key, Bytes::copy_from_slice(encoded));
    for (chunk_key, chunk) in &rows.chunks {
        engine.insert(chunk_key, chunk)?;
    }
    let old = engine.insert(&rows.head_key, &rows.head)?;
    remove_chunks(engine, shelf, key, old, split_of(rows.head))
}

/// Removes what is there: head first, so that no head ever names what is gone.
pub(super) fn remove(engine: &dyn Engine, shelf: Shelf, key: &Key) -> Result<(), EngineError> {
    let old = engine.remove(&shelf.head_key(key))?;
    remove_chunks(engine, shelf, key, old, None)
}

/// Removes the chunk rows of a replaced head, unless the new head names the same.
fn remove_chunks(
    engine: &dyn Engine,
    shelf: Shelf,
    key: &Key,
    old: Option<Bytes>,
    new: Option<Split>,
) -> Result<(), EngineError> {
    let Some(old) = old.and_then(split_of) else {
        return Ok(());
    };
    if new.is_some_and(|new| new.name == old.name) {
        return Ok(());
    }
    for chunk_key in old.chunk_keys(shelf, key) {
        engine.remove(&chunk_key)?;
    }
    Ok(())
}

/// What the `applied` row says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Applied {
    /// The engine holds everything up to this log sequence.
    pub(super) sequence: u64,
    /// Sum and count of all hints at that sequence.
    pub(super) hints: (u64, u32),
}

/// Reads the `applied` row.
pub(super) fn applied(engine: &dyn Engine) -> Result<Option<Applied>, EngineError> {
    let row = engine.get(APPLIED_ROW)?;
    Ok(row.and_then(|row| {
        let (sequence, rest) = row.split_first_chunk::<8>()?;
        let (sum, rest) = rest.split_first_chunk::<8>()?;
        let (count, []) = rest.split_first_chunk::<4>()? else {
            return None;
        };
        Some(Applied {
            sequence: u64::from_be_bytes(*sequence),
            hints: (u64::from_be_bytes(*sum), u32::from_be_bytes(*count)),
        })
    }))
}

/// Writes the `applied` row.
pub(super) fn set_applied(engine: &dyn Engine, applied: Applied) -> Result<(), EngineError> {
    let mut row = applied.sequence.to_be_bytes().to_vec();
    row.extend_from_slice(&applied.hints.0.to_be_bytes());
    row.extend_from_slice(&applied.hints.1.to_be_bytes());
    engine.insert(APPLIED_ROW, &row).map(drop)
}
