//! Since when partitions are known to be the same, and what other stores are known to lack: for operators.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ringfort_ring::{PartitionId, StoreId};
use tokio::time::Instant;

use super::Schedule;
use crate::marks::Marked;

/// A partition that was not known to be the same for so many intervals counts as unclean.
const UNCLEAN: u32 = 9;

/// How it stands, for operators.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ages {
    /// Since the oldest last clean exchange of a partition with another owner; of one that was never compared, since the start.
    pub oldest: Duration,
    /// Partitions that are not known to be the same at all owners.
    pub unclean: usize,
    /// Partitions with other owners.
    pub partitions: usize,
}

impl Schedule {
    /// The age of each partition: since the oldest last clean exchange with another owner; `None`: with one of them there was none.
    fn ages(&self, now: Instant) -> BTreeMap<PartitionId, Option<Duration>> {
        let mut ages: BTreeMap<PartitionId, Option<Duration>> = BTreeMap::new();
        for (partition, pair) in self.others.values().flat_map(|other| &other.pairs) {
            let age = pair.clean.map(|clean| now.saturating_duration_since(clean));
            let oldest = ages.entry(*partition).or_insert(Some(Duration::ZERO));
            *oldest = oldest.zip(age).map(|(one, other)| one.max(other));
        }
        ages
    }

    /// How it stands.
    pub fn figures(&self, now: Instant, marked: &BTreeMap<StoreId, Marked>) -> Ages {
        let ages = self.ages(now);
        let mut unclean: BTreeSet<PartitionId> = BTreeSet::new();
        for (store, other) in &self.others {
            for (partition, pair) in &other.pairs {
                let is_marked = marked.get(store).is_some_and(|m| m.has(*partition));
                if pair.differs || is_marked {
                    unclean.insert(*partition);
                }
            }
        }
        let limit = self.timing.interval * UNCLEAN;
        let old = ages
            .iter()
            .filter(|(_, age)| age.is_none_or(|age| age > limit));
        unclean.extend(old.map(|(partition, _)| *partition));
        let began = now.saturating_duration_since(self.began);
        let oldest = ages.values().map(|age| age.unwrap_or(began)).max();
        Ages {
            oldest: oldest.unwrap_or_default(),
            unclean: unclean.len(),
            partitions: ages.len(),
        }
    }

    /// Of how many of these partitions (`None`: all) the last clean exchange with every other owner is younger than that; and how
    /// many there are.
    pub fn within(
        &self,
        now: Instant,
        wanted: Option<&BTreeSet<PartitionId>>,
        limit: Duration,
    ) -> (usize, usize) {
        let ages = self.ages(now);
        let asked = ages
            .iter()
            .filter(|(p, _)| wanted.is_none_or(|wanted| wanted.contains(p)));
        let ages: Vec<_> = asked.map(|(_, age)| *age).collect();
        let young = ages.iter().filter(|age| age.is_some_and(|age| age < limit));
        (young.count(), ages.len())
    }

    /// The pairs that are found to differ, and not yet known to be mended.
    pub fn differing(&self) -> usize {
        let pairs = self.others.values().flat_map(|other| other.pairs.values());
        pairs.filter(|pair| pair.differs).count()
    }

    /// Of how many partitions a store lacks something: marked ones, as far as they are shared with it.
    pub fn behind(&self, marked: &BTreeMap<StoreId, Marked>) -> BTreeMap<StoreId, usize> {
        let count = |(store, marks): (&StoreId, &Marked)| {
            let pairs = &self.others.get(store)?.pairs;
            let behind = pairs.keys().filter(|partition| marks.has(**partition));
            Some((*store, behind.count()))
        };
        let counts = marked.iter().filter_map(count);
        counts.filter(|(_, count)| *count > 0).collect()
    }
}
