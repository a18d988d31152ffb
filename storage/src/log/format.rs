//! Bytes of segments and groups. Pure. All numbers are little endian; the layouts are fixed by [`FORMAT`].

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Newest segment format that this program reads and writes.
pub(crate) const FORMAT: u32 = 1;

/// Groups start at multiples of this, and a segment's header has one for itself.
pub(crate) const BLOCK_BYTES: usize = 512;

/// checksum 8, magic 8, format 4, log id 4, generation 8, first sequence 8.
const SEGMENT_HEADER_BYTES: usize = 40;

/// checksum 8, magic 8, generation 8, first sequence 8, count 4, length 4, log id 4, zero 4, checksum of the payload 8.
pub(crate) const GROUP_HEADER_BYTES: usize = 56;

/// Length before each record in a group.
pub(crate) const RECORD_PREFIX_BYTES: usize = 4;

const SEGMENT_MAGIC: [u8; 8] = *b"rflogseg";
const GROUP_MAGIC: [u8; 8] = *b"rfloggrp";

/// Records name the log they belong to; a node has one log today.
const LOG_ID: u32 = 0;

/// Separates the checksums of segment headers from those of groups.
const SEGMENT_SALT: u64 = 0x7365_676d_656e_7400;

/// What a segment's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) generation: u64,
    pub(crate) first: u64,
}

/// How the first block of a file reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderState {
    Valid(SegmentHeader),
    /// Whole, of a newer format.
    Newer(u32),
    /// All zeros: prepared, never used.
    Blank,
    Bad,
}

impl SegmentHeader {
    /// One block.
    pub(crate) fn encode(&self, salt: u64) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        block[8..16].copy_from_slice(&SEGMENT_MAGIC);
        block[16..20].copy_from_slice(&FORMAT.to_le_bytes());
        block[20..24].copy_from_slice(&LOG_ID.to_le_bytes());
        block[24..32].copy_from_slice(&self.generation.to_le_bytes());
        block[32..40].copy_from_slice(&self.first.to_le_bytes());
        let checksum = xxh3_64_with_seed(&block[8..SEGMENT_HEADER_BYTES], salt ^ SEGMENT_SALT);
        block[..8].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    /// Reads the first block of a file. The checksum covers the format number, so that a flipped bit there is
    /// damage and not a newer format.
    pub(crate) fn decode(bytes: &[u8], salt: u64) -> HeaderState {
        let block = &bytes[..bytes.len().min(BLOCK_BYTES)];
        if block.iter().all(|byte| *byte == 0) {
            return HeaderState::Blank;
        }
        if block.len() < SEGMENT_HEADER_BYTES || block[8..16] != SEGMENT_MAGIC {
            return HeaderState::Bad;
        }
        if u64_at(block, 0)
            != xxh3_64_with_seed(&block[8..SEGMENT_HEADER_BYTES], salt ^ SEGMENT_SALT)
        {
            return HeaderState::Bad;
        }
        match u32_at(block, 16) {
            FORMAT => HeaderState::Valid(SegmentHeader {
                generation: u64_at(block, 24),
                first: u64_at(block, 32),
            }),
            newer => HeaderState::Newer(newer),
        }
    }
}

/// What a group's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    pub(crate) generation: u64,
    /// Sequence of the first record; of an empty group, that of the next record to come.
    pub(crate) first: u64,
    pub(crate) count: u32,
    /// Bytes of all records with their prefixes.
    pub(crate) length: u32,
}

impl GroupHeader {
    /// Fills in the header of a group whose records lie at [`GROUP_HEADER_BYTES`] and on, checksums included.
    pub(crate) fn finish(&self, group: &mut [u8], salt: u64) {
        debug_assert_eq!(group.len(), GROUP_HEADER_BYTES + self.length as usize);
        let payload_checksum = xxh3_64_with_seed(&group[GROUP_HEADER_BYTES..], salt);
        group[8..16].copy_from_slice(&GROUP_MAGIC);
        group[16..24].copy_from_slice(&self.generation.to_le_bytes());
        group[24..32].copy_from_slice(&self.first.to_le_bytes());
        group[32..36].copy_from_slice(&self.count.to_le_bytes());
        group[36..40].copy_from_slice(&self.length.to_le_bytes());
        group[40..44].copy_from_slice(&LOG_ID.to_le_bytes());
        group[44..48].fill(0);
        group[48..56].copy_from_slice(&payload_checksum.to_le_bytes());
        let checksum = xxh3_64_with_seed(&group[8..GROUP_HEADER_BYTES], salt);
        group[..8].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The header that starts `bytes`, if its own checksum holds: cheap to ask at every block, and nothing that a
    /// client stores can make it true.
    pub(crate) fn decode(bytes: &[u8], salt: u64) -> Option<Self> {
        let header = bytes.get(..GROUP_HEADER_BYTES)?;
        if header[8..16] != GROUP_MAGIC
            || u64_at(header, 0) != xxh3_64_with_seed(&header[8..], salt)
        {
            return None;
        }
        Some(Self {
            generation: u64_at(header, 16),
            first: u64_at(header, 24),
            count: u32_at(header, 32),
            length: u32_at(header, 36),
        })
    }

    /// The payload of the group that starts `bytes`, if it is all there and its checksum holds.
    pub(crate) fn payload<'a>(&self, bytes: &'a [u8], salt: u64) -> Option<&'a [u8]> {
        let end = GROUP_HEADER_BYTES.checked_add(self.length as usize)?;
        let payload = bytes.get(GROUP_HEADER_BYTES..end)?;
        (u64_at(bytes, 48) == xxh3_64_with_seed(payload, salt)).then_some(payload)
    }

    /// Whether a header that is not whole looks like one of this generation: its generation field says so, or magic
    /// and first sequence do. Any single damaged byte leaves one of the two.
    pub(crate) fn resembles(bytes: &[u8], generation: u64, first: u64) -> bool {
        bytes.len() >= 24 && u64_at(bytes, 16) == generation
            || bytes.len() >= 32 && bytes[8..16] == GROUP_MAGIC && u64_at(bytes, 24) == first
    }

    /// The sequence after this group's last.
    pub(crate) fn next(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// Bytes that the group takes in its segment.
    pub(crate) fn padded(&self) -> usize {
        padded(GROUP_HEADER_BYTES + self.length as usize)
    }
}

/// Rounds up to whole blocks.
pub(crate) fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK_BYTES)
}

/// The records of a group's payload; `None` if their prefixes do not fill it exactly, or are not `count`.
pub(crate) fn records(payload: &[u8], count: u32) -> Option<Vec<&[u8]>> {
    // The count is believed only as far as the payload could hold it.
    let mut records = Vec::with_capacity((count as usize).min(payload.len() / RECORD_PREFIX_BYTES));
    let mut rest = payload;
    while let Some((prefix, after)) = rest.split_first_chunk::<RECORD_PREFIX_BYTES>() {
        let length = u32::from_le_bytes(*prefix) as usize;
        records.push(after.get(..length)?);
        rest = &after[length..];
    }
    (rest.is_empty() && records.len() == count as usize).then_some(records)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
