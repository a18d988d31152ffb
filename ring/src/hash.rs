//! The one hash that puts keys and virtual nodes on the ring.
//!
//! *Invariant:* these functions never change. A token is part of what is stored on disk and of what every client
//! computes for itself; another hash would be another cluster. Golden values in the tests pin them.

use std::fmt;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::id::PlacementId;

/// Framed keys up to this many bytes are hashed from the stack; all keys that storage accepts are shorter.
const STACK_BYTES: usize = 512;

/// A position on the ring, which runs clockwise from 0 to `u64::MAX` and wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

impl fmt::Display for Token {
    /// 16 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The token of a key: `xxh3_64` of `u16 BE len(namespace) ‖ namespace ‖ key`.
///
/// The length in front keeps (`a`, `bc`) and (`ab`, `c`) apart. Callers limit the length of namespaces; past 65,535
/// bytes the framed length saturates.
pub fn token(namespace: &[u8], key: &[u8]) -> Token {
    let framed_len = u16::try_from(namespace.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes();
    let len = framed_len.len() + namespace.len() + key.len();
    let mut buffer = [0_u8; STACK_BYTES];
    if let Some(framed) = buffer.get_mut(..len) {
        framed[..2].copy_from_slice(&framed_len);
        framed[2..2 + namespace.len()].copy_from_slice(namespace);
        framed[2 + namespace.len()..].copy_from_slice(key);
        return token_of_framed(framed);
    }
    let mut hasher = Xxh3::new();
    hasher.update(&framed_len);
    hasher.update(namespace);
    hasher.update(key);
    Token(hasher.digest())
}

/// The token of a key that is framed already, as `u16 BE len(namespace) ‖ namespace ‖ key`.
pub fn token_of_framed(framed: &[u8]) -> Token {
    Token(xxh3_64(framed))
}

/// The token of a member's virtual node `i`: `xxh3_64` of `u64 BE placement id ‖ u32 BE i`.
pub fn vnode_token(placement_id: PlacementId, i: u32) -> Token {
    let mut bytes = [0_u8; 12];
    bytes[..8].copy_from_slice(&placement_id.0.to_be_bytes());
    bytes[8..].copy_from_slice(&i.to_be_bytes());
    Token(xxh3_64(&bytes))
}
