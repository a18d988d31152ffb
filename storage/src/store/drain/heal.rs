//! Rebuilds the kept tree of a partition in which damage was found, without the quarantined records. Keeps I5: a tree that
//! went on claiming a lost record would equal its peers' trees, and an exchange would call the partition clean.

use std::sync::PoisonError;

use super::{DrainFailed, Drainer};
use crate::codec::rows::{self, RowKind};
use crate::record::NO_LEAF;
use crate::store::digest::token_range;
use crate::store::rowio;
use crate::store::table::Table;

impl Drainer {
    /// A partition that waits to be healed.
    pub(super) fn damaged_partition(&self) -> Option<u32> {
        self.inner.heal.lock().unwrap_or_else(PoisonError::into_inner).pop_first()
    }

    /// Reads the partition's rows and replaces its tree. No drain is changing the engine meanwhile, since this is the
    /// drain.
    pub(super) fn heal(&self, partition: u32) -> Result<(), DrainFailed> {
        let inner = &*self.inner;
        let (first, last) = token_range(partition, inner.partitions);
        let end = last.checked_add(1).map(|token| token.to_be_bytes());
        let mut leaves = Vec::new();
        for row in inner.engine.range(&first.to_be_bytes(), end.as_ref().map(|end| &end[..])) {
            let (row, value) = row?;
            let Some((key, RowKind::Head)) = rows::parse_key(&row) else { continue };
            if inner.is_quarantined(&key) {
                continue;
            }
            match rowio::decode(&*inner.engine, &key, value)? {
                Some(record) => leaves.push((key.token(), record.leaf())),
                None => inner.quarantine(&key),
            }
        }
        let mut shards: Vec<_> =
            (Table::shard_of(first)..=Table::shard_of(last)).map(|shard| inner.table.lock(shard)).collect();
        for shard in &mut shards {
            let lost: Vec<_> = shard.iter().map(|(key, _)| key).filter(|key| inner.is_quarantined(key)).cloned().collect();
            for key in lost.iter().filter(|key| inner.partition_of(key.token()) == partition) {
                inner.table.change(shard, key, |entry| entry.base_leaf = Some(NO_LEAF));
            }
        }
        let mut forest = inner.forest();
        forest.clear(partition);
        for (token, leaf) in leaves {
            forest.apply(token, NO_LEAF, leaf);
        }
        Ok(())
    }
}
