//! Objects on the wire: `storage`'s [`Object`] ↔ `ringfort.peer.v1.Object`.
//!
//! Keeps the rule of whole objects: an object travels with its clock, all its siblings and its list of
//! request ids, or not at all. What is decoded is checked (value hashes included) and *copied*: nothing that is kept
//! holds on to a receive buffer.

use bytes::Bytes;
use prost::Message;
use ringfort_proto::{peer, v1};
use ringfort_storage::version::{
    ActorId, Applied, Clock, Dot, Dots, Object, Payload, RequestId, Sibling, Value,
};

/// Why bytes from a peer are not an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadObject {
    /// Not the encoding of a `peer.v1.Object`.
    #[error("the object does not decode: {0}")]
    Encoding(#[from] prost::DecodeError),
    /// The parts do not make an object.
    #[error("the object is malformed: {0}")]
    Malformed(String),
    /// The bytes of a value do not match its hash.
    #[error("a value does not match its hash")]
    ValueHash,
}

fn malformed(why: impl Into<String>) -> BadObject {
    BadObject::Malformed(why.into())
}

/// Encodes an object, once for all peers. An empty object is empty bytes.
pub fn encode_object(object: &Object) -> Bytes {
    if object.is_empty() {
        return Bytes::new();
    }
    let wire = peer::Object {
        clock: Some(clock_to_wire(object.clock())),
        siblings: object.siblings().iter().map(sibling_to_wire).collect(),
        requests: object.applied().iter().map(applied_to_wire).collect(),
    };
    wire.encode_to_vec().into()
}

/// Decodes an object and checks it; empty bytes are the empty object.
///
/// # Errors
/// [`BadObject`]; nothing of the object is to be kept then.
pub fn decode_object(bytes: Bytes) -> Result<Object, BadObject> {
    if bytes.is_empty() {
        return Ok(Object::empty());
    }
    let wire = peer::Object::decode(bytes)?;
    let clock = clock_from_wire(wire.clock.unwrap_or_default())?;
    let siblings = wire
        .siblings
        .into_iter()
        .map(sibling_from_wire)
        .collect::<Result<Vec<_>, _>>()?;
    let applied = wire
        .requests
        .into_iter()
        .map(applied_from_wire)
        .collect::<Result<Vec<_>, _>>()?;
    Object::from_parts(clock, siblings, applied).map_err(|e| malformed(e.to_string()))
}

pub(crate) fn clock_to_wire(clock: &Clock) -> peer::Clock {
    let (actors, counters) = clock
        .iter()
        .map(|(actor, counter)| (actor.0, counter))
        .unzip();
    peer::Clock { actors, counters }
}

pub(crate) fn clock_from_wire(wire: peer::Clock) -> Result<Clock, BadObject> {
    if wire.actors.len() != wire.counters.len() {
        return Err(malformed("a clock's arrays differ in length"));
    }
    let parts = wire
        .actors
        .into_iter()
        .map(ActorId)
        .zip(wire.counters)
        .collect();
    Clock::from_parts(parts).map_err(|e| malformed(e.to_string()))
}

fn sibling_to_wire(sibling: &Sibling) -> peer::Sibling {
    let (tombstone, values) = match &sibling.payload {
        Payload::Value(value) => (false, vec![value_to_wire(value)]),
        Payload::Tombstone { kept } => (true, kept.iter().map(value_to_wire).collect()),
    };
    peer::Sibling {
        actor: sibling.dot.actor.0,
        counter: sibling.dot.counter,
        request: Some(request_to_wire(sibling.request)),
        expires_at_ms: sibling.expires_at_ms,
        tombstone,
        values,
    }
}

fn sibling_from_wire(wire: peer::Sibling) -> Result<Sibling, BadObject> {
    let mut values = wire
        .values
        .into_iter()
        .map(value_from_wire)
        .collect::<Result<Vec<_>, _>>()?;
    let payload = if wire.tombstone {
        Payload::Tombstone { kept: values }
    } else {
        match (values.pop(), values.is_empty()) {
            (Some(value), true) => Payload::Value(value),
            _ => return Err(malformed("a sibling has not exactly one value")),
        }
    };
    Ok(Sibling {
        dot: Dot {
            actor: ActorId(wire.actor),
            counter: wire.counter,
        },
        request: request_from_wire(wire.request),
        expires_at_ms: wire.expires_at_ms,
        payload,
    })
}

fn value_to_wire(value: &Value) -> peer::Value {
    peer::Value {
        bytes: value.bytes().cloned().unwrap_or_default(),
        hash: value.hash(),
        dropped: value.bytes().is_none(),
        length: if value.bytes().is_none() {
            u64::from(value.len())
        } else {
            0
        },
    }
}

fn value_from_wire(wire: peer::Value) -> Result<Value, BadObject> {
    if wire.dropped {
        let len = u32::try_from(wire.length).map_err(|_| malformed("a value's length"))?;
        return Ok(Value::dropped(len, wire.hash));
    }
    let value = Value::new(Bytes::copy_from_slice(&wire.bytes));
    if value.hash() == wire.hash {
        Ok(value)
    } else {
        Err(BadObject::ValueHash)
    }
}

