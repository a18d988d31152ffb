//! Who this store is and what it promised, kept outside the sorted engine so that losing the engine loses no vote.
//!
//! Invariants: (I9) cluster id, layouts and votes are durable before anyone hears of them: [`IdentityFile::update`] returns
//! only after the sync; (I3) what is not synced is said so durably, so that a restart never counts toward R.

use std::sync::{Arc, Mutex};

use bincode::{Decode, Encode};
use tokio::sync::watch;

use crate::disk::Disk;
use crate::twoslot::{PAYLOAD_BYTES_MAX, SlotError, TwoSlot};

/// Newest identity format that this program reads and writes.
pub const FORMAT: u32 = 1;

/// Name of the two-slot file.
pub const NAME: &str = "identity";

/// Partitions for which a store does not hold everything that it should.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub enum Unsynced {
    /// Synced for all partitions.
    #[default]
    None,
    /// Unsynced for all partitions.
    All,
    /// A bit per partition, 64 to a word, lowest first; set means unsynced.
    Partitions(Vec<u64>),
}

impl Unsynced {
    /// Whether this partition is unsynced.
    pub fn contains(&self, partition: u32) -> bool {
        match self {
            Unsynced::None => false,
            Unsynced::All => true,
            Unsynced::Partitions(words) => words
                .get(partition as usize / 64)
                .is_some_and(|word| word >> (partition % 64) & 1 == 1),
        }
    }

    /// Marks one of `partitions` partitions as unsynced or synced.
    pub fn set(&mut self, partition: u32, partitions: u32, unsynced: bool) {
        self.set_all(&[partition], partitions, unsynced);
    }

    /// Marks several of `partitions` partitions.
    pub fn set_all(&mut self, which: &[u32], partitions: u32, unsynced: bool) {
        let mut marks: Vec<bool> = (0..partitions).map(|each| self.contains(each)).collect();
        for partition in which {
            debug_assert!(
                *partition < partitions,
                "partition {partition} of {partitions}"
            );
            if let Some(mark) = marks.get_mut(*partition as usize) {
                *mark = unsynced;
            }
        }
        *self = match marks.iter().filter(|mark| **mark).count() {
            0 => Unsynced::None,
            count if count == partitions as usize => Unsynced::All,
            _ => {
                let word = |chunk: &[bool]| {
                    chunk
                        .iter()
                        .enumerate()
                        .fold(0, |word, (bit, mark)| word | u64::from(*mark) << bit)
                };
                Unsynced::Partitions(marks.chunks(64).map(word).collect())
            }
        };
    }

    /// Number of unsynced ones of `partitions` partitions.
    pub fn count(&self, partitions: u32) -> u32 {
        (0..partitions)
            .filter(|partition| self.contains(*partition))
            .count() as u32
    }
}

/// The content of the identity file.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Identity {
    /// Random, made with the directory.
    pub store_id: u64,
    /// Random, made with the directory; seeds the checksums of the log, so that no stored bytes can pass for a group.
    pub log_salt: u64,
    /// The cluster this store belongs to, once it belongs to one.
    pub cluster_id: Option<u64>,
    /// Name of the node.
    pub node_name: String,
    /// Q, the number of partitions; fixed when the cluster is created, 0 before.
    pub partitions: u32,
    /// The live layouts, encoded by their owner; empty before there is one.
    pub layouts: Vec<u8>,
    /// A decree of epoch 1 that is not finished, encoded by its owner; empty if there is none.
    pub unfinished_decree: Vec<u8>,
    /// Votes and trackers, encoded by their owner.
    pub votes: Vec<u8>,
    /// Partitions that do not count toward R.
    pub unsynced: Unsynced,
    /// The engine failed: the next start renames its directory aside before anything else.
    pub set_aside: bool,
}

