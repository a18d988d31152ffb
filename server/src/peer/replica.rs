//! What a node does for its peers: merges what they send, tells what it holds.
//!
//! Keeps I1 (a store is acknowledged when it is durable here), I3 (a copy that does not count toward R says so: it
//! refuses with `NOT_SYNCED`) and I9 (a stale epoch is told the newer one, a foreign cluster is refused).

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use ringfort_proto::{Failure, Reason, peer, v1};
use ringfort_ring::{Epoch, StoreId, Token, token_of_framed};
use ringfort_storage::{
    Key, Record, Store,
    mutants::{Mutant, is_planted},
    store::{HintRefused, MergeRefused, Read, StoreFull},
    version::{Floor, Object},
};

use super::{
    compare::Comparer,
    deliver::Taker,
    fence::{Fenced, Fences, Heard},
    outbox::{Answers, Outbox, Outgoing},
    scan::ScanParts,
    transfer::Giver,
    turns::Turns,
};
use crate::{
    clock::SteadyClock,
    coordinator::{Coordinator, Origin, ReplySink},
    counters::{Counters, add},
    exchange::Board,
    limits::{LOADS_MAX, PEER_MESSAGE_BYTES_MAX, PEER_STREAMS_MAX},
    pool::EnginePool,
    reaper::{Answerer, Missed},
    view::{View, Views},
    wire::{decode_object, encode_object},
};

/// An object that a peer fetches, at most: what is left of a message beside up to 256 KiB of others and small replies.
const FETCHED_BYTES_MAX: usize = PEER_MESSAGE_BYTES_MAX - (1 << 20);

/// What a [`Replica`] is made of.
#[derive(Clone)]
pub struct ReplicaParts {
    /// The current view.
    pub views: Views,
    /// Fences, to judge and to write.
    pub fences: Fences,
    /// What is learned from fences.
    pub heard: Arc<Heard>,
    /// This node's store.
    pub store: Store,
    /// Where misses are loaded.
    pub pool: Arc<dyn EnginePool>,
    /// Coordinates what peers forward.
    pub coordinator: Arc<Coordinator>,
    /// Counters.
    pub counters: Arc<Counters>,
    /// How exchanges are.
    pub board: Arc<Board>,
    /// Partitions of which this store has missed a round of reaping.
    pub missed: Arc<Missed>,
    /// Time for the ages of hints.
    pub steady: Arc<SteadyClock>,
}

/// The peer's side of the data path.
pub struct Replica {
    parts: ReplicaParts,
    giver: Giver,
    comparer: Comparer,
    answerer: Answerer,
    streams: Mutex<Vec<Weak<Outbox>>>,
}

/// A digest or a fetch of a key.
struct Asked {
    id: u64,
    key: Key,
    whole: bool,
    /// The reap generation that the asker read its own copy under.
    generation: u64,
}

/// A digest or a fetch, as it came.
struct Wanted {
    id: u64,
    key: Bytes,
    whole: bool,
    /// Of the hint that is held of the key.
    hint: bool,
    generation: u64,
}

/// Why an object is not taken.
enum Refusal {
    Reason(Reason),
    /// It was read under a lower reap generation than this one.
    Older {
        generation: u64,
        floor: u64,
    },
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Refusal::Reason(reason)
    }
}

impl Replica {
    /// Serves peers from these parts.
    pub fn new(parts: ReplicaParts) -> Arc<Self> {
        let turns = Turns::new(Arc::clone(&parts.pool), Arc::clone(&parts.coordinator));
        let (views, store) = (parts.views.clone(), parts.store.clone());
        let comparer = Comparer::new(
            views.clone(),
            store.clone(),
            Arc::clone(&parts.board),
            turns.clone(),
        );
        let answerer = Answerer {
            views: views.clone(),
            store: store.clone(),
            // Of their own: a round of reaping does not wait behind pages.
            turns: Turns::new(Arc::clone(&parts.pool), Arc::clone(&parts.coordinator)),
            coordinator: Arc::clone(&parts.coordinator),
            missed: Arc::clone(&parts.missed),
            counters: Arc::clone(&parts.counters),
        };
        Arc::new(Replica {
            answerer,
            giver: Giver::new(views, store, turns),
            comparer,
            parts,
            streams: Mutex::new(Vec::new()),
        })
    }

