//! The context that clients hold: opaque, versioned, and bound to one cluster and one key.
//!
//! Invariant: a context that was mangled, or that belongs to another key or cluster, is refused: a wrong clock
//! would cover what its client has never read, and the write would drop it (I2).
//!
//! Shape: `version 1 B ‖ (actor u64 LE ‖ counter u64 LE)* ‖ checksum u64 LE`, the checksum being `xxh3_64` over all
//! before it, seeded with cluster id, token and framed key. It guards against accidents, not against forgers.

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{ActorId, Clock};
use crate::key::Key;

const VERSION: u8 = 1;
const ENTRY_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 8;

/// The bytes are not a context of this key in this cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a context of this key: it was changed, cut, or read from another key or cluster")]
pub struct BadContext;

/// The opaque bytes for a clock that was read from `key`.
pub fn encode(clock: &Clock, cluster: u64, key: &Key) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + ENTRY_BYTES * clock.len() + CHECKSUM_BYTES);
    out.put_u8(VERSION);
    for (actor, counter) in clock.iter() {
        out.put_u64_le(actor.0);
        out.put_u64_le(counter);
    }
    let checksum = checksum(&out, cluster, key);
    out.put_u64_le(checksum);
    out.freeze()
}

/// The clock of a context that a client gave back for `key`.
///
/// # Errors
/// [`BadContext`], whatever is wrong.
pub fn decode(context: &[u8], cluster: u64, key: &Key) -> Result<Clock, BadContext> {
    let (body, sum) = context
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or(BadContext)?;
    if u64::from_le_bytes(*sum) != checksum(body, cluster, key) {
        return Err(BadContext);
    }
    let (version, entries) = body.split_first().ok_or(BadContext)?;
    let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
    if *version != VERSION || !rest.is_empty() {
        return Err(BadContext);
    }
    let entries = entries.iter().map(|entry| {
        let [actor, counter] =
            [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|i| entry[at + i])));
        (ActorId(actor), counter)
    });
    Clock::from_parts(entries.collect()).map_err(|_| BadContext)
}

fn checksum(body: &[u8], cluster: u64, key: &Key) -> u64 {
    let place = xxh3_64_with_seed(key.framed(), cluster ^ key.token());
    xxh3_64_with_seed(body, place)
}
