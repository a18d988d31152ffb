//! Decides which hints go to whom.
//!
//! Keeps "a hint goes only when all of its owners have it durably", the owners counted anew each time; and I7: it remembers
//! nothing but of hints that are held.
//!
//! *Leaves out on purpose*: time, sockets, the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ringfort_ring::StoreId;
use ringfort_storage::{Key, Record, store::Hint};

/// A hint this old goes to every owner that is up, though others are down: who took it as down may have been up as this node saw
/// it, and an owner that is waited for may stay away.
pub const HOLD_MS: u64 = 30_000;

/// How an owner stands, as this node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is up, and was seen to come up at this time (in ms since the Unix epoch).
    Up {
        /// When. At the start of this node everybody comes up.
        since_ms: u64,
    },
    /// It is down, or not reached.
    Down,
}

/// Which owners have which hint.
#[derive(Debug, Default)]
pub struct Book {
    had: BTreeMap<Key, Had>,
}

#[derive(Debug)]
struct Had {
    /// What was delivered: a hint that has changed since is another.
    record: Arc<Record>,
    by: BTreeSet<StoreId>,
}

impl Book {
    /// The owners that this hint is to be sent to now. It was mostly taken for one owner that is down, and the others have the
    /// object: so it waits for that one, unless an owner came up since it was taken, or it has waited long.
    pub fn targets(
        &self,
        hint: &Hint,
        owners: &[(StoreId, Standing)],
        now_ms: u64,
    ) -> Vec<StoreId> {
        let all_up = owners.iter().all(|(_, how)| *how != Standing::Down);
        let waited = now_ms.saturating_sub(hint.taken_ms) >= HOLD_MS;
        let due = |how: &Standing| match how {
            Standing::Up { since_ms } => all_up || waited || *since_ms >= hint.taken_ms,
            Standing::Down => false,
        };
        let lacking = owners
            .iter()
            .filter(|(store, how)| due(how) && !self.has(hint, *store));
        lacking.map(|(store, _)| *store).collect()
    }

    /// An owner has it durably.
    pub fn note(&mut self, hint: &Hint, store: StoreId) {
        let had = self.had.entry(hint.key.clone()).or_insert_with(|| Had {
            record: Arc::clone(&hint.record),
            by: BTreeSet::new(),
        });
        if !Arc::ptr_eq(&had.record, &hint.record) {
            had.record = Arc::clone(&hint.record);
            had.by.clear();
        }
        had.by.insert(store);
    }

    /// Whether all of these have it durably: then it may go.
    pub fn is_through(&self, hint: &Hint, owners: &[(StoreId, Standing)]) -> bool {
        !owners.is_empty() && owners.iter().all(|(store, _)| self.has(hint, *store))
    }

    fn has(&self, hint: &Hint, store: StoreId) -> bool {
        self.had
            .get(&hint.key)
            .is_some_and(|had| Arc::ptr_eq(&had.record, &hint.record) && had.by.contains(&store))
    }

    /// The hint is gone.
    pub fn forget(&mut self, key: &Key) {
        self.had.remove(key);
    }

    /// Owners may have lost what they had: the layouts have changed.
    pub fn clear(&mut self) {
        self.had.clear();
    }
}

#[cfg(test)]
mod tests {
    use ringfort_storage::version::{ActorId, Dot, NewPayload, Object, RequestId, Value, Write};

    use super::*;

    fn hint(taken_ms: u64) -> Hint {
        let write = Write {
            context: None,
            payload: NewPayload::Value(Value::new(bytes::Bytes::from_static(b"v"))),
            request: RequestId {
                client: 1,
                sequence: 1,
            },
            lowest_unanswered: 0,
            at_ms: 1,
            expires_at_ms: 0,
        };
        let dot = Dot {
            actor: ActorId(1),
            counter: 1,
        };
        let key = Key::new(1, b"n", b"k").expect("short");
        let object = Object::empty().write(&write, dot, 1);
        Hint {
            record: Arc::new(Record::new(&key, object)),
            key,
            generation: 0,
            taken_ms,
        }
    }

    const UP: Standing = Standing::Up { since_ms: 0 };

    fn owners(standings: &[Standing]) -> Vec<(StoreId, Standing)> {
        let stores = (1..).map(StoreId);
        stores.zip(standings.iter().copied()).collect()
    }

    fn numbers(stores: Vec<StoreId>) -> Vec<u64> {
        stores.into_iter().map(|store| store.0).collect()
    }

    #[test]
    fn a_hint_waits_for_the_owner_that_is_down_unless_another_may_lack_it() {
        let back = |since_ms| Standing::Up { since_ms };
        // Taken at 1,000; now, and whom it is sent to.
        let table: &[(&[Standing], u64, &[u64])] = &[
            (&[UP, UP, Standing::Down], 1_001, &[]),
            (&[UP, UP, UP], 1_001, &[1, 2, 3]),
            (&[UP, back(1_000), Standing::Down], 1_001, &[2]),
            (&[UP, back(999), Standing::Down], 1_001, &[]),
            (&[UP, UP, Standing::Down], 1_000 + HOLD_MS, &[1, 2]),
            (&[Standing::Down; 3], 1_000 + HOLD_MS, &[]),
        ];
        for (standings, now_ms, to) in table {
            let targets = Book::default().targets(&hint(1_000), &owners(standings), *now_ms);
            assert_eq!(numbers(targets), *to, "{standings:?} at {now_ms}");
        }
    }

    #[test]
    fn it_goes_when_all_have_it_and_is_sent_to_each_once() {
        let (mut book, hint) = (Book::default(), hint(0));
        let all = owners(&[UP, UP, UP]);
        for (store, _) in &all {
            assert!(!book.is_through(&hint, &all));
            book.note(&hint, *store);
            assert!(!book.targets(&hint, &all, 1).contains(store));
        }
        assert!(book.is_through(&hint, &all));
        assert_eq!(book.targets(&hint, &all, 1), []);
        // A layout that gives it to somebody else, too.
        let more = owners(&[UP, UP, UP, UP]);
        assert!(!book.is_through(&hint, &more));
        assert_eq!(numbers(book.targets(&hint, &more, 1)), [4]);
        assert!(!book.is_through(&hint, &[]), "of nobody it is not known");
        book.clear();
        assert!(!book.is_through(&hint, &all));
    }

    #[test]
    fn a_hint_that_has_changed_is_another() {
        let (mut book, old) = (Book::default(), hint(0));
        let all = owners(&[UP, UP]);
        book.note(&old, StoreId(1));
        let new = Hint {
            record: Arc::new((*old.record).clone()),
            ..old.clone()
        };
        assert_eq!(numbers(book.targets(&new, &all, 1)), [1, 2]);
        book.note(&new, StoreId(2));
        assert!(!book.is_through(&new, &all));
        book.note(&new, StoreId(1));
        assert!(book.is_through(&new, &all));
        book.forget(&new.key);
        assert!(!book.is_through(&new, &all));
    }
}
