//! Drives a store by tasks of the simulated host: log, drain and loads, each step a tick at least.
//!
//! Keeps the promise that a crash can fall between any two disk actions (I1): the simulation crashes hosts only between ticks,
//! so whatever ran within one tick would be all or nothing.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use ringfort::{
    node::{Driven, StorageDriver},
    pool::{EnginePool, Job, PoolFull},
};
use ringfort_storage::{
    Store,
    log::{LogStep, LogWriter, SEAL_AFTER},
    store::{DrainStep, Drainer, OpenError, OpenReport, Opened, StoreConfig, StoreParts},
};
use tokio::{sync::watch, task::JoinHandle, time::sleep};

use super::{cluster::small, medium::Medium};

/// Jobs that wait for the engine, at most.
const JOBS_MAX: usize = 1024;
/// How often the log looks again on a full disk.
const FULL_WAIT: Duration = Duration::from_millis(100);

/// Told the store and what its start found, once it runs.
pub type OnStart = Arc<dyn Fn(&Store, &OpenReport) + Send + Sync>;

/// Drives the store of one node on a [`Medium`].
#[derive(Clone)]
pub struct TaskDriver {
    /// Says how long a step takes.
    pub medium: Medium,
    /// Told when a store starts.
    pub on_start: OnStart,
}

impl TaskDriver {
    async fn step(medium: &Medium) {
        sleep(Duration::from_millis(medium.step_ms())).await;
    }
}

impl StorageDriver for TaskDriver {
    fn open(
        &self,
        parts: StoreParts,
        config: StoreConfig,
    ) -> BoxFuture<'static, Result<Opened, OpenError>> {
        let medium = self.medium.clone();
        async move {
            TaskDriver::step(&medium).await;
            // Recovery's own writes come before any acknowledgement; a crash falls before or after all of them.
            Store::open(parts, &small(config))
        }
        .boxed()
    }

    fn start(&self, opened: Opened) -> io::Result<(Box<dyn Driven>, OpenReport)> {
        let Opened {
            store,
            log,
            writer,
            drainer,
            report,
        } = opened;
        (self.on_start)(&store, &report);
        let (failed, failure) = watch::channel(None);
        let failed = Arc::new(failed);
        let drain = {
            let (medium, failed) = (self.medium.clone(), failed.clone());
            tokio::spawn(async move {
                run_drain(drainer, &medium, &failed).await;
                log.close();
            })
        };
        let log = {
            let (medium, failed) = (self.medium.clone(), failed.clone());
            tokio::spawn(async move { run_log(writer, &medium, &failed).await })
        };
        let pool = Arc::new(TaskPool {
            medium: self.medium.clone(),
            store: store.clone(),
            failed,
            waiting: Arc::default(),
        });
        let driven = TaskDriven {
            store,
            pool,
            failure,
            machines: [drain, log],
        };
        Ok((Box::new(driven), report))
    }
}

type Failed = Arc<watch::Sender<Option<String>>>;

/// Notes the first failure; the later ones follow from it.
fn fail(failed: &Failed, why: String) {
    failed.send_if_modified(|first| {
        let is_first = first.is_none();
        first.get_or_insert(why);
        is_first
    });
}

async fn run_drain(mut drainer: Drainer, medium: &Medium, failed: &Failed) {
    let began = tokio::time::Instant::now();
    while failed.borrow().is_none() {
        let now_ms = began.elapsed().as_millis() as u64 + 1;
        match drainer.step(now_ms) {
            Ok(DrainStep::Idle | DrainStep::AwaitLog { .. }) => TaskDriver::step(medium).await,
            Ok(DrainStep::Worked { rest_ms }) => {
                sleep(Duration::from_millis(rest_ms.max(medium.step_ms()))).await;
            }
            Ok(DrainStep::Closed) => return,
            Err(error) => return fail(failed, error.to_string()),
        }
    }
}

async fn run_log(mut writer: LogWriter, medium: &Medium, failed: &Failed) {
    let mut idle_since = None;
    while failed.borrow().is_none() {
        let step = writer.step();
        if !matches!(step, Ok(LogStep::Idle)) {
            idle_since = None;
        }
        match step {
            Ok(LogStep::Worked) => TaskDriver::step(medium).await,
            Ok(LogStep::Full) => sleep(FULL_WAIT).await,
            Ok(LogStep::Closed) => return,
            Ok(LogStep::Idle) => {
                let now = tokio::time::Instant::now();
                let since = *idle_since.get_or_insert(now);
                if !writer.is_sealed() && now.duration_since(since) >= SEAL_AFTER {
                    writer.seal();
                } else {
                    TaskDriver::step(medium).await;
                }
            }
            Err(error) => return fail(failed, error.to_string()),
        }
    }
}

struct TaskDriven {
    store: Store,
    pool: Arc<TaskPool>,
    failure: watch::Receiver<Option<String>>,
    machines: [JoinHandle<()>; 2],
}

impl Driven for TaskDriven {
    fn pool(&self) -> Arc<dyn EnginePool> {
        self.pool.clone()
    }

    fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.clone()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), String>> {
        async move {
            self.store.close();
            for machine in self.machines {
                machine.await.map_err(|error| error.to_string())?;
            }
            let failure = self.failure.borrow().clone();
            failure.map_or(Ok(()), Err)
        }
        .boxed()
    }
}

/// Runs jobs as tasks.
struct TaskPool {
    medium: Medium,
    store: Store,
    failed: Failed,
    waiting: Arc<AtomicUsize>,
}

impl EnginePool for TaskPool {
    fn submit(&self, job: Job) -> Result<(), PoolFull> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= JOBS_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(PoolFull);
        }
        let (medium, store) = (self.medium.clone(), self.store.clone());
        let (failed, waiting) = (self.failed.clone(), self.waiting.clone());
        tokio::spawn(async move {
            TaskDriver::step(&medium).await;
            job();
            waiting.fetch_sub(1, Ordering::Relaxed);
            if let Some(error) = store.engine_failure() {
                fail(&failed, error.to_string());
            }
        });
        Ok(())
    }
}
