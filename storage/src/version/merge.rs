//! Merging two copies of an object. Invariants I2 and I5.
//!
//! The rule. Clocks join; the lists of applied requests unite, with them the dots of each request. A sibling of
//! request r then stays if
//! 1. both copies hold its dot, or the copy that lacks it does not cover it;
//! 2. its dot is the lowest that is listed for r: of the copies of a write that was applied through several
//!    coordinators, one stays;
//! 3. neither copy *knows r to be overwritten*.
//!
//! A copy knows r to be overwritten if its clock covers a dot listed for r in the union, and it either holds no
//! sibling of r or does not list that dot. Why: a clock learns a dot with a whole object or from the context of a
//! write, and either way the list came along. So a covered dot that is not listed was overwritten and then forgotten;
//! and a listed request without a sibling was overwritten too, since rule 2 always leaves one. Entries of requests
//! that have a sibling are never pruned ([`super::applied::prune`]), so a pruned list hides only what was overwritten:
//! it can let a retry back in once its promise has ended, but never drops a write that nobody has read.
//!
//! Why any order gives the same. Of each copy and request let L be the listed dots and C the covered ones; L is
//! part of C, and a live r has exactly the sibling min L. The merge has L₁ ∪ L₂ and C₁ ∪ C₂; r is live in it if
//! it is live in each copy that lists it and neither C₁ meets L₂ \ L₁ nor C₂ meets L₁ \ L₂ (a copy which does
//! not list r has an empty L). For three copies both groupings say: no dead one, and no i, j for which Cᵢ meets
//! Lⱼ \ Lᵢ. Rule 1 follows from the other two, since the request of every sibling is listed; it is the law of dotted
//! version vector sets, and the cheapest to ask first.

use std::cmp::Ordering;

use super::applied;
use super::{Object, RequestId, Sibling};
use crate::mutants::{Mutant, is_planted};

impl Object {
    /// The join of two copies: commutative, associative, idempotent.
    pub fn merge(self, other: Object) -> Object {
        if other.is_empty() || self == other {
            return self;
        }
        if self.is_empty() {
            return other;
        }
        let mut siblings = join_siblings(&self, &other);
        if is_planted(Mutant::DropSibling) && siblings.len() > 1 {
            siblings.pop();
        }
        let mut clock = self.clock;
        clock.join(&other.clock);
        let applied = applied::union(self.applied, other.applied);
        if is_planted(Mutant::OrderByWallClock) {
            let at = |s: &Sibling| applied::find(&applied, s.request).map(|entry| entry.at_ms);
            let newest = siblings.iter().map(at).max().flatten();
            siblings.retain(|s| at(s) >= newest);
        }
        Object {
            clock,
            siblings,
            applied,
        }
    }
}

/// The siblings that stay, ascending by dot.
fn join_siblings(left: &Object, right: &Object) -> Vec<Sibling> {
    let mut kept = Vec::with_capacity(left.siblings.len().max(right.siblings.len()));
    let (mut l, mut r) = (
        left.siblings.iter().peekable(),
        right.siblings.iter().peekable(),
    );
    loop {
        let order = match (l.peek(), r.peek()) {
            (Some(a), Some(b)) => a.dot.cmp(&b.dot),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return kept,
        };
        let (a, b) = (
            if order.is_le() { l.next() } else { None },
            if order.is_ge() { r.next() } else { None },
        );
        let survivor =
            match (a, b) {
                (Some(a), Some(b)) => stands(a, left, right).then(|| a.clone().join(b.clone())),
                (Some(only), None) => (!right.clock.covers(only.dot) && stands(only, left, right))
                    .then(|| only.clone()),
                (None, Some(only)) => (!left.clock.covers(only.dot) && stands(only, left, right))
                    .then(|| only.clone()),
                (None, None) => None,
            };
        kept.extend(survivor);
    }
}

/// Rules 2 and 3, for a sibling that rule 1 lets stay.
fn stands(sibling: &Sibling, left: &Object, right: &Object) -> bool {
    let listed_lower = |copy: &Object| {
        let entry = applied::find(&copy.applied, sibling.request);
        entry.is_some_and(|entry| entry.dots.lowest() < sibling.dot)
    };
    !listed_lower(left)
        && !listed_lower(right)
        && !knows_overwritten(left, right, sibling.request)
        && !knows_overwritten(right, left, sibling.request)
}

/// Rule 3: whether `copy` knows `request` to be overwritten, once it hears of the dots that `other` lists.
fn knows_overwritten(copy: &Object, other: &Object, request: RequestId) -> bool {
    let mine = applied::find(&copy.applied, request);
    if mine.is_some() && !copy.holds(request) {
        return true;
    }
    let Some(theirs) = applied::find(&other.applied, request) else {
        return false;
    };
    let news = |dot| mine.is_none_or(|mine| !mine.dots.contains(dot));
    theirs
        .dots
        .iter()
        .any(|&dot| news(dot) && copy.clock.covers(dot))
}
