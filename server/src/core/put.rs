//! Counts the copies of one write.
//!
//! Keeps I1 (a write is acknowledged only at W copies, each said to be durable by its own node: an owner, or, unless the write
//! is strict, a fallback that holds a hint for one), I3 while layouts change (W in
//! each layout that lives) and this rule of errors: once the dot is minted, the only failure is "outcome unknown".

use super::{LAYOUTS_MAX, OwnerSet};

/// What an event means for the write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutStep {
    /// Not decided.
    Wait,
    /// W copies in each layout: answer.
    Acknowledged,
    /// Too few nodes are left to reach W in some layout: the outcome stays unknown.
    Unknown,
}

/// The owners by one layout, and how many copies there must be. The default asks for nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quorum {
    /// The owners. Those of another layout may be among them.
    pub owners: OwnerSet,
    /// Fallbacks whose hints count beside the owners' copies; none if the write is strict.
    pub fallbacks: OwnerSet,
    /// W.
    pub need: u32,
}

impl Quorum {
    /// Whose copies count.
    fn counted(&self) -> OwnerSet {
        self.owners.union(self.fallbacks)
    }
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
        let all = quorums.iter().map(Quorum::counted);
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

    /// `fallback` gets a hint, too, in the place of `owner`: it counts where that owner does, if the write is not strict.
    pub fn add_fallback(&mut self, fallback: usize, owner: usize, strict: bool) {
        self.waiting.insert(fallback);
        for quorum in &mut self.quorums {
            if !strict && quorum.counted().contains(owner) {
                quorum.fallbacks.insert(fallback);
            }
        }
    }

    /// Whether all have answered or failed.
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether `owner` has still to answer.
    pub fn waits_for(&self, owner: usize) -> bool {
        self.waiting.contains(owner)
    }

    /// Copies acknowledged that count in some layout; each node counts once.
    pub fn acks(&self) -> u32 {
        let counted = self.quorums.iter().map(Quorum::counted);
        let counted = counted.fold(OwnerSet::default(), OwnerSet::union);
        self.acknowledged.common(counted).len()
    }

    /// Hints among these.
    pub fn hints(&self) -> u32 {
        let fallbacks = self.quorums.iter().map(|quorum| quorum.fallbacks);
        let fallbacks = fallbacks.fold(OwnerSet::default(), OwnerSet::union);
        self.acknowledged.common(fallbacks).len()
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
        self.acknowledged.common(quorum.counted()).len()
    }

    fn step(&self) -> PutStep {
        let mut met = true;
        for quorum in &self.quorums {
            let acks = self.acks_of(quorum);
            if acks + self.waiting.common(quorum.counted()).len() < quorum.need {
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

    /// Of owners alone.
    fn quorum(owners: OwnerSet, need: u32) -> Quorum {
        Quorum {
            owners,
            need,
            ..Quorum::default()
        }
    }

    /// Plays events: `+n` acknowledges owner n, `-n` fails it; owners count from 1.
    fn play(owners: usize, need: u32, events: &[i32]) -> Vec<PutStep> {
        play_on(
            [quorum(OwnerSet::first(owners), need), Quorum::default()],
            events,
        )
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
            let older = quorum(set(&[1, 2, 3]), 2);
            let newer = quorum(set(newer), *need);
            assert_eq!(
                play_on([older, newer], events),
                *steps,
                "{newer:?} {events:?}"
            );
        }
    }

    #[test]
    fn up_to_fourteen_owners_are_told_apart_and_the_layout_that_lacks_most_is_named() {
        let older = quorum(OwnerSet::first(7), 4);
        let newer = quorum(set(&[8, 9, 10, 11, 12, 13, 14]), 4);
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

    /// One step of a history with fallbacks: `Ack` and `Fail` of a place, or `Hint(fallback, owner)`.
    enum Event {
        Ack(usize),
        Fail(usize),
        Hint(usize, usize),
    }

    #[test]
    fn hints_count_beside_the_owners_unless_the_write_is_strict() {
        use Event::*;
        // Owners 1, 2, 3; fallbacks from 4 on. What the last step of each is, loosely and strictly.
        let table: &[(u32, &[Event], PutStep, PutStep)] = &[
            // Two of three are down from the start.
            (
                2,
                &[Hint(4, 2), Fail(2), Hint(5, 3), Fail(3), Ack(1), Ack(5)],
                Acknowledged,
                Unknown,
            ),
            // A hint for a strict write is waited for by nobody.
            (
                2,
                &[Hint(4, 3), Fail(3), Ack(1), Ack(4)],
                Acknowledged,
                Wait,
            ),
            (
                2,
                &[Hint(4, 3), Fail(3), Ack(4), Ack(2), Ack(1)],
                Acknowledged,
                Acknowledged,
            ),
            // An owner and its fallback are two nodes.
            (2, &[Hint(4, 3), Ack(3), Ack(4)], Acknowledged, Wait),
            (3, &[Hint(4, 3), Ack(3), Ack(4), Ack(1)], Acknowledged, Wait),
            // A fallback that fails is as good as none, unless another comes in its place.
            (
                2,
                &[Hint(4, 2), Fail(2), Fail(4), Fail(3)],
                Unknown,
                Unknown,
            ),
            (
                2,
                &[
                    Hint(4, 2),
                    Fail(2),
                    Hint(5, 4),
                    Fail(4),
                    Fail(3),
                    Ack(1),
                    Ack(5),
                ],
                Acknowledged,
                Unknown,
            ),
        ];
        for (number, (need, events, loose, strictly)) in table.iter().enumerate() {
            for (strict, last) in [(false, loose), (true, strictly)] {
                let mut put = Put::new([quorum(OwnerSet::first(3), *need), Quorum::default()]);
                let mut step = Wait;
                for event in *events {
                    match event {
                        Ack(place) => step = put.acknowledge(place - 1),
                        Fail(place) => step = put.fail(place - 1),
                        Hint(fallback, owner) => put.add_fallback(fallback - 1, owner - 1, strict),
                    }
                }
                assert_eq!(step, *last, "row {number}, strict {strict}");
            }
        }
    }

    #[test]
    fn a_hint_counts_in_the_layouts_of_the_owner_that_it_is_for_and_is_told_apart() {
        // 1, 2, 3 by the older layout; 1, 4, 5 by the newer. 6 holds a hint for 3, 7 one for 1.
        let (older, newer) = (quorum(set(&[1, 2, 3]), 2), quorum(set(&[1, 4, 5]), 2));
        let mut put = Put::new([older, newer]);
        put.add_fallback(5, 2, false);
        put.add_fallback(6, 0, false);
        for (place, step) in [(5, Wait), (6, Wait), (3, Acknowledged)] {
            assert_eq!(put.acknowledge(place), step, "{place}");
        }
        assert_eq!((put.acks(), put.hints()), (3, 2));
        assert!(!put.is_settled());
        for place in [0, 1, 2, 4] {
            assert_eq!(put.fail(place), Acknowledged);
        }
        assert!(put.is_settled());

        let mut strict = Put::new([older, Quorum::default()]);
        strict.add_fallback(5, 2, true);
        strict.acknowledge(5);
        strict.acknowledge(0);
        assert_eq!((strict.acks(), strict.hints()), (1, 0));
        assert_eq!(strict.acknowledge(1), Acknowledged);
        assert!(!strict.is_settled());
    }
}
