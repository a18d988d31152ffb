//! The step machine that writes groups: at most one disk action a step, so that a crash can fall between any two.
//!
//! Invariant (I1): a group is written only after the one before is synced, and the durable sequence is published only
//! after the sync of its group returned `Ok`. Any failed write or sync ends the log for good.

use std::io;
use std::sync::Arc;

use super::format::{GroupHeader, SegmentHeader, padded};
use super::queue::{Group, Shared};
use super::segments::Live;
use super::{DIRECTORY, LogFailed, LogPosition, SPARES_MAX, segment_name};
use crate::disk::DiskFile;
use crate::mutants::{Mutant, is_planted};

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStep {
    /// One disk action; there may be more to do.
    Worked,
    /// Nothing to do.
    Idle,
    /// The disk has no space for a new segment: nothing was written, a later step tries again.
    Full,
    /// Closed: everything is written and sealed.
    Closed,
}

/// The writing half of the log; there is one, driven by one thread or task.
#[derive(Debug)]
pub struct LogWriter {
    shared: Arc<Shared>,
    stage: Stage,
    current: Option<Current>,
    /// A group that waits for a segment that it fits into.
    held: Option<Group>,
    /// Sequence of the last record written.
    last: u64,
    /// The last group is not yet proven durable by anything after it.
    unsealed: bool,
    seal_wanted: bool,
}

/// What the next step does.
#[derive(Debug)]
enum Stage {
    /// Looks for work.
    Ready,
    Allocate(Opening),
    SyncNew(Opening),
    SyncName(Opening),
    Header(Opening),
    SyncHeader(Opening, LogPosition),
    /// The group, its length of records, its last sequence.
    Sync(Vec<u8>, usize, u64),
}

/// A segment file on its way to become the current segment.
#[derive(Debug)]
struct Opening {
    file: Box<dyn DiskFile>,
    segment: u32,
    bytes: u64,
}

/// The segment being written.
#[derive(Debug)]
struct Current {
    file: Box<dyn DiskFile>,
    position: LogPosition,
    bytes: u64,
    /// Where the next group goes.
    at: u64,
}

/// The writer of a log that was recovered up to `last`.
pub(super) fn start(shared: Arc<Shared>, last: u64) -> LogWriter {
    LogWriter {
        shared,
        stage: Stage::Ready,
        current: None,
        held: None,
        last,
        unsealed: false,
        seal_wanted: false,
    }
}

impl LogWriter {
    /// Does at most one disk action.
    pub fn step(&mut self) -> Result<LogStep, LogFailed> {
        if let Some(failed) = self.shared.failed() {
            return Err(failed);
        }
        let result = self.advance();
        if let Err(failed) = &result {
            self.shared.fail(failed.clone());
        }
        result
    }

    /// Asks for an empty group after the last one, which proves that one durable: called after
    /// [`super::SEAL_AFTER`] without work. The next steps write it. Does nothing if the last group is sealed.
    pub fn seal(&mut self) {
        self.seal_wanted = self.unsealed;
    }

    /// Whether the last group is proven durable by something after it, and nothing waits.
    pub fn is_sealed(&self) -> bool {
        !self.unsealed
    }

    fn advance(&mut self) -> Result<LogStep, LogFailed> {
        match std::mem::replace(&mut self.stage, Stage::Ready) {
            Stage::Ready => return self.look_for_work(),
            Stage::Allocate(new) => return self.allocate(new),
            Stage::SyncNew(new) => {
                new.file.sync_data().map_err(failed("sync", new.segment))?;
                self.stage = Stage::SyncName(new);
            }
            Stage::SyncName(new) => {
                self.shared
                    .disk
                    .sync_dir(DIRECTORY)
                    .map_err(failed("sync the directory of", new.segment))?;
                self.stage = Stage::Header(new);
            }
            Stage::Header(opening) => self.write_header(opening)?,
            Stage::SyncHeader(opening, position) => self.opened(opening, position)?,
            Stage::Sync(bytes, length, last) => self.sync_group(bytes, length, last)?,
        }
        Ok(LogStep::Worked)
    }

    fn look_for_work(&mut self) -> Result<LogStep, LogFailed> {
        if self.current.is_none() {
            return self.open_segment(0);
        }
        if let Some(group) = self.held.take().or_else(|| self.shared.take_group()) {
            return self.write_or_hold(group);
        }
        let closing = self.shared.is_closing();
        if self.unsealed && (self.seal_wanted || closing) {
            return self.write_or_hold(Group::new(Vec::new(), self.last + 1));
        }
        Ok(if closing {
            LogStep::Closed
        } else {
            LogStep::Idle
        })
    }

    /// Writes a group if the segment has room for it, else holds it and sees to another segment.
    fn write_or_hold(&mut self, group: Group) -> Result<LogStep, LogFailed> {
        let need = padded(group.bytes.len()) as u64;
        let current = self.current.as_ref().expect("looked for");
        if current.at + need <= current.bytes {
            return self.write_group(group);
        }
        // A new segment's header proves the last group durable: no seal is needed then.
        if group.count > 0 {
            self.held = Some(group);
        }
        self.open_segment(need)
    }

    fn write_group(&mut self, mut group: Group) -> Result<LogStep, LogFailed> {
        let current = self.current.as_mut().expect("looked for");
        let length = group.length();
        let header = GroupHeader {
            generation: current.position.generation,
            first: group.first,
            count: group.count,
            length: length as u32,
        };
        header.finish(&mut group.bytes, self.shared.config.salt);
        group.bytes.resize(padded(group.bytes.len()), 0);
        current
            .file
            .write_at(current.at, &group.bytes)
            .map_err(failed("write", current.position.segment))?;
        current.at += group.bytes.len() as u64;
        self.stage = Stage::Sync(group.bytes, length, header.next() - 1);
        Ok(LogStep::Worked)
    }

