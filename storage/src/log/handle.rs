//! The log as its users see it.
//!
//! Invariant (I1): when [`Log::start`] returns, all that recovery handed out is durable, whatever the process before left
//! unsynced or in memory only; and no segment is reused that a checkpoint may still name.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::queue::Shared;
use super::recover::{Recovered, Tail};
use super::writer::{self, LogWriter};
use super::{DIRECTORY, LogConfig, LogFailed, LogPosition, segment_name};
use crate::disk::Disk;

/// The log as its users see it. Clones share it.
#[derive(Clone)]
pub struct Log {
    pub(super) shared: Arc<Shared>,
}

impl Log {
    /// Starts the log after a recovery. When this returns, all that was recovered is durable, whatever the process
    /// before left unsynced. The writer's first steps open a new segment.
    pub fn start(
        disk: Arc<dyn Disk>,
        config: LogConfig,
        mut recovered: Recovered,
    ) -> io::Result<(Log, LogWriter)> {
        prepare_directory(disk.as_ref(), &config, &mut recovered)?;
        if let Some(tail) = recovered.tail.take() {
            harden(disk.as_ref(), &tail)?;
        }
        let last = recovered.last_sequence;
        let shared = Arc::new(Shared::new(disk, config, recovered.segments, last));
        let log = Log {
            shared: shared.clone(),
        };
        Ok((log, writer::start(shared, last)))
    }

    /// Appends the record that `encode` writes to the end of its buffer; returns the record's sequence. Copies memory
    /// and nothing else: fit to be called under a lock. Callers ask [`Log::has_room`] before they get that far.
    ///
    /// After a failure the record is dropped; its sequence never becomes durable.
    ///
    /// # Panics
    /// If the record is longer than [`super::RECORD_BYTES_MAX`].
    pub fn append(&self, encode: impl FnOnce(&mut Vec<u8>)) -> u64 {
        self.shared.append(encode)
    }

    /// Whether more records may come: the queue is below its limit, the disk has space for segments, the drain
    /// keeps up with them, and the log did not fail.
    pub fn has_room(&self) -> bool {
        self.shared.has_room()
    }

    /// Record bytes appended and not yet durable.
    pub fn queued_bytes(&self) -> usize {
        self.shared.queued_bytes()
    }

    /// Sequence of the last record appended; 0 if there never was one.
    pub fn last(&self) -> u64 {
        self.shared.last()
    }

    /// The highest sequence up to which every record is durable. It wakes without a change when the log fails.
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.shared.subscribe()
    }

    /// The current value of [`Log::durable`].
    pub fn durable_now(&self) -> u64 {
        self.shared.durable_now()
    }

    /// Waits until the record of this sequence is durable, or the log has failed.
    pub async fn wait_durable(&self, sequence: u64) -> Result<(), LogFailed> {
        let mut durable = self.durable();
        loop {
            if *durable.borrow_and_update() >= sequence {
                return Ok(());
            }
            if let Some(failed) = self.failed() {
                return Err(failed);
            }
            durable
                .changed()
                .await
                .expect("the handle keeps the sender alive");
        }
    }

    /// How the log failed, if it did.
    pub fn failed(&self) -> Option<LogFailed> {
        self.shared.failed()
    }

    /// The first segment that recovery would need if all records up to `through` were safe elsewhere: what a
    /// checkpoint at `through` has to name.
    pub fn first_live(&self, through: u64) -> LogPosition {
        self.shared.segments().first_live(through)
    }

    /// Allows the segments before `first_live` to be reused. Only after every checkpoint that a start may read names
    /// this position or a later one, durably: see
    /// [`CheckpointFile::log_position`](crate::checkpoint::CheckpointFile::log_position).
    pub fn release(&self, first_live: LogPosition) {
        let live = {
            let mut segments = self.shared.segments();
            segments.release(first_live);
            segments.live_count()
        };
        self.shared.set_live_segments(live);
    }

    /// Number of live and of spare segments.
    pub fn segment_counts(&self) -> (usize, usize) {
        let segments = self.shared.segments();
        (segments.live_count(), segments.spare_count())
    }

    /// Keeps one spare segment ready, and no more than a few. Blocking; called off the hot path (by the drain). True
    /// if something was done. An error is not fatal: the writer makes a segment when it needs one.
    pub fn tend_spares(&self) -> io::Result<bool> {
        writer::tend_spares(&self.shared)
    }

    /// Says that no more records will come: the writer writes what is queued, seals it, and is then closed.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Sleeps until there is work for the writer, or `timeout` has passed. True if there is work. For the thread that
    /// drives the writer; one at a time.
    pub fn wait_for_work(&self, timeout: Duration) -> bool {
        self.shared.wait_for_work(timeout)
    }
}

/// Makes the directory, removes files that a crash left unfinished, and makes the names of the others durable: a
/// process that died may have made them without getting as far as that.
fn prepare_directory(
    disk: &dyn Disk,
    config: &LogConfig,
    recovered: &mut Recovered,
) -> io::Result<()> {
    disk.create_dir(DIRECTORY)?;
    disk.sync_dir("")?;
    while let Some(segment) = recovered.segments.take_unfinished(config.segment_bytes) {
        disk.remove(&segment_name(segment))?;
    }
    disk.sync_dir(DIRECTORY)
}

/// Writes the last group again, as it is, and syncs it: a process that died may have left it unsynced, or after a failed
/// sync in memory only, where another sync alone would not help.
fn harden(disk: &dyn Disk, tail: &Tail) -> io::Result<()> {
    let file = disk.open(&segment_name(tail.segment))?;
    file.write_at(tail.offset, &tail.bytes)?;
    file.sync_data()
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("last", &self.last())
            .field("durable", &self.durable_now())
            .finish()
    }
}
