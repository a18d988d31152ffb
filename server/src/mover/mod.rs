//! The worker that carries a change of layouts through at this node: erases, receives, raises the trackers, and proposes the
//! end of the older layout when all are through.
//!
//! Keeps I3 by doing what [`core`] says, in its order: what a tracker promises is done and durable before it is raised, and
//! raised before anybody hears of it. Keeps I7: few partitions at a time, in bounded pages, at a bounded rate. There is one
//! worker and it does one thing at a time, so nothing is erased that was acknowledged.

pub mod core;
pub(crate) mod local;
pub mod pace;
pub mod progress;
mod receive;
mod restore;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::BoxFuture;
use ringfort_ring::{Decree, PartitionId, StoreId, Trackers};
use ringfort_storage::{
    Store,
    identity::Unsynced,
    mutants::{Mutant, is_planted},
    version::ActorId,
};
use tokio::{sync::watch, task::JoinSet};

use self::{
    core::{Known, Stage, Task, next},
    local::{Haste, Local},
    pace::Pace,
    progress::Progress,
};
use crate::{
    clock::Clock,
    coordinator::Coordinator,
    council::{Council, Part},
    gossip::Routes,
    net::Net,
    peer::{Bulk, Fences, bulk::Unreached},
    pool::EnginePool,
    reaper::{At, Missed},
    view::{View, Views},
};

/// When nothing is heard, it is looked again after this, and up to as much more by the node's jitter: what is told can be lost.
const LOOK: Duration = Duration::from_secs(2);
/// After a setback it is tried again after this, and up to as much more.
const AGAIN: Duration = Duration::from_millis(500);
/// The members propose the end of the older layout one after the other, so far apart: mostly one does.
const RETIRE_TURN: Duration = Duration::from_millis(300);
/// The last of them at most so late.
const RETIRE_TURN_MAX: Duration = Duration::from_secs(3);
/// One that is out still answers other nodes for so long: those that have not heard of it yet learn it from its refusals.
const LINGER: Duration = Duration::from_secs(1);

/// Learns anew from all members which of their copies count toward R.
pub type Learn = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// Has this store come to the reap generations that the others are at, durably, at partitions of which it holds nothing.
pub type Adopt =
    Box<dyn Fn(Vec<PartitionId>) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What a worker is made of.
pub struct Parts {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// This store's voice.
    pub council: Arc<Council>,
    /// The current view.
    pub views: Views,
    /// This node's store.
    pub store: Store,
    /// Where what blocks is done.
    pub pool: Arc<dyn EnginePool>,
    /// Connections of its own, so that a transfer does not hold up operations.
    pub net: Arc<dyn Net>,
    /// Where nodes are now.
    pub routes: Arc<Routes>,
    /// Fences of what is asked.
    pub fences: Fences,
    /// Whose clients it gives way to.
    pub coordinator: Arc<Coordinator>,
    /// See [`Learn`].
    pub learn: Learn,
    /// Comes, at partitions that this store is given, to the reap generations that the others are at.
    pub adopt: Adopt,
    /// Partitions of which this store has missed a round of reaping.
    pub missed: Arc<Missed>,
    /// Where it tells how far it is.
    pub progress: Arc<Progress>,
    /// Bytes a second that are received, at most.
    pub bytes_per_s: u64,
    /// Any number; fixes the jitter.
    pub jitter: u64,
}

/// Why a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The newest decree does not list this store, or excuses it: it is to stop serving.
    Out(String),
    /// Nobody knows what is on the disk.
    Broken(String),
}

/// What a turn left.
enum Turn {
    /// There may be more to do.
    Again,
    /// Nothing before there is news, or this time has passed.
    Wait(Duration),
}

/// See the module.
pub struct Mover {
    parts: Parts,
    local: Local,
    bulk: Bulk,
    pace: Mutex<Pace>,
    /// How far partitions are received, of the newest layout.
    stages: Mutex<BTreeMap<PartitionId, Stage>>,
    /// As whom this store minted when the first of `stages` began: whoever forgets something becomes another.
    received_as: ActorId,
    /// The decree by which everything that is not this store's was forgotten.
    swept: Option<Arc<Decree>>,
    /// Tells others, beside the work.
    telling: JoinSet<()>,
}

impl Mover {
    /// A worker that has done nothing.
    pub fn new(parts: Parts) -> Mover {
        Mover {
            local: Local::new(&parts.store, &parts.pool, &parts.views, &parts.coordinator),
            bulk: Bulk::new(&parts.net, &parts.routes, &parts.fences),
            pace: Mutex::new(Pace::new(parts.bytes_per_s)),
            stages: Mutex::default(),
            received_as: parts.store.actor(),
            swept: None,
            telling: JoinSet::new(),
            parts,
        }
    }

