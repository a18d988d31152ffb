//! One session: a pipeline of operations over one stream.
//!
//! Keeps I7: a session has 4,096 operations and 4 MiB of credit. The node stops reading it when either is used up, and
//! credit comes back when an answer is *taken* by the connection, so that a client that does not read is not served.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use futures::Stream;
use prost::Message;
use ringfort_proto::{Failure, Reason, v1, v1::operation_result::Kind};
use tokio::sync::Notify;
use tonic::{Status, Streaming};

use crate::{
    coordinator::{Coordinator, Origin, ReplySink},
    counters::{Counters, add, take},
    limits::SESSION_OUTBOX_BYTES_MAX,
    view::Views,
};

/// Bytes of one message to a client; one larger answer goes alone.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// A place among the sessions of a node; given back when dropped.
pub struct Slot {
    sessions: Arc<AtomicUsize>,
    counters: Arc<Counters>,
}

impl Slot {
    /// A place that is counted in `sessions` already.
    pub(super) fn new(sessions: Arc<AtomicUsize>, counters: Arc<Counters>) -> Self {
        add(&counters.sessions, 1);
        Slot { sessions, counters }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        take(&self.counters.sessions, 1);
        self.sessions.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Default)]
struct State {
    results: VecDeque<v1::OperationResult>,
    /// Bytes of `results`.
    bytes: usize,
    /// Operations submitted whose answers were not taken yet.
    operations: usize,
    /// Bytes of requests submitted and not given back yet; given back in proportion as answers are taken.
    request_bytes: usize,
    /// A change (draining) that the client is to be told of even without results.
    news: bool,
    no_more_input: bool,
    waker: Option<Waker>,
}

/// What waits to be sent to one session's client.
struct Outbox {
    state: Mutex<State>,
    credit: Notify,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits for credit; returns how many operations it is good for.
    async fn credit(&self, operations: usize, bytes: usize) -> usize {
        loop {
            let more = self.credit.notified();
            {
                let state = self.lock();
                if state.operations < operations && state.request_bytes < bytes {
                    return operations - state.operations;
                }
            }
            more.await;
        }
    }
}

impl ReplySink for Outbox {
    fn deliver(&self, results: Vec<v1::OperationResult>) {
        self.change(|state| {
            for mut result in results {
                let mut bytes = result.encoded_len();
                if state.bytes + bytes > SESSION_OUTBOX_BYTES_MAX
                    && matches!(result.kind, Some(Kind::Get(_)))
                {
                    let why = "more answers wait in this session than it may hold; take them first";
                    result.kind =
                        Some(Kind::Error(Failure::new(Reason::Overloaded, why).to_wire()));
                    bytes = result.encoded_len();
                }
                state.bytes += bytes;
                state.results.push_back(result);
            }
        });
    }
}

/// Starts a session.
pub(super) fn open(
    requests: Streaming<v1::SessionRequest>,
    coordinator: Arc<Coordinator>,
    slot: Slot,
) -> SessionStream {
    let outbox = Arc::new(Outbox {
        state: Mutex::new(State::default()),
        credit: Notify::new(),
    });
    let views = coordinator.parts().views.clone();
    let draining = coordinator.draining();
    let reader = tokio::spawn(read(requests, coordinator, Arc::clone(&outbox)));
    SessionStream {
        outbox,
        views,
        draining,
        reader: reader.abort_handle(),
        _slot: slot,
    }
}

/// Reads a session until its client ends it, as far as its credit goes.
async fn read(
    mut requests: Streaming<v1::SessionRequest>,
    coordinator: Arc<Coordinator>,
    outbox: Arc<Outbox>,
) {
    let limits = coordinator.parts().limits.clone();
    let mut draining = coordinator.draining();
    let sink: Arc<dyn ReplySink> = Arc::clone(&outbox) as Arc<dyn ReplySink>;
    loop {
        outbox
            .credit(limits.session_operations, limits.session_bytes)
            .await;
        let message = tokio::select! {
            biased;
            message = requests.message() => message,
            Ok(()) = draining.changed() => {
                outbox.change(|state| state.news = true);
                continue;
            }
        };
        let Ok(Some(message)) = message else { break };
        let mut bytes = message.encoded_len();
        let mut operations = message.operations;
        while !operations.is_empty() {
            let credit = outbox
                .credit(limits.session_operations, limits.session_bytes)
                .await;
            let rest = operations.split_off(credit.min(operations.len()));
            let now = std::mem::replace(&mut operations, rest);
            outbox.change(|state| {
                state.operations += now.len();
                // The whole message counts while any of it is in work.
                state.request_bytes += std::mem::take(&mut bytes);
            });
            coordinator.submit(now, Origin::Client, &sink);
        }
    }
    outbox.change(|state| state.no_more_input = true);
}

/// The answers of one session. Dropping it ends the reading; writes that were submitted run on.
pub struct SessionStream {
    outbox: Arc<Outbox>,
    views: Views,
    draining: tokio::sync::watch::Receiver<bool>,
    reader: tokio::task::AbortHandle,
    _slot: Slot,
}

impl SessionStream {
    /// Takes what waits, up to the size of one message.
    fn next_message(&self, state: &mut State) -> v1::SessionResponse {
        let mut results = Vec::with_capacity(state.results.len());
        let mut bytes = 0;
        while let Some(result) = state.results.front() {
            let size = result.encoded_len();
            if bytes > 0 && bytes + size > MESSAGE_BYTES_MAX {
                break;
            }
            bytes += size;
            results.extend(state.results.pop_front());
        }
        state.bytes = state.bytes.saturating_sub(bytes);
        let before = state.operations;
        state.operations = before.saturating_sub(results.len());
        state.request_bytes = match state.operations {
            0 => 0,
            left => (state.request_bytes as u64 * left as u64 / before as u64) as usize,
        };
        state.news = false;
        let view = self.views.current();
        v1::SessionResponse {
            results,
            read_epoch: view.client_layout().epoch().0,
            newest_epoch: view.epoch().0,
            draining: *self.draining.borrow(),
        }
    }
}

impl Stream for SessionStream {
    type Item = Result<v1::SessionResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.outbox.lock();
        if state.results.is_empty() && !state.news {
            if state.no_more_input && state.operations == 0 {
                return Poll::Ready(None);
            }
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let message = self.next_message(&mut state);
        drop(state);
        self.outbox.credit.notify_one();
        Poll::Ready(Some(Ok(message)))
    }
}

impl Drop for SessionStream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
