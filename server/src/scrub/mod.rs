//! The worker that verifies everything that this node has stored, so that what rots is found while other copies are whole.
//!
//! Keeps I7: one page at a time, at a bounded rate, giving way to clients. What it finds the store quarantines; the worker that
//! carries out changes of layouts fetches it from the other owners (`mover/restore.rs`).

pub mod core;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use prometheus_client::registry::Unit;
use ringfort_proto::peer;
use ringfort_storage::{Store, store::Scrubbed};
use tokio::sync::{Notify, oneshot};

pub use self::core::Figures;
use self::core::{Next, Schedule};
use crate::{
    clock::Clock, coordinator::Coordinator, counters::Counters, counters::add, metrics::Gauge,
    pool::EnginePool,
};

/// Bytes of rows in a page: what clients wait for behind it on the engine pool.
const PAGE_BYTES: u64 = 128 << 10;
/// When the engine pool has no room it is tried again after this.
const FULL_REST: Duration = Duration::from_millis(20);

/// What a scrub is made of.
pub struct Parts {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// This node's store.
    pub store: Store,
    /// Where what blocks is done.
    pub pool: Arc<dyn EnginePool>,
    /// Whose clients it gives way to.
    pub coordinator: Arc<Coordinator>,
    /// Counters.
    pub counters: Arc<Counters>,
    /// Bytes a second that are read, at most.
    pub bytes_per_s: u64,
    /// From one pass to the next.
    pub interval: Duration,
    /// Any number; fixes the jitter.
    pub jitter: u64,
}

/// A node's scrub; see the module.
pub struct Scrub {
    parts: Parts,
    schedule: Mutex<Schedule>,
    asked: Notify,
}

impl Scrub {
    /// One that has read nothing. [`Self::run`] must run.
    pub fn new(parts: Parts) -> Arc<Scrub> {
        let now = parts.clock.now();
        Arc::new(Scrub {
            schedule: Mutex::new(Schedule::new(
                now,
                parts.bytes_per_s,
                parts.interval,
                parts.jitter,
            )),
            asked: Notify::new(),
            parts,
        })
    }

    /// Begins a pass now; gives its number.
    pub fn ask(&self) -> u64 {
        let pass = self.schedule().ask(self.parts.clock.now());
        self.asked.notify_one();
        pass
    }

    /// How far it is.
    pub fn figures(&self) -> Figures {
        self.schedule().figures()
    }

    /// How far it is, as others are told.
    pub fn to_wire(&self) -> peer::Scrubbing {
        let figures = self.figures();
        let since = |last| self.parts.clock.now().saturating_duration_since(last);
        peer::Scrubbing {
            passes: figures.passes,
            running: figures.is_running,
            per_mille: figures.per_mille,
            records: figures.records,
            bytes: figures.bytes,
            damaged: figures.damaged,
            last_ms: figures.last.map(|last| since(last).as_millis() as u64),
        }
    }

    /// Reads on, for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            let now = self.parts.clock.now();
            let next = self.schedule().next(now);
            match next {
                Next::Page(after) => self.page(after).await,
                Next::Wait(wait) => {
                    // Whichever comes first: the time, or somebody who asks.
                    let _ = tokio::time::timeout(wait, self.asked.notified()).await;
                }
            }
        }
    }

    async fn page(&self, after: Option<Bytes>) {
        let began = self.parts.clock.now();
        let page = self.read(&after).await;
        let counters = &self.parts.counters;
        add(&counters.scrub_records, page.records as usize);
        add(&counters.scrub_bytes, page.bytes as usize);
        let damaged = page.quarantined + page.rewritten;
        add(&counters.scrub_damaged, damaged as usize);
        add(&counters.scrub_orphans, page.orphans as usize);
        let now = self.parts.clock.now();
        let beside = self.parts.coordinator.beside();
        let is_through = page.next.is_none();
        let mut schedule = self.schedule();
        schedule.read(now, &after, page, now - began, beside);
        let figures = schedule.figures();
        drop(schedule);
        if is_through && !figures.is_running {
            tracing::info!(
                records = figures.records,
                damaged = figures.damaged,
                "everything stored is verified"
            );
        }
    }

    /// Reads one page on the engine pool. After a failure of the engine the node ends.
    async fn read(&self, after: &Option<Bytes>) -> Scrubbed {
        loop {
            let (done, page) = oneshot::channel();
            let (store, after) = (self.parts.store.clone(), after.clone());
            let job = move || drop(done.send(store.scrub(after.as_deref(), PAGE_BYTES)));
            let submitted = self.parts.pool.submit(Box::new(job));
            match (submitted, page.await) {
                (Ok(()), Ok(Ok(page))) => return page,
                (Ok(()), Ok(Err(error))) => {
                    tracing::error!(%error, "the engine failed while it was read through");
                    std::future::pending::<()>().await;
                }
                _ => tokio::time::sleep(FULL_REST).await,
            }
        }
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For `/metrics`.
pub fn gauges(scrub: &peer::Scrubbing) -> Vec<Gauge> {
    let mut gauges: Vec<Gauge> = vec![
        (
            "scrub_passes",
            "Times that everything stored was verified since the start",
            None,
            scrub.passes as f64,
        ),
        (
            "scrub_progress",
            "How far the pass is that is under way",
            Some(Unit::Ratios),
            f64::from(scrub.per_mille) / 1_000.0,
        ),
    ];
    if let Some(ms) = scrub.last_ms {
        let help = "Time since the last pass ended";
        let age = ms as f64 / 1_000.0;
        gauges.push(("scrub_last_pass_age", help, Some(Unit::Seconds), age));
    }
    gauges
}