    /// Works until this store is out, or cannot go on.
    pub async fn run(mut self) -> End {
        let mut news = self.parts.council.changes();
        loop {
            news.mark_unchanged();
            let turn = match self.turn().await {
                Ok(turn) => turn,
                Err(end) => return end,
            };
            while self.telling.try_join_next().is_some() {}
            if let Turn::Wait(patience) = turn {
                let jitter = self.parts.jitter % (patience.as_millis() as u64).max(1);
                let patience = patience + Duration::from_millis(jitter);
                // The council lives as long as this worker.
                tokio::select! {
                    _ = news.changed() => {}
                    () = self.parts.missed.noted_some() => {}
                    () = tokio::time::sleep(patience) => {}
                }
            }
        }
    }

    /// Does the next thing.
    async fn turn(&mut self) -> Result<Turn, End> {
        let view = self.parts.views.current();
        if let Some((partition, at)) = self.parts.missed.first(&view) {
            self.begin_anew(partition, at).await?;
            return Ok(Turn::Again);
        }
        match self.next(&view) {
            Task::Out if self.parts.council.part() == Part::Waiting => Ok(Turn::Wait(LOOK)),
            Task::Out => Err(self.out().await),
            Task::Acknowledge(partitions, trackers) => self.acknowledge(partitions, trackers).await,
            Task::Receive(receiving) => self.receive(&view, receiving).await,
            Task::Repair(missing) if self.is_swept(&view) => {
                match self.receive(&view, missing).await? {
                    Turn::Wait(_) => Ok(Turn::Wait(LOOK)),
                    Turn::Again => Ok(Turn::Again),
                }
            }
            Task::Merged(trackers) => self.raise(trackers),
            // Once it is out nobody takes from it what it holds for others.
            Task::Flip(_) if self.leaves_with_hints(&view) => Ok(Turn::Wait(AGAIN)),
            // Whoever reads by the newer layout finds no round that began under the older one.
            Task::Flip(_) if !self.parts.store.partitions_reaping().is_empty() => {
                Ok(Turn::Wait(AGAIN))
            }
            Task::Flip(trackers) => {
                // What was unsynced before is not any more, and is counted on from here.
                (self.parts.learn)().await;
                self.raise(trackers)
            }
            Task::Retire(decree) => Ok(self.retire(*decree).await),
            Task::Repair(_) | Task::Rest => self.sweep(view).await,
        }
    }

    fn next(&self, view: &View) -> Task {
        let me = self.parts.council.me();
        let acquired = view.acquired();
        let identity = self.parts.store.identity().current();
        let owned = match identity.unsynced {
            Unsynced::None => Vec::new(),
            _ => view.owned(),
        };
        next(&Known {
            history: view.history(),
            me,
            acquired: &acquired,
            owned: &owned,
            is_synced: &|partition| !identity.unsynced.contains(partition.0),
            counts: &|store, partition| view.counts(store, partition),
            is_damaged: &|partition| self.parts.store.lost_to_damage(partition.0),
        })
    }

    /// Erases a partition of which a round of reaping was missed, and comes to the generation that the others are at. It is received
    /// then like whatever else this store lacks.
    async fn begin_anew(&mut self, partition: PartitionId, at: At) -> Result<(), End> {
        self.stages().remove(&partition);
        let view = self.parts.views.current();
        if view.owns(partition) {
            self.local.mark_unsynced(&[partition]).await?;
            // Nothing is taken meanwhile.
            self.local
                .erase(&[partition], || Haste::Needed, || true)
                .await?;
        }
        self.local.adopt(partition, at).await?;
        self.parts.missed.mended(partition, at);
        tracing::info!(
            partition = partition.0,
            generation = at.generation,
            "erased what a round of reaping was missed of"
        );
        Ok(())
    }

    /// Whether this node is not of the newest layout, and holds hints still. It is given no more of them.
    fn leaves_with_hints(&self, view: &View) -> bool {
        let stays = view.live().last().is_some_and(|live| live.me().is_some());
        !stays && self.parts.store.hint_stats().count > 0
    }

    /// Counts anew what is received, for those who ask.
    fn tell_progress(&self) {
        let view = self.parts.views.current();
        let identity = self.parts.store.identity().current();
        let acquired = view.acquired();
        let here = acquired
            .iter()
            .filter(|a| !identity.unsynced.contains(a.partition.0));
        let layout = view.history().decree().newest().epoch();
        let now = self.parts.clock.now();
        let (all, here) = (acquired.len(), here.count());
        self.parts.progress.stands(now, layout, all, here);
    }

    /// Raises own trackers and tells everybody: others wait for it.
    fn raise(&mut self, trackers: Trackers) -> Result<Turn, End> {
        let raised = self.parts.council.raise(trackers);
        raised.map_err(|error| End::Broken(error.to_string()))?;
        let council = Arc::clone(&self.parts.council);
        self.telling.spawn(async move { council.tell_all().await });
        Ok(Turn::Again)
    }

