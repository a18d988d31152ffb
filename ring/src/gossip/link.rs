//! The health of the direct link to one node: how the exchanges that this node opened went.

/// Weight of one exchange in the averages: an eighth, as in TCP's round trip estimate.
const WEIGHT: u64 = 8;

/// How the exchanges over one link went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkHealth {
    /// Share of exchanges that were answered, in thousandths, the recent ones weighing more; 1,000 before the first.
    pub answered_permille: u64,
    /// Exchanges since the last that was answered.
    pub failures_in_row: u64,
    /// From question to answer, in ms, averaged alike; 0 before the first.
    pub round_trip_ms: u64,
    /// When one was last answered, by the clock that is handed in; `None` for never.
    pub answered_at_ms: Option<u64>,
    rate: u64,
    trip: u64,
}

/// The averages are kept in finer units than they are told.
const FINE: u64 = 1_000;

impl Default for LinkHealth {
    fn default() -> Self {
        LinkHealth {
            answered_permille: 1_000,
            failures_in_row: 0,
            round_trip_ms: 0,
            answered_at_ms: None,
            rate: 1_000 * FINE,
            trip: 0,
        }
    }
}

impl LinkHealth {
    pub(super) fn answered(&mut self, now_ms: u64, round_trip_ms: u64) {
        let trip = round_trip_ms.min(u64::MAX / FINE / WEIGHT) * FINE;
        self.trip = match self.answered_at_ms {
            None => trip,
            Some(_) => (self.trip * (WEIGHT - 1) + trip) / WEIGHT,
        };
        self.round_trip_ms = self.trip / FINE;
        self.answered_at_ms = Some(now_ms);
        self.failures_in_row = 0;
        self.count(1_000 * FINE);
    }

    pub(super) fn failed(&mut self) {
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        self.count(0);
    }

    fn count(&mut self, outcome: u64) {
        self.rate = (self.rate * (WEIGHT - 1) + outcome).div_ceil(WEIGHT);
        self.answered_permille = self.rate / FINE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_follow_what_happens() {
        let mut link = LinkHealth::default();
        link.answered(5, 40);
        assert_eq!((link.round_trip_ms, link.answered_at_ms), (40, Some(5)));
        assert_eq!(link.answered_permille, 1_000);
        (0..60).for_each(|_| link.failed());
        assert!(link.answered_permille < 5, "{link:?}");
        assert_eq!(link.failures_in_row, 60);
        (0..60).for_each(|now| link.answered(now, 8));
        assert!(
            link.answered_permille > 990 && link.round_trip_ms <= 9,
            "{link:?}"
        );
        assert_eq!(link.failures_in_row, 0);
    }
}
