//! Pages of what this node itself holds.
//!
//! Keeps I3: partitions whose copy here does not count toward R, or holds a damaged record, are named with the page.

use std::collections::BTreeSet;

use ringfort_proto::{Failure, Reason, peer};
use ringfort_ring::{PartitionId, Token};
use ringfort_storage::Store;

use xxhash_rust::xxh3::xxh3_64;

use crate::{view::Views, wire::encode_object};

/// What a scan of one node's own copy needs.
#[derive(Clone)]
pub(crate) struct ScanParts {
    /// The current view.
    pub views: Views,
    /// The store.
    pub store: Store,
}

impl ScanParts {
    /// One page of a token range. Blocks.
    pub fn page(&self, request: &peer::ScanRequest) -> Result<peer::ScanResponse, Failure> {
        if request.first_token > request.last_token {
            return Ok(peer::ScanResponse::default());
        }
        let after = (!request.after.is_empty()).then_some(&request.after[..]);
        let reap_hash = self.reap_hash(request);
        let page = self
            .store
            .scan(
                request.first_token,
                after,
                request.last_token,
                request.max_keys as usize,
                usize::try_from(request.max_bytes).unwrap_or(usize::MAX),
            )
            .map_err(|error| {
                Failure::new(Reason::Overloaded, format!("the scan failed: {error}"))
            })?;
        if self.reap_hash(request) != reap_hash {
            let words = "partitions of the range have come to other reap generations just now";
            return Err(Failure::new(Reason::StaleGeneration, words));
        }
        // The view after the reading: of a partition that was given away before, the page may show what the erasing left.
        let view = self.views.current();
        let first = view.layout().partition_of(Token(request.first_token));
        let last = view.layout().partition_of(Token(request.last_token));
        let partitions = (first.0..=last.0).map(PartitionId);
        let unsynced = partitions.filter(|&partition| !view.answers_reads(partition));
        let damaged = page
            .quarantined
            .iter()
            .map(|key| view.layout().partition_of(Token(key.token())));
        let unsynced: BTreeSet<PartitionId> = unsynced.chain(damaged).collect();
        let objects = page.records.into_iter().map(|(key, record)| peer::Scanned {
            key: key.framed().clone(),
            object: encode_object(record.object()),
        });
        Ok(peer::ScanResponse {
            objects: objects.collect(),
            next: page
                .next
                .map(|key| key.framed().clone())
                .unwrap_or_default(),
            unsynced: unsynced.into_iter().map(|partition| partition.0).collect(),
            reap_hash,
        })
    }

    /// What pages that go together have in common (I4): one of before a round of reaping may show what was deleted, and one of after
    /// it has forgotten that it was.
    fn reap_hash(&self, request: &peer::ScanRequest) -> u64 {
        let first = self.store.partition_of(request.first_token);
        let last = self.store.partition_of(request.last_token);
        let mut numbers = Vec::new();
        for partition in first..=last {
            let generation = self.store.generation(partition);
            if generation > 0 {
                numbers.extend(partition.to_le_bytes());
                numbers.extend(generation.to_le_bytes());
            }
        }
        xxh3_64(&numbers)
    }
}