    async fn acknowledge(
        &mut self,
        partitions: Vec<PartitionId>,
        trackers: Trackers,
    ) -> Result<Turn, End> {
        self.stages_of_none();
        if !is_planted(Mutant::LeaveWithoutDraining) {
            self.local.mark_unsynced(&partitions).await?;
        }
        // Most writes are taken by enough other owners meanwhile. Never given up: no decree but amendments of this one can come
        // before the acknowledgement.
        let haste = || {
            let view = self.parts.views.current();
            let waits = |partition: &PartitionId| !view.is_taken(*partition, None);
            match partitions.iter().any(waits) {
                true => Haste::Needed,
                false => Haste::AtLeisure,
            }
        };
        self.local.erase(&partitions, haste, || true).await?;
        let adopted = (self.parts.adopt)(partitions.clone()).await;
        adopted.map_err(End::Broken)?;
        tracing::info!(partitions = partitions.len(), layout = %trackers.ack, "given partitions of a new layout");
        let turn = self.raise(trackers)?;
        self.tell_progress();
        Ok(turn)
    }

    /// Another layout: nothing of it is received yet.
    fn stages_of_none(&mut self) {
        self.stages
            .get_mut()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clear();
    }

    async fn retire(&self, decree: Decree) -> Turn {
        let me = self.parts.council.me();
        let view = self.parts.views.current();
        let present = view.history().decree().present();
        let rank = present.keys().take_while(|store| **store != me).count() as u32;
        tokio::time::sleep((RETIRE_TURN * rank).min(RETIRE_TURN_MAX)).await;
        let view = self.parts.views.current();
        if self.next(&view) != Task::Retire(Box::new(decree.clone())) {
            return Turn::Again;
        }
        match self.parts.council.propose(decree).await {
            Ok(epoch) => {
                tracing::info!(%epoch, "the older layout has ended");
                Turn::Again
            }
            Err(failure) => {
                tracing::info!(%failure, "the older layout is not ended yet");
                Turn::Wait(AGAIN)
            }
        }
    }

    fn is_swept(&self, view: &View) -> bool {
        self.swept.as_ref() == Some(view.history().decree())
    }

    /// Forgets what no live layout gives this store.
    async fn sweep(&mut self, view: Arc<View>) -> Result<Turn, End> {
        if self.is_swept(&view) {
            return Ok(Turn::Wait(LOOK));
        }
        let decree = view.history().decree();
        let all = view.layout().partition_ids();
        let foreign: Vec<PartitionId> = all.filter(|partition| !view.owns(*partition)).collect();
        // A newer decree may give some of it to this store, and others may wait by now for what comes next here.
        let this = &*self;
        let still = || {
            let now = this.parts.views.current();
            let rests = matches!(this.next(&now), Task::Rest | Task::Repair(_));
            now.epoch() == view.epoch() && rests
        };
        let haste = || Haste::AtLeisure;
        if !this.local.erase(&foreign, haste, still).await? {
            return Ok(Turn::Again);
        }
        self.swept = Some(Arc::clone(decree));
        Ok(Turn::Again)
    }

    async fn out(&self) -> End {
        let (council, me) = (&self.parts.council, self.parts.council.me());
        let decree = council.newest();
        let words = out_words(&decree, me);
        tracing::warn!("{words}; stopping");
        self.parts.coordinator.drain();
        tokio::time::sleep(LINGER).await;
        End::Out(words)
    }
}

/// What to say of a store that takes part in nothing any more.
fn out_words(decree: &Decree, me: StoreId) -> String {
    let why = match decree.excused().contains_key(&me) {
        true => "was excused",
        false => "was removed from the cluster",
    };
    format!(
        "this node's store {me} {why} (epoch {}): its directory serves no more, and only an empty one can join again",
        decree.epoch()
    )
}

/// How work here ended early; the worker looks anew what there is to do.
#[derive(Debug, Clone, thiserror::Error)]
enum Setback {
    /// A newer decree is known.
    #[error("the layout has changed")]
    Changed,
    /// An old owner is not reached.
    #[error(transparent)]
    Unreached(#[from] Unreached),
    /// This store has forgotten something meanwhile, which may be what it had received.
    #[error("a record here is damaged: all that was received is received again")]
    Forgot,
    /// A round of reaping was missed here.
    #[error("a round of reaping was missed: what was received is erased")]
    Missed,
    /// Not all are equally far with a round of reaping.
    #[error("{0} is not at the same reap generation")]
    Reaping(StoreId),
    /// Of some who hold it something is missing, too.
    #[error("too few copies of it count")]
    Uncounted,
    /// What damage took from this copy is not what others have, and too few of their copies count.
    #[error("no copy is what was lost here, and too few of them count")]
    Unexplained,
    /// What came is not what was asked for, or damaged on its way.
    #[error("{store} sent what cannot be used: {why}")]
    Bad {
        /// Who sent it.
        store: StoreId,
        /// What is wrong with it.
        why: String,
    },
    /// Nobody knows what is on the disk.
    #[error("{0}")]
    Broken(String),
}

/// Completes when the log is durable to `sequence`.
pub(crate) async fn until_durable(mut durable: watch::Receiver<u64>, sequence: u64) {
    // A log that has ended makes nothing durable any more, and the node ends with it.
    if durable.wait_for(|now| *now >= sequence).await.is_err() {
        std::future::pending::<()>().await;
    }
}
