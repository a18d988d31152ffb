//! First half of a drain: what shall the engine hold for each key of the freeze, and with which roots? Keeps "whoever
//! reads an operand folds it first". Reads the engine, changes nothing in it.

use std::sync::Arc;

use super::stages::{Change, Inserting};
use super::{DrainFailed, DrainStep, Drainer, Frozen, Stage};
use crate::codec;
use crate::engine::EngineError;
use crate::key::Key;
use crate::merkle::Forest;
use crate::record::NO_LEAF;
use crate::store::Inner;
use crate::store::entry::{Generation, Slot};
use crate::store::load::fold;
use crate::store::rowio::{self, Stored};

/// Keys folded in one step.
const FOLD_BATCH: usize = 64;

/// A freeze that is being folded.
pub(super) struct Folding {
    frozen: Frozen,
    changes: Vec<Change>,
    /// The trees as they will be.
    forest: Forest,
}

impl Folding {
    pub(super) fn new(inner: &Inner, frozen: Frozen) -> Self {
        let changes = Vec::with_capacity(frozen.keys.len());
        Self { frozen, changes, forest: inner.forest().clone() }
    }
}

/// One key folded.
enum Folded {
    Change(Change),
    /// Its record in the engine is damaged, and the kept tree may still have the record's leaf.
    Damaged,
}

impl Drainer {
    /// Folds a batch; after the last, logs the intent.
    pub(super) fn fold(&mut self, mut folding: Folding) -> Result<DrainStep, DrainFailed> {
        let from = folding.changes.len();
        let to = folding.frozen.keys.len().min(from + FOLD_BATCH);
        for index in from..to {
            match self.fold_key(&folding.frozen.keys[index], folding.frozen.generation)? {
                Folded::Change(change) => {
                    folding.forest.apply(change.key.token(), change.old_leaf, change.record.leaf());
                    folding.changes.push(change);
                }
                Folded::Damaged => {
                    // Rebuilds the kept tree without the damage, and starts over on it.
                    while let Some(partition) = self.damaged_partition() {
                        self.heal(partition)?;
                    }
                    let again = Folding::new(&self.inner, folding.frozen);
                    return self.worked(Stage::Fold(again));
                }
            }
        }
        if to < folding.frozen.keys.len() {
            return self.worked(Stage::Fold(folding));
        }
        let (sequence, roots) = (folding.frozen.sequence, folding.forest.roots());
        let intent = self.inner.log.append(|buffer| codec::encode_intent(sequence, &roots, buffer));
        let inserting =
            Inserting { sequence, generation: folding.frozen.generation, roots, changes: folding.changes, next: 0 };
        self.worked(Stage::AwaitIntent { intent, inserting })
    }

    fn fold_key(&self, key: &Key, generation: Generation) -> Result<Folded, EngineError> {
        let inner = &*self.inner;
        let (slot, base_leaf) = {
            let shard = inner.table.lock_key(key);
            let entry = shard.get(key).expect("dirty entries are not evicted");
            (entry.value_at(generation).expect("listed by this freeze").clone(), entry.base_leaf)
        };
        let change = |record, old_leaf| Folded::Change(Change { key: key.clone(), record, old_leaf });
        match (slot, base_leaf) {
            (Slot::Whole(record), Some(old_leaf)) => Ok(change(record, old_leaf)),
            (Slot::Whole(record), None) => Ok(match rowio::read(&*inner.engine, key)? {
                _ if inner.is_quarantined(key) => change(record, NO_LEAF),
                Stored::Nothing => change(record, NO_LEAF),
                Stored::Record(under) => change(record, under.leaf()),
                Stored::Damaged => self.damaged(key),
            }),
            (Slot::Operand(operand), base_leaf) => {
                let stored = rowio::read(&*inner.engine, key)?;
                let quarantined = inner.is_quarantined(key);
                let under = match stored {
                    Stored::Record(under) => Some(Arc::new(under)),
                    Stored::Nothing => None,
                    Stored::Damaged if quarantined => None,
                    Stored::Damaged => return Ok(self.damaged(key)),
                };
                let record = fold(key, under.as_ref(), &operand);
                if quarantined {
                    // The kept tree has nothing for this key, and it stays an operand: what is under it may be less
                    // than this store once had.
                    return Ok(change(record, base_leaf.unwrap_or(NO_LEAF)));
                }
                let old_leaf = under.map_or(NO_LEAF, |under| under.leaf());
                self.put_back(key, generation, Arc::clone(&record), old_leaf);
                Ok(change(record, old_leaf))
            }
        }
    }

    /// Replaces the operand of the freeze by what it was folded to; the key's dirty mark stays.
    fn put_back(&self, key: &Key, generation: Generation, record: Arc<crate::Record>, old_leaf: u64) {
        let mut shard = self.inner.table.lock_key(key);
        self.inner.table.change(&mut shard, key, |entry| {
            entry.base_leaf = Some(old_leaf);
            match &mut entry.frozen {
                Some(frozen) => **frozen = Slot::Whole(record),
                None => {
                    debug_assert_eq!(entry.dirty, generation, "a write would have stashed the frozen value");
                    entry.slot = Slot::Whole(record);
                }
            }
        });
    }

    fn damaged(&self, key: &Key) -> Folded {
        self.inner.quarantine(key);
        Folded::Damaged
    }
}