    /// This node's fences.
    pub(super) fn fences(&self) -> &Fences {
        &self.parts.fences
    }

    /// Opens the replies of a new incoming stream.
    ///
    /// # Errors
    /// `OVERLOADED`: there are too many.
    pub(super) fn open(&self) -> Result<(Arc<Outbox>, Outgoing), Failure> {
        let outbox = Arc::new(Outbox::default());
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|stream| stream.strong_count() > 0);
        if streams.len() >= PEER_STREAMS_MAX {
            let why = "this node has as many streams of peers as it may";
            return Err(Failure::new(Reason::Overloaded, why).with("limit", PEER_STREAMS_MAX));
        }
        streams.push(Arc::downgrade(&outbox));
        drop(streams);
        // Registered before it is told: no group can fall between the two.
        outbox.on_durable(*self.parts.store.durable().borrow());
        let outgoing = Outgoing {
            outbox: Arc::clone(&outbox),
            fences: self.parts.fences.clone(),
        };
        Ok((outbox, outgoing))
    }

    /// The log is durable to `sequence`: acknowledges what peers wait for. One call per group of the log.
    pub fn on_durable(&self, sequence: u64) {
        let streams = self
            .streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for outbox in streams.iter().filter_map(Weak::upgrade) {
            outbox.on_durable(sequence);
        }
    }

    /// Applies one batch. Nothing waits here: what is not known yet is answered through `outbox` later.
    ///
    /// # Errors
    /// `WRONG_CLUSTER`: the batch is from another cluster, nothing of it was applied, and the stream is to end.
    pub(super) fn apply(
        self: &Arc<Self>,
        batch: peer::Batch,
        outbox: &Arc<Outbox>,
    ) -> Result<(), Failure> {
        let parts = &self.parts;
        let fence = batch.fence.unwrap_or_default();
        let stale = match parts.fences.judge(&fence) {
            Fenced::Foreign => {
                add(&parts.counters.wrong_cluster, 1);
                let failure = parts.fences.wrong_cluster(&fence);
                tracing::warn!(%failure, "refused a message from another cluster");
                return Err(failure);
            }
            Fenced::Stale(epoch) => Some(epoch.0),
            Fenced::Current => None,
        };
        parts
            .heard
            .note(StoreId(fence.store_id), fence.durable_sequence);
        if let Some(epoch) = stale {
            outbox.answer(refuse_all(&batch, epoch), 0);
            refuse_forwards(batch.forwards, epoch, outbox.as_ref());
            return Ok(());
        }
        let mut answers = Answers::default();
        self.apply_stores(batch.stores, &mut answers);
        let missed = self.read_all(batch.digests, batch.fetches, &mut answers);
        let operations: Vec<_> = batch
            .forwards
            .into_iter()
            .filter_map(|f| f.operation)
            .collect();
        add(&parts.counters.peer_refused, answers.refused.len());
        outbox.answer(answers, missed.len() + operations.len());
        if !missed.is_empty() {
            self.load(missed, Arc::clone(outbox), LOADS_MAX);
        }
        if !operations.is_empty() {
            let sink = Arc::clone(outbox) as Arc<dyn ReplySink>;
            parts.coordinator.submit(operations, Origin::Peer, &sink);
        }
        Ok(())
    }

    fn apply_stores(&self, stores: Vec<peer::Store>, answers: &mut Answers) {
        let view = self.parts.views.enter();
        add(&self.parts.counters.replica_stores, stores.len());
        for store in stores {
            let buffered = store.buffered;
            let id = store.id;
            let taken = match store.hint {
                true => self.hold(&view, store),
                false => self.merge(&view, store),
            };
            match taken {
                Ok(_) if buffered => answers.stored.push(id),
                Ok(_) if is_planted(Mutant::AckBeforeSync) => answers.waiting.push((0, id)),
                Ok(sequence) => answers.waiting.push((sequence, id)),
                Err(Refusal::Reason(Reason::StaleEpoch)) => {
                    answers.refuse(id, Reason::StaleEpoch, view.epoch().0);
                }
                Err(Refusal::Reason(reason)) => answers.refuse(id, reason, 0),
                Err(Refusal::Older { generation, floor }) => {
                    answers.refuse_older(id, generation, floor);
                }
            }
        }
    }

    /// Takes an object as a hint: of a key that this store owns in no layout that the sender knows.
    fn hold(&self, view: &View, store: peer::Store) -> Result<u64, Refusal> {
        let key = key_from_wire(&store.key)?;
        let partition = view.layout().partition_of(Token(key.token()));
        let (epoch, is_owner) = (Epoch(store.epoch), view.takes_writes(partition));
        // Its owners were counted by who did not know that this store is one of them.
        if view.refuses_write(epoch) || is_owner && epoch < view.epoch() {
            return Err(Reason::StaleEpoch.into());
        }
        let floor = floor_of(&store);
        let object = object_of(store.object)?;
        if object.is_empty() {
            return Err(Reason::BadRequest.into());
        }
        let now_ms = self.parts.steady.ms();
        let taken = self
            .parts
            .store
            .take_hint(&key, object, floor, store.reap_generation, now_ms);
        taken.map_err(|refused| match refused {
            HintRefused::Budget { .. } => Reason::Overloaded.into(),
            HintRefused::Full(full) => reason_of(full).into(),
            HintRefused::StaleGeneration { generation, floor } => {
                Refusal::Older { generation, floor }
            }
        })
    }

    fn merge(&self, view: &View, store: peer::Store) -> Result<u64, Refusal> {
        let key = key_from_wire(&store.key)?;
        // Its owners were counted by who did not know all that this store has promised to write by.
        if view.refuses_write(Epoch(store.epoch)) {
            return Err(Reason::StaleEpoch.into());
        }
        // Kept here it would be nobody's: owned in no layout that lives, it is never read, moved or reaped. Of a partition
        // that is given to this store it would be erased before the store acknowledges that.
        if !view.takes_writes(view.layout().partition_of(Token(key.token()))) {
            let outdated = Epoch(store.epoch) < view.epoch();
            let reason = match outdated {
                true => Reason::StaleEpoch,
                false => Reason::NotSynced,
            };
            return Err(reason.into());
        }
        let floor = floor_of(&store);
        let object = object_of(store.object)?;
        self.parts
            .store
            .merge_write(&key, object, floor, store.reap_generation)
            .map_err(|refused| match refused {
                MergeRefused::Full(full) => reason_of(full).into(),
                MergeRefused::StaleGeneration { generation, floor } => {
                    Refusal::Older { generation, floor }
                }
            })
    }

    /// Answers what can be answered now; returns what needs the engine first.
    fn read_all(
        &self,
        digests: Vec<peer::Digest>,
        fetches: Vec<peer::Fetch>,
        answers: &mut Answers,
    ) -> Vec<Asked> {
        let view = self.parts.views.enter();
        add(
            &self.parts.counters.replica_reads,
            digests.len() + fetches.len(),
        );
        let wanted = digests.into_iter().map(|d| Wanted {
            id: d.id,
            key: d.key,
            whole: false,
            hint: d.hint,
            generation: d.reap_generation,
        });
        let wanted = wanted.chain(fetches.into_iter().map(|f| Wanted {
            id: f.id,
            key: f.key,
            whole: true,
            hint: f.hint,
            generation: f.reap_generation,
        }));
        let mut missed = Vec::new();
        for Wanted {
            id,
            key,
            whole,
            hint,
            generation,
        } in wanted
        {
            let asked = |key| Asked {
                id,
                key,
                whole,
                generation,
            };
            match key_from_wire(&key) {
                Ok(key) if hint => self.read_hint(&asked(key), answers),
                Ok(key) => missed.extend(self.read(&view, asked(key), answers)),
                Err(reason) => answers.refuse(id, reason, 0),
            }
        }
        missed
    }

    /// Answers from the hint that is held of a key. That there is none says nothing of the key.
    fn read_hint(&self, wanted: &Asked, answers: &mut Answers) {
        match self.parts.store.hint(&wanted.key) {
            Some(hint) => answer_with(wanted, &hint.record, hint.generation, answers),
            None => answers.refuse(wanted.id, Reason::NotSynced, 0),
        }
    }

    /// Answers one digest or fetch; hands it back if the engine must be asked first.
    ///
    /// An object that is about to be reaped is told as it is to those who have not come to that round: their own copies may be
    /// older than the delete. Those who have missed a round that has ended are told so.
    fn read(&self, view: &View, wanted: Asked, answers: &mut Answers) -> Option<Asked> {
        let partition = view.layout().partition_of(Token(wanted.key.token()));
        if !view.answers_reads(partition) {
            answers.refuse(wanted.id, Reason::NotSynced, 0);
            return None;
        }
        let store = &self.parts.store;
        // Before the object is read: it may be older than a round that begins meanwhile.
        let generation = store.generation(partition.0);
        match store.read(&wanted.key) {
            Read::Found(record) => {
                let floor = store.floor(partition.0);
                let is_absent = store.is_absent(&wanted.key, record.leaf());
                // After that, so that it is the list's, or a later one.
                let newest = store.generation(partition.0);
                if wanted.generation < floor {
                    answers.refuse_older(wanted.id, newest, floor);
                } else if is_absent && wanted.generation >= newest {
                    let nothing = Record::new(&wanted.key, Object::empty());
                    answer_with(&wanted, &nothing, generation, answers);
                } else {
                    answer_with(&wanted, &record, generation, answers);
                }
                None
            }
            Read::Quarantined => {
                answers.refuse(wanted.id, Reason::NotSynced, 0);
                None
            }
            Read::Miss => Some(wanted),
        }
    }

    /// Loads all misses of a batch in one job, and answers them.
    fn load(self: &Arc<Self>, missed: Vec<Asked>, outbox: Arc<Outbox>, attempts: u8) {
        add(&self.parts.counters.loads, missed.len());
        let ids: Vec<u64> = missed.iter().map(|m| m.id).collect();
        let (replica, late) = (Arc::clone(self), Arc::clone(&outbox));
        let job = move || replica.loaded(missed, &late, attempts);
        if self.parts.pool.submit(Box::new(job)).is_err() {
            refuse_late(&ids, &outbox);
        }
    }

    fn loaded(self: &Arc<Self>, missed: Vec<Asked>, outbox: &Arc<Outbox>, attempts: u8) {
        let keys: Vec<Key> = missed.iter().map(|m| m.key.clone()).collect();
        if let Err(error) = self.parts.store.load(&keys) {
            tracing::error!(%error, "the engine failed to load");
            let ids: Vec<u64> = missed.iter().map(|m| m.id).collect();
            return refuse_late(&ids, outbox);
        }
        let view = self.parts.views.enter();
        let mut answers = Answers::default();
        let count = missed.len();
        let again: Vec<Asked> = missed
            .into_iter()
            .filter_map(|m| self.read(&view, m, &mut answers))
            .collect();
        drop(view);
        outbox.later(answers, count - again.len());
        if again.is_empty() {
            return;
        }
        if attempts > 1 {
            self.load(again, Arc::clone(outbox), attempts - 1);
        } else {
            refuse_late(&again.iter().map(|m| m.id).collect::<Vec<_>>(), outbox);
        }
    }

    /// What a scan of this node's own copy needs.
    pub(crate) fn scan_parts(&self) -> ScanParts {
        ScanParts {
            views: self.parts.views.clone(),
            store: self.parts.store.clone(),
        }
    }

    /// What handing a partition over needs.
    pub(super) fn giver(&self) -> &Giver {
        &self.giver
    }

    /// What answering exchanges needs.
    pub(super) fn comparer(&self) -> &Comparer {
        &self.comparer
    }

    /// What answering whoever drives a round of reaping needs.
    pub(crate) fn reaping(&self) -> &Answerer {
        &self.answerer
    }

    /// What taking deliveries needs.
    pub(super) fn taker(&self) -> Taker {
        Taker {
            views: self.parts.views.clone(),
            store: self.parts.store.clone(),
        }
    }

    /// The pool that scans run on.
    pub(crate) fn pool(&self) -> &Arc<dyn EnginePool> {
        &self.parts.pool
    }
}

