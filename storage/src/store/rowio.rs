//! Records in and out of the engine's rows. Keeps "nothing unverified is served": what is returned as a record passed
//! every checksum; and the order of writes that leaves whole records at every prefix.

use bytes::Bytes;

use crate::codec;
use crate::codec::rows::{self, HeadRow, RowError, Split};
use crate::engine::{Engine, EngineError};
use crate::key::Key;
use crate::record::Record;

/// The row that says up to which log sequence the engine holds everything. Sorts before every record's rows,
/// which start with eight bytes of token.
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
    let fetch = |name, chunk| {
        engine
            .get(&rows::chunk_key(key, name, chunk))
            .map_err(Unread::from)
    };
    match rows::join(head, fetch) {
        Ok(encoded) => Ok(codec::decode_record(key, &encoded, true).ok()),
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

/// Replaces a key's record: new chunk rows, then the head row, then the old chunk rows out. An empty record removes the
/// key: head first, so that no head ever names what is gone.
pub(super) fn replace(
    engine: &dyn Engine,
    key: &Key,
    record: &Record,
    buffer: &mut Vec<u8>,
) -> Result<(), EngineError> {
    if record.object().is_empty() {
        let old = engine.remove(&rows::head_key(key))?;
        return remove_chunks(engine, key, old, None);
    }
    buffer.clear();
    codec::encode_record(record, buffer);
    if buffer.len() <= rows::ROW_BYTES_MAX {
        let old = engine.insert(&rows::head_key(key), buffer)?;
        return remove_chunks(engine, key, old, None);
    }
    let rows = rows::split(key, Bytes::copy_from_slice(buffer));
    for (chunk_key, chunk) in &rows.chunks {
        engine.insert(chunk_key, chunk)?;
    }
    let old = engine.insert(&rows.head_key, &rows.head)?;
    remove_chunks(engine, key, old, split_of(rows.head))
}

/// Removes the chunk rows of a replaced head, unless the new head names the same.
fn remove_chunks(
    engine: &dyn Engine,
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
    for chunk_key in old.chunk_keys(key) {
        engine.remove(&chunk_key)?;
    }
    Ok(())
}

/// Reads the `applied` row.
pub(super) fn applied(engine: &dyn Engine) -> Result<Option<u64>, EngineError> {
    let row = engine.get(APPLIED_ROW)?;
    Ok(row
        .and_then(|row| row[..].try_into().ok())
        .map(u64::from_be_bytes))
}

/// Writes the `applied` row.
pub(super) fn set_applied(engine: &dyn Engine, sequence: u64) -> Result<(), EngineError> {
    engine
        .insert(APPLIED_ROW, &sequence.to_be_bytes())
        .map(drop)
}
