//! One pipelined stream to one node: operations in, batched by themselves; answers out, matched by id.
//!
//! *Invariant (I7):* at most [`CREDIT_OPERATIONS`] operations and [`CREDIT_BYTES`] are queued or unanswered; whoever
//! comes then waits for credit within its own deadline. Credit comes back with the answer or with the end of the
//! stream, never because somebody stopped waiting: the node still holds what it was sent.
//!
//! Three parties share the state: calls push operations, the connection pulls batches ([`outgoing`]), the session's one
//! task takes answers, deadlines and breaks ([`task`], [`settle`]). Each locks once per operation or batch, and never across an await.

mod outgoing;
mod settle;
mod slots;
mod task;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::Waker,
};

use ringfort_proto::v1::operation;
use tokio::{
    sync::{Notify, Semaphore, oneshot},
    task::AbortHandle,
    time::{Instant, timeout_at},
};
use tonic::transport::Channel;

use self::slots::{Entry, Slots};
pub(crate) use self::{
    slots::Reply,
    task::{MESSAGE_BYTES_MAX, refusal},
};
use crate::{
    connector::{Connector, check_address},
    discovery::Signals,
    error::Error,
    random::Random,
};

/// The most operations that one session holds.
pub(crate) const CREDIT_OPERATIONS: usize = 4096;
/// The most bytes of operations that one session holds.
pub(crate) const CREDIT_BYTES: usize = 4 << 20;
/// What an operation weighs beside its key, value and context.
pub(crate) const OPERATION_OVERHEAD: usize = 64;

/// How good a choice a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Health {
    /// Never tried, or its first connection is being made.
    Fresh = 0,
    /// The stream is open.
    Up = 1,
    /// The stream broke and is being opened again, or the node has been silent while it owed answers.
    Shaky = 2,
    /// The node asked for new operations to go elsewhere.
    Draining = 3,
    /// The last attempt to connect failed: nothing can be sent.
    Down = 4,
}

impl Health {
    fn from_u8(byte: u8) -> Health {
        [
            Health::Fresh,
            Health::Up,
            Health::Shaky,
            Health::Draining,
            Health::Down,
        ][usize::from(byte)]
    }
}

/// A handle on the session with one node; the last one dropped ends it.
#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    task: Mutex<Option<AbortHandle>>,
}

/// What a session is made from.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) connector: Connector,
    pub(crate) signals: Arc<Signals>,
    pub(crate) random: Random,
}

#[derive(Debug)]
struct Shared {
    address: String,
    parts: Parts,
    health: AtomicU8,
    operations: Semaphore,
    bytes: Semaphore,
    /// Tells the task that a deadline came in that is earlier than the one it waits for.
    rearm: Notify,
    /// Tells the task that an answer is overdue for so long that the stream is worth nothing.
    stalled: Notify,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    slots: Slots,
    /// Ids in the order of arrival; one whose entry is gone is skipped.
    queue: VecDeque<u64>,
    /// The connection, when it waits for operations.
    waker: Option<Waker>,
    /// Whether the session has its task.
    is_running: bool,
    /// The number of the stream that may take operations; an older one ends itself.
    stream: u64,
    /// Whether the node has accepted that stream. Nothing is sent before, so that a refusal is definite.
    open: bool,
    /// The time for which the task has set its alarm.
    armed: Option<Instant>,
    /// When the node last said anything.
    heard: Option<Instant>,
    /// The channel to the node, once it is needed.
    channel: Option<Channel>,
    /// Why the session is down.
    refusal: Option<Error>,
}

/// Credit that was taken for one operation, to be handed in with it at once.
#[must_use = "credit that is not handed in is lost to the session"]
#[derive(Debug)]
pub(crate) struct Credit {
    weight: u32,
}

/// What is asked of the credit for so many bytes: an operation larger than all of it waits for all of it.
fn credited(weight: usize) -> u32 {
    u32::try_from(weight.min(CREDIT_BYTES)).expect("the credit fits u32")
}

impl Session {
    /// A session with the node at `address`, which connects with the first operation.
    pub(crate) fn new(address: &str, parts: Parts) -> Result<Arc<Session>, Error> {
        check_address(address)?;
        let state = State {
            slots: Slots::default(),
            queue: VecDeque::new(),
            waker: None,
            is_running: false,
            stream: 0,
            open: false,
            armed: None,
            heard: None,
            channel: None,
            refusal: None,
        };
        let shared = Shared {
            address: address.to_owned(),
            parts,
            health: AtomicU8::new(Health::Fresh as u8),
            operations: Semaphore::new(CREDIT_OPERATIONS),
            bytes: Semaphore::new(CREDIT_BYTES),
            rearm: Notify::new(),
            stalled: Notify::new(),
            state: Mutex::new(state),
        };
        Ok(Arc::new(Session {
            shared: Arc::new(shared),
            task: Mutex::new(None),
        }))
    }

