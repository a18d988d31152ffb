//! What a start makes of what it found: which partitions lack something (I3), and of which it is known what.

use std::collections::BTreeSet;

use super::replay::{Intent, Replayed};
use super::survey::Survey;
use crate::checkpoint::Checkpoint;
use crate::identity::Unsynced;
use crate::key::Key;
use crate::log::Recovered;
use crate::merkle::Forest;
use crate::record::NO_LEAF;
use crate::store::evidence::{Evidence, Loss};
use crate::store::partition_of;
use crate::store::table::Table;
use crate::twoslot::SlotError;

/// What a start found.
pub(super) struct Found<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) intent: Option<&'a Intent>,
    pub(super) survey: &'a Survey,
    pub(super) log: &'a Recovered,
    pub(super) replayed: &'a Replayed,
    /// See [`damaged`].
    pub(super) damaged: &'a BTreeSet<Key>,
    pub(super) was_clean: bool,
}

/// The keys whose record in the engine is damaged and needed: the log does not say all of it.
pub(super) fn damaged(survey: &Survey, replayed: &Replayed, table: &Table) -> BTreeSet<Key> {
    let found = survey.damaged.iter().chain(&replayed.damaged);
    let is_needed = |key: &&Key| {
        let mut shard = table.lock_key(key);
        let whole = shard.get(key).is_some_and(|e| e.slot.whole().is_some());
        if whole {
            table.change(&mut shard, key, |entry| {
                entry.base_leaf.get_or_insert(NO_LEAF);
            });
        }
        !whole
    };
    found.filter(is_needed).cloned().collect()
}

impl Found<'_> {
    /// The partitions that do not hold what checkpoint and log say they should; `None`: all of them, as far as anyone can
    /// tell.
    pub(super) fn unsynced(&self) -> Option<Vec<u32>> {
        let partitions = self.partitions();
        // After a clean stop the engine holds all that the log held.
        let lost_records = !self.was_clean
            && self
                .log
                .damage
                .iter()
                .any(|damage| damage.missing.is_some());
        // An engine that no drain had finished with held nothing that the log does not hold: a cut in its making is no loss.
        let lost_engine = self.survey.replaced.is_some() && self.checkpoint.applied > 0;
        if lost_engine || lost_records {
            return None;
        }
        let (held, expected) = (self.held().roots(), self.expected());
        let differs = |partition: &u32| {
            let index = *partition as usize;
            held.get(index) != expected.get(index)
        };
        let damaged = self.damaged.iter();
        let damaged = damaged.map(|key| partition_of(key.token(), partitions));
        let unsynced: BTreeSet<u32> = (0..partitions).filter(differs).chain(damaged).collect();
        Some(unsynced.into_iter().collect())
    }

    /// Notes durably what is known of the losses of the partitions that this start found `unsynced`: of those with which nothing
    /// else was wrong `before`.
    ///
    /// # Errors
    /// [`SlotError`].
    pub(super) fn note_losses(
        &self,
        evidence: &Evidence,
        before: &Unsynced,
        unsynced: Option<&[u32]>,
    ) -> Result<(), SlotError> {
        let Some(unsynced) = unsynced else {
            return evidence.forget_all();
        };
        let partitions = self.partitions();
        let (held, expected) = (self.held(), self.expected());
        let mut state = evidence.lock();
        for &partition in unsynced {
            if !before.contains(partition) {
                state.begin(partition);
            }
            if !state.covers(partition) {
                continue;
            }
            let rest = held.tree(partition).clone();
            let (root, count) = expected
                .get(partition as usize)
                .copied()
                .unwrap_or_default();
            if (rest.root(), rest.count()) == (root, count) {
                continue;
            }
            let damaged = self.damaged.iter();
            let here = damaged.filter(|key| partition_of(key.token(), partitions) == partition);
            let mut keys: BTreeSet<Key> = here.cloned().collect();
            // What was lost before is not expected any more, unless it had come back.
            if keys.len() as u32 != count.wrapping_sub(rest.count()) {
                let known = state.keys(partition);
                keys.retain(|key| !known.contains(key));
            }
            let loss = Loss {
                root,
                count,
                rest,
                keys: keys.into_iter().collect(),
            };
            state.add(partition, loss);
        }
        state.write()
    }

    fn partitions(&self) -> u32 {
        self.survey.forest.partitions()
    }

    /// The trees of what is there, without damaged records.
    fn held(&self) -> &Forest {
        match (self.intent, &self.replayed.at_intent) {
            (Some(_), Some(forest)) => forest,
            _ => &self.survey.forest,
        }
    }

    /// Root and count of what should be there.
    fn expected(&self) -> Vec<(u64, u32)> {
        match (self.intent, &self.replayed.at_intent) {
            (Some(intent), Some(_)) => intent.roots.clone(),
            _ if self.checkpoint.partitions.len() != self.partitions() as usize => {
                Forest::new(self.partitions()).roots()
            }
            _ => {
                let sums = self.checkpoint.partitions.iter();
                sums.map(|sum| (sum.root, sum.count)).collect()
            }
        }
    }
}
