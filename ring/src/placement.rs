//! Placement: which members own each partition, and in which order they are asked.
//!
//! *Invariant I6 (liveness moves no data):* a placement is a pure function of a layout's members, Q and N. It is
//! computed in integers, so that every machine finds the same; it depends on the set of members, never on the order in
//! which they arrived, and on placement ids rather than names, so that replacing a node moves nothing else.
//!
//! Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam 2017), in five steps, one module each:
//! `walk` puts the virtual nodes on the ring, `zones` says how many owners of a partition a zone may hold, `shares` how
//! many partitions a member may own, `assign` takes pairs of partition and member by ascending distance, and `order`
//! spreads the first places.
//!
//! A join or a leave moves little more than its fair share as long as Q is about members² or more: 1.05 times at 10
//! members of 1,024 partitions, 1.15 at 30 (1.25 for unlucky ids), 1.1 to 1.2 at 60 of 4,096 or 100 of 16,384. Past
//! that it grows, to 1.5 at 60 members of 1,024 partitions and 2 to 3.5 at 100: loads are then so few whole partitions
//! that most members are at their limits, and what those shed moves between them. That is the price of a placement
//! that knows the set of members but not what it was before: with loads exactly tight, no such function has a bounded
//! cost of change (Berger, Kuszmaul, Polak, Tidor and Wein, "Memoryless Worker-Task Assignment with Polylogarithmic
//! Switching Cost", 2022). It also moves up to 1.5 times the fair share while there are more zones than replicas.

mod assign;
mod order;
mod shares;
mod walk;
mod zones;

#[cfg(test)]
mod tests;

use crate::{hash::Token, id::PartitionId, layout::Layout};
use assign::Assignment;
pub use walk::vnode_tokens;
use zones::Zones;

/// The most (partition, member) pairs that a placement is computed from: 256 MiB while it is.
pub const PAIRS_MAX: u64 = 1 << 24;

/// Of so many members for each partition the distances are put in order at first.
const NEAR_MEMBERS: usize = 16;

/// The owners and fallbacks of every partition of one layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    replicas: usize,
    /// Owners as indices into the layout's members: N′ for each partition, in preference order.
    owners: Vec<u16>,
    /// Of each member: how many partitions it owns.
    owned: Vec<u32>,
    /// Of each member: how many partitions it is the first owner of.
    led: Vec<u32>,
    /// Of each member: what it should own, in units of 2^-32 partitions.
    targets: Vec<u64>,
    /// Of each member: its tokens, ascending.
    tokens: Vec<Vec<Token>>,
}

/// Why a placement cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// Partitions times members is over [`PAIRS_MAX`].
    #[error(
        "{partitions} partitions on {members} members are too many: at most {PAIRS_MAX} pairs are placed"
    )]
    TooLarge {
        /// The layout's partitions.
        partitions: u32,
        /// The layout's members.
        members: usize,
    },
}

impl Placement {
    /// Computes the owners of every partition.
    ///
    /// # Errors
    /// [`PlacementError::TooLarge`] when the layout has more than [`PAIRS_MAX`] pairs of partition and member.
    pub fn compute(layout: &Layout) -> Result<Placement, PlacementError> {
        let (partitions, replicas, members) = (
            layout.partitions(),
            layout.effective_replicas(),
            layout.members(),
        );
        if u64::from(partitions) * members.len() as u64 > PAIRS_MAX {
            return Err(PlacementError::TooLarge {
                partitions,
                members: members.len(),
            });
        }
        // Ranks are places in the order of placement ids: what breaks a tie must not depend on names.
        let mut index_of_rank: Vec<u16> = (0..).take(members.len()).collect();
        index_of_rank.sort_by_key(|&index| members[usize::from(index)].placement_id);
        let ranked = |rank: usize| &members[usize::from(index_of_rank[rank])];

        let names: Vec<&str> = (0..members.len())
            .map(|rank| ranked(rank).zone.as_str())
            .collect();
        let weights: Vec<u32> = (0..members.len()).map(|rank| ranked(rank).tokens).collect();
        let tokens: Vec<Vec<Token>> = (0..members.len())
            .map(|rank| walk::vnode_tokens(ranked(rank).placement_id, ranked(rank).tokens))
            .collect();
        let zones = Zones::new(&names, replicas);
        let targets = shares::targets(partitions, replicas, &weights, &zones);
        let limits = shares::limits(partitions, replicas, &targets, &zones);
        let mut owners = assign(layout, &tokens, &limits, &zones);
        order::balance_first_places(&mut owners, members.len());

        let mut placement = Placement {
            replicas: replicas as usize,
            owners: owners
                .into_iter()
                .flatten()
                .map(|rank| index_of_rank[usize::from(rank)])
                .collect(),
            owned: vec![0; members.len()],
            led: vec![0; members.len()],
            targets: vec![0; members.len()],
            tokens: vec![Vec::new(); members.len()],
        };
        for (rank, (target, tokens)) in targets.into_iter().zip(tokens).enumerate() {
            placement.targets[usize::from(index_of_rank[rank])] = target;
            placement.tokens[usize::from(index_of_rank[rank])] = tokens;
        }
        for owners in placement.owners.chunks_exact(placement.replicas) {
            placement.led[usize::from(owners[0])] += 1;
            owners
                .iter()
                .for_each(|&owner| placement.owned[usize::from(owner)] += 1);
        }
        Ok(placement)
    }

