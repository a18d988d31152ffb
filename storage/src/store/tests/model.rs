//! Random histories against a plain map: whatever is asked, in whatever order, with crashes at any step, the store holds
//! what the map holds (I1, I2), and its trees say so (I5).

use std::collections::BTreeMap;

use super::rig::{Dice, Rig, foreign, key, put, small_config};
use crate::engine::EngineError;
use crate::key::Key;
use crate::merkle::Forest;
use crate::record::{NO_LEAF, Record};
use crate::store::rowio::{self, Stored};
use crate::store::{DrainStep, Read, WriteLimits, Written};
use crate::version::{Context, NewPayload, Object, RequestId, Write};

const KEYS: u64 = 24;
const STEPS: usize = 700;
const SEEDS: u64 = 120;
const VALUE_BYTES: [usize; 8] = [0, 1, 10, 10, 100, 100, 3_000, 9_000];

/// What the store should hold.
#[derive(Default)]
struct Model {
    /// Each logged change: its sequence, its key, what the key's object was then.
    changes: Vec<(u64, Key, Object)>,
    objects: BTreeMap<Key, Object>,
}

impl Model {
    fn get(&self, key: &Key) -> Object {
        self.objects.get(key).cloned().unwrap_or_default()
    }

    fn set(&mut self, sequence: u64, key: &Key, object: Object) {
        self.changes.push((sequence, key.clone(), object.clone()));
        self.objects.insert(key.clone(), object);
    }

    /// Forgets what came after `sequence`.
    fn cut(&mut self, sequence: u64) {
        self.changes.retain(|(each, ..)| *each <= sequence);
        self.objects = self
            .changes
            .iter()
            .map(|(_, key, object)| (key.clone(), object.clone()))
            .collect();
    }

    /// What is there, in key order.
    fn stored(&self) -> Vec<(Key, Object)> {
        let there = self.objects.iter().filter(|(_, object)| !object.is_empty());
        there
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect()
    }
}

/// A history in the making.
struct History {
    rig: Rig,
    dice: Dice,
    model: Model,
    /// Another store's copies, which it also writes to.
    peer: BTreeMap<Key, Object>,
    peer_counter: u64,
    requests: u64,
    /// Loads that have read the engine and not yet told the table.
    loads: Vec<(Key, Result<Stored, EngineError>)>,
    crashes: u64,
}

#[test]
fn random_histories_match_a_plain_map() {
    for seed in 0..SEEDS {
        let mut history = History::new(seed);
        for step in 0..STEPS {
            history.step(seed, step);
        }
        history.drop_loads();
        history.check_all();
        history.rig.drain();
        history.check_all();
        history.rig.stop();
        history.rig.restart();
        assert!(
            history.rig.report().clean,
            "seed {seed}: {:?}",
            history.rig.report()
        );
        history.check_all();
        assert!(history.crashes > 0, "seed {seed} saw no crash");
    }
}

impl History {
    fn new(seed: u64) -> Self {
        Self {
            rig: Rig::new(seed, small_config()),
            dice: Dice::new(seed),
            model: Model::default(),
            peer: BTreeMap::new(),
            peer_counter: 0,
            requests: 0,
            loads: Vec::new(),
            crashes: 0,
        }
    }

    fn step(&mut self, seed: u64, step: usize) {
        match self.dice.below(100) {
            0..24 => self.write(),
            24..38 => self.merge(),
            38..41 => self.erase(),
            41..50 => self.read(),
            50..56 => self.begin_load(),
            56..61 => self.end_load(),
            61..64 => self.scan(),
            64..72 => drop(self.rig.running().writer.step().expect("the disk is well")),
            72..88 => self.drain(),
            88..92 => self.rig.now_ms += self.dice.below(1_500),
            92..94 => self.rig.store().inner.table.evict_all(),
            94..96 => self.peer_reads(),
            96..97 => self.trees(),
            97..98 => self.crash(seed, step),
            _ => self.repeat(),
        }
    }

    fn any_key(&mut self) -> Key {
        key(self.dice.below(KEYS))
    }

    fn any_value(&mut self) -> Vec<u8> {
        let bytes = *self.dice.pick(&VALUE_BYTES);
        vec![self.dice.next() as u8; bytes]
    }

