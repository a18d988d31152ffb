//! When a call is sent again, and where to: pure decisions over errors, with no clock and no chance of their own.
//!
//! *Invariant (I10):* the client is the only retry layer, and it retries only where the table of errors in
//! README.md says so: at most [`ATTEMPTS_MAX`] attempts, under one request id, within one deadline.

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
        | Kind::ChangeRefused
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

#[cfg(test)]
mod tests {
    use ringfort_proto::{Failure, Reason};

    use super::*;

    const LEFT: Duration = Duration::from_secs(1);

    /// What a reason means, as a row of the table of errors in README.md.
    struct Row {
        reason: Reason,
        kind: Kind,
        ambiguous: bool,
        /// Sent again, bare; with a hint when to; with a node named.
        again: (bool, bool, bool),
    }

    fn row(reason: Reason, kind: Kind, ambiguous: bool, again: (bool, bool, bool)) -> Row {
        Row {
            reason,
            kind,
            ambiguous,
            again,
        }
    }

    const ALWAYS: (bool, bool, bool) = (true, true, true);
    const NEVER: (bool, bool, bool) = (false, false, false);
    const AS_HINTED: (bool, bool, bool) = (false, true, false);
    const WHERE_NAMED: (bool, bool, bool) = (false, false, true);

    fn table() -> Vec<Row> {
        use Reason as R;
        vec![
            row(R::QuorumUnavailable, Kind::Unavailable, false, ALWAYS),
            row(R::Draining, Kind::Unavailable, false, ALWAYS),
            row(R::OutcomeUnknown, Kind::OutcomeUnknown, true, ALWAYS),
            row(R::DeadlineExceeded, Kind::Timeout, false, NEVER),
            row(R::ConditionFailed, Kind::ConditionFailed, false, NEVER),
            row(R::StaleEpoch, Kind::Misrouted, false, ALWAYS),
            row(R::StaleGeneration, Kind::Misrouted, false, ALWAYS),
            row(R::NotSynced, Kind::Misrouted, false, ALWAYS),
            row(R::StalePlan, Kind::ChangeRefused, false, NEVER),
            row(R::ChangeLost, Kind::ChangeRefused, false, NEVER),
            row(R::WrongCluster, Kind::WrongCluster, false, WHERE_NAMED),
            row(R::Overloaded, Kind::Overloaded, false, AS_HINTED),
            row(R::RateLimited, Kind::RateLimited, false, AS_HINTED),
            row(R::DiskFull, Kind::DiskFull, false, AS_HINTED),
            row(R::TooManySiblings, Kind::TooManySiblings, false, AS_HINTED),
            row(R::BadQuorum, Kind::InvalidArgument, false, NEVER),
            row(R::TooLarge, Kind::InvalidArgument, false, NEVER),
            row(R::BadContext, Kind::InvalidArgument, false, NEVER),
            row(R::EmptyKey, Kind::InvalidArgument, false, NEVER),
            row(R::NoDeadline, Kind::InvalidArgument, false, NEVER),
            row(R::BadRequest, Kind::InvalidArgument, false, NEVER),
        ]
    }

    fn is_again(failure: Failure) -> bool {
        let error = Error::from_failure(failure, "n0", true);
        matches!(decide(&error, 0, LEFT, 0.5), Decision::Again { .. })
    }

