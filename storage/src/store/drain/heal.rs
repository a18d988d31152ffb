//! Rebuilds the kept tree of a partition in which damage was found, without the damaged records. Keeps I5: a tree that
//! went on claiming a lost record would equal its peers' trees, and an exchange would call the partition clean. What the tree
//! loses by it is noted as [evidence](crate::store::evidence) of what was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{DrainFailed, Drainer};
use crate::codec::rows::{self, RowKind};
use crate::engine::{Engine, EngineError};
use crate::key::Key;
use crate::merkle::Tree;
use crate::record::NO_LEAF;
use crate::store::digest::{bucket_of, token_range};
use crate::store::entry::Slot;
use crate::store::evidence::Loss;
use crate::store::rowio;
use crate::store::table::Table;

/// What the rows of a partition are.
struct Rows {
    /// The leaves of what verified.
    leaves: BTreeMap<Key, u64>,
    damaged: BTreeSet<Key>,
}

impl Drainer {
    /// Takes out a partition that waits to be healed.
    pub(super) fn damaged_partition(&self) -> Option<u32> {
        self.inner.heal_queue().pop_first()
    }

    /// Whether a partition waits to be healed.
    pub(super) fn is_damaged(&self) -> bool {
        !self.inner.heal_queue().is_empty()
    }

    /// Reads the partition's rows and replaces its tree. No drain is changing the engine meanwhile, since this is the
    /// drain.
    pub(super) fn heal(&self, partition: u32) -> Result<(), DrainFailed> {
        let inner = &*self.inner;
        let rows = self.read_rows(partition)?;
        for key in &rows.damaged {
            self.judge(key)?;
        }
        let before = inner.forest().tree(partition).clone();
        let loss = self.rebuild(partition, rows, &before);
        let mut evidence = inner.evidence.lock();
        if loss.rest != before {
            evidence.add(partition, loss);
        }
        Ok(evidence.write()?)
    }

    fn read_rows(&self, partition: u32) -> Result<Rows, EngineError> {
        let engine = &self.inner.engine;
        let (first, last) = token_range(partition, self.inner.partitions);
        let end = rows::end_after(last);
        let mut rows = Rows {
            leaves: BTreeMap::new(),
            damaged: BTreeSet::new(),
        };
        for row in engine.range(&first.to_be_bytes(), Some(&end)) {
            let (row, value) = row?;
            let Some((key, RowKind::Head)) = rows::parse_key(&row) else {
                continue;
            };
            match rowio::decode(engine, &key, value)? {
                Some(record) => drop(rows.leaves.insert(key, record.leaf())),
                None => drop(rows.damaged.insert(key)),
            }
        }
        Ok(rows)
    }

    /// Quarantines a key, unless the table has it whole: then the row is about to be replaced, or will be.
    fn judge(&self, key: &Key) -> Result<(), EngineError> {
        let inner = &*self.inner;
        let is_whole = {
            let shard = inner.table.lock_key(key);
            shard
                .get(key)
                .is_some_and(|entry| entry.slot.whole().is_some())
        };
        match is_whole {
            true => inner.found_damaged(key).map(drop),
            false => {
                inner.quarantine(key);
                Ok(())
            }
        }
    }

    /// Replaces the kept tree, and gives what is lost by it.
    fn rebuild(&self, partition: u32, rows: Rows, before: &Tree) -> Loss {
        let inner = &*self.inner;
        let (first, last) = token_range(partition, inner.partitions);
        let mut shards: Vec<_> = (Table::shard_of(first)..=Table::shard_of(last))
            .map(|shard| inner.table.lock(shard))
            .collect();
        let new = rows.damaged.iter();
        let new = new.filter(|key| !inner.quarantine.is_left_out(key));
        let mut lost: BTreeSet<Key> = new.cloned().collect();
        // Leaves of rows that are not as they were, and of what memory has instead.
        let mut in_memory: Vec<(Key, u64, u64)> = Vec::new();
        for shard in &mut shards {
            let here = |key: &&Key| inner.partition_of(key.token()) == partition;
            let known = shard.iter().map(|(key, _)| key).filter(here);
            let known: Vec<_> = known.cloned().collect();
            for key in known {
                let leaf = rows.leaves.get(&key).copied().unwrap_or(NO_LEAF);
                let mut unwritten = None;
                inner.table.change(shard, &key, |entry| {
                    let base = entry.base_leaf.replace(leaf);
                    let Some(whole) = entry.slot.whole() else {
                        return;
                    };
                    // Memory has it: so it is not lost.
                    if let Some(base) = base.filter(|base| *base != leaf) {
                        lost.remove(&key);
                        in_memory.push((key.clone(), leaf, base));
                    }
                    // Memory alone has it now: evicted, it would be gone, and the tree would have changed.
                    let is_at_rest = entry.dirty == 0 && entry.frozen.is_none();
                    unwritten = (is_at_rest && whole.leaf() != leaf).then(|| Arc::clone(whole));
                });
                if let Some(record) = unwritten {
                    let sequence = shard.get(&key).map_or(0, |entry| entry.sequence);
                    inner
                        .table
                        .write(shard, &key, Slot::Whole(record), sequence);
                }
            }
        }
        let mut forest = inner.forest();
        forest.clear(partition);
        for (key, leaf) in &rows.leaves {
            forest.apply(key.token(), NO_LEAF, *leaf);
        }
        let mut rest = forest.tree(partition).clone();
        for (key, now, base) in in_memory {
            rest.apply(bucket_of(key.token(), inner.partitions), now, base);
        }
        inner.table.changes().note_partition(partition);
        let verifies = |key: &Key| rows.leaves.contains_key(key);
        inner
            .quarantine
            .leave_out(rows.damaged.into_iter(), verifies);
        Loss {
            root: before.root(),
            count: before.count(),
            rest,
            keys: lost.into_iter().collect(),
        }
    }
}
