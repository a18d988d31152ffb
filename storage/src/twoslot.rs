//! A small file that is replaced as a whole: two slots, `name.a` and `name.b`, written in turn.
//!
//! Invariant (I1): once [`TwoSlot::write`] returned, a reader finds that payload or a later one, whatever crash or
//! single damaged slot comes after; and a payload is read whole or not at all. A write goes over the *older* slot, so the
//! newer one stays untouched until the write is synced.
//!
//! A slot is, in little endian: checksum `u64` (xxh3 of all that follows, seeded by the file's name), magic, format `u32`,
//! version `u64` (a counter, one higher with each write), payload length `u32`, payload. This frame stays the same
//! in all formats, so that an old program can tell a newer format from damage. Bytes after the payload mean nothing.

use std::io;
use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::disk::{Disk, DiskFile, parent};

/// Largest payload, in bytes: a checkpoint of 65,536 partitions takes 0.8 MiB.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;

const MAGIC: [u8; 8] = *b"rfslot\r\n";
const HEADER_BYTES: usize = 8 + 8 + 4 + 8 + 4;
const SLOTS: [&str; 2] = ["a", "b"];

/// Why a two-slot file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The file was written by a newer program. Nothing was changed.
    #[error(
        "{name} has format {found}, and this program knows formats up to {known}: it was written by a newer version"
    )]
    NewerFormat {
        /// Name of the file, without the slot's suffix.
        name: String,
        /// Format found.
        found: u32,
        /// Newest format that the caller knows.
        known: u32,
    },
    /// The file exists, but neither slot is valid.
    #[error("{name} is damaged: neither of its slots is valid")]
    Damaged {
        /// Name of the file.
        name: String,
    },
    /// A slot is whole, but its content makes no sense.
    #[error("{name} is whole, but its content cannot be decoded: {what}")]
    Content {
        /// Name of the file.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// The payload is larger than [`PAYLOAD_BYTES_MAX`]. Nothing was changed.
    #[error("{name}: a payload of {bytes} bytes is over the limit of {PAYLOAD_BYTES_MAX}")]
    TooLarge {
        /// Name of the file.
        name: String,
        /// Size of the payload.
        bytes: usize,
    },
    /// A sync failed earlier: nobody knows what is on disk, so nothing is written any more.
    #[error("{name} cannot be written: an earlier sync of it failed")]
    Poisoned {
        /// Name of the file.
        name: String,
    },
    /// The disk failed. A failed write leaves the former payload in place; a failed sync may leave either.
    #[error("{name}: {action} failed: {source}")]
    Io {
        /// Name of the file.
        name: String,
        /// What was tried.
        action: &'static str,
        /// The disk's error.
        source: io::Error,
    },
}

/// What was found in a two-slot file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Payload of the newest valid slot.
    pub payload: Vec<u8>,
    /// Its format.
    pub format: u32,
    /// Payload and format of the other slot, if that is valid too.
    pub other: Option<(Vec<u8>, u32)>,
}

impl Loaded {
    /// Whether both slots are valid.
    pub fn both_valid(&self) -> bool {
        self.other.is_some()
    }
}

/// A two-slot file, open for writing.
#[derive(Debug)]
pub struct TwoSlot {
    disk: Arc<dyn Disk>,
    name: String,
    /// Version of the newest valid slot; 0 before the first write.
    version: u64,
    /// The slot that the next write goes to: the older or invalid one.
    target: usize,
    /// Whether the file exists at all.
    exists: bool,
    staged: Option<Box<dyn DiskFile>>,
    poisoned: bool,
}

