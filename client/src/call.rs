//! One call from its first attempt to its answer.
//!
//! *Invariant:* one deadline around all attempts, one request id in all of them, and an error that is ambiguous if any
//! attempt was. A call that is dropped leaves nothing behind but the attempts on their way, which hold their own
//! credit.

use std::sync::Arc;

use ringfort_proto::{
    Reason,
    v1::{self, operation, operation_result},
};
use ringfort_ring::{Token, token};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use crate::{
    error::{Error, Kind},
    ids::Ticket,
    inner::{DEFAULT_NAMESPACE, Inner},
    policy::{self, Decision, Target},
    session::{Credit, OPERATION_OVERHEAD, Reply, Session},
};

/// The largest operation that is sent: above what a node accepts, so that its own words are heard, and below what
/// would break the stream for all others.
const OPERATION_BYTES_MAX: usize = 2 << 20;

/// One call in progress.
#[derive(Debug)]
pub(crate) struct Call {
    kind: operation::Kind,
    token: Token,
    weight: usize,
    deadline: Instant,
    ticket: Option<Ticket>,
}

impl Call {
    /// A read of one key.
    pub(crate) fn get(request: v1::GetRequest, deadline: Instant) -> Result<Self, Error> {
        Call::new(operation::Kind::Get(request), deadline, None)
    }

    /// A write of one value, with a request id of its own.
    pub(crate) fn put(
        inner: &Inner,
        mut request: v1::PutRequest,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let ticket = inner.ids.next()?;
        request.options.get_or_insert_default().request_id = Some(ticket.request_id());
        Call::new(operation::Kind::Put(request), deadline, Some(ticket))
    }

    /// A delete with a context, with a request id of its own.
    pub(crate) fn delete(
        inner: &Inner,
        mut request: v1::DeleteRequest,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let ticket = inner.ids.next()?;
        request.options.get_or_insert_default().request_id = Some(ticket.request_id());
        Call::new(operation::Kind::Delete(request), deadline, Some(ticket))
    }

    fn new(
        kind: operation::Kind,
        deadline: Instant,
        ticket: Option<Ticket>,
    ) -> Result<Self, Error> {
        let (key, bytes) = match &kind {
            operation::Kind::Put(put) => (&put.key, put.value.len() + put.context.len()),
            operation::Kind::Delete(delete) => (&delete.key, delete.context.len()),
            operation::Kind::Get(get) => (&get.key, 0),
        };
        let key = key.as_ref().expect("the verbs set the key");
        let weight = bytes + key.key.len() + key.namespace.len() + OPERATION_OVERHEAD;
        if weight > OPERATION_BYTES_MAX {
            let words =
                format!("the operation has {weight} bytes; the limit is {OPERATION_BYTES_MAX}");
            return Err(Error::invalid(Reason::TooLarge, words));
        }
        let token = token_of(key);
        Ok(Call {
            kind,
            token,
            weight,
            deadline,
            ticket,
        })
    }

    /// Runs the call to its end.
    async fn run(&self, inner: &Arc<Inner>) -> Result<operation_result::Kind, Error> {
        let mut attempt = 0;
        let mut ambiguous = false;
        let mut target = None;
        let mut failed: Option<Arc<Session>> = None;
        let mut said: Option<Error> = None;
        loop {
            let error = match self
                .attempt(inner, attempt, target.as_deref(), &mut failed)
                .await
            {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            ambiguous |= error.is_ambiguous();
            if error.kind() == Kind::Misrouted {
                inner.refresh();
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            match policy::decide(&error, attempt, left, inner.random().fraction()) {
                Decision::Stop => {
                    // That yet another node cannot be reached explains less than what a node has said of it.
                    let silent = error.kind() == Kind::Unavailable && error.failure().is_none();
                    let error = said.filter(|_| silent).unwrap_or(error);
                    return Err(error.sticky(ambiguous));
                }
                Decision::Again { after, to } => {
                    target = match to {
                        Target::Named(node) => Some(node),
                        Target::Elsewhere => None,
                    };
                    if !after.is_zero() {
                        Box::pin(sleep(after)).await;
                    }
                    attempt += 1;
                    if let Some(ticket) = &self.ticket
                        && error.is_ambiguous()
                    {
                        inner.ids.part_with(ticket, inner.random().number());
                    }
                    if error.reason() == Some(Reason::QuorumUnavailable) {
                        said = Some(error);
                    }
                }
            }
        }
    }

    /// Sends the operation once and waits for its answer.
    async fn attempt(
        &self,
        inner: &Arc<Inner>,
        attempt: u32,
        target: Option<&str>,
        failed: &mut Option<Arc<Session>>,
    ) -> Result<operation_result::Kind, Error> {
        // What is rare is boxed, so that the future of a call stays small.
        let view = match inner.view() {
            Some(view) => view,
            None => Box::pin(inner.view_within(self.deadline)).await?,
        };
        let write = self.ticket.is_some();
        let avoid = failed.as_ref().map(|session| session.address());
        let spin = inner.spin(self.token, write);
        let session = Arc::clone(view.choose(self.token, spin, avoid, target));
        drop(view);
        let credit = match session.try_credit(self.weight) {
            Some(credit) => credit,
            None => Box::pin(session.credit(self.weight, self.deadline)).await?,
        };
        let answer = match self.submit(&session, credit, attempt) {
            // The session answers by the deadline; without a session, nobody knows.
            Ok(answer) => answer.await.unwrap_or_else(|_| {
                Err(Error::broken(session.address(), "the session ended", write))
            }),
            Err(error) => Err(error),
        };
        *failed = Some(session);
        answer
    }

    /// Hands the operation to a session, as this attempt sends it.
    fn submit(
        &self,
        session: &Session,
        credit: Credit,
        attempt: u32,
    ) -> Result<oneshot::Receiver<Reply>, Error> {
        session.submit(credit, self.stamp(attempt), self.deadline)
    }

    /// The operation as this attempt sends it.
    fn stamp(&self, attempt: u32) -> operation::Kind {
        let mut kind = self.kind.clone();
        let floor = self.ticket.as_ref().map_or(0, Ticket::floor);
        match &mut kind {
            operation::Kind::Put(v1::PutRequest { options, .. })
            | operation::Kind::Delete(v1::DeleteRequest { options, .. }) => {
                let options = options.get_or_insert_default();
                options.attempt = attempt;
                options.lowest_unanswered = floor;
            }
            operation::Kind::Get(request) => {
                request.options.get_or_insert_default().attempt = attempt
            }
        }
        kind
    }
}

/// Runs a call that could be made. It is borrowed, so that it lies in its caller's future once.
pub(crate) async fn run(
    call: &Result<Call, Error>,
    inner: &Arc<Inner>,
) -> Result<operation_result::Kind, Error> {
    match call {
        Ok(call) => call.run(inner).await,
        Err(error) => Err(error.clone()),
    }
}

/// Where a key is on the ring.
pub(crate) fn token_of(key: &v1::Key) -> Token {
    let namespace = if key.namespace.is_empty() {
        DEFAULT_NAMESPACE
    } else {
        &key.namespace
    };
    token(namespace.as_bytes(), &key.key)
}

/// The answer was of another sort than the question: the node's mistake, and no way to know what it did.
pub(crate) fn mismatch(write: bool) -> Error {
    Error::broken("the node", "an answer of another sort came", write)
}
