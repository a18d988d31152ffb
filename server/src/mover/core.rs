//! What the worker does next: a function of what the node knows of the change, and of what of it is done here.
//!
//! Keeps the order of the promises (I3) by leaving it to [`History::step`]; what it adds is which partitions are still to be
//! received, and from whom. *Leaves out on purpose:* time, disk, network. After a crash the same knowledge, which is durable,
//! gives the same task.

use std::collections::{BTreeMap, BTreeSet};

use ringfort_ring::{
    Acquisition, Decree, Epoch, History, PartitionId, Sources, Step, StoreId, Trackers,
};
use ringfort_storage::mutants::{Mutant, is_planted};

/// What the worker knows.
pub struct Known<'a> {
    /// The newest decree, and everyone's trackers.
    pub history: &'a History,
    /// This store.
    pub me: StoreId,
    /// What the newer of two live layouts gives it.
    pub acquired: &'a [Acquisition],
    /// What it owns by the oldest live layout, and who owns it beside this store.
    pub owned: &'a [Acquisition],
    /// Whether its copy of a partition holds all that it should, durably said.
    pub is_synced: &'a dyn Fn(PartitionId) -> bool,
    /// The same of another store, as far as this node has heard.
    pub counts: &'a dyn Fn(StoreId, PartitionId) -> bool,
    /// Whether nothing but damage is wrong with this store's copy of a partition, so that it may be known what it lacks.
    pub is_damaged: &'a dyn Fn(PartitionId) -> bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// This store is excused or not listed: stop.
    Out,
    /// Erase these partitions, mark them unsynced, then raise the trackers to this.
    Acknowledge(Vec<PartitionId>, Trackers),
    /// Receive what can be received now.
    Receive(Receiving),
    /// All is received: raise the trackers to this.
    Merged(Trackers),
    /// All members have merged: learn which copies count, then raise the trackers to this.
    Flip(Trackers),
    /// Propose this decree.
    Retire(Box<Decree>),
    /// Receive from all other owners what is missing here: the copy of a new directory, or of one that has forgotten something.
    Repair(Receiving),
    /// Nothing, but what no live layout gives this store may be forgotten.
    Rest,
}

/// What is to be received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receiving {
    /// These partitions, each streamed from one of the stores and compared with the others.
    pub ready: Vec<Receipt>,
    /// These stores have not acknowledged yet, so that what they hold may still grow.
    pub waits_for: BTreeSet<StoreId>,
    /// Of these partitions too few copies are left that count, and the loss of the others is not accepted.
    pub lost: Vec<PartitionId>,
}

/// One partition that can be received now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The partition.
    pub partition: PartitionId,
    /// The layout by which it is to be had: the one that gives it, or else the oldest, by which this store owns it.
    pub layout: Epoch,
    /// Its old owners, in the order in which they are asked. Empty: none is left, and the loss is accepted.
    pub from: Vec<StoreId>,
    /// Of so many of them the copies must count.
    pub counting: usize,
    /// Whether it is to be had by fetching what damage took from this store's copy.
    pub damage: Damage,
}

/// What the loss of single records has to do with a partition that is to be received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Damage {
    /// Nothing: it is received whole.
    #[default]
    None,
    /// What was lost is fetched; if that cannot be told, the partition is received whole.
    First,
    /// What was lost is fetched; too few copies count for the partition to be received whole.
    Only,
}

/// What to do next.
pub fn next(known: &Known<'_>) -> Task {
    let mine = known.history.trackers_of(known.me);
    match known.history.step(known.me) {
        Step::Out => Task::Out,
        Step::Acknowledge(epoch) => {
            let partitions = known.acquired.iter().map(|a| a.partition);
            Task::Acknowledge(partitions.collect(), Trackers { ack: epoch, ..mine })
        }
        Step::Merge(epoch) => {
            let mut receiving = receiving(known);
            if receiving == Receiving::default() {
                return Task::Merged(Trackers {
                    merged: epoch,
                    ..mine
                });
            }
            // Others may wait for what is missing here.
            receiving.ready.extend(repairing(known).ready);
            Task::Receive(receiving)
        }
        Step::Flip(epoch) => Task::Flip(Trackers {
            flipped: epoch,
            ..mine
        }),
        Step::Retire(decree) => Task::Retire(decree),
        Step::Settled | Step::Wait(_) => match repairing(known) {
            none if none == Receiving::default() => Task::Rest,
            missing => Task::Repair(missing),
        },
    }
}