/// Answers a digest or a fetch with what was found.
fn answer_with(wanted: &Asked, record: &Record, generation: u64, answers: &mut Answers) {
    if !wanted.whole {
        return answers.digests.push((wanted.id, record.leaf()));
    }
    let object = encode_object(record.object());
    if object.len() > FETCHED_BYTES_MAX {
        // Sent, it would break the stream, and with it everything else that is on its way.
        return answers.refuse(wanted.id, Reason::TooLarge, 0);
    }
    answers.fetched.push(peer::Fetched {
        id: wanted.id,
        object,
        reap_generation: generation,
    });
}

fn floor_of(store: &peer::Store) -> Floor {
    Floor {
        client: store.client,
        lowest_unanswered: store.lowest_unanswered,
    }
}

fn object_of(bytes: Bytes) -> Result<Object, Reason> {
    decode_object(bytes).map_err(|why| {
        tracing::warn!(%why, "refused an object of a peer");
        Reason::BadRequest
    })
}

fn reason_of(full: StoreFull) -> Reason {
    match full {
        StoreFull::Object { .. } => Reason::TooLarge,
        StoreFull::Space => Reason::DiskFull,
        _ => Reason::Overloaded,
    }
}

/// The key of a message: copied, and its token computed here.
pub(crate) fn key_from_wire(framed: &Bytes) -> Result<Key, Reason> {
    let token = token_of_framed(framed);
    Key::from_framed(token.0, Bytes::copy_from_slice(framed)).map_err(|_| Reason::BadRequest)
}

