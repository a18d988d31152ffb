//! How fast to drain: a drain is to end in 80 % of the time that the next table takes to fill at the rate measured
//! since the freeze. Evenly spread, it takes the least from the reads and writes beside it.
//!
//! Pure: what is done and what is filled are handed in. Never so slow that the next table fills first: the rate is measured anew at
//! each step, and a drain that is late, or that somebody waits for, goes on without a rest.

use super::FREEZE_AGE_MS_MAX;

/// Longest rest between two steps, in ms: the rate is looked at again after it.
const REST_MS_MAX: u64 = 20;

/// What the two halves of a drain cost for one key: to fold it is a read of the engine at most, to insert it is a read and a write.
const FOLD_COST: u64 = 1;
const INSERT_COST: u64 = 2;

/// What is done of a drain.
#[derive(Debug, Clone, Copy)]
pub(super) enum Done {
    /// So many keys are folded, and nothing is inserted.
    Folded(usize),
    /// All keys are folded, and so many changes inserted.
    Inserted(usize),
}

/// A running drain's schedule.
#[derive(Debug, Default)]
pub(super) struct Pace {
    began_ms: u64,
    keys: u64,
    /// Keys and hints.
    changes: u64,
    /// Bytes that the engine did not hold at the freeze.
    frozen_bytes: usize,
}

impl Pace {
    /// A drain of `keys` keys and `hints` hints begins.
    pub(super) fn begin(&mut self, now_ms: u64, keys: usize, hints: usize, frozen_bytes: usize) {
        *self = Self {
            began_ms: now_ms,
            keys: keys as u64,
            changes: (keys + hints) as u64,
            frozen_bytes,
        };
    }

    /// How long to rest after what is `done`, when `dirty_bytes` in all are not in the engine, and the next table's freeze
    /// comes at `budget_bytes`.
    pub(super) fn rest_ms(
        &self,
        now_ms: u64,
        done: Done,
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
        let cost = self.keys * FOLD_COST + self.changes * INSERT_COST;
        let due_ms = fill_ms * 8 / 10 * self.spent(done) / cost.max(1);
        due_ms.saturating_sub(elapsed_ms).min(REST_MS_MAX)
    }

    fn spent(&self, done: Done) -> u64 {
        match done {
            Done::Folded(keys) => keys as u64 * FOLD_COST,
            Done::Inserted(changes) => self.keys * FOLD_COST + changes as u64 * INSERT_COST,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_spreads_over_80_percent_of_the_next_fill() {
        let mut pace = Pace::default();
        pace.begin(1_000, 100, 0, 7_000);
        // Fills 10 bytes a ms of 10,000: 1,000 ms, so 800 ms for the drain, and half of its 300 are due at 400 ms.
        assert_eq!(pace.rest_ms(1_390, Done::Inserted(25), 10_900, 10_000), 10);
        assert_eq!(
            pace.rest_ms(1_100, Done::Inserted(25), 8_000, 10_000),
            REST_MS_MAX
        );
        // Late already: no rest.
        assert_eq!(pace.rest_ms(1_500, Done::Inserted(25), 12_000, 10_000), 0);
        // The next table is full before its time.
        assert_eq!(pace.rest_ms(1_100, Done::Inserted(25), 17_000, 10_000), 0);
        // Nobody writes: the next freeze comes by age.
        assert_eq!(pace.rest_ms(1_795, Done::Inserted(25), 7_000, 10_000), 5);
    }

    /// Rests of a drain whose every step of ten takes 1 ms, while `bytes_per_ms` come in; and when it ended.
    fn run(keys: usize, hints: usize, bytes_per_ms: usize) -> (Vec<u64>, u64) {
        let (mut pace, mut now_ms, mut rests) = (Pace::default(), 0, Vec::new());
        pace.begin(now_ms, keys, hints, 0);
        let folds = (10..=keys).step_by(10).map(Done::Folded);
        let inserts = (10..=keys + hints).step_by(10).map(Done::Inserted);
        for done in folds.chain(inserts) {
            now_ms += 1;
            let rest_ms = pace.rest_ms(now_ms, done, bytes_per_ms * now_ms as usize, 100_000);
            rests.push(rest_ms);
            now_ms += rest_ms;
        }
        (rests, now_ms)
    }

    #[test]
    fn both_halves_are_spread() {
        let (rests, end_ms) = run(500, 100, 0);
        assert_eq!(
            end_ms, 1_600,
            "80 % of the age at which the next freeze comes"
        );
        // 50 steps of folding take 500 of 1,700 parts, 60 of inserting the rest.
        let (folding, inserting) = rests.split_at(50);
        assert_eq!(folding.iter().sum::<u64>() + 50, 1_600 * 500 / 1_700);
        assert!(
            folding.iter().all(|rest| (8..=9).contains(rest)),
            "{folding:?}"
        );
        assert!(
            inserting.iter().all(|rest| (17..=18).contains(rest)),
            "{inserting:?}"
        );
    }

    #[test]
    fn a_drain_ends_before_the_next_table_is_full() {
        for bytes_per_ms in [100, 200, 500, 700] {
            let (_, end_ms) = run(500, 0, bytes_per_ms);
            assert!(
                end_ms as usize <= 100_000 / bytes_per_ms,
                "{bytes_per_ms}: {end_ms}"
            );
        }
        // Faster than it can be drained: without a rest from the beginning on.
        let (rests, _) = run(500, 0, 2_000);
        assert_eq!(rests.iter().sum::<u64>(), 0, "{rests:?}");
    }
}
