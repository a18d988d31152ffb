//! How far a change of layouts is at this node, for operators.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ringfort_ring::Epoch;
use tokio::time::Instant;

use crate::metrics::Gauge;

/// What a node says of what it receives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// The layout that gives it; 0: none was received since the start.
    pub epoch: u64,
    /// Partitions that it gives.
    pub partitions: u64,
    /// Those that are received whole.
    pub received: u64,
    /// Of which too few copies are left that count: they are not received before the loss of the others is accepted.
    pub lost: u64,
    /// Bytes of objects received, since this process began with it.
    pub bytes: u64,
    /// Bytes a second, since then.
    pub bytes_per_s: u64,
    /// Milliseconds that the rest takes at this rate; 0: done, or unknown.
    pub left_ms: u64,
}

/// Counts; shared by the worker and by those who show it.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    figures: Figures,
    /// Partitions that were received before this process began.
    before: u64,
    began: Option<Instant>,
    last: Option<Instant>,
}

impl Progress {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many partitions are given by the layout of `epoch`, and so many of them are here.
    pub fn stands(&self, now: Instant, epoch: Epoch, partitions: usize, received: usize) {
        let mut counts = self.counts();
        if counts.figures.epoch != epoch.0 {
            counts.figures = Figures {
                epoch: epoch.0,
                ..Figures::default()
            };
            counts.before = received as u64;
            counts.began = Some(now);
        }
        counts.figures.partitions = partitions as u64;
        counts.figures.received = received as u64;
        counts.last = Some(now);
    }

    /// So many partitions cannot be received; gives whether that is news.
    pub fn lost(&self, partitions: usize) -> bool {
        let mut counts = self.counts();
        std::mem::replace(&mut counts.figures.lost, partitions as u64) != partitions as u64
    }

    /// Bytes came.
    pub fn came(&self, now: Instant, bytes: u64) {
        let mut counts = self.counts();
        counts.figures.bytes += bytes;
        counts.last = Some(now);
    }

    /// How it stands.
    pub fn figures(&self) -> Figures {
        let counts = self.counts();
        let mut figures = counts.figures;
        let ms = match (counts.began, counts.last) {
            (Some(began), Some(last)) => last.saturating_duration_since(began).as_millis() as u64,
            _ => 0,
        };
        figures.bytes_per_s = (figures.bytes * 1_000).checked_div(ms).unwrap_or(0);
        let done = figures.received.saturating_sub(counts.before);
        let left = figures.partitions.saturating_sub(figures.received);
        figures.left_ms = (ms * left).checked_div(done).unwrap_or(0);
        figures
    }
}

/// The figures for `/metrics`.
pub fn gauges(figures: Figures) -> Vec<Gauge> {
    let bytes = || Some(prometheus_client::registry::Unit::Bytes);
    vec![
        (
            "transfer_partitions",
            "Partitions that the newest change of layouts gives this node",
            None,
            figures.partitions as f64,
        ),
        (
            "transfer_partitions_received",
            "Those of them that were received whole",
            None,
            figures.received as f64,
        ),
        (
            "transfer_partitions_lost",
            "Those of them that too few copies are left of that count",
            None,
            figures.lost as f64,
        ),
        (
            "transfer_received",
            "Bytes of objects received in the newest change of layouts, since the start",
            bytes(),
            figures.bytes as f64,
        ),
        (
            "transfer_rate",
            "Bytes a second of it",
            bytes(),
            figures.bytes_per_s as f64,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn rate_and_rest_are_told_from_what_this_process_did() {
        let progress = Progress::default();
        assert_eq!(progress.figures(), Figures::default());
        let now = Instant::now();
        progress.stands(now, Epoch(2), 100, 40);
        assert_eq!(progress.figures().left_ms, 0, "nothing is known yet");
        progress.came(now + Duration::from_secs(2), 4_000);
        progress.stands(now + Duration::from_secs(2), Epoch(2), 100, 60);
        let figures = progress.figures();
        assert_eq!((figures.bytes, figures.bytes_per_s), (4_000, 2_000));
        assert_eq!(figures.left_ms, 4_000, "20 in 2 s, 40 are left");
        progress.stands(now, Epoch(4), 7, 0);
        assert_eq!(progress.figures().bytes, 0, "another change");
    }
}
