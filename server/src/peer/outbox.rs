//! The replies that wait for one incoming stream, and the stream of messages they become.
//!
//! Keeps I1 on the replica's side: the acknowledgement of a store leaves only once the log is durable to its sequence.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures::Stream;
use prost::Message;
use ringfort_proto::{Reason, peer, v1};
use tokio::sync::Notify;

use crate::{
    coordinator::ReplySink,
    limits::{PEER_BATCH_BYTES_MAX, PEER_OUTBOX_BYTES_MAX},
    peer::fence::Fences,
};

/// Small replies (acknowledgements, digests) in one message, at most.
const SMALL_REPLIES_MAX: usize = 8_192;
/// Bytes that a small reply counts for.
const SMALL_REPLY_BYTES: usize = 16;

#[derive(Default)]
struct State {
    stored: Vec<u64>,
    digests: Vec<(u64, u64)>,
    fetched: VecDeque<peer::Fetched>,
    refused: Vec<peer::Refused>,
    forwarded: VecDeque<v1::OperationResult>,
    /// Stores that wait for the log: (sequence, id), ascending by sequence.
    waiting: VecDeque<(u64, u64)>,
    /// Sequence that the log was last said to be durable to.
    durable: u64,
    /// Bytes of what waits to be sent.
    bytes: usize,
    /// Operations whose replies are still being worked on elsewhere: forwards and loads.
    outstanding: usize,
    no_more_input: bool,
    /// Why the stream ends, if not because all is answered.
    broken: Option<tonic::Status>,
    waker: Option<Waker>,
}

impl State {
    fn is_empty(&self) -> bool {
        self.stored.is_empty()
            && self.digests.is_empty()
            && self.fetched.is_empty()
            && self.refused.is_empty()
            && self.forwarded.is_empty()
    }

    fn is_finished(&self) -> bool {
        self.no_more_input && self.outstanding == 0 && self.waiting.is_empty()
    }

    /// Moves stores that are durable by now to those that are answered.
    fn settle(&mut self) {
        while let Some(&(sequence, id)) = self.waiting.front()
            && sequence <= self.durable
        {
            self.waiting.pop_front();
            self.stored.push(id);
        }
    }

    /// Takes the next message.
    fn next_message(&mut self) -> peer::Replies {
        let mut message = peer::Replies::default();
        let stored = self.stored.len().min(SMALL_REPLIES_MAX);
        message.stored = self.stored.drain(..stored).collect();
        let digests = self.digests.len().min(SMALL_REPLIES_MAX);
        (message.digest_ids, message.digests) = self.digests.drain(..digests).unzip();
        let refused = self.refused.len().min(SMALL_REPLIES_MAX);
        message.refused = self.refused.drain(..refused).collect();
        let mut bytes = 0;
        while bytes < PEER_BATCH_BYTES_MAX
            && let Some(fetched) = self.fetched.pop_front()
        {
            bytes += SMALL_REPLY_BYTES + fetched.object.len();
            message.fetched.push(fetched);
        }
        while bytes < PEER_BATCH_BYTES_MAX
            && let Some(result) = self.forwarded.pop_front()
        {
            bytes += SMALL_REPLY_BYTES + result.encoded_len();
            message.forwarded.push(result);
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        message
    }
}

/// What one batch left to say at once; collected first, so that the outbox is locked once a batch.
#[derive(Default)]
pub(super) struct Answers {
    /// Stores to acknowledge when the log is durable to the sequence: (sequence, id).
    pub waiting: Vec<(u64, u64)>,
    /// Stores that asked for no durability.
    pub stored: Vec<u64>,
    /// (id, leaf).
    pub digests: Vec<(u64, u64)>,
    /// Whole objects.
    pub fetched: Vec<peer::Fetched>,
    /// Refusals.
    pub refused: Vec<peer::Refused>,
}

impl Answers {
    /// Refuses the operation `id`.
    pub fn refuse(&mut self, id: u64, reason: Reason, epoch: u64) {
        self.refused.push(peer::Refused {
            id,
            reason: reason.as_str().to_owned(),
            epoch,
            ..peer::Refused::default()
        });
    }

    /// Refuses the operation `id`: its partition is at this reap generation, with this floor.
    pub fn refuse_older(&mut self, id: u64, generation: u64, floor: u64) {
        self.refused.push(peer::Refused {
            id,
            reason: Reason::StaleGeneration.as_str().to_owned(),
            reap_generation: generation,
            reap_floor: floor,
            ..peer::Refused::default()
        });
    }
}

/// The replies of one incoming stream.
#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    room: Notify,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        state.settle();
        let due = !state.is_empty() || state.is_finished() || state.broken.is_some();
        let waker = if due { state.waker.take() } else { None };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Queues the answers of one batch, of which `outstanding` more will come later by [`Self::later`] or as results.
    pub fn answer(&self, mut answers: Answers, outstanding: usize) {
        self.change(|state| {
            state.bytes += answers
                .fetched
                .iter()
                .map(|f| SMALL_REPLY_BYTES + f.object.len())
                .sum::<usize>();
            // Sequences of one stream ascend: its batches are applied one after the other.
            state.waiting.extend(answers.waiting);
            state.stored.append(&mut answers.stored);
            state.digests.append(&mut answers.digests);
            state.fetched.extend(answers.fetched);
            state.refused.append(&mut answers.refused);
            state.outstanding += outstanding;
        });
    }

