//! Counts the copies of one write.
//!
//! Keeps I1 (a write is acknowledged only at W copies, each said to be durable by its own node) and this
//! rule of errors: once the dot is minted, the only failure is "outcome unknown".

use super::OwnerSet;

/// What an event means for the write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutStep {
    /// Not decided.
    Wait,
    /// W copies: answer.
    Acknowledged,
    /// Too few owners are left to reach W: the outcome stays unknown.
    Unknown,
}

/// A write whose dot is minted and whose object went to all owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    need: u32,
    waiting: OwnerSet,
    acknowledged: OwnerSet,
}

impl Put {
    /// A write to `owners` owners that is acknowledged at `need` copies, `1 ≤ need`.
    pub fn new(owners: usize, need: u32) -> Self {
        debug_assert!(need >= 1, "W is at least 1");
        Put {
            need,
            waiting: OwnerSet::first(owners),
            acknowledged: OwnerSet::default(),
        }
    }

    /// `owner` holds the object, as durably as the write asked for. Counts once, and even after a failure of that
    /// owner: an acknowledgement that came by the other connection is no less true.
    pub fn acknowledge(&mut self, owner: usize) -> PutStep {
        self.waiting.remove(owner);
        self.acknowledged.insert(owner);
        self.step()
    }

    /// `owner` will not answer: it refused, or the object did not reach it, or its connection broke.
    pub fn fail(&mut self, owner: usize) -> PutStep {
        self.waiting.remove(owner);
        self.step()
    }

    /// Whether `owner` has still to answer.
    pub fn waits_for(&self, owner: usize) -> bool {
        self.waiting.contains(owner)
    }

    /// Copies acknowledged.
    pub fn acks(&self) -> u32 {
        self.acknowledged.len()
    }

    /// Whether `owner` acknowledged.
    pub fn has(&self, owner: usize) -> bool {
        self.acknowledged.contains(owner)
    }

    /// Copies needed.
    pub fn need(&self) -> u32 {
        self.need
    }

    fn step(&self) -> PutStep {
        if self.acks() >= self.need {
            PutStep::Acknowledged
        } else if self.acks() + self.waiting.len() < self.need {
            PutStep::Unknown
        } else {
            PutStep::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PutStep::*, *};

    /// Plays events: `+n` acknowledges owner n, `-n` fails it; owners count from 1.
    fn play(owners: usize, need: u32, events: &[i32]) -> Vec<PutStep> {
        let mut put = Put::new(owners, need);
        events
            .iter()
            .map(|&event| {
                let owner = event.unsigned_abs() as usize - 1;
                if event > 0 {
                    put.acknowledge(owner)
                } else {
                    put.fail(owner)
                }
            })
            .collect()
    }

    #[test]
    fn a_write_is_decided_at_the_first_moment_it_can_be() {
        let table: &[(usize, u32, &[i32], &[PutStep])] = &[
            (1, 1, &[1], &[Acknowledged]),
            (1, 1, &[-1], &[Unknown]),
            (3, 2, &[1, 2], &[Wait, Acknowledged]),
            (3, 2, &[3, -1, 2], &[Wait, Wait, Acknowledged]),
            (3, 2, &[-2, -3], &[Wait, Unknown]),
            (3, 3, &[1, 2, -3], &[Wait, Wait, Unknown]),
            (3, 3, &[-1], &[Unknown]),
            (3, 1, &[-1, -2, 3], &[Wait, Wait, Acknowledged]),
            // The same owner never counts twice.
            (3, 2, &[1, 1, 2], &[Wait, Wait, Acknowledged]),
            // A failure does not take an acknowledgement back, and an acknowledgement outweighs a failure.
            (3, 2, &[1, -1, 2], &[Wait, Wait, Acknowledged]),
            (3, 2, &[-1, 1, 2], &[Wait, Wait, Acknowledged]),
            (7, 4, &[7, 6, 5, 4], &[Wait, Wait, Wait, Acknowledged]),
        ];
        for (owners, need, events, steps) in table {
            assert_eq!(
                play(*owners, *need, events),
                *steps,
                "{owners} {need} {events:?}"
            );
        }
    }
}
