//! The tree of a partition always equals the tree rebuilt from its keys, over random histories: drains that stand still at any step,
//! loads, erasures, damage with its quarantine and its healing, crashes, clean restarts. And a root that is kept is the root.

use std::collections::BTreeMap;

use super::rig::{Dice, Rig, foreign, key, small_config};
use crate::codec::rows::{self, RowKind};
use crate::key::Key;
use crate::merkle::Tree;
use crate::record::NO_LEAF;
use crate::store::digest::bucket_of;
use crate::store::rowio::{self, Stored};
use crate::store::{DrainStep, Folds, Root};
use crate::version::{Object, RequestId};

const KEYS: u64 = 40;
const STEPS: usize = 500;
const SEEDS: u64 = 40;

struct History {
    rig: Rig,
    dice: Dice,
    copies: u64,
    damaged: usize,
    /// Roots as they were last told, with the count of changes before they were.
    told: BTreeMap<u32, (u64, Root)>,
}

#[test]
fn trees_equal_those_rebuilt_from_the_keys() {
    let mut damaged = 0;
    for seed in 0..SEEDS {
        let mut history = History {
            rig: Rig::new(seed, small_config()),
            dice: Dice::new(seed),
            copies: 0,
            damaged: 0,
            told: BTreeMap::new(),
        };
        for step in 0..STEPS {
            history.step(&format!("seed {seed}, step {step}"));
        }
        history.rig.drain();
        history.compare(&format!("seed {seed}, drained"));
        damaged += history.damaged;
    }
    assert!(damaged > SEEDS as usize, "{damaged} records were damaged");
}

impl History {
    fn step(&mut self, at: &str) {
        let key = key(self.dice.below(KEYS));
        match self.dice.below(100) {
            0..20 => self.write(&key),
            20..40 => self.merge(&key),
            40..46 => drop(self.rig.store().erase(&key)),
            46..52 => drop(self.rig.store().load(&[key]).expect("the engine is well")),
            52..56 => self.rig.store().inner.table.evict_all(),
            56..66 => drop(self.rig.running().writer.step().expect("the disk is well")),
            66..84 => self.drain(),
            84..86 => self.damage(),
            86..88 => self.release(&key),
            88..89 => self.restart(),
            89..94 => self.tell(),
            _ => self.compare(at),
        }
    }

    fn write(&mut self, key: &Key) {
        // A key in quarantine is refused, and a full table too.
        let write = super::rig::put(self.rig.request(), &[7; 50], None);
        let store = self.rig.store().clone();
        let _ = store.load(std::slice::from_ref(key));
        let _ = store.write(key, &write, self.rig.now_ms, &Default::default());
    }

    fn merge(&mut self, key: &Key) {
        self.copies += 1;
        let request = RequestId {
            client: 2,
            sequence: self.copies,
        };
        let copy = foreign(&Object::empty(), 2, self.copies, request, b"copy");
        // A full table refuses.
        let _ = self.rig.store().merge(key, copy, 0);
    }

    fn drain(&mut self) {
        for _ in 0..1 + self.dice.below(6) {
            if self.rig.step_drain() == DrainStep::Idle {
                self.rig.now_ms += 700;
            }
        }
    }

    /// Damages a record in the engine, and has somebody find it.
    fn damage(&mut self) {
        let rows = self.rig.home.rows();
        let heads = rows.iter().filter_map(|(row, value)| {
            // Of a key in quarantine nobody would notice it before that ends.
            let (key, kind) = rows::parse_key(row)?;
            let is_known = self.rig.store().quarantined().contains(&key);
            (kind == RowKind::Head && !is_known).then_some((row, value))
        });
        let heads: Vec<_> = heads.collect();
        if heads.is_empty() {
            return;
        }
        let (row, value) = *self.dice.pick(&heads);
        let mut bytes = value.to_vec();
        let end = bytes.len() - 1;
        bytes[end] ^= 1;
        self.rig.home.poke(row, Some(&bytes));
        self.damaged += 1;
        let (key, _) = rows::parse_key(row).expect("a head row");
        // Found only where memory does not know the record; else the next drain overwrites it, or nobody notices. So
        // it is made known.
        self.rig.store().inner.quarantine(&key);
    }

    fn release(&mut self, key: &Key) {
        let partition = self.rig.store().partition_of(key.token());
        self.rig.drain();
        let synced = self.rig.store().set_synced(partition, true);
        synced.expect("the disk is well");
    }

    fn restart(&mut self) {
        self.told.clear();
        match self.dice.below(2) {
            0 => self.rig.stop(),
            _ => {
                let kept = self.dice.below(self.rig.home.pending() as u64 + 1) as usize;
                let seed = self.dice.next();
                self.rig.crash(seed, kept);
            }
        }
        self.rig.restart();
    }

    /// Asks for a root, as exchanges do, so that it is kept.
    fn tell(&mut self) {
        let partition = self.dice.below(16) as u32;
        let store = self.rig.store();
        let before = store.changes(partition);
        let mut folds = Folds(self.dice.below(5) as usize);
        let root = store.root(partition, &mut folds);
        if let Some(root) = root.expect("the engine is well") {
            self.told.insert(partition, (before, root));
        }
    }

