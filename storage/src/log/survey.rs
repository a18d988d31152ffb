//! Tells the segment files apart at a start: live ones in order, and spares.

use std::collections::BTreeMap;
use std::io;

use super::format::{BLOCK_BYTES, GROUP_HEADER_BYTES, GroupHeader, HeaderState, SegmentHeader};
use super::segments::Live;
use super::{DIRECTORY, LogPosition, RecoverError, segment_name, segment_number};
use crate::disk::{Disk, DiskFile};

/// Longest segment file that is read.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// The segment files of a log, told apart.
pub(super) struct Survey {
    /// By generation.
    pub(super) live: Vec<Found>,
    pub(super) spares: BTreeMap<u32, u64>,
    pub(super) next_file: u32,
    pub(super) next_generation: u64,
}

/// A live segment.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) live: Live,
    pub(super) header_damaged: bool,
}

/// Tells live segments from spares by their headers. A file without a valid header is live if it holds valid groups
/// of a generation that is still needed.
pub(super) fn survey(
    disk: &dyn Disk,
    salt: u64,
    from: LogPosition,
) -> Result<Survey, RecoverError> {
    let mut survey = Survey {
        live: Vec::new(),
        spares: BTreeMap::new(),
        next_file: 1,
        next_generation: from.generation + 1,
    };
    let mut bytes = Vec::new();
    for segment in list(disk)? {
        survey.next_file = survey.next_file.max(segment.saturating_add(1));
        let (file, length) = open(disk, segment)?;
        let mut block = [0; BLOCK_BYTES];
        let count = file
            .read_full(0, &mut block)
            .map_err(|source| io_error(segment, source))?;
        let (header, header_damaged) = match SegmentHeader::decode(&block[..count], salt) {
            HeaderState::Valid(header) => (Some(header), false),
            HeaderState::Newer(found) => {
                return Err(RecoverError::NewerFormat {
                    file: segment_name(segment),
                    found,
                });
            }
            // A blank block over groups is damage too.
            HeaderState::Blank | HeaderState::Bad => {
                read_segment(disk, segment, &mut bytes)?;
                (header_from_groups(&bytes, salt), true)
            }
        };
        let generation = header.map_or(0, |header| header.generation);
        survey.next_generation = survey.next_generation.max(generation + 1);
        match header {
            Some(header) if generation >= from.generation => {
                let position = LogPosition {
                    generation,
                    segment,
                };
                let live = Live {
                    position,
                    first: header.first,
                    bytes: length,
                };
                survey.live.push(Found {
                    live,
                    header_damaged,
                });
            }
            _ => {
                survey.spares.insert(segment, length);
            }
        }
    }
    survey.live.sort_by_key(|found| found.live.position);
    for pair in survey.live.windows(2) {
        if pair[0].live.position.generation == pair[1].live.position.generation {
            let [first, second] =
                [&pair[0], &pair[1]].map(|found| segment_name(found.live.position.segment));
            return Err(RecoverError::Duplicate { first, second });
        }
    }
    Ok(survey)
}

/// What the header must have said, from the newest generation of valid groups in a file. Older groups are left from
/// former uses of the file.
fn header_from_groups(bytes: &[u8], salt: u64) -> Option<SegmentHeader> {
    let mut newest: Option<SegmentHeader> = None;
    let mut at = BLOCK_BYTES;
    while at + GROUP_HEADER_BYTES <= bytes.len() {
        match GroupHeader::decode(&bytes[at..], salt) {
            Some(group) if group.payload(&bytes[at..], salt).is_some() => {
                if newest.is_none_or(|newest| group.generation > newest.generation) {
                    newest = Some(SegmentHeader {
                        generation: group.generation,
                        first: group.first,
                    });
                }
                at += group.padded();
            }
            _ => at += BLOCK_BYTES,
        }
    }
    newest
}

/// Numbers of the segment files, ascending.
fn list(disk: &dyn Disk) -> Result<Vec<u32>, RecoverError> {
    match disk.list(DIRECTORY) {
        Ok(names) => Ok(names
            .iter()
            .filter_map(|name| segment_number(name))
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(RecoverError::Io {
            file: DIRECTORY.to_owned(),
            source,
        }),
    }
}

fn open(disk: &dyn Disk, segment: u32) -> Result<(Box<dyn DiskFile>, u64), RecoverError> {
    let file = disk
        .open(&segment_name(segment))
        .map_err(|source| io_error(segment, source))?;
    let bytes = file.len().map_err(|source| io_error(segment, source))?;
    if bytes > SEGMENT_BYTES_MAX {
        return Err(RecoverError::TooLong {
            file: segment_name(segment),
            bytes,
        });
    }
    Ok((file, bytes))
}

pub(super) fn read_segment(
    disk: &dyn Disk,
    segment: u32,
    bytes: &mut Vec<u8>,
) -> Result<(), RecoverError> {
    let (file, length) = open(disk, segment)?;
    bytes.resize(length as usize, 0);
    let count = file
        .read_full(0, bytes)
        .map_err(|source| io_error(segment, source))?;
    bytes.truncate(count);
    Ok(())
}

fn io_error(segment: u32, source: io::Error) -> RecoverError {
    RecoverError::Io {
        file: segment_name(segment),
        source,
    }
}
