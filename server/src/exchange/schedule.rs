//! When which partitions are compared with which store, and since when they are known to be the same.
//!
//! Of the two owners in a pair one begins, the other only when nothing was heard for long: so nothing is done twice. Marked pairs
//! come first, then those that an operator wants, then those of a store that came up, then whatever is due.
//!
//! Pure: times are handed in.

mod ages;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ringfort_ring::{Acquisition, PartitionId, StoreId};
use tokio::time::Instant;

pub use self::ages::Ages;

use crate::marks::Marked;

/// Partitions of one round with a store, at most: one question asks for all of them.
pub const ROUND_MAX: usize = 4_096;
/// A partition that was not known to be the same for so many intervals is compared even while it is written to, and before it is whole.
const OVERDUE: u32 = 6;
/// The owner that does not begin does after all when nothing was heard for so many tenths of an interval.
const SILENT_TENTHS: u32 = 25;
/// A failing store is tried less and less often, up to so many doublings.
const DOUBLINGS_MAX: u32 = 4;

/// What a schedule goes by.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Between two looks at a pair.
    pub interval: Duration,
    /// Added to it: less than a quarter, the same on one node every time.
    pub jitter: Duration,
}

impl Timing {
    /// By any number, which fixes the jitter.
    pub fn new(interval: Duration, seed: u64) -> Timing {
        let quarter = (interval.as_millis() as u64 / 4).max(1);
        Timing {
            interval,
            jitter: Duration::from_millis(seed % quarter),
        }
    }

    /// A partition that was written to within this differs by what is on its way.
    pub fn quiet(&self) -> Duration {
        self.interval / 4
    }

    /// Between two rounds with one store, at least.
    pub fn pause(&self) -> Duration {
        self.interval / 10
    }
}

/// One partition that another store owns, too.
#[derive(Debug, Clone, Default)]
struct Pair {
    /// When the last exchange began after which both were the same.
    clean: Option<Instant>,
    /// When it was last looked at, by either; `None`: not since the other was last met.
    looked: Option<Instant>,
    /// When the other last asked and it differed: the other is at it.
    asked: Option<Instant>,
    /// The last look found a difference that is not known to be mended.
    differs: bool,
    /// An operator wants it compared since then.
    wanted: Option<Instant>,
}

/// Another store.
#[derive(Debug, Clone)]
struct Other {
    /// Since when it is connected; `None`: it is not.
    up: Option<Instant>,
    /// Not before this.
    next: Instant,
    /// Rounds in a row that failed.
    failures: u32,
    pairs: BTreeMap<PartitionId, Pair>,
    /// What it is to be told: all that differed in these is mended.
    mended: Vec<PartitionId>,
}

/// One look at what two stores share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// The other.
    pub store: StoreId,
    /// What is compared, ascending.
    pub partitions: Vec<PartitionId>,
}

/// What the other store said of roots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The same on both sides, durably.
    pub equal: Vec<PartitionId>,
    /// Different.
    pub differ: Vec<PartitionId>,
    /// Of those, where the copy there is not synced.
    pub unsynced: Vec<PartitionId>,
}

/// See the module.
#[derive(Debug)]
pub struct Schedule {
    me: StoreId,
    timing: Timing,
    began: Instant,
    others: BTreeMap<StoreId, Other>,
    /// The count of changes of each partition, and when it was first seen to be that.
    writes: BTreeMap<PartitionId, (u64, Instant)>,
}

impl Schedule {
    /// Nothing is shared with anybody yet.
    pub fn new(me: StoreId, timing: Timing, now: Instant) -> Schedule {
        Schedule {
            me,
            timing,
            began: now,
            others: BTreeMap::new(),
            writes: BTreeMap::new(),
        }
    }

    /// The timing.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// This is what the store owns now, and with whom. What was known of pairs that stay is kept.
    pub fn follow(&mut self, now: Instant, shared: &[Acquisition]) {
        let mut before = std::mem::take(&mut self.others);
        for Acquisition { partition, from } in shared {
            for store in from {
                let known = before.get_mut(store);
                let pair = known.and_then(|other| other.pairs.remove(partition));
                let other = self.others.entry(*store).or_insert_with(|| Other {
                    up: None,
                    next: now,
                    failures: 0,
                    pairs: BTreeMap::new(),
                    mended: Vec::new(),
                });
                other.pairs.insert(*partition, pair.unwrap_or_default());
            }
        }
        for (store, other) in &mut self.others {
            if let Some(known) = before.remove(store) {
                (other.up, other.next, other.failures) = (known.up, known.next, known.failures);
            }
        }
        let mine: BTreeSet<PartitionId> = shared.iter().map(|s| s.partition).collect();
        self.writes.retain(|partition, _| mine.contains(partition));
    }

