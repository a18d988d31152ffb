//! Runs in which deleted keys are reaped while clients work and faults come and go.
//!
//! The grace must outlast whatever may keep a client's put on its way: one that arrives after the tombstone above it was reaped is a put
//! like any other, and what it wrote rightly comes back. So nothing is held for long there; but in drills with hasty clients what one node sends
//! another may be: that is no client's put, since all nodes own all keys.
//!
//! Decided by a source of chance of its own, so that other runs are what they were.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{faults::Fault, unrest::Aim};

/// One run of so many.
const SHARE: u32 = 3;
/// What keeps messages from arriving ends after so long, in ms.
const HOLD_MS_MAX: u64 = 800;
/// A client's call takes at most 2 s, and a link is slow by less than one: so long after it began nothing of it is on its way.
const GRACE_MS: u64 = 4_000;
/// So long deletes can be undone, in ms.
const SOFT_DELETE_MS: u64 = 300;
/// Times the usual number of keys.
const KEYS_TIMES: usize = 12;
/// A storm is longer by this, in ms: what is deleted at first is reaped before it ends.
const LONGER_MS: u64 = 8_000;

/// Where clients give their calls less time, see [`HASTY_MS_MAX`](super::workload::HASTY_MS_MAX), and no link is slow, so long is enough.
const HASTY_GRACE_MS: u64 = 900;
/// So long deletes can be undone there, in ms.
const HASTY_SOFT_DELETE_MS: u64 = 100;

/// How a run reaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaping {
    /// A node's setting, in ms.
    pub grace_ms: u64,
    /// The same.
    pub soft_delete_ms: u64,
}

impl Reaping {
    /// As soon as may be, where clients are hasty.
    pub fn hasty() -> Reaping {
        Reaping {
            grace_ms: HASTY_GRACE_MS,
            soft_delete_ms: HASTY_SOFT_DELETE_MS,
        }
    }

    /// Whether and how this seed's run does; all do if it is wanted.
    pub fn of(seed: u64, wanted: bool) -> Option<Reaping> {
        let mut chance = StdRng::seed_from_u64(seed ^ 0x7265_6170_696e_6700);
        let reaps = chance.random_range(0..SHARE) == 0 || wanted;
        reaps.then_some(Reaping {
            grace_ms: GRACE_MS,
            soft_delete_ms: SOFT_DELETE_MS,
        })
    }

    /// How long such a storm lasts, in ms.
    pub fn storm_ms(storm_ms: u64) -> u64 {
        storm_ms + LONGER_MS
    }

    /// Of how many keys clients choose: what is deleted is to stay so until it is reaped, mostly.
    pub fn keys(reaping: Option<Reaping>, usual: usize) -> usize {
        match reaping {
            Some(_) => usual * KEYS_TIMES,
            None => usual,
        }
    }

    /// Holds nothing for long.
    pub fn shorten(faults: &mut [Fault], aims: &mut [Aim]) {
        let aimed = aims.iter_mut().map(|aim| &mut aim.fault);
        for fault in faults.iter_mut().chain(aimed) {
            if fault.kind.is_of_network() {
                fault.for_ms = fault.for_ms.min(HOLD_MS_MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_runs_reap_and_most_do_not() {
        let reaping = (0..300).filter(|seed| Reaping::of(*seed, false).is_some());
        assert!((60..140).contains(&reaping.count()));
        assert!((0..10).all(|seed| Reaping::of(seed, true).is_some()));
    }
}
