//! The engine pool: a few threads on which the storage engine may block.
//!
//! Keeps I7: its queue is bounded, and a job past the bound is handed back, never queued.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// One piece of blocking work.
pub type Job = Box<dyn FnOnce() + Send>;

/// Runs blocking jobs. [`ThreadPool`] in production; a simulation runs them as tasks.
pub trait EnginePool: Send + Sync + 'static {
    /// Queues `job`.
    ///
    /// # Errors
    /// [`PoolFull`]; the job is dropped unrun.
    fn submit(&self, job: Job) -> Result<(), PoolFull>;
}

/// The pool's queue is full, or the pool is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine pool has no room for another job")]
pub struct PoolFull;

#[derive(Default)]
struct Queue {
    jobs: std::collections::VecDeque<Job>,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    limit: usize,
}

/// Threads that take jobs from one bounded queue. Dropping it lets queued jobs finish and ends the threads.
pub struct ThreadPool {
    shared: Arc<Shared>,
}

impl ThreadPool {
    /// A pool of `threads` threads whose queue holds `limit` jobs.
    ///
    /// # Errors
    /// The system gave no thread.
    #[expect(
        clippy::disallowed_methods,
        reason = "the edge with the pool's threads"
    )]
    pub fn new(threads: usize, limit: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::default()),
            work: Condvar::new(),
            limit,
        });
        for index in 0..threads {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(format!("engine-{index}"))
                .spawn(move || work(&shared))?;
        }
        Ok(ThreadPool { shared })
    }
}

fn work(shared: &Shared) {
    loop {
        let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let job = loop {
            if let Some(job) = queue.jobs.pop_front() {
                break job;
            }
            if queue.closed {
                return;
            }
            queue = shared
                .work
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        };
        drop(queue);
        job();
    }
}

impl EnginePool for ThreadPool {
    fn submit(&self, job: Job) -> Result<(), PoolFull> {
        let mut queue = self
            .shared
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if queue.closed || queue.jobs.len() >= self.shared.limit {
            return Err(PoolFull);
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.shared.work.notify_one();
        Ok(())
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        self.shared.work.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn jobs_run_and_the_queue_is_bounded() {
        let pool = ThreadPool::new(1, 1).expect("a thread");
        let (hold, held) = mpsc::channel::<()>();
        let (started, has_started) = mpsc::channel();
        pool.submit(Box::new(move || {
            started.send(()).expect("the test waits");
            held.recv().ok();
        }))
        .expect("an empty queue takes a job");
        has_started.recv().expect("the first job runs");
        let (done, is_done) = mpsc::channel();
        pool.submit(Box::new(move || done.send(7).expect("the test waits")))
            .expect("room for one");
        assert_eq!(pool.submit(Box::new(|| ())), Err(PoolFull));
        hold.send(()).expect("the first job waits");
        assert_eq!(is_done.recv(), Ok(7));
    }
}
