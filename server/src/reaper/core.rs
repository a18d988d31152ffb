//! What the worker that reaps asks, commits and erases next: a function of what was answered so far.
//!
//! Keeps I4: a round is committed only when every owner has confirmed it by one decree, and its records go only when every member
//! has said, by one decree that no answer names a newer one than, that it takes nothing older and holds no older hint. All
//! steps can be repeated, by several nodes at once, so what is lost is asked again and what a node forgets another one does.
//!
//! *Leaves out on purpose:* clocks, disk, network, which keys are due.

mod round;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ringfort_ring::{Epoch, StoreId};
use ringfort_storage::store::Tomb;
use tokio::time::Instant;

use self::round::{AGAIN, Round, Stage, advancing};

/// An owner that holds a list carries its round on after this, for each owner before it: mostly whoever began it does.
pub const TURN: Duration = Duration::from_secs(3);

/// What the node knows of the cluster.
pub struct Known<'a> {
    /// The newest decree.
    pub epoch: Epoch,
    /// All members of its live layouts, without those that are excused.
    pub members: &'a BTreeSet<StoreId>,
    /// Of these the owners of a partition, by any live layout.
    pub owners: &'a dyn Fn(u32) -> BTreeSet<StoreId>,
    /// This store.
    pub me: StoreId,
}

/// What a store is asked of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Are these its objects, durably, at this generation?
    Confirm {
        /// The generation.
        generation: u64,
        /// The objects.
        tombs: Arc<Vec<Tomb>>,
    },
    /// It shall take nothing below this generation any more, and count these as absent, if it is an owner.
    Advance {
        /// The generation.
        to: u64,
        /// None for who is no owner.
        tombs: Arc<Vec<Tomb>>,
    },
    /// It shall erase what it counts as absent at this generation.
    Finish {
        /// The generation.
        to: u64,
    },
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask a store, which may be this one.
    Ask {
        /// Which.
        store: StoreId,
        /// Of what.
        partition: u32,
        /// What.
        question: Question,
    },
    /// Make the round durable here, if this is still the newest decree and one layout lives.
    Commit {
        /// Of what.
        partition: u32,
        /// The new generation.
        to: u64,
        /// What is reaped.
        tombs: Arc<Vec<Tomb>>,
        /// The decree by which all have confirmed.
        epoch: Epoch,
    },
    /// Erase what is counted as absent here; then the round is over.
    End {
        /// Of what.
        partition: u32,
        /// The generation.
        to: u64,
    },
}

/// What an owner says to [`Question::Confirm`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Of each object whether its own is exactly that, durably.
    Exact(Vec<bool>),
    /// Its copy does not count, or it is at another generation, or in the midst of a round.
    Refused,
}

/// What a member says to [`Question::Advance`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// It takes nothing below this generation.
    pub generation: u64,
    /// The lowest generation that a hint of the partition was taken under that it holds.
    pub lowest_hint: Option<u64>,
}

/// A round that does not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stalled {
    /// Since when it is driven here.
    pub since: Instant,
    /// Who is not through.
    pub waits_for: Vec<StoreId>,
}

/// The rounds that a node has to do with.
#[derive(Debug, Default)]
pub struct Core {
    rounds: BTreeMap<u32, Round>,
}

impl Core {
    /// Begins a round of these objects, as this store has them at that generation.
    pub fn begin(&mut self, now: Instant, partition: u32, generation: u64, tombs: Vec<Tomb>) {
        if tombs.is_empty() || self.rounds.contains_key(&partition) {
            return;
        }
        let stage = Stage::Confirming {
            epoch: Epoch(0),
            exact: vec![true; tombs.len()],
            left: None,
        };
        let round = Round {
            to: generation + 1,
            tombs: Arc::new(tombs),
            since: now,
            stage,
        };
        self.rounds.insert(partition, round);
    }

    /// This store counts these as absent: the round is carried on, from `due` on.
    pub fn drive(
        &mut self,
        now: Instant,
        due: Instant,
        (partition, to): (u32, u64),
        tombs: &[Tomb],
    ) {
        let known = self.rounds.get(&partition);
        if known.is_some_and(|round| round.to == to && !round.is_before_commit()) {
            return;
        }
        let round = Round {
            to,
            tombs: Arc::new(tombs.to_vec()),
            since: now,
            stage: advancing(due),
        };
        self.rounds.insert(partition, round);
    }

    /// This store counts nothing of the partition as absent (any more): of a round that was committed nothing is left to do here.
    pub fn is_over(&mut self, partition: u32) {
        let over = self
            .rounds
            .get(&partition)
            .is_some_and(|round| !round.is_before_commit());
        if over {
            self.rounds.remove(&partition);
        }
    }

    /// Whether the node has to do with a round of the partition.
    pub fn has(&self, partition: u32) -> bool {
        self.rounds.contains_key(&partition)
    }

