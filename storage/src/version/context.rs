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

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: u64 = 77;

    fn key() -> Key {
        Key::new(7, b"n", b"k").expect("short")
    }

    fn clocks() -> Vec<Clock> {
        let entries = |n: u64| (1..=n).map(|a| (ActorId(a << 40), a * 3)).collect();
        let clock = |n| Clock::from_parts(entries(n)).expect("ascending");
        [0, 1, 2, 20].map(clock).to_vec()
    }

    #[test]
    fn contexts_come_back_as_they_were() {
        for clock in clocks() {
            assert_eq!(
                decode(&encode(&clock, CLUSTER, &key()), CLUSTER, &key()),
                Ok(clock)
            );
        }
    }

    #[test]
    fn every_mangled_bit_and_every_other_length_is_refused() {
        for clock in clocks() {
            let mut context = encode(&clock, CLUSTER, &key()).to_vec();
            for bit in 0..context.len() * 8 {
                context[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(
                    decode(&context, CLUSTER, &key()),
                    Err(BadContext),
                    "bit {bit}"
                );
                context[bit / 8] ^= 1 << (bit % 8);
            }
            for len in 0..context.len() {
                assert_eq!(
                    decode(&context[..len], CLUSTER, &key()),
                    Err(BadContext),
                    "cut to {len}"
                );
            }
            for more in [1, ENTRY_BYTES] {
                let longer = [&context[..], &vec![0; more]].concat();
                assert_eq!(decode(&longer, CLUSTER, &key()), Err(BadContext));
            }
        }
    }

    #[test]
    fn another_place_is_refused() {
        for clock in clocks() {
            let context = encode(&clock, CLUSTER, &key());
            for other in [
                Key::new(7, b"n", b"kk"),
                Key::new(7, b"nk", b"k"),
                Key::new(8, b"n", b"k"),
            ] {
                assert_eq!(
                    decode(&context, CLUSTER, &other.expect("short")),
                    Err(BadContext)
                );
            }
            assert_eq!(decode(&context, CLUSTER + 1, &key()), Err(BadContext));
        }
    }

    #[test]
    fn valid_checksums_do_not_make_a_clock() {
        let sealed = |body: &[u8]| [body, &checksum(body, CLUSTER, &key()).to_le_bytes()].concat();
        let zero_counter = [&[VERSION][..], &[1; 8], &[0; 8]].concat();
        let twice = [&[VERSION][..], &[1; 32]].concat();
        for body in [
            &b""[..],
            &[VERSION + 1],
            &[VERSION, 0],
            &zero_counter,
            &twice,
        ] {
            assert_eq!(
                decode(&sealed(body), CLUSTER, &key()),
                Err(BadContext),
                "{body:?}"
            );
        }
        assert_eq!(
            decode(&sealed(&[VERSION]), CLUSTER, &key()),
            Ok(Clock::EMPTY)
        );
    }

    /// Guards the format: clients hold contexts across upgrades.
    #[test]
    fn contexts_are_the_same_in_every_release() {
        let context = encode(&clocks()[1], CLUSTER, &key());
        let hex: String = context.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, PINNED);
    }

    const PINNED: &str = "0100000000000100000300000000000000b7f2224002d8ce94";
}
