//! The context: what a reader has seen of a key. To clients it is opaque, versioned, and bound to one cluster and one key.
//!
//! Invariants:
//! - a context that was mangled, or that belongs to another key or cluster, is refused: a wrong clock would cover what
//!   its client has never read, and the write would drop it (I2);
//! - it lists the requests that the object listed. A request may have been applied by two coordinators, and the clock
//!   covers only the dot that was read: a replica that takes a write with the clock alone could not tell the other
//!   copy, when that arrives, from a new write, and the overwritten value would be back (I4).
//!
//! Shape: `version 1 B ‖ actors n ‖ (actor 8 B ‖ counter n)* ‖ (client 8 B ‖ sequence n ‖ applied at n ms ‖ dots n ‖
//! (place of the actor n ‖ counter n)*)* ‖ checksum 8 B`, where n is an integer in groups of seven bits, the lowest first,
//! all but the last marked by the eighth bit, and bytes are little-endian. The checksum is `xxh3_64` over all before it,
//! seeded with cluster id, token and framed key. It guards against accidents, not against forgers.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{ActorId, Applied, Clock, Dot, Dots, Object, RequestId, Sibling, applied};
use crate::key::Key;

const VERSION: u8 = 2;
const CLOCK_ENTRY_BYTES: usize = 16;
/// The fewest bytes of a request: two dozen are usual.
const REQUEST_BYTES: usize = 12;
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
    let usual = 2 + CLOCK_ENTRY_BYTES * clock.len() + 2 * REQUEST_BYTES * requests.len();
    let mut out = BytesMut::with_capacity(usual + CHECKSUM_BYTES);
    out.put_u8(VERSION);
    put_number(&mut out, clock.len() as u64);
    for (actor, counter) in clock.iter() {
        out.put_u64_le(actor.0);
        put_number(&mut out, counter);
    }
    for entry in requests {
        out.put_u64_le(entry.request.client);
        put_number(&mut out, entry.request.sequence);
        put_number(&mut out, entry.at_ms);
        put_number(&mut out, entry.dots.len() as u64);
        for dot in entry.dots.iter() {
            let place = clock.index(dot.actor).expect("the clock covers each dot");
            put_number(&mut out, place as u64);
            put_number(&mut out, dot.counter);
        }
    }
    let checksum = checksum(&out, cluster, key);
    out.put_u64_le(checksum);
    out.freeze()
}

fn put_number(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

/// `None`: cut, too large, or not in the fewest groups.
fn get_number(body: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = body.try_get_u8().ok()?;
        let group = u64::from(byte & 0x7f);
        if group.checked_shl(shift)? >> shift != group {
            return None;
        }
        number |= group << shift;
        if byte < 0x80 {
            return (byte > 0 || shift == 0).then_some(number);
        }
    }
    None
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
    let actors = get_number(&mut body)?;
    let mut entries = Vec::new();
    for _ in 0..actors {
        let actor = ActorId(body.try_get_u64_le().ok()?);
        entries.push((actor, get_number(&mut body)?));
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
    let request = RequestId::new(client, get_number(body)?);
    let at_ms = get_number(body)?;
    let mut dots = Vec::new();
    for _ in 0..get_number(body)? {
        let place = usize::try_from(get_number(body)?).ok()?;
        dots.push(Dot::new(actors.get(place)?.0, get_number(body)?));
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
            for more in [1, CLOCK_ENTRY_BYTES, REQUEST_BYTES] {
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
        let actor = |counter: u8| [&[1; 8][..], &[counter]].concat();
        // Of client 0, sequence and time 0.
        let request = |dots: &[u8]| [&[0; 10][..], dots].concat();
        let one = [&[VERSION, 1][..], &actor(5)].concat();
        let bad = [
            vec![],
            vec![VERSION],
            vec![VERSION + 1, 0],
            vec![VERSION, 0, 0],
            // A number that is longer than it need be, one that is cut, one over 64 bits.
            vec![VERSION, 0x80, 0],
            vec![VERSION, 0x80],
            [&[VERSION][..], &[0xff; 9], &[2]].concat(),
            // Fewer actors than it says; a zero counter; one actor twice.
            vec![VERSION, 1],
            [&[VERSION, 1][..], &actor(0)].concat(),
            [&[VERSION, 2][..], &actor(1), &actor(2)].concat(),
            // A request without a dot, with fewer than it says, of an unknown actor, not covered; twice the same.
            [&one[..], &request(&[0])].concat(),
            [&one[..], &request(&[2, 0, 1])].concat(),
            [&one[..], &request(&[1, 1, 1])].concat(),
            [&one[..], &request(&[1, 0, 6])].concat(),
            [&one[..], &request(&[1, 0, 1]), &request(&[1, 0, 2])].concat(),
        ];
        for body in bad {
            let context = decode(&sealed(&body), CLUSTER, &key());
            assert_eq!(context, Err(BadContext), "{body:?}");
        }
        let good = [&one[..], &request(&[1, 0, 5])].concat();
        assert!(decode(&sealed(&good), CLUSTER, &key()).is_ok());
        let nothing = decode(&sealed(&[VERSION, 0]), CLUSTER, &key());
        assert_eq!(nothing, Ok(Context::default()));
    }

    #[test]
    fn numbers_come_back_as_they_were() {
        for number in [0, 1, 127, 128, 300, 1 << 35, u64::MAX >> 1, u64::MAX] {
            let mut out = BytesMut::new();
            put_number(&mut out, number);
            let mut left = &out[..];
            assert_eq!((get_number(&mut left), left), (Some(number), &[][..]));
        }
    }

    /// Guards the format: clients hold contexts across upgrades.
    #[test]
    fn contexts_are_the_same_in_every_release() {
        let context = encode(&objects()[2], CLUSTER, &key());
        let hex: String = context.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, PINNED);
    }

    const PINNED: &str =
        "020100000000000100000300000000020000000181d095ffbc310100011d20926f5d2fffad";
}
