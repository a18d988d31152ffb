//! Answers the questions of exchanges that other owners begin: roots, buckets, leaves, objects, and objects to merge.
//!
//! Keeps I5 with the worker that asks (`crate::exchange`), I1 (two roots are called the same, and pushed objects merged, only
//! when what they stand for is durable here), I4 (copies of one reap generation alone are compared) and I7 (bounded turns on the engine pool, bounded pages). Only a partition that both own
//! is answered for; every object that comes is verified by its leaf, and every one that goes was.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ringfort_proto::{
    Failure, Reason,
    peer::{
        self, CompareBuckets, CompareDemand, CompareLeaves, CompareObjects, ComparePush,
        CompareRoots, compare_request::Question, compare_response::Answer,
    },
};
use ringfort_ring::{Epoch, PartitionId, StoreId};
use ringfort_storage::{Key, Store, store::Folds};

use super::{
    owned::{bad, checked, durable_within, failed, judge, key_in, merge_owned, object_to_send},
    turns::Turns,
};
use crate::{
    exchange::{Board, schedule::ROUND_MAX},
    limits::{SCAN_BYTES_MAX, SCAN_KEYS_MAX},
    view::Views,
};

/// Copies that one turn folds, at most.
pub(crate) const FOLDS_A_TURN: usize = 512;
/// Roots that one turn computes, at most.
pub(crate) const ROOTS_A_TURN: usize = 256;
/// Partitions whose buckets one question asks for, at most.
pub(crate) const BUCKETS_AT_ONCE: usize = 16;
/// How long the log may take to make durable what an answer rests on.
const DURABLE_TIMEOUT: Duration = Duration::from_secs(2);

/// The root of a partition at the asker, and its reap generation there.
#[derive(Clone)]
struct TheirRoot {
    partition: u32,
    hash: u64,
    generation: u64,
}

/// What answering needs.
#[derive(Clone)]
pub(crate) struct Comparer {
    views: Views,
    store: Store,
    board: Arc<Board>,
    turns: Turns,
}

impl Comparer {
    pub fn new(views: Views, store: Store, board: Arc<Board>, turns: Turns) -> Comparer {
        Comparer {
            views,
            store,
            board,
            turns,
        }
    }

    /// Answers a question of the store `from`.
    ///
    /// # Errors
    /// `NOT_SYNCED` (this store does not own the partition by that layout), `STALE_EPOCH` (no live layout is of that epoch),
    /// `BAD_REQUEST`, `OVERLOADED`, `DISK_FULL`.
    pub async fn answer(
        &self,
        from: StoreId,
        request: peer::CompareRequest,
    ) -> Result<Answer, Failure> {
        let layout = Epoch(request.layout);
        let question = request.question;
        let question = question.ok_or_else(|| bad("a question that is none"))?;
        match question {
            Question::Roots(roots) => self.roots(from, layout, roots).await.map(Answer::Roots),
            Question::Buckets(buckets) => {
                let me = self.clone();
                let told = self.turns.run(move || me.buckets(layout, &buckets)).await;
                told.map(Answer::Buckets)
            }
            Question::Leaves(leaves) => {
                let me = self.clone();
                let told = self.turns.run(move || me.leaves(layout, &leaves)).await;
                told.map(Answer::Leaves)
            }
            Question::Objects(objects) => {
                let me = self.clone();
                let told = self.turns.run(move || me.objects(layout, &objects)).await;
                told.map(Answer::Objects)
            }
            Question::Push(push) => self.push(layout, push).await.map(Answer::Push),
            Question::Demand(demand) => Ok(Answer::Demand(demand_of(&self.board, &demand))),
        }
    }

    fn judge(&self, partition: u32, layout: Epoch) -> Result<(), Failure> {
        judge(&self.views.current(), partition, layout)
    }

