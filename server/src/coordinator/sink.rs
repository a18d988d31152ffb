//! Where results go.

use std::sync::{Arc, Mutex, PoisonError};

use prost::Message;
use ringfort_proto::{Failure, Reason, v1, v1::operation_result::Kind};
use tokio::sync::oneshot;

use crate::limits::BATCH_ANSWER_BYTES_MAX;

/// Takes the results of operations: a session, a unary call, a peer's stream.
pub trait ReplySink: Send + Sync {
    /// Takes results, in any order, each with the id that its operation came with. Must not block, nor call the
    /// coordinator. A sink whose client went away drops them.
    fn deliver(&self, results: Vec<v1::OperationResult>);
}

/// The results of events that have ended, to be delivered once no lock is held.
#[derive(Default)]
pub(super) struct Deliveries(Vec<(Arc<dyn ReplySink>, v1::OperationResult)>);

impl Deliveries {
    pub fn push(&mut self, sink: Arc<dyn ReplySink>, result: v1::OperationResult) {
        self.0.push((sink, result));
    }

    /// Hands each sink its results; neighbours of one sink as one list.
    pub fn deliver(self) {
        let mut all = self.0.into_iter().peekable();
        while let Some((sink, first)) = all.next() {
            let mut results = vec![first];
            while let Some((_, result)) = all.next_if(|(next, _)| Arc::ptr_eq(next, &sink)) {
                results.push(result);
            }
            sink.deliver(results);
        }
    }
}

/// Collects the results of a fixed number of operations, whose ids are their places.
pub struct Collector {
    state: Mutex<Collecting>,
}

struct Collecting {
    results: Vec<Option<v1::OperationResult>>,
    /// Bytes of `results`.
    bytes: usize,
    missing: usize,
    done: Option<oneshot::Sender<Vec<v1::OperationResult>>>,
}

impl Collector {
    /// A sink for operations with the ids `0..count`, `1 ≤ count`, and where all their results arrive, in that order.
    pub fn new(count: usize) -> (Arc<Self>, oneshot::Receiver<Vec<v1::OperationResult>>) {
        let (done, results) = oneshot::channel();
        let state = Collecting {
            results: vec![None; count],
            bytes: 0,
            missing: count,
            done: Some(done),
        };
        (
            Arc::new(Collector {
                state: Mutex::new(state),
            }),
            results,
        )
    }
}

impl ReplySink for Collector {
    fn deliver(&self, results: Vec<v1::OperationResult>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for mut result in results {
            let bytes = result.encoded_len();
            if state.bytes > 0
                && state.bytes + bytes > BATCH_ANSWER_BYTES_MAX
                && matches!(result.kind, Some(Kind::Get(_)))
            {
                result.kind = Some(Kind::Error(too_much().to_wire()));
            } else {
                state.bytes += bytes;
            }
            let place = usize::try_from(result.id)
                .ok()
                .filter(|&id| id < state.results.len());
            if let Some(id) = place
                && state.results[id].replace(result).is_none()
            {
                state.missing -= 1;
            }
        }
        if state.missing == 0
            && let Some(done) = state.done.take()
        {
            // A caller that went away needs no results.
            drop(done.send(state.results.drain(..).flatten().collect()));
        }
    }
}

/// A read whose answer has no room beside those of the same call.
fn too_much() -> Failure {
    let why = format!(
        "the answers of one batch have more than {BATCH_ANSWER_BYTES_MAX} bytes; read fewer keys at once"
    );
    Failure::new(Reason::TooLarge, why).with("limit", BATCH_ANSWER_BYTES_MAX)
}
