//! One node of a fake cluster, as gRPC sees it.

use std::time::Duration;

use futures::StreamExt;
use ringfort_proto::{
    Failure, Reason,
    v1::{self, Operation, OperationResult, kv_server::Kv, operation, operation_result},
};
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    FakeCluster, Fault, SEEN_MAX, Seen, State,
    layout::{CLUSTER_ID, wire_layout},
    name,
};

/// Answers on their way to one client.
const ANSWERS_MAX: usize = 64;

/// One node.
#[derive(Debug, Clone)]
pub(super) struct FakeNode {
    pub(super) cluster: FakeCluster,
    node: usize,
}

/// What becomes of one operation.
enum Outcome {
    Answer(operation_result::Kind),
    Late(Duration, operation_result::Kind),
    Silence,
    Break,
}

impl FakeNode {
    pub(super) fn new(cluster: FakeCluster, node: usize) -> Self {
        FakeNode { cluster, node }
    }

    /// Receives one operation: remembers it, applies it, lets its fault happen.
    fn receive(&self, kind: Option<operation::Kind>, deadline_us: u64, batch: u64) -> Outcome {
        let now_ms = self.cluster.now_ms();
        let mut state = self.cluster.lock();
        let Some(kind) = kind else {
            return self.refuse(Failure::new(
                Reason::BadRequest,
                "the operation is of no kind",
            ));
        };
        if state.seen.len() == SEEN_MAX {
            state.seen.pop_front();
        }
        state
            .seen
            .push_back(seen(name(self.node), &kind, deadline_us, batch));
        if deadline_us == 0 {
            return self.refuse(Failure::new(
                Reason::NoDeadline,
                "the operation has no deadline",
            ));
        }
        let around = state.surroundings(now_ms);
        let apply = |state: &mut State| match state.store.serve(kind.clone(), around) {
            Ok(answer) => answer,
            Err(failure) => self.error(failure),
        };
        match state.faults.pop_front() {
            None => Outcome::Answer(apply(&mut state)),
            Some(Fault::Refuse(failure)) => self.refuse(failure),
            Some(Fault::Break) => Outcome::Break,
            Some(Fault::Delay(after)) => Outcome::Late(after, apply(&mut state)),
            Some(Fault::ApplyAndFail(failure)) => {
                apply(&mut state);
                self.refuse(failure)
            }
            Some(Fault::ApplyAndFailUntyped) => {
                apply(&mut state);
                let (code, message) = (Code::Internal as i32, "a proxy gave up".to_owned());
                Outcome::Answer(operation_result::Kind::Error(v1::Error {
                    code,
                    message,
                    ..v1::Error::default()
                }))
            }
            Some(Fault::ApplyAndBreak) => {
                apply(&mut state);
                Outcome::Break
            }
            Some(Fault::ApplyAndStaySilent) => {
                apply(&mut state);
                Outcome::Silence
            }
        }
    }

    fn refuse(&self, failure: Failure) -> Outcome {
        Outcome::Answer(self.error(failure))
    }

    fn error(&self, mut failure: Failure) -> operation_result::Kind {
        if failure.node.is_empty() {
            failure.node = name(self.node);
        }
        operation_result::Kind::Error(failure.to_wire())
    }

    /// What one answer of a session says beside its results.
    fn envelope(&self, results: Vec<OperationResult>) -> v1::SessionResponse {
        let state = self.cluster.lock();
        v1::SessionResponse {
            results,
            read_epoch: state.epoch,
            newest_epoch: state.epoch,
            draining: state.nodes[self.node].draining,
        }
    }

    /// Serves one session until either side ends it.
    async fn converse(
        self,
        mut requests: Streaming<v1::SessionRequest>,
        answers: mpsc::Sender<Result<v1::SessionResponse, Status>>,
    ) {
        while let Some(Ok(request)) = requests.next().await {
            self.cluster.wait_while_held(self.node).await;
            let batch = {
                let mut state = self.cluster.lock();
                state.batches += 1;
                state.batches
            };
            let mut results = Vec::new();
            for Operation {
                id,
                deadline_us,
                kind,
            } in request.operations
            {
                match self.receive(kind, deadline_us, batch) {
                    Outcome::Answer(kind) => results.push(OperationResult {
                        id,
                        kind: Some(kind),
                    }),
                    Outcome::Late(after, kind) => {
                        let (this, answers) = (self.clone(), answers.clone());
                        tokio::spawn(async move {
                            sleep(after).await;
                            let late = this.envelope(vec![OperationResult {
                                id,
                                kind: Some(kind),
                            }]);
                            let _ = answers.send(Ok(late)).await;
                        });
                    }
                    Outcome::Silence => {}
                    Outcome::Break => return self.cluster.break_connections(self.node),
                }
            }
            if !results.is_empty() && answers.send(Ok(self.envelope(results))).await.is_err() {
                return;
            }
        }
    }

