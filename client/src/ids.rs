//! Request ids: one per mutation, kept over its resends, and the floor below which none is running any more.
//!
//! *Invariant:* a sequence counts as answered only when no copy of it can reach a node any more: its call is over (or
//! its future dropped) **and** each attempt that was sent has been answered, or is so long past its deadline that a
//! node would drop it. Nodes forget ids below the floor; a floor too high would let a straggler apply a second time.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ringfort_proto::v1;
use tokio::time::Instant;

use crate::error::Error;

/// How long after its deadline an attempt without an answer is still held to be on its way.
const STRAGGLER: Duration = Duration::from_secs(10);
/// The most sequences between the floor and the newest: one byte each, and reached only by a client that leaves
/// calls open for minutes at full speed.
const WINDOW_MAX: usize = 1 << 24;

/// Hands out the sequences of one client.
#[derive(Debug)]
pub(crate) struct Sequences {
    client: u64,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    /// The lowest sequence that is unanswered, or the next one if all are answered.
    floor: u64,
    /// How many holders each sequence from the floor on has.
    holders: VecDeque<u8>,
    /// Attempts without an answer, to be let go of at their time.
    stragglers: VecDeque<(Instant, u64)>,
}

impl Window {
    fn release(&mut self, sequence: u64) {
        let index = usize::try_from(sequence - self.floor).expect("the window fits memory");
        self.holders[index] -= 1;
        while self.holders.front() == Some(&0) {
            self.holders.pop_front();
            self.floor += 1;
        }
    }

    /// Lets go of the stragglers whose time has come. In the order of arrival: one that is early waits, which errs
    /// on the safe side.
    fn release_stragglers(&mut self, now: Instant) {
        while let Some(&(until, sequence)) = self.stragglers.front() {
            if until > now {
                break;
            }
            self.stragglers.pop_front();
            self.release(sequence);
        }
    }
}

impl Sequences {
    /// The sequences of the client with this id, from 1.
    pub(crate) fn new(client: u64) -> Arc<Self> {
        let window = Window {
            floor: 1,
            holders: VecDeque::new(),
            stragglers: VecDeque::new(),
        };
        Arc::new(Sequences {
            client,
            window: Mutex::new(window),
        })
    }

    /// The next sequence, held by the ticket that is returned.
    pub(crate) fn next(self: &Arc<Self>, now: Instant) -> Result<Ticket, Error> {
        let mut window = self.lock();
        window.release_stragglers(now);
        if window.holders.len() >= WINDOW_MAX {
            return Err(Error::overloaded(format!(
                "{WINDOW_MAX} writes were started since the oldest one that has no answer"
            )));
        }
        let sequence = window.floor + window.holders.len() as u64;
        window.holders.push_back(1);
        Ok(Ticket {
            sequences: Arc::clone(self),
            sequence,
            held: true,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        // Nothing in here panics halfway through a change.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One holder of a sequence: the call, or one attempt of it.
#[derive(Debug)]
pub(crate) struct Ticket {
    sequences: Arc<Sequences>,
    sequence: u64,
    held: bool,
}

impl Ticket {
    /// The id as it travels.
    pub(crate) fn request_id(&self) -> v1::RequestId {
        v1::RequestId {
            client: self.sequences.client,
            sequence: self.sequence,
        }
    }

    /// A second holder for an attempt, and the floor to send with it.
    pub(crate) fn attempt(&self) -> (Ticket, u64) {
        let mut window = self.sequences.lock();
        let index = usize::try_from(self.sequence - window.floor).expect("the window fits memory");
        window.holders[index] += 1;
        let floor = window.floor;
        drop(window);
        let ticket = Ticket {
            sequences: Arc::clone(&self.sequences),
            sequence: self.sequence,
            held: true,
        };
        (ticket, floor)
    }

    /// Lets go of an attempt that was sent and had no answer: not before a node would surely drop it.
    pub(crate) fn abandon(mut self, deadline: Instant) {
        self.sequences
            .lock()
            .stragglers
            .push_back((deadline + STRAGGLER, self.sequence));
        // The list of stragglers is the holder now.
        self.held = false;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.held {
            self.sequences.lock().release(self.sequence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The floor that a write which starts now would send.
    fn floor(sequences: &Arc<Sequences>) -> u64 {
        let ticket = sequences.next(Instant::now()).expect("the window has room");
        ticket.attempt().1
    }

    #[tokio::test(start_paused = true)]
    async fn the_floor_waits_for_the_lowest() {
        let sequences = Sequences::new(9);
        let now = Instant::now();
        let first = sequences.next(now).unwrap();
        let second = sequences.next(now).unwrap();
        assert_eq!(
            first.request_id(),
            v1::RequestId {
                client: 9,
                sequence: 1
            }
        );
        assert_eq!(second.request_id().sequence, 2);
        drop(second);
        assert_eq!(floor(&sequences), 1);
        let (attempt, _) = first.attempt();
        drop(first);
        assert_eq!(floor(&sequences), 1, "its attempt is still on its way");
        drop(attempt);
        assert_eq!(floor(&sequences), 5, "three and four were the probes");
        assert!(sequences.lock().holders.is_empty(), "nothing is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_without_an_answer_is_held_past_its_deadline() {
        let sequences = Sequences::new(9);
        let ticket = sequences.next(Instant::now()).unwrap();
        let (attempt, _) = ticket.attempt();
        attempt.abandon(Instant::now() + Duration::from_secs(1));
        drop(ticket);
        tokio::time::sleep(STRAGGLER).await;
        assert_eq!(floor(&sequences), 1);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(floor(&sequences), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_is_bounded() {
        let sequences = Sequences::new(9);
        let oldest = sequences.next(Instant::now()).unwrap();
        sequences.lock().holders.resize(WINDOW_MAX, 1);
        let error = sequences.next(Instant::now()).unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Overloaded);
        assert!(!error.is_ambiguous());
        drop(oldest);
        assert!(sequences.next(Instant::now()).is_ok());
    }
}
