//! The name of an object inside a store.
//!
//! Invariant: a [`Key`] is always well framed and within its limit, and its order is that of the rows on disk
//! (token, then framed bytes), so that table, disk and wire agree on what "after" means.

use bytes::{BufMut, Bytes, BytesMut};

/// The most bytes that namespace and key may have together. Longer keys would push sled's pages over the size
/// from which it writes to files that it never syncs.
pub const KEY_BYTES_MAX: usize = 400;

/// The bytes that the framing adds: the length of the namespace, `u16` big endian.
const FRAME_BYTES: usize = 2;

/// A key: its token on the ring, and its framed bytes: `u16 BE len(namespace) ‖ namespace ‖ key`.
///
/// The token is computed by the caller (storage does not know the ring) and must always be the same for the same
/// framed bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    // The order of the fields is the order of keys.
    token: u64,
    framed: Bytes,
}

/// Why bytes are not a key. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key has no bytes. (The namespace may be empty: what that means is the server's matter.)
    #[error("the key is empty")]
    Empty,
    /// Namespace and key have more than [`KEY_BYTES_MAX`] bytes together.
    #[error("namespace and key have {0} bytes together, {KEY_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// The framed bytes end before the namespace does.
    #[error("the framing of the key is cut short")]
    Framing,
}

impl Key {
    /// Frames a namespace and a key.
    ///
    /// # Errors
    /// [`KeyError::Empty`] and [`KeyError::TooLong`].
    pub fn new(token: u64, namespace: &[u8], key: &[u8]) -> Result<Key, KeyError> {
        if key.is_empty() {
            return Err(KeyError::Empty);
        }
        let len = namespace.len().saturating_add(key.len());
        if len > KEY_BYTES_MAX {
            return Err(KeyError::TooLong(len));
        }
        let mut framed = BytesMut::with_capacity(FRAME_BYTES + len);
        framed.put_u16(namespace.len() as u16); // at most KEY_BYTES_MAX
        framed.put_slice(namespace);
        framed.put_slice(key);
        Ok(Key {
            token,
            framed: framed.freeze(),
        })
    }

    /// Takes bytes that were framed before, by [`Key::framed`] here or on another node.
    ///
    /// The bytes are kept as they are: give a copy, not a slice of a receive buffer.
    ///
    /// # Errors
    /// Any [`KeyError`]: the bytes are checked as in [`Key::new`].
    pub fn from_framed(token: u64, framed: Bytes) -> Result<Key, KeyError> {
        let (len, rest) = framed
            .split_first_chunk::<FRAME_BYTES>()
            .ok_or(KeyError::Framing)?;
        let namespace_len = usize::from(u16::from_be_bytes(*len));
        if namespace_len > rest.len() {
            return Err(KeyError::Framing);
        }
        if namespace_len == rest.len() {
            return Err(KeyError::Empty);
        }
        if rest.len() > KEY_BYTES_MAX {
            return Err(KeyError::TooLong(rest.len()));
        }
        Ok(Key { token, framed })
    }

    /// Sorts before every key of this token, and is none.
    pub(crate) fn floor(token: u64) -> Key {
        let framed = Bytes::new();
        Key { token, framed }
    }

    /// The position on the ring.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// `u16 BE len(namespace) ‖ namespace ‖ key`: what the token is a hash of, and what goes over the wire.
    pub fn framed(&self) -> &Bytes {
        &self.framed
    }

    /// The namespace, without its length.
    pub fn namespace(&self) -> &[u8] {
        &self.framed[FRAME_BYTES..self.key_start()]
    }

    /// The key inside its namespace; never empty.
    pub fn key(&self) -> &[u8] {
        &self.framed[self.key_start()..]
    }

    fn key_start(&self) -> usize {
        FRAME_BYTES + usize::from(u16::from_be_bytes([self.framed[0], self.framed[1]]))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (namespace, key) = (self.namespace(), self.key());
        write!(
            f,
            "Key({:016x} {}/{})",
            self.token,
            namespace.escape_ascii(),
            key.escape_ascii()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_takes_apart() {
        let key = Key::new(7, b"users", b"ada").expect("short");
        assert_eq!(&key.framed()[..], b"\x00\x05usersada");
        assert_eq!((key.namespace(), key.key()), (&b"users"[..], &b"ada"[..]));
        assert_eq!(Key::from_framed(7, key.framed().clone()), Ok(key));
    }

    #[test]
    fn the_same_bytes_split_elsewhere_are_another_key() {
        let one = Key::new(7, b"ab", b"c").expect("short");
        let two = Key::new(7, b"a", b"bc").expect("short");
        assert_ne!(one, two);
    }

    #[test]
    fn limits_hold_on_both_ways_in() {
        let long = vec![b'x'; KEY_BYTES_MAX];
        assert!(Key::new(0, b"", &long).is_ok());
        assert_eq!(Key::new(0, b"n", &long), Err(KeyError::TooLong(401)));
        assert_eq!(Key::new(0, b"n", b""), Err(KeyError::Empty));
        for (framed, error) in [
            (&b""[..], KeyError::Framing),
            (b"\x00", KeyError::Framing),
            (b"\x00\x02n", KeyError::Framing),
            (b"\x00\x01n", KeyError::Empty),
            (b"\x00\x00", KeyError::Empty),
        ] {
            assert_eq!(
                Key::from_framed(0, Bytes::copy_from_slice(framed)),
                Err(error)
            );
        }
        let framed = [b"\x00\x01n".as_slice(), &long].concat();
        assert_eq!(
            Key::from_framed(0, framed.into()),
            Err(KeyError::TooLong(401))
        );
    }
}
