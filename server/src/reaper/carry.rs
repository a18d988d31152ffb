//! Carries out what the core says: asks stores, commits, erases; and tells the core what came of it.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use ringfort_proto::{
    Failure,
    peer::{self, ReapLists, ReapStanding, reap_request, reap_request::Question as Wire},
};
use ringfort_ring::{Epoch, PartitionId, StoreId};
use ringfort_storage::{
    Store,
    store::{Advance, Advanced, Tomb},
};

use super::{
    Reaper, SETBACK,
    core::{Action, Question, Standing, Verdict},
    wire::{Asked, LISTS_AT_ONCE, list_to_wire},
};
use crate::view::View;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// What was asked together, and what came of it.
struct Batch {
    store: StoreId,
    questions: Vec<(u32, Question)>,
}

impl Reaper {
    /// Does these things: asks side by side, then commits, then ends.
    pub(super) async fn carry_out(&mut self, view: &Arc<View>, actions: Vec<Action>) {
        let (mut batches, mut commits, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Ask {
                    store,
                    partition,
                    question,
                } => add(&mut batches, store, partition, question),
                Action::Commit {
                    partition,
                    to,
                    tombs,
                    epoch,
                } => commits.push((partition, to, tombs, epoch)),
                Action::End { partition, to } => ends.push((partition, to)),
            }
        }
        let before = self.core.confirming();
        let asked = batches.iter().map(|batch| self.ask(view, batch));
        let answers = join_all(asked.collect::<Vec<_>>()).await;
        for (batch, answer) in batches.into_iter().zip(answers) {
            self.take(batch, answer);
        }
        self.note_setbacks(before);
        for (partition, to, tombs, epoch) in commits {
            let is_durable = self.commit((partition, to), &tombs, epoch).await;
            let now = self.parts.clock.now();
            self.core.committed(now, partition, to, is_durable);
            if !is_durable {
                self.setbacks.insert(partition, now + SETBACK);
            }
        }
        for (partition, to) in ends {
            let asked = Asked {
                partition,
                generation: to,
                tombs: Vec::new(),
            };
            let done = self.parts.answerer.finish(vec![asked]).await;
            let now = self.parts.clock.now();
            self.core.ended(now, partition, to, done.is_ok());
            crate::counters::add(
                &self.parts.counters.reaping_ended,
                usize::from(done.is_ok()),
            );
        }
    }

    /// Makes a round durable here, unless there is a newer decree by now, or two layouts live. No acknowledgement of a layout comes
    /// between the two.
    async fn commit(&self, (partition, to): (u32, u64), tombs: &[Tomb], epoch: Epoch) -> bool {
        let council = Arc::clone(&self.parts.council);
        let step = Advance {
            partition,
            to,
            tombs: tombs.to_vec(),
        };
        let commit = move |store: &Store| {
            let step = std::slice::from_ref(&step);
            council.while_settled_at(epoch, || store.advance_reaping(step))
        };
        let sequence = match self.local.block(commit).await {
            Some(Ok(advanced)) => match advanced.first() {
                Some(Advanced::Done { sequence }) => *sequence,
                _ => return false,
            },
            Some(Err(error)) => {
                tracing::warn!(%error, partition, "a round of reaping is not committed");
                return false;
            }
            None => return false,
        };
        self.parts.coordinator.on_generations();
        crate::mover::until_durable(self.parts.store.durable(), sequence).await;
        crate::counters::add(&self.parts.counters.reaping_begun, 1);
        tracing::debug!(
            partition,
            to,
            keys = tombs.len(),
            "a round of reaping begins"
        );
        true
    }

    /// Asks a store, which may be this one; gives its standings, and the epoch that it knew after them.
    async fn ask(
        &self,
        view: &Arc<View>,
        batch: &Batch,
    ) -> Result<(Vec<ReapStanding>, Epoch), Failure> {
        if batch.store == view.my_store() {
            let asked = batch.questions.iter().map(|(p, q)| asked_of(*p, q));
            let asked = asked.collect();
            let answerer = &self.parts.answerer;
            let standings = match batch.questions.first() {
                Some((_, Question::Confirm { .. })) => answerer.confirm(asked).await?,
                Some((_, Question::Advance { .. })) => answerer.advance(asked).await?,
                Some((_, Question::Finish { .. })) => answerer.finish(asked).await?,
                None => Vec::new(),
            };
            return Ok((standings, self.parts.views.current().epoch()));
        }
        let request = peer::ReapRequest {
            fence: None,
            question: batch.to_wire(),
        };
        let question = |mut client: peer::peer_client::PeerClient<_>, fence| {
            let request = peer::ReapRequest {
                fence: Some(fence),
                ..request
            };
            async move { client.reap(request).await }
        };
        let asked = self.bulk.ask(view, batch.store, ANSWER_TIMEOUT, question);
        let answer: Result<peer::ReapResponse, _> = asked.await;
        let answer = answer.map_err(|unreached| {
            tracing::debug!(%unreached, "a round of reaping waits");
            let why = unreached.to_string();
            Failure::new(ringfort_proto::Reason::QuorumUnavailable, why)
        })?;
        let epoch = Epoch(answer.fence.unwrap_or_default().epoch);
        Ok((answer.standings, epoch))
    }

    fn take(&mut self, batch: Batch, answer: Result<(Vec<ReapStanding>, Epoch), Failure>) {
        let (standings, epoch) = match answer {
            Ok((standings, epoch)) if standings.len() == batch.questions.len() => {
                (standings, epoch)
            }
            Ok(_) | Err(_) => {
                for (partition, question) in &batch.questions {
                    self.core.failed(batch.store, *partition, question);
                }
                return;
            }
        };
        for ((partition, question), said) in batch.questions.into_iter().zip(standings) {
            let from = (batch.store, partition);
            if batch.store != self.parts.views.current().my_store() {
                let missed = &self.parts.answerer.missed;
                missed.heard(PartitionId(partition), said.generation, said.floor);
            }
            match question {
                Question::Confirm { generation, .. } => {
                    let verdict = match said.confirmed {
                        true => Verdict::Exact(said.exact),
                        false => Verdict::Refused,
                    };
                    self.core.confirmed(from, generation, epoch, &verdict);
                }
                Question::Advance { to, .. } => {
                    let standing = Standing {
                        generation: said.generation,
                        lowest_hint: said.lowest_hint,
                    };
                    self.core.advanced(from, to, epoch, standing);
                }
                Question::Finish { to } => self.core.finished(batch.store, partition, to),
            }
        }
    }
}

