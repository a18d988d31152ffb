//! Receives partitions: streamed from one old owner, compared with all others, each past its own `ack`: by leaf, unless a layout gives
//! them and the roots are the same.
//!
//! Merging is monotone and idempotent, so pages may come twice and in any order; a partition is said to be synced only when
//! all old owners are through and what came of them is durable here. Every object is checked: its leaf covers key, clock,
//! siblings and the hashes of its values, and each value its hash.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use ringfort_proto::peer::{self, peer_client::PeerClient};
use ringfort_ring::{PartitionId, StoreId};
use ringfort_storage::{
    Key,
    engine::EngineError,
    store::{Folds, Read},
};
use tonic::transport::Channel;

use super::{
    AGAIN, End, Mover, Setback, Turn,
    core::{Ask, Damage, Receipt, Receiving, Stage},
    until_durable,
};
use crate::{
    giveway::Beside,
    limits::{SCAN_BYTES_MAX, SCAN_KEYS_MAX},
    peer::{
        compare::FOLDS_A_TURN,
        owned::{checked, key_in},
    },
    view::View,
};

/// Partitions that are received at once.
const PARTITIONS_AT_ONCE: usize = 2;
/// Partitions that are received and not yet said to be synced, at most: one durable write says it of all of them.
const MARK_AT_ONCE: usize = 32;
/// Or when the last such write is so long ago.
const MARK_EVERY: Duration = Duration::from_secs(1);
/// How long a page may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Objects that are merged before others that wait for the worker thread have their turn.
const MERGES_AT_ONCE: usize = 32;
/// Bytes of objects in a page: a large one holds up what clients wait for.
const PAGE_BYTES: u64 = SCAN_BYTES_MAX / 4;

/// A partition that is to be received, as long as the view is this one.
pub(super) struct Job<'a> {
    pub(super) view: &'a View,
    pub(super) receipt: Receipt,
}

impl Mover {
    /// One pass over what can be received now.
    pub(super) async fn receive(&mut self, view: &View, receiving: Receiving) -> Result<Turn, End> {
        self.tell_progress();
        let lost = receiving.lost.len();
        if self.received_as != self.parts.store.actor() {
            self.stages_of_none();
            self.received_as = self.parts.store.actor();
        }
        let mut left = receiving.ready.into_iter();
        let mut running = FuturesUnordered::new();
        let mut pass = Pass::new(self.parts.clock.now());
        let this = &*self;
        loop {
            while running.len() < PARTITIONS_AT_ONCE
                && !pass.is_over
                && let Some(receipt) = left.find(|receipt| pass.may_end(receipt))
            {
                running.push(this.one(Job { view, receipt }));
            }
            match running.next().await {
                None => break,
                Some((partition, Ok(sequence))) => pass.finished.push((partition, sequence)),
                Some((_, Err(Setback::Broken(why)))) => return Err(End::Broken(why)),
                Some((partition, Err(setback))) => {
                    tracing::info!(%setback, partition = partition.0, "a partition waits");
                    pass.note(&setback);
                }
            }
            let now = this.parts.clock.now();
            if pass.finished.len() >= MARK_AT_ONCE || now - pass.marked >= MARK_EVERY {
                this.mark(&mut pass).await?;
            }
        }
        this.mark(&mut pass).await?;
        let lost = lost + pass.unexplained;
        if this.parts.progress.lost(lost) && lost > 0 {
            tracing::warn!(
                partitions = lost,
                "too few copies that count are left to receive from: see `layout accept-loss`"
            );
        }
        Ok(match pass.any || pass.is_over {
            true => Turn::Again,
            false => Turn::Wait(AGAIN),
        })
    }

    /// Says that what is finished is synced.
    async fn mark(&self, pass: &mut Pass) -> Result<(), End> {
        pass.marked = self.parts.clock.now();
        let finished = std::mem::take(&mut pass.finished);
        let Some(mut last) = finished.iter().map(|(_, sequence)| *sequence).max() else {
            return Ok(());
        };
        for (partition, _) in &finished {
            last = self.local.settle(*partition).await.max(last);
        }
        until_durable(self.local.store().durable(), last).await;
        let partitions: Vec<PartitionId> = finished.iter().map(|(p, _)| *p).collect();
        pass.any |= self.local.vouch(&partitions, self.received_as).await?;
        self.tell_progress();
        Ok(())
    }