    /// All partitions that have another owner, ascending.
    pub fn partitions(&self) -> BTreeSet<PartitionId> {
        let pairs = self.others.values().flat_map(|other| other.pairs.keys());
        pairs.copied().collect()
    }

    /// A partition's changes have come to `count`.
    pub fn wrote(&mut self, now: Instant, partition: PartitionId, count: u64) {
        match self.writes.get_mut(&partition) {
            Some((known, _)) if *known == count => {}
            Some(write) => *write = (count, now),
            // What came before the first look is not known to be recent.
            None => drop(self.writes.insert(partition, (count, self.began))),
        }
    }

    /// Connections to a store stand, or do not. All that is shared with one that comes up is due.
    pub fn connected(&mut self, now: Instant, store: StoreId, is_up: bool) {
        let Some(other) = self.others.get_mut(&store) else {
            return;
        };
        match (other.up, is_up) {
            (None, true) => {
                (other.up, other.next, other.failures) = (Some(now), now, 0);
                other.pairs.values_mut().for_each(|pair| pair.looked = None);
            }
            (Some(_), false) => other.up = None,
            _ => {}
        }
    }

    /// The next round, if one is due. `synced` says of which partitions this copy and that of the other hold all that they should:
    /// the repair of one that does not comes first.
    pub fn next(
        &self,
        now: Instant,
        marked: &BTreeMap<StoreId, Marked>,
        synced: &dyn Fn(StoreId, PartitionId) -> bool,
    ) -> Option<Round> {
        let ready = |(_, other): &(&StoreId, &Other)| other.up.is_some() && other.next <= now;
        let rounds = self.others.iter().filter(ready);
        let rounds = rounds.filter_map(|(store, other)| {
            let marks = marked.get(store);
            let is_marked = |partition| marks.is_some_and(|marks| marks.has(partition));
            let mut urgency = Urgency::Due;
            let pairs = other.pairs.iter().filter_map(|(partition, pair)| {
                let is_marked = is_marked(*partition);
                let due =
                    self.is_due(now, (*store, other), (*partition, pair), is_marked, synced)?;
                urgency = urgency.min(due);
                Some(*partition)
            });
            let partitions: Vec<_> = pairs.take(ROUND_MAX).collect();
            let round = Round {
                store: *store,
                partitions,
            };
            let waited = now.saturating_duration_since(other.next);
            (!round.partitions.is_empty()).then_some((urgency, std::cmp::Reverse(waited), round))
        });
        let first = rounds.min_by(|one, other| (one.0, one.1).cmp(&(other.0, other.1)));
        first.map(|(_, _, round)| round)
    }

    fn is_due(
        &self,
        now: Instant,
        (store, other): (StoreId, &Other),
        (partition, pair): (PartitionId, &Pair),
        is_marked: bool,
        synced: &dyn Fn(StoreId, PartitionId) -> bool,
    ) -> Option<Urgency> {
        let is_overdue = self.is_overdue(now, pair);
        if pair.wanted.is_some() && self.begins(store, partition) {
            return Some(Urgency::Wanted);
        }
        if !(self.is_quiet(now, partition) && synced(store, partition) || is_overdue) {
            return None;
        }
        if is_marked {
            return Some(Urgency::Marked);
        }
        // The other is at it, unless it takes so long that it must have failed.
        let since = pair.looked.or(pair.asked).max(other.up);
        let since = now.saturating_duration_since(since.unwrap_or(self.began));
        match (self.begins(store, partition), pair.looked) {
            (true, None) if pair.asked.is_none() => Some(Urgency::CameUp),
            (true, Some(_)) if since >= self.timing.interval + self.timing.jitter => {
                Some(Urgency::Due)
            }
            _ if since >= self.timing.interval / 10 * SILENT_TENTHS + self.timing.jitter => {
                Some(Urgency::Due)
            }
            _ => None,
        }
    }

    fn is_overdue(&self, now: Instant, pair: &Pair) -> bool {
        let age = now.saturating_duration_since(pair.clean.unwrap_or(self.began));
        age >= self.timing.interval * OVERDUE
    }