impl TwoSlot {
    /// Opens `name` and reads it; `None` if there is no such file yet. `known_format` is the newest format that the
    /// caller can decode. The payload returned is durable. A second handle to the same name must not be open.
    pub fn open(
        disk: Arc<dyn Disk>,
        name: &str,
        known_format: u32,
    ) -> Result<(Self, Option<Loaded>), SlotError> {
        let mut file = Self {
            disk,
            name: name.to_owned(),
            version: 0,
            target: 0,
            exists: false,
            staged: None,
            poisoned: false,
        };
        let slots = [file.read_slot(0)?, file.read_slot(1)?];
        file.exists = slots.iter().any(|slot| !matches!(slot, SlotState::Missing));
        let [first, second] = slots.map(SlotState::valid);
        for slot in [&first, &second].into_iter().flatten() {
            if slot.format > known_format {
                return Err(SlotError::NewerFormat {
                    name: name.to_owned(),
                    found: slot.format,
                    known: known_format,
                });
            }
        }
        let (newest, other, target) = match (first, second) {
            (None, None) if !file.exists => return Ok((file, None)),
            (None, None) => {
                return Err(SlotError::Damaged {
                    name: name.to_owned(),
                });
            }
            (Some(only), None) => (only, None, 1),
            (None, Some(only)) => (only, None, 0),
            (Some(first), Some(second)) if first.version > second.version => {
                (first, Some(second), 1)
            }
            (Some(first), Some(second)) => (second, Some(first), 0),
        };
        file.version = newest.version;
        file.target = target;
        file.harden(1 - target, &newest)?;
        let other = other.map(|slot| (slot.payload, slot.format));
        Ok((
            file,
            Some(Loaded {
                payload: newest.payload,
                format: newest.format,
                other,
            }),
        ))
    }

    /// Writes the newest slot again as it is, and syncs it: a process that died may have left it in memory only, and
    /// what a start reads has to be there after the next crash too.
    fn harden(&self, slot: usize, content: &Slot) -> Result<(), SlotError> {
        let name = self.slot_name(slot);
        let bytes = self.encode(content.version, content.format, &content.payload);
        let file = self
            .disk
            .open(&name)
            .map_err(|source| self.io("open", source))?;
        file.write_at(0, &bytes)
            .map_err(|source| self.io("write", source))?;
        file.sync_data().map_err(|source| self.io("sync", source))?;
        self.disk
            .sync_dir(parent(&name))
            .map_err(|source| self.io("sync", source))
    }

    /// Whether the file exists: it was found, or written since.
    pub fn exists(&self) -> bool {
        self.exists
    }

    /// Whether a sync has failed: nothing is written any more, and nobody knows what is on disk.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// Replaces the payload; durable when this returns. The very first write fills both slots.
    pub fn write(&mut self, format: u32, payload: &[u8]) -> Result<(), SlotError> {
        self.stage(format, payload)?;
        self.commit()
    }

