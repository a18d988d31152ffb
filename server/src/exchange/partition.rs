//! The exchange of one partition whose trees differ: carries out what [`Mend`] asks for.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use ringfort_proto::{
    Reason,
    peer::{
        self, CompareLeaves, CompareObjects, ComparePush, compare_request::Question,
        compare_response::Answer,
    },
};
use ringfort_ring::{PartitionId, StoreId};
use ringfort_storage::{
    Key,
    merkle::BUCKETS,
    store::{Folds, Leaves, Read},
};

use super::{
    Exchanger,
    board::Outcome,
    mend::{Ask, Mend},
    round::{Setback, other_answer},
};
use crate::{
    counters::add,
    limits::{SCAN_BYTES_MAX, SCAN_KEYS_MAX},
    peer::{
        compare::FOLDS_A_TURN,
        owned::{checked, durable_within, key_in, merge_owned, object_to_send},
    },
    view::View,
};

/// Bytes of objects in a page: a large one holds up what clients wait for.
const PAGE_BYTES: u64 = SCAN_BYTES_MAX / 4;
/// While log or table have no room, a merge is tried again after this, so many times.
const FULL_REST: Duration = Duration::from_millis(20);
const FULL_TRIES: u32 = 100;
/// How long the own log may take to make durable what was merged.
const DURABLE_TIMEOUT: Duration = Duration::from_secs(5);

/// One partition to be mended, as long as the view is this one.
pub(super) struct Job<'a> {
    pub view: &'a View,
    pub store: StoreId,
    pub partition: PartitionId,
    /// The other's buckets; `None`: it cannot tell them now.
    pub theirs: Option<&'a [u64; BUCKETS]>,
}

/// What is done so far.
#[derive(Default)]
struct Done {
    mend: Mend,
    /// The log sequence of the last change here.
    sequence: u64,
    /// Objects that were not moved: damaged, or gone meanwhile.
    skipped: usize,
}

impl Exchanger {
    /// Mends one partition, both ways.
    pub(super) async fn mend(&self, job: Job<'_>) -> Result<Outcome, Setback> {
        let Some(buckets) = self.differing(&job).await? else {
            return Ok(Outcome::Left);
        };
        let mut done = Done::default();
        loop {
            if self.parts.views.current().epoch() != job.view.epoch() {
                return Err(Setback::Changed);
            }
            let began = self.parts.clock.now();
            let bytes = match done.mend.next() {
                Ask::Leaves(after) => self.leaves(&job, buckets, after, &mut done).await?,
                Ask::Fetch(keys) => self.fetch(&job, keys, &mut done).await?,
                Ask::Push(keys) => self.push(&job, keys, &mut done).await?,
                Ask::Done => break,
            };
            self.rest(began, bytes).await;
        }
        let durable = durable_within(&self.parts.store, done.sequence, DURABLE_TIMEOUT).await;
        durable.map_err(|failure| Setback::Here(failure.message))?;
        Ok(match done.skipped {
            // Trees that differ over leaves that do not: one of them changed meanwhile.
            0 if done.mend.found == 0 => Outcome::Left,
            0 => Outcome::Mended,
            _ => Outcome::Left,
        })
    }

    /// The buckets that differ, as bits; `None`: it cannot be told now.
    async fn differing(&self, job: &Job<'_>) -> Result<Option<u64>, Setback> {
        let Some(theirs) = job.theirs else {
            return Ok(None);
        };
        let partition = job.partition.0;
        let tree = self.local.block(move |store| {
            let mut folds = Folds(FOLDS_A_TURN);
            store.exact_tree(partition, &mut folds)
        });
        let Some(tree) = tree.await? else {
            return Ok(None);
        };
        let both = tree.buckets().iter().zip(theirs).enumerate();
        let differing = both.filter(|(_, (mine, theirs))| mine != theirs);
        Ok(Some(
            differing.fold(0, |bits, (bucket, _)| bits | 1 << bucket),
        ))
    }

    /// Compares a page of leaves. Gives its bytes; so for all steps.
    async fn leaves(
        &self,
        job: &Job<'_>,
        buckets: u64,
        after: Option<Key>,
        done: &mut Done,
    ) -> Result<u64, Setback> {
        let question = Question::Leaves(CompareLeaves {
            partition: job.partition.0,
            buckets,
            after: after
                .as_ref()
                .map(|key| key.framed().clone())
                .unwrap_or_default(),
            max_keys: SCAN_KEYS_MAX,
        });
        let Answer::Leaves(told) = self.ask(job.view, job.store, question).await? else {
            return Err(other_answer(job.store));
        };
        let bytes = prost::Message::encoded_len(&told) as u64;
        let theirs = told_leaves(job, told, after.as_ref())?;
        let partition = job.partition.0;
        let mine = self.local.block(move |store| {
            store.leaves(partition, buckets, after.as_ref(), SCAN_KEYS_MAX as usize)
        });
        done.mend.compare(&mine.await?, &theirs);
        Ok(bytes)
    }

