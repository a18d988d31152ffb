//! Merges the replies of one read.
//!
//! Keeps I3 (the answer merges the whole objects of R owners whose copies count, so it meets every write quorum) and
//! I5 (what differed is named for repair). In the place of an owner that is down a fallback may count, if the read is not strict:
//! what it holds as a hint was acknowledged, and that it holds none says nothing. It is never repaired. Digests only save bytes: an equal digest stands for an object that is held
//! here already, and one that differs is fetched whole before it counts.

use std::sync::Arc;

use ringfort_storage::{
    Key, Record,
    mutants::{Mutant, is_planted},
    version::Object,
};

use super::{OwnerSet, PLACES_MAX};

/// Whether a read can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not yet.
    Wait,
    /// R countable copies are merged.
    Ready,
    /// Too few nodes are left to reach R.
    Hopeless,
}

/// What one owner said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Asked,
    /// A digest that waits for the own copy to compare with.
    Digest(u64),
    Fetching,
    /// Its object is part of the merge, and had this leaf.
    Merged(u64),
    Failed,
}

/// One read, from the first digest asked to the last repair named.
#[derive(Debug)]
pub struct Get {
    key: Key,
    need: u32,
    own: usize,
    replies: [Reply; PLACES_MAX],
    /// The first places are those of owners, the next those of fallbacks.
    owners: usize,
    asked: usize,
    base: Option<Arc<Record>>,
    /// The base merged with what was fetched; `None` while the base is all.
    merged: Option<Arc<Record>>,
    /// The own copy counts as nothing where it is compared, since it is about to be reaped. It still merges.
    own_is_absent: bool,
}

/// What a finished read leaves to do: bring `owners` up to `record`.
#[derive(Debug)]
pub struct Repair {
    /// The merged object.
    pub record: Arc<Record>,
    /// Whose copies differ from it; may include this node itself.
    pub owners: OwnerSet,
}

impl Get {
    /// A read of `key` from `owners` owners, of which this node is number `own`, and from as many fallbacks after them, to be
    /// answered at `need` copies.
    pub fn new(key: Key, owners: usize, fallbacks: usize, own: usize, need: u32) -> Self {
        let asked = owners + fallbacks;
        debug_assert!(own < owners && asked <= PLACES_MAX);
        let need = if is_planted(Mutant::ReadOne) { 1 } else { need };
        Get {
            key,
            need,
            own,
            replies: [Reply::Asked; PLACES_MAX],
            owners,
            asked,
            base: None,
            merged: None,
            own_is_absent: false,
        }
    }

    /// This node's own copy, whether it counts toward R, and whether it is about to be reaped. Returns the owners to fetch whole
    /// objects from.
    pub fn own(&mut self, record: Arc<Record>, countable: bool, is_absent: bool) -> OwnerSet {
        self.own_is_absent = is_absent;
        self.replies[self.own] = if countable {
            Reply::Merged(record.leaf())
        } else {
            Reply::Failed
        };
        self.base = Some(record);
        let mut fetch = OwnerSet::default();
        for owner in 0..self.asked {
            if let Reply::Digest(leaf) = self.replies[owner]
                && self.digest(owner, leaf)
            {
                fetch.insert(owner);
            }
        }
        fetch
    }

    /// `owner` holds an object of this leaf (0: nothing). Returns whether the object must be fetched from it.
    pub fn digest(&mut self, owner: usize, leaf: u64) -> bool {
        if !matches!(self.replies[owner], Reply::Asked | Reply::Digest(_)) {
            return false;
        }
        let Some(base) = &self.base else {
            self.replies[owner] = Reply::Digest(leaf);
            return false;
        };
        let held = leaf == 0
            || leaf == base.leaf()
            || self
                .merged
                .as_ref()
                .is_some_and(|merged| merged.leaf() == leaf)
            || self.replies[..self.asked].contains(&Reply::Merged(leaf));
        self.replies[owner] = if held {
            Reply::Merged(leaf)
        } else {
            Reply::Fetching
        };
        !held
    }

    /// The whole object of `owner`.
    pub fn object(&mut self, owner: usize, object: Object) {
        if self.replies[owner] != Reply::Fetching {
            return;
        }
        let fetched = Record::new(&self.key, object);
        self.replies[owner] = Reply::Merged(fetched.leaf());
        let current = self
            .current()
            .map_or_else(Object::empty, |record| record.object().clone());
        let merged = current.merge(fetched.object().clone());
        self.merged = Some(Arc::new(Record::new(&self.key, merged)));
    }

    /// `owner` will not answer, or its copy does not count.
    pub fn fail(&mut self, owner: usize) {
        if !matches!(self.replies[owner], Reply::Merged(_)) {
            self.replies[owner] = Reply::Failed;
        }
    }

    /// Whether `owner` has still to answer.
    pub fn waits_for(&self, owner: usize) -> bool {
        matches!(self.replies[owner], Reply::Asked | Reply::Fetching)
    }

    /// Whether the read can be answered.
    pub fn verdict(&self) -> Verdict {
        let merged = self.merged();
        let failed = self.count(|reply| reply == Reply::Failed);
        if merged >= self.need {
            Verdict::Ready
        } else if self.asked as u32 - failed < self.need {
            Verdict::Hopeless
        } else {
            Verdict::Wait
        }
    }

    /// Nodes whose copies are part of the merge.
    pub fn merged(&self) -> u32 {
        self.count(|reply| matches!(reply, Reply::Merged(_)))
    }

    /// Fallbacks among these.
    pub fn merged_hints(&self) -> u32 {
        let hints = self.replies[self.owners..self.asked].iter();
        let merged = hints.filter(|reply| matches!(reply, Reply::Merged(_)));
        merged.count() as u32
    }

    /// Copies needed.
    pub fn need(&self) -> u32 {
        self.need
    }

    /// Whether everybody has answered or failed.
    pub fn is_settled(&self) -> bool {
        self.count(|reply| matches!(reply, Reply::Merged(_) | Reply::Failed)) == self.asked as u32
    }

    /// What is merged so far; `None` before the own copy came.
    pub fn current(&self) -> Option<&Arc<Record>> {
        self.merged.as_ref().or(self.base.as_ref())
    }

    /// What is left to repair: owners whose copies are part of the merge and differ from it. `None` if they all agree.
    pub fn repair(&self) -> Option<Repair> {
        if is_planted(Mutant::NoRepair) {
            return None;
        }
        let record = self.current()?;
        let mut owners = OwnerSet::default();
        let last = match is_planted(Mutant::RepairFallback) {
            true => self.asked,
            false => self.owners,
        };
        let own = self.base.as_ref().map(|base| base.leaf());
        // What is about to be reaped is not brought back to those who have nothing any more.
        let is_absent = self.own_is_absent && own == Some(record.leaf());
        let is_same = |leaf| leaf == record.leaf() || is_absent && leaf == 0;
        for owner in 0..last {
            if matches!(self.replies[owner], Reply::Merged(leaf) if !is_same(leaf)) {
                owners.insert(owner);
            }
        }
        (!owners.is_empty()).then(|| Repair {
            record: Arc::clone(record),
            owners,
        })
    }

    fn count(&self, which: impl Fn(Reply) -> bool) -> u32 {
        self.replies[..self.asked]
            .iter()
            .filter(|&&reply| which(reply))
            .count() as u32
    }
}

#[cfg(test)]
mod tests;