    /// First half of [`TwoSlot::write`], for callers that take one disk action at a time: writes the older slot.
    /// The payload counts only once [`TwoSlot::commit`] returned. The very first write is done here as a whole.
    pub fn stage(&mut self, format: u32, payload: &[u8]) -> Result<(), SlotError> {
        if self.poisoned {
            return Err(SlotError::Poisoned {
                name: self.name.clone(),
            });
        }
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(SlotError::TooLarge {
                name: self.name.clone(),
                bytes: payload.len(),
            });
        }
        if !self.exists {
            return self.create_both(format, payload);
        }
        let slot = self.encode(self.version + 1, format, payload);
        let name = self.slot_name(self.target);
        let file = match self.disk.open(&name) {
            Ok(file) => file,
            // A slot that was lost is made anew beside the valid one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.replace(self.target, &slot)?;
                self.disk
                    .open(&name)
                    .map_err(|source| self.io("open", source))?
            }
            Err(source) => return Err(self.io("open", source)),
        };
        file.write_at(0, &slot)
            .map_err(|source| self.io("write", source))?;
        self.staged = Some(file);
        Ok(())
    }

    /// Second half of [`TwoSlot::write`]: syncs what was staged. Without a staged payload it does nothing.
    pub fn commit(&mut self) -> Result<(), SlotError> {
        let Some(file) = self.staged.take() else {
            return Ok(());
        };
        if let Err(source) = file.sync_data() {
            self.poisoned = true;
            return Err(self.io("sync", source));
        }
        self.version += 1;
        self.target = 1 - self.target;
        Ok(())
    }

    /// The first write of all: each slot is made under another name, synced and renamed, so that a crash at any
    /// point leaves no file or a valid one, and never a new file that looks damaged.
    fn create_both(&mut self, format: u32, payload: &[u8]) -> Result<(), SlotError> {
        for slot in 0..SLOTS.len() {
            let bytes = self.encode(slot as u64 + 1, format, payload);
            self.replace(slot, &bytes)?;
        }
        self.version = SLOTS.len() as u64;
        self.target = 0;
        self.exists = true;
        Ok(())
    }

    /// Puts a whole synced slot file in place, its name durable.
    fn replace(&mut self, slot: usize, bytes: &[u8]) -> Result<(), SlotError> {
        let name = self.slot_name(slot);
        let temporary = format!("{name}.new");
        let done = self.replace_steps(&name, &temporary, bytes);
        // Failing here is rare and early; the next write must not build on a file that may not last.
        done.map_err(|source| {
            self.poisoned = true;
            self.io("create", source)
        })
    }

    fn replace_steps(&self, name: &str, temporary: &str, bytes: &[u8]) -> io::Result<()> {
        if self.disk.exists(temporary)? {
            self.disk.remove(temporary)?;
        }
        let file = self.disk.create(temporary)?;
        file.write_at(0, bytes)?;
        file.sync_data()?;
        self.disk.rename(temporary, name)?;
        self.disk.sync_dir(parent(name))
    }

    fn slot_name(&self, slot: usize) -> String {
        format!("{}.{}", self.name, SLOTS[slot])
    }

    fn read_slot(&self, slot: usize) -> Result<SlotState, SlotError> {
        let file = match self.disk.open(&self.slot_name(slot)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(SlotState::Missing),
            Err(source) => return Err(self.io("open", source)),
        };
        let length = file.len().map_err(|source| self.io("read", source))?;
        let mut bytes = vec![0; length.min((HEADER_BYTES + PAYLOAD_BYTES_MAX) as u64) as usize];
        let count = file
            .read_full(0, &mut bytes)
            .map_err(|source| self.io("read", source))?;
        bytes.truncate(count);
        Ok(decode(&bytes, self.seed()))
    }

    fn encode(&self, version: u64, format: u32, payload: &[u8]) -> Vec<u8> {
        let mut slot = Vec::with_capacity(HEADER_BYTES + payload.len());
        slot.extend_from_slice(&[0; 8]);
        slot.extend_from_slice(&MAGIC);
        slot.extend_from_slice(&format.to_le_bytes());
        slot.extend_from_slice(&version.to_le_bytes());
        slot.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        slot.extend_from_slice(payload);
        let checksum = xxh3_64_with_seed(&slot[8..], self.seed());
        slot[..8].copy_from_slice(&checksum.to_le_bytes());
        slot
    }

    /// One file's slot copied over another file's is not valid there.
    fn seed(&self) -> u64 {
        xxh3_64(self.name.as_bytes())
    }

    fn io(&self, action: &'static str, source: io::Error) -> SlotError {
        SlotError::Io {
            name: self.name.clone(),
            action,
            source,
        }
    }
}

/// One slot as read.
enum SlotState {
    Missing,
    Invalid,
    Valid(Slot),
}

struct Slot {
    format: u32,
    version: u64,
    payload: Vec<u8>,
}

impl SlotState {
    fn valid(self) -> Option<Slot> {
        match self {
            SlotState::Valid(slot) => Some(slot),
            SlotState::Missing | SlotState::Invalid => None,
        }
    }
}

fn decode(bytes: &[u8], seed: u64) -> SlotState {
    decode_parts(bytes, seed).map_or(SlotState::Invalid, SlotState::Valid)
}

fn decode_parts(bytes: &[u8], seed: u64) -> Option<Slot> {
    let (checksum, rest) = bytes.split_first_chunk::<8>()?;
    let (magic, rest) = rest.split_first_chunk::<8>()?;
    let (format, rest) = rest.split_first_chunk::<4>()?;
    let (version, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    if *magic != MAGIC || length > PAYLOAD_BYTES_MAX || length > rest.len() {
        return None;
    }
    if xxh3_64_with_seed(&bytes[8..HEADER_BYTES + length], seed) != u64::from_le_bytes(*checksum) {
        return None;
    }
    Some(Slot {
        format: u32::from_le_bytes(*format),
        version: u64::from_le_bytes(*version),
        payload: rest[..length].to_vec(),
    })
}

#[cfg(test)]
mod tests;
