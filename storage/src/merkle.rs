//! Merkle trees, one per partition, two levels: 64 buckets under a root.
//!
//! Invariant (I5): a tree depends on the leaves in it and on nothing else, neither on order nor on history, so
//! equal partitions have equal roots on every node.

use xxhash_rust::xxh3::xxh3_64;

use crate::record::NO_LEAF;

/// The buckets of one tree.
pub const BUCKETS: usize = 64;
/// The most partitions of a cluster.
pub const PARTITIONS_MAX: u32 = 65_536;

const BUCKET_BITS: u32 = BUCKETS.trailing_zeros();

/// The tree of one partition: each bucket is the wrapping sum of the leaves whose tokens fall into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    buckets: [u64; BUCKETS],
    count: u32,
}

impl Tree {
    /// The tree of a partition that holds nothing.
    pub const EMPTY: Tree = Tree {
        buckets: [0; BUCKETS],
        count: 0,
    };

    /// A tree put together from what [`Self::buckets`] and [`Self::count`] gave.
    pub fn from_parts(buckets: [u64; BUCKETS], count: u32) -> Tree {
        Tree { buckets, count }
    }

    /// Replaces `old` by `new` in a bucket; [`NO_LEAF`] stands for nothing.
    ///
    /// A leaf may be taken out that was never put in: a damaged engine can hide a row from a scan and still find it by its
    /// key. Sum and count wrap then, and the root differs from the checkpoint's, as it should.
    pub fn apply(&mut self, bucket: usize, old: u64, new: u64) {
        let sum = &mut self.buckets[bucket];
        *sum = sum.wrapping_sub(old).wrapping_add(new);
        if old != NO_LEAF {
            self.count = self.count.wrapping_sub(1);
        }
        if new != NO_LEAF {
            self.count = self.count.wrapping_add(1);
        }
    }

    /// The hash over buckets and count.
    pub fn root(&self) -> u64 {
        let mut bytes = [0; 8 * BUCKETS + 4];
        for (slot, bucket) in bytes.chunks_exact_mut(8).zip(self.buckets) {
            slot.copy_from_slice(&bucket.to_le_bytes());
        }
        bytes[8 * BUCKETS..].copy_from_slice(&self.count.to_le_bytes());
        xxh3_64(&bytes)
    }

    /// The number of keys.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The buckets, by the six bits of the token after those of the partition.
    pub fn buckets(&self) -> &[u64; BUCKETS] {
        &self.buckets
    }
}

/// The trees of all partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forest {
    partition_bits: u32,
    trees: Vec<Tree>,
}

impl Forest {
    /// Empty trees.
    ///
    /// # Panics
    /// If `partitions` is not a power of two up to [`PARTITIONS_MAX`]: a layout was validated before.
    pub fn new(partitions: u32) -> Forest {
        assert!(
            partitions.is_power_of_two() && partitions <= PARTITIONS_MAX,
            "a layout has a power of two of partitions, up to {PARTITIONS_MAX}"
        );
        Forest {
            partition_bits: partitions.trailing_zeros(),
            trees: vec![Tree::EMPTY; partitions as usize],
        }
    }

    /// The partition of a token: its top bits.
    pub fn partition_of(&self, token: u64) -> u32 {
        // In two steps, since a shift by all 64 bits (one partition) is no shift.
        ((token >> 1) >> (63 - self.partition_bits)) as u32
    }

    /// Replaces the leaf of one key; [`NO_LEAF`] stands for nothing stored.
    pub fn apply(&mut self, token: u64, old: u64, new: u64) {
        let bucket = ((token << self.partition_bits) >> (64 - BUCKET_BITS)) as usize;
        let partition = self.partition_of(token) as usize;
        self.trees[partition].apply(bucket, old, new);
    }

    /// The root of a partition.
    ///
    /// # Panics
    /// If there is no such partition; so for all that take one.
    pub fn root(&self, partition: u32) -> u64 {
        self.tree(partition).root()
    }

    /// The number of keys of a partition.
    pub fn count(&self, partition: u32) -> u32 {
        self.tree(partition).count()
    }

    /// The tree of a partition.
    pub fn tree(&self, partition: u32) -> &Tree {
        &self.trees[partition as usize]
    }

