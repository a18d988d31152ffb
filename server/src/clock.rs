//! The two times a node knows, handed in as one part.
//!
//! Keeps the rule that wall clocks never order writes (I2): [`Clock::now`] times waits and deadlines, and
//! [`Clock::wall_ms`] only stamps expiry and ages of request ids.

use tokio::time::Instant;

/// Where a node reads the time. Production hands in [`SystemClock`]; a simulation its own.
pub trait Clock: Send + Sync + 'static {
    /// The monotonic time, for deadlines, waits and latencies.
    fn now(&self) -> Instant;

    /// Milliseconds since the Unix epoch, by the wall clock: may jump, both ways.
    fn wall_ms(&self) -> u64;
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
