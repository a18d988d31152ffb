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

    /// Replaces `old` by `new` in a bucket; [`NO_LEAF`] stands for nothing.
    pub fn apply(&mut self, bucket: usize, old: u64, new: u64) {
        let sum = &mut self.buckets[bucket];
        *sum = sum.wrapping_sub(old).wrapping_add(new);
        if old != NO_LEAF {
            debug_assert!(self.count > 0, "a leaf is taken out that was never put in");
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
