//! The one error of this crate: opaque, with methods that say what happened, whether anything changed, what to do.
//!
//! *Invariant:* ambiguity is never understated. A write that may have been applied is ambiguous, whatever the words:
//! an answer of the server is definite only through its [`Reason`], and what carries no reason is ambiguous.

use std::{fmt, time::Duration};

use ringfort_proto::{Failure, Reason, v1};
use tonic::{Code, Status};

use crate::Read;

/// What sort of failure an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// No node could be reached, or too few owners are alive (`QUORUM_UNAVAILABLE`), or the node is going away.
    Unavailable,
    /// The deadline passed and nothing was changed.
    Timeout,
    /// The write may or may not have been applied, and may still be.
    OutcomeUnknown,
    /// The stream or the connection broke, or an answer came that is not Ringfort's.
    Transport,
    /// `if_absent` met a value; [`Error::current`] has it.
    ConditionFailed,
    /// The node was not the one to ask (`STALE_EPOCH`, `NOT_SYNCED`).
    Misrouted,
    /// A change of the layout was planned for another layout, or another change won (`STALE_PLAN`, `CHANGE_LOST`).
    ChangeRefused,
    /// The endpoints belong to another cluster.
    WrongCluster,
    /// A queue is full, here or at the node.
    Overloaded,
    /// The caller is over its rate.
    RateLimited,
    /// The node's free space is below the floor for client writes.
    DiskFull,
    /// The write would leave more siblings than the limit: read, merge, write with the context.
    TooManySiblings,
    /// The request cannot succeed as it stands: an empty key, a quorum above N, a value over its limit, a foreign context.
    InvalidArgument,
    /// The caller did not say who it is.
    Unauthenticated,
    /// The caller may not do this.
    PermissionDenied,
    /// One value was asked for and there are several; see [`Read::one`].
    SeveralSiblings,
    /// The client was built with settings that cannot work, or a value could not be encoded or decoded.
    Config,
}

/// Why a call failed.
///
/// `Display` carries the server's words. A failed read changed nothing. A failed write changed nothing either,
/// unless [`is_ambiguous`](Error::is_ambiguous).
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: Kind,
    message: String,
    failure: Option<Failure>,
    node: String,
    ambiguous: bool,
    code: Option<Code>,
}

impl Error {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Whether the same call may succeed later, with no change to it.
    ///
    /// For a write that [is ambiguous](Error::is_ambiguous) as well, calling again is a *second* write (with an id of
    /// its own), which is right if the write is idempotent or carries the context of a fresh read.
    pub fn is_retryable(&self) -> bool {
        match self.0.kind {
            Kind::Unavailable
            | Kind::Timeout
            | Kind::OutcomeUnknown
            | Kind::Transport
            | Kind::Misrouted
            | Kind::Overloaded
            | Kind::RateLimited => true,
            // The node says so when it expects to have room again.
            Kind::DiskFull | Kind::TooManySiblings => self.retry_after().is_some(),
            Kind::ConditionFailed
            | Kind::WrongCluster
            | Kind::ChangeRefused
            | Kind::InvalidArgument
            | Kind::Unauthenticated
            | Kind::PermissionDenied
            | Kind::SeveralSiblings
            | Kind::Config => false,
        }
    }

    /// Whether the write may have been applied, or may still be. `false` promises that nothing changed.
    ///
    /// Ambiguity sticks to a call: if any of its attempts was ambiguous and none succeeded, so is its error.
    pub fn is_ambiguous(&self) -> bool {
        self.0.ambiguous
    }

    /// When to try again, if the server says so.
    pub fn retry_after(&self) -> Option<Duration> {
        self.failure().and_then(|failure| failure.retry_after)
    }

    /// The node that answered, or that was asked; `None` if no node was.
    pub fn node(&self) -> Option<&str> {
        Some(self.0.node.as_str()).filter(|node| !node.is_empty())
    }

    /// The server's typed failure with its reason and figures; `None` if the error is the client's own or untyped.
    pub fn failure(&self) -> Option<&Failure> {
        self.0.failure.as_ref()
    }

    /// The server's reason, if it gave one.
    pub fn reason(&self) -> Option<Reason> {
        self.failure().map(|failure| failure.reason)
    }

    /// The gRPC code of an answer that carried no reason.
    pub fn code(&self) -> Option<Code> {
        self.0.code.or(self.reason().map(Reason::code))
    }

    /// What is stored, when a condition failed.
    pub fn current(&self) -> Option<Read> {
        let current = self.failure()?.current.as_deref()?;
        Some(Read::from_wire(current.clone()))
    }

