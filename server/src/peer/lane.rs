//! One outgoing queue of one connection to one peer, and the stream of batches it becomes.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use futures::Stream;
use ringfort_proto::peer;

use crate::{
    counters::{Counters, add, take},
    limits::{PEER_BATCH_BYTES_MAX, PEER_MESSAGE_BYTES_MAX},
    peer::fence::Fences,
};

/// Bytes that an operation costs on top of its key and object: tags, lengths, ids.
const ITEM_OVERHEAD_BYTES: usize = 32;

/// One operation for a peer.
#[derive(Debug)]
pub enum Item {
    /// Merge this object.
    Store(peer::Store),
    /// Tell the digest of this key.
    Digest(peer::Digest),
    /// Send the object of this key.
    Fetch(peer::Fetch),
    /// Coordinate this operation.
    Forward(Box<peer::Forward>),
}

impl Item {
    /// The operation's id at the sender.
    pub fn id(&self) -> u64 {
        match self {
            Item::Store(store) => store.id,
            Item::Digest(digest) => digest.id,
            Item::Fetch(fetch) => fetch.id,
            Item::Forward(forward) => forward.operation.as_ref().map_or(0, |op| op.id),
        }
    }

    /// About how many bytes it takes on the wire.
    pub fn bytes(&self) -> usize {
        ITEM_OVERHEAD_BYTES
            + match self {
                Item::Store(store) => store.key.len() + store.object.len(),
                Item::Digest(digest) => digest.key.len(),
                Item::Fetch(fetch) => fetch.key.len(),
                Item::Forward(forward) => prost::Message::encoded_len(forward.as_ref()),
            }
    }

    fn add_to(self, batch: &mut peer::Batch) {
        match self {
            Item::Store(store) => batch.stores.push(store),
            Item::Digest(digest) => batch.digests.push(digest),
            Item::Fetch(fetch) => batch.fetches.push(fetch),
            Item::Forward(forward) => batch.forwards.push(*forward),
        }
    }
}

/// The bytes that wait for one peer, on all its lanes, and their limit.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicUsize,
    limit: usize,
    counters: Arc<Counters>,
}

impl Budget {
    pub(super) fn new(limit: usize, counters: Arc<Counters>) -> Self {
        Budget {
            used: AtomicUsize::new(0),
            limit,
            counters,
        }
    }

    fn reserve(&self, bytes: usize) -> bool {
        let fits = |used: usize| (used + bytes <= self.limit).then_some(used + bytes);
        let reserved = self.used.fetch_update(Relaxed, Relaxed, fits).is_ok();
        if reserved {
            add(&self.counters.peer_queue_bytes, bytes);
        }
        reserved
    }

    fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
        take(&self.counters.peer_queue_bytes, bytes);
    }
}

#[derive(Debug, Default)]
struct Queue {
    /// Counts the connections that this lane has had; a stream of an older one ends.
    connection: u64,
    open: bool,
    items: VecDeque<Item>,
    waker: Option<Waker>,
}

/// The queue of one connection. Closed until a connection stands; closing drops what waits.
#[derive(Debug)]
pub(super) struct Lane {
    queue: Mutex<Queue>,
    budget: Arc<Budget>,
}

