//! How fast partitions are received: no faster than the operator lets it, and giving way to clients.
//!
//! Pure: times are handed in.

use std::time::Duration;

use tokio::time::Instant;

/// While clients are served, a page is followed by so many times the rest that it took: at most a quarter of the time is the
/// transfer's.
const GIVES_WAY: u32 = 3;
/// The longest rest for clients' sake, so that a slow page does not stop the transfer.
const REST_MAX: Duration = Duration::from_millis(100);

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

    /// How long to rest after a page of `bytes` that took `worked`, beside clients or not.
    pub fn rest(&mut self, now: Instant, bytes: u64, worked: Duration, clients: bool) -> Duration {
        let since = self
            .paid
            .map_or(now, |paid| paid.max(now - worked.min(REST_MAX)));
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
        let paid = since + cost;
        self.paid = Some(paid);
        let for_clients = match clients {
            true => (worked * GIVES_WAY).min(REST_MAX),
            false => Duration::ZERO,
        };
        paid.saturating_duration_since(now).max(for_clients)
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
            now += pace.rest(now, 10_000, MS, false);
        }
        let took = now - began;
        assert!(took >= 990 * MS && took <= 1_010 * MS, "{took:?}");
        // What was not used is not saved up.
        now += 1_000_000 * MS;
        pace.rest(now, 10_000, MS, false);
        assert!(pace.rest(now, 10_000, MS, false) >= 9 * MS);
    }

    #[tokio::test]
    async fn clients_come_first() {
        let mut pace = Pace::new(u64::MAX);
        let now = Instant::now();
        assert_eq!(pace.rest(now, 1_000, 2 * MS, false), Duration::ZERO);
        assert_eq!(pace.rest(now, 1_000, 2 * MS, true), 6 * MS);
        assert_eq!(pace.rest(now, 1_000, 5_000 * MS, true), REST_MAX);
    }
}
