//! When there may be something to reap. Only ever *offers*: nothing rests on these times.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{ReapWindow, Reapable, Tomb};
use crate::engine::EngineError;
use crate::key::Key;
use crate::record::Record;
use crate::store::digest::token_range;
use crate::store::{Inner, Store};
use crate::version::{Object, Payload};

/// Nothing that is there will ever be due.
const NEVER: u64 = u64::MAX;

/// Keys that are looked at in one piece.
const PAGE_KEYS: usize = 1_024;

/// Bytes of records that are looked at in one piece, give or take one.
const PAGE_BYTES: usize = 1 << 20;

/// By partition: not before when a walk may find something; 0: not known.
pub(in crate::store) struct Dues {
    next: Box<[AtomicU64]>,
    soft_delete_ms: AtomicU64,
    grace_ms: AtomicU64,
}

impl Dues {
    pub(super) fn new(partitions: u32) -> Dues {
        Dues {
            next: (0..partitions).map(|_| AtomicU64::new(0)).collect(),
            soft_delete_ms: AtomicU64::new(0),
            grace_ms: AtomicU64::new(0),
        }
    }

    fn window(&self) -> ReapWindow {
        ReapWindow {
            soft_delete_ms: self.soft_delete_ms.load(Ordering::Relaxed),
            grace_ms: self.grace_ms.load(Ordering::Relaxed),
        }
    }

    /// From now on this window is reckoned with. With another one nothing is known any more.
    fn reckon_with(&self, window: ReapWindow) {
        if self.window() == window {
            return;
        }
        self.soft_delete_ms
            .store(window.soft_delete_ms, Ordering::Relaxed);
        self.grace_ms.store(window.grace_ms, Ordering::Relaxed);
        for next in &self.next {
            next.store(0, Ordering::Relaxed);
        }
    }

    fn next(&self, partition: u32) -> &AtomicU64 {
        &self.next[partition as usize]
    }

    /// An object has become this.
    fn note(&self, partition: u32, object: &Object) {
        if let Some(due_ms) = due_ms(object, self.window()) {
            self.next(partition).fetch_min(due_ms, Ordering::Relaxed);
        }
    }
}

/// When an object may be reaped; `None`: never as it is.
fn due_ms(object: &Object, window: ReapWindow) -> Option<u64> {
    if object.is_empty() {
        return None;
    }
    let mut dead_ms = 0;
    for sibling in object.siblings() {
        let sibling_ms = match &sibling.payload {
            Payload::Tombstone { .. } => {
                let at_ms = object.find(sibling.request).map_or(0, |entry| entry.at_ms);
                at_ms.saturating_add(window.soft_delete_ms)
            }
            Payload::Value(_) if sibling.expires_at_ms > 0 => sibling.expires_at_ms,
            Payload::Value(_) => return None,
        };
        dead_ms = dead_ms.max(sibling_ms);
    }
    // For so long after it a request may be sent again, and its answer rests on the object.
    let last_ms = object.applied().iter().map(|entry| entry.at_ms).max();
    let dead_ms = last_ms.unwrap_or(0).max(dead_ms);
    Some(dead_ms.saturating_add(window.grace_ms))
}

impl Inner {
    /// An object has become this: it may be reaped at some time.
    pub(in crate::store) fn note_due(&self, key: &Key, record: &Record) {
        let partition = self.partition_of(key.token());
        self.reaper.dues.note(partition, record.object());
    }
}

impl Store {
    /// Dead objects of a partition that are past the window at `now_ms`: at most `max` of them, and no more once they have `bytes_max`
    /// bytes.
    ///
    /// Blocks: to be run on the engine pool.
    ///
    /// # Errors
    /// [`EngineError`]: the engine is not to be used again, the process has to end.
    pub fn reapable(
        &self,
        partition: u32,
        now_ms: u64,
        window: ReapWindow,
        max: usize,
        bytes_max: usize,
    ) -> Result<Reapable, EngineError> {
        let dues = &self.inner.reaper.dues;
        dues.reckon_with(window);
        // What is written from now on is noted beside what the walk finds.
        dues.next(partition).store(NEVER, Ordering::Relaxed);
        let walked = self.walk(partition, now_ms, window, max, bytes_max);
        let next = walked.as_ref().map_or(0, |(_, next_ms)| *next_ms);
        dues.next(partition).fetch_min(next, Ordering::Relaxed);
        Ok(Reapable {
            tombs: walked?.0,
            next_due_ms: self.next_reapable_ms(partition),
        })
    }

    /// When [`Self::reapable`] may find something; `Some(0)`: not known yet. Takes no lock.
    pub fn next_reapable_ms(&self, partition: u32) -> Option<u64> {
        let next = self.inner.reaper.dues.next(partition);
        Some(next.load(Ordering::Relaxed)).filter(|next_ms| *next_ms != NEVER)
    }

    /// The dead objects, and when the next one may be due: at once, if any was found.
    fn walk(
        &self,
        partition: u32,
        now_ms: u64,
        window: ReapWindow,
        max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Tomb>, u64), EngineError> {
        let (mut first, last) = token_range(partition, self.inner.partitions);
        let (mut after, mut bytes, mut next_ms) = (None::<Key>, 0, NEVER);
        let mut tombs = Vec::new();
        loop {
            let framed = after.as_ref().map(|key| &key.framed()[..]);
            let page = self.scan_all(first, framed, last, PAGE_KEYS, PAGE_BYTES)?;
            for (key, record) in page.records {
                let Some(due_ms) = due_ms(record.object(), window) else {
                    continue;
                };
                // That one is on its way already.
                if self.is_absent(&key, record.leaf()) {
                    continue;
                }
                let tomb = Tomb {
                    leaf: record.leaf(),
                    clock: record.object().clock().clone(),
                    key,
                };
                if tomb.byte_len() > bytes_max {
                    // No list can ever have it.
                    continue;
                }
                next_ms = next_ms.min(due_ms);
                if due_ms > now_ms {
                    continue;
                }
                if tombs.len() >= max || bytes + tomb.byte_len() > bytes_max {
                    return Ok((tombs, next_ms));
                }
                bytes += tomb.byte_len();
                tombs.push(tomb);
            }
            let Some(next) = page.next else {
                return Ok((tombs, next_ms));
            };
            first = next.token();
            after = Some(next);
        }
    }
}
