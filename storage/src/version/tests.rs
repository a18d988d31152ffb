//! Tests of versions, and the makers that other tests of this crate borrow.

mod histories;
mod lifetimes;
mod prune;
mod space;
mod walk;
mod writes;

use bytes::Bytes;

use super::*;

pub(crate) const X: ActorId = ActorId(0xa);
pub(crate) const Y: ActorId = ActorId(0xb);
pub(crate) const Z: ActorId = ActorId(0xc);

/// A time at which nothing of these tests has run out.
pub(crate) const NOW: u64 = 1_000_000_000;

pub(crate) fn dot(actor: ActorId, counter: u64) -> Dot {
    Dot::new(actor, counter)
}

pub(crate) fn clock(entries: &[(ActorId, u64)]) -> Clock {
    Clock::from_parts(entries.to_vec()).expect("ascending")
}

pub(crate) fn value(text: &str) -> Value {
    Value::new(Bytes::copy_from_slice(text.as_bytes()))
}

/// A put of the client 1, whose sequence names the request.
pub(crate) fn put(sequence: u64, text: &str, context: Option<&Clock>) -> Write {
    Write {
        context: context.map(|clock| Context {
            clock: clock.clone(),
            applied: Vec::new(),
        }),
        payload: NewPayload::Value(value(text)),
        request: RequestId::new(1, sequence),
        lowest_unanswered: 0,
        at_ms: NOW,
        expires_at_ms: 0,
    }
}

/// A delete, as [`put`].
pub(crate) fn delete(sequence: u64, context: &Clock) -> Write {
    Write {
        payload: NewPayload::Delete,
        ..put(sequence, "", Some(context))
    }
}

/// The texts that a reader gets.
pub(crate) fn texts(object: &Object) -> Vec<String> {
    let values = object.live(NOW).filter_map(|s| s.live_value(NOW));
    let bytes = values.map(|v| v.bytes().expect("live values have bytes").to_vec());
    bytes.map(|b| String::from_utf8(b).expect("text")).collect()
}

/// The dots of the siblings.
pub(crate) fn dots(object: &Object) -> Vec<Dot> {
    object.siblings().iter().map(|s| s.dot).collect()
}

/// Panics if the object breaks what always holds of objects.
pub(crate) fn check(object: &Object) {
    let (clock, siblings, applied) = object.clone().into_parts();
    if let Err(error) = Object::from_parts(clock, siblings, applied) {
        panic!("{error} in {object:#?}");
    }
}
