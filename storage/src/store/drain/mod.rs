//! The drain: takes what the table holds at one sequence S to the engine, as a step machine. Keeps I1 and I2: the log
//! gives its segments up only after the engine and a checkpoint hold what they held; every prefix of the engine's
//! changes leaves whole records; and an intent in the log says what the engine must hold once the changes are through.
//!
//! ```text
//! freeze at S ─► log durable to S ─► fold ─► intent durable ─► insert, in key order, then hints ─► row `applied = S`
//!   ─► flush ─► checkpoint: stage, commit ─► log segments released ─► entries marked clean
//! ```
//!
//! A step takes at most one disk action or one small batch of engine calls, so that a simulated crash can fall
//! between any two. Between two drains it [renews](renew) an engine that wastes space.

mod fold;
mod heal;
mod pace;
mod renew;
mod stages;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use self::fold::Folding;
use self::pace::{Done, Pace};
pub(super) use self::renew::Renewer;
pub use self::renew::{RENEW_OFFSET_BYTES_DEFAULT, RENEW_STEP_ROWS_DEFAULT};
use self::stages::{Change, Inserting};
use super::hints::HintChange;
use super::table::SHARDS;
use super::{Inner, Store};
use crate::checkpoint::CheckpointFile;
use crate::engine::EngineError;
use crate::key::Key;
use crate::twoslot::SlotError;

/// Age at which a change is drained even from a nearly empty table, in ms.
pub const FREEZE_AGE_MS_MAX: u64 = 2_000;

/// Longest time that a driver may wait for the bell while the drain is idle, in ms: changes grow old without ringing.
pub const IDLE_MS_MAX: u64 = 100;

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainStep {
    /// Nothing is due. Step again when the bell rings, or after [`IDLE_MS_MAX`].
    Idle,
    /// Nothing goes on before the log is durable up to `sequence`.
    AwaitLog {
        /// The log sequence waited for.
        sequence: u64,
    },
    /// One piece of work is done.
    Worked {
        /// How long the driver may rest before the next step, in ms, so that the drain ends just in time.
        rest_ms: u64,
    },
    /// The store is closed: everything is in the engine and the checkpoint says clean. The log may stop too.
    Closed,
}

/// Why a drain cannot go on. The process has to end; the next start recovers what was acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum DrainFailed {
    /// The engine failed. The identity file says so already: the next start sets the engine aside.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The checkpoint could not be written.
    #[error("the checkpoint could not be written: {0}")]
    Checkpoint(#[from] SlotError),
}

/// The drain of one store. Owned by whoever drives it.
pub struct Drainer {
    inner: Arc<Inner>,
    checkpoint: CheckpointFile,
    /// Random, made at this start.
    boot_id: u64,
    /// S of the newest checkpoint.
    applied: u64,
    stage: Stage,
    /// When the oldest change was first seen, by the driver's clock; none: there was no change.
    dirty_since_ms: Option<u64>,
    pace: Pace,
    renewer: Renewer,
}

/// What the next step does.
enum Stage {
    /// Looks whether a freeze, or a partition's healing, is due.
    Idle,
    /// Waits for the log to be durable up to the freeze.
    AwaitFrozen(Frozen),
    /// Works out what the engine shall hold.
    Fold(Folding),
    /// Waits for the intent to be durable.
    AwaitIntent {
        intent: u64,
        inserting: Inserting,
    },
    /// Changes the engine.
    Insert(Inserting),
    SetApplied(Inserting),
    Flush(Inserting),
    WriteCheckpoint(Inserting),
    SyncCheckpoint(Inserting),
    /// Gives the log's segments up, then marks the entries clean.
    Release(Inserting),
    Clean {
        changes: std::vec::IntoIter<Change>,
        generation: u64,
    },
    /// Makes a log segment ready, off the path of the writes.
    TendLog,
    /// Writes the clean checkpoint into both slots.
    WriteClean,
    SyncClean,
    Closed,
    /// A step failed; nothing may follow.
    Failed,
}

/// What a freeze took.
struct Frozen {
    /// S.
    sequence: u64,
    generation: u64,
    /// The changed keys, in key order.
    keys: Vec<Key>,
    /// The changed hints as they were at S.
    hints: Vec<HintChange>,
    /// Sum and count of all hints at S.
    hints_sum: (u64, u32),
}

impl Drainer {
    pub(super) fn new(
        inner: Arc<Inner>,
        checkpoint: CheckpointFile,
        boot_id: u64,
        applied: u64,
        renewer: Renewer,
    ) -> Self {
        Self {
            inner,
            checkpoint,
            boot_id,
            applied,
            stage: Stage::TendLog,
            dirty_since_ms: None,
            pace: Pace::default(),
            renewer,
        }
    }

    /// The store that this drains.
    pub fn store(&self) -> Store {
        Store {
            inner: Arc::clone(&self.inner),
        }
    }

    /// Takes one step. `now_ms` is any clock that does not go back; it decides when a freeze is due and the pace,
    /// never what is stored. Blocks for one disk action at most.
    ///
    /// # Errors
    /// [`DrainFailed`]: the process has to end. Steps after that fail too.
    pub fn step(&mut self, now_ms: u64) -> Result<DrainStep, DrainFailed> {
        let result = self.take_step(now_ms);
        if let Err(DrainFailed::Engine(error)) = &result {
            self.inner.engine_failed(error);
        }
        result
    }

