//! The Merkle tree of a partition as it is now: the kept tree of what the engine holds, plus the difference of each
//! entry that the engine does not hold yet. Keeps I5's ground: a tree says what reads would find.

use super::Store;
use super::table::{SHARDS, Table};
use crate::key::Key;
use crate::merkle::{BUCKETS, Tree};

/// A partition's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionTree {
    /// The tree, with every entry that was whole.
    pub tree: Tree,
    /// Keys that the tree has as the engine has them, while copies from peers wait to be folded in: [`Store::load`]
    /// them and ask again. Empty: the tree is exact.
    pub unfolded: Vec<Key>,
}

impl Store {
    /// The tree of a partition at this moment. Touches memory only.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn partition_tree(&self, partition: u32) -> PartitionTree {
        let inner = &*self.inner;
        let (first, last) = token_range(partition, inner.partitions);
        // All shards of the partition at once, so that entries and kept tree belong together.
        let shards: Vec<_> = (Table::shard_of(first)..=Table::shard_of(last))
            .map(|shard| inner.table.lock(shard))
            .collect();
        debug_assert!(shards.len() <= SHARDS);
        let mut tree = inner.forest().tree(partition).clone();
        let mut unfolded = Vec::new();
        for (key, entry) in shards.iter().flat_map(|shard| shard.iter()) {
            if inner.partition_of(key.token()) != partition {
                continue;
            }
            match (entry.slot.whole(), entry.base_leaf) {
                (Some(record), Some(base)) => tree.apply(
                    bucket_of(key.token(), inner.partitions),
                    base,
                    record.leaf(),
                ),
                // A placeholder, or a key in quarantine: the engine's leaf stands.
                (None, _) if entry.dirty == 0 || inner.is_quarantined(key) => {}
                _ => unfolded.push(key.clone()),
            }
        }
        PartitionTree { tree, unfolded }
    }
}

/// First and last token of a partition.
pub(super) fn token_range(partition: u32, partitions: u32) -> (u64, u64) {
    assert!(
        partition < partitions,
        "there is no partition {partition} of {partitions}"
    );
    let width = (1_u128 << 64) / u128::from(partitions);
    let first = u128::from(partition) * width;
    ((first as u64), (first + width - 1) as u64)
}

/// The bucket of a token: the six bits after those of its partition.
fn bucket_of(token: u64, partitions: u32) -> usize {
    ((token << partitions.trailing_zeros()) >> (64 - BUCKETS.trailing_zeros())) as usize
}
