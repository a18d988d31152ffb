//! One of the concurrent values of an object.

use super::{Dot, RequestId, Value};

/// One value or tombstone, with the event that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sibling {
    /// The event that wrote it.
    pub dot: Dot,
    /// The request that it answers.
    pub request: RequestId,
    /// From when on it reads as a tombstone, in ms since 1970, as written; 0: never.
    pub expires_at_ms: u64,
    /// What was written.
    pub payload: Payload,
}

/// What a sibling holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A value.
    Value(Value),
    /// The mark of a delete.
    Tombstone {
        /// The values that it replaced, so that they can be undeleted; bytes dropped once they cannot.
        kept: Vec<Value>,
    },
}

impl Sibling {
    /// Whether it has run out at `now_ms`: it then reads as a tombstone with the same dot. This never alters
    /// what is stored.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms != 0 && now_ms >= self.expires_at_ms
    }

    /// The value that a reader gets at `now_ms`; `None` from tombstones and expired siblings, and from one whose bytes were dropped:
    /// somebody's clock has said that it is expired.
    pub fn live_value(&self, now_ms: u64) -> Option<&Value> {
        match &self.payload {
            Payload::Value(value) if !self.is_expired(now_ms) => {
                value.bytes().is_some().then_some(value)
            }
            _ => None,
        }
    }

    /// Its values in stored order: the one of a value, the kept ones of a tombstone.
    pub fn values(&self) -> &[Value] {
        match &self.payload {
            Payload::Value(value) => std::slice::from_ref(value),
            Payload::Tombstone { kept } => kept,
        }
    }

    /// Joins two copies of the sibling of one dot: bytes that either still has are kept.
    pub(super) fn join(self, other: Sibling) -> Sibling {
        // One dot is one event, so all but the bytes is the same. Should a broken peer disagree, both sides
        // must still choose alike, or replicas would differ for ever.
        let (mut sibling, other) = if self.rank() >= other.rank() {
            (self, other)
        } else {
            (other, self)
        };
        match (&mut sibling.payload, other.payload) {
            (Payload::Value(mine), Payload::Value(theirs)) => mine.refill(theirs),
            (Payload::Tombstone { kept: mine }, Payload::Tombstone { kept: theirs }) => {
                mine.iter_mut()
                    .zip(theirs)
                    .for_each(|(mine, theirs)| mine.refill(theirs));
            }
            _ => {}
        }
        sibling
    }

    fn rank(&self) -> (RequestId, u64, bool, usize, u64) {
        let tombstone = matches!(self.payload, Payload::Tombstone { .. });
        let values = self.values();
        let mixed = values
            .iter()
            .fold(0u64, |sum, v| sum.rotate_left(1).wrapping_add(v.hash()));
        (
            self.request,
            self.expires_at_ms,
            tombstone,
            values.len(),
            mixed,
        )
    }
}
