//! Which requests an object has seen: what makes a retry through another coordinator harmless.
//!
//! Invariant: the request of every sibling is listed, and the sibling's dot is the lowest of that entry. An entry
//! without a sibling says that the request was applied and has since been overwritten.

use super::{Dot, Floor, RequestId, Sibling};

/// The most entries that a write leaves, not counting those of siblings, which always stay.
pub const APPLIED_MAX: usize = 64;

/// How long a request is remembered at least, unless [`APPLIED_MAX`] newer ones come: the client's retries must
/// end within it.
pub const APPLIED_AGE_MS_MAX: u64 = 5 * 60 * 1000;

/// One applied request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The request.
    pub request: RequestId,
    /// When it was applied, by the coordinator's clock, in ms since 1970. Only ever used to forget it.
    pub at_ms: u64,
    /// Every dot that was minted for it: one, or one for each coordinator that applied it.
    pub dots: Dots,
}

/// A set of one dot or more, ascending. One dot, nearly every time, takes no allocation.
#[derive(Clone)]
pub struct Dots(Set);

#[derive(Clone)]
enum Set {
    One([Dot; 1]),
    Many(Vec<Dot>),
}

impl Dots {
    /// The set of one dot.
    pub fn one(dot: Dot) -> Dots {
        Dots(Set::One([dot]))
    }

    /// Takes dots that ascend; `None` if they do not, or if there are none.
    pub fn from_ascending(dots: Vec<Dot>) -> Option<Dots> {
        match dots[..] {
            [] => None,
            [dot] => Some(Dots::one(dot)),
            _ => dots
                .is_sorted_by(|a, b| a < b)
                .then_some(Dots(Set::Many(dots))),
        }
    }

    /// The dots, ascending; at least one.
    pub fn as_slice(&self) -> &[Dot] {
        match &self.0 {
            Set::One(dot) => dot,
            Set::Many(dots) => dots,
        }
    }

    /// The lowest dot: the one whose sibling stands for the request.
    pub fn lowest(&self) -> Dot {
        self.as_slice()[0]
    }

    /// Whether `dot` is among them.
    pub fn contains(&self, dot: Dot) -> bool {
        self.as_slice().contains(&dot)
    }

    fn join(&mut self, other: &Dots) {
        if other.as_slice().iter().all(|dot| self.contains(*dot)) {
            return;
        }
        let mut dots = [self.as_slice(), other.as_slice()].concat();
        dots.sort_unstable();
        dots.dedup();
        *self = Dots(Set::Many(dots));
    }
}

impl std::ops::Deref for Dots {
    type Target = [Dot];

    fn deref(&self) -> &[Dot] {
        self.as_slice()
    }
}

impl PartialEq for Dots {
    fn eq(&self, other: &Dots) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Dots {}

impl std::fmt::Debug for Dots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_slice().fmt(f)
    }
}

/// Looks a request up in a list sorted by request.
pub(super) fn find(list: &[Applied], request: RequestId) -> Option<&Applied> {
    let at = list.binary_search_by_key(&request, |entry| entry.request);
    at.ok().map(|at| &list[at])
}

/// The union of two lists, both sorted by request: dots united, the later time kept.
pub(super) fn union(left: Vec<Applied>, right: Vec<Applied>) -> Vec<Applied> {
    if right.is_empty() {
        return left;
    }
    if left.is_empty() {
        return right;
    }
    let mut joined = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    loop {
        let from_left = match (left.peek(), right.peek()) {
            (Some(a), Some(b)) if a.request == b.request => None,
            (Some(a), Some(b)) => Some(a.request < b.request),
            (Some(_), None) => Some(true),
            (None, Some(_)) => Some(false),
            (None, None) => return joined,
        };
        match from_left {
            Some(true) => joined.extend(left.next()),
            Some(false) => joined.extend(right.next()),
            None => {
                let mut entry = left.next().expect("peeked");
                let other = right.next().expect("peeked");
                entry.at_ms = entry.at_ms.max(other.at_ms);
                entry.dots.join(&other.dots);
                joined.push(entry);
            }
        }
    }
}

/// Adds the entry of a write, keeping the order.
pub(super) fn add(list: &mut Vec<Applied>, entry: Applied) {
    match list.binary_search_by_key(&entry.request, |e| e.request) {
        Err(at) => list.insert(at, entry),
        Ok(at) => {
            list[at].at_ms = list[at].at_ms.max(entry.at_ms);
            list[at].dots.join(&entry.dots);
        }
    }
}

/// Forgets what no retry can ask for any more: by age, by the client's floor, and then beyond the newest
/// [`APPLIED_MAX`].
///
/// The entries of siblings stay. Without its entry a sibling could not be told from a covered duplicate of its
/// own request, and merging would drop an acknowledged write (I2); and a live sibling answers a retry anyway.
pub(super) fn prune(list: &mut Vec<Applied>, siblings: &[Sibling], floor: Floor, now_ms: u64) {
    let has_sibling = |request: RequestId| siblings.iter().any(|s| s.request == request);
    let oldest_ms = now_ms.saturating_sub(APPLIED_AGE_MS_MAX);
    list.retain(|entry| {
        let retryable = entry.at_ms >= oldest_ms && !floor.covers(entry.request);
        retryable || has_sibling(entry.request)
    });
    if list.len() <= APPLIED_MAX {
        return;
    }
    let mut idle: Vec<(u64, RequestId)> = list
        .iter()
        .filter(|entry| !has_sibling(entry.request))
        .map(|entry| (entry.at_ms, entry.request))
        .collect();
    if idle.len() <= APPLIED_MAX {
        return;
    }
    idle.sort_unstable();
    let first_kept = idle[idle.len() - APPLIED_MAX];
    list.retain(|entry| (entry.at_ms, entry.request) >= first_kept || has_sibling(entry.request));
}
