//! How fast partitions are received: no faster than the operator lets it, and giving way to clients.
//!
//! Pure: times are handed in.

use std::time::Duration;

use tokio::time::Instant;

use crate::giveway::Beside;

/// The longest work that is taken into account when what was received is paid for.
const WORKED_MAX: Duration = Duration::from_millis(100);

/// The schedule of one node's transfers.
#[derive(Debug)]
pub struct Pace {
    bytes_per_s: u64,
    /// When what was received so far is paid for.
    paid: Option<Instant>,
}

impl Pace {
    /// At most so many bytes a second; 0 is taken as 1.
    pub fn new(bytes_per_s: u64) -> Pace {
        Pace {
            bytes_per_s: bytes_per_s.max(1),
            paid: None,
        }
    }

    /// How long to rest after a page of `bytes` that took `worked`, and what else goes on.
    pub fn rest(&mut self, now: Instant, bytes: u64, worked: Duration, beside: Beside) -> Duration {
        let since = self
            .paid
            .map_or(now, |paid| paid.max(now - worked.min(WORKED_MAX)));
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
        let paid = since + cost;
        self.paid = Some(paid);
        paid.saturating_duration_since(now).max(beside.rest(worked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn no_more_bytes_a_second_than_allowed() {
        let mut pace = Pace::new(1_000_000);
        let mut now = Instant::now();
        let began = now;
        for _ in 0..100 {
            now += MS; // the page
            now += pace.rest(now, 10_000, MS, Beside::Nobody);
        }
        let took = now - began;
        assert!(took >= 990 * MS && took <= 1_010 * MS, "{took:?}");
        // What was not used is not saved up.
        now += 1_000_000 * MS;
        pace.rest(now, 10_000, MS, Beside::Nobody);
        assert!(pace.rest(now, 10_000, MS, Beside::Nobody) >= 9 * MS);
    }

    #[tokio::test]
    async fn clients_come_first() {
        let mut pace = Pace::new(u64::MAX);
        let now = Instant::now();
        assert_eq!(
            pace.rest(now, 1_000, 2 * MS, Beside::Nobody),
            Duration::ZERO
        );
        assert_eq!(pace.rest(now, 1_000, 2 * MS, Beside::Clients), 8 * MS);
        assert_eq!(pace.rest(now, 1_000, 5_000 * MS, Beside::Clients), 100 * MS);
    }
}
