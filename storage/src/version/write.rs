//! Writing: one new sibling in place of those that its context covers. Invariant I2.

use crate::mutants::{Mutant, is_planted};

use super::applied::{self, Applied, Dots};
use super::{Clock, Context, Dot, Floor, Object, Payload, RequestId, Sibling, Value};

/// What a client asks to write.
#[derive(Clone, Debug)]
pub struct Write {
    /// What the client had read; `None`: nothing, so the write is concurrent with all that is there.
    pub context: Option<Context>,
    /// What to write.
    pub payload: NewPayload,
    /// The call, the same over all its retries.
    pub request: RequestId,
    /// The lowest sequence that this client still waits for: its earlier requests can be forgotten.
    pub lowest_unanswered: u64,
    /// When it is written, in ms since 1970, by a clock that coordinators nearly agree on: to forget requests by, and nothing
    /// else.
    pub at_ms: u64,
    /// From when on a value reads as a tombstone, in ms since 1970; 0: never. Deletes ignore it.
    pub expires_at_ms: u64,
}

impl Write {
    /// What the client says of its earlier requests.
    pub fn floor(&self) -> Floor {
        Floor {
            client: self.request.client,
            lowest_unanswered: self.lowest_unanswered,
        }
    }
}

/// A value, or none.
#[derive(Clone, Debug)]
pub enum NewPayload {
    /// A put. The value was hashed before, outside of any lock.
    Value(Value),
    /// A delete: leaves a tombstone that keeps what it replaces.
    Delete,
    /// A delete that keeps nothing.
    Purge,
}

impl Object {
    /// Whether `dot` may be minted for `write` on this base: neither the base nor the context covers it yet.
    ///
    /// If not, someone has seen this actor at a higher counter than it remembers (a restored or copied
    /// directory): it must not mint, since its peers would drop the new sibling as long seen.
    pub fn is_fresh(&self, write: &Write, dot: Dot) -> bool {
        let seen = write
            .context
            .as_ref()
            .is_some_and(|context| context.covers(dot));
        dot.counter > 0 && !seen && !self.clock.covers(dot)
    }

    /// The object after `write`: the new sibling beside those that the context does not cover; clock = base ⊔
    /// context ⊔ dot.
    ///
    /// A sibling counts as covered too if the context knows its request by *another* dot: the writer has read that
    /// value from a replica that got it through another coordinator. And the requests that the context lists are listed
    /// from now on, so that such a copy is known for what it is when it arrives later.
    ///
    /// The caller has made sure, under the lock of the key, that the base is whole, that the request is new
    /// ([`Object::find`]) and that the dot is ([`Object::is_fresh`]). `now_ms`, a wall clock, decides which
    /// values a tombstone keeps, and nothing else.
    pub fn write(&self, write: &Write, dot: Dot, now_ms: u64) -> Object {
        debug_assert!(self.is_fresh(write, dot), "{dot:?} was seen before");
        debug_assert!(
            self.find(write.request).is_none(),
            "{:?} was applied before",
            write.request
        );
        if is_planted(Mutant::DropExpiredClock)
            && let Some(fewer) = self.without_expired(now_ms)
        {
            return fewer.write(write, dot, now_ms);
        }
        let mut clock = self.clock.clone();
        if let Some(context) = &write.context {
            clock.join(&context.clock);
        }
        clock.insert(dot);

        let replaced = |sibling: &Sibling| {
            if is_planted(Mutant::IgnoreDeleteContext)
                && !matches!(write.payload, NewPayload::Value(_))
            {
                return false;
            }
            write
                .context
                .as_ref()
                .is_some_and(|context| self.read_by(context, sibling))
        };
        let payload = match &write.payload {
            NewPayload::Value(value) => Payload::Value(value.clone()),
            NewPayload::Delete => Payload::Tombstone {
                kept: self
                    .live(now_ms)
                    .filter(|s| replaced(s))
                    .flat_map(|s| s.values().iter().cloned())
                    .collect(),
            },
            NewPayload::Purge => Payload::Tombstone { kept: Vec::new() },
        };
        let mut siblings = Vec::with_capacity(1 + self.siblings.len());
        siblings.extend(self.siblings.iter().filter(|s| !replaced(s)).cloned());
        let at = siblings.partition_point(|s| s.dot < dot);
        siblings.insert(
            at,
            Sibling {
                dot,
                request: write.request,
                expires_at_ms: match write.payload {
                    NewPayload::Value(_) => write.expires_at_ms,
                    NewPayload::Delete | NewPayload::Purge => 0,
                },
                payload,
            },
        );

        let mut applied = Vec::with_capacity(1 + self.applied.len());
        applied.extend_from_slice(&self.applied);
        if let Some(context) = &write.context {
            for known in context.applied.iter() {
                applied::add(&mut applied, known.clone());
            }
        }
        applied::add(
            &mut applied,
            Applied {
                request: write.request,
                at_ms: write.at_ms,
                dots: Dots::one(dot),
            },
        );
        applied::prune(&mut applied, &siblings, write.floor(), write.at_ms);
        Object {
            clock,
            siblings,
            applied,
        }
    }

    /// Without what has expired, and without its events in the clock; `None`: nothing has. A planted bug.
    fn without_expired(&self, now_ms: u64) -> Option<Object> {
        let mut object = self.clone();
        object.siblings.retain(|s| !s.is_expired(now_ms));
        if object.siblings.len() == self.siblings.len() {
            return None;
        }
        object.clock = Clock::EMPTY;
        for sibling in &object.siblings {
            object.clock.insert(sibling.dot);
        }
        let clock = &object.clock;
        object
            .applied
            .retain(|entry| entry.dots.iter().all(|dot| clock.covers(*dot)));
        Some(object)
    }

    /// Whether the reader of `context` has seen the request of `sibling`, through whichever dot.
    pub(crate) fn read_by(&self, context: &Context, sibling: &Sibling) -> bool {
        let entry = self.find(sibling.request);
        context.has_read(sibling)
            || entry.is_some_and(|entry| entry.dots.iter().any(|dot| context.covers(*dot)))
    }
}