    async fn roots(
        &self,
        from: StoreId,
        layout: Epoch,
        asked: CompareRoots,
    ) -> Result<peer::ComparedRoots, Failure> {
        let count = asked.partitions.len();
        let generations = asked.reap_generations;
        let counts = [asked.roots.len(), generations.len()];
        if count > ROUND_MAX || counts != [count; 2] || asked.mended.len() > ROUND_MAX {
            return Err(bad(
                "more partitions than one question may have, or not one root and one generation for each",
            ));
        }
        self.board.schedule().told_mended(from, &ids(&asked.mended));
        let began = self.board.now();
        let mut answer = peer::ComparedRoots::default();
        let roots = asked.partitions.into_iter().zip(asked.roots);
        let asked: Vec<TheirRoot> = roots
            .zip(generations)
            .map(|((partition, hash), generation)| TheirRoot {
                partition,
                hash,
                generation,
            })
            .collect();
        let mut last = 0;
        for some in asked.chunks(ROOTS_A_TURN) {
            let (me, some) = (self.clone(), some.to_vec());
            let turn = self.turns.run(move || me.some_roots(layout, &some)).await?;
            answer.equal.extend(turn.equal);
            answer.differ.extend(turn.differ);
            answer.unsynced.extend(turn.unsynced);
            answer.missed.extend(turn.missed);
            answer.reap_generations.extend(turn.reap_generations);
            answer.reap_floors.extend(turn.reap_floors);
            last = self.store.stats().last_sequence;
        }
        // Two that are the same in memory alone may differ after a crash.
        self.until_durable(last).await?;
        let (equal, differ) = (ids(&answer.equal), ids(&answer.differ));
        self.board.schedule().asked(began, from, &equal, &differ);
        Ok(answer)
    }

    /// Blocks.
    fn some_roots(
        &self,
        layout: Epoch,
        asked: &[TheirRoot],
    ) -> Result<peer::ComparedRoots, Failure> {
        let view = self.views.current();
        let mut folds = Folds(FOLDS_A_TURN);
        let mut answer = peer::ComparedRoots::default();
        for theirs in asked {
            let partition = theirs.partition;
            if judge(&view, partition, layout).is_err() {
                continue;
            }
            let (generation, floor) = (
                self.store.generation(partition),
                self.store.floor(partition),
            );
            if theirs.generation < floor {
                answer.missed.push(partition);
                answer.reap_generations.push(generation);
                answer.reap_floors.push(floor);
                continue;
            }
            if theirs.generation != generation {
                continue;
            }
            let mine = self.store.root(partition, &mut folds).map_err(failed)?;
            match mine.filter(|_| self.store.generation(partition) == generation) {
                Some(mine) if mine.hash == theirs.hash => answer.equal.push(partition),
                Some(_) => {
                    answer.differ.push(partition);
                    if !self.store.is_synced(partition) {
                        answer.unsynced.push(partition);
                    }
                }
                None => {}
            }
        }
        Ok(answer)
    }

    /// Blocks.
    fn buckets(
        &self,
        layout: Epoch,
        asked: &CompareBuckets,
    ) -> Result<peer::ComparedBuckets, Failure> {
        if asked.partitions.len() > BUCKETS_AT_ONCE {
            return Err(bad("more partitions than one question may have"));
        }
        let mut folds = Folds(FOLDS_A_TURN);
        let mut answer = peer::ComparedBuckets::default();
        for partition in &asked.partitions {
            self.judge(*partition, layout)?;
            let generation = self.store.generation(*partition);
            let tree = self.store.exact_tree(*partition, &mut folds);
            let tree = tree.map_err(failed)?;
            if let Some(tree) = tree.filter(|_| self.store.generation(*partition) == generation) {
                answer.partitions.push(*partition);
                answer.buckets.extend(tree.buckets());
                answer.reap_generations.push(generation);
            }
        }
        Ok(answer)
    }

