//! Turns on the engine pool for what other nodes ask in bulk: few at once, each followed by a rest while clients are served, since
//! their reads need the pool, too. Whoever asks may have no clients of its own, as a node that has just joined; so it is for the
//! one that answers to give way.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ringfort_proto::{Failure, Reason};
use tokio::{
    sync::{Semaphore, TryAcquireError, oneshot},
    time::Instant,
};

use crate::{coordinator::Coordinator, pool::EnginePool};

/// Jobs that run at once, at most.
const AT_ONCE: usize = 1;
/// Jobs that wait for their turn, at most, beside those that run.
const WAITING_MAX: usize = 64;
/// All rests of those that wait, at most: whoever asked waits no longer than a few seconds for an answer.
const RESTS_MAX: Duration = Duration::from_secs(4);

/// Hands out turns. Clones share them.
#[derive(Clone)]
pub(crate) struct Turns {
    pool: Arc<dyn EnginePool>,
    coordinator: Arc<Coordinator>,
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// When the rest after the last turn is over.
    rested: Arc<Mutex<Option<Instant>>>,
}

impl Turns {
    /// Turns that give way to the clients of this coordinator.
    pub fn new(pool: Arc<dyn EnginePool>, coordinator: Arc<Coordinator>) -> Turns {
        Turns {
            pool,
            coordinator,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Arc::new(Semaphore::new(AT_ONCE + WAITING_MAX)),
            rested: Arc::default(),
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
        let rested = *self.rested.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rested) = rested {
            tokio::time::sleep_until(rested).await;
        }
        let (done, result) = oneshot::channel();
        let turns = self.clone();
        let job = move || {
            let clock = &turns.coordinator.parts().clock;
            let began = clock.now();
            let result = job();
            turns.rest(clock.now(), clock.now() - began);
            // A caller that went away needs no answer.
            let _ = done.send(result);
            drop(turn);
        };
        self.pool.submit(Box::new(job)).map_err(|_| busy())?;
        result.await.map_err(|_| busy())?
    }

    /// After a turn that took `worked`.
    fn rest(&self, now: Instant, worked: Duration) {
        let places = AT_ONCE + WAITING_MAX - self.waiting.available_permits();
        let rest = self.coordinator.beside().rest(worked);
        let rest = rest.min(RESTS_MAX / places.max(1) as u32);
        let rested = (!rest.is_zero()).then(|| now + rest);
        *self.rested.lock().unwrap_or_else(PoisonError::into_inner) = rested;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        coordinator::Origin,
        testing::{Cluster, put_with, w},
    };

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn a_turn_is_followed_by_a_rest_while_clients_wait() {
        let cluster = Cluster::of_three().await;
        let node = &cluster.nodes[0];
        let coordinator = &node.data.coordinator;
        let pool = coordinator.parts().pool.clone();
        let turns = Turns::new(pool, coordinator.clone());
        let rest_after = |places: usize, worked| {
            let _waiting: Vec<_> = (0..places)
                .map(|_| turns.waiting.clone().try_acquire_owned().expect("room"))
                .collect();
            let now = Instant::now();
            turns.rest(now, worked);
            let rested = *turns.rested.lock().expect("no test panics with it");
            rested.map(|rested| rested - now)
        };
        assert_eq!(rest_after(1, MS), None, "nobody waits");
        node.hold_log(true);
        let written = node.start_op(put_with("k", "v", w(3)), 30_000 * MS, Origin::Client);
        assert_eq!(rest_after(1, MS), Some(4 * MS));
        assert_eq!(rest_after(1, 60_000 * MS), Some(100 * MS));
        // Whoever is the last of many is answered in a few seconds.
        assert_eq!(rest_after(65, 60_000 * MS), Some(RESTS_MAX / 65));
        assert_eq!(turns.run(|| Ok(7)).await.expect("its turn comes"), 7);
        node.hold_log(false);
        written.await.expect("it is answered");
    }
}
