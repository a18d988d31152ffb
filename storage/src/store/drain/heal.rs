//! Rebuilds the kept tree of a partition in which damage was found, without the quarantined records. Keeps I5: a tree that
//! went on claiming a lost record would equal its peers' trees, and an exchange would call the partition clean.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use super::{DrainFailed, Drainer};
use crate::codec::rows::{self, RowKind};
use crate::key::Key;
use crate::record::NO_LEAF;
use crate::store::digest::token_range;
use crate::store::entry::Slot;
use crate::store::rowio;
use crate::store::table::Table;

impl Drainer {
    /// Takes out a partition that waits to be healed.
    pub(super) fn damaged_partition(&self) -> Option<u32> {
        self.inner
            .heal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_first()
    }

    /// Whether a partition waits to be healed.
    pub(super) fn is_damaged(&self) -> bool {
        !self
            .inner
            .heal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    /// Reads the partition's rows and replaces its tree. No drain is changing the engine meanwhile, since this is the
    /// drain.
    pub(super) fn heal(&self, partition: u32) -> Result<(), DrainFailed> {
        let inner = &*self.inner;
        let (first, last) = token_range(partition, inner.partitions);
        let end = rows::end_after(last);
        let mut leaves = BTreeMap::new();
        for row in inner.engine.range(&first.to_be_bytes(), Some(&end)) {
            let (row, value) = row?;
            let Some((key, RowKind::Head)) = rows::parse_key(&row) else {
                continue;
            };
            match rowio::decode(&*inner.engine, &key, value)? {
                Some(record) => drop(leaves.insert(key, record.leaf())),
                None => inner.quarantine(&key),
            }
        }
        let mut shards: Vec<_> = (Table::shard_of(first)..=Table::shard_of(last))
            .map(|shard| inner.table.lock(shard))
            .collect();
        for shard in &mut shards {
            let here = |key: &&Key| inner.partition_of(key.token()) == partition;
            let known: Vec<_> = shard
                .iter()
                .map(|(key, _)| key)
                .filter(here)
                .cloned()
                .collect();
            for key in known {
                let leaf = leaves.get(&key).copied().unwrap_or(NO_LEAF);
                let mut lost = None;
                inner.table.change(shard, &key, |entry| {
                    entry.base_leaf = Some(leaf);
                    // Memory alone has it now: evicted, it would be gone, and the tree would have changed.
                    let whole = entry.slot.whole();
                    let whole = whole.filter(|_| entry.dirty == 0 && entry.frozen.is_none());
                    lost = whole.filter(|record| record.leaf() != leaf).cloned();
                });
                if let Some(record) = lost {
                    let sequence = shard.get(&key).map_or(0, |entry| entry.sequence);
                    inner
                        .table
                        .write(shard, &key, Slot::Whole(record), sequence);
                }
            }
        }
        let mut forest = inner.forest();
        forest.clear(partition);
        for (key, leaf) in leaves {
            forest.apply(key.token(), NO_LEAF, leaf);
        }
        inner.table.changes().note_partition(partition);
        Ok(())
    }
}
