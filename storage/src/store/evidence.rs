//! What a partition held when damage was found in it, and what of that could still be read: so that it is known, without anybody's
//! word, when it is whole again. Keeps I3 for copies that lost records.
//!
//! # Why it is sound
//!
//! A copy counts toward R if every write that this store acknowledged is in it, or one whose context covered that. I3 follows,
//! since of R and W copies with R + W > N one is the same. Damage takes records away and nothing else: what was merged later
//! is in the log, and the table has it. So the copy counts again as soon as it has the lost records back, each as it was or
//! merged with what came later.
//!
//! What they were is told by the tree. Its root and count are of the whole copy, from before the damage (the kept tree, or the
//! checkpoint or intent that a start compares with); `rest` is the tree of what still verified. If `rest` with the leaves of
//! other copies of the lost keys put in has that root and that count, then those copies are what was lost: clock, siblings, and the
//! hashes of all values. Who holds them need not count for anything, so two owners that both lost records of one partition do not
//! wait for each other, and one copy can restore two others.
//!
//! The word is only about damage. A copy that does not count for any other reason (new, given away, restored from an image, a
//! lost log) has no evidence, and whoever marks it so [forgets](Evidence::forget) what there was, durably, before the mark. And it
//! is strict: a row that came back older than it was, or under another key, is in no list, and no leaves explain it. Then, and
//! when all other owners have newer versions of a lost key, the way back is the repair from all other owners.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bincode::{Decode, Encode};
use bytes::Bytes;

use crate::disk::Disk;
use crate::key::Key;
use crate::merkle::{BUCKETS, Tree};
use crate::record::NO_LEAF;
use crate::twoslot::{PAYLOAD_BYTES_MAX, SlotError, TwoSlot};

/// Name of the two-slot file.
pub const NAME: &str = "evidence";

/// Newest format that this program reads and writes.
pub const FORMAT: u32 = 1;

/// Losses of one partition that are remembered; with more of them it is repaired from all other owners.
const LOSSES_MAX: usize = 8;

/// Bytes that all losses take in the file, at most, near enough; partitions for which there is no room are repaired from all other
/// owners.
const BYTES_MAX: usize = PAYLOAD_BYTES_MAX / 2;

/// Ways to combine the copies of several owners that are tried, at most.
const COMBINATIONS_MAX: usize = 4_096;

/// Records of a partition that were lost at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Root of the whole copy's tree.
    pub(super) root: u64,
    /// Keys of the whole copy.
    pub(super) count: u32,
    /// The tree of what still verified.
    pub(super) rest: Tree,
    /// The keys that did not.
    pub(super) keys: Vec<Key>,
}

/// What a partition lacks, if that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing {
    losses: Vec<Loss>,
    /// Q.
    partitions: u32,
}

impl Missing {
    /// The keys that are missing, ascending.
    pub fn keys(&self) -> BTreeSet<Key> {
        let keys = self.losses.iter().flat_map(|loss| &loss.keys);
        keys.cloned().collect()
    }

    /// Whether copies with these leaves, of which there may be several of one key, are all that is missing. A key of which
    /// somebody holds nothing may have [`NO_LEAF`].
    pub fn is_explained_by(&self, leaves: &BTreeMap<Key, Vec<u64>>) -> bool {
        let mut losses = self.losses.iter();
        losses.all(|loss| loss.is_explained_by(leaves, self.partitions))
    }
}

