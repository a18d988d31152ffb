//! Reads a log back after a start: see the promises in the module above.
//!
//! Invariant (I2): records are handed out in ascending sequence, each at most once, none from another use of a file;
//! whatever should be there and is not is named. Memory: one segment at a time. Nothing is written.

use std::error::Error;
use std::io;

use super::format::{BLOCK_BYTES, FORMAT, GROUP_HEADER_BYTES, GroupHeader, records};
use super::segments::{Live, Segments};
use super::survey::{Found, read_segment, survey};
use super::{LogConfig, LogPosition};
use crate::disk::Disk;

/// Entries in the list of damages; past it the last entry grows.
const DAMAGE_MAX: usize = 1_024;

/// Where recovery starts: what the checkpoint says, or the default without one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecoverFrom {
    /// The checkpoint's first live segment; older ones are not read.
    pub position: LogPosition,
    /// The checkpoint's S: records up to it are neither handed out nor missed.
    pub applied: u64,
}

/// Part of the log that should be there and is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The segment; where a segment is missing, the one that the checkpoint names.
    pub position: LogPosition,
    /// Where in its file the damage starts.
    pub offset: u64,
    /// First and last missing sequence; `None` if no record is known to be missing (a damaged header or seal). Where no
    /// segment is left to tell the end, the last one is `u64::MAX - 1`.
    pub missing: Option<(u64, u64)>,
}

/// What lay after the end of the log: a group that was never acknowledged, as far as anyone can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub position: LogPosition,
    /// Where in its file the tail starts.
    pub offset: u64,
    /// The sequence that its first record would have had.
    pub first: u64,
}

/// What recovery found; [`super::Log::start`] goes on from here.
#[derive(Debug)]
pub struct Recovered {
    /// Sequence of the last record of the log, whether handed out, missing or applied before; 0 for none.
    pub last_sequence: u64,
    /// Number of records handed out.
    pub records: u64,
    /// What is damaged, in order. An entry that misses records calls for a new actor, and for repair from peers.
    pub damage: Vec<Damage>,
    /// What was cut at the end, if something was there.
    pub torn_tail: Option<TornTail>,
    pub(super) segments: Segments,
    pub(super) tail: Option<Tail>,
}

/// The last thing in the log, a group or a segment's header, which nothing proves durable yet: it is written and synced
/// again before the log goes on.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) segment: u32,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