    /// One operation by a unary call.
    async fn unary(
        &self,
        kind: operation::Kind,
        deadline: Duration,
    ) -> Result<operation_result::Kind, Status> {
        self.cluster.wait_while_held(self.node).await;
        let deadline_us = u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX);
        let answer = match self.receive(Some(kind), deadline_us, 0) {
            Outcome::Answer(answer) => answer,
            Outcome::Late(after, answer) => {
                sleep(after).await;
                answer
            }
            Outcome::Silence => std::future::pending().await,
            Outcome::Break => {
                self.cluster.break_connections(self.node);
                std::future::pending().await
            }
        };
        match answer {
            operation_result::Kind::Error(error) => Err(match Failure::from_wire(error) {
                Some(failure) => failure.to_status(),
                None => Status::internal("a proxy gave up"),
            }),
            answer => Ok(answer),
        }
    }
}

fn seen(node: String, kind: &operation::Kind, deadline_us: u64, batch: u64) -> Seen {
    let (key, write) = match kind {
        operation::Kind::Put(put) => (&put.key, put.options.as_ref()),
        operation::Kind::Delete(delete) => (&delete.key, delete.options.as_ref()),
        operation::Kind::Get(get) => (&get.key, None),
    };
    let read = match kind {
        operation::Kind::Get(get) => get.options.as_ref(),
        _ => None,
    };
    Seen {
        node,
        key: key.as_ref().map(|key| key.key.to_vec()).unwrap_or_default(),
        write: read.is_none() && !matches!(kind, operation::Kind::Get(_)),
        request_id: write
            .and_then(|options| options.request_id.as_ref())
            .map(|id| (id.client, id.sequence)),
        lowest_unanswered: write.map_or(0, |options| options.lowest_unanswered),
        attempt: write
            .map_or(0, |options| options.attempt)
            .max(read.map_or(0, |options| options.attempt)),
        deadline: Duration::from_micros(deadline_us),
        batch,
    }
}

/// The time that a unary call has: `grpc-timeout` is held by the server's own stack, so only its presence matters here.
fn deadline_of<T>(request: &Request<T>) -> Duration {
    if request.metadata().contains_key("grpc-timeout") {
        Duration::from_secs(1)
    } else {
        Duration::ZERO
    }
}

macro_rules! unary {
    ($self:ident, $request:ident, $kind:ident) => {{
        let deadline = deadline_of(&$request);
        match $self
            .unary(operation::Kind::$kind($request.into_inner()), deadline)
            .await?
        {
            operation_result::Kind::$kind(answer) => Ok(Response::new(answer)),
            _ => unreachable!("the store answers in kind"),
        }
    }};
}

#[tonic::async_trait]
impl Kv for FakeNode {
    type SessionStream = ReceiverStream<Result<v1::SessionResponse, Status>>;

    async fn put(
        &self,
        request: Request<v1::PutRequest>,
    ) -> Result<Response<v1::PutResponse>, Status> {
        unary!(self, request, Put)
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        unary!(self, request, Get)
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        unary!(self, request, Delete)
    }

    async fn batch_get(
        &self,
        _: Request<v1::BatchGetRequest>,
    ) -> Result<Response<v1::BatchGetResponse>, Status> {
        Err(Status::unimplemented("the fake has sessions for this"))
    }

    async fn batch_write(
        &self,
        _: Request<v1::BatchWriteRequest>,
    ) -> Result<Response<v1::BatchWriteResponse>, Status> {
        Err(Status::unimplemented("the fake has sessions for this"))
    }

    async fn scan(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<v1::ScanResponse>, Status> {
        if deadline_of(&request).is_zero() {
            return Err(Failure::new(Reason::NoDeadline, "the scan has no deadline").to_status());
        }
        let now_ms = self.cluster.now_ms();
        let mut state = self.cluster.lock();
        if let Some(Fault::Refuse(failure)) = state.faults.front().cloned() {
            state.faults.pop_front();
            return Err(failure.to_status());
        }
        let page = state
            .store
            .scan(request.get_ref(), now_ms)
            .map_err(|failure| failure.to_status())?;
        Ok(Response::new(page))
    }

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (answers, receiver) = mpsc::channel(ANSWERS_MAX);
        tokio::spawn(self.clone().converse(request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_layout(
        &self,
        _: Request<v1::GetLayoutRequest>,
    ) -> Result<Response<v1::GetLayoutResponse>, Status> {
        let mut state = self.cluster.lock();
        state.layouts_asked += 1;
        let unsynced = state
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| !node.unsynced.is_empty());
        let unsynced = unsynced.map(|(number, node)| v1::UnsyncedPartitions {
            node: name(number),
            partitions: node.unsynced.clone(),
        });
        Ok(Response::new(v1::GetLayoutResponse {
            cluster_id: CLUSTER_ID,
            read_layout: Some(wire_layout(&state)),
            newest_epoch: state.epoch,
            unsynced: unsynced.collect(),
            node: name(self.node),
        }))
    }
}