    /// Receives one partition; gives the log sequence that makes it durable.
    async fn one(&self, job: Job<'_>) -> (PartitionId, Result<u64, Setback>) {
        let partition = job.receipt.partition;
        if job.receipt.damage != Damage::None {
            match self.restore(&job).await {
                Ok(Some(sequence)) => return (partition, Ok(sequence)),
                Ok(None) if job.receipt.damage == Damage::First => {}
                Ok(None) => return (partition, Err(Setback::Unexplained)),
                Err(setback) => return (partition, Err(setback)),
            }
        }
        let mut stage = self.stages().remove(&partition).unwrap_or_default();
        let result = loop {
            if self.parts.views.current().epoch() != job.view.epoch() {
                break Err(Setback::Changed);
            }
            if self.parts.store.actor() != self.received_as {
                break Err(Setback::Forgot);
            }
            let Receipt { from, counting, .. } = &job.receipt;
            let Some(ask) = stage.next(from) else {
                break match stage.suffices(from, *counting) {
                    true => Ok(stage.sequence),
                    false => Err(Setback::Uncounted),
                };
            };
            if let Err(setback) = self.page(&job, &ask, &mut stage).await {
                break Err(setback);
            }
        };
        if result.is_err() {
            self.stages().insert(partition, stage);
        }
        (partition, result)
    }

    fn stages(&self) -> std::sync::MutexGuard<'_, BTreeMap<PartitionId, Stage>> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks an old owner.
    async fn ask(
        &self,
        view: &View,
        store: StoreId,
        request: peer::TransferRequest,
    ) -> Result<peer::TransferResponse, Setback> {
        let question = |mut client: PeerClient<Channel>, fence| async move {
            let fence = Some(fence);
            let request = peer::TransferRequest { fence, ..request };
            client.transfer(request).await
        };
        Ok(self.bulk.ask(view, store, PAGE_TIMEOUT, question).await?)
    }

    /// Asks for a page, merges it, and rests.
    async fn page(&self, job: &Job<'_>, ask: &Ask, stage: &mut Stage) -> Result<(), Setback> {
        let clock = &self.parts.clock;
        let asked = clock.now();
        let mine = self.root(job, ask).await?;
        let request = peer::TransferRequest {
            fence: None,
            layout: job.receipt.layout.0,
            partition: job.receipt.partition.0,
            after: ask.after.clone().into(),
            leaves_only: !ask.whole,
            keys: Vec::new(),
            max_keys: SCAN_KEYS_MAX,
            max_bytes: PAGE_BYTES,
            root: mine.as_ref().map(|mine| mine.root),
        };
        let page = self.ask(job.view, ask.store, request).await?;
        // What it took the other to make the page is for the other to rest for.
        let began = clock.now();
        let next = page.next.clone();
        let came = match ask.whole {
            true => self.merge(job, ask.store, page).await?,
            false => self.compare(job, ask.store, page).await?,
        };
        let bytes = came.bytes;
        // What is the same may be so in memory alone yet.
        let rests_on = mine.map_or(0, |mine| mine.sequence);
        stage.advance(ask.store, &next, came.sequence.max(rests_on), came.counts);
        let now = clock.now();
        self.parts.progress.came(now, bytes);
        let beside = self.parts.coordinator.beside();
        let rest = {
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.rest(now, bytes, now - asked, Beside::Nobody)
        };
        let rest = rest.max(beside.rest(now - began));
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
        Ok(())
    }

    /// The root of what is here of a partition that is to be compared, so that one that is the same is not compared leaf by leaf.
    /// `None`: it cannot be told now, or says too little, because something of it is damaged.
    async fn root(&self, job: &Job<'_>, ask: &Ask) -> Result<Option<Mine>, Setback> {
        if ask.whole || !ask.after.is_empty() || job.receipt.damage != Damage::None {
            return Ok(None);
        }
        let partition = job.receipt.partition.0;
        let root = self.local.block(move |store| {
            let root = store.root(partition, &mut Folds(FOLDS_A_TURN))?;
            let sequence = store.stats().last_sequence;
            let mine = root.map(|root| Mine {
                root: root.hash,
                sequence,
            });
            Ok::<_, EngineError>(mine)
        });
        let root = root.await;
        root.map_err(|error| Setback::Broken(error.to_string()))
    }

    /// Merges the objects of a page.
    pub(super) async fn merge(
        &self,
        job: &Job<'_>,
        store: StoreId,
        page: peer::TransferResponse,
    ) -> Result<Came, Setback> {
        let mut came = Came::nothing(page.counts);
        for (place, moved) in page.moved.into_iter().enumerate() {
            if place % MERGES_AT_ONCE == MERGES_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            came.bytes += moved.object.len() as u64;
            let bad = |why: String| Setback::Bad { store, why };
            let Some((key, object)) =
                checked(job.view, job.receipt.partition.0, &moved).map_err(bad)?
            else {
                continue;
            };
            let merged = self.local.merge(&key, object).await;
            let sequence = merged.map_err(|why| bad(why.to_string()))?;
            came.sequence = came.sequence.max(sequence);
        }
        Ok(came)
    }