    /// Where the node is.
    pub(crate) fn address(&self) -> &str {
        &self.shared.address
    }

    /// How good a choice the session is now.
    pub(crate) fn health(&self) -> Health {
        self.shared.health()
    }

    /// The channel for unary calls to the node.
    pub(crate) fn channel(&self) -> Channel {
        self.shared.channel(&mut self.shared.lock())
    }

    /// Takes credit for one operation of so many bytes, if there is some at once.
    pub(crate) fn try_credit(&self, weight: usize) -> Option<Credit> {
        let weight = credited(weight);
        let operation = self.shared.operations.try_acquire().ok()?;
        self.shared.bytes.try_acquire_many(weight).ok()?.forget();
        operation.forget();
        Some(Credit { weight })
    }

    /// Waits for credit.
    ///
    /// # Errors
    /// Nothing was sent: there was none within the deadline.
    pub(crate) async fn credit(&self, weight: usize, deadline: Instant) -> Result<Credit, Error> {
        let weight = credited(weight);
        if timeout_at(deadline, self.acquire(weight)).await.is_ok() {
            return Ok(Credit { weight });
        }
        let full = format!(
            "no room in the session with {} within the deadline",
            self.address()
        );
        Err(Error::timeout(self.address(), full))
    }

    /// Hands in one operation; the answer comes through the receiver, by the deadline at the latest.
    ///
    /// # Errors
    /// Nothing was sent: the session is down.
    pub(crate) fn submit(
        &self,
        credit: Credit,
        kind: operation::Kind,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Reply>, Error> {
        let (reply, answer) = oneshot::channel();
        let is_write = !matches!(kind, operation::Kind::Get(_));
        let (kind, reply, weight) = (Some(kind), Some(reply), credit.weight);
        self.push(Entry {
            kind,
            reply,
            deadline,
            weight,
            is_write,
        })?;
        Ok(answer)
    }

    async fn acquire(&self, weight: u32) {
        const OPEN: &str = "the semaphores are never closed";
        let operation = self.shared.operations.acquire().await.expect(OPEN);
        self.shared
            .bytes
            .acquire_many(weight)
            .await
            .expect(OPEN)
            .forget();
        operation.forget();
    }

    /// Opens the stream if nobody has yet, and keeps it open: from then on its health tells whether the node is to be had.
    pub(crate) fn begin(&self) {
        let starts = !std::mem::replace(&mut self.shared.lock().is_running, true);
        if starts {
            self.start();
        }
    }

    /// Whoever finds the session without its task, and says under the lock that it has one, is to call this.
    fn start(&self) {
        let task = tokio::spawn(task::run(Arc::clone(&self.shared)));
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
    }

    /// Queues an entry, for which credit was taken.
    fn push(&self, entry: Entry) -> Result<(), Error> {
        let deadline = entry.deadline;
        let mut state = self.shared.lock();
        if let Some(refusal) = &state.refusal {
            let refusal = refusal.clone();
            drop(state);
            self.shared.give_back(1, entry.weight as usize);
            return Err(refusal);
        }
        let id = state.slots.insert(entry);
        state.queue.push_back(id);
        let waker = state.waker.take();
        let earlier = state.armed.is_none_or(|armed| deadline < armed);
        if earlier {
            state.armed = Some(deadline);
        }
        let starts = !std::mem::replace(&mut state.is_running, true);
        drop(state);
        if starts {
            self.start();
        }
        if earlier {
            self.shared.rearm.notify_one();
        }
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
        self.shared.end_stream();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was held is our own bug and has been reported; what it left is still consistent enough
        // for the entries in it to be failed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn channel(&self, state: &mut State) -> Channel {
        state
            .channel
            .get_or_insert_with(|| self.parts.connector.channel(&self.address))
            .clone()
    }

    fn health(&self) -> Health {
        Health::from_u8(self.health.load(Ordering::Relaxed))
    }

    fn set_health(&self, health: Health) {
        self.health.store(health as u8, Ordering::Relaxed);
    }

    fn give_back(&self, operations: usize, bytes: usize) {
        self.operations.add_permits(operations);
        self.bytes.add_permits(bytes);
    }

    /// Lets the connection's current stream end; what is queued stays.
    fn end_stream(&self) {
        let mut state = self.lock();
        state.stream += 1;
        state.open = false;
        if let Some(waker) = state.waker.take() {
            drop(state);
            waker.wake();
        }
    }
}