    /// Q: how many partitions are placed.
    pub fn partitions(&self) -> u32 {
        u32::try_from(self.owners.len() / self.replicas).expect("at most 2^16 partitions")
    }

    /// The owners of a partition in preference order: N′ distinct indices into the layout's members.
    ///
    /// # Panics
    /// When the layout has no such partition.
    pub fn owners(&self, partition: PartitionId) -> &[u16] {
        &self.owners[partition.index() * self.replicas..][..self.replicas]
    }

    /// Whether the member of that index owns the partition.
    pub fn is_owner(&self, partition: PartitionId, member: usize) -> bool {
        self.owners(partition)
            .iter()
            .any(|&owner| usize::from(owner) == member)
    }

    /// The fallbacks of a partition: all members that do not own it, nearest first on the clockwise walk.
    ///
    /// The walk differs from partition to partition, so a dead member's hints spread over all others.
    pub fn fallbacks(&self, partition: PartitionId) -> Vec<u16> {
        let bits = self.partitions().trailing_zeros();
        let start = Token(u64::from(partition.0) << (u64::BITS - bits));
        let owners = self.owners(partition);
        let mut walk: Vec<(u64, u16)> = (0..)
            .zip(&self.tokens)
            .filter(|(member, _)| !owners.contains(member))
            .map(|(member, tokens)| (walk::distance(tokens, start), member))
            .collect();
        walk.sort_unstable();
        walk.into_iter().map(|(_, member)| member).collect()
    }

    /// The partitions that a member owns, ascending.
    pub fn owned_by(&self, member: usize) -> impl Iterator<Item = PartitionId> {
        (0..self.partitions())
            .map(PartitionId)
            .filter(move |&partition| self.is_owner(partition, member))
    }

    /// How many partitions a member owns.
    pub fn owned_count(&self, member: usize) -> usize {
        self.owned[member] as usize
    }

    /// How many partitions a member is the first owner of.
    pub fn first_count(&self, member: usize) -> usize {
        self.led[member] as usize
    }

    /// How many partitions a member should own by its capacity, as far as partitions and zones allow.
    pub fn target(&self, member: usize) -> f64 {
        self.targets[member] as f64 / 2_f64.powi(32)
    }

    /// The highest owned / target of all members: 1.0 is perfect balance, and no more than 1.03 unless whole partitions
    /// are too coarse for it (targets under 34).
    pub fn peak_over_target(&self) -> f64 {
        (0..self.owned.len())
            .map(|m| self.owned_count(m) as f64 / self.target(m))
            .fold(0.0, f64::max)
    }
}

/// The owners of each partition as ranks, nearest first.
fn assign(layout: &Layout, tokens: &[Vec<Token>], limits: &[u32], zones: &Zones) -> Vec<Vec<u16>> {
    let starts = || {
        layout
            .partition_ids()
            .map(|partition| layout.token_range(partition).0)
    };
    let mut pairs: Vec<(u64, u32, u16)> =
        Vec::with_capacity(tokens.len() * layout.partitions() as usize);
    for (rank, tokens) in (0..).zip(tokens) {
        let distances = walk::distances(tokens, starts());
        pairs.extend(
            (0..)
                .zip(distances)
                .map(|(partition, distance)| (distance, partition, rank)),
        );
    }
    let mut assignment = Assignment::new(
        layout.partitions(),
        layout.effective_replicas(),
        limits,
        zones,
    );
    // Ascending, but only as far as somebody lacks owners: most find theirs among the nearest few.
    let mut rest = &mut pairs[..];
    let mut near = tokens.len().min(NEAR_MEMBERS) * layout.partitions() as usize;
    while !rest.is_empty() {
        near = near.min(rest.len());
        rest.select_nth_unstable(near - 1);
        let (nearest, others) = rest.split_at_mut(near);
        nearest.sort_unstable();
        for &(_, partition, rank) in &*nearest {
            assignment.offer(partition, rank);
        }
        let open = retain(others, |&(_, partition, rank)| {
            assignment.may_still_take(partition, rank)
        });
        rest = &mut others[..open];
        near *= 2;
    }
    assignment.complete();
    let mut owners = assignment.owners;
    for (owners, start) in owners.iter_mut().zip(starts()) {
        owners.sort_by_key(|&rank| (walk::distance(&tokens[usize::from(rank)], start), rank));
    }
    owners
}

/// Brings what `keep` holds for to the front, in any order; returns how many.
fn retain<T>(items: &mut [T], keep: impl Fn(&T) -> bool) -> usize {
    let mut kept = 0;
    for place in 0..items.len() {
        if keep(&items[place]) {
            items.swap(kept, place);
            kept += 1;
        }
    }
    kept
}
