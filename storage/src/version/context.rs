//! The context: what a reader has seen of a key. To clients it is opaque, versioned, and bound to one cluster and one key.
//!
//! Invariants:
//! - a context that was mangled, or that belongs to another key or cluster, is refused: a wrong clock would cover what
//!   its client has never read, and the write would drop it (I2);
//! - it lists the requests that the object listed. A request may have been applied by two coordinators, and the clock
//!   covers only the dot that was read: a replica that takes a write with the clock alone could not tell the other
//!   copy, when that arrives, from a new write, and the overwritten value would be back (I4).
//!
//! Shape, integers little-endian: `version 1 B ‖ actors u32 ‖ (actor u64 ‖ counter u64)* ‖ (client u64 ‖ sequence u64 ‖
//! applied at u64 ms ‖ dots u32 ‖ (index of the actor u32 ‖ counter u64)*)* ‖ checksum u64`, the checksum being
//! `xxh3_64` over all before it, seeded with cluster id, token and framed key. It guards against accidents, not against
//! forgers.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{ActorId, Applied, Clock, Dot, Dots, Object, RequestId, Sibling, applied};
use crate::key::Key;

const VERSION: u8 = 2;
const CLOCK_ENTRY_BYTES: usize = 16;
const REQUEST_BYTES: usize = 28;
const DOT_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 8;

/// What a reader has seen: the clock of the object, and the requests that it listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    pub(super) clock: Clock,
    pub(super) applied: Vec<Applied>,
}

impl Context {
    /// What the reader has seen.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether the event of `dot` was seen.
    pub fn covers(&self, dot: Dot) -> bool {
        self.clock.covers(dot)
    }

    /// Whether the reader has seen this write, by this dot or by another one of its request.
    pub fn has_read(&self, sibling: &Sibling) -> bool {
        self.covers(sibling.dot) || applied::find(&self.applied, sibling.request).is_some()
    }

    /// The bytes that it adds to an object, near enough to judge limits by.
    pub fn byte_len(&self) -> usize {
        let dots: usize = self.applied.iter().map(|entry| entry.dots.len()).sum();
        CLOCK_ENTRY_BYTES * (self.clock.len() + dots) + 24 * self.applied.len()
    }
}

impl From<&Object> for Context {
    fn from(object: &Object) -> Context {
        Context {
            clock: object.clock.clone(),
            applied: object.applied.clone(),
        }
    }
}

/// The bytes are not a context of this key in this cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a context of this key: it was changed, cut, or read from another key or cluster")]
pub struct BadContext;

/// The opaque bytes of the context of `object`, as it was read from `key`.
pub fn encode(object: &Object, cluster: u64, key: &Key) -> Bytes {
    let (clock, requests) = (&object.clock, &object.applied);
    let dots: usize = requests.iter().map(|entry| entry.dots.len()).sum();
    let len = 5 + CLOCK_ENTRY_BYTES * clock.len() + REQUEST_BYTES * requests.len();
    let mut out = BytesMut::with_capacity(len + DOT_BYTES * dots + CHECKSUM_BYTES);
    out.put_u8(VERSION);
    out.put_u32_le(number(clock.len()));
    for (actor, counter) in clock.iter() {
        out.put_u64_le(actor.0);
        out.put_u64_le(counter);
    }
    for entry in requests {
        out.put_u64_le(entry.request.client);
        out.put_u64_le(entry.request.sequence);
        out.put_u64_le(entry.at_ms);
        out.put_u32_le(number(entry.dots.len()));
        for dot in entry.dots.iter() {
            let index = clock.index(dot.actor).expect("the clock covers each dot");
            out.put_u32_le(number(index));
            out.put_u64_le(dot.counter);
        }
    }
    let checksum = checksum(&out, cluster, key);
    out.put_u64_le(checksum);
    out.freeze()
}

fn number(len: usize) -> u32 {
    u32::try_from(len).expect("an object is bounded in bytes")
}

/// What a client gave back for `key`.
///
/// # Errors
/// [`BadContext`], whatever is wrong.
pub fn decode(context: &[u8], cluster: u64, key: &Key) -> Result<Context, BadContext> {
    let (body, sum) = context
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or(BadContext)?;
    if u64::from_le_bytes(*sum) != checksum(body, cluster, key) {
        return Err(BadContext);
    }
    parse(body).ok_or(BadContext)
}

fn parse(mut body: &[u8]) -> Option<Context> {
    if body.try_get_u8().ok()? != VERSION {
        return None;
    }
    let actors = body.try_get_u32_le().ok()?;
    let mut entries = Vec::with_capacity((actors as usize).min(body.len() / CLOCK_ENTRY_BYTES));
    for _ in 0..actors {
        let actor = ActorId(body.try_get_u64_le().ok()?);
        entries.push((actor, body.try_get_u64_le().ok()?));
    }
    let mut applied = Vec::with_capacity(body.len() / REQUEST_BYTES);
    while !body.is_empty() {
        applied.push(parse_request(&mut body, &entries)?);
    }
    let clock = Clock::from_parts(entries).ok()?;
    // The same rules as for an object, of which a context is what is left without its siblings.
    let (clock, _, applied) = Object::from_parts(clock, Vec::new(), applied)
        .ok()?
        .into_parts();
    Some(Context { clock, applied })
}

