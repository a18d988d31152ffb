//! First half of a drain: what shall the engine hold for each key of the freeze, and with which roots? Keeps "whoever
//! reads an operand folds it first". Reads the engine, changes nothing in it.

use std::sync::Arc;

use super::pace::Done;
use super::stages::{Change, Inserting};
use super::{DrainFailed, DrainStep, Drainer, Frozen, Stage};
use crate::codec;
use crate::key::Key;
use crate::merkle::Forest;
use crate::record::NO_LEAF;
use crate::store::Inner;
use crate::store::entry::{Generation, Slot};
use crate::store::merging::fold;
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
        Self {
            frozen,
            changes,
            forest: inner.forest().clone(),
        }
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
    pub(super) fn fold(
        &mut self,
        mut folding: Folding,
        now_ms: u64,
    ) -> Result<DrainStep, DrainFailed> {
        let from = folding.changes.len();
        let to = folding.frozen.keys.len().min(from + FOLD_BATCH);
        for index in from..to {
            match self.fold_key(&folding.frozen.keys[index], folding.frozen.generation)? {
                Folded::Change(change) => {
                    folding
                        .forest
                        .apply(change.key.token(), change.old_leaf, change.record.leaf());
                    folding.changes.push(change);
                }
                Folded::Damaged => return self.start_over(folding),
            }
        }
        if to < folding.frozen.keys.len() {
            return self.paced(Stage::Fold(folding), now_ms, Done::Folded(to));
        }
        if self.is_damaged() {
            return self.start_over(folding);
        }
        let (sequence, roots) = (folding.frozen.sequence, folding.forest.roots());
        let hints_sum = folding.frozen.hints_sum;
        let intent = self
            .inner
            .log
            .append(|buffer| codec::encode_intent(sequence, hints_sum, &roots, buffer));
        let inserting = Inserting {
            sequence,
            generation: folding.frozen.generation,
            roots,
            changes: folding.changes,
            hints: folding.frozen.hints,
            hints_sum,
            next: 0,
        };
        self.worked(Stage::AwaitIntent { intent, inserting })
    }

    /// Rebuilds kept trees without the damage that came to light, and folds once more on them.
    fn start_over(&mut self, folding: Folding) -> Result<DrainStep, DrainFailed> {
        while let Some(partition) = self.damaged_partition() {
            self.heal(partition)?;
        }
        let again = Folding::new(&self.inner, folding.frozen);
        self.worked(Stage::Fold(again))
    }

    fn fold_key(&self, key: &Key, generation: Generation) -> Result<Folded, DrainFailed> {
        let inner = &*self.inner;
        let (slot, base_leaf, is_superseded) = {
            let shard = inner.table.lock_key(key);
            let entry = shard.get(key).expect("dirty entries are not evicted");
            (
                entry
                    .value_at(generation)
                    .expect("listed by this freeze")
                    .clone(),
                entry.base_leaf,
                entry.slot.whole().is_some(),
            )
        };
        let change = |record, old_leaf| {
            Folded::Change(Change {
                key: key.clone(),
                record,
                old_leaf,
            })
        };
        match (slot, base_leaf) {
            (Slot::Whole(record), Some(old_leaf)) => Ok(change(record, old_leaf)),
            (slot, _) => {
                let under = match rowio::read(&inner.engine, key)? {
                    Stored::Record(under) => Some(Arc::new(under)),
                    Stored::Nothing => None,
                    // Known before: the kept tree was rebuilt without it.
                    Stored::Damaged if inner.quarantine.is_left_out(key) => {
                        let needs_it = slot.whole().is_none() && !is_superseded;
                        if needs_it && !inner.is_quarantined(key) {
                            inner.quarantine(key);
                            return Ok(Folded::Damaged);
                        }
                        None
                    }
                    Stored::Damaged => {
                        self.heal(inner.partition_of(key.token()))?;
                        // A damaged engine can hide a row from a scan and still find it by its key.
                        inner.quarantine.leave_out_too(key);
                        return Ok(Folded::Damaged);
                    }
                };
                let old_leaf = under.as_ref().map_or(NO_LEAF, |under| under.leaf());
                let Slot::Operand(operand) = slot else {
                    return Ok(change(Arc::clone(slot.record()), old_leaf));
                };
                let record = fold(key, under.as_ref(), &operand);
                inner.note_due(key, &record);
                // A quarantined key stays an operand: what is under it may be less than this store once had.
                if !inner.is_quarantined(key) {
                    self.put_back(key, generation, Arc::clone(&record), old_leaf);
                }
                Ok(change(record, old_leaf))
            }
        }
    }

    /// Replaces the operand of the freeze by what it was folded to; the key's dirty mark stays.
    fn put_back(
        &self,
        key: &Key,
        generation: Generation,
        record: Arc<crate::Record>,
        old_leaf: u64,
    ) {
        let mut shard = self.inner.table.lock_key(key);
        self.inner.table.change(&mut shard, key, |entry| {
            entry.base_leaf = Some(old_leaf);
            match &mut entry.frozen {
                Some(frozen) => **frozen = Slot::Whole(record),
                None => {
                    debug_assert_eq!(
                        entry.dirty, generation,
                        "a write would have stashed the frozen value"
                    );
                    entry.slot = Slot::Whole(record);
                }
            }
        });
    }
}
