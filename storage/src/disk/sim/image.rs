//! One simulated file: what a process sees, what the disk holds, and the blocks between the two.

use std::collections::BTreeMap;

use super::BLOCK_BYTES;
use super::chance::Chance;

/// Versions of one unsynced block that are remembered; past it the second oldest is forgotten.
const BLOCK_VERSIONS_MAX: usize = 8;

/// A file's content in memory and on disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// For each block written since the last sync, its content after each write, oldest first.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
}

impl Image {
    /// A file whose content is on disk.
    pub(super) fn durable(bytes: &[u8]) -> Self {
        Self {
            current: bytes.to_vec(),
            durable: bytes.to_vec(),
            unsynced: BTreeMap::new(),
        }
    }

    /// The content as a running process sees it.
    pub(super) fn current(&self) -> &[u8] {
        &self.current
    }

    /// Writes `bytes`; with `torn`, each block of the write happens or not by chance.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8], mut torn: Option<&mut Chance>) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done;
            let count = (BLOCK_BYTES - at % BLOCK_BYTES).min(bytes.len() - done);
            if torn.as_mut().is_none_or(|chance| chance.coin()) {
                self.write_block(at, &bytes[done..done + count]);
            }
            done += count;
        }
    }

    /// Writes within one block.
    fn write_block(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if self.current.len() < end {
            self.current.resize(end, 0);
        }
        self.current[at..end].copy_from_slice(bytes);
        let block = at / BLOCK_BYTES;
        let start = block * BLOCK_BYTES;
        let content = self.current[start..self.current.len().min(start + BLOCK_BYTES)].to_vec();
        let versions = self.unsynced.entry(block).or_default();
        if versions.len() == BLOCK_VERSIONS_MAX {
            versions.remove(1);
        }
        versions.push(content);
    }

    /// Cuts or extends with zeros. What a cut removes may come back by a crash until the next sync.
    pub(super) fn set_len(&mut self, bytes: usize) {
        self.current.resize(bytes, 0);
        let cut_block = bytes / BLOCK_BYTES;
        self.unsynced.retain(|block, _| *block < cut_block);
        if !bytes.is_multiple_of(BLOCK_BYTES) {
            let content = self.current[cut_block * BLOCK_BYTES..].to_vec();
            self.unsynced.insert(cut_block, vec![content]);
        }
    }

    /// Everything written is on disk.
    pub(super) fn sync(&mut self) {
        resize(&mut self.durable, self.current.len());
        for (block, versions) in std::mem::take(&mut self.unsynced) {
            let content = versions
                .last()
                .expect("a block is listed with its first write");
            place(&mut self.durable, block, content);
        }
    }

    /// Some blocks reached the disk, the others never will, and the process cannot see which.
    pub(super) fn sync_failing(&mut self, chance: &mut Chance) {
        let length = self.crashed_len(chance);
        resize(&mut self.durable, length);
        for (block, versions) in std::mem::take(&mut self.unsynced) {
            if chance.coin() {
                let content = versions
                    .last()
                    .expect("a block is listed with its first write");
                place(&mut self.durable, block, content);
            }
        }
    }

    /// The machine lost power: length and each unsynced block are as on disk, or as at some moment since.
    pub(super) fn crash(&mut self, chance: &mut Chance) {
        let length = self.crashed_len(chance);
        resize(&mut self.durable, length);
        for (block, versions) in std::mem::take(&mut self.unsynced) {
            let kept = chance.below(versions.len() as u64 + 1) as usize;
            if kept > 0 {
                place(&mut self.durable, block, &versions[kept - 1]);
            }
        }
        self.current = self.durable.clone();
    }

    /// Flips bits of one byte in memory and on disk.
    pub(super) fn flip(&mut self, offset: u64, mask: u8) -> bool {
        let Ok(offset) = usize::try_from(offset) else {
            return false;
        };
        let Some(byte) = self.current.get_mut(offset) else {
            return false;
        };
        *byte ^= mask;
        if let Some(byte) = self.durable.get_mut(offset) {
            *byte ^= mask;
        }
        if let Some(versions) = self.unsynced.get_mut(&(offset / BLOCK_BYTES)) {
            for byte in versions
                .iter_mut()
                .filter_map(|version| version.get_mut(offset % BLOCK_BYTES))
            {
                *byte ^= mask;
            }
        }
        true
    }

    /// An unsynced length is old, new, or something between.
    fn crashed_len(&self, chance: &mut Chance) -> usize {
        let (old, new) = (self.durable.len(), self.current.len());
        let (low, high) = (old.min(new), old.max(new));
        match chance.below(3) {
            0 => old,
            1 => new,
            _ => low + chance.below((high - low) as u64 + 1) as usize,
        }
    }
}

fn resize(content: &mut Vec<u8>, bytes: usize) {
    content.resize(bytes, 0);
}

/// Puts a block's content in place, as far as the file reaches.
fn place(file: &mut [u8], block: usize, content: &[u8]) {
    let start = block * BLOCK_BYTES;
    if start < file.len() {
        let count = content.len().min(file.len() - start);
        file[start..start + count].copy_from_slice(&content[..count]);
    }
}
