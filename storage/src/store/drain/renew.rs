//! When the engine is [renewed](crate::engine::renew), and how fast: while no drain is due, in small steps with rests between
//! them. What is frozen comes first, and closing, or a disk that fills up, ends a copy at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{DrainFailed, DrainStep, Drainer, Stage};
use crate::disk::Disk;
use crate::engine::Engine;
use crate::engine::renew::CopyStep;

/// An engine is renewed when it takes more than this multiple of what its rows come to, and the offset. sled that was just
/// filled takes two to three times as much, so what is renewed is not due again before much has changed.
const WASTE_FACTOR: u64 = 4;

/// Default of the offset, in bytes: below it the space does not matter, and sled's own segments are half a MiB each.
pub const RENEW_OFFSET_BYTES_DEFAULT: u64 = 64 << 20;

/// Default of the rows that one step copies at most: about a millisecond of sled's time.
pub const RENEW_STEP_ROWS_DEFAULT: usize = 128;

/// A copy is begun only with this multiple of what the rows come to free on the disk, and the offset: it takes less, and a
/// disk must not become full by what is to free it.
const FREE_FACTOR: u64 = 3;

/// Rest after a step, in ms: a step takes about one, so a copy takes a tenth of the drain's thread.
const REST_MS: u64 = 10;

/// How long after a copy that could not be made none is tried, in ms.
const RETRY_MS: u64 = 60 * 60 * 1_000;

/// When the engine is renewed.
pub(in crate::store) struct Renewer {
    disk: Arc<dyn Disk>,
    offset_bytes: u64,
    step_rows: usize,
    /// The number of drains when the engine's size was last looked at: it does not change without one.
    looked_at: Option<u64>,
    /// No copy is tried before, by the drain's clock.
    not_before_ms: u64,
    /// What the engine took when it was last renewed.
    renewed_bytes: u64,
}

impl Renewer {
    pub(in crate::store) fn new(disk: Arc<dyn Disk>, offset_bytes: u64, step_rows: usize) -> Self {
        Self {
            disk,
            offset_bytes,
            step_rows,
            looked_at: None,
            not_before_ms: 0,
            renewed_bytes: 0,
        }
    }

    /// Whether an engine of this size is due. One that is no smaller right after it was renewed is not worth it again until it
    /// has doubled.
    fn is_due(&self, disk_bytes: u64, live_bytes: u64) -> bool {
        let allowed = live_bytes.saturating_mul(WASTE_FACTOR);
        disk_bytes > allowed.saturating_add(self.offset_bytes)
            && disk_bytes >= self.renewed_bytes.saturating_mul(2)
    }

    fn has_space(&self, live_bytes: u64) -> bool {
        let needed = live_bytes.saturating_mul(FREE_FACTOR);
        let space = self.disk.space();
        space.is_ok_and(|space| space.free_bytes >= needed.saturating_add(self.offset_bytes))
    }
}

impl Drainer {
    /// A step of whatever a renewal needs; to be called when nothing else is to be done.
    pub(super) fn renew(&mut self, now_ms: u64) -> Result<DrainStep, DrainFailed> {
        let inner = Arc::clone(&self.inner);
        if inner.engine.is_copying() {
            if inner.out_of_space.load(Ordering::Acquire) {
                self.renewer.not_before_ms = now_ms + RETRY_MS;
                inner.engine.end_copy();
                tracing::warn!("free space is low: the storage engine is not renewed for now");
                return self.worked(Stage::Idle);
            }
            self.copy(now_ms)?;
            return self.go(Stage::Idle, DrainStep::Worked { rest_ms: REST_MS });
        }
        if inner.engine.remove_superseded() && self.look(now_ms) {
            return self.worked(Stage::Idle);
        }
        self.go(Stage::Idle, DrainStep::Idle)
    }

    fn copy(&mut self, now_ms: u64) -> Result<(), DrainFailed> {
        let inner = &*self.inner;
        // A copy's flush may hang like any other.
        inner.flush_began_ms.store(now_ms.max(1), Ordering::Relaxed);
        let copied = inner.engine.copy_step(self.renewer.step_rows);
        inner.flush_began_ms.store(0, Ordering::Relaxed);
        match copied? {
            CopyStep::Copied => {}
            CopyStep::Switched => {
                let (before, now) = (inner.engine_bytes.load(Ordering::Relaxed), self.measure());
                self.renewer.renewed_bytes = now.unwrap_or(0);
                tracing::info!(before, now, "the storage engine was renewed");
            }
            CopyStep::GivenUp(why) => self.put_off(now_ms, &why),
        }
        Ok(())
    }

    /// Begins a copy if the engine is due. True: it has.
    fn look(&mut self, now_ms: u64) -> bool {
        let inner = Arc::clone(&self.inner);
        let drains = inner.drains.load(Ordering::Relaxed);
        if self.renewer.looked_at == Some(drains) || now_ms < self.renewer.not_before_ms {
            return false;
        }
        self.renewer.looked_at = Some(drains);
        let Some(disk_bytes) = self.measure() else {
            return false;
        };
        let live_bytes = inner.engine.live_bytes();
        let full = inner.out_of_space.load(Ordering::Acquire);
        if full || !self.renewer.is_due(disk_bytes, live_bytes) {
            return false;
        }
        if !self.renewer.has_space(live_bytes) {
            self.put_off(now_ms, "there is not enough free space");
            return false;
        }
        tracing::info!(
            disk_bytes,
            live_bytes,
            "the storage engine is being renewed"
        );
        match inner.engine.begin_copy() {
            Ok(()) => true,
            Err(error) => {
                self.put_off(now_ms, &error.to_string());
                false
            }
        }
    }

    fn put_off(&mut self, now_ms: u64, why: &str) {
        self.renewer.not_before_ms = now_ms + RETRY_MS;
        self.renewer.looked_at = None;
        tracing::warn!(
            why,
            "the storage engine could not be renewed; nothing is lost"
        );
    }

    /// Looks what the engine takes on the disk.
    fn measure(&self) -> Option<u64> {
        match self.inner.engine.disk_bytes() {
            Ok(bytes) => {
                self.inner.engine_bytes.store(bytes, Ordering::Relaxed);
                Some(bytes)
            }
            Err(error) => {
                tracing::warn!(%error, "the size of the storage engine is unknown");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;

    #[test]
    fn an_engine_is_due_when_it_wastes_much_and_renewing_helps() {
        let disk = SimDisk::new(1);
        let mut renewer = Renewer::new(Arc::new(disk.clone()), 1_000, 1);
        assert!(!renewer.is_due(5_000, 1_000));
        assert!(renewer.is_due(5_001, 1_000));
        assert!(!renewer.is_due(1_000, 0));
        renewer.renewed_bytes = 3_000;
        assert!(!renewer.is_due(5_999, 1_000));
        assert!(renewer.is_due(6_000, 1_000));
        assert!(!renewer.is_due(u64::MAX, u64::MAX));

        disk.set_capacity(4_000);
        assert!(renewer.has_space(1_000));
        assert!(!renewer.has_space(1_001));
    }
}
