//! What a change of layout moves.
//!
//! *Invariant I6:* only the difference of two placements moves data, so a plan can be counted before it is committed.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    id::{PartitionId, PlacementId},
    layout::Layout,
    placement::Placement,
};

/// What one member gets and gives up.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MemberMoves {
    /// Partitions that it owns in the new layout and did not own in the old.
    pub acquired: u32,
    /// Partitions that it owned in the old layout and does not own in the new.
    pub released: u32,
    /// How many more partitions the new layout's shares give it, at least 0: what it acquires ideally.
    pub fair_share: f64,
}

/// What a change of layout moves, by placement id: a replaced node, which keeps its placement id, is the same member.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Moves {
    /// Every member of either layout.
    pub members: BTreeMap<PlacementId, MemberMoves>,
}

impl Moves {
    /// How many copies of partitions move: the sum of what members acquire.
    pub fn total(&self) -> u32 {
        self.members.values().map(|member| member.acquired).sum()
    }

    /// How many copies any placement with the same shares would have to move.
    pub fn fair_share(&self) -> f64 {
        self.members.values().map(|member| member.fair_share).sum()
    }

    /// How many partitions the member acquires; 0 for one that is in neither layout.
    pub fn acquired(&self, member: PlacementId) -> u32 {
        self.members
            .get(&member)
            .map_or(0, |member| member.acquired)
    }
}

/// What moves when the old layout gives way to the new one.
///
/// # Panics
/// When the two have different numbers of partitions: Q is fixed for the life of a cluster.
pub fn moved(old: (&Layout, &Placement), new: (&Layout, &Placement)) -> Moves {
    assert_eq!(
        old.0.partitions(),
        new.0.partitions(),
        "Q is fixed for the life of a cluster"
    );
    let mut moves = Moves::default();
    for (index, member) in old.0.members().iter().enumerate() {
        moves
            .members
            .entry(member.placement_id)
            .or_default()
            .fair_share = -old.1.target(index);
    }
    for (index, member) in new.0.members().iter().enumerate() {
        moves
            .members
            .entry(member.placement_id)
            .or_default()
            .fair_share += new.1.target(index);
    }
    for member in moves.members.values_mut() {
        member.fair_share = member.fair_share.max(0.0);
    }
    for partition in new.0.partition_ids() {
        let (before, after) = (owners(old, partition), owners(new, partition));
        for &acquirer in after.difference(&before) {
            moves.members.entry(acquirer).or_default().acquired += 1;
        }
        for &releaser in before.difference(&after) {
            moves.members.entry(releaser).or_default().released += 1;
        }
    }
    moves
}

fn owners(
    (layout, placement): (&Layout, &Placement),
    partition: PartitionId,
) -> BTreeSet<PlacementId> {
    let owners = placement.owners(partition).iter();
    owners
        .map(|&owner| layout.members()[usize::from(owner)].placement_id)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Kind, sized};

    fn members_of(count: u32) -> Layout {
        sized(64, 2, Kind::Equal.members(0, count))
    }

    fn between(old: &Layout, new: &Layout) -> Moves {
        let place = |layout| Placement::compute(layout).expect("small enough");
        moved((old, &place(old)), (new, &place(new)))
    }

    #[test]
    fn a_second_member_gets_a_copy_of_everything() {
        let moves = between(&members_of(1), &members_of(2));
        assert_eq!((moves.total(), moves.fair_share()), (64, 64.0));
        let newcomer = Kind::Equal.member(0, 1).placement_id;
        assert_eq!(
            (moves.acquired(newcomer), moves.members[&newcomer].released),
            (64, 0)
        );
    }

    #[test]
    fn what_is_acquired_was_released() {
        let (old, new) = (members_of(5), members_of(6));
        let (join, leave) = (between(&old, &new), between(&new, &old));
        // As many owners before as after, so every copy that comes to one leaves another, and back again.
        for moves in [&join, &leave] {
            assert_eq!(moves.members.len(), 6);
            assert_eq!(
                moves.total(),
                moves.members.values().map(|member| member.released).sum()
            );
        }
        for (id, member) in &join.members {
            assert_eq!(
                (member.acquired, member.released),
                (leave.members[id].released, leave.members[id].acquired)
            );
        }
        assert!((join.fair_share() - 128.0 / 6.0).abs() < 1e-6);
    }

    #[test]
    fn no_change_moves_nothing() {
        let layout = members_of(4);
        let moves = between(&layout, &layout);
        assert_eq!((moves.total(), moves.fair_share()), (0, 0.0));
        assert_eq!(moves.acquired(PlacementId(0)), 0);
    }
}
