//! The two times a node knows, handed in as one part, and the time that is made of them.
//!
//! Keeps the rule that wall clocks never order writes (I2): [`Clock::now`] times waits and deadlines, [`Clock::wall_ms`]
//! only stamps expiry, and [`SteadyClock`] the ages of request ids.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// Where a node reads the time. Production hands in [`SystemClock`]; a simulation its own.
pub trait Clock: Send + Sync + 'static {
    /// The monotonic time, for deadlines, waits and latencies.
    fn now(&self) -> Instant;

    /// Milliseconds since the Unix epoch, by the wall clock: may jump, both ways.
    fn wall_ms(&self) -> u64;
}

/// Wall time that does not jump, and that the members agree on: what it stamps at one node is forgotten at another.
///
/// *Why:* a request id that is forgotten too early lets the late copy of an overwritten write back in. By its own wall
/// clock, a node whose clock jumps ahead by minutes would forget all ids at once, and one that lags would have its own
/// forgotten by the others. So a node reads the wall clock once, goes on by the monotonic one, and follows the majority
/// of those that answer when it starts.
pub struct SteadyClock {
    clock: Arc<dyn Clock>,
    /// A monotonic time, and what it was in ms since the Unix epoch.
    fixed: Mutex<(Instant, u64)>,
}

impl SteadyClock {
    /// Goes on from the wall clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let fixed = Mutex::new((clock.now(), clock.wall_ms()));
        SteadyClock { clock, fixed }
    }

    /// Milliseconds since the Unix epoch.
    pub fn ms(&self) -> u64 {
        self.at(self.clock.now())
    }

    /// The same, at a monotonic time that was read just now.
    pub fn at(&self, now: Instant) -> u64 {
        let (since, ms) = *self.fixed.lock().unwrap_or_else(PoisonError::into_inner);
        ms + now.saturating_duration_since(since).as_millis() as u64
    }

    /// Takes over the median of what others said just now; of an even number of them, together with its own.
    pub fn agree(&self, others: impl IntoIterator<Item = u64>) {
        let now = self.clock.now();
        let mut times: Vec<u64> = others.into_iter().collect();
        if times.len().is_multiple_of(2) {
            times.push(self.at(now));
        }
        times.sort_unstable();
        let median = times[times.len() / 2];
        *self.fixed.lock().unwrap_or_else(PoisonError::into_inner) = (now, median);
    }
}

/// The clocks of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the edge that reads the wall clock"
    )]
    fn wall_ms(&self) -> u64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Both times stand where a test puts them.
    struct Hands(Mutex<(Instant, u64)>);

    impl Hands {
        fn at(wall_ms: u64) -> Arc<Self> {
            Arc::new(Hands(Mutex::new((Instant::now(), wall_ms))))
        }
    }

    impl Clock for Hands {
        fn now(&self) -> Instant {
            self.0.lock().expect("nobody panics with it").0
        }

        fn wall_ms(&self) -> u64 {
            self.0.lock().expect("nobody panics with it").1
        }
    }

    #[test]
    fn a_wall_clock_that_jumps_moves_nothing() {
        let hands = Hands::at(5_000);
        let steady = SteadyClock::new(hands.clone());
        let mut both = hands.0.lock().expect("nobody panics with it");
        both.0 += Duration::from_millis(7);
        both.1 = 90_000_000;
        drop(both);
        assert_eq!(steady.ms(), 5_007);
    }

    #[test]
    fn a_clock_that_is_off_follows_the_others() {
        for (others, agreed) in [
            (&[][..], 5_000),
            (&[900][..], 900),
            (&[900, 901], 901),
            (&[4_990, 90_000], 5_000),
            (&[1, 4_000, 90_000], 4_000),
        ] {
            let steady = SteadyClock::new(Hands::at(5_000));
            steady.agree(others.iter().copied());
            assert_eq!(steady.ms(), agreed, "{others:?}");
        }
    }
}
