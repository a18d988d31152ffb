//! How an operation comes in: checked, joined to a running attempt, started here or sent on.

use std::sync::Arc;

use ringfort_proto::{
    Failure, Reason,
    v1::{self, operation::Kind},
};
use ringfort_storage::version::RequestId;

use super::{
    Origin,
    operation::{self, Addressed, WriteSpec},
    pending::{Intent, Owners, Pending, Phase, Waiter},
    sink::ReplySink,
    slab::OpId,
    step::Step,
};
use crate::{
    counters::{Verb, add},
    limits::ATTACHED_MAX,
};

/// When to try again at a node that is full.
const RETRY_AFTER_OVERLOAD: std::time::Duration = std::time::Duration::from_millis(50);

/// One arrival: what it is, and where its answer goes.
pub(super) struct Arrival<'s> {
    pub id: u64,
    pub addressed: Addressed,
    pub sink: &'s Arc<dyn ReplySink>,
}

impl Step<'_> {
    /// Takes one operation, or refuses it.
    pub fn admit(&mut self, operation: v1::Operation, origin: Origin, sink: &Arc<dyn ReplySink>) {
        let id = operation.id;
        let verb = verb(&operation);
        if is_retry(&operation) {
            add(&self.parts.counters.retries, 1);
        }
        if let Err(failure) = self.try_admit(operation, origin, sink) {
            self.refuse(verb, id, failure, sink);
        }
    }

    fn try_admit(
        &mut self,
        operation: v1::Operation,
        origin: Origin,
        sink: &Arc<dyn ReplySink>,
    ) -> Result<(), Failure> {
        if self.draining {
            return Err(Failure::new(
                Reason::Draining,
                "this node is shutting down; ask another",
            ));
        }
        let addressed = operation::address(&operation, self.view.layout())?;
        if self.state.pending() >= self.parts.limits.pending_operations {
            return Err(overloaded(
                "this node has as many operations in work as it may",
                "pending",
            ));
        }
        let arrival = Arrival {
            id: operation.id,
            addressed,
            sink,
        };
        let partition = arrival.addressed.partition;
        match self.view.coordinates(partition) {
            true => self.start(operation, arrival),
            false if origin == Origin::Client => self.forward(operation, arrival),
            false => Err(self.not_synced(partition)),
        }
    }

    fn start(&mut self, operation: v1::Operation, arrival: Arrival<'_>) -> Result<(), Failure> {
        let key = &arrival.addressed.key;
        let view = Arc::clone(&self.view);
        let (layout, cluster) = (view.layout(), view.cluster().0);
        let spec = match operation.kind {
            Some(Kind::Get(get)) => {
                let spec = operation::check_get(&get, layout)?;
                let partition = arrival.addressed.partition;
                let owners = self.readers(partition, spec.strict);
                self.check_readable(partition, owners, spec.need)?;
                let key = key.clone();
                let mut reading = Self::new_reading(key, owners, spec.need, None);
                reading.tells_deleted = spec.deleted;
                let id = self.insert(arrival, None, owners, Phase::Reading(Box::new(reading)));
                self.begin_read(id);
                return Ok(());
            }
            Some(Kind::Put(put)) => {
                if self.disk_full {
                    return Err(Failure::new(
                        Reason::DiskFull,
                        "free space is below the floor for puts",
                    ));
                }
                add(
                    &self.parts.counters.client_bytes_in,
                    key.framed().len() + put.value.len(),
                );
                operation::check_put(&put, key, cluster, layout, &self.parts.limits)?
            }
            Some(Kind::Delete(delete)) => {
                operation::check_delete(&delete, key, cluster, layout, &self.parts.limits)?
            }
            None => return Err(Failure::new(Reason::BadRequest, "no operation")),
        };
        self.start_write(spec, arrival)
    }

    fn start_write(&mut self, spec: WriteSpec, arrival: Arrival<'_>) -> Result<(), Failure> {
        if let Some(request) = spec.request {
            if let Some(running) = self.state.running.get(request) {
                return self.attach(running, arrival);
            }
            if !self
                .state
                .running
                .has_room(request.client, &self.parts.limits)
            {
                return Err(overloaded("too many requests are running", "running"));
            }
        }
        let (if_absent, partition) = (spec.if_absent, arrival.addressed.partition);
        let owners = self.writers(partition);
        let owners = self.with_fallbacks(partition, owners);
        self.check_writable(owners, spec.w, spec.strict)?;
        let read_need = self.view.layout().default_quorum();
        let readers = if_absent.then(|| self.readers(partition, spec.strict));
        if let Some(readers) = readers {
            self.check_readable(partition, readers, read_need)?;
        }
        let request = spec.request;
        let intent = self.intend(spec);
        if let Some(readers) = readers {
            let key = arrival.addressed.key.clone();
            let reading = Self::new_reading(key, readers, read_need, Some(intent));
            let id = self.insert(arrival, request, readers, Phase::Reading(Box::new(reading)));
            self.begin_read(id);
        } else {
            let id = self.insert(arrival, request, owners, Phase::Loading(Box::new(intent)));
            self.apply(id);
        }
        Ok(())
    }

    /// Completes a write: request id, expiry.
    fn intend(&mut self, spec: WriteSpec) -> Intent {
        let mut lowest_unanswered = spec.lowest_unanswered;
        let request = spec.request.unwrap_or_else(|| {
            self.state.request_sequence += 1;
            let sequence = self.state.request_sequence;
            // Nobody can repeat an id that nobody was told.
            lowest_unanswered = sequence;
            RequestId {
                client: self.parts.client_id,
                sequence,
            }
        });
        let expires_at_ms = match spec.ttl_ms {
            0 => 0,
            ttl => self.wall_ms.saturating_add(ttl),
        };
        Intent {
            write: ringfort_storage::version::Write {
                context: spec.context,
                payload: spec.payload,
                request,
                lowest_unanswered,
                at_ms: self.steady_ms,
                expires_at_ms,
            },
            w: spec.w,
            buffered: spec.buffered,
            strict: spec.strict,
            loads: 0,
        }
    }

    /// A second attempt of a running id waits for the first.
    fn attach(&mut self, running: OpId, arrival: Arrival<'_>) -> Result<(), Failure> {
        let deadline = self.now + arrival.addressed.deadline;
        let Some(pending) = self.state.ops.get_mut(running) else {
            return Err(overloaded("the running attempt just ended", "running"));
        };
        if pending.key != arrival.addressed.key || pending.verb != arrival.addressed.verb {
            return Err(Failure::new(
                Reason::BadRequest,
                "the request id runs for another operation",
            ));
        }
        if pending.waiters.len() >= ATTACHED_MAX {
            return Err(overloaded(
                "too many attempts of one request are running",
                "attempts",
            ));
        }
        pending.waiters.push(Waiter {
            sink: Arc::clone(arrival.sink),
            id: arrival.id,
            deadline,
        });
        self.state.deadlines.add(deadline, running);
        Ok(())
    }

    pub fn insert(
        &mut self,
        arrival: Arrival<'_>,
        request: Option<RequestId>,
        owners: Owners,
        phase: Phase,
    ) -> OpId {
        let Addressed {
            key,
            partition,
            verb,
            deadline,
        } = arrival.addressed;
        let deadline = self.now + deadline;
        let waiter = Waiter {
            sink: Arc::clone(arrival.sink),
            id: arrival.id,
            deadline,
        };
        let id = self.state.ops.insert(Pending {
            verb,
            key,
            partition,
            epoch: self.view.epoch(),
            started: self.now,
            waiters: vec![waiter],
            request,
            owners,
            phase,
        });
        if let Some(request) = request {
            self.state.running.enter(request, id);
        }
        self.state.deadlines.add(deadline, id);
        id
    }
}

fn overloaded(why: &str, limit: &str) -> Failure {
    Failure::new(Reason::Overloaded, why)
        .with("limit", limit)
        .retry_after(RETRY_AFTER_OVERLOAD)
}

fn verb(operation: &v1::Operation) -> Option<Verb> {
    match operation.kind.as_ref()? {
        Kind::Put(_) => Some(Verb::Put),
        Kind::Get(_) => Some(Verb::Get),
        Kind::Delete(_) => Some(Verb::Delete),
    }
}

/// Whether the client says that this is not its first attempt.
fn is_retry(operation: &v1::Operation) -> bool {
    let attempt = match &operation.kind {
        Some(Kind::Put(put)) => put.options.as_ref().map(|o| o.attempt),
        Some(Kind::Get(get)) => get.options.as_ref().map(|o| o.attempt),
        Some(Kind::Delete(delete)) => delete.options.as_ref().map(|o| o.attempt),
        None => None,
    };
    attempt.is_some_and(|attempt| attempt > 0)
}