/// Puts a question to those that go to the same store together, of the same kind.
fn add(batches: &mut Vec<Batch>, store: StoreId, partition: u32, question: Question) {
    let kind = std::mem::discriminant(&question);
    let same = batches.iter_mut().find(|batch| {
        let of_kind = |(_, q): &(u32, Question)| std::mem::discriminant(q) == kind;
        batch.store == store
            && batch.questions.len() < LISTS_AT_ONCE
            && batch.questions.first().is_some_and(of_kind)
    });
    match same {
        Some(batch) => batch.questions.push((partition, question)),
        None => batches.push(Batch {
            store,
            questions: vec![(partition, question)],
        }),
    }
}

fn asked_of(partition: u32, question: &Question) -> Asked {
    let (generation, tombs) = match question {
        Question::Confirm { generation, tombs } => (*generation, tombs.to_vec()),
        Question::Advance { to, tombs } => (*to, tombs.to_vec()),
        Question::Finish { to } => (*to, Vec::new()),
    };
    Asked {
        partition,
        generation,
        tombs,
    }
}

impl Batch {
    fn to_wire(&self) -> Option<reap_request::Question> {
        let lists = self.questions.iter().map(|(partition, question)| {
            let Asked {
                generation, tombs, ..
            } = asked_of(*partition, question);
            list_to_wire(*partition, generation, &tombs)
        });
        let lists = ReapLists {
            lists: lists.collect(),
        };
        let (_, first) = self.questions.first()?;
        Some(match first {
            Question::Confirm { .. } => Wire::Confirm(lists),
            Question::Advance { .. } => Wire::Advance(lists),
            Question::Finish { .. } => Wire::Finish(lists),
        })
    }
}