/// What a new layout gives this store and is not here yet.
fn receiving(known: &Known<'_>) -> Receiving {
    let mut receiving = Receiving::default();
    let layout = known.history.decree().newest().epoch();
    let left = known.acquired.iter();
    for acquisition in left.filter(|a| !(known.is_synced)(a.partition)) {
        let sources = match known.history.sources(acquisition) {
            Sources::Wait(stores)
                if is_planted(Mutant::CopyBeforeAck) && stores.len() < acquisition.from.len() =>
            {
                let mut present = acquisition.from.clone();
                present.retain(|store| !stores.contains(store));
                Sources::From {
                    stores: present,
                    counting: 0,
                }
            }
            sources => sources,
        };
        receiving.add(known, acquisition, layout, sources);
    }
    receiving
}

/// What is missing here of what this store owns already, by all other owners.
fn repairing(known: &Known<'_>) -> Receiving {
    let mut missing = Receiving::default();
    let layout = known.history.decree().oldest().epoch();
    let owned = known.owned.iter();
    for owned in owned.filter(|o| !(known.is_synced)(o.partition)) {
        let sources = known.history.sources_of_repair(&owned.from);
        missing.add(known, owned, layout, sources);
    }
    missing
}

impl Receiving {
    fn add(&mut self, known: &Known<'_>, wanted: &Acquisition, layout: Epoch, sources: Sources) {
        let partition = wanted.partition;
        let is_damaged = (known.is_damaged)(partition);
        let (stores, counting) = match sources {
            Sources::Wait(stores) => return self.waits_for.extend(stores),
            Sources::Lost(_) => (Vec::new(), None),
            Sources::From { stores, counting } => {
                let counted = stores.iter().filter(|s| (known.counts)(**s, partition));
                let enough = counted.count() >= counting;
                (stores, enough.then_some(counting))
            }
        };
        let damage = match (counting, is_damaged) {
            (None, false) => return self.lost.push(partition),
            (None, true) => Damage::Only,
            (Some(_), true) => Damage::First,
            (Some(_), false) => Damage::None,
        };
        let mut from = match damage {
            // Whoever can be asked: what is lost is told by itself.
            Damage::Only => {
                let excused = known.history.decree().excused();
                let present = wanted.from.iter().filter(|s| !excused.contains_key(*s));
                present.copied().collect()
            }
            Damage::None | Damage::First => stores,
        };
        // Each old owner streams its share.
        let first = partition.0 as usize % from.len().max(1);
        from.rotate_left(first);
        self.ready.push(Receipt {
            partition,
            layout,
            from,
            counting: counting.unwrap_or(usize::MAX),
            damage,
        });
    }
}

/// How far one partition is received. Kept in memory alone: after a crash it begins anew, and merging twice is harmless.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stage {
    /// Old owners that are through: what each held past its own `ack` is here; and whether it said with every page that its
    /// copy counts.
    done: BTreeMap<StoreId, bool>,
    /// The one that is being asked.
    at: Option<At>,
    /// The log sequence of the last change that was made here for it.
    pub sequence: u64,
}

/// In the midst of what an old owner holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct At {
    store: StoreId,
    /// The framed key to go on after.
    after: Vec<u8>,
    counts: bool,
}

/// What to ask of which old owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The old owner.
    pub store: StoreId,
    /// Whole objects, since nothing is here yet; else leaves, to compare by.
    pub whole: bool,
    /// Strictly after this framed key; empty: from the beginning.
    pub after: Vec<u8>,
}

impl Stage {
    /// The next page to ask for; `None`: all old owners are through.
    pub fn next(&self, from: &[StoreId]) -> Option<Ask> {
        let mut left = from.iter().filter(|store| !self.done.contains_key(store));
        let store = *match &self.at {
            Some(At { store, .. }) if from.contains(store) && !self.done.contains_key(store) => {
                store
            }
            _ => left.next()?,
        };
        let at = self.at.as_ref().filter(|at| at.store == store);
        let after = at.map(|at| at.after.clone()).unwrap_or_default();
        Some(Ask {
            store,
            whole: self.done.is_empty(),
            after,
        })
    }

    /// A page of this old owner, which says whether its copy counts, is merged here, by changes up to the log's `sequence`; it goes
    /// on after `next`, or is through.
    pub fn advance(&mut self, store: StoreId, next: &[u8], sequence: u64, counts: bool) {
        self.sequence = self.sequence.max(sequence);
        let before = self.at.take().filter(|at| at.store == store);
        let counts = counts && before.is_none_or(|at| at.counts);
        if next.is_empty() {
            self.done.insert(store, counts);
        } else {
            let after = next.to_vec();
            self.at = Some(At {
                store,
                after,
                counts,
            });
        }
    }

    /// Whether the copies of so many of these count. Otherwise those that did not are asked again.
    pub fn suffices(&mut self, from: &[StoreId], counting: usize) -> bool {
        let counts = |store: &&StoreId| self.done.get(store) == Some(&true);
        let enough = from.iter().filter(counts).count() >= counting;
        if !enough {
            self.done.retain(|_, counts| *counts);
        }
        enough
    }
}

#[cfg(test)]
mod tests;
