//! How entries leave a session: answered, past their deadline, or with the end of their stream.
//!
//! *Invariant:* every entry that leaves without an answer tells its call the truth: never sent is definite, sent is
//! ambiguous for a write.

use std::time::Duration;

use ringfort_proto::v1::{SessionResponse, operation_result};
use tokio::time::Instant;

use super::{Entry, Health, Reply, Shared};
use crate::error::Error;

/// A node that let a deadline pass and said nothing for this long is not asked while there are others.
const SILENCE: Duration = Duration::from_millis(500);
/// A node that owes an answer for this long past its deadline has its stream closed.
pub(super) const STALL: Duration = Duration::from_secs(5);

impl Shared {
    pub(super) fn take_answers(&self, response: SessionResponse) {
        self.set_health(if response.draining {
            Health::Draining
        } else {
            Health::Up
        });
        self.parts
            .signals
            .saw(response.read_epoch, response.newest_epoch);
        let mut answered = Vec::with_capacity(response.results.len());
        let mut state = self.lock();
        state.heard = Some(Instant::now());
        for result in response.results {
            // An unknown id is an answer to an operation of an earlier stream, or a mistake of the node's: nobody waits.
            if let Some(entry) = state.slots.remove(result.id) {
                answered.push((entry, result.kind));
            }
        }
        drop(state);
        self.give_back(
            answered.len(),
            answered
                .iter()
                .map(|(entry, _)| entry.weight as usize)
                .sum(),
        );
        for (entry, kind) in answered {
            let write = entry.is_write;
            if let Some(reply) = entry.reply {
                let _ = reply.send(self.reply(kind, write));
            }
        }
    }

    fn reply(&self, kind: Option<operation_result::Kind>, write: bool) -> Reply {
        match kind {
            Some(operation_result::Kind::Error(error)) => {
                Err(Error::from_wire(error, &self.address, write))
            }
            Some(kind) => Ok(kind),
            None => Err(Error::broken(&self.address, "it was empty", write)),
        }
    }

    /// Reports what is past its deadline and sets the next alarm.
    pub(super) fn sweep(&self, now: Instant) {
        let mut late = Vec::new();
        let mut next: Option<Instant> = None;
        let mut stalled = false;
        let mut state = self.lock();
        for (id, entry) in state.slots.iter() {
            let overdue = entry.reply.is_none();
            let at = if overdue {
                entry.deadline + STALL
            } else {
                entry.deadline
            };
            if at > now {
                next = Some(next.map_or(at, |next| next.min(at)));
            } else if overdue {
                stalled = true;
            } else {
                late.push(id);
            }
        }
        let mut replies = Vec::with_capacity(late.len());
        let mut unsent = (0, 0);
        for id in late {
            let Some(entry) = state.slots.get_mut(id) else {
                continue;
            };
            if entry.is_sent() {
                let at = entry.deadline + STALL;
                next = Some(next.map_or(at, |next| next.min(at)));
                replies.extend(
                    entry
                        .reply
                        .take()
                        .map(|reply| (reply, Some(entry.is_write))),
                );
            } else if let Some(entry) = state.slots.remove(id) {
                unsent = (unsent.0 + 1, unsent.1 + entry.weight as usize);
                replies.extend(entry.reply.map(|reply| (reply, None)));
            }
        }
        state.armed = next;
        let silent = state.open
            && state
                .heard
                .is_none_or(|heard| now.duration_since(heard) >= SILENCE);
        drop(state);
        self.give_back(unsent.0, unsent.1);
        if stalled {
            self.stalled.notify_one();
        }
        if silent && replies.iter().any(|(_, sent)| sent.is_some()) {
            self.set_health(Health::Shaky);
        }
        for (reply, sent) in replies {
            let error = match sent {
                Some(write) => Error::unanswered(&self.address, write),
                None => Error::timeout(
                    &self.address,
                    format!(
                        "the deadline passed before the operation was sent to {}",
                        self.address
                    ),
                ),
            };
            let _ = reply.send(Err(error));
        }
    }

    /// Ends the stream and all entries with it. With a refusal, which it then returns `true` for, the session takes
    /// nothing until it is open again.
    pub(super) fn fail_all(&self, why: &str, refusal: Option<Error>) -> bool {
        self.set_health(if refusal.is_some() {
            Health::Down
        } else {
            Health::Shaky
        });
        self.end_stream();
        let mut state = self.lock();
        let entries = state.slots.drain();
        state.queue.clear();
        state.armed = None;
        state.refusal.clone_from(&refusal);
        drop(state);
        self.give_back(
            entries.len(),
            entries.iter().map(|entry| entry.weight as usize).sum(),
        );
        for entry in entries {
            self.fail(entry, why, refusal.as_ref());
        }
        refusal.is_some()
    }

    fn fail(&self, entry: Entry, why: &str, refusal: Option<&Error>) {
        let write = entry.is_write;
        let error = if entry.is_sent() {
            Error::broken(&self.address, why, write)
        } else {
            refusal.cloned().unwrap_or_else(|| {
                let unsent = format!(
                    "the connection to {} broke before the operation was sent: {why}",
                    self.address
                );
                Error::unreachable(&self.address, unsent)
            })
        };
        if let Some(reply) = entry.reply {
            let _ = reply.send(Err(error));
        }
    }
}
