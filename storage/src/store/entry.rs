//! What the memory table holds for one key. Keeps I2: a value that a drain is writing down stays readable by it, however
//! often the key is written meanwhile.

use std::sync::Arc;

use crate::record::Record;

/// Bytes that an entry costs beside its key and its record: map slot, index, two allocations.
pub(super) const ENTRY_OVERHEAD_BYTES: usize = 160;

/// The number of a freeze; 0 is none.
pub(super) type Generation = u64;

/// A key's record, and how much of it that is.
#[derive(Debug, Clone)]
pub(super) enum Slot {
    /// All that this store holds for the key. An empty object: nothing is stored (when dirty, the drain removes the rows).
    Whole(Arc<Record>),
    /// Received from a peer (or nothing yet), still to be folded with what the engine holds under it.
    Operand(Arc<Record>),
}

impl Slot {
    pub(super) fn record(&self) -> &Arc<Record> {
        match self {
            Slot::Whole(record) | Slot::Operand(record) => record,
        }
    }

    pub(super) fn whole(&self) -> Option<&Arc<Record>> {
        match self {
            Slot::Whole(record) => Some(record),
            Slot::Operand(_) => None,
        }
    }

    /// The same degree of wholeness around another record.
    pub(super) fn with(&self, record: Arc<Record>) -> Slot {
        match self {
            Slot::Whole(_) => Slot::Whole(record),
            Slot::Operand(_) => Slot::Operand(record),
        }
    }
}

/// One key's place in the table.
#[derive(Debug)]
pub(super) struct Entry {
    /// What reads, writes and merges see.
    pub(super) slot: Slot,
    /// The freeze that takes `slot` to the engine; 0: clean, the engine holds it.
    pub(super) dirty: Generation,
    /// The value at the freeze that is being drained, kept since a later write replaced it.
    pub(super) frozen: Option<Box<Slot>>,
    /// The leaf of what the engine holds (0: nothing), if known. The drain alone changes it once it is known.
    pub(super) base_leaf: Option<u64>,
    /// Log sequence of the last change; 0: before this start, and so durable.
    pub(super) sequence: u64,
    /// Loads that are reading the engine for this key. A pinned entry is not evicted.
    pub(super) pins: u32,
    /// Used since the eviction hand last passed.
    pub(super) referenced: bool,
}

impl Entry {
    /// An entry that the engine is not ahead of.
    pub(super) fn clean(slot: Slot, base_leaf: Option<u64>) -> Self {
        Self {
            slot,
            dirty: 0,
            frozen: None,
            base_leaf,
            sequence: 0,
            pins: 0,
            referenced: true,
        }
    }

    /// The value that the freeze `generation` takes, if it takes this entry.
    pub(super) fn value_at(&self, generation: Generation) -> Option<&Slot> {
        match &self.frozen {
            Some(frozen) => Some(frozen),
            None => (self.dirty == generation).then_some(&self.slot),
        }
    }

    pub(super) fn evictable(&self) -> bool {
        self.dirty == 0 && self.pins == 0 && self.frozen.is_none()
    }

    /// What this entry weighs under a key of `key_bytes`.
    pub(super) fn weight(&self, key_bytes: usize) -> Weight {
        let own = ENTRY_OVERHEAD_BYTES + key_bytes + self.slot.record().weight();
        let frozen = self
            .frozen
            .as_ref()
            .map_or(0, |slot| slot.record().weight());
        Weight {
            all: own + frozen,
            dirty: frozen + if self.dirty == 0 { 0 } else { own },
        }
    }
}

/// Bytes of memory: all, and those that the engine does not hold yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Weight {
    pub(super) all: usize,
    pub(super) dirty: usize,
}
