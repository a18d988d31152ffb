//! Takes what fallbacks deliver: hints of keys that this node owns.
//!
//! Keeps I1 (an object is said to be durable only when the log is) and I3 (an owner that has promised to write by a newer layout
//! takes no delivery whose owners were counted by an older one: those who received the partition since would lack it). Keeps I4: a
//! hint of before a round of reaping that has ended is not taken.

use ringfort_proto::{Failure, Reason, peer, peer::DeliveryOutcome};
use ringfort_ring::{Epoch, PartitionId, Token};
use ringfort_storage::{
    Key, Record, Store,
    store::{MergeRefused, StoreFull},
    version::Object,
};

use super::replica::key_from_wire;
use crate::{
    limits::DELIVERIES_MAX,
    view::{View, Views},
    wire::decode_object,
};

/// What taking deliveries needs.
#[derive(Clone)]
pub(crate) struct Taker {
    /// The current view.
    pub views: Views,
    /// This node's store.
    pub store: Store,
}

impl Taker {
    /// Merges all that can be, and answers when that is durable.
    ///
    /// # Errors
    /// `BAD_REQUEST`: more than [`DELIVERIES_MAX`]; nothing was merged.
    pub async fn answer(
        &self,
        request: peer::DeliverRequest,
    ) -> Result<peer::DeliverResponse, Failure> {
        if request.deliveries.len() > DELIVERIES_MAX {
            let why = "more hints than one request may have";
            return Err(Failure::new(Reason::BadRequest, why).with("limit", DELIVERIES_MAX));
        }
        let (outcomes, sequence) = self.merge_all(request);
        let mut durable = self.store.durable();
        if durable.wait_for(|now| *now >= sequence).await.is_err() {
            // A log that has ended makes nothing durable any more, and the node ends with it.
            std::future::pending::<()>().await;
        }
        Ok(peer::DeliverResponse {
            fence: None,
            outcomes: outcomes.into_iter().map(i32::from).collect(),
        })
    }

    /// The outcomes once the log is durable to the sequence.
    fn merge_all(&self, request: peer::DeliverRequest) -> (Vec<DeliveryOutcome>, u64) {
        let view = self.views.enter();
        let (mut outcomes, mut last) = (Vec::with_capacity(request.deliveries.len()), 0);
        let is_stale = view.refuses_write(Epoch(request.epoch));
        for delivery in request.deliveries {
            let outcome = match is_stale {
                true => Err(DeliveryOutcome::NotTaken),
                false => self.merge(&view, delivery),
            };
            outcomes.push(match outcome {
                Ok(sequence) => {
                    last = sequence.max(last);
                    DeliveryOutcome::Durable
                }
                Err(outcome) => outcome,
            });
        }
        (outcomes, last)
    }

    fn merge(&self, view: &View, delivery: peer::Delivery) -> Result<u64, DeliveryOutcome> {
        let taken_under = delivery.reap_generation;
        let (key, object) = checked(delivery).map_err(|why| {
            tracing::warn!(%why, "refused a hint");
            DeliveryOutcome::Bad
        })?;
        let partition = view.layout().partition_of(Token(key.token()));
        if !view.takes_writes(partition) {
            return Err(DeliveryOutcome::NotTaken);
        }
        if is_older(&self.store, partition, taken_under) {
            return Err(DeliveryOutcome::Stale);
        }
        self.store
            .merge_hint(&key, object, taken_under)
            .map_err(|refused| match refused {
                MergeRefused::Full(StoreFull::Object { .. }) => DeliveryOutcome::Bad,
                MergeRefused::Full(_) => DeliveryOutcome::Full,
                MergeRefused::StaleGeneration { .. } => DeliveryOutcome::Stale,
            })
    }
}

/// Whether a hint is of before a round of reaping whose tombstones are not here: they are gone, or this owner has missed the round,
/// and receives from the others what stays of the partition.
pub(crate) fn is_older(store: &Store, partition: PartitionId, taken_under: u64) -> bool {
    taken_under < store.generation(partition.0) && store.reaping(partition.0).is_none()
}

/// What came, if it is what its sender holds.
fn checked(delivery: peer::Delivery) -> Result<(Key, Object), String> {
    let key = key_from_wire(&delivery.key).map_err(|reason| reason.as_str().to_owned())?;
    let object = decode_object(delivery.object).map_err(|why| why.to_string())?;
    let record = Record::new(&key, object);
    match record.leaf() == delivery.leaf && !record.object().is_empty() {
        true => Ok((key, record.into_object())),
        false => Err("an object does not match its checksum".to_owned()),
    }
}