impl Identity {
    /// The identity of a new, empty directory. Both numbers must be random.
    pub fn new(store_id: u64, log_salt: u64, node_name: impl Into<String>) -> Self {
        Self {
            store_id,
            log_salt,
            cluster_id: None,
            node_name: node_name.into(),
            partitions: 0,
            layouts: Vec::new(),
            unfinished_decree: Vec::new(),
            votes: Vec::new(),
            unsynced: Unsynced::None,
            set_aside: false,
        }
    }
}

/// The identity file. Shared by reference; updates are made one after the other.
#[derive(Debug)]
pub struct IdentityFile {
    slots: Mutex<TwoSlot>,
    current: Mutex<Arc<Identity>>,
    created: bool,
    /// Set for good when a sync has failed, of this file or of another that promises rest on.
    failure: watch::Sender<Option<String>>,
}

impl IdentityFile {
    /// Reads the identity of a disk, or makes (durably) the one that `create` returns if there is none.
    pub fn load_or_create(
        disk: Arc<dyn Disk>,
        create: impl FnOnce() -> Identity,
    ) -> Result<Self, SlotError> {
        let (mut slots, loaded) = TwoSlot::open(disk, NAME, FORMAT)?;
        if let Some(loaded) = loaded {
            return Ok(Self::new(slots, decode(&loaded.payload)?, false));
        }
        let identity = create();
        slots.write(FORMAT, &encode(&identity)?)?;
        Ok(Self::new(slots, identity, true))
    }

    /// Reads the identity of a disk; `None` if there is none, and none is made.
    pub fn load(disk: Arc<dyn Disk>) -> Result<Option<Self>, SlotError> {
        let (slots, loaded) = TwoSlot::open(disk, NAME, FORMAT)?;
        let Some(loaded) = loaded else {
            return Ok(None);
        };
        Ok(Some(Self::new(slots, decode(&loaded.payload)?, false)))
    }

    fn new(slots: TwoSlot, identity: Identity, created: bool) -> Self {
        Self {
            slots: Mutex::new(slots),
            current: Mutex::new(Arc::new(identity)),
            created,
            failure: watch::Sender::new(None),
        }
    }

    /// Whether this start made the file: the directory is new.
    pub fn created(&self) -> bool {
        self.created
    }

    /// The durable identity. Never waits for the disk.
    pub fn current(&self) -> Arc<Identity> {
        self.current.lock().expect("no holder panics").clone()
    }

    /// Why nothing can be promised any more: a sync has failed. The process is to end then, and the next start reads what is on disk.
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.subscribe()
    }

    /// A sync of another file that promises rest on has failed: see [`Self::failure`].
    pub(crate) fn fail(&self, error: &SlotError) {
        self.failure.send_replace(Some(error.to_string()));
    }

    /// Changes the identity; durable when this returns. After an error [`IdentityFile::current`] is what it was, while
    /// the disk may hold either: the process has to end, see [`Self::failure`]. A change that changes nothing writes nothing.
    pub fn update<T>(&self, change: impl FnOnce(&mut Identity) -> T) -> Result<T, SlotError> {
        let mut slots = self
            .slots
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let before = self.current();
        let mut identity = Identity::clone(&before);
        let result = change(&mut identity);
        if identity != *before {
            if let Err(error) = slots.write(FORMAT, &encode(&identity)?) {
                if slots.is_poisoned() {
                    self.failure.send_replace(Some(error.to_string()));
                }
                return Err(error);
            }
            *self.current.lock().expect("no holder panics") = Arc::new(identity);
        }
        Ok(result)
    }
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard()
        .with_little_endian()
        .with_fixed_int_encoding()
        .with_limit::<PAYLOAD_BYTES_MAX>()
}

fn encode(identity: &Identity) -> Result<Vec<u8>, SlotError> {
    bincode::encode_to_vec(identity, config()).map_err(|error| content(&error.to_string()))
}

fn decode(payload: &[u8]) -> Result<Identity, SlotError> {
    match bincode::decode_from_slice(payload, config()) {
        Ok((identity, used)) if used == payload.len() => Ok(identity),
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
