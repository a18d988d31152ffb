//! Where a scan goes on: opaque to clients, versioned and checksummed.

use bytes::{BufMut, Bytes};
use ringfort_proto::{Failure, Reason};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 8;

/// A place in the order of (token, framed key): strictly after `after` at `token`, or at `token` if `after` is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Cursor {
    pub token: u64,
    pub after: Bytes,
}

impl Cursor {
    /// The cursor as bytes, bound to one cluster and one namespace.
    pub fn encode(&self, cluster: u64, namespace: &str) -> Bytes {
        let mut bytes = Vec::with_capacity(1 + 8 + self.after.len() + CHECKSUM_BYTES);
        bytes.put_u8(VERSION);
        bytes.put_u64(self.token);
        bytes.put_slice(&self.after);
        let checksum = checksum(&bytes, cluster, namespace);
        bytes.put_u64(checksum);
        bytes.into()
    }

    /// Reads a cursor; empty bytes are the start.
    ///
    /// # Errors
    /// `BAD_REQUEST`: mangled, or of another cluster or namespace.
    pub fn decode(bytes: &[u8], cluster: u64, namespace: &str) -> Result<Self, Failure> {
        if bytes.is_empty() {
            return Ok(Cursor::default());
        }
        let bad = || {
            Failure::new(
                Reason::BadRequest,
                "not a cursor of a scan of this namespace",
            )
        };
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(bad)?;
        if u64::from_be_bytes(*sum) != checksum(body, cluster, namespace) {
            return Err(bad());
        }
        let (version, body) = body.split_first().ok_or_else(bad)?;
        let (token, after) = body.split_first_chunk::<8>().ok_or_else(bad)?;
        if *version != VERSION {
            return Err(bad());
        }
        Ok(Cursor {
            token: u64::from_be_bytes(*token),
            after: Bytes::copy_from_slice(after),
        })
    }
}

fn checksum(body: &[u8], cluster: u64, namespace: &str) -> u64 {
    xxh3_64_with_seed(body, xxh3_64_with_seed(namespace.as_bytes(), cluster))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_travel_and_nothing_else() {
        let cursor = Cursor {
            token: 77,
            after: Bytes::from_static(b"\0\x01nk"),
        };
        let bytes = cursor.encode(1, "n");
        assert_eq!(Cursor::decode(&bytes, 1, "n"), Ok(cursor));
        assert_eq!(Cursor::decode(b"", 1, "n"), Ok(Cursor::default()));
        assert!(Cursor::decode(&bytes, 2, "n").is_err());
        assert!(Cursor::decode(&bytes, 1, "m").is_err());
        assert!(Cursor::decode(&bytes[1..], 1, "n").is_err());
        let mut flipped = bytes.to_vec();
        flipped[3] ^= 1;
        assert!(Cursor::decode(&flipped, 1, "n").is_err());
    }
}