fn parse_request(body: &mut &[u8], actors: &[(ActorId, u64)]) -> Option<Applied> {
    let client = body.try_get_u64_le().ok()?;
    let request = RequestId::new(client, body.try_get_u64_le().ok()?);
    let at_ms = body.try_get_u64_le().ok()?;
    let count = body.try_get_u32_le().ok()?;
    let mut dots = Vec::with_capacity((count as usize).min(body.len() / DOT_BYTES));
    for _ in 0..count {
        let (actor, _) = actors.get(body.try_get_u32_le().ok()? as usize)?;
        dots.push(Dot::new(*actor, body.try_get_u64_le().ok()?));
    }
    Some(Applied {
        request,
        at_ms,
        dots: Dots::from_ascending(dots)?,
    })
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

    /// Objects that only were: clocks of some actors, and requests of one dot and of several.
    fn objects() -> Vec<Object> {
        let object = |actors: u64, requests: u64| {
            let entries = (1..=actors).map(|a| (ActorId(a << 40), a * 3)).collect();
            let clock = Clock::from_parts(entries).expect("ascending");
            let dots = |n: u64| {
                let dots = (1..=actors.min(n)).map(|a| Dot::new(ActorId(a << 40), a));
                Dots::from_ascending(dots.collect()).expect("ascending")
            };
            let applied = (1..=requests).map(|n| Applied {
                request: RequestId::new(n << 33, n),
                at_ms: 1_700_000_000_000 + n,
                dots: dots(n),
            });
            Object::from_parts(clock, Vec::new(), applied.collect()).expect("an object")
        };
        vec![
            object(0, 0),
            object(1, 0),
            object(1, 1),
            object(2, 3),
            object(20, 4),
        ]
    }

    #[test]
    fn contexts_come_back_as_they_were() {
        for object in objects() {
            let bytes = encode(&object, CLUSTER, &key());
            let context = Context::from(&object);
            assert_eq!(decode(&bytes, CLUSTER, &key()), Ok(context));
        }
    }

    #[test]
    fn every_mangled_bit_and_every_other_length_is_refused() {
        for object in objects() {
            let mut context = encode(&object, CLUSTER, &key()).to_vec();
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
            for more in [1, CLOCK_ENTRY_BYTES, REQUEST_BYTES + DOT_BYTES] {
                let longer = [&context[..], &vec![0; more]].concat();
                assert_eq!(decode(&longer, CLUSTER, &key()), Err(BadContext));
            }
        }
    }

    #[test]
    fn another_place_is_refused() {
        for object in objects() {
            let context = encode(&object, CLUSTER, &key());
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
    fn valid_checksums_do_not_make_a_context() {
        let sealed = |body: &[u8]| [body, &checksum(body, CLUSTER, &key()).to_le_bytes()].concat();
        let actor = |counter: u8| [[1; 8], [counter, 0, 0, 0, 0, 0, 0, 0]].concat();
        let request = |dots: &[u8]| [&[0; 24][..], dots].concat();
        let one = [&[VERSION, 1, 0, 0, 0][..], &actor(5)].concat();
        let dot = |index: u8, counter: u8| [index, 0, 0, 0, counter, 0, 0, 0, 0, 0, 0, 0];
        let bad = [
            vec![],
            vec![VERSION],
            vec![VERSION + 1, 0, 0, 0, 0],
            vec![VERSION, 0, 0, 0, 0, 0],
            // Fewer actors than it says; a zero counter; one actor twice.
            vec![VERSION, 1, 0, 0, 0],
            [&[VERSION, 1, 0, 0, 0][..], &actor(0)].concat(),
            [&[VERSION, 2, 0, 0, 0][..], &actor(1), &actor(2)].concat(),
            // A request without a dot, with fewer than it says, of an unknown actor, not covered; twice the same.
            [&one[..], &request(&[0, 0, 0, 0])].concat(),
            [&one[..], &request(&[2, 0, 0, 0]), &dot(0, 1)].concat(),
            [&one[..], &request(&[1, 0, 0, 0]), &dot(1, 1)].concat(),
            [&one[..], &request(&[1, 0, 0, 0]), &dot(0, 6)].concat(),
            [
                &one[..],
                &request(&[1, 0, 0, 0]),
                &dot(0, 1),
                &request(&[1, 0, 0, 0]),
                &dot(0, 2),
            ]
            .concat(),
        ];
        for body in bad {
            let context = decode(&sealed(&body), CLUSTER, &key());
            assert_eq!(context, Err(BadContext), "{body:?}");
        }
        let good = [&one[..], &request(&[1, 0, 0, 0]), &dot(0, 5)].concat();
        assert!(decode(&sealed(&good), CLUSTER, &key()).is_ok());
        let nothing = decode(&sealed(&[VERSION, 0, 0, 0, 0]), CLUSTER, &key());
        assert_eq!(nothing, Ok(Context::default()));
    }

    /// Guards the format: clients hold contexts across upgrades.
    #[test]
    fn contexts_are_the_same_in_every_release() {
        let context = encode(&objects()[2], CLUSTER, &key());
        let hex: String = context.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, PINNED);
    }

    const PINNED: &str = "020100000000000000000100000300000000000000000000000200000001000000000000000168e5cf8b01000001000000000000000100000000000000503741b6eb8a88af";
}