fn refuse_late(ids: &[u64], outbox: &Outbox) {
    let mut answers = Answers::default();
    ids.iter()
        .for_each(|&id| answers.refuse(id, Reason::Overloaded, 0));
    outbox.later(answers, ids.len());
}

/// Refuses all of a batch but its forwards, as sent under a stale epoch.
fn refuse_all(batch: &peer::Batch, epoch: u64) -> Answers {
    let mut answers = Answers::default();
    let ids = batch.stores.iter().map(|s| s.id);
    let ids = ids.chain(batch.digests.iter().map(|d| d.id));
    for id in ids.chain(batch.fetches.iter().map(|f| f.id)) {
        answers.refuse(id, Reason::StaleEpoch, epoch);
    }
    answers
}

fn refuse_forwards(forwards: Vec<peer::Forward>, epoch: u64, outbox: &Outbox) {
    let failure = Failure::new(
        Reason::StaleEpoch,
        format!("the layout is at epoch {epoch} by now"),
    )
    .with("epoch", epoch);
    let operations = forwards.into_iter().filter_map(|f| f.operation);
    let results = operations.map(|op| v1::OperationResult {
        id: op.id,
        kind: Some(v1::operation_result::Kind::Error(failure.to_wire())),
    });
    let results: Vec<_> = results.collect();
    if !results.is_empty() {
        outbox.deliver(results);
    }
}
