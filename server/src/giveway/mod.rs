//! How background work gives way to clients: transfers, on both sides, erasing, exchanges, the delivery of hints, the scrub.
//!
//! Each works in small slices and rests after each of them, for a multiple of the time that it took: on a busy machine a slice takes
//! longer, and so is followed by a longer rest. How many times is decided by what clients feel ([`felt`]). No rest is longer than
//! a constant, so whatever goes on ends, however clients feel. Pure: times are handed in.

pub mod felt;

use std::time::Duration;

pub use self::felt::Felt;

/// While clients are served, a slice is followed by so many times the rest that it took: a fifth of the time is the work's, at
/// most.
const RESTS: u32 = 4;
/// While they suffer: a tenth of the time.
const RESTS_SUFFERING: u32 = 9;
/// The longest rest while clients are served: a slice that was slow by itself does not stop the work.
const REST_MAX: Duration = Duration::from_millis(100);
/// The longest rest while they suffer: four slices a second are done whatever clients feel.
const REST_SUFFERING_MAX: Duration = Duration::from_millis(250);

/// Who is served beside the background work of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Nobody waits.
    Nobody,
    /// Clients.
    Clients,
    /// Clients that feel a good deal more than when it is calm.
    Suffering,
}

impl Beside {
    /// How long to rest after a slice that took `worked`.
    pub fn rest(self, worked: Duration) -> Duration {
        match self {
            Beside::Nobody => Duration::ZERO,
            Beside::Clients => (worked * RESTS).min(REST_MAX),
            Beside::Suffering => (worked * RESTS_SUFFERING).min(REST_SUFFERING_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_more_clients_feel_the_longer_the_rest() {
        let rests = |worked| {
            [Beside::Nobody, Beside::Clients, Beside::Suffering].map(|beside| beside.rest(worked))
        };
        assert_eq!(rests(2 * MS), [Duration::ZERO, 8 * MS, 18 * MS]);
    }

    #[test]
    fn whatever_goes_on_ends() {
        // A hundred slices that take as long as they like are done in so much rest at most.
        let most = |beside: Beside| 100 * beside.rest(60_000 * MS);
        assert_eq!(most(Beside::Clients), 10_000 * MS);
        assert_eq!(most(Beside::Suffering), 25_000 * MS);
    }
}
