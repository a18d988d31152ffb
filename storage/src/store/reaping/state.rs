//! Generations and absent lists in memory. Keeps "judged under the lock": they change only while all shards of the partition and the
//! hints are locked, so whoever holds one of these sees one generation until the change that it makes is made.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::due::Dues;
use super::file::{File, Kept};
use super::{MergeRefused, Reaping};
use crate::disk::Disk;
use crate::key::Key;
use crate::mutants::{Mutant, is_planted};
use crate::record::NO_LEAF;
use crate::store::Inner;
use crate::store::digest::token_range;
use crate::store::table::Table;
use crate::twoslot::SlotError;

/// A list, and how far its round is.
struct Listed {
    reaping: Arc<Reaping>,
    /// The log sequence at which all of it is gone, once it was erased.
    erased_at: Option<u64>,
}

/// What one store knows of reaping.
pub(in crate::store) struct Reaper {
    partitions: Box<[Partition]>,
    lists: Mutex<BTreeMap<u32, Listed>>,
    /// Held by whoever takes a step, from its first look to the durable end. Locked before shards.
    file: Mutex<File>,
    /// When which partition may have something to reap.
    pub(in crate::store) dues: Dues,
}

/// What is read without a lock.
#[derive(Default)]
struct Partition {
    generation: AtomicU64,
    floor: AtomicU64,
    is_listed: AtomicBool,
}

impl Reaper {
    /// Reads what is on disk, see [`File::open`].
    ///
    /// # Errors
    /// [`SlotError`]: the file is damaged, or of a newer format, or the disk failed.
    pub(in crate::store) fn open(
        disk: &Arc<dyn Disk>,
        partitions: u32,
        last_sequence: u64,
    ) -> Result<Reaper, SlotError> {
        let file = File::open(disk, partitions, last_sequence)?;
        let reaper = Reaper {
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            lists: Mutex::default(),
            dues: Dues::new(partitions),
            file: Mutex::new(file),
        };
        for (partition, kept) in reaper.file().all() {
            reaper.show(partition, kept);
        }
        Ok(reaper)
    }

    pub(super) fn file(&self) -> MutexGuard<'_, File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lists(&self) -> MutexGuard<'_, BTreeMap<u32, Listed>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::store) fn generation(&self, partition: u32) -> u64 {
        let partition = &self.partitions[partition as usize];
        partition.generation.load(Ordering::Acquire)
    }

    pub(in crate::store) fn floor(&self, partition: u32) -> u64 {
        let partition = &self.partitions[partition as usize];
        partition.floor.load(Ordering::Acquire)
    }

    pub(in crate::store) fn is_listed(&self, partition: u32) -> bool {
        let partition = &self.partitions[partition as usize];
        partition.is_listed.load(Ordering::Acquire)
    }

    pub(in crate::store) fn list(&self, partition: u32) -> Option<Arc<Reaping>> {
        if !self.is_listed(partition) {
            return None;
        }
        let lists = self.lists();
        Some(Arc::clone(&lists.get(&partition)?.reaping))
    }

    pub(super) fn listed(&self) -> Vec<u32> {
        self.lists().keys().copied().collect()
    }

    /// The log sequence at which all of a partition's list is gone, once it was erased.
    pub(super) fn erased_at(&self, partition: u32) -> Option<u64> {
        self.lists().get(&partition)?.erased_at
    }

    pub(super) fn note_erased(&self, partition: u32, sequence: u64) {
        if let Some(listed) = self.lists().get_mut(&partition) {
            listed.erased_at = Some(sequence);
        }
    }

    /// Refuses what was read under a generation below that of the partition. To be asked under the lock of what would be changed.
    pub(in crate::store) fn check(
        &self,
        partition: u32,
        read_under: u64,
    ) -> Result<(), MergeRefused> {
        self.check_from(partition, read_under, self.generation(partition))
    }

    /// Refuses a hint that was taken under a generation below the partition's floor.
    pub(in crate::store) fn check_hint(
        &self,
        partition: u32,
        taken_under: u64,
    ) -> Result<(), MergeRefused> {
        self.check_from(partition, taken_under, self.floor(partition))
    }

    fn check_from(&self, partition: u32, under: u64, lowest: u64) -> Result<(), MergeRefused> {
        if under >= lowest || is_planted(Mutant::AcceptOlderGeneration) {
            return Ok(());
        }
        Err(MergeRefused::StaleGeneration {
            generation: self.generation(partition),
            floor: self.floor(partition),
        })
    }

    fn show(&self, partition: u32, kept: &Kept) {
        let mut lists = self.lists();
        let of = &self.partitions[partition as usize];
        of.generation.store(kept.generation, Ordering::Release);
        of.floor.store(kept.floor, Ordering::Release);
        of.is_listed.store(kept.list.is_some(), Ordering::Release);
        match &kept.list {
            Some(list) => {
                let reaping = Arc::clone(list);
                let erased_at = lists.get(&partition).and_then(|listed| {
                    let is_same = listed.reaping.generation == reaping.generation;
                    listed.erased_at.filter(|_| is_same)
                });
                lists.insert(partition, Listed { reaping, erased_at });
            }
            None => drop(lists.remove(&partition)),
        }
    }
}

impl Inner {
    /// Lets something else hold of a partition, for all to see from the same moment on.
    pub(super) fn show_reaping(&self, partition: u32, kept: &Kept) {
        let (first, last) = token_range(partition, self.partitions);
        let shards: Vec<_> = (Table::shard_of(first)..=Table::shard_of(last))
            .map(|shard| self.table.lock(shard))
            .collect();
        self.hints
            .while_locked(|| self.reaper.show(partition, kept));
        // Trees show the listed keys otherwise from now on.
        self.table.changes().note_partition(partition);
        drop(shards);
    }

    /// Makes what the file keeps durable; that it cannot be is said where the process that runs the store looks for it.
    pub(super) fn write_reaping(&self, file: &mut File) -> Result<(), SlotError> {
        file.write().inspect_err(|error| {
            if file.is_poisoned() {
                self.identity.fail(error);
            }
        })
    }

    /// Whether an object with this leaf counts as nothing.
    pub(in crate::store) fn is_absent(&self, key: &Key, leaf: u64) -> bool {
        let list = match leaf {
            NO_LEAF => None,
            _ => self.reaper.list(self.partition_of(key.token())),
        };
        list.is_some_and(|list| list.holds(key, leaf))
    }
}

impl Reaping {
    /// Whether an object with this leaf is the listed tombstone of its key.
    pub(in crate::store) fn holds(&self, key: &Key, leaf: u64) -> bool {
        let found = self.tombs.binary_search_by(|tomb| tomb.key.cmp(key));
        found.is_ok_and(|at| self.tombs[at].leaf == leaf)
    }
}
