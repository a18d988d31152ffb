//! The envelope of a record.
//!
//! Shape, all integers little endian:
//! `format 1 ‖ leaf 8 ‖ length of head 4 ‖ length of tail 4 ‖ checksum of tail 8 ‖ head ‖ tail ‖ values`.
//! The head is what the leaf hashes, together with the key. The tail is local: the list of applied requests, and
//! one byte for each value, 1 if its bytes are here; its checksum is seeded with the leaf. The values follow in
//! the order of the head; how long each is and what it hashes to stands there.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{CodecError, FORMAT, head};
use crate::key::Key;
use crate::mutants::{Mutant, is_planted};
use crate::record::{NO_LEAF, Record, leaf_of};
use crate::version::{Object, Payload, Sibling, Value};

const FRAME_BYTES: usize = 1 + 8 + 4 + 4 + 8;
const TAIL_LEN_AT: usize = 13;

/// The parts of an envelope, after the checks on its head.
struct Envelope<'a> {
    leaf: u64,
    head: &'a [u8],
    tail: &'a [u8],
    tail_checksum: u64,
    values: &'a [u8],
}

/// Appends the encoded record. The head was encoded before: this copies.
pub fn encode_record(record: &Record, out: &mut Vec<u8>) {
    let object = record.object();
    let values = || object.siblings().iter().flat_map(Sibling::values);
    out.reserve(FRAME_BYTES + record.head().len() + object.byte_len());
    let start = out.len();
    out.push(FORMAT);
    out.extend_from_slice(&record.leaf().to_le_bytes());
    out.extend_from_slice(&len_u32(record.head().len()).to_le_bytes());
    out.extend_from_slice(&[0; 12]); // length and checksum of the tail, known below
    out.extend_from_slice(record.head());
    let tail_at = out.len();
    head::encode_applied(object.applied(), out);
    out.extend(values().map(|value| u8::from(value.bytes().is_some())));

    let tail = &out[tail_at..];
    let checksum = xxh3_64_with_seed(tail, record.leaf()).to_le_bytes();
    let len = len_u32(tail.len()).to_le_bytes();
    let patch = &mut out[start + TAIL_LEN_AT..start + FRAME_BYTES];
    patch[..4].copy_from_slice(&len);
    patch[4..].copy_from_slice(&checksum);
    for bytes in values().filter_map(Value::bytes) {
        out.extend_from_slice(bytes);
    }
}

/// Decodes what [`encode_record`] wrote for this key. Everything kept is copied.
///
/// Head and applied list are always verified. The bytes of values are if `verify_values`; where they come from a
/// checksummed group of the log they need not be hashed again.
///
/// # Errors
/// [`CodecError`]: any byte that is not as written, another key, bytes too few or too many, a newer format.
pub fn decode_record(key: &Key, encoded: &[u8], verify_values: bool) -> Result<Record, CodecError> {
    decode(open(key, encoded)?, verify_values)
}

/// Decodes a record though its head or its values may not match their checksums: what
/// [`ShipCorrupt`](Mutant::ShipCorrupt) sends. The record that comes of it matches them.
///
/// # Errors
/// [`CodecError`]: it is damaged so that nothing can be made of it.
pub(crate) fn decode_as_it_is(key: &Key, encoded: &[u8]) -> Result<Record, CodecError> {
    let mut envelope = take_apart(encoded)?;
    envelope.leaf = leaf_of(key, envelope.head);
    envelope.tail_checksum = xxh3_64_with_seed(envelope.tail, envelope.leaf);
    let record = decode(envelope, false)?;
    let (clock, mut siblings, applied) = record.into_object().into_parts();
    for sibling in &mut siblings {
        if let Payload::Value(value) = &mut sibling.payload
            && let Some(bytes) = value.bytes()
        {
            *value = Value::new(bytes.clone());
        }
    }
    let object = Object::from_parts(clock, siblings, applied).map_err(|_| CodecError::Content)?;
    Ok(Record::new(key, object))
}

