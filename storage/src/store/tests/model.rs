//! Random histories against a plain map: whatever is asked, in whatever order, with crashes at any step, the store holds
//! what the map holds (I1, I2), and its trees say so (I5).

mod reaping;

use std::collections::BTreeMap;

use super::rig::{Dice, Rig, foreign, key, put, renewing_config};
use crate::engine::EngineError;
use crate::key::Key;
use crate::merkle::Forest;
use crate::record::{NO_LEAF, Record};
use crate::store::rowio::{self, Stored};
use crate::store::{DrainStep, HintRefused, Read, WriteLimits, Written};
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
    /// The same of hints; `None`: gone.
    hint_changes: Vec<(u64, Key, Option<HintModel>)>,
    hints: BTreeMap<Key, HintModel>,
    /// Of partitions that have seen a round.
    rounds: BTreeMap<u32, reaping::Round>,
}

/// Object, generation, time.
type HintModel = (Object, u64, u64);

impl Model {
    fn get(&self, key: &Key) -> Object {
        self.objects.get(key).cloned().unwrap_or_default()
    }

    fn set(&mut self, sequence: u64, key: &Key, object: Object) {
        self.changes.push((sequence, key.clone(), object.clone()));
        self.objects.insert(key.clone(), object);
    }

    fn set_hint(&mut self, sequence: u64, key: &Key, hint: Option<HintModel>) {
        self.hint_changes
            .push((sequence, key.clone(), hint.clone()));
        match hint {
            Some(hint) => drop(self.hints.insert(key.clone(), hint)),
            None => drop(self.hints.remove(key)),
        }
    }

    /// Forgets what came after `sequence`.
    fn cut(&mut self, sequence: u64) {
        self.hints.clear();
        for (_, key, hint) in std::mem::take(&mut self.hint_changes)
            .into_iter()
            .filter(|(each, ..)| *each <= sequence)
        {
            self.set_hint(sequence, &key, hint);
        }
        self.changes.retain(|(each, ..)| *each <= sequence);
        self.objects = self
            .changes
            .iter()
            .map(|(_, key, object)| (key.clone(), object.clone()))
            .collect();
    }

    /// What is there and not absent, in key order.
    fn stored(&self) -> Vec<(Key, Object)> {
        let there = self.objects.iter();
        let there = there.filter(|(key, object)| !object.is_empty() && !self.is_absent(key));
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
    refused: u64,
    /// Of engines, in all starts but the last.
    renewals: u64,
    counts: reaping::Counts,
}

#[test]
fn random_histories_match_a_plain_map() {
    let (mut refused, mut renewals, mut counts) = (0, 0, reaping::Counts::default());
    for seed in 0..SEEDS {
        let mut history = History::new(seed);
        for step in 0..STEPS {
            history.step(seed, step);
        }
        history.drop_loads();
        history.check_all();
        history.rig.drain();
        history.check_all();
        history.renewals += history.rig.store().stats().renewals;
        history.rig.stop();
        history.rig.restart();
        history.cut_rounds(u64::MAX);
        assert!(
            history.rig.report().clean,
            "seed {seed}: {:?}",
            history.rig.report()
        );
        history.check_all();
        assert!(history.crashes > 0, "seed {seed} saw no crash");
        refused += history.refused;
        renewals += history.renewals;
        counts.add(&history.counts);
    }
    assert!(counts.are_all_seen(), "{counts:?}");
    assert!(refused > 0, "no hint met the budget");
    assert!(renewals > SEEDS / 2, "few engines were renewed: {renewals}");
}

impl History {
    fn new(seed: u64) -> Self {
        Self {
            rig: Rig::new(seed, renewing_config()),
            dice: Dice::new(seed),
            model: Model::default(),
            peer: BTreeMap::new(),
            peer_counter: 0,
            requests: 0,
            loads: Vec::new(),
            crashes: 0,
            refused: 0,
            renewals: 0,
            counts: reaping::Counts::default(),
        }
    }