impl Loss {
    fn is_explained_by(&self, leaves: &BTreeMap<Key, Vec<u64>>, partitions: u32) -> bool {
        let known = self.keys.iter().map(|key| {
            let mut leaves = leaves.get(key)?.clone();
            // That somebody holds nothing is the least likely: it was lost there, too.
            leaves.sort_by_key(|leaf| *leaf == NO_LEAF);
            Some(leaves)
        });
        let Some(choices) = known.collect::<Option<Vec<_>>>() else {
            return false;
        };
        let combinations = choices
            .iter()
            .try_fold(1_usize, |count, leaves| count.checked_mul(leaves.len()));
        let combinations = combinations.unwrap_or(usize::MAX).min(COMBINATIONS_MAX);
        (0..combinations).any(|mut number| {
            let mut tree = self.rest.clone();
            for (key, leaves) in self.keys.iter().zip(&choices) {
                let bucket = super::digest::bucket_of(key.token(), partitions);
                tree.apply(bucket, NO_LEAF, leaves[number % leaves.len()]);
                number /= leaves.len();
            }
            (tree.root(), tree.count()) == (self.root, self.count)
        })
    }

    /// What it takes in the file.
    fn byte_len(&self) -> usize {
        let keys = self.keys.iter().map(|key| key.framed().len() + 16);
        8 * BUCKETS + 64 + keys.sum::<usize>()
    }
}

/// The evidence of one store, and its file.
pub(super) struct Evidence {
    state: Mutex<State>,
}

/// Held while a mark of a partition and its evidence change together.
pub(super) struct State {
    slots: TwoSlot,
    /// Of partitions that do not count because of damage and nothing else. No losses: they are still being looked at.
    known: BTreeMap<u32, Vec<Loss>>,
    /// The partitions of which the file says anything.
    written: BTreeSet<u32>,
    dirty: bool,
}

