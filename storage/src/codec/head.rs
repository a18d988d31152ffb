//! The head and the applied list in bincode: little endian, variable-length integers.

use bincode::de::{Decode, Decoder};
use bincode::enc::write::Writer;
use bincode::enc::{Encode, Encoder};
use bincode::error::{DecodeError, EncodeError};
use bytes::Bytes;

use super::{CodecError, HEAD_BYTES_MAX};
use crate::version::{
    ActorId, Applied, Clock, Dot, Dots, Object, Payload, RequestId, Sibling, Value,
};

const KIND_VALUE: u8 = 1;
const KIND_TOMBSTONE: u8 = 2;

/// Encodes clock and siblings, without the bytes of values.
pub(crate) fn encode_head(object: &Object) -> Bytes {
    // One allocation for nearly every object: an entry or a number is nine bytes at most, and most are less.
    const ENTRY: usize = 18;
    const SIBLING: usize = 2 * ENTRY + 24;
    let values: usize = object.siblings().iter().map(|s| s.values().len()).sum();
    let mut out = Vec::with_capacity(
        8 + ENTRY * object.clock().len() + SIBLING * object.siblings().len() + ENTRY * values,
    );
    append(object.clock().entries(), &mut out);
    append(object.siblings(), &mut out);
    out.into()
}

/// Decodes what [`encode_head`] wrote; values come without bytes. `head` has passed its checksum.
pub(super) fn decode_head(head: &[u8]) -> Result<(Clock, Vec<Sibling>), CodecError> {
    let (parts, rest) = take::<(Vec<(ActorId, u64)>, Vec<Sibling>)>(head)?;
    if !rest.is_empty() {
        return Err(CodecError::Content);
    }
    let clock = Clock::from_parts(parts.0).map_err(|_| CodecError::Content)?;
    Ok((clock, parts.1))
}

/// Appends the list of applied requests.
pub(super) fn encode_applied(applied: &[Applied], out: &mut Vec<u8>) {
    append(applied, out);
}

/// Decodes what [`encode_applied`] wrote, and returns what follows it. The bytes have passed their checksum.
pub(super) fn decode_applied(bytes: &[u8]) -> Result<(Vec<Applied>, &[u8]), CodecError> {
    take(bytes)
}

fn append<T: Encode + ?Sized>(what: &T, out: &mut Vec<u8>) {
    struct Append<'a>(&'a mut Vec<u8>);
    impl Writer for Append<'_> {
        #[inline]
        fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }
    bincode::encode_into_writer(what, Append(out), bincode::config::standard())
        .expect("integers and lists always encode, and memory is never full");
}

fn take<T: Decode<()>>(bytes: &[u8]) -> Result<(T, &[u8]), CodecError> {
    let config = bincode::config::standard().with_limit::<HEAD_BYTES_MAX>();
    let (what, used) =
        bincode::decode_from_slice(bytes, config).map_err(|_| CodecError::Content)?;
    Ok((what, &bytes[used..]))
}

/// A type of two numbers, encoded one after the other.
macro_rules! pair {
    ($type:ident { $first:ident, $second:ident }) => {
        impl Encode for $type {
            fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
                self.$first.encode(encoder)?;
                self.$second.encode(encoder)
            }
        }

        impl<C> Decode<C> for $type {
            fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
                Ok($type {
                    $first: Decode::decode(decoder)?,
                    $second: Decode::decode(decoder)?,
                })
            }
        }
    };
}

pair!(Dot { actor, counter });
pair!(RequestId { client, sequence });

impl Encode for ActorId {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.encode(encoder)
    }
}

impl<C> Decode<C> for ActorId {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Ok(ActorId(u64::decode(decoder)?))
    }
}

impl Encode for Sibling {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.dot.encode(encoder)?;
        self.request.encode(encoder)?;
        self.expires_at_ms.encode(encoder)?;
        match &self.payload {
            Payload::Value(value) => {
                KIND_VALUE.encode(encoder)?;
                value.encode(encoder)
            }
            Payload::Tombstone { kept } => {
                KIND_TOMBSTONE.encode(encoder)?;
                kept.encode(encoder)
            }
        }
    }
}

impl<C> Decode<C> for Sibling {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Ok(Sibling {
            dot: Decode::decode(decoder)?,
            request: Decode::decode(decoder)?,
            expires_at_ms: Decode::decode(decoder)?,
            payload: match u8::decode(decoder)? {
                KIND_VALUE => Payload::Value(Decode::decode(decoder)?),
                KIND_TOMBSTONE => Payload::Tombstone {
                    kept: Decode::decode(decoder)?,
                },
                _ => return Err(DecodeError::Other("a sibling of unknown kind")),
            },
        })
    }
}

impl Encode for Value {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.len().encode(encoder)?;
        self.hash().encode(encoder)
    }
}

impl<C> Decode<C> for Value {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Ok(Value::dropped(
            Decode::decode(decoder)?,
            Decode::decode(decoder)?,
        ))
    }
}

impl Encode for Applied {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.request.encode(encoder)?;
        self.at_ms.encode(encoder)?;
        self.dots.as_slice().encode(encoder)
    }
}

impl<C> Decode<C> for Applied {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let request = Decode::decode(decoder)?;
        let at_ms = Decode::decode(decoder)?;
        let dots = Dots::from_ascending(Decode::decode(decoder)?);
        let dots = dots.ok_or(DecodeError::Other("dots that do not ascend"))?;
        Ok(Applied {
            request,
            at_ms,
            dots,
        })
    }
}
