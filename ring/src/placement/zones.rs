//! How many owners of one partition a zone may hold.
//!
//! *Invariant:* the owners of a partition are spread over the zones as evenly as the zones' sizes allow; with at least
//! N′ zones no two owners share one.

use std::collections::BTreeMap;

/// The zones and their shares of each partition. A member without a zone is a zone of its own.
#[derive(Debug)]
pub(super) struct Zones {
    /// Of each member: its zone.
    pub(super) of_member: Vec<usize>,
    /// Of each zone: how many owners of every partition it holds at least.
    pub(super) base: Vec<u32>,
    /// Of each zone: whether it has members left to hold one owner more than its base.
    pub(super) may_exceed: Vec<bool>,
    /// How many zones hold one owner more than their base, in every partition.
    pub(super) extras: u32,
}

impl Zones {
    /// The zones of members (empty names are no zone) that hold `replicas` ≤ members owners of each partition.
    ///
    /// Filled level by level, as water would: the base of a zone is `min(its members, level)` with the highest level
    /// that takes no more than `replicas` owners; the owners left go to zones above that level, one to each.
    pub(super) fn new(names: &[&str], replicas: u32) -> Zones {
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        let mut sizes: Vec<u32> = Vec::new();
        let mut of_member = Vec::with_capacity(names.len());
        for &name in names {
            let fresh = sizes.len();
            let zone = if name.is_empty() {
                fresh
            } else {
                *numbers.entry(name).or_insert(fresh)
            };
            if zone == fresh {
                sizes.push(0);
            }
            sizes[zone] += 1;
            of_member.push(zone);
        }
        let filled = |level: u32| sizes.iter().map(|&size| size.min(level)).sum::<u32>();
        let level = (0..=replicas)
            .rev()
            .find(|&level| filled(level) <= replicas)
            .expect("level 0 takes none");
        Zones {
            of_member,
            base: sizes.iter().map(|&size| size.min(level)).collect(),
            may_exceed: sizes.iter().map(|&size| size > level).collect(),
            extras: replicas - filled(level),
        }
    }

    /// How many zones there are.
    pub(super) fn count(&self) -> usize {
        self.base.len()
    }

    /// The most owners of one partition that a zone may hold.
    pub(super) fn most(&self, zone: usize) -> u32 {
        self.base[zone] + u32::from(self.may_exceed[zone] && self.extras > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least and the most owners of each zone, zones in the order in which they first appear.
    fn spread(names: &[&str], replicas: u32) -> Vec<(u32, u32)> {
        let zones = Zones::new(names, replicas);
        (0..zones.count())
            .map(|zone| (zones.base[zone], zones.most(zone)))
            .collect()
    }

    #[test]
    fn owners_are_spread_as_evenly_as_zones_allow() {
        // Enough zones: one each, or none.
        assert_eq!(spread(&["a", "b", "c", "a"], 3), [(1, 1), (1, 1), (1, 1)]);
        assert_eq!(spread(&["a", "b", "c", "d"], 3), [(0, 1); 4]);
        // Too few: two and one, either way round.
        assert_eq!(spread(&["a", "a", "b", "b"], 3), [(1, 2), (1, 2)]);
        // One is too small for more than one.
        assert_eq!(spread(&["a", "a", "a", "b"], 3), [(2, 2), (1, 1)]);
        assert_eq!(
            spread(&["a", "a", "a", "b", "c", "c"], 5),
            [(2, 2), (1, 1), (2, 2)]
        );
        assert_eq!(spread(&["a", "a"], 2), [(2, 2)]);
    }

    #[test]
    fn a_member_without_a_zone_is_one_of_its_own() {
        assert_eq!(spread(&["", "", "a", "a"], 2), [(0, 1); 3]);
    }
}
