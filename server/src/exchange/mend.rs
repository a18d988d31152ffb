//! The exchange of one partition with one other store, after their trees were found to differ: what is asked next, and what comes
//! of the answers. Pages of leaves are compared, what is lacked here is fetched, what is lacked there is pushed.
//!
//! Pure. Begun again after a break it loses little: what was mended is equal then, so its buckets are not looked at again.

use std::collections::VecDeque;

use ringfort_storage::{Key, store::Leaves};

/// Objects that one question fetches or pushes, at most; bytes are limited beside that.
pub const OBJECTS_AT_ONCE: usize = 256;

/// What is asked next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Leaves after this key, on both sides.
    Leaves(Option<Key>),
    /// The other's objects of these keys.
    Fetch(Vec<Key>),
    /// The other shall merge this store's objects of these keys.
    Push(Vec<Key>),
    /// Nothing: all differences are mended.
    Done,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mend {
    /// Leaves are compared up to this key.
    after: Option<Key>,
    through: bool,
    fetch: VecDeque<Key>,
    push: VecDeque<Key>,
    /// Differences found so far.
    pub found: usize,
}

impl Mend {
    /// The next question. What was found is mended before more is looked for, so that little waits here.
    pub fn next(&self) -> Ask {
        let some = |keys: &VecDeque<Key>| keys.iter().take(OBJECTS_AT_ONCE).cloned().collect();
        if !self.fetch.is_empty() {
            Ask::Fetch(some(&self.fetch))
        } else if !self.push.is_empty() {
            Ask::Push(some(&self.push))
        } else if !self.through {
            Ask::Leaves(self.after.clone())
        } else {
            Ask::Done
        }
    }

    /// Pages of leaves came, this store's and the other's, both after the same key. Compared is as far as both tell.
    pub fn compare(&mut self, mine: &Leaves, theirs: &Leaves) {
        let end = match (&mine.next, &theirs.next) {
            (Some(mine), Some(theirs)) => Some(mine.min(theirs)),
            (one, other) => one.as_ref().or(other.as_ref()),
        };
        let told = |(key, _): &&(Key, u64)| end.is_none_or(|end| key <= end);
        let mut mine = mine.leaves.iter().take_while(told).peekable();
        let mut theirs = theirs.leaves.iter().take_while(told).peekable();
        loop {
            let first = mine.peek().map(|(key, _)| key);
            let first = first.into_iter().chain(theirs.peek().map(|(key, _)| key));
            let Some(key) = first.min().cloned() else {
                break;
            };
            let here = mine.next_if(|(mine, _)| *mine == key);
            let there = theirs.next_if(|(theirs, _)| *theirs == key);
            match (here, there) {
                (Some((_, here)), Some((_, there))) if here == there => continue,
                (_, Some(_)) => self.fetch.push_back(key),
                (_, None) => self.push.push_back(key),
            }
            self.found += 1;
        }
        self.through = end.is_none();
        self.after = end.cloned();
    }

    /// Objects of the first `count` keys asked for came and are merged here; of these the other lacks something that was here.
    pub fn fetched(&mut self, count: usize, lacked_there: impl IntoIterator<Item = Key>) {
        self.fetch.drain(..count.min(self.fetch.len()));
        self.push.extend(lacked_there);
    }

    /// The first `count` keys are dealt with there.
    pub fn pushed(&mut self, count: usize) {
        self.push.drain(..count.min(self.push.len()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> Key {
        Key::new(u64::from(n), b"n", &[n]).expect("a short key")
    }

    /// A page of at most `most` leaves after a key.
    fn page(all: &BTreeMap<Key, u64>, after: &Option<Key>, most: usize) -> Leaves {
        let mut left = all
            .iter()
            .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after));
        let leaves: Vec<(Key, u64)> = left
            .by_ref()
            .take(most)
            .map(|(k, l)| (k.clone(), *l))
            .collect();
        let next = left.next().and(leaves.last()).map(|(key, _)| key.clone());
        Leaves { leaves, next }
    }

    proptest! {
        /// Whatever both hold (a leaf stands for a set of bits, merged by or), they hold the same in the end, and each difference
        /// moved at most once each way.
        #[test]
        fn both_hold_what_either_did(
            mine in proptest::collection::btree_map(0_u8..60, 1_u64..8, 0..40),
            theirs in proptest::collection::btree_map(0_u8..60, 1_u64..8, 0..40),
            (my_page, their_page, fits) in (1_usize..9, 1_usize..9, 1_usize..5),
        ) {
            let keyed = |all: BTreeMap<u8, u64>| -> BTreeMap<Key, u64> {
                all.into_iter().map(|(n, bits)| (key(n), bits)).collect()
            };
            let (mut mine, mut theirs) = (keyed(mine), keyed(theirs));
            let differing = mine.keys().chain(theirs.keys()).filter(|k| mine.get(*k) != theirs.get(*k));
            let differing = differing.collect::<std::collections::BTreeSet<_>>().len();
            let (mut mend, mut moved) = (Mend::default(), 0);
            for turn in 0.. {
                prop_assert!(turn < 500, "it ends");
                match mend.next() {
                    Ask::Leaves(after) => {
                        let (mine, theirs) = (page(&mine, &after, my_page), page(&theirs, &after, their_page));
                        mend.compare(&mine, &theirs);
                    }
                    Ask::Fetch(keys) => {
                        let some: Vec<Key> = keys.into_iter().take(fits).collect();
                        moved += some.len();
                        for key in &some {
                            *mine.entry(key.clone()).or_default() |= theirs[key];
                        }
                        let lacked = some.iter().filter(|key| mine[*key] != theirs[*key]).cloned();
                        mend.fetched(some.len(), lacked.collect::<Vec<_>>());
                    }
                    Ask::Push(keys) => {
                        moved += keys.len().min(fits);
                        for key in keys.iter().take(fits) {
                            *theirs.entry(key.clone()).or_default() |= mine[key];
                        }
                        mend.pushed(keys.len().min(fits));
                    }
                    Ask::Done => break,
                }
            }
            prop_assert_eq!(&mine, &theirs);
            prop_assert_eq!(mend.found, differing);
            prop_assert!(moved <= 2 * differing);
        }
    }
}