    #[test]
    fn every_reason_has_its_kind_and_its_policy() {
        let table = table();
        let reasons: Vec<Reason> = table.iter().map(|row| row.reason).collect();
        assert_eq!(
            reasons,
            Reason::ALL,
            "the table has each reason once, in order"
        );
        for Row {
            reason,
            kind,
            ambiguous,
            again,
        } in table
        {
            let failure = || Failure::new(reason, "words of the server").with("need", 2);
            let error = Error::from_failure(failure(), "n0", true);
            assert_eq!(
                (error.kind(), error.is_ambiguous()),
                (kind, ambiguous),
                "{reason:?}"
            );
            assert_eq!((error.node(), error.reason()), (Some("n0"), Some(reason)));
            assert_eq!(error.failure().expect("typed").metadata["need"], "2");
            assert!(error.to_string().contains("words of the server"), "{error}");
            assert!(
                !Error::from_failure(failure(), "n0", false).is_ambiguous(),
                "a read changes nothing"
            );
            let hinted = failure().retry_after(Duration::from_millis(20));
            let is = (
                is_again(failure()),
                is_again(hinted.clone()),
                is_again(failure().with("node", "n1")),
            );
            assert_eq!(is, again, "{reason:?}");
            // What this call does by itself, its caller may do as well; a passed deadline is the caller's alone.
            let retryable = again.0
                || kind == Kind::Timeout
                || matches!(kind, Kind::Overloaded | Kind::RateLimited);
            assert_eq!(error.is_retryable(), retryable, "{reason:?}");
            assert_eq!(
                Error::from_failure(hinted, "n0", true).is_retryable(),
                retryable || again.1,
                "{reason:?}"
            );
        }
    }

    #[test]
    fn an_answer_without_a_reason_is_ambiguous_for_a_write() {
        use tonic::{Code, Status};
        for code in [
            Code::Unavailable,
            Code::Internal,
            Code::Unknown,
            Code::InvalidArgument,
            Code::DeadlineExceeded,
        ] {
            let status = Status::new(code, "a proxy's words");
            let write = Error::from_status(&status, "n0", true);
            assert!(write.is_ambiguous() && write.is_retryable(), "{code:?}");
            assert_eq!((write.kind(), write.code()), (Kind::Transport, Some(code)));
            assert!(write.to_string().contains("a proxy's words"), "{write}");
            assert!(
                !Error::from_status(&status, "n0", false).is_ambiguous(),
                "{code:?}"
            );
        }
        for (code, kind) in [
            (Code::Unauthenticated, Kind::Unauthenticated),
            (Code::PermissionDenied, Kind::PermissionDenied),
        ] {
            let error = Error::from_status(&Status::new(code, "no"), "n0", true);
            assert_eq!(
                (error.kind(), error.is_ambiguous(), error.is_retryable()),
                (kind, false, false)
            );
            assert_eq!(decide(&error, 0, LEFT, 0.5), Decision::Stop);
        }
        let unknown = ringfort_proto::v1::Error {
            code: Code::ResourceExhausted as i32,
            reason: "FROM_THE_FUTURE".to_owned(),
            ..Default::default()
        };
        let error = Error::from_wire(unknown, "n0", true);
        assert!(
            error.is_ambiguous() && error.to_string().contains("FROM_THE_FUTURE"),
            "{error}"
        );
    }

    #[test]
    fn attempts_time_and_backoff_are_bounded() {
        let error = Error::unreachable("n0", "refused");
        assert_eq!(decide(&error, ATTEMPTS_MAX - 1, LEFT, 0.0), Decision::Stop);
        assert_eq!(decide(&error, 0, Duration::ZERO, 0.0), Decision::Stop);
        assert_eq!(
            decide(&error, 0, Duration::from_millis(1), 0.9),
            Decision::Stop,
            "the pause would outlast it"
        );
        for attempt in 0..40 {
            assert!(backoff(attempt, 0.999) <= BACKOFF_MAX);
            assert_eq!(backoff(attempt, 0.0), Duration::ZERO, "full jitter");
        }
        assert!(backoff(1, 0.9) > backoff(0, 0.9));
    }

    #[test]
    fn a_hint_is_waited_for_and_a_named_node_is_asked_at_once() {
        let hint = Duration::from_millis(300);
        let busy = Error::from_failure(
            Failure::new(Reason::Overloaded, "busy").retry_after(hint),
            "n0",
            true,
        );
        match decide(&busy, 0, LEFT, 0.5) {
            Decision::Again {
                after,
                to: Target::Elsewhere,
            } => assert!(after >= hint),
            other => panic!("{other:?}"),
        }
        let stale = Error::from_failure(
            Failure::new(Reason::StaleEpoch, "ask").with("node", "n2"),
            "n0",
            true,
        );
        let there = Decision::Again {
            after: Duration::ZERO,
            to: Target::Named("n2".to_owned()),
        };
        assert_eq!(decide(&stale, 0, LEFT, 0.5), there);
    }
}