fn decode(envelope: Envelope<'_>, verify_values: bool) -> Result<Record, CodecError> {
    if xxh3_64_with_seed(envelope.tail, envelope.leaf) != envelope.tail_checksum {
        return Err(CodecError::Applied);
    }
    let (clock, mut siblings) = if envelope.leaf == NO_LEAF {
        Default::default()
    } else {
        head::decode_head(envelope.head)?
    };
    let (applied, present) = head::decode_applied(envelope.tail)?;
    fill(&mut siblings, present, envelope.values, verify_values)?;
    let object = Object::from_parts(clock, siblings, applied).map_err(|_| CodecError::Content)?;
    if object.is_empty() != (envelope.leaf == NO_LEAF) {
        return Err(CodecError::Content);
    }
    Ok(Record::from_verified(
        object,
        Bytes::copy_from_slice(envelope.head),
        envelope.leaf,
    ))
}

/// The leaf of an encoded record, verified against key and head, with nothing decoded.
///
/// # Errors
/// As [`decode_record`], but blind to whatever the leaf does not hash.
pub fn verify_leaf(key: &Key, encoded: &[u8]) -> Result<u64, CodecError> {
    Ok(open(key, encoded)?.leaf)
}

/// Takes the envelope apart and verifies the head.
fn open<'a>(key: &Key, encoded: &'a [u8]) -> Result<Envelope<'a>, CodecError> {
    let envelope = take_apart(encoded)?;
    let expected = match envelope.head.is_empty() {
        true => NO_LEAF,
        false => leaf_of(key, envelope.head),
    };
    if envelope.leaf != expected && !is_planted(Mutant::BadChecksum) {
        return Err(CodecError::Head);
    }
    Ok(envelope)
}

/// The parts of an envelope, nothing of them verified.
fn take_apart(encoded: &[u8]) -> Result<Envelope<'_>, CodecError> {
    match encoded.first() {
        None | Some(0) => return Err(CodecError::Length),
        Some(&format) if format > FORMAT => return Err(CodecError::NewerFormat(format)),
        Some(_) => {}
    }
    let (frame, rest) = encoded
        .split_first_chunk::<FRAME_BYTES>()
        .ok_or(CodecError::Length)?;
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| frame[at + i]));
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| frame[at + i])) as usize;
    let (leaf, tail_checksum) = (u64_at(1), u64_at(17));
    let (head, rest) = rest.split_at_checked(u32_at(9)).ok_or(CodecError::Length)?;
    let (tail, values) = rest
        .split_at_checked(u32_at(TAIL_LEN_AT))
        .ok_or(CodecError::Length)?;
    Ok(Envelope {
        leaf,
        head,
        tail,
        tail_checksum,
        values,
    })
}

/// Gives the values of a decoded head their bytes.
fn fill(
    siblings: &mut [Sibling],
    present: &[u8],
    mut bytes: &[u8],
    verify: bool,
) -> Result<(), CodecError> {
    let mut present = present.iter();
    let values = siblings
        .iter_mut()
        .flat_map(|sibling| match &mut sibling.payload {
            Payload::Value(value) => std::slice::from_mut(value).iter_mut(),
            Payload::Tombstone { kept } => kept.iter_mut(),
        });
    for value in values {
        match present.next() {
            Some(0) => continue,
            Some(1) => {}
            _ => return Err(CodecError::Content),
        }
        let (own, rest) = bytes
            .split_at_checked(value.len() as usize)
            .ok_or(CodecError::Length)?;
        *value = Value::with_hash(Bytes::copy_from_slice(own), value.hash());
        if verify && !is_planted(Mutant::BadChecksum) && !value.verify() {
            return Err(CodecError::Value);
        }
        bytes = rest;
    }
    if !bytes.is_empty() || present.next().is_some() {
        return Err(CodecError::Length);
    }
    Ok(())
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("heads and lists are far below 4 GiB")
}
