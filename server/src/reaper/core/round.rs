//! One round: how far it is, and what is next.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ringfort_ring::{Epoch, StoreId};
use ringfort_storage::store::Tomb;
use tokio::time::Instant;

use super::{Action, Known, Question, Standing};

/// Who is not through yet is asked again after this …
pub(super) const AGAIN: Duration = Duration::from_millis(200);
/// … then after twice as long each time, and at most after this.
const AGAIN_MAX: Duration = Duration::from_secs(5);

/// How far a round is.
#[derive(Debug)]
pub(super) enum Stage {
    /// Owners are asked to confirm.
    Confirming {
        epoch: Epoch,
        exact: Vec<bool>,
        /// `None`: not asked yet.
        left: Option<BTreeSet<StoreId>>,
    },
    /// All have confirmed.
    Committing,
    /// Members are told.
    Advancing {
        said: BTreeMap<StoreId, (Epoch, Standing)>,
        /// Those whose answers are awaited.
        asked: BTreeSet<StoreId>,
        due: Instant,
        pause: Duration,
    },
    /// The other owners are told.
    Finishing { left: BTreeSet<StoreId> },
    /// This store erases.
    Ending,
}

/// One round, of one partition.
#[derive(Debug)]
pub(super) struct Round {
    /// The generation that it leads to.
    pub to: u64,
    pub tombs: Arc<Vec<Tomb>>,
    pub since: Instant,
    pub stage: Stage,
}

/// Members are to be told, from then on.
pub(super) fn advancing(due: Instant) -> Stage {
    Stage::Advancing {
        said: BTreeMap::new(),
        asked: BTreeSet::new(),
        due,
        pause: AGAIN,
    }
}

impl Round {
    pub fn is_before_commit(&self) -> bool {
        matches!(self.stage, Stage::Confirming { .. } | Stage::Committing)
    }

    /// The members that are not known to be through, by the newest decree.
    pub fn waits_for(&self, known: &Known<'_>) -> Vec<StoreId> {
        let Stage::Advancing { said, .. } = &self.stage else {
            return Vec::new();
        };
        let is_through = |store: &&StoreId| {
            let said = said.get(store);
            said.is_some_and(|(epoch, s)| *epoch == known.epoch && s.is_through(self.to))
        };
        let members = known.members.iter();
        members.filter(|m| !is_through(m)).copied().collect()
    }

    /// What can be done now. False: the round is given up.
    pub fn next(
        &mut self,
        partition: u32,
        now: Instant,
        known: &Known<'_>,
        actions: &mut Vec<Action>,
    ) -> bool {
        let ask = |store, question| Action::Ask {
            store,
            partition,
            question,
        };
        let waits_for = self.waits_for(known);
        match &mut self.stage {
            Stage::Confirming { epoch, left, exact } => match left {
                None => {
                    let owners = (known.owners)(partition);
                    for owner in &owners {
                        let question = Question::Confirm {
                            generation: self.to - 1,
                            tombs: Arc::clone(&self.tombs),
                        };
                        actions.push(ask(*owner, question));
                    }
                    (*epoch, *left) = (known.epoch, Some(owners));
                }
                Some(left) if left.is_empty() => {
                    let both = self.tombs.iter().zip(exact.iter());
                    let kept = both.filter(|(_, exact)| **exact);
                    let kept: Vec<Tomb> = kept.map(|(tomb, _)| tomb.clone()).collect();
                    let by = *epoch;
                    if kept.is_empty() || by != known.epoch {
                        return false;
                    }
                    (self.tombs, self.stage) = (Arc::new(kept), Stage::Committing);
                    actions.push(Action::Commit {
                        partition,
                        to: self.to,
                        tombs: Arc::clone(&self.tombs),
                        epoch: by,
                    });
                }
                Some(_) => {}
            },
            Stage::Committing | Stage::Ending => {}
            Stage::Advancing {
                said,
                asked,
                due,
                pause,
            } => {
                let newer = said.values().any(|(epoch, _)| *epoch > known.epoch);
                if waits_for.is_empty() && !newer {
                    let mut left = (known.owners)(partition);
                    left.remove(&known.me);
                    for owner in &left {
                        actions.push(ask(*owner, Question::Finish { to: self.to }));
                    }
                    self.stage = Stage::Finishing { left };
                    return true;
                }
                if !asked.is_empty() || now < *due {
                    return true;
                }
                (*due, *pause) = (now + *pause, (*pause * 2).min(AGAIN_MAX));
                let owners = (known.owners)(partition);
                for member in waits_for {
                    let tombs = match owners.contains(&member) {
                        true => Arc::clone(&self.tombs),
                        false => Arc::default(),
                    };
                    let to = self.to;
                    actions.push(ask(member, Question::Advance { to, tombs }));
                    asked.insert(member);
                }
            }
            Stage::Finishing { left } => {
                if left.is_empty() {
                    self.stage = Stage::Ending;
                    actions.push(Action::End {
                        partition,
                        to: self.to,
                    });
                }
            }
        }
        true
    }
}

impl Standing {
    fn is_through(&self, to: u64) -> bool {
        self.generation >= to && self.lowest_hint.is_none_or(|lowest| lowest >= to)
    }
}