    /// Blocks.
    fn leaves(
        &self,
        layout: Epoch,
        asked: &CompareLeaves,
    ) -> Result<peer::ComparedLeaves, Failure> {
        self.judge(asked.partition, layout)?;
        let after = match asked.after.is_empty() {
            true => None,
            false => Some(self.key_in(asked.partition, &asked.after)?),
        };
        let most = asked.max_keys.clamp(1, SCAN_KEYS_MAX) as usize;
        let generation = self.store.generation(asked.partition);
        let page = self
            .store
            .leaves(asked.partition, asked.buckets, after.as_ref(), most);
        let page = page.map_err(failed)?;
        if self.store.generation(asked.partition) != generation {
            return Err(changed());
        }
        let leaf = |(key, leaf): (Key, u64)| peer::Moved {
            key: key.framed().clone(),
            leaf,
            ..peer::Moved::default()
        };
        Ok(peer::ComparedLeaves {
            leaves: page.leaves.into_iter().map(leaf).collect(),
            next: page
                .next
                .map(|key| key.framed().clone())
                .unwrap_or_default(),
            reap_generation: generation,
        })
    }

    /// Blocks. As many of the keys as fit, at least one; what is damaged here is as if it were not.
    fn objects(
        &self,
        layout: Epoch,
        asked: &CompareObjects,
    ) -> Result<peer::ComparedObjects, Failure> {
        self.judge(asked.partition, layout)?;
        let mut bytes = 0;
        let mut answer = peer::ComparedObjects {
            reap_generation: self.store.generation(asked.partition),
            ..peer::ComparedObjects::default()
        };
        for framed in asked.keys.iter().take(SCAN_KEYS_MAX as usize) {
            let key = self.key_in(asked.partition, framed)?;
            let found = object_to_send(&self.store, &key).map_err(failed)?;
            let found = found.unwrap_or_else(|| peer::Moved {
                key: framed.clone(),
                ..peer::Moved::default()
            });
            bytes += found.object.len() as u64;
            answer.moved.push(found);
            if bytes >= asked.max_bytes.clamp(1, SCAN_BYTES_MAX) {
                break;
            }
        }
        Ok(answer)
    }

    async fn push(&self, layout: Epoch, push: ComparePush) -> Result<peer::ComparePushed, Failure> {
        if push.moved.len() > SCAN_KEYS_MAX as usize {
            return Err(bad("more objects than one question may have"));
        }
        self.judge(push.partition, layout)?;
        let me = self.clone();
        let merge = move || {
            let mut last = 0;
            for moved in &push.moved {
                let checked = checked(&me.views.current(), push.partition, moved).map_err(bad)?;
                let Some((key, object)) = checked else {
                    continue;
                };
                let (partition, read_under) = (push.partition, push.reap_generation);
                let merged =
                    merge_owned(&me.views, &me.store, partition, &key, object, read_under)?;
                last = merged.max(last);
            }
            Ok(last)
        };
        let last = self.turns.run(merge).await?;
        self.until_durable(last).await?;
        Ok(peer::ComparePushed::default())
    }

    fn key_in(&self, partition: u32, framed: &bytes::Bytes) -> Result<Key, Failure> {
        key_in(&self.views.current(), partition, framed).map_err(bad)
    }

    async fn until_durable(&self, sequence: u64) -> Result<(), Failure> {
        durable_within(&self.store, sequence, DURABLE_TIMEOUT).await
    }
}

/// How exchanges are here, and perhaps a wish.
pub(crate) fn demand_of(board: &Board, demand: &CompareDemand) -> peer::ComparedDemand {
    let wanted: BTreeSet<PartitionId> = ids(&demand.partitions).into_iter().collect();
    if demand.due {
        board.want(&wanted);
    }
    let some = (!wanted.is_empty()).then_some(&wanted);
    let within = Duration::from_millis(demand.within_ms);
    let (clean, partitions) = board.schedule().within(board.now(), some, within);
    peer::ComparedDemand {
        partitions: partitions as u32,
        clean: clean as u32,
    }
}

/// A round of reaping began meanwhile.
fn changed() -> Failure {
    let words = "the partition has come to another reap generation just now";
    Failure::new(Reason::StaleGeneration, words)
}

fn ids(partitions: &[u32]) -> Vec<PartitionId> {
    partitions.iter().copied().map(PartitionId).collect()
}
