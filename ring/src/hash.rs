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

/// The hash behind a member's virtual node `i`: `xxh3_64` of `u64 BE placement id ‖ u32 BE i`.
pub(crate) fn vnode_hash(placement_id: PlacementId, i: u32) -> u64 {
    let mut bytes = [0_u8; 12];
    bytes[..8].copy_from_slice(&placement_id.0.to_be_bytes());
    bytes[8..].copy_from_slice(&i.to_be_bytes());
    xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_tokens_are_golden() {
        // Computed by another implementation of xxh3 (the Python package xxhash).
        let golden = [
            (&b""[..], &b""[..], 0x3325_230e_1f28_5505),
            (b"default", b"a", 0x08d3_2d67_da39_5ae7),
            (b"default", b"hello", 0x410c_1ccc_97df_d9c3),
            (b"users", &[0, 255, 7], 0x05ab_7b8d_8637_0ebd),
        ];
        for (namespace, key, expected) in golden {
            assert_eq!(
                token(namespace, key),
                Token(expected),
                "{namespace:?} {key:?}"
            );
        }
    }

    #[test]
    fn vnode_hashes_are_golden() {
        let golden = [
            (0, 0, 0xc499_8f91_69c2_a4f0),
            (1, 0, 0xaf8a_366c_0b48_c68b),
            (1, 1, 0x76d6_2fb9_f4a7_2dbc),
            (u64::MAX, u32::MAX, 0x18d0_81e8_e460_2ab0),
        ];
        for (placement, i, expected) in golden {
            assert_eq!(
                vnode_hash(PlacementId(placement), i),
                expected,
                "{placement} {i}"
            );
        }
    }

    #[test]
    fn long_keys_hash_like_their_framing() {
        for len in [0, 1, STACK_BYTES - 9, STACK_BYTES - 8, 10_000] {
            let key = vec![b'k'; len];
            let framed = [&[0, 7], &b"default"[..], &key].concat();
            assert_eq!(
                token(b"default", &key),
                token_of_framed(&framed),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn the_split_between_namespace_and_key_matters() {
        assert_ne!(token(b"a", b"bc"), token(b"ab", b"c"));
    }
}
