//! What calls answer with: siblings, contexts, evidence.

use std::{fmt, time::Duration};

use bytes::Bytes;
use ringfort_proto::v1;

use crate::{Context, Error};

/// Values shorter than this are copied out of the receive buffer, so that keeping one keeps nothing else.
const COPY_BELOW: usize = 16 << 10;

/// How an answer was earned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Evidence {
    /// Owners that were asked.
    pub owners_asked: u32,
    /// Owners that answered in time.
    pub owners_answered: u32,
    /// Fallbacks that stood in for owners.
    pub fallbacks_used: u32,
    /// Copies on stable storage when the answer was given.
    pub copies_durable: u32,
}

impl Evidence {
    pub(crate) fn from_wire(wire: Option<v1::Evidence>) -> Self {
        let wire = wire.unwrap_or_default();
        Evidence {
            owners_asked: wire.owners_asked,
            owners_answered: wire.owners_answered,
            fallbacks_used: wire.fallbacks_used,
            copies_durable: wire.copies_durable,
        }
    }
}

/// One of the values that stand side by side under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sibling {
    /// The value.
    pub value: Bytes,
    /// When it expires, as time since the Unix epoch; `None` for never.
    pub expires_at: Option<Duration>,
}

impl Sibling {
    fn from_wire(wire: v1::Sibling) -> Self {
        Sibling {
            value: detach(wire.value),
            expires_at: (wire.expires_at_ms > 0).then(|| Duration::from_millis(wire.expires_at_ms)),
        }
    }
}

/// A value on its own, if it is small beside the buffer that it came in.
fn detach(value: Bytes) -> Bytes {
    if value.len() < COPY_BELOW {
        Bytes::copy_from_slice(&value)
    } else {
        value
    }
}

/// What a read found: any number of siblings, and the context that covers exactly these.
#[derive(Debug, Clone)]
pub struct Read {
    siblings: Vec<Sibling>,
    context: Option<Context>,
    evidence: Evidence,
    deleted: Vec<Bytes>,
}

impl Read {
    pub(crate) fn from_wire(wire: v1::GetResponse) -> Self {
        Read {
            siblings: wire.siblings.into_iter().map(Sibling::from_wire).collect(),
            context: Context::from_wire(wire.context),
            evidence: Evidence::from_wire(wire.evidence),
            deleted: wire.deleted.into_iter().map(detach).collect(),
        }
    }

    /// The values: none if the key is not found, several if writes were concurrent.
    pub fn siblings(&self) -> &[Sibling] {
        &self.siblings
    }

    /// The values, to be kept.
    pub fn into_siblings(self) -> Vec<Sibling> {
        self.siblings
    }

    /// Whether there is at least one value.
    pub fn is_found(&self) -> bool {
        !self.siblings.is_empty()
    }

    /// Values that were deleted lately and are still kept, if they were [asked for](crate::Get::deleted): a put of one with
    /// the [context](Self::context) brings it back. How long they are kept is the nodes' setting `soft_delete`.
    pub fn deleted(&self) -> &[Bytes] {
        &self.deleted
    }

    /// What to hand in with the write that replaces what was read; `None` only if nothing was ever stored here.
    pub fn context(&self) -> Option<&Context> {
        self.context.as_ref()
    }

    /// How the answer was earned.
    pub fn evidence(&self) -> Evidence {
        self.evidence
    }

    /// The value, if there is at most one.
    ///
    /// # Errors
    /// [`Siblings`] with the read inside, if there are several. It turns into an [`Error`] by `?`.
    pub fn one(mut self) -> Result<Option<Bytes>, Siblings> {
        if self.siblings.len() > 1 {
            return Err(Siblings(self));
        }
        Ok(self.siblings.pop().map(|sibling| sibling.value))
    }

    /// The value as JSON, if there is at most one.
    ///
    /// # Errors
    /// [`Kind::SeveralSiblings`](crate::Kind), or [`Kind::Config`](crate::Kind) if the value is no such JSON.
    pub fn json<T: serde::de::DeserializeOwned>(self) -> Result<Option<T>, Error> {
        let Some(value) = self.one()? else {
            return Ok(None);
        };
        let parsed = serde_json::from_slice(&value);
        parsed
            .map(Some)
            .map_err(|error| Error::config(format!("the value is not the JSON asked for: {error}")))
    }
}

/// Several siblings where one value was asked for: read them, decide, and write with the context.
#[derive(Debug, Clone)]
pub struct Siblings(Read);

impl Siblings {
    /// The read that found them.
    pub fn read(&self) -> &Read {
        &self.0
    }

    /// The read that found them, to be kept.
    pub fn into_read(self) -> Read {
        self.0
    }
}

impl fmt::Display for Siblings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} siblings where one value was asked for",
            self.0.siblings.len()
        )
    }
}

impl std::error::Error for Siblings {}

impl From<Siblings> for Error {
    fn from(siblings: Siblings) -> Error {
        Error::several_siblings(siblings.0.siblings.len())
    }
}

/// What a write left behind.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Written {
    /// The context of what was written; only if its value is the sole sibling, since a client must not cover what it
    /// never read.
    pub context: Option<Context>,
    /// Live values now stored under the key, as the coordinator saw it. More than one: read and merge.
    pub siblings: u32,
    /// How the answer was earned.
    pub evidence: Evidence,
}

impl Written {
    pub(crate) fn from_put(wire: v1::PutResponse) -> Self {
        Written {
            context: Context::from_wire(wire.context),
            siblings: wire.siblings,
            evidence: Evidence::from_wire(wire.evidence),
        }
    }
}

/// What a delete left behind.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Deleted {
    /// Values that the context did not cover, and that are still there.
    pub siblings: u32,
    /// Whether the read that gave the context found a value; `None` if the context was handed in.
    pub found: Option<bool>,
    /// How the answer was earned.
    pub evidence: Evidence,
}

impl Deleted {
    pub(crate) fn from_wire(wire: v1::DeleteResponse, found: Option<bool>) -> Self {
        Deleted {
            siblings: wire.siblings,
            found,
            evidence: Evidence::from_wire(wire.evidence),
        }
    }

    /// There was nothing to delete, so nothing was written.
    pub(crate) fn nothing(read: &Read) -> Self {
        Deleted {
            siblings: 0,
            found: Some(false),
            evidence: read.evidence,
        }
    }
}