    /// Queues answers that were outstanding.
    pub fn later(&self, answers: Answers, count: usize) {
        self.answer(answers, 0);
        self.change(|state| state.outstanding = state.outstanding.saturating_sub(count));
    }

    /// The log is durable to `sequence`.
    pub fn on_durable(&self, sequence: u64) {
        self.change(|state| state.durable = sequence.max(state.durable));
    }

    /// Nothing more will come in; the stream ends once everything is answered.
    pub fn finish(&self) {
        self.change(|state| state.no_more_input = true);
    }

    /// The other side is refused: the stream ends with this status, whatever waits.
    pub fn refuse(&self, status: tonic::Status) {
        self.change(|state| {
            state.no_more_input = true;
            state.broken = Some(status);
        });
    }

    /// Waits until less than the limit waits to be sent.
    pub async fn wait_for_room(&self) {
        loop {
            let room = self.room.notified();
            if self.lock().bytes < PEER_OUTBOX_BYTES_MAX {
                return;
            }
            room.await;
        }
    }
}

impl ReplySink for Outbox {
    fn deliver(&self, results: Vec<v1::OperationResult>) {
        self.change(|state| {
            state.outstanding = state.outstanding.saturating_sub(results.len());
            state.bytes += results
                .iter()
                .map(|r| SMALL_REPLY_BYTES + r.encoded_len())
                .sum::<usize>();
            state.forwarded.extend(results);
        });
    }
}

/// The stream of messages that an [`Outbox`] becomes. It owns the outbox: once it is dropped, nobody is told more.
pub(super) struct Outgoing {
    pub outbox: Arc<Outbox>,
    pub fences: Fences,
}

impl Stream for Outgoing {
    type Item = Result<peer::Replies, tonic::Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.outbox.lock();
        if let Some(status) = state.broken.take() {
            state.outstanding = 0;
            state.waiting.clear();
            return Poll::Ready(Some(Err(status)));
        }
        if state.is_empty() {
            if state.is_finished() {
                return Poll::Ready(None);
            }
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut message = state.next_message();
        let has_room = state.bytes < PEER_OUTBOX_BYTES_MAX;
        drop(state);
        if has_room {
            self.outbox.room.notify_one();
        }
        message.fence = Some(self.fences.fence());
        Poll::Ready(Some(Ok(message)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(outbox: &Outbox) -> Vec<u64> {
        outbox.lock().next_message().stored
    }

    #[test]
    fn stores_are_acknowledged_only_once_durable() {
        let outbox = Outbox::default();
        let waiting = vec![(5, 50), (6, 60), (9, 90)];
        outbox.answer(
            Answers {
                waiting,
                stored: vec![1],
                ..Answers::default()
            },
            0,
        );
        assert_eq!(stored(&outbox), [1]);
        outbox.on_durable(4);
        assert!(outbox.lock().is_empty());
        outbox.on_durable(6);
        assert_eq!(stored(&outbox), [50, 60]);
        outbox.finish();
        assert!(!outbox.lock().is_finished());
        outbox.on_durable(9);
        assert_eq!(stored(&outbox), [90]);
        assert!(outbox.lock().is_finished());
    }

    #[test]
    fn a_message_is_bounded_and_keeps_the_rest() {
        let outbox = Outbox::default();
        let object = bytes::Bytes::from(vec![0; PEER_BATCH_BYTES_MAX / 2]);
        let fetched = |id| peer::Fetched {
            id,
            object: object.clone(),
            reap_generation: 0,
        };
        let digests = (0..SMALL_REPLIES_MAX as u64 + 1)
            .map(|id| (id, id))
            .collect();
        outbox.answer(
            Answers {
                digests,
                fetched: (0..3).map(fetched).collect(),
                ..Answers::default()
            },
            0,
        );
        let first = outbox.lock().next_message();
        assert_eq!(
            (first.digest_ids.len(), first.fetched.len()),
            (SMALL_REPLIES_MAX, 2)
        );
        let second = outbox.lock().next_message();
        assert_eq!((second.digest_ids.len(), second.fetched.len()), (1, 1));
        assert!(outbox.lock().is_empty());
        assert_eq!(outbox.lock().bytes, 0);
    }
}
