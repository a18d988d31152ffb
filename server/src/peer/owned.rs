//! What owners of a partition check of each other's bulk, transfers and exchanges: whose it is, that it is what its sender holds, that it is
//! durable.

use std::time::Duration;

use ringfort_proto::{Failure, Reason, peer};
use ringfort_ring::{Epoch, PartitionId, Token};
use ringfort_storage::{
    Key, Record, Store,
    engine::EngineError,
    store::{MergeRefused, Read, StoreFull},
    version::Object,
};

use super::{replica::key_from_wire, transfer::moved};
use crate::{
    view::{View, Views},
    wire::decode_object,
};

/// What a refusal names.
const GENERATION: &str = "reap_generation";
const FLOOR: &str = "reap_floor";

/// Whether this store exchanges the partition with another owner by the layout of that epoch.
pub(super) fn judge(view: &View, partition: u32, layout: Epoch) -> Result<(), Failure> {
    if partition >= view.layout().partitions() {
        return Err(bad("a partition that there is not"));
    }
    if !view
        .live()
        .iter()
        .any(|live| live.layout().epoch() == layout)
    {
        let words = format!("no layout that lives is of epoch {layout}");
        return Err(Failure::new(Reason::StaleEpoch, words).with("epoch", view.epoch()));
    }
    if !view.exchanges(PartitionId(partition), layout) {
        let words = format!("this store does not own partition {partition} by layout {layout}");
        return Err(Failure::new(Reason::NotSynced, words));
    }
    Ok(())
}

/// Completes when the log is durable to `sequence`.
///
/// # Errors
/// `OVERLOADED`: it takes too long.
pub(crate) async fn durable_within(
    store: &Store,
    sequence: u64,
    limit: Duration,
) -> Result<(), Failure> {
    let mut durable = store.durable();
    let reached = tokio::time::timeout(limit, durable.wait_for(|now| *now >= sequence));
    match reached.await {
        Ok(Ok(_)) => Ok(()),
        _ => {
            let words = "the log makes nothing durable just now";
            Err(Failure::new(Reason::Overloaded, words))
        }
    }
}

/// The object of a key as it is sent to another owner; `None`: nothing is stored, or what is stored is damaged, or about to be
/// reaped.
pub(crate) fn object_to_send(store: &Store, key: &Key) -> Result<Option<peer::Moved>, EngineError> {
    let reads = store.load_to_send(std::slice::from_ref(key))?;
    Ok(match reads.into_iter().next() {
        Some(Read::Found(record)) if !record.object().is_empty() => {
            Some(moved(key, &record, false))
        }
        _ => None,
    })
}

/// A key of the partition.
pub(crate) fn key_in(view: &View, partition: u32, framed: &bytes::Bytes) -> Result<Key, String> {
    let key = key_from_wire(framed).map_err(|reason| reason.as_str().to_owned())?;
    match view.layout().partition_of(Token(key.token())).0 == partition {
        true => Ok(key),
        false => Err("a key of another partition".to_owned()),
    }
}

/// What came, if it is what its sender holds; `None`: nothing is stored there any more.
pub(crate) fn checked(
    view: &View,
    partition: u32,
    moved: &peer::Moved,
) -> Result<Option<(Key, Object)>, String> {
    let key = key_in(view, partition, &moved.key)?;
    let object = decode_object(moved.object.clone()).map_err(|why| why.to_string())?;
    if object.is_empty() {
        return Ok(None);
    }
    let record = Record::new(&key, object);
    match record.leaf() == moved.leaf {
        true => Ok(Some((key, record.into_object()))),
        false => Err("an object does not match its checksum".to_owned()),
    }
}

/// Merges an object of a partition that this store owns: kept by one that does not, it would be nobody's. Gives the log sequence
/// that makes it durable. `read_under` is the reap generation that its sender read it under.
///
/// # Errors
/// `NOT_SYNCED`, `STALE_GENERATION`, `OVERLOADED`, `DISK_FULL`, `TOO_LARGE`; nothing changed then.
pub(crate) fn merge_owned(
    views: &Views,
    store: &Store,
    partition: u32,
    key: &Key,
    object: Object,
    read_under: u64,
) -> Result<u64, Failure> {
    let view = views.enter();
    if !view.takes_writes(PartitionId(partition)) {
        let words = format!("this store does not own partition {partition}");
        return Err(Failure::new(Reason::NotSynced, words));
    }
    let merged = store.merge(key, object, read_under);
    merged.map_err(|refused| match refused {
        MergeRefused::Full(full) => {
            let reason = match full {
                StoreFull::Object { .. } => Reason::TooLarge,
                StoreFull::Space => Reason::DiskFull,
                _ => Reason::Overloaded,
            };
            Failure::new(reason, full.to_string())
        }
        MergeRefused::StaleGeneration { generation, floor } => older(generation, floor),
    })
}

/// What was sent was read under a lower reap generation than this one, at which this store is, with this floor.
pub(crate) fn older(generation: u64, floor: u64) -> Failure {
    let words = format!("read before the partition came to reap generation {generation}");
    Failure::new(Reason::StaleGeneration, words)
        .with(GENERATION, generation)
        .with(FLOOR, floor)
}

/// The generation and the floor that a refusal names, if it is one of these.
pub(crate) fn named_generation(failure: &Failure) -> Option<(u64, u64)> {
    let number = |name: &str| failure.metadata.get(name)?.parse::<u64>().ok();
    match failure.reason {
        Reason::StaleGeneration => Some((number(GENERATION)?, number(FLOOR)?)),
        _ => None,
    }
}

pub(super) fn bad(words: impl Into<String>) -> Failure {
    Failure::new(Reason::BadRequest, words)
}

pub(super) fn failed(error: EngineError) -> Failure {
    Failure::new(Reason::Overloaded, format!("the engine failed: {error}"))
}
