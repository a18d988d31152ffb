//! Turns on the engine pool for what other nodes ask in bulk: few at once, since clients' reads need the pool, too.

use std::sync::Arc;

use ringfort_proto::{Failure, Reason};
use tokio::sync::{Semaphore, TryAcquireError, oneshot};

use crate::pool::EnginePool;

/// Jobs that run at once, at most.
const AT_ONCE: usize = 1;
/// Jobs that wait for their turn, at most, beside those that run.
const WAITING_MAX: usize = 64;

/// Hands out turns. Clones share them.
#[derive(Clone)]
pub(crate) struct Turns {
    pool: Arc<dyn EnginePool>,
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Turns {
    pub fn new(pool: Arc<dyn EnginePool>) -> Turns {
        Turns {
            pool,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Arc::new(Semaphore::new(AT_ONCE + WAITING_MAX)),
        }
    }

    /// Runs a job that blocks, when it is its turn.
    ///
    /// # Errors
    /// `OVERLOADED`: too many wait. And whatever the job fails with.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let busy = || Failure::new(Reason::Overloaded, "this node hands over enough just now");
        let _place = match Arc::clone(&self.waiting).try_acquire_owned() {
            Ok(place) => place,
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => return Err(busy()),
        };
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| busy())?;
        let (done, result) = oneshot::channel();
        let job = move || {
            // A caller that went away needs no answer.
            let _ = done.send(job());
            drop(turn);
        };
        self.pool.submit(Box::new(job)).map_err(|_| busy())?;
        result.await.map_err(|_| busy())?
    }
}
