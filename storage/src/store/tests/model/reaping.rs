//! Rounds of reaping in random histories: what counts as absent, what is refused, what a crash takes back.

use super::{History, Model};
use crate::key::Key;
use crate::record::Record;
use crate::store::{Advance, Advanced, HintRefused, MergeRefused, Tomb};
use crate::version::{Floor, Object, Payload};

/// What should hold of one partition.
#[derive(Default)]
pub(super) struct Round {
    generation: u64,
    /// In memory.
    floor: u64,
    durable_floor: u64,
    /// The absent list, and the log sequence that it was judged by.
    list: Option<(Vec<Tomb>, u64)>,
    erased_at: Option<u64>,
}

/// What the histories came by.
#[derive(Debug, Default)]
pub(super) struct Counts {
    rounds: u64,
    reaped: u64,
    outgrown: u64,
    taken_back: u64,
    stale: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Counts) {
        self.rounds += other.rounds;
        self.reaped += other.reaped;
        self.outgrown += other.outgrown;
        self.taken_back += other.taken_back;
        self.stale += other.stale;
    }

    pub(super) fn are_all_seen(&self) -> bool {
        let all = [self.rounds, self.reaped, self.outgrown, self.taken_back];
        self.stale > 0 && all.iter().all(|count| *count > 0)
    }
}

impl Model {
    fn leaf(&self, key: &Key) -> u64 {
        Record::new(key, self.get(key)).leaf()
    }

    pub(super) fn is_absent(&self, key: &Key) -> bool {
        let mut lists = self.rounds.values().filter_map(|round| round.list.as_ref());
        let is_it = |tomb: &Tomb| tomb.key == *key && tomb.leaf == self.leaf(key);
        lists.any(|(tombs, _)| tombs.iter().any(is_it))
    }
}

impl History {
    fn round(&mut self, partition: u32) -> &mut Round {
        self.model.rounds.entry(partition).or_default()
    }

    /// One step of the round of some partition.
    pub(super) fn reap(&mut self) {
        let key = self.any_key();
        let partition = self.rig.store().partition_of(key.token());
        match self.round(partition).list.is_some() {
            false => self.advance(partition),
            true if self.dice.below(3) == 0 => self.finish(partition),
            true => self.end(partition),
        }
    }

    /// The tombstones of a partition, or none: then this store is not an owner.
    fn dead(&mut self, partition: u32) -> Vec<Tomb> {
        let store = self.rig.store();
        let stored = self.model.stored().into_iter();
        let is_dead = |object: &Object| {
            let mut siblings = object.siblings().iter();
            siblings.all(|s| matches!(s.payload, Payload::Tombstone { .. }))
        };
        let dead = stored.filter(|(key, object)| {
            store.partition_of(key.token()) == partition && is_dead(object)
        });
        let tombs = dead.map(|(key, object)| Tomb {
            clock: object.clock().clone(),
            leaf: Record::new(&key, object).leaf(),
            key,
        });
        tombs.collect()
    }

    fn advance(&mut self, partition: u32) {
        let tombs = self.dead(partition);
        if tombs.is_empty() && self.dice.below(16) > 0 {
            return;
        }
        let generation = self.round(partition).generation;
        let store = self.rig.store().clone();
        let confirmed = store.confirm_reaping(partition, generation, &tombs);
        let confirmed = confirmed.expect("synced");
        assert!(confirmed.exact.iter().all(|exact| *exact));
        assert!(confirmed.sequence <= store.stats().last_sequence);
        let step = Advance {
            partition,
            to: generation + 1,
            tombs: tombs.clone(),
        };
        let advanced = store.advance_reaping(&[step]).expect("durable");
        let [Advanced::Done { sequence }] = advanced[..] else {
            panic!("nothing was missed");
        };
        assert!(
            sequence <= confirmed.sequence,
            "what was evicted since is durable"
        );
        let round = self.round(partition);
        round.generation += 1;
        round.erased_at = None;
        round.list = (!tombs.is_empty()).then_some((tombs, sequence));
    }

    fn finish(&mut self, partition: u32) {
        let round = &self.model.rounds[&partition];
        let (tombs, generation) = (round.list.clone().expect("listed").0, round.generation);
        let left = tombs
            .iter()
            .filter(|tomb| self.model.leaf(&tomb.key) == tomb.leaf);
        let left: Vec<Key> = left.map(|tomb| tomb.key.clone()).collect();
        let store = self.rig.store().clone();
        let before = store.stats().last_sequence;
        let finished = store.finish_reaping(partition, generation);
        let after = store.stats().last_sequence;
        for (sequence, key) in (before + 1..=after).zip(&left) {
            self.model.set(sequence, key, Object::empty());
        }
        let round = self.round(partition);
        round.floor = generation;
        match finished {
            Ok(finished) => {
                assert_eq!(finished.erased, left.len());
                assert_eq!(after - before, left.len() as u64);
                assert_eq!(finished.sequence, after);
                round.erased_at = Some(after);
                self.counts.reaped += left.len() as u64;
                self.counts.outgrown += (tombs.len() - left.len()) as u64;
            }
            Err(_) => self.drain(),
        }
    }

    fn end(&mut self, partition: u32) {
        let store = self.rig.store().clone();
        let round = self.round(partition);
        let ended = store.end_reaping(&[(partition, round.generation)]);
        ended.expect("durable");
        let durable = *store.durable().borrow();
        if round.erased_at.is_some_and(|sequence| sequence <= durable) {
            round.list = None;
            round.erased_at = None;
            round.durable_floor = round.generation;
            self.counts.rounds += 1;
        }
        assert_eq!(
            store.reaping(partition).is_some(),
            self.round(partition).list.is_some()
        );
    }

    /// The generation that a copy of the peer was read under. `None`: an older one, and that was refused.
    pub(super) fn read_under(&mut self, key: &Key, theirs: &Object) -> Option<u64> {
        let store = self.rig.store().clone();
        let partition = store.partition_of(key.token());
        let round = self.round(partition);
        let (generation, floor) = (round.generation, round.floor);
        if generation == 0 || self.dice.below(8) > 0 {
            return Some(generation);
        }
        let under = generation - 1;
        let stale = Err(MergeRefused::StaleGeneration { generation, floor });
        assert_eq!(store.merge(key, theirs.clone(), under), stale);
        let stale = Err(HintRefused::StaleGeneration { generation, floor });
        let taken = store.take_hint(key, theirs.clone(), Floor::default(), under, 1);
        assert_eq!(taken, stale);
        self.counts.stale += 1;
        None
    }

    /// What a crash leaves of rounds, the log having come back to `recovered`.
    pub(super) fn cut_rounds(&mut self, recovered: u64) {
        for round in self.model.rounds.values_mut() {
            round.floor = round.durable_floor;
            round.erased_at = None;
            if round.list.as_ref().is_some_and(|(_, by)| *by > recovered) {
                round.list = None;
                round.generation -= 1;
                self.counts.taken_back += 1;
            }
        }
        self.check_rounds();
    }

    pub(super) fn check_rounds(&self) {
        let store = self.rig.store();
        for (&partition, round) in &self.model.rounds {
            assert_eq!(store.generation(partition), round.generation);
            assert_eq!(store.floor(partition), round.floor, "partition {partition}");
            let list = store.reaping(partition).map(|list| list.tombs.clone());
            let expected = round.list.as_ref().map(|(tombs, _)| tombs.clone());
            assert_eq!(list, expected);
        }
    }
}
