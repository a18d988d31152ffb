//! The outgoing half: the connection asks for the next batch when it can write, and gets all that has queued.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use ringfort_proto::v1::{Operation, SessionRequest};
use tokio::time::Instant;

use super::{Entry, Shared, State};
use crate::error::Error;

/// The most operations of one batch.
const BATCH_OPERATIONS: usize = 1024;
/// The most bytes of one batch; one larger operation goes alone.
const BATCH_BYTES: usize = 256 << 10;
/// The node is told to answer this much before the deadline (or a tenth of what is left, if that is less), so that
/// its own words arrive in time.
const ANSWER_MARGIN: Duration = Duration::from_millis(20);

/// Batches of one stream.
#[derive(Debug)]
pub(super) struct Outgoing {
    shared: Arc<Shared>,
    stream: u64,
}

impl Outgoing {
    pub(super) fn new(shared: Arc<Shared>, stream: u64) -> Self {
        Outgoing { shared, stream }
    }
}

impl Stream for Outgoing {
    type Item = SessionRequest;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<SessionRequest>> {
        let mut state = self.shared.lock();
        if state.stream != self.stream {
            return Poll::Ready(None);
        }
        let mut unsent = Vec::new();
        let operations = if state.open && !state.queue.is_empty() {
            take(&mut state, &mut unsent)
        } else {
            Vec::new()
        };
        let idle = operations.is_empty();
        if idle {
            // `take` leaves the queue empty when it finds nothing to send.
            state.waker = Some(context.waker().clone());
        }
        drop(state);
        drop_unsent(&self.shared, unsent);
        if idle {
            Poll::Pending
        } else {
            Poll::Ready(Some(SessionRequest { operations }))
        }
    }
}

/// Takes one batch off the queue. Entries whose call is gone or whose time is up go to `unsent`.
fn take(state: &mut State, unsent: &mut Vec<Entry>) -> Vec<Operation> {
    let now = Instant::now();
    let State { slots, queue, .. } = state;
    let mut operations = Vec::with_capacity(queue.len().min(BATCH_OPERATIONS));
    let mut bytes = 0;
    while let Some(&id) = queue.front() {
        let Some(entry) = slots.get_mut(id) else {
            queue.pop_front();
            continue;
        };
        let wanted = entry.reply.as_ref().is_some_and(|reply| !reply.is_closed());
        if !wanted || entry.deadline <= now {
            queue.pop_front();
            unsent.extend(slots.remove(id));
            continue;
        }
        bytes += entry.weight as usize;
        if !operations.is_empty() && bytes > BATCH_BYTES || operations.len() == BATCH_OPERATIONS {
            break;
        }
        queue.pop_front();
        let left = entry.deadline - now;
        let left = left - ANSWER_MARGIN.min(left / 10);
        let deadline_us = u64::try_from(left.as_micros()).unwrap_or(u64::MAX).max(1);
        let kind = entry.kind.take();
        operations.push(Operation {
            id,
            deadline_us,
            kind,
        });
    }
    operations
}

/// Lets go of operations that were never sent.
fn drop_unsent(shared: &Shared, unsent: Vec<Entry>) {
    if unsent.is_empty() {
        return;
    }
    let bytes = unsent.iter().map(|entry| entry.weight as usize).sum();
    shared.give_back(unsent.len(), bytes);
    for entry in unsent {
        if let Some(reply) = entry.reply {
            let late = format!(
                "the deadline passed before the operation was sent to {}",
                shared.address
            );
            // Nobody is there any more if the call was dropped.
            let _ = reply.send(Err(Error::timeout(&shared.address, late)));
        }
    }
}
