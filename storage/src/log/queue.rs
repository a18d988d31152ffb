//! The shared handle: records are copied into the open group under a mutex, and that is all an append does.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::format::{GROUP_HEADER_BYTES, RECORD_PREFIX_BYTES};
use super::recover::{Recovered, Tail};
use super::segments::Segments;
use super::writer::{self, LogWriter};
use super::{
    DIRECTORY, GROUP_BYTES_MAX, LogConfig, LogFailed, LogPosition, QUEUED_BYTES_MAX,
    RECORD_BYTES_MAX, SEGMENTS_MAX, segment_name,
};
use crate::disk::Disk;

/// Group buffers kept for reuse.
const POOL_BUFFERS_MAX: usize = 4;

/// Capacity past which a buffer is not kept.
const POOL_BUFFER_BYTES_MAX: usize = 2 * GROUP_BYTES_MAX;

/// The log as its users see it. Clones share it.
#[derive(Clone)]
pub struct Log {
    pub(super) shared: Arc<Shared>,
}

/// What the handle and the writer share. The two locks are never held together.
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) config: LogConfig,
    queue: Mutex<Queue>,
    work: Condvar,
    durable: watch::Sender<u64>,
    segments: Mutex<Segments>,
}

/// Records in the making of one group. The bytes start with room for the header.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) bytes: Vec<u8>,
    pub(super) first: u64,
    pub(super) count: u32,
}

impl Group {
    pub(super) fn new(mut bytes: Vec<u8>, first: u64) -> Self {
        bytes.clear();
        bytes.resize(GROUP_HEADER_BYTES, 0);
        Self {
            bytes,
            first,
            count: 0,
        }
    }

    /// Bytes of records and their prefixes.
    pub(super) fn length(&self) -> usize {
        self.bytes.len() - GROUP_HEADER_BYTES
    }
}

struct Queue {
    /// Closed groups, oldest first.
    closed: VecDeque<Group>,
    open: Group,
    /// The sequence that the next record gets.
    next: u64,
    /// Record bytes appended and not yet durable.
    queued_bytes: usize,
    live_segments: usize,
    pool: Vec<Vec<u8>>,
    /// No more work will come.
    closing: bool,
    /// The disk was too full for a new segment.
    stalled: bool,
    /// The writer sleeps on the condition variable.
    waiting: bool,
    failed: Option<LogFailed>,
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
        let next = recovered.last_sequence + 1;
        let queue = Queue {
            closed: VecDeque::new(),
            open: Group::new(Vec::with_capacity(GROUP_BYTES_MAX), next),
            next,
            queued_bytes: 0,
            live_segments: recovered.segments.live_count(),
            pool: Vec::new(),
            closing: false,
            stalled: false,
            waiting: false,
            failed: None,
        };
        let shared = Arc::new(Shared {
            disk,
            config,
            queue: Mutex::new(queue),
            work: Condvar::new(),
            durable: watch::Sender::new(recovered.last_sequence),
            segments: Mutex::new(recovered.segments),
        });
        let log = Log {
            shared: shared.clone(),
        };
        Ok((log, writer::start(shared, recovered.last_sequence)))
    }

    /// Appends the record that `encode` writes to the end of its buffer; returns the record's sequence. Copies memory
    /// and nothing else: fit to be called under a lock. Callers ask [`Log::has_room`] before they get that far.
    ///
    /// After a failure the record is dropped; its sequence never becomes durable.
    ///
    /// # Panics
    /// If the record is longer than [`RECORD_BYTES_MAX`].
    pub fn append(&self, encode: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let mut queue = self.shared.queue();
        let sequence = queue.next;
        queue.next += 1;
        if queue.failed.is_none() {
            queue.push(sequence, encode);
            if queue.waiting {
                queue.waiting = false;
                self.shared.work.notify_all();
            }
        }
        sequence
    }

    /// Whether more records may come: the queue is below its limit, the disk has space for segments, the drain
    /// keeps up with them, and the log did not fail.
    pub fn has_room(&self) -> bool {
        let queue = self.shared.queue();
        queue.queued_bytes < QUEUED_BYTES_MAX
            && queue.live_segments <= SEGMENTS_MAX
            && !queue.stalled
            && queue.failed.is_none()
    }

    /// Record bytes appended and not yet durable.
    pub fn queued_bytes(&self) -> usize {
        self.shared.queue().queued_bytes
    }

    /// Sequence of the last record appended; 0 if there never was one.
    pub fn last(&self) -> u64 {
        self.shared.queue().next - 1
    }

    /// The highest sequence up to which every record is durable. It wakes without a change when the log fails.
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.shared.durable.subscribe()
    }

    /// The current value of [`Log::durable`].
    pub fn durable_now(&self) -> u64 {
        *self.shared.durable.borrow()
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
        self.shared.queue().failed.clone()
    }

    /// The first segment that recovery would need if all records up to `through` were safe elsewhere: what a
    /// checkpoint at `through` has to name.
    pub fn first_live(&self, through: u64) -> LogPosition {
        self.shared.segments().first_live(through)
    }

    /// Allows segments whose records are all ≤ `through` to be reused. Only after a checkpoint that names
    /// [`Log::first_live`] of the same sequence is durable.
    pub fn release(&self, through: u64) {
        let live = {
            let mut segments = self.shared.segments();
            segments.release(through);
            segments.live_count()
        };
        self.shared.queue().live_segments = live;
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
        self.shared.queue().closing = true;
        self.shared.work.notify_all();
    }

    /// Sleeps until there is work for the writer, or `timeout` has passed. True if there is work. For the thread that
    /// drives the writer; one at a time.
    pub fn wait_for_work(&self, timeout: Duration) -> bool {
        let mut queue = self.shared.queue();
        queue.waiting = true;
        let idle = |queue: &mut Queue| !queue.has_work();
        let (mut queue, _) = self
            .shared
            .work
            .wait_timeout_while(queue, timeout, idle)
            .expect("no holder panics");
        queue.waiting = false;
        queue.has_work()
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

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("last", &self.last())
            .field("durable", &self.durable_now())
            .finish()
    }
}