    /// Of what differs, what is mended now: a copy there that is not synced gets what it lacks by its own repair, unless that takes
    /// too long, or an operator wants it.
    pub fn to_mend(&self, now: Instant, store: StoreId, verdict: &Verdict) -> Vec<PartitionId> {
        let pairs = self.others.get(&store).map(|other| &other.pairs);
        let is_urgent = |partition| {
            let pair = pairs.and_then(|pairs| pairs.get(partition));
            pair.is_some_and(|pair| pair.wanted.is_some() || self.is_overdue(now, pair))
        };
        let differ = verdict.differ.iter();
        let now = differ.filter(|p| !verdict.unsynced.contains(p) || is_urgent(*p));
        now.copied().collect()
    }

    /// Whether of the two owners this one begins: they come to the same verdict, and each begins about half of what they share.
    fn begins(&self, store: StoreId, partition: PartitionId) -> bool {
        let low_begins = partition.0.is_multiple_of(2);
        (self.me < store) == low_begins
    }

    fn is_quiet(&self, now: Instant, partition: PartitionId) -> bool {
        let written = self.writes.get(&partition);
        written.is_none_or(|(_, since)| {
            *since == self.began || now.saturating_duration_since(*since) >= self.timing.quiet()
        })
    }

    fn pair(&mut self, store: StoreId, partition: PartitionId) -> Option<&mut Pair> {
        self.others.get_mut(&store)?.pairs.get_mut(&partition)
    }

    /// What the other said in a round that began at `began`.
    pub fn compared(&mut self, began: Instant, store: StoreId, verdict: &Verdict) {
        for partition in &verdict.equal {
            self.is_clean(began, store, *partition);
        }
        for partition in &verdict.differ {
            if let Some(pair) = self.pair(store, *partition) {
                pair.looked = Some(began);
                pair.differs = true;
            }
        }
    }

    fn is_clean(&mut self, began: Instant, store: StoreId, partition: PartitionId) {
        if let Some(pair) = self.pair(store, partition) {
            pair.clean = pair.clean.max(Some(began));
            pair.looked = pair.looked.max(Some(began));
            pair.wanted = pair.wanted.filter(|since| *since > began);
            (pair.differs, pair.asked) = (false, None);
        }
    }

    /// All differences of a partition that were found in an exchange that began then are mended, durably on both sides.
    pub fn mended(&mut self, began: Instant, store: StoreId, partition: PartitionId) {
        self.is_clean(began, store, partition);
        if let Some(other) = self.others.get_mut(&store)
            && other.mended.len() < ROUND_MAX
        {
            other.mended.push(partition);
        }
    }

    /// A partition was not mended after all: it is due again after the pause.
    pub fn failed(&mut self, store: StoreId, partition: PartitionId) {
        if let Some(pair) = self.pair(store, partition) {
            (pair.looked, pair.asked) = (None, None);
        }
    }

    /// A round has ended.
    pub fn ended(&mut self, now: Instant, store: StoreId, is_well: bool) {
        let pause = self.timing.pause();
        if let Some(other) = self.others.get_mut(&store) {
            other.failures = match is_well {
                true => 0,
                false => other.failures.saturating_add(1),
            };
            other.next = now + pause * (1 << other.failures.min(DOUBLINGS_MAX));
        }
    }

    /// What is to be told to a store, once: all that differed in these partitions is mended.
    pub fn take_mended(&mut self, store: StoreId) -> Vec<PartitionId> {
        let other = self.others.get_mut(&store);
        other
            .map(|other| std::mem::take(&mut other.mended))
            .unwrap_or_default()
    }

    /// The other asked, and this is what it was answered.
    pub fn asked(
        &mut self,
        now: Instant,
        store: StoreId,
        equal: &[PartitionId],
        differ: &[PartitionId],
    ) {
        for partition in equal {
            self.is_clean(now, store, *partition);
        }
        for partition in differ {
            if let Some(pair) = self.pair(store, *partition) {
                pair.differs = true;
                pair.asked = Some(now);
                pair.looked = Some(now);
            }
        }
    }

    /// The other says that all that it found to differ when it last asked is mended.
    pub fn told_mended(&mut self, store: StoreId, partitions: &[PartitionId]) {
        for partition in partitions {
            if let Some(began) = self.pair(store, *partition).and_then(|pair| pair.asked) {
                self.is_clean(began, store, *partition);
            }
        }
    }

    /// An operator wants these partitions (`None`: all) compared now.
    pub fn want(&mut self, now: Instant, partitions: Option<&BTreeSet<PartitionId>>) {
        for other in self.others.values_mut() {
            for (partition, pair) in &mut other.pairs {
                if partitions.is_none_or(|wanted| wanted.contains(partition)) {
                    pair.wanted = Some(now);
                    other.next = now;
                }
            }
        }
    }
}

/// What comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    Marked,
    Wanted,
    CameUp,
    Due,
}

#[cfg(test)]
mod tests;
