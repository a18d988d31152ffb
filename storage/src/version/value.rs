//! A value: bytes that may be dropped, under a hash that stays.
//!
//! Invariant: dropping bytes changes neither length nor hash, so it changes no leaf.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

/// The bytes of one sibling, or what is left of them.
///
/// Two values are equal if they have the same length and hash and both have, or both lack, their bytes.
#[derive(Clone)]
pub struct Value {
    bytes: Option<Bytes>,
    len: u32,
    hash: u64,
}

impl Value {
    /// Hashes `bytes` and keeps them: give a copy, not a slice of a receive buffer.
    ///
    /// # Panics
    /// From 4 GiB on. Every way in has a message limit far below that.
    pub fn new(bytes: Bytes) -> Value {
        Value {
            len: u32::try_from(bytes.len()).expect("messages are limited to far less than 4 GiB"),
            hash: xxh3_64(&bytes),
            bytes: Some(bytes),
        }
    }

    /// A value whose hash was worked out before. The caller vouches for it, or calls [`Value::verify`].
    pub(crate) fn with_hash(bytes: Bytes, hash: u64) -> Value {
        let len = u32::try_from(bytes.len()).expect("messages are limited to far less than 4 GiB");
        Value {
            bytes: Some(bytes),
            len,
            hash,
        }
    }

    /// A value whose bytes are gone.
    pub fn dropped(len: u32, hash: u64) -> Value {
        Value {
            bytes: None,
            len,
            hash,
        }
    }

    /// The bytes; `None` once they were dropped.
    pub fn bytes(&self) -> Option<&Bytes> {
        self.bytes.as_ref()
    }

    /// The length in bytes, also of dropped ones.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether the value is (or was) of no bytes: an empty value is a value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `xxh3_64` of the bytes, also of dropped ones.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether the bytes are those of the hash. True if they were dropped: nothing is claimed then.
    pub fn verify(&self) -> bool {
        self.bytes.as_ref().is_none_or(|bytes| {
            bytes.len() as u64 == u64::from(self.len) && xxh3_64(bytes) == self.hash
        })
    }

    /// The same value without its bytes.
    pub fn without_bytes(&self) -> Value {
        Value::dropped(self.len, self.hash)
    }

    /// Takes over the bytes of `other`, if it is the same value and has what is missing here.
    pub(crate) fn refill(&mut self, other: Value) {
        if self.bytes.is_none() && self.len == other.len && self.hash == other.hash {
            self.bytes = other.bytes;
        }
    }

    /// The bytes that are still here, in number.
    pub(crate) fn stored_len(&self) -> usize {
        self.bytes.as_ref().map_or(0, Bytes::len)
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        let facts = |v: &Value| (v.hash, v.len, v.bytes.is_some());
        facts(self) == facts(other)
    }
}

impl Eq for Value {}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.bytes {
            Some(bytes) if bytes.len() <= 16 => write!(f, "\"{}\"", bytes.escape_ascii()),
            Some(_) => write!(f, "<{} bytes, {:016x}>", self.len, self.hash),
            None => write!(f, "<{} bytes, {:016x}, dropped>", self.len, self.hash),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_keeps_length_and_hash() {
        let value = Value::new(Bytes::from_static(b"abc"));
        let dropped = value.without_bytes();
        assert_eq!((dropped.len(), dropped.hash()), (3, value.hash()));
        assert_ne!(dropped, value);
        assert!(dropped.verify());
        let mut refilled = dropped;
        refilled.refill(value.clone());
        assert_eq!(refilled, value);
        assert_eq!(refilled.bytes(), value.bytes());
    }

    #[test]
    fn refill_takes_no_strangers_bytes() {
        let mut dropped = Value::new(Bytes::from_static(b"abc")).without_bytes();
        dropped.refill(Value::new(Bytes::from_static(b"abd")));
        assert_eq!(dropped.bytes(), None);
    }

    #[test]
    fn verify_sees_other_bytes() {
        let hash = Value::new(Bytes::from_static(b"abc")).hash();
        assert!(Value::with_hash(Bytes::from_static(b"abc"), hash).verify());
        assert!(!Value::with_hash(Bytes::from_static(b"abd"), hash).verify());
    }
}