impl Queue {
    fn has_work(&self) -> bool {
        !self.closed.is_empty() || self.open.count > 0 || self.closing || self.failed.is_some()
    }

    fn push(&mut self, sequence: u64, encode: impl FnOnce(&mut Vec<u8>)) {
        let start = self.open.bytes.len();
        self.open.bytes.extend_from_slice(&[0; RECORD_PREFIX_BYTES]);
        encode(&mut self.open.bytes);
        let length = self
            .open
            .bytes
            .len()
            .checked_sub(start + RECORD_PREFIX_BYTES)
            .expect("an encoder only adds");
        assert!(
            length <= RECORD_BYTES_MAX,
            "a log record of {length} bytes is over the limit of {RECORD_BYTES_MAX}"
        );
        self.open.bytes[start..start + RECORD_PREFIX_BYTES]
            .copy_from_slice(&(length as u32).to_le_bytes());
        self.queued_bytes += length + RECORD_PREFIX_BYTES;
        if self.open.count > 0 && self.open.length() > GROUP_BYTES_MAX {
            let fresh = self.fresh(sequence);
            let mut former = std::mem::replace(&mut self.open, fresh);
            self.open.bytes.extend_from_slice(&former.bytes[start..]);
            former.bytes.truncate(start);
            self.closed.push_back(former);
        }
        self.open.count += 1;
        if self.open.length() >= GROUP_BYTES_MAX {
            let fresh = self.fresh(sequence + 1);
            self.closed
                .push_back(std::mem::replace(&mut self.open, fresh));
        }
    }

    fn fresh(&mut self, first: u64) -> Group {
        let buffer = self
            .pool
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(GROUP_BYTES_MAX));
        Group::new(buffer, first)
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue
            .lock()
            .expect("no holder of the log's queue panics")
    }

    pub(super) fn segments(&self) -> MutexGuard<'_, Segments> {
        self.segments
            .lock()
            .expect("no holder of the log's segments panics")
    }

    /// The next group to write: the oldest closed one, else whatever the open one holds.
    pub(super) fn take_group(&self) -> Option<Group> {
        let mut queue = self.queue();
        if let Some(group) = queue.closed.pop_front() {
            return Some(group);
        }
        if queue.open.count == 0 {
            return None;
        }
        let next = queue.next;
        let fresh = queue.fresh(next);
        Some(std::mem::replace(&mut queue.open, fresh))
    }

    /// A group of `length` record bytes, up to sequence `last`, is durable. Takes its buffer back.
    pub(super) fn group_durable(&self, buffer: Vec<u8>, length: usize, last: u64) {
        {
            let mut queue = self.queue();
            queue.queued_bytes -= length;
            if length > 0
                && queue.pool.len() < POOL_BUFFERS_MAX
                && buffer.capacity() <= POOL_BUFFER_BYTES_MAX
            {
                queue.pool.push(buffer);
            }
        }
        self.publish(last);
    }

    /// Publishes that all records up to `last` are durable.
    pub(super) fn publish(&self, last: u64) {
        self.durable.send_if_modified(|durable| {
            let more = last > *durable;
            *durable = last.max(*durable);
            more
        });
    }

    pub(super) fn is_closing(&self) -> bool {
        self.queue().closing
    }

    /// Whether records wait that no group was taken for.
    pub(super) fn has_queued(&self) -> bool {
        let queue = self.queue();
        !queue.closed.is_empty() || queue.open.count > 0
    }

    pub(super) fn set_stalled(&self, stalled: bool) {
        self.queue().stalled = stalled;
    }

    pub(super) fn set_live_segments(&self, count: usize) {
        self.queue().live_segments = count;
    }

    /// Fails the log for good: drops what is queued and wakes all who wait.
    pub(super) fn fail(&self, failed: LogFailed) {
        {
            let mut queue = self.queue();
            queue.closed.clear();
            let next = queue.next;
            queue.open = Group::new(Vec::new(), next);
            queue.queued_bytes = 0;
            queue.failed = Some(failed);
        }
        self.work.notify_all();
        self.durable.send_modify(|_| {});
    }

    pub(super) fn failed(&self) -> Option<LogFailed> {
        self.queue().failed.clone()
    }
}