    fn take_step(&mut self, now_ms: u64) -> Result<DrainStep, DrainFailed> {
        match std::mem::replace(&mut self.stage, Stage::Failed) {
            Stage::Idle => self.idle(now_ms),
            Stage::AwaitFrozen(frozen) if self.inner.log.durable_now() < frozen.sequence => {
                let sequence = frozen.sequence;
                self.go(Stage::AwaitFrozen(frozen), DrainStep::AwaitLog { sequence })
            }
            Stage::AwaitFrozen(frozen) => {
                self.worked(Stage::Fold(Folding::new(&self.inner, frozen)))
            }
            Stage::Fold(folding) => self.fold(folding, now_ms),
            Stage::AwaitIntent { intent, inserting } if self.inner.log.durable_now() < intent => {
                self.go(
                    Stage::AwaitIntent { intent, inserting },
                    DrainStep::AwaitLog { sequence: intent },
                )
            }
            Stage::AwaitIntent { inserting, .. } => self.worked(Stage::Insert(inserting)),
            Stage::Insert(inserting) => self.insert(inserting, now_ms),
            Stage::SetApplied(inserting) => self.set_applied(inserting),
            Stage::Flush(inserting) => self.flush(inserting, now_ms),
            Stage::WriteCheckpoint(inserting) => self.stage_checkpoint(inserting),
            Stage::SyncCheckpoint(inserting) => self.commit_checkpoint(inserting),
            Stage::Release(inserting) => self.release(inserting),
            Stage::Clean {
                changes,
                generation,
            } => self.clean(changes, generation),
            Stage::TendLog => self.tend_log(),
            Stage::WriteClean => self.stage_clean(),
            Stage::SyncClean => self.commit_clean(),
            Stage::Closed => self.go(Stage::Closed, DrainStep::Closed),
            Stage::Failed => panic!("a drain that failed was driven on"),
        }
    }

    /// Freezes if it is time to; else the engine may be renewed.
    fn idle(&mut self, now_ms: u64) -> Result<DrainStep, DrainFailed> {
        if let Some(partition) = self.damaged_partition() {
            self.heal(partition)?;
            return self.worked(Stage::Idle);
        }
        if self.inner.remove_orphan()? {
            return self.worked(Stage::Idle);
        }
        let closing = self.inner.closing.load(Ordering::Acquire);
        if closing {
            self.inner.engine.end_copy();
        }
        let dirty_bytes = self.inner.dirty_bytes();
        if dirty_bytes > 0 {
            self.dirty_since_ms.get_or_insert(now_ms);
        }
        let old = self
            .dirty_since_ms
            .is_some_and(|since| now_ms.saturating_sub(since) >= FREEZE_AGE_MS_MAX);
        let due = old || dirty_bytes >= self.inner.table.budget() / 2;
        let has_space = !self.inner.out_of_space.load(Ordering::Acquire);
        if !(closing || due && has_space) {
            return self.renew(now_ms);
        }
        let frozen = self.freeze();
        if frozen.keys.is_empty() && frozen.hints.is_empty() {
            return if closing {
                self.worked(Stage::WriteClean)
            } else {
                self.go(Stage::Idle, DrainStep::Idle)
            };
        }
        let (keys, hints) = (frozen.keys.len(), frozen.hints.len());
        self.pace.begin(now_ms, keys, hints, dirty_bytes);
        self.worked(Stage::AwaitFrozen(frozen))
    }

    /// Freezes all shards at one sequence.
    fn freeze(&mut self) -> Frozen {
        self.dirty_since_ms = None;
        let mut shards = self.inner.table.lock_all();
        // Nothing can be appended meanwhile: whoever appends a change holds a shard, or the hints.
        let (sequence, hints, hints_sum) = self.inner.hints.freeze(|| self.inner.log.last());
        let generation = shards[0].generation;
        let mut lists: Vec<Vec<Key>> = shards.iter_mut().map(|shard| shard.freeze()).collect();
        drop(shards);
        debug_assert_eq!(lists.len(), SHARDS);
        let mut keys = Vec::with_capacity(lists.iter().map(Vec::len).sum());
        for list in &mut lists {
            // Shards ascend by token, so sorting each sorts all.
            list.sort_unstable();
            keys.append(list);
        }
        Frozen {
            sequence,
            generation,
            keys,
            hints,
            hints_sum,
        }
    }

    fn go(&mut self, stage: Stage, step: DrainStep) -> Result<DrainStep, DrainFailed> {
        self.stage = stage;
        Ok(step)
    }

    /// Goes on when it is time to; at once if somebody waits for the end.
    fn paced(&mut self, stage: Stage, now_ms: u64, done: Done) -> Result<DrainStep, DrainFailed> {
        let inner = &*self.inner;
        let rest_ms = match inner.closing.load(Ordering::Acquire) {
            true => 0,
            false => {
                let budget_bytes = inner.table.budget() / 2;
                self.pace
                    .rest_ms(now_ms, done, inner.dirty_bytes(), budget_bytes)
            }
        };
        self.go(stage, DrainStep::Worked { rest_ms })
    }

    fn worked(&mut self, stage: Stage) -> Result<DrainStep, DrainFailed> {
        self.go(stage, DrainStep::Worked { rest_ms: 0 })
    }
}
