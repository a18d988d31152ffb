//! The typed error of the data path: one reason, its gRPC code, and what a caller may do about it.

use std::{collections::BTreeMap, fmt, time::Duration};

use prost::Message;
use tonic::{Code, Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, StatusExt};

use crate::v1;

/// The trailer of a failed unary call that carries the whole [`v1::Error`], encoded.
pub const ERROR_TRAILER: &str = "ringfort-error-bin";

/// The domain of Ringfort's `google.rpc.ErrorInfo`.
const DOMAIN: &str = "ringfort";

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $name:literal $code:ident;)*) => {
        /// Why a request failed. Each reason has exactly one gRPC code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// All reasons, in the order of the table in the README.
            pub const ALL: &[Reason] = &[$(Reason::$variant,)*];

            /// The reason as it stands in `ErrorInfo.reason`.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }

            /// The gRPC code that carries this reason.
            pub fn code(self) -> Code {
                match self { $(Reason::$variant => Code::$code,)* }
            }

            /// The reason of that name.
            pub fn from_name(name: &str) -> Option<Reason> {
                match name { $($name => Some(Reason::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    /// Too few owners are reachable: nothing was attempted.
    QuorumUnavailable "QUORUM_UNAVAILABLE" Unavailable;
    /// This node is shutting down and takes no new work: nothing was attempted.
    Draining "DRAINING" Unavailable;
    /// The deadline passed, or the acknowledgements failed, after a dot was minted: the write may still apply.
    OutcomeUnknown "OUTCOME_UNKNOWN" DeadlineExceeded;
    /// The deadline passed before anything was attempted, or while reading: nothing changed.
    DeadlineExceeded "DEADLINE_EXCEEDED" DeadlineExceeded;
    /// `if_absent` met a value: nothing changed.
    ConditionFailed "CONDITION_FAILED" Aborted;
    /// The sender's layout epoch is older than this node accepts.
    StaleEpoch "STALE_EPOCH" FailedPrecondition;
    /// Between nodes: the object was read before a round of reaping of its partition: nothing was stored.
    StaleGeneration "STALE_GENERATION" FailedPrecondition;
    /// No copy that this node can reach holds all that it should.
    NotSynced "NOT_SYNCED" FailedPrecondition;
    /// The plan to be committed is not the plan of these changes on the newest layout: nothing changed.
    StalePlan "STALE_PLAN" FailedPrecondition;
    /// Another change was decided first: this one did not happen.
    ChangeLost "CHANGE_LOST" Aborted;
    /// The message belongs to another cluster.
    WrongCluster "WRONG_CLUSTER" FailedPrecondition;
    /// A queue or table is full: nothing was attempted.
    Overloaded "OVERLOADED" ResourceExhausted;
    /// The caller is over its rate.
    RateLimited "RATE_LIMITED" ResourceExhausted;
    /// Free space is below the floor for client writes.
    DiskFull "DISK_FULL" ResourceExhausted;
    /// The write would leave more siblings than the limit: read, merge, write with the context.
    TooManySiblings "TOO_MANY_SIBLINGS" ResourceExhausted;
    /// W or R is 0, or more than N.
    BadQuorum "BAD_QUORUM" InvalidArgument;
    /// A key, value, object, batch or deadline is over its limit.
    TooLarge "TOO_LARGE" InvalidArgument;
    /// The context is mangled, or belongs to another key or cluster, or is missing where one is required.
    BadContext "BAD_CONTEXT" InvalidArgument;
    /// The key is empty.
    EmptyKey "EMPTY_KEY" InvalidArgument;
    /// The request has no deadline.
    NoDeadline "NO_DEADLINE" InvalidArgument;
    /// The request is malformed in another way, which the message names.
    BadRequest "BAD_REQUEST" InvalidArgument;
}

/// A failed request, as both sides hold it: what happened, whether anything changed (by its reason), what to do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// A sentence for a person.
    pub message: String,
    /// Figures and names, as `ErrorInfo.metadata`: `need`, `alive`, `acks`, `limit`, `node`, `epoch`, …
    pub metadata: BTreeMap<String, String>,
    /// When to try again, if the server says so.
    pub retry_after: Option<Duration>,
    /// What is stored, for [`Reason::ConditionFailed`].
    pub current: Option<Box<v1::GetResponse>>,
    /// The node that answered; empty if unknown.
    pub node: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.message)?;
        if !self.node.is_empty() {
            write!(f, " (node {})", self.node)?;
        }
        Ok(())
    }
}

impl Failure {
    /// A failure with nothing but a reason and a sentence.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Failure {
            reason,
            message: message.into(),
            metadata: BTreeMap::new(),
            retry_after: None,
            current: None,
            node: String::new(),
        }
    }

    /// Adds one figure or name to the metadata.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.metadata.insert(name.to_owned(), value.to_string());
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The failure as it travels in a session or a batch.
    pub fn to_wire(&self) -> v1::Error {
        v1::Error {
            code: self.reason.code() as i32,
            reason: self.reason.as_str().to_owned(),
            message: self.message.clone(),
            metadata: self
                .metadata
                .iter()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
            retry_after_ms: self.retry_after.map_or(0, millis),
            current: self.current.as_deref().cloned(),
            node: self.node.clone(),
        }
    }

    /// Reads a failure off the wire; `None` if this version does not know its reason.
    pub fn from_wire(error: v1::Error) -> Option<Self> {
        Some(Failure {
            reason: Reason::from_name(&error.reason)?,
            message: error.message,
            metadata: error.metadata.into_iter().collect(),
            retry_after: (error.retry_after_ms > 0)
                .then(|| Duration::from_millis(error.retry_after_ms)),
            current: error.current.map(Box::new),
            node: error.node,
        })
    }

    /// The failure as the status of a unary call: `ErrorInfo`, `RetryInfo`, and the whole in [`ERROR_TRAILER`].
    #[expect(
        clippy::disallowed_types,
        reason = "tonic-types takes no other map; nobody reads its order"
    )]
    pub fn to_status(&self) -> Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(
            self.reason.as_str(),
            DOMAIN,
            self.metadata
                .iter()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect::<std::collections::HashMap<_, _>>(),
        );
        if let Some(after) = self.retry_after {
            details.set_retry_info(Some(after));
        }
        let mut status =
            Status::with_error_details(self.reason.code(), self.message.clone(), details);
        status.metadata_mut().insert_bin(
            ERROR_TRAILER,
            MetadataValue::from_bytes(&self.to_wire().encode_to_vec()),
        );
        status
    }

    /// Reads the failure that a status carries; `None` for a status that is not Ringfort's.
    pub fn from_status(status: &Status) -> Option<Self> {
        let bytes = status.metadata().get_bin(ERROR_TRAILER)?.to_bytes().ok()?;
        Failure::from_wire(v1::Error::decode(bytes).ok()?)
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        failure.to_status()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_both_ways_of_travel() {
        for &reason in Reason::ALL {
            let failure = Failure::new(reason, "a sentence")
                .with("need", 2)
                .retry_after(Duration::from_millis(7));
            assert_eq!(Reason::from_name(reason.as_str()), Some(reason));
            assert_eq!(Failure::from_wire(failure.to_wire()), Some(failure.clone()));
            let status = failure.to_status();
            assert_eq!(status.code(), reason.code());
            let info = status.get_details_error_info().expect("carries ErrorInfo");
            assert_eq!(info.reason, reason.as_str());
            assert_eq!(Failure::from_status(&status), Some(failure));
        }
    }

    #[test]
    fn a_foreign_status_is_not_a_failure() {
        assert_eq!(Failure::from_status(&Status::internal("?")), None);
    }
}
