//! `ringfort.v1.Kv` on the client port.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ringfort_proto::{
    Failure, Reason,
    v1::{
        self,
        kv_server::{Kv, KvServer},
        operation::Kind as Asked,
        operation_result::Kind as Answered,
    },
};
use tonic::{Request, Response, Status, Streaming};

use super::{
    deadline,
    scan::Scans,
    session::{SessionStream, Slot, open},
};
use crate::{
    coordinator::{Collector, Coordinator, Origin, ReplySink},
    layout_wire::layout_to_wire,
    limits::{BATCH_OPERATIONS_MAX, CLIENT_MESSAGE_BYTES_MAX},
};

/// What the service is made of.
#[derive(Clone)]
pub struct KvParts {
    /// Serves the operations.
    pub coordinator: Arc<Coordinator>,
}

/// The service, to be added to the server of the client port.
pub fn kv_service(parts: KvParts) -> KvServer<KvService> {
    let scans = Scans::new(&parts.coordinator);
    KvServer::new(KvService {
        coordinator: parts.coordinator,
        scans,
        sessions: Arc::default(),
    })
    .max_decoding_message_size(CLIENT_MESSAGE_BYTES_MAX)
}

/// Implements the generated trait.
pub struct KvService {
    coordinator: Arc<Coordinator>,
    scans: Scans,
    sessions: Arc<AtomicUsize>,
}

impl KvService {
    /// One operation, from a unary call to its answer. Goes on without the caller, should that go away.
    async fn one(&self, kind: Asked, deadline: Duration) -> Result<Answered, Status> {
        let mut results = self.all(vec![kind], deadline).await?;
        match results.pop().and_then(|result| result.kind) {
            Some(Answered::Error(error)) => Err(status_of(error)),
            Some(kind) => Ok(kind),
            None => Err(Status::internal("an operation ended without an answer")),
        }
    }

    /// Several operations, at least one; the results keep their order.
    async fn all(
        &self,
        kinds: Vec<Asked>,
        deadline: Duration,
    ) -> Result<Vec<v1::OperationResult>, Status> {
        let deadline_us = u64::try_from(deadline.as_micros())
            .unwrap_or(u64::MAX)
            .max(1);
        let (collector, results) = Collector::new(kinds.len());
        let operations = kinds.into_iter().zip(0..);
        let operations = operations.map(|(kind, id)| v1::Operation {
            id,
            deadline_us,
            kind: Some(kind),
        });
        let sink: Arc<dyn ReplySink> = collector;
        self.coordinator
            .submit(operations.collect(), Origin::Client, &sink);
        drop(sink);
        results
            .await
            .map_err(|_| Status::internal("an operation ended without an answer"))
    }

    async fn batch(
        &self,
        kinds: Vec<Asked>,
        deadline: Duration,
    ) -> Result<Vec<v1::OperationResult>, Status> {
        if kinds.len() > BATCH_OPERATIONS_MAX {
            let why = format!(
                "{} operations in one batch, {BATCH_OPERATIONS_MAX} are allowed",
                kinds.len()
            );
            return Err(Failure::new(Reason::TooLarge, why)
                .with("limit", BATCH_OPERATIONS_MAX)
                .into());
        }
        if kinds.is_empty() {
            return Ok(Vec::new());
        }
        self.all(kinds, deadline).await
    }
}

/// A failed operation as the status of its call.
fn status_of(error: v1::Error) -> Status {
    let message = error.message.clone();
    Failure::from_wire(error).map_or_else(|| Status::unknown(message), Status::from)
}

