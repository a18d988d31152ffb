//! Reading the engine through, to find damage before somebody needs the record: copies rot unseen, and the last good one with them.
//! Keeps "what cannot be verified is not served": what fails is rewritten from memory or quarantined, as by any other read.
//!
//! It reads rows, not keys: a record that the table has cached is verified, too, and so are chunks.

use bytes::Bytes;

use super::rowio;
use super::settle::Damage;
use super::{Inner, Store};
use crate::codec::rows::{self, RowKind, Split};
use crate::engine::{Engine, EngineError};
use crate::key::Key;

/// Rows that one page reads at most.
pub const SCRUB_ROWS_MAX: usize = 4_096;

/// Chunk rows without a head that wait to be removed, at most; more are found again by the next pass.
pub(super) const ORPHANS_MAX: usize = 4_096;

/// What one page of a scrub came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Records that were read and verified.
    pub records: u64,
    /// Bytes of rows that were read.
    pub bytes: u64,
    /// Records that failed and are quarantined now.
    pub quarantined: u64,
    /// Records that failed and are written down anew, since memory had them.
    pub rewritten: u64,
    /// Chunk rows that belong to no record; the drain removes them.
    pub orphans: u64,
    /// The row to go on after; `None`: the engine is through.
    pub next: Option<Bytes>,
}

impl Store {
    /// Verifies the rows after `after` (all, from the first), until they have `bytes_max` bytes, and gives how far that is through
    /// the token range with `next`.
    ///
    /// Blocks: to be run on the engine pool.
    ///
    /// # Errors
    /// [`EngineError`]: the engine is not to be used again, the process has to end.
    pub fn scrub(&self, after: Option<&[u8]>, bytes_max: u64) -> Result<Scrubbed, EngineError> {
        let scrubbed = self.inner.scrub(after.unwrap_or_default(), bytes_max);
        scrubbed.inspect_err(|error| self.inner.engine_failed(error))
    }
}

impl Inner {
    fn scrub(&self, after: &[u8], bytes_max: u64) -> Result<Scrubbed, EngineError> {
        let mut page = Scrubbed::default();
        // The record whose rows are passing by, and where its chunks are.
        let mut current: Option<(Key, Option<Split>)> = None;
        let rows = self.engine.range(after, None);
        let rows = rows.skip_while(|row| row.as_ref().is_ok_and(|(row, _)| row[..] == *after));
        for (number, row) in rows.enumerate() {
            let (row, value) = row?;
            page.bytes += (row.len() + value.len()) as u64;
            match rows::parse_key(&row) {
                Some((key, RowKind::Head)) => {
                    self.scrub_record(&key, value.clone(), &mut page)?;
                    current = Some((key, rowio::split_of(value)));
                }
                Some((key, RowKind::Chunk { name, chunk })) => {
                    let split = match &current {
                        Some((head, split)) if *head == key => *split,
                        _ => self.head_of(&key)?,
                    };
                    if !names(split, name, chunk) {
                        self.note_orphan(row.clone(), &mut page);
                    }
                }
                // No row of a record: it has its own checksum, or nobody ever asks for it.
                None => {}
            }
            if page.bytes >= bytes_max.max(1) || number + 1 == SCRUB_ROWS_MAX {
                page.next = Some(row);
                return Ok(page);
            }
        }
        Ok(page)
    }

    fn scrub_record(&self, key: &Key, head: Bytes, page: &mut Scrubbed) -> Result<(), EngineError> {
        if rowio::decode(&self.engine, key, head)?.is_some() {
            page.records += 1;
            return Ok(());
        }
        // Damaged, or replaced by a drain since the iterator saw it.
        match self.found_damaged(key)? {
            Damage::None => {}
            Damage::Rewritten => page.rewritten += 1,
            Damage::Quarantined => page.quarantined += 1,
        }
        Ok(())
    }

    fn head_of(&self, key: &Key) -> Result<Option<Split>, EngineError> {
        let head = self.engine.get(&rows::head_key(key))?;
        Ok(head.and_then(rowio::split_of))
    }

    /// A drain writes chunks before their head: whether this one is needed is for the drain to say, when it is at rest.
    fn note_orphan(&self, row: Bytes, page: &mut Scrubbed) {
        let mut orphans = self.orphans();
        if orphans.len() < ORPHANS_MAX && orphans.insert(row) {
            page.orphans += 1;
        }
    }

    /// Removes a chunk row that no head names, unlogged: no read can tell whether it is there. To be called by the drain, between two
    /// drains. Gives whether there was one to be looked at.
    pub(super) fn remove_orphan(&self) -> Result<bool, EngineError> {
        let Some(row) = self.orphans().pop_first() else {
            return Ok(false);
        };
        if let Some((key, RowKind::Chunk { name, chunk })) = rows::parse_key(&row)
            && !names(self.head_of(&key)?, name, chunk)
        {
            self.engine.remove(&row)?;
        }
        Ok(true)
    }
}

fn names(split: Option<Split>, name: u64, chunk: u32) -> bool {
    split.is_some_and(|split| split.name == name && chunk < split.chunks)
}
