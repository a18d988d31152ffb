//! Production's driver: threads for the log, the drain and the engine pool. The only place of the store with threads and
//! a clock; a simulation drives the same step machines by itself.
//!
//! Keeps I7: the pool's queue is bounded and refuses what does not fit. A failure never ends the process here: it is
//! [reported](Threads::fatal), once, and whoever runs the node decides.

#![expect(
    clippy::disallowed_methods,
    reason = "the edge with threads, and a clock of their own for pace and watchdog only"
)]

use std::io;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::log::{Log, LogStep, LogWriter, SEAL_AFTER};
use crate::store::{DrainStep, Drainer, IDLE_MS_MAX, OpenReport, Opened, Store};

/// Jobs that wait for the engine pool, at most.
pub const ENGINE_QUEUE_MAX: usize = 1024;

/// A flush that takes longer has failed: a thread of the engine is stuck.
pub const FLUSH_MAX: Duration = Duration::from_secs(60);

/// How long the log thread sleeps with everything sealed; an append wakes it at once. The flush is watched as often.
const LOG_IDLE: Duration = Duration::from_secs(1);

/// How long the log thread waits for space on a full disk before it tries again.
const LOG_FULL: Duration = Duration::from_millis(100);

/// How often a drain that waits for the log looks.
const AWAIT_LOG: Duration = Duration::from_millis(1);

/// What the engine pool's queue holds.
enum Job {
    /// Work that may block.
    Run(Box<dyn FnOnce(&Store) + Send>),
    /// Ends one thread of the pool.
    Stop,
}

/// The engine pool's queue is full; the job was not taken and will not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine pool's queue of {ENGINE_QUEUE_MAX} jobs is full, or the store is closing")]
pub struct EngineBusy;

/// Hands jobs to the engine pool; clones share it.
#[derive(Clone)]
pub struct EnginePool {
    jobs: SyncSender<Job>,
}

impl EnginePool {
    /// Queues a job (a load, a scan). Never blocks.
    ///
    /// # Errors
    /// [`EngineBusy`].
    pub fn submit(&self, job: impl FnOnce(&Store) + Send + 'static) -> Result<(), EngineBusy> {
        self.jobs
            .try_send(Job::Run(Box::new(job)))
            .map_err(|_| EngineBusy)
    }
}

/// A store whose machines run on threads.
pub struct Threads {
    store: Store,
    pool: EnginePool,
    fatal: watch::Receiver<Option<String>>,
    /// The log's and the drain's.
    machines: Vec<JoinHandle<()>>,
    engine_threads: Vec<JoinHandle<()>>,
}

/// Starts the threads of an opened store: `rf-log`, `rf-drain` and `engine_threads` times `rf-engine-N` (one at least).
///
/// # Errors
/// The system refuses a thread.
pub fn spawn_threads(opened: Opened, engine_threads: usize) -> io::Result<(Threads, OpenReport)> {
    let Opened {
        store,
        log,
        writer,
        drainer,
        report,
    } = opened;
    let (failed, fatal) = watch::channel(None);
    let failed = Arc::new(failed);
    let (jobs, queue) = mpsc::sync_channel(ENGINE_QUEUE_MAX);
    let queue = Arc::new(Mutex::new(queue));
    let began = now();

    let mut machines = Vec::new();
    let (drain_log, drain_failed) = (log.clone(), Arc::clone(&failed));
    machines.push(spawn("rf-drain".to_owned(), &failed, move || {
        run_drain(drainer, &drain_log, &drain_failed, began)
    })?);
    let (log_store, log_failed) = (store.clone(), Arc::clone(&failed));
    machines.push(spawn("rf-log".to_owned(), &failed, move || {
        run_log(&log, writer, &log_store, &log_failed, began)
    })?);
    let pool = (0..engine_threads.max(1)).map(|number| {
        let (queue, store, pool_failed) = (Arc::clone(&queue), store.clone(), Arc::clone(&failed));
        spawn(format!("rf-engine-{number}"), &failed, move || {
            run_jobs(&queue, &store, &pool_failed)
        })
    });
    let engine_threads = pool.collect::<io::Result<Vec<_>>>()?;
    Ok((
        Threads {
            store,
            pool: EnginePool { jobs },
            fatal,
            machines,
            engine_threads,
        },
        report,
    ))
}

impl Threads {
    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The engine pool.
    pub fn pool(&self) -> EnginePool {
        self.pool.clone()
    }

    /// Becomes `Some` when the store has failed and the process has to end; the text says why and what to do.
    pub fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.fatal.clone()
    }

    /// Closes the store: writes everything down, marks the stop as clean, ends the threads. Blocks.
    ///
    /// # Errors
    /// What made that impossible; everything acknowledged is safe all the same.
    pub fn close(self) -> Result<(), String> {
        self.store.close();
        for _ in &self.engine_threads {
            // The queue moves on as long as one thread is left; without any there is nobody to stop.
            let _ = self.pool.jobs.send(Job::Stop);
        }
        for thread in self.machines.into_iter().chain(self.engine_threads) {
            // A panic was caught and reported as a failure.
            let _ = thread.join();
        }
        let fatal = self.fatal.borrow().clone();
        fatal.map_or(Ok(()), Err)
    }
}

type Failed = watch::Sender<Option<String>>;

/// Notes the first failure; the later ones follow from it.
fn fail(failed: &Failed, why: String) {
    tracing::error!(why, "the store has failed");
    failed.send_if_modified(|fatal| {
        let first = fatal.is_none();
        fatal.get_or_insert(why);
        first
    });
}