    fn compare(&mut self, at: &str) {
        // Damage that nobody has found yet is found now. What waits to be healed is known to be off, until the drain has done it.
        let store = self.rig.store();
        drop(store.scan(0, None, u64::MAX, 1_000, usize::MAX));
        while !self
            .rig
            .store()
            .inner
            .heal
            .lock()
            .expect("whole")
            .is_empty()
        {
            self.drain();
        }
        let store = self.rig.store().clone();
        for partition in 0..store.partitions() {
            let before = store.changes(partition);
            let kept = store.inner.table.changes().root(partition);
            let Some(tree) = self.exact(partition) else {
                // Damage came to light while it was looked at, or what lies under an erased key is damaged.
                self.rig.drain();
                return self.compare(at);
            };
            let rebuilt = self.rebuilt(partition);
            assert_eq!(tree, rebuilt, "partition {partition}, {at}");
            let root = Root {
                hash: rebuilt.root(),
                keys: rebuilt.count(),
            };
            assert!(kept.is_none_or(|kept| kept == root), "{partition}, {at}");
            if let Some((count, told)) = self.told.get(&partition)
                && *count == before
            {
                assert_eq!(*told, root, "nothing has changed in {partition}, {at}");
            }
            let all = self.leaves(partition);
            let mut listed = Tree::EMPTY;
            for (key, leaf) in &all {
                listed.apply(bucket_of(key.token(), 16), NO_LEAF, *leaf);
            }
            if store.inner.quarantine.len() == 0 {
                assert_eq!(listed, rebuilt, "leaves of {partition}, {at}");
            }
        }
    }

    fn exact(&self, partition: u32) -> Option<Tree> {
        let store = self.rig.store();
        let tree = store.exact_tree(partition, &mut Folds(usize::MAX));
        let tree = tree.expect("the engine is well");
        let is_damaged = !store.quarantined().is_empty();
        let healing = !store.inner.heal.lock().expect("whole").is_empty();
        assert!(
            tree.is_some() || is_damaged || healing,
            "nobody writes, and nothing is damaged"
        );
        tree.filter(|_| !healing)
    }

    /// All leaves in small pages.
    fn leaves(&mut self, partition: u32) -> Vec<(Key, u64)> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let most = 1 + self.dice.below(4) as usize;
            let store = self.rig.store();
            let page = store.leaves(partition, u64::MAX, after.as_ref(), most);
            let page = page.expect("the engine is well");
            assert!(page.leaves.len() <= most);
            all.extend(page.leaves);
            after = page.next;
            if after.is_none() {
                assert!(all.is_sorted());
                return all;
            }
        }
    }

    /// The tree made anew, from a scan. Of a key in quarantine the scan says nothing: there the engine's rows do.
    fn rebuilt(&self, partition: u32) -> Tree {
        let store = self.rig.store();
        let (first, last) = crate::store::digest::token_range(partition, 16);
        let page = store.scan(first, None, last, 1_000, usize::MAX);
        let page = page.expect("the engine is well");
        assert_eq!(page.next, None);
        let mut tree = Tree::EMPTY;
        for (key, record) in &page.records {
            tree.apply(bucket_of(key.token(), 16), NO_LEAF, record.leaf());
        }
        for key in &page.quarantined {
            let stored = rowio::read(&store.inner.engine, key);
            if let Stored::Record(record) = stored.expect("the engine is well") {
                tree.apply(bucket_of(key.token(), 16), NO_LEAF, record.leaf());
            }
        }
        tree
    }
}

#[test]
fn folding_is_bounded_and_gets_nearer_each_time() {
    let mut rig = Rig::new(1, small_config());
    for n in 0..10 {
        rig.put(&key(16 * n), b"v", None);
    }
    rig.drain();
    rig.store().inner.table.evict_all();
    let request = RequestId {
        client: 2,
        sequence: 1,
    };
    for n in 0..10 {
        let copy = foreign(&Object::empty(), 2, 1, request, b"copy");
        rig.store()
            .merge(&key(16 * n), copy, 0)
            .expect("there is room");
    }
    let store = rig.store();
    let root = |folds: &mut Folds| store.root(0, folds).expect("the engine is well");
    let mut folds = Folds(4);
    assert_eq!((root(&mut folds), folds), (None, Folds(0)));
    assert_eq!(root(&mut Folds(5)), None);
    let mut folds = Folds(4);
    let told = root(&mut folds).expect("the last one is folded");
    assert_eq!((told.keys, folds), (10, Folds(3)));
    assert_eq!(root(&mut Folds(0)), Some(told), "kept");
}

#[test]
fn leaves_are_told_of_the_buckets_that_are_asked_for() {
    let mut rig = Rig::new(1, small_config());
    let keys: Vec<Key> = (0..64)
        .map(|n: u64| Key::new(n << 54, b"n", n.to_string().as_bytes()).expect("short"))
        .collect();
    for key in &keys {
        rig.put(key, b"v", None);
    }
    let store = rig.store();
    let told = |buckets, after: Option<&Key>, most| {
        let page = store.leaves(0, buckets, after, most).expect("well");
        let told: Vec<_> = page.leaves.into_iter().map(|(key, _)| key).collect();
        (told, page.next)
    };
    let some = 1 << 3 | 1 << 40 | 1 << 63;
    let wanted = [keys[3].clone(), keys[40].clone(), keys[63].clone()];
    assert_eq!(told(some, None, 9), (wanted.to_vec(), None));
    let (first, next) = told(some, None, 1);
    assert_eq!(
        (first, &next),
        (wanted[..1].to_vec(), &Some(keys[3].clone()))
    );
    let (rest, _) = told(some, next.as_ref(), 9);
    assert_eq!(rest, wanted[1..]);
    assert_eq!(told(0, None, 9), (vec![], None));
}
