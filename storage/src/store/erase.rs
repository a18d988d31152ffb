//! Erasing a partition: before it is acquired anew, or once no layout gives it to this node. Keeps I2: every key goes by an
//! entry of the log, in its order, so what is merged after the erasing stays, through drains and crashes.
//!
//! A crash in between leaves some keys. That is harmless, because the partition does not count as synced meanwhile, and
//! erasing it again goes on with what is left.

use super::digest::token_range;
use super::{Store, StoreFull};
use crate::engine::EngineError;
use crate::key::Key;

/// One page of an erasing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Erased {
    /// Keys erased.
    pub keys: usize,
    /// Log sequence of the last of them: durable once [`Store::durable`] reaches it. 0: there was none.
    pub sequence: u64,
    /// The key to go on after; `None`: the partition holds nothing any more.
    pub next: Option<Key>,
}

/// Why an erasing does not go on. What was erased before stays so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EraseError {
    /// No room in log or table for now: go on from where it was.
    #[error(transparent)]
    Full(#[from] StoreFull),
    /// The engine is not to be used again, the process has to end.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The partition's absent list could not be dropped. If nobody knows what is on disk, the
    /// [identity](crate::identity::IdentityFile::failure) says that the process has to end; else go on from where it was.
    #[error("{0}")]
    Slot(String),
}

/// Bytes of records that one page of an erasing reads, give or take one.
const PAGE_BYTES_MAX: usize = 1 << 20;

impl Store {
    /// Erases keys of a partition after `after` (or from its beginning), at most `keys_max` of them; before the first, drops its
    /// absent list, durably. Whoever calls it sees to it that nothing is written to the partition meanwhile.
    ///
    /// Blocks: to be run on the engine pool.
    ///
    /// # Errors
    /// [`EraseError`].
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn erase_page(
        &self,
        partition: u32,
        after: Option<&Key>,
        keys_max: usize,
    ) -> Result<Erased, EraseError> {
        let (first, last) = token_range(partition, self.inner.partitions);
        let (first, after) = after.map_or((first, None), |key| (key.token(), Some(key.framed())));
        if self.inner.reaper.is_listed(partition) {
            let dropped = self.drop_list(partition);
            dropped.map_err(|error| EraseError::Slot(error.to_string()))?;
        }
        let page = self.scan_all(first, after.map(|a| &a[..]), last, keys_max, PAGE_BYTES_MAX)?;
        let mut erased = Erased {
            next: page.next,
            ..Erased::default()
        };
        let found = page.records.iter().map(|(key, _)| key);
        for key in found.chain(&page.quarantined) {
            erased.sequence = self.erase(key)?.max(erased.sequence);
            erased.keys += 1;
        }
        Ok(erased)
    }

    /// Whether the partition holds nothing, as far as memory tells: copies that wait to be folded count as something, and so does
    /// an absent list.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn is_empty(&self, partition: u32) -> bool {
        if self.inner.reaper.is_listed(partition) {
            return false;
        }
        let now = self.partition_tree(partition);
        now.unfolded.is_empty() && now.tree.count() == 0
    }
}
