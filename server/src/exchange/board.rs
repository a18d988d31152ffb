//! What the parts of a node share of its exchanges: the schedule, the marks, the figures. The worker goes by it, answers to others'
//! questions change it, operators read it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus_client::registry::Unit;
use ringfort_ring::{PartitionId, StoreId};
use tokio::{sync::Notify, time::Instant};

use super::schedule::{Ages, Schedule, Timing};
use crate::{
    clock::Clock,
    marks::Marks,
    metrics::{Family, Gauge},
};

/// What was told of it is told again for so long.
const TOLD_FOR: Duration = Duration::from_millis(200);

/// How the exchange of one partition ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The roots were the same.
    Equal,
    /// They were not, and all differences are mended.
    Mended,
    /// Something is left: a damaged record, or one that changed meanwhile.
    Left,
    /// The other did not answer, or refused, or this store has no room.
    Failed,
}

impl Outcome {
    const ALL: [Outcome; 4] = [
        Outcome::Equal,
        Outcome::Mended,
        Outcome::Left,
        Outcome::Failed,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Outcome::Equal => "equal",
            Outcome::Mended => "mended",
            Outcome::Left => "left",
            Outcome::Failed => "failed",
        }
    }
}

/// What was moved and how exchanges ended, since the start.
#[derive(Debug, Default)]
pub struct Totals {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    /// Bytes of questions and answers of exchanges that this node began.
    pub bytes: AtomicU64,
    /// Keys whose objects were fetched.
    pub fetched: AtomicU64,
    /// Keys whose objects were pushed.
    pub pushed: AtomicU64,
}

impl Totals {
    /// So many ended so.
    pub fn count(&self, outcome: Outcome, many: usize) {
        self.outcomes[outcome as usize].fetch_add(many as u64, Relaxed);
    }

    /// How many ended so.
    pub fn outcomes(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].load(Relaxed)
    }
}

/// How this node stands, as it tells others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Ages and counts.
    pub ages: Ages,
    /// Of how many partitions other stores lack something, as far as this node knows.
    pub behind: BTreeMap<StoreId, usize>,
    /// How long the exchanges under way take at the present rate; zero: none is, or nothing is known.
    pub left: Duration,
}

/// See the module.
pub struct Board {
    clock: Arc<dyn Clock>,
    schedule: Mutex<Schedule>,
    /// What stores are known to lack.
    pub marks: Arc<Marks>,
    /// What was done.
    pub totals: Totals,
    /// A wish came.
    pub wake: Notify,
    /// Partitions that the round under way has still to mend, and what one took lately, in µs.
    left: AtomicU64,
    each_us: AtomicU64,
    /// What was told last, and when.
    told: Mutex<Option<(Instant, Standing)>>,
}

impl Board {
    /// Nothing is compared yet.
    pub fn new(me: StoreId, timing: Timing, clock: Arc<dyn Clock>) -> Arc<Board> {
        let schedule = Mutex::new(Schedule::new(me, timing, clock.now()));
        Arc::new(Board {
            clock,
            schedule,
            marks: Arc::default(),
            totals: Totals::default(),
            wake: Notify::new(),
            left: AtomicU64::new(0),
            each_us: AtomicU64::new(0),
            told: Mutex::default(),
        })
    }

    /// The schedule.
    pub fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time by which the schedule goes.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// An operator's wish: these partitions (none: all) are compared now.
    pub fn want(&self, partitions: &BTreeSet<PartitionId>) {
        let wanted = (!partitions.is_empty()).then_some(partitions);
        self.schedule().want(self.now(), wanted);
        self.wake.notify_one();
    }

    /// So many are still to be mended.
    pub fn has_left(&self, partitions: usize) {
        self.left.store(partitions as u64, Relaxed);
    }

    /// One was mended, and took so long.
    pub fn took(&self, time: Duration) {
        let now = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let before = self.each_us.load(Relaxed);
        let mean = if before == 0 {
            now
        } else {
            before - before / 8 + now / 8
        };
        self.each_us.store(mean, Relaxed);
    }

    /// How it stands, or stood a moment ago: all pairs are gone through for it, and every member asks once a second.
    pub fn standing(&self) -> Standing {
        let now = self.now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match &*told {
            Some((at, standing)) if now - *at < TOLD_FOR => standing.clone(),
            _ => {
                let standing = self.look(now);
                *told = Some((now, standing.clone()));
                standing
            }
        }
    }

    fn look(&self, now: Instant) -> Standing {
        let marked = self.marks.all();
        let schedule = self.schedule();
        let left_us = self
            .left
            .load(Relaxed)
            .saturating_mul(self.each_us.load(Relaxed));
        Standing {
            ages: schedule.figures(now, &marked),
            behind: schedule.behind(&marked),
            left: Duration::from_micros(left_us),
        }
    }

    /// The figures for `/metrics`.
    pub fn gauges(&self) -> Vec<Gauge> {
        let Standing { ages, behind, .. } = self.standing();
        vec![
            (
                "exchange_age",
                "Since the oldest last clean exchange of a partition with another owner",
                Some(Unit::Seconds),
                ages.oldest.as_secs_f64(),
            ),
            (
                "exchange_unclean_partitions",
                "Partitions that are not known to be the same at all their owners",
                None,
                ages.unclean as f64,
            ),
            (
                "exchange_marked_partitions",
                "Partitions of which another store is known to lack something, once for each store",
                None,
                behind.values().sum::<usize>() as f64,
            ),
        ]
    }

    /// The same that have labels.
    pub fn families(&self) -> Vec<Family> {
        let totals = &self.totals;
        let outcomes = Outcome::ALL.map(|o| (o.as_str().to_owned(), totals.outcomes(o) as f64));
        let moved = [("fetched", &totals.fetched), ("pushed", &totals.pushed)];
        vec![
            Family {
                name: "exchange_partitions",
                help: "Exchanges of a partition with another owner that this node began, by how they ended",
                unit: None,
                label: "result",
                values: outcomes.into(),
            },
            Family {
                name: "exchange_keys",
                help: "Keys whose objects were moved by exchanges that this node began",
                unit: None,
                label: "direction",
                values: moved
                    .map(|(label, count)| (label.to_owned(), count.load(Relaxed) as f64))
                    .into(),
            },
            Family {
                name: "exchange_moved",
                help: "Bytes of questions and answers of exchanges that this node began",
                unit: Some(Unit::Bytes),
                label: "what",
                values: vec![("all".to_owned(), totals.bytes.load(Relaxed) as f64)],
            },
        ]
    }
}
