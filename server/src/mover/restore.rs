//! Fetches single records that damage took from this store's copy of a partition.
//!
//! Keeps I3: it is the tree that says when all is back, see `ringfort_storage::store::Missing`. So whoever has the records may give
//! them, also a copy that does not count; two owners that both lost something do not wait for each other.

use std::collections::BTreeMap;

use bytes::Bytes;
use ringfort_ring::StoreId;
use ringfort_storage::Key;

use super::{Mover, Setback, receive::Job};
use crate::peer::owned::key_in;

/// Keys that are asked for at once.
const KEYS_AT_ONCE: usize = 256;

/// Leaves of lost keys, as the other owners have them.
type Leaves = BTreeMap<Key, Vec<u64>>;

impl Mover {
    /// Merges what the other owners have of the lost records. Gives the log sequence that makes it durable if that is all that was
    /// lost, and `None` if nobody can say.
    pub(super) async fn restore(&self, job: &Job<'_>) -> Result<Option<u64>, Setback> {
        let partition = job.receipt.partition.0;
        let missing = self.local.block(move |store| store.missing(partition));
        let Some(missing) = missing.await else {
            return Ok(None);
        };
        let wanted: Vec<Bytes> = missing.keys().iter().map(|k| k.framed().clone()).collect();
        let (mut leaves, mut sequence) = (Leaves::new(), 0);
        for store in &job.receipt.from {
            match self.fetch(job, *store, &wanted, &mut leaves).await {
                Ok(last) => sequence = last.max(sequence),
                // One of the others may have it all.
                Err(
                    setback @ (Setback::Unreached(_) | Setback::Bad { .. } | Setback::Reaping(_)),
                ) => {
                    tracing::info!(%setback, partition, "lost records are not to be had there");
                }
                Err(setback) => return Err(setback),
            }
            if missing.is_explained_by(&leaves) {
                tracing::info!(partition, records = wanted.len(), "lost records are back");
                return Ok(Some(sequence));
            }
        }
        Ok(None)
    }

    /// Merges what one store has of these keys, and notes the leaves.
    async fn fetch(
        &self,
        job: &Job<'_>,
        store: StoreId,
        wanted: &[Bytes],
        leaves: &mut Leaves,
    ) -> Result<u64, Setback> {
        let partition = job.receipt.partition.0;
        let mut sequence = 0;
        for mut wanted in wanted.chunks(KEYS_AT_ONCE) {
            while !wanted.is_empty() {
                if self.parts.views.current().epoch() != job.view.epoch() {
                    return Err(Setback::Changed);
                }
                if self.parts.store.actor() != self.received_as {
                    return Err(Setback::Forgot);
                }
                let page = self.these(job, store, wanted).await?;
                wanted = &wanted[page.moved.len()..];
                let told = page.moved.iter().map(|moved| {
                    let key = key_in(job.view, partition, &moved.key);
                    Ok((key.map_err(|why| Setback::Bad { store, why })?, moved.leaf))
                });
                let told: Vec<(Key, u64)> = told.collect::<Result<_, Setback>>()?;
                // Checks that each object is that of its leaf.
                sequence = self.merge(job, store, page).await?.sequence.max(sequence);
                for (key, leaf) in told {
                    let known = leaves.entry(key).or_default();
                    if !known.contains(&leaf) {
                        known.push(leaf);
                    }
                }
            }
        }
        Ok(sequence)
    }
}
