//! One file of a disk: what is synced of it, and what came since.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::chance::Chance;

/// How much of the unsynced survives a cut.
#[derive(Debug, Clone, Copy)]
pub enum Kept {
    Nothing,
    Everything,
    /// Each with this chance, in percent.
    Some(usize),
}

/// A change that is not synced.
#[derive(Debug, Clone)]
pub enum Pending {
    Write { offset: usize, bytes: Arc<[u8]> },
    Resize(usize),
}

/// One file.
#[derive(Debug, Clone, Default)]
pub struct File {
    pub synced: Vec<u8>,
    /// Since then, in order.
    pub pending: Vec<Pending>,
}

impl Kept {
    /// How many of `count` changes in a row arrived.
    pub fn prefix(self, count: usize, chance: &mut Chance) -> usize {
        match self {
            Kept::Nothing => 0,
            Kept::Everything => count,
            Kept::Some(percent) if chance.percent(percent) => 1 + chance.below(count),
            Kept::Some(_) => 0,
        }
    }
}

impl File {
    /// What a cut leaves of it, in blocks of so many bytes.
    pub fn image(&self, block: usize, chance: &mut Chance, kept: Kept) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        if self.pending.is_empty() {
            return bytes;
        }
        let lengths = self.lengths();
        let longest = *lengths.iter().max().expect("one at least");
        let length = match kept.prefix(lengths.len() - 1, chance) {
            0 => lengths[0],
            now if matches!(kept, Kept::Some(_)) && chance.percent(30) => {
                let (low, high) = (lengths[0].min(lengths[now]), lengths[0].max(lengths[now]));
                low + chance.below(high - low + 1)
            }
            now => lengths[now],
        };
        bytes.resize(longest, 0);
        for (number, changes) in self.by_block(block, longest) {
            let start = number * block;
            let end = (start + block).min(longest);
            let count = kept.prefix(changes.len(), chance);
            for change in changes.into_iter().take(count) {
                self.pending[change].apply_within(&mut bytes[start..end], start);
            }
        }
        bytes.truncate(length);
        bytes
    }

    /// The length at the last sync and after each change since.
    fn lengths(&self) -> Vec<usize> {
        let mut lengths = vec![self.synced.len()];
        let mut now = self.synced.len();
        for change in &self.pending {
            now = match change {
                Pending::Write { offset, bytes } => now.max(offset + bytes.len()),
                Pending::Resize(length) => *length,
            };
            lengths.push(now);
        }
        lengths
    }

    /// The indices of the changes of each block, in order.
    fn by_block(&self, block: usize, longest: usize) -> BTreeMap<usize, Vec<usize>> {
        let mut blocks: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, change) in self.pending.iter().enumerate() {
            let (start, end) = match change {
                Pending::Write { offset, bytes } => (*offset, offset + bytes.len()),
                Pending::Resize(length) => (*length, longest),
            };
            for number in start / block..end.div_ceil(block) {
                blocks.entry(number).or_default().push(index);
            }
        }
        blocks
    }
}

impl Pending {
    pub fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Pending::Write { offset, bytes: new } => {
                let end = offset + new.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(new);
            }
            Pending::Resize(length) => bytes.resize(*length, 0),
        }
    }

    /// Applies the part that lies within one block, which starts at `start`.
    fn apply_within(&self, block: &mut [u8], start: usize) {
        let end = start + block.len();
        match self {
            Pending::Write { offset, bytes } => {
                let (from, to) = (start.max(*offset), end.min(offset + bytes.len()));
                if from < to {
                    block[from - start..to - start]
                        .copy_from_slice(&bytes[from - offset..to - offset]);
                }
            }
            Pending::Resize(length) => {
                if *length < end {
                    block[length.saturating_sub(start)..].fill(0);
                }
            }
        }
    }
}