    /// How many rounds there are.
    pub fn len(&self) -> usize {
        self.rounds.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rounds.is_empty()
    }

    /// The partitions of rounds that are committed.
    pub fn driven(&self) -> Vec<u32> {
        let driven = self.rounds.iter().filter(|(_, r)| !r.is_before_commit());
        driven.map(|(partition, _)| *partition).collect()
    }

    /// The partitions of rounds that are not committed.
    pub fn confirming(&self) -> Vec<u32> {
        let before = self.rounds.iter().filter(|(_, r)| r.is_before_commit());
        before.map(|(partition, _)| *partition).collect()
    }

    /// All that can be done now. To be called until it gives nothing.
    pub fn next(&mut self, now: Instant, known: &Known<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        self.rounds
            .retain(|partition, round| round.next(*partition, now, known, &mut actions));
        actions
    }

    /// An owner has answered [`Question::Confirm`], by that decree.
    pub fn confirmed(
        &mut self,
        (store, partition): (StoreId, u32),
        generation: u64,
        epoch: Epoch,
        verdict: &Verdict,
    ) {
        let Some(round) = self.rounds.get_mut(&partition) else {
            return;
        };
        let Stage::Confirming {
            epoch: by,
            exact,
            left: Some(left),
        } = &mut round.stage
        else {
            return;
        };
        if round.to != generation + 1 || !left.remove(&store) {
            return;
        }
        match verdict {
            Verdict::Exact(said) if epoch == *by && said.len() == exact.len() => {
                for (exact, said) in exact.iter_mut().zip(said) {
                    *exact &= said;
                }
            }
            Verdict::Exact(_) | Verdict::Refused => drop(self.rounds.remove(&partition)),
        }
    }

    /// The round is durable here, or (`false`) was not to be committed.
    pub fn committed(&mut self, now: Instant, partition: u32, to: u64, is_durable: bool) {
        let Some(round) = self.rounds.get_mut(&partition) else {
            return;
        };
        if round.to != to || !matches!(round.stage, Stage::Committing) {
            return;
        }
        if is_durable {
            (round.stage, round.since) = (advancing(now), now);
        } else {
            self.rounds.remove(&partition);
        }
    }

    /// A member has answered [`Question::Advance`]; the decree is the newest that it knew *after* what it says was true.
    pub fn advanced(
        &mut self,
        (store, partition): (StoreId, u32),
        to: u64,
        epoch: Epoch,
        standing: Standing,
    ) {
        if let Some(round) = self.rounds.get_mut(&partition)
            && round.to == to
            && let Stage::Advancing { said, asked, .. } = &mut round.stage
        {
            asked.remove(&store);
            said.insert(store, (epoch, standing));
        }
    }

    /// An owner has answered [`Question::Finish`].
    pub fn finished(&mut self, store: StoreId, partition: u32, to: u64) {
        if let Some(round) = self.rounds.get_mut(&partition)
            && round.to == to
            && let Stage::Finishing { left } = &mut round.stage
        {
            left.remove(&store);
        }
    }

    /// A store gave no answer to that question.
    pub fn failed(&mut self, store: StoreId, partition: u32, question: &Question) {
        let Some(round) = self.rounds.get_mut(&partition) else {
            return;
        };
        match (&mut round.stage, question) {
            (Stage::Confirming { .. }, Question::Confirm { generation, .. })
                if round.to == generation + 1 =>
            {
                self.rounds.remove(&partition);
            }
            (Stage::Advancing { asked, .. }, Question::Advance { to, .. }) if *to == round.to => {
                asked.remove(&store);
            }
            // It holds the list, and so carries the round on by itself.
            (Stage::Finishing { left }, Question::Finish { to }) if *to == round.to => {
                left.remove(&store);
            }
            _ => {}
        }
    }

    /// What was counted as absent is erased here, or (`false`) could not be erased now.
    pub fn ended(&mut self, now: Instant, partition: u32, to: u64, is_done: bool) {
        let Some(round) = self.rounds.get_mut(&partition) else {
            return;
        };
        if round.to != to || !matches!(round.stage, Stage::Ending) {
            return;
        }
        if is_done {
            self.rounds.remove(&partition);
        } else {
            round.stage = advancing(now + AGAIN);
        }
    }

    /// Rounds that are committed, and driven here for so long without coming to their end.
    pub fn stalled(&self, now: Instant, known: &Known<'_>, patience: Duration) -> Vec<Stalled> {
        let old = self.rounds.iter().filter(|(_, round)| {
            !round.is_before_commit() && now.saturating_duration_since(round.since) >= patience
        });
        let stalled = old.map(|(_, round)| Stalled {
            since: round.since,
            waits_for: round.waits_for(known),
        });
        stalled.collect()
    }
}

#[cfg(test)]
mod tests;
