//! The checkpoint: what the sorted engine is known to hold, kept outside it in a two-slot file.
//!
//! Invariants: (I1) log segments are recycled only after a checkpoint that no longer needs them is durable; (I2) an actor
//! goes on minting only after a *clean* stop, and a stop is clean only if both slots are valid and say so. One synced
//! write of one slot ([`CheckpointFile::unmark_clean`]) takes the mark back before the first mint.

use std::collections::BTreeMap;
use std::sync::Arc;

use bincode::{Decode, Encode};

use crate::disk::Disk;
use crate::log::LogPosition;
use crate::twoslot::{PAYLOAD_BYTES_MAX, SlotError, TwoSlot};

/// Newest checkpoint format that this program reads and writes.
pub const FORMAT: u32 = 1;

/// Name of the two-slot file.
pub const NAME: &str = "checkpoint";

/// Root and count of one partition's Merkle tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct PartitionSum {
    /// Root of the tree.
    pub root: u64,
    /// Number of records.
    pub count: u32,
}

/// The content of the checkpoint file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Checkpoint {
    /// S: the engine holds the effect of every log record up to this sequence, and of none after it.
    pub applied: u64,
    /// The actor that minted last.
    pub actor: u64,
    /// The last counter that it minted.
    pub last_counter: u64,
    /// The first log segment that recovery needs.
    pub first_live: LogPosition,
    /// A random number made at each start of the process that wrote this.
    pub boot_id: u64,
    /// Whether the process stopped after this checkpoint with nothing left to do.
    pub clean: bool,
    /// Highest durable log sequence heard of each other store, by store id.
    pub heard: BTreeMap<u64, u64>,
    /// Root and count of every partition at S, by partition.
    pub partitions: Vec<PartitionSum>,
}

/// The checkpoint file, open for writing.
#[derive(Debug)]
pub struct CheckpointFile {
    slots: TwoSlot,
    current: Option<Checkpoint>,
    /// What the other slot names as the first live segment, if that slot is valid.
    other: Option<LogPosition>,
    /// Both slots are valid and say clean.
    clean: bool,
    staged: Option<Checkpoint>,
}

impl CheckpointFile {
    /// Reads the checkpoint of a disk, if there is one.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Self, SlotError> {
        let (slots, loaded) = TwoSlot::open(disk, NAME, FORMAT)?;
        let Some(loaded) = loaded else {
            return Ok(Self {
                slots,
                current: None,
                other: None,
                clean: false,
                staged: None,
            });
        };
        let current = decode(&loaded.payload)?;
        let other = loaded
            .other
            .as_ref()
            .map(|(payload, _)| decode(payload))
            .transpose()?;
        let clean = current.clean && other.as_ref().is_some_and(|other| other.clean);
        let other = other.map(|other| other.first_live);
        Ok(Self {
            slots,
            current: Some(current),
            other,
            clean,
            staged: None,
        })
    }

    /// The newest checkpoint; `None` for a new store.
    pub fn current(&self) -> Option<&Checkpoint> {
        self.current.as_ref()
    }

    /// The first log segment that either slot needs: segments before it may be reused. One checkpoint behind, so that
    /// damage to the newest slot loses nothing: the older checkpoint and the log make up for it.
    pub fn log_position(&self) -> LogPosition {
        let newest = self
            .current
            .as_ref()
            .map(|current| current.first_live)
            .unwrap_or_default();
        self.other.map_or(newest, |other| other.min(newest))
    }

    /// Whether the last stop was clean: both slots are valid and say so.
    pub fn is_clean(&self) -> bool {
        self.clean
    }

    /// Replaces the checkpoint; durable when this returns. The content's own `clean` is written as given, but one
    /// write never makes a stop clean: see [`CheckpointFile::mark_clean`].
    pub fn write(&mut self, checkpoint: Checkpoint) -> Result<(), SlotError> {
        self.stage(checkpoint)?;
        self.commit()
    }

    /// First half of [`CheckpointFile::write`]: writes the older slot, unsynced.
    pub fn stage(&mut self, checkpoint: Checkpoint) -> Result<(), SlotError> {
        self.slots.stage(FORMAT, &encode(&checkpoint)?)?;
        self.staged = Some(checkpoint);
        Ok(())
    }

    /// Second half of [`CheckpointFile::write`]: syncs it.
    pub fn commit(&mut self) -> Result<(), SlotError> {
        self.slots.commit()?;
        if let Some(checkpoint) = self.staged.take() {
            // Two clean writes in a row make the stop clean; any other takes the mark away.
            let before = self.current.as_ref().is_some_and(|before| before.clean);
            self.clean = checkpoint.clean && before;
            self.other = self.current.as_ref().map(|before| before.first_live);
            self.current = Some(checkpoint);
        }
        Ok(())
    }

    /// Marks the current checkpoint as that of a clean stop, in both slots. Without a checkpoint it does nothing.
    pub fn mark_clean(&mut self) -> Result<(), SlotError> {
        while !self.clean {
            let Some(current) = &self.current else { break };
            let marked = Checkpoint {
                clean: true,
                ..current.clone()
            };
            self.write(marked)?;
        }
        Ok(())
    }

    /// Takes the clean mark away by one synced write of one slot. Must be durable before the first mint of a start.
    pub fn unmark_clean(&mut self) -> Result<(), SlotError> {
        match &self.current {
            Some(current) if current.clean => {
                let unmarked = Checkpoint {
                    clean: false,
                    ..current.clone()
                };
                self.write(unmarked)
            }
            _ => Ok(()),
        }
    }
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard()
        .with_little_endian()
        .with_fixed_int_encoding()
        .with_limit::<PAYLOAD_BYTES_MAX>()
}

fn encode(checkpoint: &Checkpoint) -> Result<Vec<u8>, SlotError> {
    bincode::encode_to_vec(checkpoint, config()).map_err(|error| content(&error.to_string()))
}

fn decode(payload: &[u8]) -> Result<Checkpoint, SlotError> {
    match bincode::decode_from_slice(payload, config()) {
        Ok((checkpoint, used)) if used == payload.len() => Ok(checkpoint),
        Ok(_) => Err(content("trailing bytes")),
        Err(error) => Err(content(&error.to_string())),
    }
}

fn content(what: &str) -> SlotError {
    SlotError::Content {
        name: NAME.to_owned(),
        what: what.to_owned(),
    }
}

#[cfg(test)]
mod tests;