    fn request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId {
            client: 1,
            sequence: self.requests,
        }
    }

    fn write(&mut self) {
        let key = self.any_key();
        let base = self.model.get(&key);
        let context = (self.dice.below(4) > 0).then(|| Context::from(&base));
        let value = self.any_value();
        let mut write = put(self.request(), &value, context);
        if write.context.is_some() && self.dice.below(8) == 0 {
            write.payload = NewPayload::Delete;
        }
        self.try_write(&key, &write);
    }

    fn try_write(&mut self, key: &Key, write: &Write) {
        let now_ms = self.rig.now_ms;
        let base = self.model.get(key);
        match self
            .rig
            .store()
            .write(key, write, now_ms, &WriteLimits::default())
        {
            Ok(Written::Applied {
                record,
                dot,
                sequence,
                ..
            }) => {
                assert!(base.is_fresh(write, dot));
                assert_eq!(*record.object(), base.write(write, dot, now_ms));
                self.model.set(sequence, key, record.object().clone());
            }
            Ok(Written::Repeated { record, .. }) => {
                assert!(base.find(write.request).is_some());
                assert_eq!(*record.object(), base);
            }
            Ok(Written::Miss) => {
                self.rig
                    .store()
                    .load(std::slice::from_ref(key))
                    .expect("the engine is well");
            }
            Err(_) => self.drain(),
        }
    }

    /// A retry of a request that was answered or not.
    fn repeat(&mut self) {
        let key = self.any_key();
        let Some(applied) = self.model.get(&key).applied().first().cloned() else {
            return;
        };
        self.try_write(&key, &put(applied.request, b"again", None));
    }

    fn merge(&mut self) {
        let key = self.any_key();
        let theirs = self.peer.get(&key).cloned().unwrap_or_default();
        let theirs = if self.dice.below(3) > 0 {
            self.peer_counter += 1;
            let (request, value) = (self.request(), self.any_value());
            foreign(&theirs, 2, self.peer_counter, request, &value)
        } else {
            theirs
        };
        self.peer.insert(key.clone(), theirs.clone());
        let merged = self.model.get(&key).merge(theirs.clone());
        let last = self.rig.store().stats().last_sequence;
        match self.rig.store().merge(&key, theirs) {
            Ok(sequence) if sequence > last => self.model.set(sequence, &key, merged),
            Ok(_) => assert_eq!(
                merged,
                self.model.get(&key),
                "only what changes nothing goes unlogged"
            ),
            Err(_) => self.drain(),
        }
    }

    /// The peer takes over what we have, durable or not.
    fn peer_reads(&mut self) {
        let key = self.any_key();
        let ours = self.model.get(&key);
        let entry = self.peer.entry(key).or_default();
        *entry = std::mem::take(entry).merge(ours);
    }

    fn erase(&mut self) {
        let key = self.any_key();
        if let Ok(sequence) = self.rig.store().erase(&key) {
            self.model.set(sequence, &key, Object::empty());
        }
    }

    fn read(&mut self) {
        let key = self.any_key();
        match self.rig.store().read(&key) {
            Read::Found(record) => assert_eq!(*record.object(), self.model.get(&key), "{key:?}"),
            Read::Miss => {}
            Read::Quarantined => panic!("nothing is damaged"),
        }
    }

    fn begin_load(&mut self) {
        let key = self.any_key();
        let inner = &self.rig.store().inner;
        if self.loads.len() < 4 && inner.begin_load(&key).is_none() {
            let stored = rowio::read(&*inner.engine, &key);
            self.loads.push((key, stored));
        }
    }

    fn end_load(&mut self) {
        if self.loads.is_empty() {
            return;
        }
        let index = self.dice.below(self.loads.len() as u64) as usize;
        let (key, stored) = self.loads.swap_remove(index);
        match self.rig.store().inner.end_load(&key, stored) {
            Ok(Read::Found(record)) => {
                assert_eq!(*record.object(), self.model.get(&key), "{key:?}")
            }
            other => panic!("{other:?}"),
        }
    }

    fn drop_loads(&mut self) {
        while !self.loads.is_empty() {
            self.end_load();
        }
    }

    fn drain(&mut self) {
        for _ in 0..1 + self.dice.below(6) {
            if self.rig.step_drain() == DrainStep::Idle {
                self.rig.now_ms += 500;
            }
        }
    }

    fn scan(&mut self) {
        let (first, last) = (self.dice.next() % (1 << 63), self.dice.next());
        let (mut from, mut after, mut found) = (first, None, Vec::new());
        for page in 0.. {
            assert!(page < 200, "a scan ends");
            let keys = 1 + self.dice.below(6) as usize;
            let after_bytes: Option<bytes::Bytes> = after.take();
            let page = self
                .rig
                .store()
                .scan(from, after_bytes.as_deref(), last, keys, 20_000);
            let page = page.expect("the engine is well");
            assert!(page.records.len() <= keys && page.quarantined.is_empty());
            found.extend(
                page.records
                    .into_iter()
                    .map(|(key, record)| (key, record.object().clone())),
            );
            let Some(next) = page.next else { break };
            (from, after) = (next.token(), Some(next.framed().clone()));
        }
        let mut expected = self.model.stored();
        expected.retain(|(key, _)| (first..=last).contains(&key.token()));
        assert_eq!(found, expected);
    }

    /// Compares all trees with those of the model.
    fn trees(&mut self) {
        self.drop_loads();
        let store = self.rig.store().clone();
        let mut forest = Forest::new(store.partitions());
        for (key, object) in self.model.stored() {
            forest.apply(key.token(), NO_LEAF, Record::new(&key, object).leaf());
        }
        for partition in 0..store.partitions() {
            let mut tree = store.partition_tree(partition);
            while !tree.unfolded.is_empty() {
                store.load(&tree.unfolded).expect("the engine is well");
                tree = store.partition_tree(partition);
            }
            assert_eq!(tree.tree, *forest.tree(partition), "partition {partition}");
        }
    }

    fn crash(&mut self, seed: u64, step: usize) {
        self.crashes += 1;
        self.loads.clear();
        let (durable, actor) = (
            *self.rig.store().durable().borrow(),
            self.rig.store().actor(),
        );
        let kept = self.dice.below(self.rig.home.pending() as u64 + 1) as usize;
        let crash_seed = self.dice.next();
        self.rig.crash(crash_seed, kept);
        self.rig.restart();
        let recovered = self.rig.store().stats().last_sequence;
        assert!(
            recovered >= durable,
            "seed {seed} step {step}: {recovered} of {durable}"
        );
        assert_eq!(
            self.rig.report().newly_unsynced,
            Some(vec![]),
            "seed {seed} step {step}"
        );
        assert_eq!(self.rig.report().damaged_records, 0);
        assert_ne!(self.rig.store().actor(), actor);
        self.model.cut(recovered);
        if self.dice.below(2) == 0 {
            self.check_all();
        }
    }

    fn check_all(&mut self) {
        for number in 0..KEYS {
            let key = key(number);
            assert_eq!(
                *self.rig.get(&key).object(),
                self.model.get(&key),
                "{key:?}"
            );
        }
        self.scan();
        self.trees();
    }
}
