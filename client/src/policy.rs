//! When a call is sent again, and where to: pure decisions over errors, with no clock and no chance of their own.
//!
//! *Invariant (I10):* the client is the only retry layer, and it retries only where section 9 of the design says so:
//! at most [`ATTEMPTS_MAX`] attempts, under one request id, within one deadline.

use std::time::Duration;

use crate::error::{Error, Kind};

/// The most attempts of one call, the first included.
pub(crate) const ATTEMPTS_MAX: u32 = 3;
/// The ceiling of the first backoff; it doubles with every attempt.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
/// The highest ceiling of a backoff.
const BACKOFF_MAX: Duration = Duration::from_millis(200);

/// Where the next attempt goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Any node but the one that failed, if there is another.
    Elsewhere,
    /// The node of that name, which the error named.
    Named(String),
}

/// What becomes of a call after one of its attempts failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The call fails with this error.
    Stop,
    /// Send it again after a pause.
    Again { after: Duration, to: Target },
}

/// Decides after the failed attempt number `attempt` (0 for the first) with `left` of the deadline to go.
/// `chance` in `[0, 1)` is the draw for the jitter.
pub(crate) fn decide(error: &Error, attempt: u32, left: Duration, chance: f64) -> Decision {
    if attempt + 1 >= ATTEMPTS_MAX || left.is_zero() {
        return Decision::Stop;
    }
    let backoff = backoff(attempt, chance);
    let again = |after: Duration, to| {
        if after < left {
            Decision::Again { after, to }
        } else {
            Decision::Stop
        }
    };
    match error.kind() {
        // Nothing was attempted, or the same request id makes the resend safe.
        Kind::Unavailable | Kind::OutcomeUnknown | Kind::Transport => again(
            error.retry_after().unwrap_or_default() + backoff,
            Target::Elsewhere,
        ),
        // At the node that the error names; without one, by the layout that is being refreshed.
        Kind::Misrouted | Kind::WrongCluster => match error.named_node() {
            Some(node) => again(Duration::ZERO, Target::Named(node.to_owned())),
            None if error.kind() == Kind::Misrouted => again(backoff, Target::Elsewhere),
            None => Decision::Stop,
        },
        // As `RetryInfo` says, and not at all if it says nothing.
        Kind::Overloaded | Kind::RateLimited | Kind::DiskFull | Kind::TooManySiblings => {
            match error.retry_after() {
                Some(after) => again(after + backoff, Target::Elsewhere),
                None => Decision::Stop,
            }
        }
        // A passed deadline leaves no time; the others cannot succeed as they stand.
        Kind::Timeout
        | Kind::ConditionFailed
        | Kind::InvalidArgument
        | Kind::Unauthenticated
        | Kind::PermissionDenied
        | Kind::SeveralSiblings
        | Kind::Config => Decision::Stop,
    }
}

/// Exponential backoff with full jitter.
fn backoff(attempt: u32, chance: f64) -> Duration {
    let ceiling = BACKOFF_FIRST
        .saturating_mul(1 << attempt.min(16))
        .min(BACKOFF_MAX);
    ceiling.mul_f64(chance)
}