    fn new(kind: Kind, node: impl Into<String>, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            failure: None,
            node: node.into(),
            ambiguous: false,
            code: None,
        }))
    }

    /// The client's own refusal of a request that cannot succeed.
    pub(crate) fn invalid(reason: Reason, message: impl Into<String>) -> Self {
        Error::from_failure(Failure::new(reason, message), "", false)
    }

    /// Settings that cannot work, or a value that does not encode.
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Error::new(Kind::Config, "", message)
    }

    /// Nothing was sent: the node at this address cannot be reached.
    pub(crate) fn unreachable(node: &str, message: impl Into<String>) -> Self {
        Error::new(Kind::Unavailable, node, message)
    }

    /// Nothing was sent: a limit of the client's own is reached.
    pub(crate) fn overloaded(message: impl Into<String>) -> Self {
        Error::new(Kind::Overloaded, "", message)
    }

    /// The deadline passed before anything was sent, or while reading.
    pub(crate) fn timeout(node: &str, message: impl Into<String>) -> Self {
        Error::new(Kind::Timeout, node, message)
    }

    /// The deadline passed after the operation was sent: a write may have been applied.
    pub(crate) fn unanswered(node: &str, write: bool) -> Self {
        let message = format!("no answer from {node} within the deadline");
        if !write {
            return Error::timeout(node, message);
        }
        let mut error = Error::new(
            Kind::OutcomeUnknown,
            node,
            message + "; the write may still apply",
        );
        error.0.ambiguous = true;
        error
    }

    /// A question had no answer in its share of the deadline; it changes nothing, so another node may be asked.
    pub(crate) fn silent(node: &str) -> Self {
        Error::unreachable(node, format!("{node} does not answer"))
    }

    /// The stream broke after the operation was sent.
    pub(crate) fn broken(node: &str, words: &str, write: bool) -> Self {
        let mut error = Error::new(
            Kind::Transport,
            node,
            format!("the connection to {node} broke before the answer: {words}"),
        );
        error.0.ambiguous = write;
        error
    }

    /// Layouts of two clusters behind one list of endpoints.
    pub(crate) fn wrong_cluster(node: &str, message: impl Into<String>) -> Self {
        Error::new(Kind::WrongCluster, node, message)
    }

    /// Several siblings where one value was asked for.
    pub(crate) fn several_siblings(count: usize) -> Self {
        Error::new(
            Kind::SeveralSiblings,
            "",
            format!("{count} siblings where one value was asked for"),
        )
    }

    /// A typed failure. `asked` names the node if the failure does not.
    pub(crate) fn from_failure(mut failure: Failure, asked: &str, write: bool) -> Self {
        if failure.node.is_empty() {
            failure.node = asked.to_owned();
        }
        let kind = kind_of(failure.reason);
        let mut error = Error::new(kind, failure.node.clone(), failure.to_string());
        error.0.ambiguous = write && failure.reason == Reason::OutcomeUnknown;
        error.0.failure = Some(failure);
        error
    }

    /// The error of one operation of a session or a batch.
    pub(crate) fn from_wire(wire: v1::Error, asked: &str, write: bool) -> Self {
        let code = Code::from_i32(wire.code);
        let words = if wire.reason.is_empty() {
            wire.message.clone()
        } else {
            format!("{}: {}", wire.reason, wire.message)
        };
        match Failure::from_wire(wire) {
            Some(failure) => Error::from_failure(failure, asked, write),
            None => Error::untyped(code, asked, words, write),
        }
    }

    /// The error of a unary call.
    pub(crate) fn from_status(status: &Status, asked: &str, write: bool) -> Self {
        match Failure::from_status(status) {
            Some(failure) => Error::from_failure(failure, asked, write),
            None => Error::untyped(status.code(), asked, words(status), write),
        }
    }

    /// An answer without a reason that this version knows: ambiguous for a write. The two codes of a caller that is
    /// turned away at the door carry none by contract and are definite.
    fn untyped(code: Code, asked: &str, message: String, write: bool) -> Self {
        let kind = match code {
            Code::Unauthenticated => Kind::Unauthenticated,
            Code::PermissionDenied => Kind::PermissionDenied,
            _ => Kind::Transport,
        };
        let mut error = Error::new(kind, asked, format!("{code:?}: {message}"));
        error.0.code = Some(code);
        error.0.ambiguous = write && kind == Kind::Transport;
        error
    }

    /// The same error, ambiguous if an earlier attempt of its call was.
    #[must_use]
    pub(crate) fn sticky(mut self, ambiguous: bool) -> Self {
        self.0.ambiguous |= ambiguous;
        self
    }

    /// The node that the server says to ask instead.
    pub(crate) fn named_node(&self) -> Option<&str> {
        self.failure()?.metadata.get("node").map(String::as_str)
    }
}

/// The kind of each reason; a table test pins it.
fn kind_of(reason: Reason) -> Kind {
    match reason {
        Reason::QuorumUnavailable | Reason::Draining => Kind::Unavailable,
        Reason::OutcomeUnknown => Kind::OutcomeUnknown,
        Reason::DeadlineExceeded => Kind::Timeout,
        Reason::ConditionFailed => Kind::ConditionFailed,
        Reason::StaleEpoch | Reason::StaleGeneration | Reason::NotSynced => Kind::Misrouted,
        Reason::WrongCluster => Kind::WrongCluster,
        Reason::StalePlan | Reason::ChangeLost => Kind::ChangeRefused,
        Reason::Overloaded => Kind::Overloaded,
        Reason::RateLimited => Kind::RateLimited,
        Reason::DiskFull => Kind::DiskFull,
        Reason::TooManySiblings => Kind::TooManySiblings,
        Reason::BadQuorum
        | Reason::TooLarge
        | Reason::BadContext
        | Reason::EmptyKey
        | Reason::NoDeadline
        | Reason::BadRequest => Kind::InvalidArgument,
        // `Reason` may grow; one that this table does not know is refused, never guessed at.
        _ => Kind::InvalidArgument,
    }
}

/// What the transport calls each of its errors, on the way to the cause: it says nothing.
const OF_THE_TRANSPORT: &str = "transport error";

/// A status and what caused it, in one line.
pub(crate) fn words(status: &Status) -> String {
    let mut words = status.message().to_owned();
    if words.is_empty() {
        words = status.code().description().to_owned();
    }
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let text = cause.to_string();
        if !words.contains(&text) && text != OF_THE_TRANSPORT {
            words = format!("{words}: {text}");
        }
        source = cause.source();
    }
    words
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        // The words of the last attempt alone would promise more than the call can.
        if self.0.ambiguous && self.0.kind != Kind::OutcomeUnknown {
            f.write_str(" (the write may have been applied)")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("node", &self.node())
            .field("ambiguous", &self.0.ambiguous)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Error {}
