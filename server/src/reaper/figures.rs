//! What a node tells of its part in reaping, beside its counters.

use std::sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed};

use prometheus_client::registry::Unit;
use ringfort_proto::peer;
use tokio::time::Instant;

use super::core::Stalled;
use crate::{clock::Clock, counters::Counters, metrics::Gauge, view::Views};

/// Members that are told of as waited for, at most.
const WAITS_FOR_MAX: usize = 8;

/// How the worker stood when it looked last.
pub struct Figures {
    clock: Arc<dyn Clock>,
    views: Views,
    counters: Arc<Counters>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rounds: usize,
    /// Of the rounds that are stalled: since when the oldest is, and who is waited for.
    oldest: Option<Instant>,
    waits_for: Vec<String>,
}

impl Figures {
    /// Nothing is under way.
    pub fn new(clock: Arc<dyn Clock>, views: Views, counters: Arc<Counters>) -> Figures {
        Figures {
            clock,
            views,
            counters,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many rounds are under way, and these are stalled.
    pub(super) fn stands(&self, now: Instant, rounds: usize, stalled: Vec<Stalled>) {
        let view = self.views.current();
        let mut waits_for: Vec<String> = stalled
            .iter()
            .flat_map(|stalled| &stalled.waits_for)
            .filter_map(|store| Some(view.present(*store)?.name.to_string()))
            .collect();
        waits_for.sort();
        waits_for.dedup();
        waits_for.truncate(WAITS_FOR_MAX);
        let oldest = stalled.iter().map(|stalled| stalled.since).min();
        let before = {
            let mut state = self.state();
            let before = state.oldest.is_some();
            *state = State {
                rounds,
                oldest,
                waits_for: waits_for.clone(),
            };
            before
        };
        if let Some(oldest) = oldest
            && !before
        {
            let minutes = (now - oldest).as_secs() / 60;
            tracing::warn!(minutes, ?waits_for, "reaping waits for members");
        }
    }

    /// As others are told.
    pub fn to_wire(&self) -> peer::Reaping {
        let now = self.clock.now();
        let state = self.state();
        let since = |oldest| now.saturating_duration_since(oldest).as_millis() as u64;
        peer::Reaping {
            rounds: state.rounds as u32,
            stalled_ms: state.oldest.map_or(0, since),
            waits_for: state.waits_for.clone(),
            reaped: self.counters.reaped.load(Relaxed),
        }
    }

    /// For `/metrics`.
    pub fn gauges(&self) -> Vec<Gauge> {
        let told = self.to_wire();
        vec![
            (
                "reaping_partitions",
                "Partitions of which this node drives a round of reaping",
                None,
                f64::from(told.rounds),
            ),
            (
                "reaping_stalled",
                "Since when the oldest round of reaping does not come to its end; 0: none is slow",
                Some(Unit::Seconds),
                told.stalled_ms as f64 / 1_000.0,
            ),
        ]
    }
}
