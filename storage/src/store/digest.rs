//! The Merkle tree of a partition as it is now: the kept tree of what the engine holds, plus the difference of each
//! entry that the engine does not hold yet. Keeps I5's ground: a tree says what reads would find.

use std::sync::Arc;

use super::changes::Root;
use super::rowio;
use super::table::{SHARDS, Table};
use super::{Read, Store};
use crate::engine::EngineError;
use crate::key::Key;
use crate::merkle::{BUCKETS, Tree};
use crate::mutants::{Mutant, is_planted};
use crate::record::NO_LEAF;

/// Times that a tree is looked at again after folding, until it is said to change too fast.
const FOLD_TRIES: usize = 3;

/// Bytes of records that one page of leaves reads, give or take one.
const LEAVES_BYTES_MAX: usize = 1 << 20;

/// A partition's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionTree {
    /// The tree, with every entry that was whole.
    pub tree: Tree,
    /// Keys that the tree has as the engine has them, while copies from peers wait to be folded in, or while it is not known
    /// whether they are the tombstones that are absent: [`Store::load`] them and ask again. Empty: the tree is exact.
    pub unfolded: Vec<Key>,
}

/// How many copies from peers may still be folded in one turn (I7): each is a read of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Folds(pub usize);

/// One page of the leaves of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaves {
    /// Keys with their leaves, in key order. Each record was read whole and passed its verification.
    pub leaves: Vec<(Key, u64)>,
    /// The key to go on after; `None`: all is said.
    pub next: Option<Key>,
}

impl Store {
    /// How often this partition has changed since the start: while it stays the same, so does its root.
    ///
    /// # Panics
    /// If there is no such partition; so for all that take one.
    pub fn changes(&self, partition: u32) -> u64 {
        self.inner.table.changes().count(partition)
    }

    /// The root of a partition, exactly as it is, computed only if it has changed since the last time. `None`: more copies wait
    /// to be folded than `folds` has left, or more come than are folded; it gets nearer each time.
    ///
    /// Blocks: to be run on the engine pool.
    ///
    /// # Errors
    /// [`EngineError`]: the engine is not to be used again, the process has to end.
    pub fn root(&self, partition: u32, folds: &mut Folds) -> Result<Option<Root>, EngineError> {
        if let Some(root) = self.inner.table.changes().root(partition) {
            return Ok(Some(root));
        }
        let tree = self.exact_tree(partition, folds)?;
        Ok(tree.map(|tree| Root {
            hash: tree.root(),
            keys: tree.count(),
        }))
    }

    /// The tree of a partition with every copy folded in; `None` as of [`Self::root`], which it also saves the work.
    ///
    /// Blocks: to be run on the engine pool.
    ///
    /// # Errors
    /// As of [`Self::root`].
    pub fn exact_tree(
        &self,
        partition: u32,
        folds: &mut Folds,
    ) -> Result<Option<Tree>, EngineError> {
        for _ in 0..FOLD_TRIES {
            let (now, count) = self.tree_and_count(partition);
            if now.unfolded.is_empty() {
                let (hash, keys) = (now.tree.root(), now.tree.count());
                let root = Root { hash, keys };
                self.inner.table.changes().keep(partition, count, root);
                return Ok(Some(now.tree));
            }
            let some = now.unfolded.len().min(folds.0);
            self.load(&now.unfolded[..some])?;
            folds.0 -= some;
            if some < now.unfolded.len() {
                break;
            }
        }
        Ok(None)
    }

