//! The phi-accrual failure detector: how suspicious a silence is, given how long silences were before.
//!
//! Hayashibara, Défago, Yared, Katayama: *The φ accrual failure detector* (SRDS 2004), section 4: gaps between arrivals are
//! taken as normally distributed, and φ(t) = −log10 P(a gap is longer than t). The normal tail is approximated by the logistic
//! function `1 / (1 + e^z)`, `z = y (1.5976 + 0.070566 y²)`, `y = (t − mean) / deviation`, as Akka and others do: within
//! 6 % of φ up to four deviations, and higher past them.
//!
//! *Invariant:* integers only, so that the same arrivals give the same φ on every machine. φ is in thousandths.

/// Gaps that are remembered: about a minute at one heartbeat a second.
pub const WINDOW: usize = 64;
/// A longer gap counts as this one, in ms, so that one outage does not blind the detector for the next.
pub const GAP_MAX_MS: u64 = 5_000;
/// With fewer gaps than this the deviation is not measured yet.
const GAPS_MIN: usize = 8;
/// The deviation while it is not measured, in ms.
const DEVIATION_UNKNOWN_MS: u64 = 500;

/// `1000 × log10(1 + e^−z)` at z = 0, ½, 1, …: what φ has on top of `z / ln 10`.
const SOFT: [u64; 17] = [301, 206, 136, 87, 55, 34, 21, 13, 8, 5, 3, 2, 1, 1, 0, 0, 0];
/// `1000 / ln 10`, in thousandths.
const PER_LN_10: u64 = 434_294;
/// Past this many deviations φ is beyond any threshold; keeps the arithmetic in range.
const DEVIATIONS_MAX: u64 = 100;

/// What a detector takes for granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// The time between two heartbeats, in ms. The mean of the gaps is never taken to be less.
    pub gap_ms: u64,
    /// The deviation of gaps is never taken to be less, in ms.
    pub deviation_min_ms: u64,
}

/// The last gaps between the arrivals of one node's heartbeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrivals {
    gaps_ms: [u16; WINDOW],
    next: u8,
    count: u8,
    sum: u64,
    sum_of_squares: u64,
}

impl Default for Arrivals {
    fn default() -> Self {
        Arrivals {
            gaps_ms: [0; WINDOW],
            next: 0,
            count: 0,
            sum: 0,
            sum_of_squares: 0,
        }
    }
}

impl Arrivals {
    /// A heartbeat came `gap_ms` after the one before.
    pub fn record(&mut self, gap_ms: u64) {
        let gap = u16::try_from(gap_ms.min(GAP_MAX_MS)).unwrap_or(u16::MAX);
        let place = &mut self.gaps_ms[usize::from(self.next)];
        let old = u64::from(std::mem::replace(place, gap));
        let gap = u64::from(gap);
        // A place that was never filled holds 0, which adds nothing to either sum.
        self.sum = self.sum + gap - old;
        self.sum_of_squares = self.sum_of_squares + gap * gap - old * old;
        self.next = (self.next + 1) % WINDOW as u8;
        self.count = (self.count + 1).min(WINDOW as u8);
    }

    /// How many gaps are remembered.
    pub fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// The mean gap in ms, at least what is expected.
    pub fn mean_ms(&self, expected: Expected) -> u64 {
        let mean = self.sum.checked_div(u64::from(self.count)).unwrap_or(0);
        mean.max(expected.gap_ms)
    }

    /// The standard deviation of the gaps in ms, at least what is expected.
    pub fn deviation_ms(&self, expected: Expected) -> u64 {
        let count = u64::from(self.count);
        let measured = if self.count() < GAPS_MIN {
            DEVIATION_UNKNOWN_MS
        } else {
            // n Σx² − (Σx)² = n² variance, and never negative.
            (count * self.sum_of_squares - self.sum * self.sum).isqrt() / count
        };
        measured.max(expected.deviation_min_ms)
    }

