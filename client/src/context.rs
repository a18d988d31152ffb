//! The opaque tokens that a client keeps between calls.

use std::fmt;

use bytes::Bytes;

/// What a read saw of a key, to be given back with the write that replaces it.
///
/// Its bytes are the server's own business; they may be stored and sent anywhere and are good for the same key of the
/// same cluster only.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Context(Bytes);

impl Context {
    /// A context from bytes that [`as_bytes`](Context::as_bytes) gave. The server checks them.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        Context(bytes.into())
    }

    /// The bytes, to be kept.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, without a copy.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// From the wire, where empty means none.
    pub(crate) fn from_wire(bytes: Bytes) -> Option<Self> {
        // Contexts are kept for long; a slice of the receive buffer would keep all of it.
        (!bytes.is_empty()).then(|| Context(Bytes::copy_from_slice(&bytes)))
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({} bytes)", self.0.len())
    }
}