    /// Forgets a partition.
    pub fn clear(&mut self, partition: u32) {
        self.trees[partition as usize] = Tree::EMPTY;
    }

    /// The number of partitions.
    pub fn partitions(&self) -> u32 {
        1 << self.partition_bits
    }

    /// The number of keys of all partitions.
    pub fn keys(&self) -> u64 {
        self.trees.iter().map(|tree| u64::from(tree.count)).sum()
    }

    /// Root and count of every partition, in order: what a checkpoint keeps.
    pub fn roots(&self) -> Vec<(u64, u32)> {
        self.trees
            .iter()
            .map(|tree| (tree.root(), tree.count))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A spread of tokens and leaves, the same every time.
    fn keys() -> Vec<(u64, u64)> {
        let hash = |n: u64| xxh3_64(&n.to_le_bytes());
        (0..5_000)
            .map(|n| (hash(n), hash(n ^ 0xffff_0000) | 1))
            .collect()
    }

    #[test]
    fn a_leaf_that_was_never_put_in_leaves_another_root() {
        let mut forest = Forest::new(2);
        forest.apply(1, 7, 9);
        let mut whole = Forest::new(2);
        whole.apply(1, NO_LEAF, 9);
        assert_ne!(forest.root(0), whole.root(0));
        assert_eq!(forest.root(1), whole.root(1));
    }

    #[test]
    fn the_order_of_changes_leaves_no_trace() {
        let mut forward = Forest::new(16);
        let mut detour = Forest::new(16);
        keys()
            .iter()
            .for_each(|&(token, leaf)| forward.apply(token, NO_LEAF, leaf));
        for &(token, leaf) in keys().iter().rev() {
            detour.apply(token, NO_LEAF, leaf ^ 2);
            detour.apply(token, leaf ^ 2, leaf);
        }
        assert_eq!(forward, detour);
        assert_eq!(forward.roots(), detour.roots());
        assert_eq!(forward.keys(), 5_000);

        keys()
            .iter()
            .for_each(|&(token, leaf)| detour.apply(token, leaf, NO_LEAF));
        assert_eq!(detour, Forest::new(16));
    }

    #[test]
    fn one_key_changes_one_bucket_of_one_partition() {
        for partitions in [1, 2, 1024, 65_536] {
            let empty = Forest::new(partitions);
            for token in [0, 1, u64::MAX, 1 << 63, 0x0123_4567_89ab_cdef] {
                let mut forest = empty.clone();
                forest.apply(token, NO_LEAF, 9);
                let width = (u64::MAX / u64::from(partitions)).max(1);
                let partition = forest.partition_of(token);
                assert!(
                    u64::from(partition).abs_diff(token / width) <= 1,
                    "top bits"
                );
                let changed: Vec<u32> = (0..partitions)
                    .filter(|&p| forest.tree(p) != empty.tree(p))
                    .collect();
                assert_eq!(changed, [partition]);
                assert_ne!(forest.root(partition), empty.root(partition));
                assert_eq!(
                    forest
                        .tree(partition)
                        .buckets()
                        .iter()
                        .filter(|b| **b != 0)
                        .count(),
                    1
                );
                assert_eq!(forest.count(partition), 1);
                forest.clear(partition);
                assert_eq!(forest, empty);
            }
        }
    }

    #[test]
    fn buckets_are_the_bits_after_those_of_the_partition() {
        let mut forest = Forest::new(4);
        forest.apply(0b10_000011 << 56, NO_LEAF, 5);
        assert_eq!(forest.partition_of(0b10_000011 << 56), 2);
        assert_eq!(forest.tree(2).buckets()[3], 5);
    }

    #[test]
    fn the_count_is_part_of_the_root() {
        // Two leaves that cancel out in the sum are still two keys.
        let mut forest = Forest::new(2);
        let before = forest.root(0);
        forest.apply(0, NO_LEAF, 5);
        forest.apply(1, NO_LEAF, 5u64.wrapping_neg());
        assert_eq!(forest.tree(0).buckets(), Tree::EMPTY.buckets());
        assert_ne!(forest.root(0), before);
    }
}