    fn step(&mut self, seed: u64, step: usize) {
        match self.dice.below(112) {
            100..103 => self.hint(),
            103 => self.forget(),
            104.. => self.reap(),
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
            92..93 => self.hint(),
            93..94 => self.forget(),
            94..95 => self.rig.store().inner.table.evict_all(),
            95..96 => self.peer_reads(),
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
        if write.context.is_some() && self.dice.below(4) == 0 {
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
        let Some(under) = self.read_under(&key, &theirs) else {
            return;
        };
        match self.rig.store().merge(&key, theirs, under) {
            Ok(sequence) if sequence > last => self.model.set(sequence, &key, merged),
            Ok(_) => assert_eq!(
                merged,
                self.model.get(&key),
                "only what changes nothing goes unlogged"
            ),
            Err(_) => self.drain(),
        }
    }

    /// The peer leaves its copy here, for others.
    fn hint(&mut self) {
        let key = self.any_key();
        let theirs = self.peer.get(&key).cloned().unwrap_or_default();
        let theirs = match self.dice.below(3) {
            0 if !theirs.is_empty() => theirs,
            _ => {
                self.peer_counter += 1;
                let (request, value) = (self.request(), self.any_value());
                foreign(&theirs, 2, self.peer_counter, request, &value)
            }
        };
        self.peer.insert(key.clone(), theirs.clone());
        let Some(under) = self.read_under(&key, &theirs) else {
            return;
        };
        let (generation, now_ms) = (under + self.dice.below(3), self.rig.now_ms);
        let merged = match self.model.hints.get(&key).cloned() {
            None => (theirs.clone(), generation, now_ms),
            Some((held, under, at)) => (
                held.merge(theirs.clone()),
                under.min(generation),
                at.min(now_ms),
            ),
        };
        let last = self.rig.store().stats().last_sequence;
        let floor = crate::version::Floor::default();
        match self
            .rig
            .store()
            .take_hint(&key, theirs, floor, generation, now_ms)
        {
            Ok(sequence) if sequence > last => self.model.set_hint(sequence, &key, Some(merged)),
            Ok(_) => assert_eq!(Some(&merged), self.model.hints.get(&key)),
            Err(HintRefused::Budget { .. }) => self.refused += 1,
            Err(HintRefused::Full(_)) => self.drain(),
            Err(stale @ HintRefused::StaleGeneration { .. }) => panic!("{stale}"),
        }
    }

    /// Owners have it, or it is too old.
    fn forget(&mut self) {
        let store = self.rig.store().clone();
        let Some(oldest) = store.hints_after(None, 1, usize::MAX).pop() else {
            return assert!(self.model.hints.is_empty());
        };
        if self.dice.below(4) == 0 {
            let dropped = store.drop_hints(oldest.taken_ms + 1, 1);
            assert!(dropped.is_err() || dropped == Ok(vec![oldest.key.clone()]));
            if dropped.is_err() {
                return;
            }
        } else if store.forget_hint(&oldest) != Ok(true) {
            return;
        }
        let sequence = store.stats().last_sequence;
        self.model.set_hint(sequence, &oldest.key, None);
    }

    fn check_hints(&self) {
        let store = self.rig.store();
        let held = store.hints_after(None, usize::MAX, usize::MAX);
        let held: BTreeMap<Key, HintModel> = held
            .into_iter()
            .map(|hint| {
                let object = hint.record.object().clone();
                (hint.key, (object, hint.generation, hint.taken_ms))
            })
            .collect();
        assert_eq!(held, self.model.hints);
        assert_eq!(store.hint_stats().count, held.len());
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
            let stored = rowio::read(&inner.engine, &key);
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
        self.renewals += self.rig.store().stats().renewals;
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
        assert!(!self.rig.report().lost_hints, "seed {seed} step {step}");
        assert_ne!(self.rig.store().actor(), actor);
        self.model.cut(recovered);
        self.cut_rounds(recovered);
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
        self.rig.check_live();
        self.check_hints();
        self.check_rounds();
    }
}