    /// Compares the leaves of a page with what is here, and fetches and merges what differs.
    async fn compare(
        &self,
        job: &Job<'_>,
        store: StoreId,
        page: peer::TransferResponse,
    ) -> Result<Came, Setback> {
        let mut all = Came::nothing(page.counts);
        if page.moved.is_empty() {
            return Ok(all);
        }
        let mut wanted = self.differing(job, store, page.moved).await?;
        while !wanted.is_empty() {
            let answer = self.these(job, store, &wanted).await?;
            wanted.drain(..answer.moved.len());
            all.add(self.merge(job, store, answer).await?);
        }
        Ok(all)
    }

    /// As many of these keys, from the first on, as the store answers with: one at least.
    pub(super) async fn these(
        &self,
        job: &Job<'_>,
        store: StoreId,
        wanted: &[Bytes],
    ) -> Result<peer::TransferResponse, Setback> {
        let request = peer::TransferRequest {
            layout: job.receipt.layout.0,
            partition: job.receipt.partition.0,
            keys: wanted.to_vec(),
            max_bytes: PAGE_BYTES,
            ..peer::TransferRequest::default()
        };
        let answer = self.ask(job.view, store, request).await?;
        let told = answer.moved.iter().map(|moved| &moved.key);
        let fits = told.eq(wanted.iter().take(answer.moved.len()));
        if answer.moved.is_empty() || answer.moved.len() > wanted.len() || !fits {
            let why = "other keys than were asked for".to_owned();
            return Err(Setback::Bad { store, why });
        }
        Ok(answer)
    }

    /// The framed keys of those leaves that differ from what is here.
    async fn differing(
        &self,
        job: &Job<'_>,
        store: StoreId,
        leaves: Vec<peer::Moved>,
    ) -> Result<Vec<Bytes>, Setback> {
        let mut theirs = Vec::with_capacity(leaves.len());
        for moved in leaves {
            let bad = |why: String| Setback::Bad { store, why };
            theirs.push((
                key_in(job.view, job.receipt.partition.0, &moved.key).map_err(bad)?,
                moved.leaf,
            ));
        }
        let keys: Vec<Key> = theirs.iter().map(|(key, _)| key.clone()).collect();
        let mine = self.local.block(move |store| store.load(&keys)).await;
        let mine = mine.map_err(|error| Setback::Broken(error.to_string()))?;
        let differs = |read: &Read, leaf| !matches!(read, Read::Found(mine) if mine.leaf() == leaf);
        let wanted = mine.iter().zip(theirs);
        let wanted = wanted.filter(|(mine, (_, leaf))| differs(mine, *leaf));
        Ok(wanted.map(|(_, (key, _))| key.framed().clone()).collect())
    }
}

/// What is here of a partition.
struct Mine {
    root: u64,
    /// The log sequence that makes durable what the root stands for.
    sequence: u64,
}

/// What came of asking an old owner.
pub(super) struct Came {
    bytes: u64,
    /// The last log sequence of what was changed here for it.
    pub(super) sequence: u64,
    /// Whether its copy counts, as it says.
    counts: bool,
}

impl Came {
    fn nothing(counts: bool) -> Came {
        Came {
            bytes: 0,
            sequence: 0,
            counts,
        }
    }

    fn add(&mut self, more: Came) {
        self.bytes += more.bytes;
        self.sequence = self.sequence.max(more.sequence);
        self.counts &= more.counts;
    }
}

/// One pass over the partitions.
struct Pass {
    /// Received, and not yet said to be synced.
    finished: Vec<(PartitionId, u64)>,
    marked: tokio::time::Instant,
    /// Old owners that are not reached: partitions that need them wait for the next pass.
    unreached: BTreeSet<StoreId>,
    /// Whether any partition was finished.
    any: bool,
    /// The layout has changed.
    is_over: bool,
    /// Partitions that lost records which no copy explains, and of which too few copies count.
    unexplained: usize,
}

impl Pass {
    fn new(now: tokio::time::Instant) -> Pass {
        Pass {
            finished: Vec::new(),
            marked: now,
            unreached: BTreeSet::new(),
            any: false,
            is_over: false,
            unexplained: 0,
        }
    }

    fn may_end(&self, receipt: &Receipt) -> bool {
        receipt.damage != Damage::None || !receipt.from.iter().any(|s| self.unreached.contains(s))
    }

    fn note(&mut self, setback: &Setback) {
        match setback {
            Setback::Changed | Setback::Forgot => self.is_over = true,
            Setback::Unreached(who) => drop(self.unreached.insert(who.store)),
            Setback::Unexplained => self.unexplained += 1,
            Setback::Bad { .. } | Setback::Uncounted | Setback::Broken(_) => {}
        }
    }
}