fn applied_to_wire(applied: &Applied) -> peer::AppliedRequest {
    peer::AppliedRequest {
        request: Some(request_to_wire(applied.request)),
        at_ms: applied.at_ms,
        actors: applied.dots.iter().map(|dot| dot.actor.0).collect(),
        counters: applied.dots.iter().map(|dot| dot.counter).collect(),
    }
}

fn applied_from_wire(wire: peer::AppliedRequest) -> Result<Applied, BadObject> {
    if wire.actors.len() != wire.counters.len() {
        return Err(malformed("a request's arrays differ in length"));
    }
    let dots = wire.actors.into_iter().zip(wire.counters);
    let dots = dots
        .map(|(actor, counter)| Dot {
            actor: ActorId(actor),
            counter,
        })
        .collect();
    Ok(Applied {
        request: request_from_wire(wire.request),
        at_ms: wire.at_ms,
        dots: Dots::from_ascending(dots).ok_or_else(|| malformed("a request's dots"))?,
    })
}

fn request_to_wire(request: RequestId) -> v1::RequestId {
    v1::RequestId {
        client: request.client,
        sequence: request.sequence,
    }
}

fn request_from_wire(wire: Option<v1::RequestId>) -> RequestId {
    let wire = wire.unwrap_or_default();
    RequestId {
        client: wire.client,
        sequence: wire.sequence,
    }
}

#[cfg(test)]
mod tests {
    use ringfort_storage::version::{Context, NewPayload, Write};

    use super::*;

    fn write(base: &Object, n: u64, context: Option<Context>, payload: NewPayload) -> Object {
        let request = RequestId {
            client: 5,
            sequence: n,
        };
        let write = Write {
            context,
            payload,
            request,
            lowest_unanswered: 0,
            at_ms: n,
            expires_at_ms: 10 * n,
        };
        base.write(
            &write,
            Dot {
                actor: ActorId(n % 3 + 1),
                counter: n,
            },
            1,
        )
    }

    fn value(bytes: &'static [u8]) -> NewPayload {
        NewPayload::Value(Value::new(Bytes::from_static(bytes)))
    }

    /// Two values, an empty one, a tombstone that keeps a value.
    fn rich() -> Object {
        let one = write(&Object::empty(), 1, None, value(b"one"));
        let gone = write(&one, 2, Some((&one).into()), NewPayload::Delete);
        let two = write(&gone, 3, None, value(b"two"));
        write(&two, 4, None, value(b""))
    }

    #[test]
    fn objects_survive_travel() {
        let object = rich();
        assert_eq!(object.siblings().len(), 3);
        assert_eq!(decode_object(encode_object(&object)), Ok(object));
        assert_eq!(encode_object(&Object::empty()).len(), 0);
        assert_eq!(decode_object(Bytes::new()), Ok(Object::empty()));
    }

    #[test]
    fn dropped_values_keep_length_and_hash() {
        let object = rich();
        let siblings = object.siblings().iter().cloned().map(|mut sibling| {
            if let Payload::Value(value) = &mut sibling.payload {
                *value = value.without_bytes();
            }
            sibling
        });
        let dropped = Object::from_parts(
            object.clock().clone(),
            siblings.collect(),
            object.applied().to_vec(),
        );
        let dropped = dropped.expect("still an object");
        assert_eq!(decode_object(encode_object(&dropped)), Ok(dropped));
    }

    #[test]
    fn what_is_kept_is_copied() {
        let bytes = encode_object(&rich());
        let object = decode_object(bytes.clone()).expect("decodes");
        let range = bytes.as_ptr_range();
        let values = object
            .siblings()
            .iter()
            .flat_map(|sibling| sibling.values());
        for value in values
            .filter_map(|value| value.bytes())
            .filter(|bytes| !bytes.is_empty())
        {
            assert!(!range.contains(&value.as_ptr()));
        }
    }

    #[test]
    fn mangled_objects_are_refused() {
        let object = rich();
        let wire = || peer::Object::decode(encode_object(&object)).expect("decodes");
        let refused = |wire: peer::Object| decode_object(wire.encode_to_vec().into()).is_err();
        assert!(!refused(wire()));
        let mut bad = wire();
        bad.siblings[0].values[0].bytes = Bytes::from_static(b"other");
        assert!(refused(bad), "a value that is not its hash");
        let mut bad = wire();
        bad.clock = None;
        assert!(refused(bad), "a dot that the clock does not cover");
        let mut bad = wire();
        bad.siblings.reverse();
        assert!(refused(bad), "siblings out of order");
        let mut bad = wire();
        bad.requests.clear();
        assert!(refused(bad), "a sibling whose request is not listed");
        let mut bad = wire();
        if let Some(clock) = &mut bad.clock {
            clock.counters.pop();
        }
        assert!(refused(bad), "a clock of unequal arrays");
        let mut bad = wire();
        bad.requests[0].actors.clear();
        assert!(refused(bad), "a request without dots");
        let mut bad = wire();
        bad.siblings
            .iter_mut()
            .filter(|s| !s.tombstone)
            .for_each(|s| s.values.clear());
        assert!(refused(bad), "a value sibling without a value");
        assert!(decode_object(Bytes::from_static(b"\xff\xff")).is_err());
    }
}
