//! What a store answers to whoever drives a round of reaping; the same to this node's own worker.
//!
//! Keeps I4 by what is durable before it is said: a confirmation, a generation, an erasing. Keeps I7: few turns on the engine pool
//! at a time, of few partitions each. What one member says of a partition is true before the epoch of its answer is read.

use std::{sync::Arc, time::Duration};

use ringfort_proto::{
    Failure, Reason,
    peer::{ReapStanding, reap_request::Question},
};
use ringfort_ring::PartitionId;
use ringfort_storage::{
    Store,
    store::{Advance, AdvanceError, Advanced, ConfirmRefused, EraseError},
};

use super::{
    missed::{At, Missed},
    wire::{Asked, lists_from_wire},
};
use crate::{
    coordinator::Coordinator,
    counters::{Counters, add},
    peer::{owned::durable_within, turns::Turns},
    view::Views,
};

/// How long the log may take to make durable what an answer rests on.
const DURABLE_TIMEOUT: Duration = Duration::from_secs(2);

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Answerer {
    pub(crate) views: Views,
    pub(crate) store: Store,
    pub(crate) turns: Turns,
    pub(crate) coordinator: Arc<Coordinator>,
    pub(crate) missed: Arc<Missed>,
    pub(crate) counters: Arc<Counters>,
}

impl Answerer {
    /// Answers a question off the wire.
    ///
    /// # Errors
    /// `BAD_REQUEST`, `OVERLOADED` (ask again).
    pub async fn answer(&self, question: Option<Question>) -> Result<Vec<ReapStanding>, Failure> {
        let view = self.views.current();
        match question {
            Some(Question::Confirm(lists)) => self.confirm(lists_from_wire(&view, lists)?).await,
            Some(Question::Advance(lists)) => self.advance(lists_from_wire(&view, lists)?).await,
            Some(Question::Finish(lists)) => self.finish(lists_from_wire(&view, lists)?).await,
            None => Err(Failure::new(Reason::BadRequest, "a question that is none")),
        }
    }

    fn standing(&self, partition: u32) -> ReapStanding {
        ReapStanding {
            partition,
            generation: self.store.generation(partition),
            floor: self.store.floor(partition),
            lowest_hint: self.store.lowest_hint_generation(partition),
            ..ReapStanding::default()
        }
    }

    /// Which of these objects are this owner's, durably.
    pub(super) async fn confirm(&self, asked: Vec<Asked>) -> Result<Vec<ReapStanding>, Failure> {
        let me = self.clone();
        let job = move || {
            let (mut standings, mut last) = (Vec::with_capacity(asked.len()), 0);
            for list in &asked {
                let (exact, sequence) = me.confirm_one(list)?;
                last = sequence.max(last);
                standings.push(ReapStanding {
                    confirmed: exact.is_some(),
                    exact: exact.unwrap_or_default(),
                    ..me.standing(list.partition)
                });
            }
            Ok((standings, last))
        };
        let (standings, last) = self.turns.run(job).await?;
        durable_within(&self.store, last, DURABLE_TIMEOUT).await?;
        Ok(standings)
    }

    /// Blocks.
    fn confirm_one(&self, asked: &Asked) -> Result<(Option<Vec<bool>>, u64), Failure> {
        let Asked {
            partition,
            generation,
            tombs,
        } = asked;
        if !self.views.current().answers_reads(PartitionId(*partition)) {
            return Ok((None, 0));
        }
        match self.store.confirm_reaping(*partition, *generation, tombs) {
            Ok(confirmed) => Ok((Some(confirmed.exact), confirmed.sequence)),
            Err(ConfirmRefused::Engine(error)) => Err(failed(&error)),
            Err(refused) => {
                tracing::debug!(%refused, partition, "a round of reaping is not confirmed");
                Ok((None, 0))
            }
        }
    }

    /// Comes to these generations, if this store is not at higher ones.
    pub(super) async fn advance(&self, asked: Vec<Asked>) -> Result<Vec<ReapStanding>, Failure> {
        let me = self.clone();
        let partitions: Vec<u32> = asked.iter().map(|list| list.partition).collect();
        let (sequence, missed) = self.turns.run(move || me.advance_all(asked)).await?;
        self.coordinator.on_generations();
        for (partition, at) in missed {
            self.missed.note(partition, at);
        }
        durable_within(&self.store, sequence, DURABLE_TIMEOUT).await?;
        Ok(partitions.iter().map(|p| self.standing(*p)).collect())
    }

    /// Blocks. Gives what has been missed.
    fn advance_all(&self, asked: Vec<Asked>) -> Result<(u64, Vec<(PartitionId, At)>), Failure> {
        let view = self.views.current();
        // Whoever sends an owner nothing does not know yet that it is one; and what is to be erased is judged by nobody.
        let fits = |list: &Asked| {
            let partition = PartitionId(list.partition);
            !view.has_missed(partition) && (!list.tombs.is_empty() || !view.owns(partition))
        };
        let steps = asked.into_iter().filter(fits).map(|list| Advance {
            partition: list.partition,
            to: list.generation,
            tombs: list.tombs,
        });
        let steps: Vec<Advance> = steps.collect();
        let advanced = self.store.advance_reaping(&steps);
        let advanced = advanced.map_err(|error| match error {
            AdvanceError::TooMany => Failure::new(Reason::Overloaded, error.to_string()),
            error => failed(&error),
        })?;
        let (mut last, mut missed) = (0, Vec::new());
        for (step, advanced) in steps.iter().zip(advanced) {
            match advanced {
                Advanced::Done { sequence } => last = sequence.max(last),
                Advanced::Missed => {
                    let at = At {
                        generation: step.to,
                        floor: step.to.saturating_sub(1),
                    };
                    missed.push((PartitionId(step.partition), at));
                }
            }
        }
        Ok((last, missed))
    }

    /// Erases what counts as absent at these generations; says so once that is durable, and the lists are gone.
    pub(super) async fn finish(&self, asked: Vec<Asked>) -> Result<Vec<ReapStanding>, Failure> {
        let ends: Vec<(u32, u64)> = asked.iter().map(|a| (a.partition, a.generation)).collect();
        let (me, lists) = (self.clone(), ends.clone());
        let erase = move || {
            let (mut erased, mut last) = (0, 0);
            for (partition, generation) in &lists {
                let finish = me.store.finish_reaping(*partition, *generation);
                let finish = finish.map_err(|error| match error {
                    EraseError::Full(full) => Failure::new(Reason::Overloaded, full.to_string()),
                    error => failed(&error),
                })?;
                erased += finish.erased;
                last = finish.sequence.max(last);
            }
            Ok((erased, last))
        };
        let (erased, last) = self.turns.run(erase).await?;
        add(&self.counters.reaped, erased);
        durable_within(&self.store, last, DURABLE_TIMEOUT).await?;
        let (me, lists) = (self.clone(), ends.clone());
        let end = move || me.store.end_reaping(&lists).map_err(|error| failed(&error));
        self.turns.run(end).await?;
        Ok(ends.iter().map(|(p, _)| self.standing(*p)).collect())
    }
}

/// The store says so itself, and the node ends.
fn failed(error: &dyn std::fmt::Display) -> Failure {
    tracing::error!(%error, "the store failed in a round of reaping");
    Failure::new(Reason::Overloaded, format!("the store failed: {error}"))
}