/// The answer is of another kind than the question: a bug of this node.
fn mismatch() -> Status {
    Status::internal("the answer is not of the kind that was asked for")
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn put(
        &self,
        request: Request<v1::PutRequest>,
    ) -> Result<Response<v1::PutResponse>, Status> {
        let deadline = deadline::of_call(request.metadata())?;
        match self.one(Asked::Put(request.into_inner()), deadline).await? {
            Answered::Put(response) => Ok(Response::new(response)),
            _ => Err(mismatch()),
        }
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        let deadline = deadline::of_call(request.metadata())?;
        match self.one(Asked::Get(request.into_inner()), deadline).await? {
            Answered::Get(response) => Ok(Response::new(response)),
            _ => Err(mismatch()),
        }
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let deadline = deadline::of_call(request.metadata())?;
        match self
            .one(Asked::Delete(request.into_inner()), deadline)
            .await?
        {
            Answered::Delete(response) => Ok(Response::new(response)),
            _ => Err(mismatch()),
        }
    }

    async fn batch_get(
        &self,
        request: Request<v1::BatchGetRequest>,
    ) -> Result<Response<v1::BatchGetResponse>, Status> {
        let deadline = deadline::of_call(request.metadata())?;
        let kinds = request
            .into_inner()
            .gets
            .into_iter()
            .map(Asked::Get)
            .collect();
        let results = self.batch(kinds, deadline).await?;
        Ok(Response::new(v1::BatchGetResponse { results }))
    }

    async fn batch_write(
        &self,
        request: Request<v1::BatchWriteRequest>,
    ) -> Result<Response<v1::BatchWriteResponse>, Status> {
        let deadline = deadline::of_call(request.metadata())?;
        let kinds =
            request
                .into_inner()
                .mutations
                .into_iter()
                .map(|mutation| match mutation.kind {
                    Some(v1::mutation::Kind::Put(put)) => Ok(Asked::Put(put)),
                    Some(v1::mutation::Kind::Delete(delete)) => Ok(Asked::Delete(delete)),
                    None => Err(Failure::new(
                        Reason::BadRequest,
                        "a mutation is none that this node knows",
                    )),
                });
        let kinds = kinds.collect::<Result<Vec<_>, _>>()?;
        let results = self.batch(kinds, deadline).await?;
        Ok(Response::new(v1::BatchWriteResponse { results }))
    }

    async fn scan(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<v1::ScanResponse>, Status> {
        let deadline = deadline::of_call(request.metadata())?;
        if *self.coordinator.draining().borrow() {
            return Err(
                Failure::new(Reason::Draining, "this node is shutting down; ask another").into(),
            );
        }
        let page = self.scans.page(request.into_inner());
        let late = || {
            Failure::new(
                Reason::DeadlineExceeded,
                "the deadline passed while scanning",
            )
        };
        let page = tokio::time::timeout(deadline, page)
            .await
            .map_err(|_| late())?;
        Ok(Response::new(page?))
    }

    type SessionStream = SessionStream;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<SessionStream>, Status> {
        let limit = self.coordinator.parts().limits.sessions;
        let counters = Arc::clone(&self.coordinator.parts().counters);
        let Some(slot) = Slot::take(&self.sessions, limit, counters) else {
            let why = format!("this node has {limit} sessions, as many as it may");
            let failure = Failure::new(Reason::Overloaded, why).with("limit", limit);
            return Err(failure.retry_after(Duration::from_secs(1)).into());
        };
        Ok(Response::new(open(
            request.into_inner(),
            Arc::clone(&self.coordinator),
            slot,
        )))
    }

    async fn get_layout(
        &self,
        _request: Request<v1::GetLayoutRequest>,
    ) -> Result<Response<v1::GetLayoutResponse>, Status> {
        let view = self.coordinator.parts().views.current();
        let layout = view.client_layout();
        let unsynced = layout.members().iter().filter_map(|member| {
            let unsynced = view.unsynced_of(member.store_id)?;
            (!unsynced.is_empty()).then(|| v1::UnsyncedPartitions {
                node: member.name.to_string(),
                partitions: unsynced.iter().map(|partition| partition.0).collect(),
            })
        });
        Ok(Response::new(v1::GetLayoutResponse {
            cluster_id: view.cluster().0,
            read_layout: Some(layout_to_wire(layout)),
            newest_epoch: view.epoch().0,
            unsynced: unsynced.collect(),
            node: view
                .my_member()
                .map_or_else(String::new, |me| me.name.to_string()),
        }))
    }
}

impl Slot {
    /// Takes one of `limit` places; `None` if all are taken.
    fn take(
        sessions: &Arc<AtomicUsize>,
        limit: usize,
        counters: Arc<crate::counters::Counters>,
    ) -> Option<Slot> {
        let more = |open: usize| (open < limit).then_some(open + 1);
        sessions
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .ok()?;
        Some(Slot::new(Arc::clone(sessions), counters))
    }
}
