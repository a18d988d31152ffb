//! One round with one store: the roots of all that is due, then each partition that differs.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream::FuturesUnordered};
use ringfort_proto::{
    Reason,
    peer::{
        self, CompareBuckets, CompareRequest, CompareRoots, compare_request::Question,
        compare_response::Answer, peer_client::PeerClient,
    },
};
use ringfort_ring::{PartitionId, StoreId};
use ringfort_storage::{
    engine::EngineError,
    merkle::BUCKETS,
    store::{Folds, Root},
};
use tokio::time::{Duration, Instant};
use tonic::transport::Channel;

use super::{
    Exchanger,
    board::Outcome,
    left::Left,
    partition::Job,
    schedule::{Round, Verdict},
};
use crate::{
    counters::add,
    marks::Marked,
    peer::{
        bulk::Unreached,
        compare::{BUCKETS_AT_ONCE, FOLDS_A_TURN, ROOTS_A_TURN},
        owned::{durable_within, named_generation},
    },
    view::View,
};

/// Partitions that are mended at once: while one waits for a log, another goes on.
const PARTITIONS_AT_ONCE: usize = 4;
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the own log may take to make durable what roots stand for.
const DURABLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why an exchange does not go on. It is due again before long.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Setback {
    /// The other is not reached, or refuses.
    #[error(transparent)]
    Unreached(#[from] Unreached),
    /// What came is not what was asked for, or damaged on its way.
    #[error("{store} sent what cannot be used: {why}")]
    Bad {
        /// Who sent it.
        store: StoreId,
        /// What is wrong with it.
        why: String,
    },
    /// This store has no room, or does not own the partition any more.
    #[error("{0}")]
    Here(String),
    /// The layouts have changed.
    #[error("the layout has changed")]
    Changed,
    /// A round of reaping has begun.
    #[error("the copies are not of one reap generation")]
    Reaping,
}

impl Setback {
    /// Whether the other store is the matter, and not one partition.
    fn is_of_store(&self) -> bool {
        match self {
            Setback::Unreached(unreached) => {
                let refusal = unreached.refusal.as_ref().map(|failure| failure.reason);
                !matches!(
                    refusal,
                    Some(Reason::NotSynced | Reason::TooLarge | Reason::StaleGeneration)
                )
            }
            Setback::Changed => true,
            Setback::Bad { .. } | Setback::Here(_) | Setback::Reaping => false,
        }
    }
}

impl From<EngineError> for Setback {
    fn from(error: EngineError) -> Self {
        // The store says so itself, and the node ends.
        Setback::Here(error.to_string())
    }
}

/// The root of a partition here, and the reap generation that it was computed under.
struct MyRoot {
    partition: PartitionId,
    root: Root,
    generation: u64,
}

/// The buckets of a partition at another store, and the reap generation that they were computed under.
pub(super) struct Buckets {
    pub hashes: [u64; BUCKETS],
    pub generation: u64,
}

impl Exchanger {
    /// Compares, and mends what differs.
    pub(super) async fn round(&self, view: &View, round: Round) {
        let board = &self.parts.board;
        let store = round.store;
        let marks = board.marks.take(store);
        let mut left = Left::new(marks);
        let result = self.compare_and_mend(view, &round, &mut left).await;
        if let Err(setback) = &result {
            tracing::debug!(%setback, %store, "a round of exchanges ends early");
            let rest = round.partitions.len().saturating_sub(left.done);
            board.totals.count(Outcome::Failed, rest);
        }
        board.has_left(0);
        if let Some(again) = left.again() {
            match again {
                Marked::All => board.marks.mark_all(store),
                Marked::Some(partitions) => {
                    board.marks.mark(partitions.into_iter().map(|p| (store, p)));
                }
                Marked::Nothing => {}
            }
        }
        let is_well = result.is_ok() && left.is_well;
        board.schedule().ended(board.now(), store, is_well);
    }

    async fn compare_and_mend(
        &self,
        view: &View,
        round: &Round,
        left: &mut Left,
    ) -> Result<(), Setback> {
        let board = &self.parts.board;
        let store = round.store;
        let began = board.now();
        let roots = self.roots(&round.partitions).await?;
        let verdict = self.ask_roots(view, store, &roots).await?;
        board.schedule().compared(began, store, &verdict);
        board.totals.count(Outcome::Equal, verdict.equal.len());
        left.done += verdict.equal.len();
        left.are_clean(&verdict.equal);
        let differing = board.schedule().to_mend(board.now(), store, &verdict);
        left.is_well &= differing.len() == verdict.differ.len();
        let mut to_do = differing.len();
        for some in differing.chunks(BUCKETS_AT_ONCE) {
            let buckets = self.ask_buckets(view, store, some).await?;
            let mut jobs = some.iter();
            let mut running = FuturesUnordered::new();
            loop {
                board.has_left(to_do);
                while running.len() < PARTITIONS_AT_ONCE
                    && let Some(partition) = jobs.next()
                {
                    let job = Job {
                        view,
                        store,
                        partition: *partition,
                        theirs: buckets.get(partition),
                    };
                    running.push(self.timed(job));
                }
                let Some((partition, outcome)) = running.next().await else {
                    break;
                };
                to_do -= 1;
                left.done += 1;
                self.note(began, (store, partition), &outcome, left);
                if let Err(setback) = outcome
                    && setback.is_of_store()
                {
                    return Err(setback);
                }
            }
            self.tell_mended(view, store).await?;
        }
        Ok(())
    }

    async fn timed(&self, job: Job<'_>) -> (PartitionId, Result<Outcome, Setback>) {
        let began = self.parts.clock.now();
        let partition = job.partition;
        let outcome = self.mend(job).await;
        if matches!(outcome, Ok(Outcome::Mended)) {
            self.parts
                .board
                .took((self.parts.clock.now() - began) / PARTITIONS_AT_ONCE as u32);
        }
        (partition, outcome)
    }

    fn note(
        &self,
        began: Instant,
        (store, partition): (StoreId, PartitionId),
        outcome: &Result<Outcome, Setback>,
        left: &mut Left,
    ) {
        let board = &self.parts.board;
        match outcome {
            Ok(Outcome::Mended) => {
                board.schedule().mended(began, store, partition);
                left.are_clean(&[partition]);
            }
            Ok(_) | Err(_) => {
                board.schedule().failed(store, partition);
                left.is_well = false;
            }
        }
        let outcome = outcome.as_ref().map_err(|setback| {
            tracing::info!(%setback, partition = partition.0, %store, "an exchange waits");
        });
        board
            .totals
            .count(outcome.copied().unwrap_or(Outcome::Failed), 1);
    }

    /// Own roots, and what they stand for is durable. Those that change too fast are left out.
    async fn roots(&self, partitions: &[PartitionId]) -> Result<Vec<MyRoot>, Setback> {
        let mut roots = Vec::with_capacity(partitions.len());
        let mut last = 0;
        for some in partitions.chunks(ROOTS_A_TURN) {
            let some = some.to_vec();
            let turn = self.local.block(move |store| {
                let mut folds = Folds(FOLDS_A_TURN);
                let root = |partition: &PartitionId| {
                    let generation = store.generation(partition.0);
                    let root = store.root(partition.0, &mut folds);
                    let mine = |root| MyRoot {
                        partition: *partition,
                        root,
                        generation,
                    };
                    let is_same = |_: &Root| store.generation(partition.0) == generation;
                    root.map(|root| root.filter(is_same).map(mine)).transpose()
                };
                some.iter().filter_map(root).collect::<Result<Vec<_>, _>>()
            });
            roots.extend(turn.await?);
            last = self.parts.store.stats().last_sequence;
        }
        let durable = durable_within(&self.parts.store, last, DURABLE_TIMEOUT).await;
        durable.map_err(|failure| Setback::Here(failure.message))?;
        Ok(roots)
    }

    async fn ask_roots(
        &self,
        view: &View,
        store: StoreId,
        roots: &[MyRoot],
    ) -> Result<Verdict, Setback> {
        let question = Question::Roots(CompareRoots {
            partitions: roots.iter().map(|mine| mine.partition.0).collect(),
            roots: roots.iter().map(|mine| mine.root.hash).collect(),
            reap_generations: roots.iter().map(|mine| mine.generation).collect(),
            mended: self.mended(store),
        });
        let Answer::Roots(told) = self.ask(view, store, question).await? else {
            return Err(other_answer(store));
        };
        let asked: BTreeSet<u32> = roots.iter().map(|mine| mine.partition.0).collect();
        let all = told.equal.iter().chain(&told.differ).chain(&told.unsynced);
        let mut all = all.chain(&told.missed);
        if all.any(|partition| !asked.contains(partition)) {
            let why = "roots that were not asked for".to_owned();
            return Err(Setback::Bad { store, why });
        }
        let newer = told.reap_generations.iter().zip(&told.reap_floors);
        for (partition, (generation, floor)) in told.missed.iter().zip(newer) {
            let missed = &self.parts.missed;
            missed.heard(PartitionId(*partition), *generation, *floor);
        }
        let ids = |list: Vec<u32>| list.into_iter().map(PartitionId).collect();
        Ok(Verdict {
            equal: ids(told.equal),
            differ: ids(told.differ),
            unsynced: ids(told.unsynced),
        })
    }

    /// The other shall know what is the same by now, too.
    async fn tell_mended(&self, view: &View, store: StoreId) -> Result<(), Setback> {
        let mended = self.mended(store);
        if mended.is_empty() {
            return Ok(());
        }
        let roots = CompareRoots {
            mended,
            ..CompareRoots::default()
        };
        self.ask(view, store, Question::Roots(roots))
            .await
            .map(drop)
    }

    fn mended(&self, store: StoreId) -> Vec<u32> {
        let mended = self.parts.board.schedule().take_mended(store);
        mended.into_iter().map(|partition| partition.0).collect()
    }

    async fn ask_buckets(
        &self,
        view: &View,
        store: StoreId,
        partitions: &[PartitionId],
    ) -> Result<BTreeMap<PartitionId, Buckets>, Setback> {
        let question = Question::Buckets(CompareBuckets {
            partitions: partitions.iter().map(|partition| partition.0).collect(),
        });
        let Answer::Buckets(told) = self.ask(view, store, question).await? else {
            return Err(other_answer(store));
        };
        let count = told.partitions.len();
        if told.buckets.len() != count * BUCKETS || told.reap_generations.len() != count {
            let why = "buckets that are none".to_owned();
            return Err(Setback::Bad { store, why });
        }
        let buckets = told.buckets.chunks_exact(BUCKETS);
        let buckets = buckets.zip(told.reap_generations);
        let buckets = buckets.map(|(some, generation)| Buckets {
            hashes: std::array::from_fn(|bucket| some[bucket]),
            generation,
        });
        let partitions = told.partitions.into_iter().map(PartitionId);
        Ok(partitions.zip(buckets).collect())
    }

    /// Asks the other store, and counts what goes to and fro.
    pub(super) async fn ask(
        &self,
        view: &View,
        store: StoreId,
        question: Question,
    ) -> Result<Answer, Setback> {
        let request = CompareRequest {
            fence: None,
            layout: view.layout().epoch().0,
            question: Some(question),
        };
        let asked = prost::Message::encoded_len(&request);
        let partition = match &request.question {
            Some(Question::Push(push)) => Some(PartitionId(push.partition)),
            _ => None,
        };
        let send = |mut client: PeerClient<Channel>, fence| async move {
            let fence = Some(fence);
            client.compare(CompareRequest { fence, ..request }).await
        };
        let answer = self.bulk.ask(view, store, ANSWER_TIMEOUT, send).await;
        let answer: peer::CompareResponse =
            answer.inspect_err(|unreached| self.note_refusal(partition, unreached))?;
        let bytes = asked + prost::Message::encoded_len(&answer);
        add(&self.parts.board.totals.bytes, bytes);
        answer.answer.ok_or_else(|| other_answer(store))
    }
}

impl Exchanger {
    /// What was pushed may be older than a round of reaping that this store has missed.
    fn note_refusal(&self, pushed: Option<PartitionId>, unreached: &Unreached) {
        let named = unreached.refusal.as_deref().and_then(named_generation);
        if let (Some(partition), Some((generation, floor))) = (pushed, named) {
            self.parts.missed.heard(partition, generation, floor);
        }
    }
}

/// What came is no answer to what was asked.
pub(super) fn other_answer(store: StoreId) -> Setback {
    let why = "an answer to something else".to_owned();
    Setback::Bad { store, why }
}