    /// A page of the leaves in those of a partition's buckets whose bits are set, after `after` (or from the beginning); at most
    /// `keys_max` of them. What is damaged here is not among them.
    ///
    /// Blocks: to be run on the engine pool. A key changed while the page is made may be seen old or new.
    ///
    /// # Errors
    /// As of [`Self::root`].
    pub fn leaves(
        &self,
        partition: u32,
        buckets: u64,
        after: Option<&Key>,
        keys_max: usize,
    ) -> Result<Leaves, EngineError> {
        let mut page = Leaves::default();
        let mut after = after.cloned();
        for bucket in (0..BUCKETS).filter(|bucket| buckets >> bucket & 1 == 1) {
            let (mut first, last) = self.bucket_range(partition, bucket);
            if let Some(key) = &after {
                if key.token() > last {
                    continue;
                }
                // One of an earlier bucket: this one is to be said from its beginning.
                after.take_if(|key| key.token() < first);
            }
            first = after.as_ref().map_or(first, Key::token);
            let from = after.take();
            let room = keys_max.saturating_sub(page.leaves.len()).max(1);
            let framed = from.as_ref().map(|key| &key.framed()[..]);
            let found = self.scan(first, framed, last, room, LEAVES_BYTES_MAX)?;
            let leaves = found.records.into_iter();
            page.leaves
                .extend(leaves.map(|(key, record)| (key, record.leaf())));
            if is_planted(Mutant::ShipCorrupt) {
                page.leaves.extend(self.corrupt(&found.quarantined));
                page.leaves.sort();
            }
            page.next = found.next;
            if page.next.is_some() || page.leaves.len() >= keys_max {
                page.next = page.next.or(page.leaves.last().map(|(key, _)| key.clone()));
                break;
            }
        }
        Ok(page)
    }

    /// Reads keys through to the engine, to send them to others: as [`Self::load`], which verifies what it reads; of absent
    /// tombstones nothing.
    ///
    /// # Errors
    /// As of [`Self::load`].
    pub fn load_to_send(&self, keys: &[Key]) -> Result<Vec<Read>, EngineError> {
        let mut reads = self.load(keys)?;
        for (key, read) in keys.iter().zip(&mut reads) {
            if let Read::Found(record) = read
                && self.is_absent(key, record.leaf())
            {
                *record = self.inner.nothing(key);
            }
        }
        if is_planted(Mutant::ShipCorrupt) {
            for (key, read) in keys.iter().zip(&mut reads) {
                if matches!(read, Read::Quarantined)
                    && let Some(record) = rowio::read_as_it_is(&self.inner.engine, key)
                {
                    *read = Read::Found(Arc::new(record));
                }
            }
        }
        Ok(reads)
    }

    /// Keys with the leaves that their damaged records would have: for a planted bug.
    fn corrupt(&self, keys: &[Key]) -> Vec<(Key, u64)> {
        let read = |key: &Key| rowio::read_as_it_is(&self.inner.engine, key);
        let leaves = keys
            .iter()
            .filter_map(|k| Some((k.clone(), read(k)?.leaf())));
        leaves.collect()
    }

    /// First and last token of a bucket.
    fn bucket_range(&self, partition: u32, bucket: usize) -> (u64, u64) {
        let (first, last) = token_range(partition, self.inner.partitions);
        let width = ((u128::from(last - first) + 1) / BUCKETS as u128) as u64;
        let first = first + width * bucket as u64;
        (first, first + (width - 1))
    }

    /// The tree of a partition at this moment. Touches memory only.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn partition_tree(&self, partition: u32) -> PartitionTree {
        self.tree_and_count(partition).0
    }

    /// The same, and how many changes there were until then.
    fn tree_and_count(&self, partition: u32) -> (PartitionTree, u64) {
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
        if let Some(list) = inner.reaper.list(partition) {
            let shard_of =
                |key: &Key| &shards[Table::shard_of(key.token()) - Table::shard_of(first)];
            for tomb in &list.tombs {
                match shard_of(&tomb.key).get(&tomb.key) {
                    Some(entry) if entry.slot.whole().is_some() || entry.dirty != 0 => {
                        let whole = entry.slot.whole().filter(|_| entry.base_leaf.is_some());
                        if whole.is_some_and(|record| record.leaf() == tomb.leaf) {
                            let bucket = bucket_of(tomb.key.token(), inner.partitions);
                            tree.apply(bucket, tomb.leaf, NO_LEAF);
                        }
                    }
                    _ if inner.is_quarantined(&tomb.key) => {}
                    _ => unfolded.push(tomb.key.clone()),
                }
            }
        }
        let count = inner.table.changes().count(partition);
        (PartitionTree { tree, unfolded }, count)
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
pub(super) fn bucket_of(token: u64, partitions: u32) -> usize {
    ((token << partitions.trailing_zeros()) >> (64 - BUCKETS.trailing_zeros())) as usize
}
