//! How fast to drain: a drain is to end in 80 % of the time that the next table takes to fill at the rate measured
//! since the freeze. Evenly spread, it takes the least from the reads and writes beside it.

use super::FREEZE_AGE_MS_MAX;

/// Longest rest between two steps, in ms: the rate is looked at again after it.
const REST_MS_MAX: u64 = 20;

/// A running drain's schedule.
#[derive(Debug, Default)]
pub(super) struct Pace {
    began_ms: u64,
    keys: u64,
    /// Bytes that the engine did not hold at the freeze.
    frozen_bytes: usize,
}

impl Pace {
    pub(super) fn begin(&mut self, now_ms: u64, keys: usize, frozen_bytes: usize) {
        *self = Self {
            began_ms: now_ms,
            keys: keys as u64,
            frozen_bytes,
        };
    }

    /// How long to rest after `done` keys, when `dirty_bytes` in all are not in the engine, and the next table's freeze
    /// comes at `budget_bytes`.
    pub(super) fn rest_ms(
        &self,
        now_ms: u64,
        done: usize,
        dirty_bytes: usize,
        budget_bytes: usize,
    ) -> u64 {
        let filled_bytes = dirty_bytes.saturating_sub(self.frozen_bytes);
        if filled_bytes >= budget_bytes || dirty_bytes >= budget_bytes * 7 / 4 {
            // The next freeze waits for this drain, or writers are about to.
            return 0;
        }
        let elapsed_ms = now_ms.saturating_sub(self.began_ms).max(1);
        let rate = (filled_bytes as u64 / elapsed_ms).max(1);
        // The next freeze comes by size or by age, whichever is first.
        let fill_ms = (budget_bytes as u64 / rate).min(FREEZE_AGE_MS_MAX);
        let due_ms = fill_ms * 8 / 10 * done as u64 / self.keys.max(1);
        due_ms.saturating_sub(elapsed_ms).min(REST_MS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_spreads_over_80_percent_of_the_next_fill() {
        let mut pace = Pace::default();
        pace.begin(1_000, 100, 7_000);
        // Fills 10 bytes a ms of 10,000: 1,000 ms, so 800 ms for the drain, and half the keys are due at 400 ms.
        assert_eq!(pace.rest_ms(1_390, 50, 10_900, 10_000), 10);
        assert_eq!(pace.rest_ms(1_100, 50, 8_000, 10_000), REST_MS_MAX);
        // Late already: no rest.
        assert_eq!(pace.rest_ms(1_500, 50, 12_000, 10_000), 0);
        // The next table is full before its time.
        assert_eq!(pace.rest_ms(1_100, 50, 17_000, 10_000), 0);
        // Nobody writes: the next freeze comes by age.
        assert_eq!(pace.rest_ms(1_795, 50, 7_000, 10_000), 5);
    }
}
