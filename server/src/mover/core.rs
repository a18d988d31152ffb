//! What the worker does next: a function of what the node knows of the change, and of what of it is done here.
//!
//! Keeps the order of the promises (I3) by leaving it to [`History::step`]; what it adds is which partitions are still to be
//! received, and from whom. *Leaves out on purpose:* time, disk, network. After a crash the same knowledge, which is durable,
//! gives the same task.

use std::collections::BTreeSet;

use ringfort_ring::{Acquisition, Decree, History, PartitionId, Sources, Step, StoreId, Trackers};

/// What the worker knows.
pub struct Known<'a> {
    /// The newest decree, and everyone's trackers.
    pub history: &'a History,
    /// This store.
    pub me: StoreId,
    /// What the newer of two live layouts gives it.
    pub acquired: &'a [Acquisition],
    /// What it owns by the only live layout, and who owns it beside this store.
    pub owned: &'a [Acquisition],
    /// Whether its copy of a partition holds all that it should, durably said.
    pub is_synced: &'a dyn Fn(PartitionId) -> bool,
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
    /// Of these partitions too few old owners are left, and the loss of the others is not accepted.
    pub lost: Vec<PartitionId>,
}

/// One partition that can be received now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The partition.
    pub partition: PartitionId,
    /// Its old owners, in the order in which they are asked. Empty: none is left, and the loss is accepted.
    pub from: Vec<StoreId>,
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
            let receiving = receiving(known);
            if receiving == Receiving::default() {
                return Task::Merged(Trackers {
                    merged: epoch,
                    ..mine
                });
            }
            Task::Receive(receiving)
        }
        Step::Flip(epoch) => Task::Flip(Trackers {
            flipped: epoch,
            ..mine
        }),
        Step::Retire(decree) => Task::Retire(decree),
        Step::Settled => match repairing(known) {
            none if none == Receiving::default() => Task::Rest,
            missing => Task::Repair(missing),
        },
        Step::Wait(_) => Task::Rest,
    }
}

fn receiving(known: &Known<'_>) -> Receiving {
    let mut receiving = Receiving::default();
    let left = known.acquired.iter();
    for acquisition in left.filter(|a| !(known.is_synced)(a.partition)) {
        let partition = acquisition.partition;
        match known.history.sources(acquisition) {
            Sources::From(mut from) => {
                // Each old owner streams its share.
                let first = partition.0 as usize % from.len().max(1);
                from.rotate_left(first);
                receiving.ready.push(Receipt { partition, from });
            }
            Sources::Wait(stores) => receiving.waits_for.extend(stores),
            Sources::Lost(_) => receiving.lost.push(partition),
        }
    }
    receiving
}

/// What is missing here, by all other owners: a copy that was exchanged with each of them, all of them synced, holds whatever
/// any quorum did. Without other owners, or while one is excused, nobody can tell, and it stays missing.
fn repairing(known: &Known<'_>) -> Receiving {
    let is_off = |store: &StoreId| known.history.decree().excused().contains_key(store);
    let mut missing = Receiving::default();
    for owned in known
        .owned
        .iter()
        .filter(|o| !(known.is_synced)(o.partition))
    {
        let partition = owned.partition;
        if owned.from.is_empty() || owned.from.iter().any(is_off) {
            continue;
        }
        let mut from = owned.from.clone();
        from.rotate_left(partition.0 as usize % owned.from.len());
        missing.ready.push(Receipt { partition, from });
    }
    missing
}

/// How far one partition is received. Kept in memory alone: after a crash it begins anew, and merging twice is harmless.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stage {
    /// Old owners that are through: what each held past its own `ack` is here.
    done: BTreeSet<StoreId>,
    /// The one that is being asked, and the framed key to go on after.
    at: Option<(StoreId, Vec<u8>)>,
    /// The log sequence of the last change that was made here for it.
    pub sequence: u64,
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
        let mut left = from.iter().filter(|store| !self.done.contains(store));
        let store = *match &self.at {
            Some((at, _)) if from.contains(at) && !self.done.contains(at) => at,
            _ => left.next()?,
        };
        let after = match &self.at {
            Some((at, after)) if *at == store => after.clone(),
            _ => Vec::new(),
        };
        Some(Ask {
            store,
            whole: self.done.is_empty(),
            after,
        })
    }

    /// A page of this old owner is merged here, by changes up to the log's `sequence`; it goes on after `next`, or is through.
    pub fn advance(&mut self, store: StoreId, next: &[u8], sequence: u64) {
        self.sequence = self.sequence.max(sequence);
        if next.is_empty() {
            self.done.insert(store);
            self.at = None;
        } else {
            self.at = Some((store, next.to_vec()));
        }
    }
}

#[cfg(test)]
mod tests;
