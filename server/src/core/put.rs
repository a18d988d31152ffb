//! Counts the copies of one write.
//!
//! Keeps I1 (a write is acknowledged only at W copies, each said to be durable by its own node), I3 while layouts change (W in
//! each layout that lives) and this rule of errors: once the dot is minted, the only failure is "outcome unknown".

use super::{LAYOUTS_MAX, OwnerSet};

/// What an event means for the write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutStep {
    /// Not decided.
    Wait,
    /// W copies in each layout: answer.
    Acknowledged,
    /// Too few owners are left to reach W in some layout: the outcome stays unknown.
    Unknown,
}

/// The owners by one layout, and how many of them must hold a copy. The default asks for nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quorum {
    /// The owners. Those of another layout may be among them.
    pub owners: OwnerSet,
    /// W.
    pub need: u32,
}

/// A write whose dot is minted and whose object went to all owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    quorums: [Quorum; LAYOUTS_MAX],
    waiting: OwnerSet,
    acknowledged: OwnerSet,
}

impl Put {
    /// A write that is acknowledged once each of the quorums is met, of which at least one asks for a copy.
    pub fn new(quorums: [Quorum; LAYOUTS_MAX]) -> Self {
        debug_assert!(
            quorums.iter().any(|quorum| quorum.need >= 1),
            "W is at least 1"
        );
        let all = quorums.iter().map(|quorum| quorum.owners);
        Put {
            quorums,
            waiting: all.fold(OwnerSet::default(), OwnerSet::union),
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

    /// Copies acknowledged, by whichever layout; each owner counts once.
    pub fn acks(&self) -> u32 {
        self.acknowledged.len()
    }

    /// Whether `owner` acknowledged.
    pub fn has(&self, owner: usize) -> bool {
        self.acknowledged.contains(owner)
    }

    /// Copies acknowledged and needed in the layout that lacks most, the older one of two that lack the same.
    pub fn shortest(&self) -> (u32, u32) {
        let of = |quorum: &Quorum| (self.acks_of(quorum), quorum.need);
        let lack = |(acks, need): (u32, u32)| need.saturating_sub(acks);
        let mut shortest = of(&self.quorums[0]);
        for quorum in &self.quorums[1..] {
            if lack(of(quorum)) > lack(shortest) {
                shortest = of(quorum);
            }
        }
        shortest
    }

    fn acks_of(&self, quorum: &Quorum) -> u32 {
        self.acknowledged.common(quorum.owners).len()
    }

    fn step(&self) -> PutStep {
        let mut met = true;
        for quorum in &self.quorums {
            let acks = self.acks_of(quorum);
            if acks + self.waiting.common(quorum.owners).len() < quorum.need {
                return PutStep::Unknown;
            }
            met &= acks >= quorum.need;
        }
        match met {
            true => PutStep::Acknowledged,
            false => PutStep::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PutStep::*, *};

    /// Plays events: `+n` acknowledges owner n, `-n` fails it; owners count from 1.
    fn play(owners: usize, need: u32, events: &[i32]) -> Vec<PutStep> {
        let one = Quorum {
            owners: OwnerSet::first(owners),
            need,
        };
        play_on([one, Quorum::default()], events)
    }

    fn play_on(quorums: [Quorum; LAYOUTS_MAX], events: &[i32]) -> Vec<PutStep> {
        let mut put = Put::new(quorums);
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

    fn set(owners: &[usize]) -> OwnerSet {
        let mut set = OwnerSet::default();
        owners.iter().for_each(|owner| set.insert(owner - 1));
        set
    }

    #[test]
    fn two_layouts_each_want_their_copies() {
        // 1, 2 and 3 own it by the older layout; 1, 2 and 4, or 4, 5 and 6, by the newer.
        type Row<'a> = (&'a [usize], u32, &'a [i32], &'a [PutStep]);
        let table: &[Row<'_>] = &[
            (&[1, 2, 4], 2, &[1, 2], &[Wait, Acknowledged]),
            (&[1, 2, 4], 2, &[1, 3, 4], &[Wait, Wait, Acknowledged]),
            (&[1, 2, 4], 2, &[1, 3, -4, -2], &[Wait, Wait, Wait, Unknown]),
            (
                &[1, 2, 4],
                2,
                &[1, 4, -2, 3],
                &[Wait, Wait, Wait, Acknowledged],
            ),
            (
                &[4, 5, 6],
                2,
                &[1, 2, 3, 4, 5],
                &[Wait, Wait, Wait, Wait, Acknowledged],
            ),
            (&[4, 5, 6], 2, &[1, 2, -4, -5], &[Wait, Wait, Wait, Unknown]),
            (
                &[4, 5, 6],
                2,
                &[4, 5, 6, -1, -2],
                &[Wait, Wait, Wait, Wait, Unknown],
            ),
            (
                &[1, 2, 4],
                3,
                &[1, 2, 3, 4],
                &[Wait, Wait, Wait, Acknowledged],
            ),
            // W of another N.
            (&[1], 1, &[2, 3, 1], &[Wait, Wait, Acknowledged]),
        ];
        for (newer, need, events, steps) in table {
            let older = Quorum {
                owners: set(&[1, 2, 3]),
                need: 2,
            };
            let newer = Quorum {
                owners: set(newer),
                need: *need,
            };
            assert_eq!(
                play_on([older, newer], events),
                *steps,
                "{newer:?} {events:?}"
            );
        }
    }

    #[test]
    fn up_to_fourteen_owners_are_told_apart_and_the_layout_that_lacks_most_is_named() {
        let older = Quorum {
            owners: OwnerSet::first(7),
            need: 4,
        };
        let newer = Quorum {
            owners: set(&[8, 9, 10, 11, 12, 13, 14]),
            need: 4,
        };
        let mut put = Put::new([older, newer]);
        assert_eq!(put.shortest(), (0, 4));
        for owner in 0..7 {
            assert_eq!(put.acknowledge(owner), Wait);
        }
        assert_eq!((put.acks(), put.shortest()), (7, (0, 4)));
        for owner in 7..10 {
            assert_eq!(put.acknowledge(owner), Wait);
        }
        assert_eq!(put.shortest(), (3, 4));
        assert!(put.waits_for(13) && put.has(9));
        assert_eq!(put.acknowledge(13), Acknowledged);
        assert_eq!(put.acks(), 11);
    }
}
