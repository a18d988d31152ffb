//! How operations end: answered, too late, refused.
//!
//! Every operation that was submitted is answered exactly once, by one of the functions here.

use std::{mem, sync::Arc};

use ringfort_proto::{
    Failure, Reason,
    v1::{self, operation_result::Kind},
};
use tokio::time::Instant;

use super::{
    pending::{Pending, Phase, Waiter},
    sink::ReplySink,
    slab::OpId,
    step::Step,
};
use crate::counters::{Verb, add};

impl Step<'_> {
    /// Answers those whose deadline has passed. Nobody waits then: the operation leaves, and what it sent runs on.
    pub fn expire(&mut self, id: OpId) {
        let Some(pending) = self.state.ops.get_mut(id) else {
            return;
        };
        let failure = pending.too_late();
        let (late, waiting) = mem::take(&mut pending.waiters)
            .into_iter()
            .partition(|w| w.deadline <= self.now);
        pending.waiters = waiting;
        let (verb, started, done) = (pending.verb, pending.started, pending.waiters.is_empty());
        if done {
            self.leave(id);
        }
        self.deliver(
            verb,
            started,
            late,
            Kind::Error(self.signed(failure).to_wire()),
        );
    }

    /// Removes an operation that nobody waits for.
    fn leave(&mut self, id: OpId) {
        let Some(pending) = self.close(id) else {
            return;
        };
        if let Some(request) = pending.request {
            self.state.running.leave(request);
        }
        if let Phase::Reading(reading) = pending.phase {
            self.repair(
                &pending.key,
                pending.partition,
                pending.owners,
                &reading.get,
            );
        }
    }

    /// Ends an operation with this answer.
    pub fn finish(&mut self, id: OpId, result: Result<Kind, Failure>) {
        let kind = result.unwrap_or_else(|failure| Kind::Error(self.signed(failure).to_wire()));
        self.answer_kind(id, kind);
        self.close(id);
    }

    /// Removes an operation. Of a write it is known by now who lacks it.
    pub fn close(&mut self, id: OpId) -> Option<Pending> {
        let pending = self.state.ops.remove(id)?;
        if let Phase::Writing(writing) = &pending.phase {
            self.state.lingering -= usize::from(writing.answered);
            self.mark_lacking(&pending);
        }
        Some(pending)
    }

    /// Answers all who wait for an operation, which stays.
    pub fn answer_kind(&mut self, id: OpId, kind: Kind) {
        let Some(pending) = self.state.ops.get_mut(id) else {
            return;
        };
        let waiters = mem::take(&mut pending.waiters);
        let (verb, started) = (pending.verb, pending.started);
        if let Some(request) = pending.request.take() {
            self.state.running.leave(request);
        }
        self.deliver(verb, started, waiters, kind);
    }

    fn deliver(&mut self, verb: Verb, started: Instant, waiters: Vec<Waiter>, kind: Kind) {
        let latency = self.now.saturating_duration_since(started);
        let reason = match &kind {
            Kind::Error(error) => Reason::from_name(&error.reason),
            Kind::Get(get) => {
                let bytes = get.siblings.iter().map(|s| s.value.len()).sum();
                add(&self.parts.counters.client_bytes_out, bytes);
                None
            }
            _ => None,
        };
        let mut waiters = waiters.into_iter().peekable();
        while let Some(waiter) = waiters.next() {
            self.parts.counters.finished(verb, reason, latency);
            self.state.felt.answered(latency);
            if waiters.peek().is_none() {
                let result = v1::OperationResult {
                    id: waiter.id,
                    kind: Some(kind),
                };
                self.state.deliveries.push(waiter.sink, result);
                return;
            }
            let result = v1::OperationResult {
                id: waiter.id,
                kind: Some(kind.clone()),
            };
            self.state.deliveries.push(waiter.sink, result);
        }
    }

    /// Answers an operation that was never taken.
    pub fn refuse(
        &mut self,
        verb: Option<Verb>,
        id: u64,
        failure: Failure,
        sink: &Arc<dyn ReplySink>,
    ) {
        if let Some(verb) = verb {
            self.parts.counters.refused(verb, failure.reason);
        }
        let kind = Some(Kind::Error(self.signed(failure).to_wire()));
        self.state
            .deliveries
            .push(Arc::clone(sink), v1::OperationResult { id, kind });
    }

    /// A failure with this node's name to it.
    pub fn signed(&self, mut failure: Failure) -> Failure {
        if let Some(me) = self.view.my_member() {
            failure.node = me.name.to_string();
        }
        failure
    }
}