impl Evidence {
    /// Reads the file of a disk. What it says of partitions that are not unsynced is of another time, and is forgotten. A file that is
    /// damaged itself is as good as none.
    ///
    /// # Errors
    /// [`SlotError`]: it is of a newer format, or the disk failed.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        is_unsynced: impl Fn(u32) -> bool,
    ) -> Result<Evidence, SlotError> {
        let (slots, stored) = match TwoSlot::open(Arc::clone(disk), NAME, FORMAT) {
            Err(SlotError::Damaged { .. }) => {
                tracing::warn!("the file of what damage took is damaged itself: it is begun anew");
                for slot in ["a", "b"] {
                    let path = format!("{NAME}.{slot}");
                    // Whatever cannot be removed fails the next opening.
                    let _ = disk.remove(&path);
                }
                TwoSlot::open(Arc::clone(disk), NAME, FORMAT)?
            }
            opened => opened?,
        };
        let stored = stored.and_then(|stored| decode(&stored.payload));
        let stored = stored.unwrap_or_default();
        let written: BTreeSet<u32> = stored.keys().copied().collect();
        let mut known = stored;
        known.retain(|partition, _| is_unsynced(*partition));
        let dirty = known.len() != written.len();
        Ok(Evidence {
            state: Mutex::new(State {
                slots,
                known,
                written,
                dirty,
            }),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets, durably, what is known of these partitions: something else is wrong with them now, or nothing is any more.
    ///
    /// # Errors
    /// [`SlotError`]: then they must not be marked otherwise either.
    pub(super) fn forget(&self, partitions: impl Iterator<Item = u32>) -> Result<(), SlotError> {
        let mut state = self.lock();
        for partition in partitions {
            state.known.remove(&partition);
            state.dirty |= state.written.contains(&partition);
        }
        state.write()
    }

    /// The same of all.
    ///
    /// # Errors
    /// As [`Self::forget`].
    pub(super) fn forget_all(&self) -> Result<(), SlotError> {
        let mut state = self.lock();
        state.known.clear();
        state.dirty |= !state.written.is_empty();
        state.write()
    }

    /// What a partition lacks; `None`: unknown, or not known yet.
    pub(super) fn missing(&self, partition: u32, partitions: u32) -> Option<Missing> {
        let losses = self.lock().known.get(&partition)?.clone();
        (!losses.is_empty()).then_some(Missing { losses, partitions })
    }
}

impl State {
    /// Damage was found in a partition that counted until now.
    pub(super) fn begin(&mut self, partition: u32) {
        self.known.insert(partition, Vec::new());
    }

    /// Whether nothing but damage is wrong with this partition.
    pub(super) fn covers(&self, partition: u32) -> bool {
        self.known.contains_key(&partition)
    }

    /// The keys of what was lost of a partition before.
    pub(super) fn keys(&self, partition: u32) -> BTreeSet<Key> {
        let losses = self.known.get(&partition).into_iter().flatten();
        losses.flat_map(|loss| loss.keys.iter().cloned()).collect()
    }

    /// Adds a loss, if nothing but damage is wrong with the partition.
    pub(super) fn add(&mut self, partition: u32, loss: Loss) {
        let used = self.known.values().flatten().map(Loss::byte_len);
        let fits = used.sum::<usize>() + loss.byte_len() <= BYTES_MAX;
        let Some(losses) = self.known.get_mut(&partition) else {
            return;
        };
        self.dirty = true;
        if fits && losses.len() < LOSSES_MAX {
            losses.push(loss);
        } else {
            self.known.remove(&partition);
        }
    }

    /// Too much of a partition is damaged to say what.
    pub(super) fn give_up(&mut self, partition: u32) {
        self.known.remove(&partition);
        self.dirty |= self.written.contains(&partition);
    }

    /// Makes it durable, if there is anything new.
    ///
    /// # Errors
    /// [`SlotError`].
    pub(super) fn write(&mut self) -> Result<(), SlotError> {
        if !self.dirty {
            return Ok(());
        }
        let whole = self.known.iter().filter(|(_, losses)| !losses.is_empty());
        let written = whole.clone().map(|(partition, _)| *partition).collect();
        self.slots.write(FORMAT, &encode(whole)?)?;
        self.written = written;
        self.dirty = false;
        Ok(())
    }
}

/// A loss as it is stored.
#[derive(Encode, Decode)]
struct Stored {
    partition: u32,
    root: u64,
    count: u32,
    buckets: Vec<u64>,
    rest: u32,
    keys: Vec<(u64, Vec<u8>)>,
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard()
        .with_little_endian()
        .with_fixed_int_encoding()
        .with_limit::<PAYLOAD_BYTES_MAX>()
}

fn encode<'a>(
    losses: impl Iterator<Item = (&'a u32, &'a Vec<Loss>)>,
) -> Result<Vec<u8>, SlotError> {
    let of = |(partition, losses): (&'a u32, &'a Vec<Loss>)| {
        let partition = *partition;
        losses.iter().map(move |loss| Stored {
            partition,
            root: loss.root,
            count: loss.count,
            buckets: loss.rest.buckets().to_vec(),
            rest: loss.rest.count(),
            keys: {
                let keys = loss.keys.iter();
                keys.map(|key| (key.token(), key.framed().to_vec()))
                    .collect()
            },
        })
    };
    let stored: Vec<Stored> = losses.flat_map(of).collect();
    bincode::encode_to_vec(stored, config()).map_err(|error| SlotError::Content {
        name: NAME.to_owned(),
        what: error.to_string(),
    })
}

/// `None`: it makes no sense, and is as good as none.
fn decode(payload: &[u8]) -> Option<BTreeMap<u32, Vec<Loss>>> {
    let decoded = bincode::decode_from_slice::<Vec<Stored>, _>(payload, config());
    let (stored, _) = decoded.ok()?;
    let mut losses: BTreeMap<u32, Vec<Loss>> = BTreeMap::new();
    for one in stored {
        let keys = one.keys.into_iter();
        let keys = keys.map(|(token, framed)| Key::from_framed(token, Bytes::from(framed)));
        let loss = Loss {
            root: one.root,
            count: one.count,
            rest: Tree::from_parts(one.buckets.try_into().ok()?, one.rest),
            keys: keys.collect::<Result<_, _>>().ok()?,
        };
        losses.entry(one.partition).or_default().push(loss);
    }
    Some(losses)
}