    async fn fetch(&self, job: &Job<'_>, keys: Vec<Key>, done: &mut Done) -> Result<u64, Setback> {
        let question = Question::Objects(CompareObjects {
            partition: job.partition.0,
            keys: keys.iter().map(|key| key.framed().clone()).collect(),
            max_bytes: PAGE_BYTES,
        });
        let Answer::Objects(told) = self.ask(job.view, job.store, question).await? else {
            return Err(other_answer(job.store));
        };
        let asked_for = keys.iter().map(Key::framed);
        let fits = told
            .moved
            .iter()
            .zip(asked_for)
            .all(|(moved, key)| moved.key == *key);
        if told.moved.is_empty() || told.moved.len() > keys.len() || !fits {
            return Err(bad(job, "other keys than were asked for"));
        }
        let (count, mut bytes) = (told.moved.len(), 0);
        let mut merged = Vec::with_capacity(count);
        for moved in told.moved {
            bytes += moved.object.len() as u64;
            match checked(job.view, job.partition.0, &moved).map_err(|why| bad(job, &why))? {
                Some((key, object)) => {
                    let sequence = self.merge(job, &key, object).await?;
                    done.sequence = done.sequence.max(sequence);
                    merged.push((key, moved.leaf));
                }
                None => done.skipped += 1,
            }
        }
        add(&self.parts.board.totals.fetched, merged.len());
        let lacked = self.lacked_there(merged).await?;
        done.mend.fetched(count, lacked);
        Ok(bytes)
    }

    /// Of what was merged here, the keys of which the other lacks something.
    async fn lacked_there(&self, merged: Vec<(Key, u64)>) -> Result<Vec<Key>, Setback> {
        let lacked = self.local.block(move |store| {
            let keys: Vec<Key> = merged.iter().map(|(key, _)| key.clone()).collect();
            let reads = store.load(&keys)?;
            let both = merged.iter().zip(reads);
            let differs =
                |read: &Read, leaf| matches!(read, Read::Found(mine) if mine.leaf() != leaf);
            let lacked = both.filter(|((_, leaf), read)| differs(read, *leaf));
            Ok::<_, ringfort_storage::engine::EngineError>(
                lacked.map(|((key, _), _)| key.clone()).collect(),
            )
        });
        Ok(lacked.await?)
    }

    async fn merge(
        &self,
        job: &Job<'_>,
        key: &Key,
        object: ringfort_storage::version::Object,
    ) -> Result<u64, Setback> {
        let (views, store) = (&self.parts.views, &self.parts.store);
        for _ in 0..FULL_TRIES {
            match merge_owned(views, store, job.partition.0, key, object.clone()) {
                Ok(sequence) => return Ok(sequence),
                Err(full) if full.reason == Reason::Overloaded => {
                    tokio::time::sleep(FULL_REST).await;
                }
                Err(failure) => return Err(Setback::Here(failure.message)),
            }
        }
        Err(Setback::Here(
            "there is no room to merge what comes".to_owned(),
        ))
    }

    async fn push(&self, job: &Job<'_>, keys: Vec<Key>, done: &mut Done) -> Result<u64, Setback> {
        let read = self.local.block(move |store| {
            let (mut moved, mut bytes, mut count) = (Vec::new(), 0, 0);
            for key in &keys {
                let found = object_to_send(store, key)?;
                count += 1;
                bytes += found.as_ref().map_or(0, |found| found.object.len() as u64);
                moved.extend(found);
                if bytes >= PAGE_BYTES {
                    break;
                }
            }
            Ok::<_, ringfort_storage::engine::EngineError>((moved, bytes, count))
        });
        let (moved, bytes, count) = read.await?;
        done.skipped += count - moved.len();
        let pushed = moved.len();
        if pushed > 0 {
            let question = Question::Push(ComparePush {
                partition: job.partition.0,
                reap_generation: 0,
                moved,
            });
            let Answer::Push(_) = self.ask(job.view, job.store, question).await? else {
                return Err(other_answer(job.store));
            };
        }
        add(&self.parts.board.totals.pushed, pushed);
        done.mend.pushed(count);
        Ok(bytes)
    }

    /// Gives way after a step.
    async fn rest(&self, began: tokio::time::Instant, bytes: u64) {
        let now = self.parts.clock.now();
        let beside = self.parts.coordinator.beside();
        let rest = {
            let mut pace = self
                .pace
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            pace.rest(now, bytes, now - began, beside)
        };
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
    }
}

/// A page of the other's leaves, if it is one.
fn told_leaves(
    job: &Job<'_>,
    told: peer::ComparedLeaves,
    after: Option<&Key>,
) -> Result<Leaves, Setback> {
    let key =
        |framed: &Bytes| key_in(job.view, job.partition.0, framed).map_err(|why| bad(job, &why));
    let leaf = |moved: peer::Moved| Ok((key(&moved.key)?, moved.leaf));
    let leaves = told.leaves.into_iter().map(leaf);
    let leaves = leaves.collect::<Result<Vec<_>, Setback>>()?;
    let next = match told.next.is_empty() {
        true => None,
        false => Some(key(&told.next)?),
    };
    let keys: Vec<&Key> = after
        .into_iter()
        .chain(leaves.iter().map(|(key, _)| key))
        .collect();
    let distinct: BTreeSet<&Key> = keys.iter().copied().collect();
    let goes_on = next
        .as_ref()
        .is_none_or(|next| keys.last().is_none_or(|last| next >= *last) && Some(next) != after);
    if !keys.is_sorted() || distinct.len() != keys.len() || !goes_on {
        return Err(bad(job, "leaves in no order"));
    }
    Ok(Leaves { leaves, next })
}

fn bad(job: &Job<'_>, why: &str) -> Setback {
    let why = why.to_owned();
    Setback::Bad {
        store: job.store,
        why,
    }
}