/// Why a log could not be recovered. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The disk failed.
    #[error("cannot read the commit log ({file}): {source}")]
    Io {
        /// File or directory.
        file: String,
        /// The disk's error.
        source: io::Error,
    },
    /// A segment was written by a newer program.
    #[error(
        "{file} has format {found}, and this program knows formats up to {FORMAT}: it was written by a newer version"
    )]
    NewerFormat {
        /// File.
        file: String,
        /// Format found.
        found: u32,
    },
    /// Two files claim to be the same segment: one is a copy.
    #[error("{first} and {second} claim to be the same log segment; remove the copy")]
    Duplicate {
        /// One file.
        first: String,
        /// The other file.
        second: String,
    },
    /// A segment file is longer than any that this program makes.
    #[error("{file} has {bytes} bytes, more than a log segment can have")]
    TooLong {
        /// File.
        file: String,
        /// Its length.
        bytes: u64,
    },
    /// The receiver of the records refused one.
    #[error("log record {sequence}: {source}")]
    Refused {
        /// Its sequence.
        sequence: u64,
        /// The receiver's error.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Receives each record with its sequence; an error ends the recovery.
pub type Visit<'a> = dyn FnMut(u64, &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> + 'a;

/// Reads the log, and hands each record with its sequence to `visit`, in order.
pub fn recover(
    disk: &dyn Disk,
    config: &LogConfig,
    from: RecoverFrom,
    visit: &mut Visit<'_>,
) -> Result<Recovered, RecoverError> {
    let found = survey(disk, config.salt, from.position)?;
    let mut reader = Reader {
        salt: config.salt,
        applied: from.applied,
        visit,
        expected: from.applied + 1,
        end: (from.position, 0),
        records: 0,
        damage: Vec::new(),
        torn_tail: None,
        tail: None,
    };
    let named = |live: &Found| live.live.position.generation == from.position.generation;
    if from.position.generation > 0 && !found.live.iter().any(named) {
        // Without any segment nobody can tell where the log ended.
        let next = found.live.first().map_or(u64::MAX, |live| live.live.first);
        let missing = reader.range(reader.expected, next);
        reader.damaged(from.position, 0, missing);
        reader.expected = found
            .live
            .first()
            .map_or(reader.expected, |live| live.live.first.max(reader.expected));
    }
    let mut bytes = Vec::new();
    for (index, segment) in found.live.iter().enumerate() {
        let bound = found.live.get(index + 1).map(|next| next.live.first);
        read_segment(disk, segment.live.position.segment, &mut bytes)?;
        reader.segment(segment, &bytes, bound)?;
    }
    let live = found.live.iter().map(|segment| segment.live).collect();
    Ok(Recovered {
        last_sequence: reader.expected.max(from.applied + 1) - 1,
        records: reader.records,
        damage: reader.damage,
        torn_tail: reader.torn_tail,
        segments: Segments::new(live, found.spares, found.next_file, found.next_generation),
        tail: reader.tail,
    })
}

/// Walks the live segments in order.
struct Reader<'a, 'v> {
    salt: u64,
    applied: u64,
    visit: &'a mut Visit<'v>,
    /// The sequence that must come next.
    expected: u64,
    /// Where the last segment's valid groups ended.
    end: (LogPosition, u64),
    records: u64,
    damage: Vec<Damage>,
    torn_tail: Option<TornTail>,
    tail: Option<Tail>,
}

impl Reader<'_, '_> {
    /// Reads one segment; `bound` is the first sequence of the next one, at and past which groups here were cut by an
    /// earlier start.
    fn segment(
        &mut self,
        found: &Found,
        bytes: &[u8],
        bound: Option<u64>,
    ) -> Result<(), RecoverError> {
        let Live {
            position, first, ..
        } = found.live;
        // This segment was opened only after everything before its first sequence was durable.
        self.proven(first);
        if found.header_damaged {
            self.damaged(position, 0, None);
        } else {
            let header = bytes[..BLOCK_BYTES.min(bytes.len())].to_vec();
            self.tail = Some(Tail {
                segment: position.segment,
                offset: 0,
                bytes: header,
            });
        }
        self.expected = first;
        let mut at = BLOCK_BYTES;
        while let Some((start, group)) = self.next_group(bytes, at, position.generation, bound) {
            if start > at {
                let missing = self.range(self.expected, group.first);
                self.damaged(position, at as u64, missing);
            }
            let payload = &bytes[start + GROUP_HEADER_BYTES..][..group.length as usize];
            self.hand_out(&group, payload)?;
            let whole = &bytes[start..bytes.len().min(start + group.padded())];
            self.tail = Some(Tail {
                segment: position.segment,
                offset: start as u64,
                bytes: whole.to_vec(),
            });
            self.expected = group.next();
            at = start + group.padded();
        }
        self.end = (position, at as u64);
        let rest = bytes.get(at..).unwrap_or_default();
        // What was torn at the end of an earlier segment was cut, and told, by an earlier start.
        let torn = GroupHeader::resembles(rest, position.generation, self.expected);
        self.torn_tail = torn.then_some(TornTail {
            position,
            offset: at as u64,
            first: self.expected,
        });
        Ok(())
    }

    /// The next valid group at `at` or, skipping what is bad, after it. Groups of other generations are leftovers;
    /// one that is valid but out of order cannot follow.
    fn next_group(
        &self,
        bytes: &[u8],
        at: usize,
        generation: u64,
        bound: Option<u64>,
    ) -> Option<(usize, GroupHeader)> {
        (at..bytes.len()).step_by(BLOCK_BYTES).find_map(|start| {
            let group = GroupHeader::decode(&bytes[start..], self.salt)?;
            let plausible = group.generation == generation
                && group.first >= self.expected
                && bound.is_none_or(|bound| group.next() <= bound);
            if !plausible {
                return None;
            }
            let payload = group.payload(&bytes[start..], self.salt)?;
            records(payload, group.count).map(|_| (start, group))
        })
    }

    fn hand_out(&mut self, group: &GroupHeader, payload: &[u8]) -> Result<(), RecoverError> {
        let records = records(payload, group.count).expect("checked when the group was found");
        for (sequence, record) in (group.first..).zip(records) {
            if sequence > self.applied {
                (self.visit)(sequence, record)
                    .map_err(|source| RecoverError::Refused { sequence, source })?;
                self.records += 1;
            }
        }
        Ok(())
    }

    /// Something proves that everything before `first` was durable: what is not here is missing.
    fn proven(&mut self, first: u64) {
        if let Some(missing) = self.range(self.expected, first) {
            let (position, offset) = self.end;
            self.damaged(position, offset, Some(missing));
        }
        self.tail = None;
    }

    /// The sequences from `first` to before `next` that are not applied.
    fn range(&self, first: u64, next: u64) -> Option<(u64, u64)> {
        let first = first.max(self.applied + 1);
        (first < next).then(|| (first, next - 1))
    }

    fn damaged(&mut self, position: LogPosition, offset: u64, missing: Option<(u64, u64)>) {
        let full = self.damage.len() >= DAMAGE_MAX;
        match self.damage.last_mut() {
            Some(last) if full => {
                last.missing = match (last.missing, missing) {
                    (Some((first, _)), Some((_, end))) => Some((first, end)),
                    (before, now) => before.or(now),
                };
            }
            _ => self.damage.push(Damage {
                position,
                offset,
                missing,
            }),
        }
    }
}
