//! What a change of layouts gives to one node, and who had it before.
//!
//! *Invariant I6:* computed from two layouts alone.

use crate::{
    id::{NodeName, PartitionId, StoreId},
    layout::Layout,
    placement::Placement,
};

/// A partition that a node owns in the new layout and did not own in the old one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acquisition {
    /// The partition.
    pub partition: PartitionId,
    /// The stores of its old owners, in preference order.
    pub from: Vec<StoreId>,
}

/// What `new` gives the node `me` beyond `old`, in the order of the ring; nothing if it is in neither.
///
/// # Panics
/// When the two have different numbers of partitions: Q is fixed for the life of a cluster.
pub fn acquired(
    old: (&Layout, &Placement),
    new: (&Layout, &Placement),
    me: &NodeName,
) -> Vec<Acquisition> {
    assert_eq!(
        old.0.partitions(),
        new.0.partitions(),
        "Q is fixed for the life of a cluster"
    );
    let Some(mine) = new.0.index_of(me) else {
        return Vec::new();
    };
    let before = old.0.index_of(me);
    let news = |partition: &PartitionId| {
        new.1.is_owner(*partition, mine)
            && !before.is_some_and(|index| old.1.is_owner(*partition, index))
    };
    let partitions = new.0.partition_ids().filter(news);
    partitions
        .map(|partition| Acquisition {
            partition,
            from: stores(old, partition),
        })
        .collect()
}

fn stores((layout, placement): (&Layout, &Placement), partition: PartitionId) -> Vec<StoreId> {
    let owners = placement.owners(partition).iter();
    owners
        .map(|owner| layout.members()[usize::from(*owner)].store_id)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Kind, sized};

    #[test]
    fn what_each_acquires_is_what_moves() {
        let (old, new) = (
            sized(64, 3, Kind::Equal.members(0, 4)),
            sized(64, 3, Kind::Equal.members(0, 5)),
        );
        let place = |layout| Placement::compute(layout).expect("small enough");
        let (before, after) = (place(&old), place(&new));
        let moves = crate::moved((&old, &before), (&new, &after));
        for member in new.members() {
            let got = acquired((&old, &before), (&new, &after), &member.name);
            assert_eq!(got.len(), moves.acquired(member.placement_id) as usize);
            for acquisition in got {
                assert_eq!(acquisition.from.len(), 3);
                assert!(!acquisition.from.contains(&member.store_id));
            }
        }
        let gone = &new.members()[4].name;
        assert_eq!(acquired((&new, &after), (&old, &before), gone), []);
    }
}
