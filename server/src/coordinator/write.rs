//! The steps of a write.
//!
//! Keeps I1 (W copies durable, the own one by the log's word) and: once a dot is minted, the only failure is
//! `OUTCOME_UNKNOWN`; before, every failure promises that nothing changed.

use std::sync::Arc;

use bytes::Bytes;
use ringfort_proto::{Failure, Reason, peer, v1, v1::operation_result::Kind};
use ringfort_storage::{
    Record,
    mutants::{Mutant, is_planted},
    store::{StoreFull, WriteLimits, WriteRefused, Written},
    version::{RequestId, context},
};

use super::{
    again::UNCOUNTED,
    pending::{Intent, Owners, Pending, Phase, Writing, outcome_unknown},
    slab::OpId,
    step::Step,
};
use crate::{
    core::put::{Put, PutStep},
    counters::Verb,
    limits::{LINGER, LINGERING_MAX, LOADS_MAX},
    peer::links::Item,
    wire::encode_object,
};

/// When to try again at a node whose table or log is full: about a drain's slice.
const RETRY_AFTER_FULL: std::time::Duration = std::time::Duration::from_millis(100);

impl Step<'_> {
    /// Applies a write whose base may be in memory by now, and sends the object to all other owners.
    pub fn apply(&mut self, id: OpId) {
        if !self.is_counted(id) {
            return;
        }
        if !self.is_taken_or_waits(id) {
            return;
        }
        let Some(pending) = self.state.ops.get_mut(id) else {
            return;
        };
        let Phase::Loading(intent) = &mut pending.phase else {
            return;
        };
        let limits = WriteLimits {
            siblings_max: self.parts.limits.siblings,
            object_bytes_max: self.parts.limits.object_bytes,
        };
        match self
            .parts
            .store
            .write(&pending.key, &intent.write, self.wall_ms, &limits)
        {
            Ok(Written::Applied {
                record,
                sequence,
                live_siblings,
                generation,
                ..
            })
            | Ok(Written::Repeated {
                record,
                sequence,
                live_siblings,
                generation,
            }) => {
                self.replicate(id, &record, (sequence, generation), live_siblings);
            }
            Ok(Written::Miss) if intent.loads < LOADS_MAX => {
                intent.loads += 1;
                let key = pending.key.clone();
                self.load(id, key);
            }
            Ok(Written::Miss) => self.load_failed(id),
            Err(WriteRefused::Quarantined) => {
                let partition = pending.partition;
                let failure = self.not_synced(partition);
                self.finish(id, Err(failure));
            }
            Err(refused) => self.finish(id, Err(refusal(refused))),
        }
    }

    /// The dot is minted: whole object to all owners, answer at W.
    fn replicate(
        &mut self,
        id: OpId,
        record: &Arc<Record>,
        (sequence, generation): (u64, u64),
        live: usize,
    ) {
        let cluster = self.view.cluster().0;
        let Some(pending) = self.state.ops.get_mut(id) else {
            return;
        };
        let Phase::Loading(intent) = &pending.phase else {
            return;
        };
        let (w, buffered, floor) = (intent.w, intent.buffered, intent.write.floor());
        let strict = intent.strict;
        let sole = is_sole(record, intent.write.request, self.wall_ms);
        let is_put = pending.verb == Verb::Put;
        let context = if is_put && sole {
            context::encode(record.object(), cluster, &pending.key)
        } else {
            Bytes::new()
        };
        let owners = pending.owners;
        let put = self.new_put(owners, w, strict);
        let Some(pending) = self.state.ops.get_mut(id) else {
            return;
        };
        pending.phase = Phase::Writing(Writing {
            put,
            outdated: false,
            generation,
            w,
            buffered,
            strict,
            answered: false,
            floor,
            sequence,
            context,
            siblings: live as u32,
        });
        self.send_object(id, record);
    }

    /// Nothing acknowledged yet, of these owners.
    pub fn new_put(&self, owners: Owners, w: Option<u32>, strict: bool) -> Put {
        let mut quorums = self.quorums(owners, w);
        if is_planted(Mutant::AckBeforeW) {
            quorums.iter_mut().for_each(|q| q.need = q.need.min(1));
        }
        let mut put = Put::new(quorums);
        for (place, _) in owners.fallbacks() {
            put.add_fallback(place, owners.stands_for(place), strict);
        }
        put
    }

    /// The object of a write, as it was read under that reap generation, for an owner.
    pub fn store_of(
        &self,
        id: OpId,
        pending: &Pending,
        (object, generation): (Bytes, u64),
    ) -> peer::Store {
        let (buffered, floor) = match &pending.phase {
            Phase::Writing(writing) => (writing.buffered, writing.floor),
            _ => Default::default(),
        };
        peer::Store {
            id: id.0,
            key: pending.key.framed().clone(),
            object,
            buffered,
            reap_generation: generation,
            client: floor.client,
            lowest_unanswered: floor.lowest_unanswered,
            epoch: pending.epoch.0,
            hint: false,
        }
    }

    /// Sends the object to all owners as they are counted, and counts the own copy once it is durable.
    pub fn send_object(&mut self, id: OpId, record: &Record) {
        let Some(pending) = self.state.ops.get(id) else {
            return;
        };
        let Phase::Writing(writing) = &pending.phase else {
            return;
        };
        let owners = pending.owners;
        let (buffered, sequence) = (writing.buffered, writing.sequence);
        let object = (encode_object(record.object()), writing.generation);
        let store = self.store_of(id, pending, object);
        let fewer = usize::from(is_planted(Mutant::SendToFewer));
        for (_, peer) in owners.others().skip(fewer) {
            self.send(peer, Item::Store(store.clone()));
        }
        for (_, peer) in owners.fallbacks() {
            let hint = peer::Store {
                hint: true,
                ..store.clone()
            };
            self.send(peer, Item::Store(hint));
        }
        if buffered || sequence <= self.state.durable || is_planted(Mutant::AckBeforeSync) {
            self.own_stored(id);
        } else {
            // Under one lock sequences ascend, but for repeated writes, which may wait a little longer than they must.
            let last = self.state.own_waits.back().map_or(0, |&(last, _)| last);
            self.state.own_waits.push_back((sequence.max(last), id));
        }
    }

    /// The own copy counts.
    pub fn own_stored(&mut self, id: OpId) {
        let Some(pending) = self.state.ops.get_mut(id) else {
            return;
        };
        if let (Phase::Writing(writing), Some(own)) = (&mut pending.phase, pending.owners.own()) {
            let step = writing.put.acknowledge(own);
            self.settle_write(id, step);
        }
    }

    /// A peer's copy counts.
    pub fn stored(&mut self, peer: crate::peer::PeerId, id: OpId) {
        let Some(pending) = self.state.ops.get_mut(id) else {
            return;
        };
        if let (Phase::Writing(writing), Some(place)) =
            (&mut pending.phase, pending.owners.place_of(peer))
        {
            let step = writing.put.acknowledge(place);
            self.settle_write(id, step);
        }
    }

    /// Ends a write that is decided.
    pub fn settle_write(&mut self, id: OpId, step: PutStep) {
        let Some(pending) = self.state.ops.get_mut(id) else {
            return;
        };
        let Phase::Writing(writing) = &mut pending.phase else {
            return;
        };
        match step {
            PutStep::Unknown if writing.answered => self.linger(id),
            PutStep::Wait => {}
            PutStep::Unknown => {
                let failure = outcome_unknown(&writing.put);
                self.finish(id, Err(failure));
            }
            PutStep::Acknowledged if writing.answered => self.linger(id),
            PutStep::Acknowledged => {
                writing.answered = true;
                let (acks, hints) = (writing.put.acks(), writing.put.hints());
                let evidence = Some(v1::Evidence {
                    owners_asked: pending.owners.len() as u32,
                    owners_answered: acks - hints,
                    fallbacks_used: hints,
                    copies_durable: if writing.buffered { 0 } else { acks },
                });
                let siblings = writing.siblings;
                let kind = if pending.verb == Verb::Delete {
                    Kind::Delete(v1::DeleteResponse { siblings, evidence })
                } else {
                    let context = std::mem::take(&mut writing.context);
                    Kind::Put(v1::PutResponse {
                        context,
                        siblings,
                        evidence,
                    })
                };
                self.state.lingering += 1;
                self.state.deadlines.add(self.now + LINGER, id);
                self.answer_kind(id, kind);
                self.linger(id);
            }
        }
    }

    /// Ends a write that is answered, once nobody is left to acknowledge it.
    fn linger(&mut self, id: OpId) {
        let is_over = self.state.ops.get(id).is_some_and(
            |pending| matches!(&pending.phase, Phase::Writing(writing) if writing.put.is_settled()),
        );
        if is_over || self.state.lingering > LINGERING_MAX {
            self.close(id);
        }
    }

    /// A read found nothing: the write that waited for it goes on, under a new id, so that a late reply to the read is
    /// not taken for one to the write.
    pub fn write_after_read(&mut self, id: OpId, intent: Intent) {
        let Some(id) = self.rename(id) else { return };
        let Some(pending) = self.state.ops.get_mut(id) else {
            return;
        };
        pending.phase = Phase::Loading(Box::new(intent));
        // Its owners are so far those that it was read from.
        pending.epoch = UNCOUNTED;
        self.apply(id);
    }
}

/// Whether the one live sibling is the one that this request wrote.
fn is_sole(record: &Record, request: RequestId, wall_ms: u64) -> bool {
    let mut live = record.object().live(wall_ms);
    live.next()
        .is_some_and(|sibling| sibling.request == request)
        && live.next().is_none()
}

fn refusal(refused: WriteRefused) -> Failure {
    let message = refused.to_string();
    match refused {
        WriteRefused::TooManySiblings { count, max } => {
            Failure::new(Reason::TooManySiblings, message)
                .with("siblings", count)
                .with("limit", max)
        }
        WriteRefused::ObjectTooLarge { bytes, max } => Failure::new(Reason::TooLarge, message)
            .with("bytes", bytes)
            .with("limit", max),
        WriteRefused::Full(StoreFull::Space) => Failure::new(Reason::DiskFull, message),
        WriteRefused::Full(_) => {
            Failure::new(Reason::Overloaded, message).retry_after(RETRY_AFTER_FULL)
        }
        WriteRefused::Quarantined => Failure::new(Reason::NotSynced, message),
    }
}