    /// φ in thousandths, after `silence_ms` without a heartbeat: at 8,000 one such silence in 10⁸ is not a failure.
    pub fn phi_milli(&self, silence_ms: u64, expected: Expected) -> u64 {
        let mean = self.mean_ms(expected);
        let deviation = self.deviation_ms(expected).max(1);
        // y in thousandths, and whether it is negative.
        let distance = silence_ms.abs_diff(mean);
        let y = (distance.saturating_mul(1_000) / deviation).min(DEVIATIONS_MAX * 1_000);
        let z = y * (1_597_600 + 70_566 * (y * y / 1_000) / 1_000) / 1_000_000;
        let soft = soft(z);
        if silence_ms < mean {
            soft
        } else {
            z * PER_LN_10 / 1_000_000 + soft
        }
    }
}

/// `1000 × log10(1 + e^−z)` for z in thousandths: between the places of the table by a straight line.
fn soft(z: u64) -> u64 {
    let place = usize::try_from(z / 500).unwrap_or(usize::MAX);
    match (SOFT.get(place), SOFT.get(place.saturating_add(1))) {
        (Some(&from), Some(&to)) => from - (from - to) * (z % 500) / 500,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: Expected = Expected {
        gap_ms: 1_000,
        deviation_min_ms: 100,
    };

    fn after(gaps: impl IntoIterator<Item = u64>) -> Arrivals {
        let mut arrivals = Arrivals::default();
        gaps.into_iter().for_each(|gap| arrivals.record(gap));
        arrivals
    }

    #[test]
    fn phi_is_the_logarithm_of_the_normal_tail() {
        // Gaps of 900 and 1,100 in turn: mean 1,000, deviation 100.
        let arrivals = after((0..64).map(|i| 900 + 200 * (i % 2)));
        assert_eq!(
            (arrivals.mean_ms(EXPECTED), arrivals.deviation_ms(EXPECTED)),
            (1_000, 100)
        );
        // −log10 of the upper tail of the normal distribution at 0, 1, 2, 3, 4 deviations.
        for (silence_ms, phi) in [
            (1_000, 301),
            (1_100, 800),
            (1_200, 1_643),
            (1_300, 2_870),
            (1_400, 4_499),
        ] {
            let found = arrivals.phi_milli(silence_ms, EXPECTED);
            assert!(
                found.abs_diff(phi) * 100 <= phi * 6,
                "{silence_ms}: {found}"
            );
        }
        assert!(arrivals.phi_milli(0, EXPECTED) < 5);
    }

    #[test]
    fn phi_never_falls_as_silence_grows() {
        for arrivals in [
            Arrivals::default(),
            after([1_000; 5]),
            after((0..200).map(|i| 500 + i * 37 % 1_700)),
        ] {
            let phis: Vec<_> = (0..20_000)
                .step_by(7)
                .map(|silence| arrivals.phi_milli(silence, EXPECTED))
                .collect();
            assert!(phis.is_sorted());
            assert!(arrivals.phi_milli(u64::MAX, EXPECTED) >= 1_000_000);
        }
    }

    #[test]
    fn the_window_forgets_and_the_floors_hold() {
        let mut arrivals = after([4_000; 64]);
        assert_eq!(arrivals.mean_ms(EXPECTED), 4_000);
        (0..64).for_each(|_| arrivals.record(10));
        assert_eq!(arrivals.count(), WINDOW);
        assert_eq!(
            (arrivals.mean_ms(EXPECTED), arrivals.deviation_ms(EXPECTED)),
            (1_000, 100),
            "the short gaps are all that is left, and count as what is expected"
        );
        let long = after([u64::MAX; 64]);
        assert_eq!(long.mean_ms(EXPECTED), GAP_MAX_MS);
        assert_eq!(
            Arrivals::default().deviation_ms(EXPECTED),
            DEVIATION_UNKNOWN_MS
        );
    }
}
