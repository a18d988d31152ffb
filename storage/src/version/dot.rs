//! Who wrote, and what for: dots and request ids.

use std::fmt;

/// Who may mint dots: a random number, made with the store and again after every start that was not clean.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActorId(pub u64);

/// The event that wrote one sibling. Minted once, by its actor; counters of one actor only grow, over all keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// Who minted it.
    pub actor: ActorId,
    /// The actor's counter; never 0.
    pub counter: u64,
}

impl Dot {
    /// The dot `(actor, counter)`.
    pub fn new(actor: ActorId, counter: u64) -> Dot {
        Dot { actor, counter }
    }
}

/// One mutation that a client asked for: made once per call, kept over its retries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// The client: a random number.
    pub client: u64,
    /// The client's own count of calls.
    pub sequence: u64,
}

impl RequestId {
    /// The request `(client, sequence)`.
    pub fn new(client: u64, sequence: u64) -> RequestId {
        RequestId { client, sequence }
    }
}

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({:?},{})", self.actor, self.counter)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}#{}", self.client, self.sequence)
    }
}

/// A client's word that it has answers to all of its requests below a sequence: nobody will repeat them. The default
/// says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floor {
    /// The client.
    pub client: u64,
    /// Its lowest sequence without an answer.
    pub lowest_unanswered: u64,
}

impl Floor {
    /// Whether the request will not be repeated.
    pub fn covers(self, request: RequestId) -> bool {
        request.client == self.client && request.sequence < self.lowest_unanswered
    }
}
