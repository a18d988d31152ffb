//! The object: all that is stored for one key.

use super::applied::{self, Applied};
use super::{Clock, Dot, Floor, Payload, RequestId, Sibling, Value};

/// All that is stored for one key: a clock, the siblings that nobody has overwritten, and the requests seen.
///
/// What always holds, and what [`Object::from_parts`] checks; [`Object::merge`] is only sound because of it:
/// - siblings ascend by dot, and requests by id; each dot, of both, is covered by the clock;
/// - each sibling's request is listed, its dot the lowest of the entry; so no two siblings share a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    pub(super) clock: Clock,
    pub(super) siblings: Vec<Sibling>,
    pub(super) applied: Vec<Applied>,
}

/// Why parts are not an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadObject {
    /// Siblings do not ascend by dot.
    #[error("the siblings do not ascend by dot")]
    SiblingOrder,
    /// Requests do not ascend by id.
    #[error("the applied requests do not ascend by id")]
    AppliedOrder,
    /// The clock does not cover a dot of a sibling or of a request.
    #[error("the clock does not cover the dot {0:?}")]
    NotCovered(Dot),
    /// The request of a sibling is not listed, or the sibling's dot is not the lowest of its entry.
    #[error("the sibling {0:?} does not stand for its request {1:?}")]
    Unlisted(Dot, RequestId),
}

impl Object {
    /// Nothing stored.
    pub const EMPTY: Object = Object {
        clock: Clock::EMPTY,
        siblings: Vec::new(),
        applied: Vec::new(),
    };

    /// Nothing stored.
    pub fn empty() -> Object {
        Object::EMPTY
    }

    /// Puts an object together that came from disk or from a peer.
    ///
    /// # Errors
    /// [`BadObject`], if the parts break what always holds of objects.
    pub fn from_parts(
        clock: Clock,
        siblings: Vec<Sibling>,
        applied: Vec<Applied>,
    ) -> Result<Object, BadObject> {
        if !siblings.is_sorted_by(|a, b| a.dot < b.dot) {
            return Err(BadObject::SiblingOrder);
        }
        if !applied.is_sorted_by(|a, b| a.request < b.request) {
            return Err(BadObject::AppliedOrder);
        }
        let mut dots = applied.iter().flat_map(|entry| entry.dots.iter());
        if let Some(dot) = dots.find(|dot| dot.counter == 0 || !clock.covers(**dot)) {
            return Err(BadObject::NotCovered(*dot));
        }
        for sibling in &siblings {
            let entry = applied::find(&applied, sibling.request);
            if entry.is_none_or(|entry| entry.dots.lowest() != sibling.dot) {
                return Err(BadObject::Unlisted(sibling.dot, sibling.request));
            }
        }
        Ok(Object {
            clock,
            siblings,
            applied,
        })
    }

    /// What has been seen; the context of a read.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The siblings, ascending by dot, tombstones and expired ones included.
    pub fn siblings(&self) -> &[Sibling] {
        &self.siblings
    }

    /// The requests seen, ascending by id.
    pub fn applied(&self) -> &[Applied] {
        &self.applied
    }

    /// Whether nothing was ever stored.
    pub fn is_empty(&self) -> bool {
        self.clock.is_empty()
    }

    /// The siblings that a reader gets at `now_ms`: neither tombstones nor expired.
    pub fn live(&self, now_ms: u64) -> impl Iterator<Item = &Sibling> {
        self.siblings
            .iter()
            .filter(move |s| s.live_value(now_ms).is_some())
    }

    /// The values that deletes replaced less than `window_ms` ago, each once: what can be undeleted. `steady_ms` is of the clock that
    /// writes were [dated](super::Write::at_ms) by.
    pub fn deleted(&self, steady_ms: u64, window_ms: u64) -> Vec<&Value> {
        let mut values: Vec<&Value> = Vec::new();
        for sibling in &self.siblings {
            let Payload::Tombstone { kept } = &sibling.payload else {
                continue;
            };
            let at_ms = self.find(sibling.request).map_or(0, |entry| entry.at_ms);
            if steady_ms.saturating_sub(at_ms) >= window_ms {
                continue;
            }
            for value in kept.iter().filter(|value| value.bytes().is_some()) {
                let facts = |value: &Value| (value.hash(), value.len());
                if !values.iter().any(|known| facts(known) == facts(value)) {
                    values.push(value);
                }
            }
        }
        values
    }

    /// How many siblings a reader gets at `now_ms`.
    pub fn live_count(&self, now_ms: u64) -> usize {
        self.live(now_ms).count()
    }

    /// The entry of a request that was applied, whether it still has a sibling or was overwritten.
    pub fn find(&self, request: RequestId) -> Option<&Applied> {
        applied::find(&self.applied, request)
    }

    /// Forgets the requests of `floor`'s client that nobody will repeat. Those that still have a sibling stay, as with
    /// every pruning of the list.
    #[must_use]
    pub fn without_answered(mut self, floor: Floor) -> Object {
        let siblings = &self.siblings;
        self.applied.retain(|entry| {
            !floor.covers(entry.request) || siblings.iter().any(|s| s.request == entry.request)
        });
        self
    }

    /// The bytes that it takes in a message or on disk, near enough to judge limits by.
    pub fn byte_len(&self) -> usize {
        const ENTRY: usize = 16;
        const SIBLING: usize = 48;
        const VALUE: usize = 16;
        let siblings = self.siblings.iter().map(|s| {
            let values = s.values().iter();
            SIBLING + values.map(|v| VALUE + v.stored_len()).sum::<usize>()
        });
        let applied = self
            .applied
            .iter()
            .map(|a| ENTRY + 8 + ENTRY * a.dots.len());
        ENTRY * self.clock.len() + siblings.sum::<usize>() + applied.sum::<usize>()
    }

    /// The parts, as [`Object::from_parts`] takes them.
    pub fn into_parts(self) -> (Clock, Vec<Sibling>, Vec<Applied>) {
        (self.clock, self.siblings, self.applied)
    }

    pub(super) fn holds(&self, request: RequestId) -> bool {
        self.siblings.iter().any(|s| s.request == request)
    }
}
