//! What the handle and the writer share: the queue of groups. Records are copied into the open group under a mutex, and
//! that is all an append does.
//!
//! Invariant (I7): past the named limits [`Shared::has_room`] says no, before anything is appended.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::format::{GROUP_HEADER_BYTES, RECORD_PREFIX_BYTES};
use super::segments::Segments;
use super::{
    GROUP_BYTES_MAX, LogConfig, LogFailed, QUEUED_BYTES_MAX, RECORD_BYTES_MAX, SEGMENTS_MAX,
};
use crate::disk::Disk;

/// Group buffers kept for reuse.
const POOL_BUFFERS_MAX: usize = 4;

/// Capacity past which a buffer is not kept.
const POOL_BUFFER_BYTES_MAX: usize = 2 * GROUP_BYTES_MAX;

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

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .finish_non_exhaustive()
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
    /// The state of a log whose records up to `last` are durable.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        config: LogConfig,
        segments: Segments,
        last: u64,
    ) -> Self {
        let queue = Queue {
            closed: VecDeque::new(),
            open: Group::new(Vec::with_capacity(GROUP_BYTES_MAX), last + 1),
            next: last + 1,
            queued_bytes: 0,
            live_segments: segments.live_count(),
            pool: Vec::new(),
            closing: false,
            stalled: false,
            waiting: false,
            failed: None,
        };
        Self {
            disk,
            config,
            queue: Mutex::new(queue),
            work: Condvar::new(),
            durable: watch::Sender::new(last),
            segments: Mutex::new(segments),
        }
    }

    /// See [`super::Log::append`].
    pub(super) fn append(&self, encode: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let mut queue = self.queue();
        let sequence = queue.next;
        queue.next += 1;
        if queue.failed.is_none() {
            queue.push(sequence, encode);
            if queue.waiting {
                queue.waiting = false;
                self.work.notify_all();
            }
        }
        sequence
    }

    /// See [`super::Log::has_room`].
    pub(super) fn has_room(&self) -> bool {
        let queue = self.queue();
        queue.queued_bytes < QUEUED_BYTES_MAX
            && queue.live_segments <= SEGMENTS_MAX
            && !queue.stalled
            && queue.failed.is_none()
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.queue().queued_bytes
    }

    pub(super) fn last(&self) -> u64 {
        self.queue().next - 1
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.durable.subscribe()
    }

    pub(super) fn durable_now(&self) -> u64 {
        *self.durable.borrow()
    }

    pub(super) fn close(&self) {
        self.queue().closing = true;
        self.work.notify_all();
    }

    /// See [`super::Log::wait_for_work`].
    pub(super) fn wait_for_work(&self, timeout: Duration) -> bool {
        let mut queue = self.queue();
        queue.waiting = true;
        let idle = |queue: &mut Queue| !queue.has_work();
        let waited = self.work.wait_timeout_while(queue, timeout, idle);
        let (mut queue, _) = waited.expect("no holder of the log's queue panics");
        queue.waiting = false;
        queue.has_work()
    }

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
