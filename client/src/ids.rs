//! Request ids: one per mutation, kept over its resends, and the floor below which nodes may forget them.
//!
//! *Invariant:* the floor passes a write only when its call is over **and** it was applied at most once, through one
//! coordinator: nodes forget ids below it. A write that was sent again, though its first attempt may have been applied,
//! may lie on a node that nobody hears as a second copy, and only its id tells that copy, once it is heard, from a new
//! write. So the floor never passes such a write: the client goes on under another id, and the floor of the old one
//! stays where it is, until nodes forget by age. (Holding one floor for minutes would keep every request since then in
//! the lists of all keys.)

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ringfort_proto::v1;

use crate::error::Error;

/// The most sequences between the floor and the newest: one byte each, and reached only by a client that leaves
/// calls open for minutes at full speed.
const WINDOW_MAX: usize = 1 << 24;

/// Hands out request ids; under another client id after each write that may have been applied twice.
#[derive(Debug)]
pub(crate) struct Ids {
    current: Mutex<Arc<Sequences>>,
}

impl Ids {
    /// Begins with this client id.
    pub(crate) fn new(client: u64) -> Ids {
        Ids {
            current: Mutex::new(Sequences::new(client)),
        }
    }

    /// The next id, held by the ticket that is returned.
    pub(crate) fn next(&self) -> Result<Ticket, Error> {
        Arc::clone(&self.current()).next()
    }

    /// The write of `ticket` is sent again though it may have been applied: its id is held for ever, and what begins
    /// from now on does so under the client id `other`.
    pub(crate) fn part_with(&self, ticket: &Ticket, other: u64) {
        ticket.hold_for_ever();
        let mut current = self.current();
        if Arc::ptr_eq(&current, &ticket.sequences) {
            *current = Sequences::new(other);
        }
    }

    fn current(&self) -> MutexGuard<'_, Arc<Sequences>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sequences of one client id.
#[derive(Debug)]
struct Sequences {
    client: u64,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    /// The lowest sequence that is unanswered, or the next one if all are answered.
    floor: u64,
    /// How many holders each sequence from the floor on has.
    holders: VecDeque<u8>,
}

impl Window {
    fn index(&self, sequence: u64) -> usize {
        usize::try_from(sequence - self.floor).expect("the window fits memory")
    }

    fn release(&mut self, sequence: u64) {
        let index = self.index(sequence);
        self.holders[index] -= 1;
        while self.holders.front() == Some(&0) {
            self.holders.pop_front();
            self.floor += 1;
        }
    }
}

impl Sequences {
    /// The sequences of the client with this id, from 1.
    fn new(client: u64) -> Arc<Self> {
        let window = Window {
            floor: 1,
            holders: VecDeque::new(),
        };
        Arc::new(Sequences {
            client,
            window: Mutex::new(window),
        })
    }

    /// The next sequence, held by the ticket that is returned.
    fn next(self: &Arc<Self>) -> Result<Ticket, Error> {
        let mut window = self.lock();
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
        })
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        // Nothing in here panics halfway through a change.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A write's hold on its sequence, until its call is over.
#[derive(Debug)]
pub(crate) struct Ticket {
    sequences: Arc<Sequences>,
    sequence: u64,
}

impl Ticket {
    /// The id as it travels.
    pub(crate) fn request_id(&self) -> v1::RequestId {
        v1::RequestId {
            client: self.sequences.client,
            sequence: self.sequence,
        }
    }

    /// The floor to send with an attempt.
    pub(crate) fn floor(&self) -> u64 {
        self.sequences.lock().floor
    }

    /// Keeps the floor from ever passing this sequence.
    fn hold_for_ever(&self) {
        let mut window = self.sequences.lock();
        let index = window.index(self.sequence);
        window.holders[index] = window.holders[index].saturating_add(1);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.sequences.lock().release(self.sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_waits_for_the_lowest() {
        let ids = Ids::new(9);
        let [first, second] = [(); 2].map(|()| ids.next().unwrap());
        let ids_of = [&first, &second].map(Ticket::request_id);
        assert_eq!(ids_of.map(|id| (id.client, id.sequence)), [(9, 1), (9, 2)]);
        drop(second);
        assert_eq!(first.floor(), 1);
        drop(first);
        let third = ids.next().unwrap();
        assert_eq!((third.request_id().sequence, third.floor()), (3, 3));
        drop(third);
        let nothing = ids.current().lock().holders.is_empty();
        assert!(nothing, "nothing is kept");
    }

    #[test]
    fn a_write_sent_twice_is_never_below_the_floor_and_holds_up_no_other() {
        let ids = Ids::new(9);
        let [twice, beside] = [(); 2].map(|()| ids.next().unwrap());
        ids.part_with(&twice, 10);
        ids.part_with(&beside, 11);
        drop(twice);
        assert_eq!(beside.floor(), 1, "the old id's floor stays");
        let next = ids.next().unwrap().request_id();
        assert_eq!((next.client, next.sequence), (10, 1), "parted with once");
        assert_eq!(ids.next().unwrap().floor(), 2);
    }

    #[test]
    fn the_window_is_bounded() {
        let ids = Ids::new(9);
        let oldest = ids.next().unwrap();
        ids.current().lock().holders.resize(WINDOW_MAX, 1);
        let error = ids.next().unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Overloaded);
        assert!(!error.is_ambiguous());
        drop(oldest);
        assert!(ids.next().is_ok());
    }
}
