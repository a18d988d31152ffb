//! The file of generations and absent lists. Keeps I4 over restarts: what a store told others of a round is what it finds again.

use std::collections::BTreeMap;
use std::sync::Arc;

use bincode::{Decode, Encode};
use bytes::Bytes;

use super::{Reaping, Tomb};
use crate::disk::Disk;
use crate::key::Key;
use crate::twoslot::{PAYLOAD_BYTES_MAX, SlotError, TwoSlot};
use crate::version::{ActorId, Clock};

/// Name of the two-slot file.
pub const NAME: &str = "reaping";

/// Newest format that this program reads and writes.
pub const FORMAT: u32 = 1;

/// What is kept of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) generation: u64,
    pub(super) floor: u64,
    /// The log sequence at which the listed keys were seen to be past their tombstones.
    pub(super) sequence: u64,
    pub(super) list: Option<Arc<Reaping>>,
}

/// The open file, and what it holds.
pub(super) struct File {
    slots: TwoSlot,
    kept: BTreeMap<u32, Kept>,
    dirty: bool,
}

impl File {
    /// Reads the file of a disk whose log ends with `last_sequence`. A step to a list that was judged by more than the log came back
    /// with was never told to anybody, and is taken back.
    ///
    /// # Errors
    /// [`SlotError`]: it is damaged, or of a newer format, or the disk failed.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        partitions: u32,
        last_sequence: u64,
    ) -> Result<File, SlotError> {
        let (slots, loaded) = TwoSlot::open(Arc::clone(disk), NAME, FORMAT)?;
        let kept = match loaded {
            None => BTreeMap::new(),
            Some(loaded) => decode(&loaded.payload).map_err(content)?,
        };
        if let Some((partition, _)) = kept.range(partitions..).next() {
            return Err(content(format!("there is no partition {partition}")));
        }
        let mut file = File {
            slots,
            kept,
            dirty: false,
        };
        for kept in file.kept.values_mut() {
            if kept.list.is_some() && kept.sequence > last_sequence {
                kept.generation -= 1;
                kept.list = None;
                kept.sequence = 0;
                file.dirty = true;
            }
        }
        file.write()?;
        Ok(file)
    }

    /// Whether a sync has failed: nobody knows what is on disk.
    pub(super) fn is_poisoned(&self) -> bool {
        self.slots.is_poisoned()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (u32, &Kept)> {
        self.kept.iter().map(|(partition, kept)| (*partition, kept))
    }

    pub(super) fn get(&self, partition: u32) -> Kept {
        self.kept.get(&partition).cloned().unwrap_or_default()
    }

    /// Keeps something else of a partition; durable once it was [written](Self::write).
    pub(super) fn set(&mut self, partition: u32, kept: Kept) {
        self.dirty |= self.get(partition) != kept;
        self.kept.insert(partition, kept);
    }

    /// The number of lists.
    pub(super) fn lists(&self) -> usize {
        let lists = self.kept.values().filter(|kept| kept.list.is_some());
        lists.count()
    }

    /// Makes it durable, if there is anything new.
    ///
    /// # Errors
    /// [`SlotError`]: nobody knows what is on disk; the process has to end.
    pub(super) fn write(&mut self) -> Result<(), SlotError> {
        if self.dirty {
            self.slots.write(FORMAT, &encode(&self.kept)?)?;
            self.dirty = false;
        }
        Ok(())
    }
}

/// [`Kept`] as it is stored.
#[derive(Encode, Decode)]
struct Stored {
    partition: u32,
    generation: u64,
    floor: u64,
    sequence: u64,
    tombs: Vec<StoredTomb>,
}

#[derive(Encode, Decode)]
struct StoredTomb {
    token: u64,
    framed: Vec<u8>,
    leaf: u64,
    clock: Vec<(u64, u64)>,
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard()
        .with_little_endian()
        .with_fixed_int_encoding()
        .with_limit::<PAYLOAD_BYTES_MAX>()
}

fn encode(kept: &BTreeMap<u32, Kept>) -> Result<Vec<u8>, SlotError> {
    let tomb = |tomb: &Tomb| StoredTomb {
        token: tomb.key.token(),
        framed: tomb.key.framed().to_vec(),
        leaf: tomb.leaf,
        clock: tomb
            .clock
            .iter()
            .map(|(actor, counter)| (actor.0, counter))
            .collect(),
    };
    let stored = kept.iter().map(|(partition, kept)| {
        let tombs = kept.list.iter().flat_map(|list| &list.tombs);
        Stored {
            partition: *partition,
            generation: kept.generation,
            floor: kept.floor,
            sequence: kept.sequence,
            tombs: tombs.map(tomb).collect(),
        }
    });
    let stored: Vec<Stored> = stored.collect();
    bincode::encode_to_vec(stored, config()).map_err(|error| content(error.to_string()))
}

fn decode(payload: &[u8]) -> Result<BTreeMap<u32, Kept>, String> {
    let (stored, used) = bincode::decode_from_slice::<Vec<Stored>, _>(payload, config())
        .map_err(|error| error.to_string())?;
    if used != payload.len() {
        return Err("trailing bytes".to_owned());
    }
    let mut all = BTreeMap::new();
    for stored in stored {
        let tombs = stored.tombs.into_iter().map(tomb);
        let tombs = tombs.collect::<Result<Vec<_>, _>>()?;
        let (generation, floor) = (stored.generation, stored.floor);
        // A list is of a round, and so of a generation above the first.
        if floor > generation || generation == 0 && !tombs.is_empty() {
            return Err(format!("generation {generation} with floor {floor}"));
        }
        let list = (!tombs.is_empty()).then(|| {
            Arc::new(Reaping {
                generation,
                floor,
                tombs,
            })
        });
        let kept = Kept {
            generation,
            floor,
            sequence: stored.sequence,
            list,
        };
        all.insert(stored.partition, kept);
    }
    Ok(all)
}

fn tomb(stored: StoredTomb) -> Result<Tomb, String> {
    let key = Key::from_framed(stored.token, Bytes::from(stored.framed));
    let entries = stored.clock.into_iter();
    let clock = Clock::from_parts(entries.map(|(actor, n)| (ActorId(actor), n)).collect());
    Ok(Tomb {
        key: key.map_err(|error| error.to_string())?,
        leaf: stored.leaf,
        clock: clock.map_err(|error| error.to_string())?,
    })
}

fn content(what: String) -> SlotError {
    SlotError::Content {
        name: NAME.to_owned(),
        what,
    }
}

#[cfg(test)]
mod tests;