impl Lane {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Lane {
            queue: Mutex::new(Queue::default()),
            budget,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues items; those without room, or all while closed, are put into `rejected` by id.
    pub(super) fn push(&self, items: impl Iterator<Item = Item>, rejected: &mut Vec<u64>) {
        let mut queue = self.lock();
        for item in items {
            let bytes = item.bytes();
            if queue.open && bytes <= PEER_MESSAGE_BYTES_MAX / 2 && self.budget.reserve(bytes) {
                queue.items.push_back(item);
            } else {
                rejected.push(item.id());
            }
        }
        let waker = if queue.items.is_empty() {
            None
        } else {
            queue.waker.take()
        };
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// A new connection is about to stand: returns the stream of its batches. Nothing is taken until [`Self::open`].
    pub(super) fn connect(self: &Arc<Self>, fences: Fences) -> Batches {
        let mut queue = self.lock();
        queue.connection += 1;
        Batches {
            lane: Arc::clone(self),
            connection: queue.connection,
            fences,
        }
    }

    /// The connection stands: takes items from now on.
    pub(super) fn open(&self) {
        self.lock().open = true;
    }

    /// The connection is gone: drops what waits, and ends its stream.
    pub(super) fn close(&self) {
        let mut queue = self.lock();
        queue.open = false;
        queue.connection += 1;
        for item in std::mem::take(&mut queue.items) {
            self.budget.release(item.bytes());
        }
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes what waits, up to the size of one batch; one larger item goes alone.
    fn next_batch(&self, queue: &mut Queue) -> peer::Batch {
        let mut batch = peer::Batch::default();
        let mut bytes = 0;
        while let Some(item) = queue.items.front() {
            let size = item.bytes();
            if bytes > 0 && bytes + size > PEER_BATCH_BYTES_MAX {
                break;
            }
            bytes += size;
            if let Some(item) = queue.items.pop_front() {
                item.add_to(&mut batch);
            }
        }
        self.budget.release(bytes);
        add(&self.budget.counters.peer_bytes_out, bytes);
        add(&self.budget.counters.peer_batches, 1);
        batch
    }
}

/// The batches of one connection: natural batching, polled by the connection when it has room.
pub(super) struct Batches {
    lane: Arc<Lane>,
    connection: u64,
    fences: Fences,
}

impl Stream for Batches {
    type Item = peer::Batch;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<peer::Batch>> {
        let mut queue = self.lane.lock();
        if queue.connection != self.connection {
            return Poll::Ready(None);
        }
        if queue.items.is_empty() {
            queue.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut batch = self.lane.next_batch(&mut queue);
        drop(queue);
        batch.fence = Some(self.fences.fence());
        Poll::Ready(Some(batch))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use bytes::Bytes;

    use super::*;

    fn lane(limit: usize) -> (Lane, Arc<Counters>) {
        let counters = Arc::new(Counters::default());
        (
            Lane::new(Arc::new(Budget::new(limit, Arc::clone(&counters)))),
            counters,
        )
    }

    fn store(id: u64, bytes: usize) -> Item {
        let (key, object) = (Bytes::new(), Bytes::from(vec![0; bytes]));
        Item::Store(peer::Store {
            id,
            key,
            object,
            ..peer::Store::default()
        })
    }

    /// Pushes items; returns the ids that were rejected.
    fn push(lane: &Lane, items: impl IntoIterator<Item = Item>) -> Vec<u64> {
        let mut rejected = Vec::new();
        lane.push(items.into_iter(), &mut rejected);
        rejected
    }

    fn batch(lane: &Lane) -> Vec<u64> {
        let batch = lane.next_batch(&mut lane.lock());
        batch.stores.iter().map(|store| store.id).collect()
    }

    #[test]
    fn a_closed_lane_takes_nothing_and_forgets_what_waited() {
        let (lane, counters) = lane(1_000);
        assert_eq!(push(&lane, [store(1, 10)]), [1]);
        lane.open();
        assert!(push(&lane, [store(2, 10)]).is_empty());
        assert!(counters.peer_queue_bytes.load(Relaxed) > 0);
        lane.close();
        assert_eq!(
            (push(&lane, [store(3, 10)]), batch(&lane)),
            (vec![3], vec![])
        );
        assert_eq!(counters.peer_queue_bytes.load(Relaxed), 0);
    }

    #[test]
    fn a_full_queue_rejects_what_does_not_fit_and_has_room_again_once_taken() {
        let (lane, counters) = lane(1_000);
        lane.open();
        assert_eq!(
            push(&lane, [store(1, 600), store(2, 600), store(3, 100)]),
            [2]
        );
        assert_eq!(batch(&lane), [1, 3]);
        assert_eq!(counters.peer_queue_bytes.load(Relaxed), 0);
        assert!(push(&lane, [store(4, 600)]).is_empty());
        assert_eq!(push(&lane, [store(5, PEER_MESSAGE_BYTES_MAX)]), [5]);
    }

    #[test]
    fn a_batch_is_bounded_and_one_larger_item_goes_alone() {
        let (lane, _) = lane(usize::MAX / 2);
        lane.open();
        let large = PEER_BATCH_BYTES_MAX * 2;
        push(
            &lane,
            [store(1, 10), store(2, large), store(3, 10), store(4, 10)],
        );
        assert_eq!(batch(&lane), [1]);
        assert_eq!(batch(&lane), [2]);
        assert_eq!(batch(&lane), [3, 4]);
        assert!(batch(&lane).is_empty());
    }
}