/// Starts a thread whose panic counts as a failure of the store.
fn spawn(
    name: String,
    failed: &Arc<Failed>,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let (failed, thread) = (Arc::clone(failed), name.clone());
    Builder::new().name(name).spawn(move || {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
            fail(
                &failed,
                format!("thread {thread} panicked: a bug; restart the node"),
            );
        }
    })
}

fn run_drain(mut drainer: Drainer, log: &Log, failed: &Failed, began: Instant) {
    let store = drainer.store();
    loop {
        if failed.borrow().is_some() {
            return;
        }
        match drainer.step(elapsed_ms(began)) {
            Ok(DrainStep::Idle) => store.bell().wait(Duration::from_millis(IDLE_MS_MAX)),
            Ok(DrainStep::AwaitLog { .. }) => std::thread::sleep(AWAIT_LOG),
            Ok(DrainStep::Worked { rest_ms: 0 }) => {}
            Ok(DrainStep::Worked { rest_ms }) => std::thread::sleep(Duration::from_millis(rest_ms)),
            Ok(DrainStep::Closed) => {
                log.close();
                return;
            }
            Err(error) => return fail(failed, error.to_string()),
        }
    }
}

fn run_log(log: &Log, mut writer: LogWriter, store: &Store, failed: &Failed, began: Instant) {
    loop {
        if failed.borrow().is_some() {
            return;
        }
        match writer.step() {
            Ok(LogStep::Worked) => {}
            Ok(LogStep::Full) => std::thread::sleep(LOG_FULL),
            Ok(LogStep::Closed) => return,
            Ok(LogStep::Idle) if writer.is_sealed() => {
                watch_flush(store, failed, began);
                log.wait_for_work(LOG_IDLE);
            }
            Ok(LogStep::Idle) => {
                if !log.wait_for_work(SEAL_AFTER) {
                    writer.seal();
                }
            }
            Err(error) => return fail(failed, error.to_string()),
        }
    }
}

/// Ends a run whose engine does not come back from a flush.
fn watch_flush(store: &Store, failed: &Failed, began: Instant) {
    let since = store.flush_began_ms();
    if since > 0 && elapsed_ms(began).saturating_sub(since) > FLUSH_MAX.as_millis() as u64 {
        fail(
            failed,
            format!(
                "the storage engine has not finished a flush in {} s",
                FLUSH_MAX.as_secs()
            ),
        );
    }
}

fn run_jobs(queue: &Mutex<Receiver<Job>>, store: &Store, failed: &Failed) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(Job::Run(job)) => job(store),
            Ok(Job::Stop) | Err(_) => return,
        }
        if let Some(error) = store.engine_failure() {
            let then = match error.spares_the_engine() {
                true => {
                    "nothing of it is lost, and the node can start again when the machine lets it"
                }
                false => "restart the node, which sets the engine aside and repairs from its peers",
            };
            fail(failed, format!("{error}; {then}"));
        }
    }
}

fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since the start, never 0.
fn elapsed_ms(began: Instant) -> u64 {
    now().duration_since(began).as_millis() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;
    use crate::engine::mem::MemHome;
    use crate::key::Key;
    use crate::store::{StoreConfig, StoreParts};

    fn start(home: &MemHome) -> Threads {
        let mut number = 0;
        let parts = StoreParts {
            disk: Arc::new(SimDisk::new(1)),
            engine: Arc::new(home.clone()),
            chance: Box::new(move || {
                number += 1;
                number
            }),
        };
        let config = StoreConfig {
            segment_bytes: 64 << 10,
            ..StoreConfig::new("a", 16)
        };
        spawn_threads(Store::open(parts, &config).expect("opens"), 1)
            .expect("threads start")
            .0
    }

    #[test]
    fn a_failing_engine_is_reported_and_ends_nothing_by_itself() {
        let home = MemHome::new();
        let threads = start(&home);
        home.fail();
        let (answer, answered) = mpsc::channel();
        let load = move |store: &Store| {
            let key = Key::new(1, b"n", b"k").expect("a short key");
            answer
                .send(store.load(&[key]).is_err())
                .expect("the test waits");
        };
        threads.pool().submit(load).expect("the queue is empty");
        assert_eq!(answered.recv(), Ok(true));
        let why = threads.close().expect_err("the engine has failed");
        assert!(why.contains("told to fail"), "{why}");
    }

    #[test]
    fn a_full_queue_refuses_and_a_closed_pool_too() {
        let threads = start(&MemHome::new());
        let pool = threads.pool();
        let (open_gate, gate) = mpsc::channel::<()>();
        pool.submit(move |_| {
            let _ = gate.recv();
        })
        .expect("the queue is empty");
        let taken = (0..=ENGINE_QUEUE_MAX)
            .take_while(|_| pool.submit(|_| {}).is_ok())
            .count();
        assert!(
            taken <= ENGINE_QUEUE_MAX,
            "the one thread is busy with the first job"
        );
        drop(open_gate);
        threads.close().expect("closes");
        assert!(pool.submit(|_| {}).is_err());
    }

    #[test]
    fn a_panic_in_a_job_is_a_failure_of_the_store() {
        let threads = start(&MemHome::new());
        threads
            .pool()
            .submit(|_| panic!("a bug"))
            .expect("the queue is empty");
        let why = threads.close().expect_err("a job panicked");
        assert!(why.contains("rf-engine-0 panicked"), "{why}");
    }
}
