//! What a node tells of the hints that it holds.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use prometheus_client::registry::Unit;
use ringfort_proto::peer;
use ringfort_ring::PartitionId;
use ringfort_storage::Store;

use super::Standings;
use crate::{clock::SteadyClock, metrics::Gauge, view::Views};

/// Counts, and what it takes to tell the rest; shared by the worker and by those who show it.
pub struct Figures {
    store: Store,
    steady: Arc<SteadyClock>,
    views: Views,
    standings: Standings,
    /// Hints that all owners have, since the start.
    pub(super) delivered: AtomicU64,
}

impl Figures {
    pub(super) fn new(
        store: Store,
        steady: Arc<SteadyClock>,
        views: Views,
        standings: Standings,
    ) -> Self {
        Self {
            store,
            steady,
            views,
            standings,
            delivered: AtomicU64::new(0),
        }
    }

    /// What is held, and for whom it waits: owners that are down.
    pub fn held(&self) -> peer::Hints {
        let stats = self.store.hint_stats();
        let mut waiting = BTreeMap::<String, u64>::new();
        let view = self.views.current();
        for (partition, count) in self.store.hints_by_partition() {
            for store in view.owners_everywhere(PartitionId(partition)) {
                if store != view.my_store()
                    && !self.standings.is_up(store)
                    && let Some(member) = view.present(store)
                {
                    *waiting.entry(member.name.to_string()).or_default() += count as u64;
                }
            }
        }
        let waiting = waiting.into_iter();
        peer::Hints {
            bytes: stats.bytes as u64,
            oldest_ms: age_ms(stats.oldest_ms, self.steady.ms()),
            refused: stats.refused,
            dropped: stats.dropped,
            delivered: self.delivered.load(Relaxed),
            waiting: waiting
                .map(|(name, count)| peer::HintsFor { name, count })
                .collect(),
        }
    }

    /// For `/metrics`.
    pub fn gauges(&self) -> Vec<Gauge> {
        let stats = self.store.hint_stats();
        let gauge = |name, help, unit, value| -> Gauge { (name, help, unit, value) };
        vec![
            gauge(
                "hints",
                "Keys of which this node holds a hint",
                None,
                stats.count as f64,
            ),
            gauge(
                "hints_held",
                "Memory of the hints that this node holds",
                Some(Unit::Bytes),
                stats.bytes as f64,
            ),
            gauge(
                "hints_oldest",
                "Age of the oldest hint",
                Some(Unit::Seconds),
                age_ms(stats.oldest_ms, self.steady.ms()) as f64 / 1_000.0,
            ),
            gauge(
                "hints_refused",
                "Hints refused since the start, for the bytes that all may have",
                None,
                stats.refused as f64,
            ),
            gauge(
                "hints_dropped",
                "Hints dropped since the start, for their age",
                None,
                stats.dropped as f64,
            ),
            gauge(
                "hints_delivered",
                "Hints that all of their owners have, since the start",
                None,
                self.delivered.load(Relaxed) as f64,
            ),
        ]
    }
}

fn age_ms(taken_ms: u64, now_ms: u64) -> u64 {
    match taken_ms {
        0 => 0,
        taken => now_ms.saturating_sub(taken).max(1),
    }
}
