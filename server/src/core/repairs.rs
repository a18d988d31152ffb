//! Which repairs were sent just now: many reads of one key that differs make one repair.
//!
//! Keeps I7: it remembers few, and these for a moment. What it forgets too early is repaired twice, which changes nothing.

use std::collections::{BTreeMap, VecDeque};

use ringfort_storage::Key;

use super::OwnerSet;

/// A repair that was sent is on its way for so long.
pub const WINDOW_MS: u64 = 500;
/// Repairs that are remembered, at most; the oldest goes.
pub const REPAIRS_MAX: usize = 1_024;

#[derive(Debug, PartialEq, Eq)]
struct Sent {
    leaf: u64,
    owners: OwnerSet,
    at_ms: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Repairs {
    sent: BTreeMap<Key, Sent>,
    /// In the order in which they were sent.
    order: VecDeque<(u64, Key)>,
}

impl Repairs {
    /// Those of `owners` that have not been sent the object of this leaf just now. Takes it that they are from here on.
    pub fn due(&mut self, key: &Key, leaf: u64, owners: OwnerSet, now_ms: u64) -> OwnerSet {
        self.forget(now_ms);
        let before = match self.sent.get(key) {
            Some(sent) if sent.leaf == leaf => sent.owners,
            _ => OwnerSet::default(),
        };
        let due = owners.without(before);
        if !due.is_empty() {
            let sent = Sent {
                leaf,
                owners: before.union(owners),
                at_ms: now_ms,
            };
            self.sent.insert(key.clone(), sent);
            self.order.push_back((now_ms, key.clone()));
        }
        due
    }

    fn forget(&mut self, now_ms: u64) {
        while let Some((at_ms, _)) = self.order.front()
            && (at_ms + WINDOW_MS <= now_ms || self.order.len() >= REPAIRS_MAX)
        {
            let Some((at_ms, key)) = self.order.pop_front() else {
                return;
            };
            // Another one of the same key may have followed it.
            if self.sent.get(&key).is_some_and(|sent| sent.at_ms == at_ms) {
                self.sent.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Key {
        Key::new(number, b"n", &number.to_be_bytes()).expect("short")
    }

    fn set(owners: &[usize]) -> OwnerSet {
        let mut set = OwnerSet::default();
        owners.iter().for_each(|owner| set.insert(*owner));
        set
    }

    #[test]
    fn one_repair_goes_to_each_owner_in_a_moment() {
        let mut repairs = Repairs::default();
        assert_eq!(repairs.due(&key(1), 7, set(&[0, 1]), 0), set(&[0, 1]));
        assert_eq!(repairs.due(&key(1), 7, set(&[1]), 10), set(&[]));
        assert_eq!(repairs.due(&key(1), 7, set(&[1, 2]), 20), set(&[2]));
        assert_eq!(repairs.due(&key(1), 7, set(&[0, 2]), 20), set(&[]));
        // Another object, another key.
        assert_eq!(repairs.due(&key(1), 8, set(&[0]), 30), set(&[0]));
        assert_eq!(repairs.due(&key(2), 8, set(&[0]), 30), set(&[0]));
        // It may have been lost on its way.
        let later = 30 + WINDOW_MS;
        assert_eq!(repairs.due(&key(1), 8, set(&[0]), later - 1), set(&[]));
        assert_eq!(repairs.due(&key(1), 8, set(&[0]), later), set(&[0]));
    }

    #[test]
    fn no_more_are_remembered_than_may_be() {
        let mut repairs = Repairs::default();
        for number in 0..3 * REPAIRS_MAX as u64 {
            repairs.due(&key(number), 1, set(&[0]), 5);
            // One key again and again.
            repairs.due(&key(0), number, set(&[0]), 5);
            assert!(repairs.order.len() <= REPAIRS_MAX && repairs.sent.len() <= REPAIRS_MAX);
        }
        assert_eq!(repairs.due(&key(3), 1, set(&[0]), 5), set(&[0]));
        assert_eq!(repairs.due(&key(3), 1, set(&[0]), 5), set(&[]));
        repairs.forget(5 + WINDOW_MS);
        assert!(repairs.order.is_empty() && repairs.sent.is_empty());
    }
}