    fn sync_group(&mut self, bytes: Vec<u8>, length: usize, last: u64) -> Result<(), LogFailed> {
        let current = self.current.as_ref().expect("a group was written into it");
        if !is_planted(Mutant::SkipSync) {
            current
                .file
                .sync_data()
                .map_err(failed("sync", current.position.segment))?;
        }
        // An empty group proves the last one and needs no proof itself.
        self.unsealed = length > 0;
        self.seal_wanted = false;
        self.last = last;
        self.shared.group_durable(bytes, length, last);
        Ok(())
    }

    /// First action toward a new current segment with room for a group of `need` bytes.
    fn open_segment(&mut self, need: u64) -> Result<LogStep, LogFailed> {
        let bytes = segment_bytes(&self.shared, need);
        let spare = self.shared.segments().take_spare(bytes);
        if let Some((segment, bytes)) = spare {
            let file = self
                .shared
                .disk
                .open(&segment_name(segment))
                .map_err(failed("open", segment))?;
            return self
                .write_header(Opening {
                    file,
                    segment,
                    bytes,
                })
                .map(|()| LogStep::Worked);
        }
        let segment = self.shared.segments().next_file();
        match self.shared.disk.create(&segment_name(segment)) {
            Ok(file) => {
                self.stage = Stage::Allocate(Opening {
                    file,
                    segment,
                    bytes,
                });
                Ok(LogStep::Worked)
            }
            Err(error) if is_full(&error) => Ok(self.stalled()),
            Err(error) => Err(failed("create", segment)(error)),
        }
    }

    /// Fills a new file with zeros. A full disk is no failure: nothing of value was to be written yet.
    fn allocate(&mut self, new: Opening) -> Result<LogStep, LogFailed> {
        match new.file.allocate_zeroed(new.bytes) {
            Ok(()) => {
                self.stage = Stage::SyncNew(new);
                Ok(LogStep::Worked)
            }
            Err(error) if is_full(&error) => {
                self.shared
                    .disk
                    .remove(&segment_name(new.segment))
                    .map_err(failed("remove", new.segment))?;
                Ok(self.stalled())
            }
            Err(error) => Err(failed("fill", new.segment)(error)),
        }
    }

    /// There is no space for a segment. A log that closes with nothing but a seal to write does without it.
    fn stalled(&mut self) -> LogStep {
        if self.held.is_none() && self.shared.is_closing() && !self.shared.has_queued() {
            return LogStep::Closed;
        }
        self.shared.set_stalled(true);
        LogStep::Full
    }

    fn write_header(&mut self, opening: Opening) -> Result<(), LogFailed> {
        let generation = self.shared.segments().next_generation();
        let header = SegmentHeader {
            generation,
            first: self.last + 1,
        };
        let block = header.encode(self.shared.config.salt);
        opening
            .file
            .write_at(0, &block)
            .map_err(failed("write", opening.segment))?;
        let position = LogPosition {
            generation,
            segment: opening.segment,
        };
        self.stage = Stage::SyncHeader(opening, position);
        Ok(())
    }

    fn opened(&mut self, opening: Opening, position: LogPosition) -> Result<(), LogFailed> {
        let Opening {
            file,
            segment,
            bytes,
        } = opening;
        file.sync_data().map_err(failed("sync", segment))?;
        let count = {
            let mut segments = self.shared.segments();
            segments.opened(Live {
                position,
                first: self.last + 1,
                bytes,
            });
            segments.live_count()
        };
        self.shared.set_live_segments(count);
        self.shared.set_stalled(false);
        self.current = Some(Current {
            file,
            position,
            bytes,
            at: super::format::BLOCK_BYTES as u64,
        });
        self.unsealed = false;
        self.seal_wanted = false;
        Ok(())
    }
}

/// See [`super::Log::tend_spares`].
pub(super) fn tend_spares(shared: &Shared) -> io::Result<bool> {
    let surplus = shared.segments().take_surplus(SPARES_MAX);
    if let Some(segment) = surplus {
        shared.disk.remove(&segment_name(segment))?;
        return Ok(true);
    }
    let segment = {
        let mut segments = shared.segments();
        if segments.spare_count() > 0 {
            return Ok(false);
        }
        segments.next_file()
    };
    let bytes = segment_bytes(shared, 0);
    let name = segment_name(segment);
    let made = shared.disk.create(&name).and_then(|file| {
        file.allocate_zeroed(bytes)?;
        file.sync_data()?;
        shared.disk.sync_dir(DIRECTORY)
    });
    match made {
        Ok(()) => {
            shared.segments().add_spare(segment, bytes);
            Ok(true)
        }
        Err(error) => {
            // Best effort: what stays is found, and used or removed, by the next start.
            let _ = shared.disk.remove(&name);
            Err(error)
        }
    }
}

/// Length of a new segment that has room for a group of `need` bytes: the configured one, or more for a large record.
fn segment_bytes(shared: &Shared, need: u64) -> u64 {
    let header = super::format::BLOCK_BYTES as u64;
    shared
        .config
        .segment_bytes
        .max(header + need)
        .next_multiple_of(header)
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn failed(action: &'static str, segment: u32) -> impl FnOnce(io::Error) -> LogFailed {
    move |error| LogFailed::new(action, segment_name(segment), &error)
}
