//! The record: an object as it is stored, with its head encoded once.
//!
//! Invariant: the head bytes and the leaf are those of the object; the leaf depends on nothing local, so equal
//! objects have equal leaves on every node (I5), and dropping bytes of values changes none.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::codec;
use crate::key::Key;
use crate::version::Object;

/// The leaf of a key for which nothing is stored.
pub const NO_LEAF: u64 = 0;

/// An object with its encoded head and its leaf. Made once, then shared: log, table, peers and drain all use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    object: Object,
    head: Bytes,
    leaf: u64,
}

impl Record {
    /// Encodes the head of `object`, the only time that this is done for this object.
    pub fn new(key: &Key, object: Object) -> Record {
        if object.is_empty() {
            return Record {
                object,
                head: Bytes::new(),
                leaf: NO_LEAF,
            };
        }
        let head = codec::encode_head(&object);
        let leaf = leaf_of(key, &head);
        Record { object, head, leaf }
    }

    /// Puts a decoded record together. The codec has verified the leaf.
    pub(crate) fn from_verified(object: Object, head: Bytes, leaf: u64) -> Record {
        Record { object, head, leaf }
    }

    /// What is stored.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// What is stored, taken out.
    pub fn into_object(self) -> Object {
        self.object
    }

    /// Head checksum, digest and Merkle leaf in one; 0 ([`NO_LEAF`]) if nothing is stored.
    pub fn leaf(&self) -> u64 {
        self.leaf
    }

    /// The encoded head: clock, and siblings without the bytes of their values.
    pub fn head(&self) -> &Bytes {
        &self.head
    }

    /// The memory that it takes, in bytes, near enough for a budget.
    pub fn weight(&self) -> usize {
        // What `byte_len` counts is roughly doubled by the structs around it: vectors, counts of shared bytes.
        const STRUCTS: usize = 160;
        const SIBLING: usize = 96;
        let siblings = SIBLING * self.object.siblings().len();
        STRUCTS + siblings + self.object.byte_len() + self.head.len()
    }
}

/// `xxh3_64` over format version, key (token included) and head; never [`NO_LEAF`].
pub(crate) fn leaf_of(key: &Key, head: &[u8]) -> u64 {
    let place = xxh3_64_with_seed(key.framed(), key.token() ^ u64::from(codec::FORMAT));
    xxh3_64_with_seed(head, place).max(1)
}
