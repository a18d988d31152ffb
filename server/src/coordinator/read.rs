//! The steps of a read, and of the repair after it.
//!
//! Keeps I3 by [`Get`](crate::core::get::Get), and I5: what a read finds to differ it repairs, off the critical path.

use std::sync::Arc;

use bytes::Bytes;
use ringfort_proto::{Failure, Reason, peer, v1, v1::operation_result::Kind};
use ringfort_ring::PartitionId;
use ringfort_storage::{
    Key, Record,
    store::Read,
    version::{Context, Object, context},
};

use super::{
    pending::{Intent, Owners, Pending, Phase, Reading},
    slab::OpId,
    step::Step,
};
use crate::{
    core::get::{Get, Verdict},
    counters::add,
    peer::{PeerId, links::Item},
    wire::encode_object,
};

/// How often a read may begin anew because of reaping.
const RESTARTS_MAX: u8 = 3;
/// When to try again after that.
const RETRY_AFTER_REAPING: std::time::Duration = std::time::Duration::from_millis(50);

/// The id of a store that nobody waits for.
const NOBODY: u64 = 0;

impl Step<'_> {
    /// A read that has not begun.
    pub fn new_reading(key: Key, owners: Owners, need: u32, then: Option<Intent>) -> Reading {
        Reading {
            get: Self::new_get(key, owners, need),
            then,
            answered: false,
            tells_deleted: false,
            generation: 0,
            lowest: u64::MAX,
            restarts: 0,
        }
    }

    fn new_get(key: Key, owners: Owners, need: u32) -> Get {
        let own = owners.own().unwrap_or(0);
        Get::new(key, owners.len(), owners.fallback_count(), own, need)
    }

    /// Asks all other owners for digests, and fallbacks for those of hints, and reads the own copy.
    pub fn begin_read(&mut self, id: OpId) {
        let Some(pending) = self.state.ops.get_mut(id) else {
            return;
        };
        let (key, owners) = (pending.key.clone(), pending.owners);
        // Before anything is read.
        let generation = self.parts.store.generation(pending.partition.0);
        if let Phase::Reading(reading) = &mut pending.phase {
            (reading.generation, reading.lowest) = (generation, generation);
        }
        for (place, peer) in owners.others().chain(owners.fallbacks()) {
            let digest = peer::Digest {
                id: id.0,
                key: key.framed().clone(),
                hint: owners.is_fallback(place),
                reap_generation: generation,
            };
            self.send(peer, Item::Digest(digest));
        }
        match self.parts.store.read(&key) {
            Read::Miss => self.load(id, key),
            read => self.own_read(id, read),
        }
    }

    /// The own copy is read. A copy that does not count is as good as none.
    pub fn own_read(&mut self, id: OpId, read: Read) {
        let Some(pending) = self.state.ops.get_mut(id) else {
            return;
        };
        let Phase::Reading(reading) = &mut pending.phase else {
            return;
        };
        // Of a partition that was given away meanwhile it may have found what the erasing left.
        let counts = self.view.answers_reads(pending.partition);
        let fetch = match read {
            Read::Found(record) if counts => {
                // It still merges, so that what others have of before the delete does not show.
                let is_absent = self.parts.store.is_absent(&pending.key, record.leaf());
                reading.get.own(record, true, is_absent)
            }
            Read::Found(_) | Read::Miss | Read::Quarantined => {
                let nothing = Arc::new(Record::new(&pending.key, Object::empty()));
                reading.get.own(nothing, false, false)
            }
        };
        let reap_generation = reading.generation;
        let (owners, key) = (pending.owners, pending.key.framed().clone());
        for place in fetch.iter() {
            if let Some(peer) = owners.peer(place) {
                let fetch = peer::Fetch {
                    id: id.0,
                    key: key.clone(),
                    hint: owners.is_fallback(place),
                    reap_generation,
                };
                self.send(peer, Item::Fetch(fetch));
            }
        }
        self.advance_read(id);
    }

    /// A peer told its digest.
    pub fn digest(&mut self, peer: PeerId, id: OpId, leaf: u64) {
        let Some(pending) = self.state.ops.get_mut(id) else {
            return;
        };
        let Some(place) = pending.owners.place_of(peer) else {
            return;
        };
        let Phase::Reading(reading) = &mut pending.phase else {
            return;
        };
        if reading.get.digest(place, leaf) {
            let fetch = peer::Fetch {
                id: id.0,
                key: pending.key.framed().clone(),
                hint: pending.owners.is_fallback(place),
                reap_generation: reading.generation,
            };
            self.send(peer, Item::Fetch(fetch));
        } else {
            self.advance_read(id);
        }
    }

    /// A peer sent its whole object, read under that reap generation.
    pub fn fetched(&mut self, peer: PeerId, id: OpId, object: Object, read_under: u64) {
        let Some(pending) = self.state.ops.get_mut(id) else {
            return;
        };
        let Some(place) = pending.owners.place_of(peer) else {
            return;
        };
        let floor = self.parts.store.floor(pending.partition.0);
        if let Phase::Reading(reading) = &mut pending.phase {
            if read_under < floor {
                // Of before a round that is finished: it may show what was deleted then.
                reading.get.fail(place);
            } else {
                reading.lowest = reading.lowest.min(read_under);
                reading.get.object(place, object);
            }
            self.advance_read(id);
        }
    }

    /// Begins a read anew if this store has come to another reap generation since it began: some of its replies may be of before
    /// a round, and others of after it. Gives whether that was so.
    pub fn begin_anew_if_reaped(&mut self, id: OpId) -> bool {
        let Some(pending) = self.state.ops.get_mut(id) else {
            return false;
        };
        let Phase::Reading(reading) = &mut pending.phase else {
            return false;
        };
        if reading.generation == self.parts.store.generation(pending.partition.0) {
            return false;
        }
        let (owners, key) = (pending.owners, pending.key.clone());
        if reading.restarts == RESTARTS_MAX {
            let why = "deleted keys around this one are being reaped";
            let failure = Failure::new(Reason::Overloaded, why);
            self.finish(id, Err(failure.retry_after(RETRY_AFTER_REAPING)));
            return true;
        }
        reading.restarts += 1;
        reading.get = Self::new_get(key, owners, reading.get.need());
        // A late reply to what was asked before is not taken for one to what is asked now.
        if let Some(id) = self.rename(id) {
            self.begin_read(id);
        }
        true
    }

    /// Answers a read that is decided, and ends one that is complete.
    pub fn advance_read(&mut self, id: OpId) {
        let Some(pending) = self.state.ops.get_mut(id) else {
            return;
        };
        let Phase::Reading(reading) = &mut pending.phase else {
            return;
        };
        if !reading.answered {
            match reading.get.verdict() {
                Verdict::Wait => return,
                Verdict::Hopeless => {
                    let failure = hopeless(&reading.get);
                    return self.finish(id, Err(failure));
                }
                Verdict::Ready if self.begin_anew_if_reaped(id) => return,
                Verdict::Ready => {
                    let Some(Pending {
                        phase: Phase::Reading(reading),
                        ..
                    }) = self.state.ops.get_mut(id)
                    else {
                        return;
                    };
                    reading.answered = true;
                    match reading.then.take() {
                        None => {
                            let response = self.response(id);
                            self.answer_kind(id, Kind::Get(response));
                        }
                        Some(intent) => return self.judge_absent(id, intent),
                    }
                }
            }
        }
        self.end_read(id);
    }

    /// Repairs and removes a read of which every owner has answered or failed.
    fn end_read(&mut self, id: OpId) {
        let Some(pending) = self.state.ops.get(id) else {
            return;
        };
        let Phase::Reading(reading) = &pending.phase else {
            return;
        };
        if !reading.get.is_settled() {
            return;
        }
        let Some(pending) = self.state.ops.remove(id) else {
            return;
        };
        if let Phase::Reading(reading) = pending.phase {
            self.repair(&pending.key, pending.partition, pending.owners, &reading);
        }
    }

    /// `if_absent`: writes if nothing is there, with the context read.
    fn judge_absent(&mut self, id: OpId, mut intent: Intent) {
        let Some(record) = self.merged(id) else {
            return;
        };
        let object = record.object();
        if object.find(intent.write.request).is_some() {
            // This very request was applied before, by whichever coordinator: what is there is its own write.
            return self.repeat_after_read(id, intent, &record);
        }
        if object.live_count(self.wall_ms) > 0 {
            let mut failure = Failure::new(Reason::ConditionFailed, "a value is there already");
            failure.current = Some(Box::new(self.response(id)));
            let kind = Kind::Error(self.signed(failure).to_wire());
            self.answer_kind(id, kind);
            return self.end_read(id);
        }
        intent.write.context = (!object.is_empty()).then(|| Context::from(object));
        self.write_after_read(id, intent);
    }

    /// Makes the own copy know the request too, so that the write finds it repeated.
    fn repeat_after_read(&mut self, id: OpId, intent: Intent, record: &Record) {
        let Some(pending) = self.state.ops.get(id) else {
            return;
        };
        // It is no owner any more: the write will be refused, or made elsewhere.
        if !self.view.takes_writes(pending.partition) {
            return self.write_after_read(id, intent);
        }
        let Phase::Reading(reading) = &pending.phase else {
            return;
        };
        let object = record.object().clone();
        let merged = self.parts.store.merge(&pending.key, object, reading.lowest);
        match merged {
            Ok(_) => self.write_after_read(id, intent),
            Err(refused) => {
                let failure = Failure::new(Reason::Overloaded, refused.to_string());
                self.finish(id, Err(failure));
            }
        }
    }

    fn merged(&self, id: OpId) -> Option<Arc<Record>> {
        match &self.state.ops.get(id)?.phase {
            Phase::Reading(reading) => reading.get.current().cloned(),
            _ => None,
        }
    }

    /// The answer of a read that is ready.
    fn response(&self, id: OpId) -> v1::GetResponse {
        let Some(pending) = self.state.ops.get(id) else {
            return v1::GetResponse::default();
        };
        let Phase::Reading(reading) = &pending.phase else {
            return v1::GetResponse::default();
        };
        let evidence = v1::Evidence {
            owners_asked: pending.owners.len() as u32,
            owners_answered: reading.get.merged() - reading.get.merged_hints(),
            fallbacks_used: reading.get.merged_hints(),
            copies_durable: 0,
        };
        let object = reading.get.current().map(|record| record.object());
        object.map_or_else(v1::GetResponse::default, |object| v1::GetResponse {
            siblings: live_siblings(object, self.wall_ms),
            context: context_of(object, self.view.cluster().0, &pending.key),
            evidence: Some(evidence),
            deleted: match reading.tells_deleted {
                true => self.deleted(object),
                false => Vec::new(),
            },
        })
    }

    /// The values that can be undeleted.
    fn deleted(&self, object: &Object) -> Vec<Bytes> {
        let window_ms = self.parts.limits.soft_delete.as_millis() as u64;
        let values = object.deleted(self.steady_ms, window_ms).into_iter();
        values.filter_map(|value| value.bytes().cloned()).collect()
    }

    /// Brings the owners whose copies differ up to the merged object.
    pub fn repair(&mut self, key: &Key, partition: PartitionId, owners: Owners, reading: &Reading) {
        let Some(repair) = reading.get.repair() else {
            return;
        };
        let (leaf, now_ms) = (repair.record.leaf(), self.steady_ms);
        let due = self.state.repairs.due(key, leaf, repair.owners, now_ms);
        let spared = repair.owners.without(due).len();
        add(&self.parts.counters.repairs_coalesced, spared as usize);
        if due.is_empty() {
            return;
        }
        tracing::debug!(
            partition = partition.0,
            owners = due.len(),
            "a read repairs"
        );
        add(&self.parts.counters.read_repairs, due.len() as usize);
        let object = encode_object(repair.record.object());
        for place in due.iter() {
            match owners.peer(place) {
                Some(peer) => {
                    let (key, object) = (key.framed().clone(), object.clone());
                    let store = peer::Store {
                        id: NOBODY,
                        key,
                        object,
                        buffered: true,
                        reap_generation: reading.lowest,
                        epoch: self.view.epoch().0,
                        ..peer::Store::default()
                    };
                    self.send(peer, Item::Store(store));
                }
                // A layout that has ended since the read began gave it to this node: kept here now it would be nobody's.
                None if !self.view.takes_writes(partition) => {}
                None => {
                    let object = repair.record.object().clone();
                    let merged = self.parts.store.merge(key, object, reading.lowest);
                    if let Err(refused) = merged {
                        tracing::debug!(%refused, "a repair of the own copy waits for the next one");
                    }
                }
            }
        }
    }
}

/// The values that a reader gets.
pub fn live_siblings(object: &Object, wall_ms: u64) -> Vec<v1::Sibling> {
    object
        .live(wall_ms)
        .filter_map(|sibling| {
            let value = sibling.live_value(wall_ms)?.bytes()?.clone();
            Some(v1::Sibling {
                value,
                expires_at_ms: sibling.expires_at_ms,
            })
        })
        .collect()
}

/// The context of an object; empty if nothing was ever stored.
pub fn context_of(object: &Object, cluster: u64, key: &Key) -> Bytes {
    if object.is_empty() {
        Bytes::new()
    } else {
        context::encode(object, cluster, key)
    }
}

fn hopeless(get: &Get) -> Failure {
    let why = format!(
        "R is {}, and too few owners answered with a copy that counts",
        get.need()
    );
    Failure::new(Reason::QuorumUnavailable, why)
        .with("need", get.need())
        .with("alive", get.merged())
}
