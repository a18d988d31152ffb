//! Counts the changes of each partition, so that its root is computed once until something of it has changed. Keeps I5: a root
//! that is kept is the root, because every change of a tree is counted after it is made and before anybody can rest on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::partition_of;

/// What a partition's tree comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// The hash over buckets and count ([`Tree::root`](crate::merkle::Tree::root)).
    pub hash: u64,
    /// The number of keys, tombstones included.
    pub keys: u32,
}

/// A root, with the count of changes at which it was computed.
type Kept = Option<(u64, Root)>;

/// The counters, and the roots that were computed at some count. 40 bytes a partition.
pub(super) struct Changes {
    counts: Box<[AtomicU64]>,
    roots: Mutex<Box<[Kept]>>,
}

impl Changes {
    pub(super) fn new(partitions: u32) -> Self {
        let each = 0..partitions;
        Self {
            counts: each.clone().map(|_| AtomicU64::new(0)).collect(),
            roots: Mutex::new(each.map(|_| None).collect()),
        }
    }

    /// Something of this token's partition has changed. To be called under its shard's lock, or after the change.
    pub(super) fn note(&self, token: u64) {
        self.note_partition(partition_of(token, self.counts.len() as u32));
    }

    /// The same of a partition.
    pub(super) fn note_partition(&self, partition: u32) {
        self.counts[partition as usize].fetch_add(1, Ordering::Release);
    }

    /// The number of changes so far, since the start.
    pub(super) fn count(&self, partition: u32) -> u64 {
        self.counts[partition as usize].load(Ordering::Acquire)
    }

    /// The root, if nothing has changed since it was kept.
    pub(super) fn root(&self, partition: u32) -> Option<Root> {
        let roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, root) = roots[partition as usize]?;
        (count == self.count(partition)).then_some(root)
    }

    /// Keeps the root that the partition had when its changes came to `count`.
    pub(super) fn keep(&self, partition: u32, count: u64, root: Root) {
        let mut roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut roots[partition as usize];
        if kept.is_none_or(|(before, _)| before <= count) {
            *kept = Some((count, root));
        }
    }
}
