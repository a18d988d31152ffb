//! Which members own which partition: consistent hashing with bounded loads, then augmenting paths.
//!
//! *Invariant:* every partition ends with N′ distinct owners, no member exceeds its limit and no zone its share.
//!
//! After Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2017). What its greedy walk leaves
//! open is resolved by chains of swaps, as in matroid intersection (Lawler 1975): members' limits are one matroid, the
//! partitions' zone rules the other. A chain that is as short as possible keeps both, and there is one as long as an
//! owner is lacking, because the limits can hold every copy.

use std::collections::VecDeque;

use super::zones::Zones;

/// A growing assignment of members to partitions.
pub(super) struct Assignment<'a> {
    zones: &'a Zones,
    limits: &'a [u32],
    replicas: usize,
    /// Of each partition: its owners so far.
    pub(super) owners: Vec<Vec<u16>>,
    /// Of each member: the partitions that it owns so far.
    owned: Vec<Vec<u32>>,
}

/// How a member was reached: it takes the partition, which the other gives up if there is another.
#[derive(Debug, Clone, Copy)]
struct Link {
    partition: u32,
    from: Option<u16>,
}

impl<'a> Assignment<'a> {
    /// An assignment in which nobody owns anything.
    pub(super) fn new(
        partitions: u32,
        replicas: u32,
        limits: &'a [u32],
        zones: &'a Zones,
    ) -> Assignment<'a> {
        Assignment {
            zones,
            limits,
            replicas: replicas as usize,
            owners: vec![Vec::with_capacity(replicas as usize); partitions as usize],
            owned: vec![Vec::new(); limits.len()],
        }
    }

    /// Assigns the partition to the member unless someone is full.
    pub(super) fn offer(&mut self, partition: u32, member: u16) {
        if !self.is_full(member) && self.may_take(partition, member, None) {
            self.take(partition, member);
        }
    }

    /// Whether a later offer of the partition to the member may come to anything.
    pub(super) fn may_still_take(&self, partition: u32, member: u16) -> bool {
        self.owners[partition as usize].len() < self.replicas && !self.is_full(member)
    }

    /// Gives every partition the owners that it still lacks, moving as few others as that takes.
    pub(super) fn complete(&mut self) {
        for partition in 0..u32::try_from(self.owners.len()).expect("at most 2^16 partitions") {
            while self.owners[partition as usize].len() < self.replicas {
                for (member, link) in self.chain(partition) {
                    if let Some(from) = link.from {
                        self.give_up(link.partition, from);
                    }
                    self.take(link.partition, member);
                }
            }
        }
    }

    fn is_full(&self, member: u16) -> bool {
        self.owned[usize::from(member)].len() >= self.limits[usize::from(member)] as usize
    }

    fn zone(&self, member: u16) -> usize {
        self.zones.of_member[usize::from(member)]
    }

    /// Whether the partition may take the member in place of another, or besides all that it has.
    fn may_take(&self, partition: u32, member: u16, without: Option<u16>) -> bool {
        let owners = &self.owners[partition as usize];
        let left = owners.len() - usize::from(without.is_some());
        if left >= self.replicas || owners.contains(&member) {
            return false;
        }
        let zone = self.zone(member);
        if without.is_some_and(|without| self.zone(without) == zone) {
            return true;
        }
        let held = self.in_zone(partition, zone, without);
        held < self.zones.base[zone]
            || held < self.zones.most(zone) && self.extras(partition, without) < self.zones.extras
    }

    /// How many owners the partition has in the zone, one left out.
    fn in_zone(&self, partition: u32, zone: usize, without: Option<u16>) -> u32 {
        let owners = self.owners[partition as usize].iter();
        let there = owners.filter(|&&owner| Some(owner) != without && self.zone(owner) == zone);
        u32::try_from(there.count()).expect("at most 7 owners")
    }

    /// How many zones of the partition exceed their base, one owner left out.
    fn extras(&self, partition: u32, without: Option<u16>) -> u32 {
        let owners = &self.owners[partition as usize];
        let first_of_zone = |&at: &usize| {
            !owners[..at]
                .iter()
                .any(|&other| self.zone(other) == self.zone(owners[at]))
        };
        let zones = (0..owners.len())
            .filter(first_of_zone)
            .map(|at| self.zone(owners[at]));
        let exceeding =
            zones.filter(|&zone| self.in_zone(partition, zone, without) > self.zones.base[zone]);
        u32::try_from(exceeding.count()).expect("at most 7 owners")
    }

    fn take(&mut self, partition: u32, member: u16) {
        self.owners[partition as usize].push(member);
        self.owned[usize::from(member)].push(partition);
    }

    fn give_up(&mut self, partition: u32, member: u16) {
        self.owners[partition as usize].retain(|&owner| owner != member);
        self.owned[usize::from(member)].retain(|&owned| owned != partition);
    }

    /// A shortest chain of swaps that ends with a member that is not full: the partition takes the first member, which
    /// gives up another partition to the second, and so on. Found breadth first, so each member is seen once.
    fn chain(&self, partition: u32) -> Vec<(u16, Link)> {
        let mut links: Vec<Option<Link>> = vec![None; self.limits.len()];
        let mut unseen: Vec<u16> = (0..).take(self.limits.len()).collect();
        let mut queue = VecDeque::new();
        let start = [partition];
        let mut from = None;
        loop {
            let given = from.map_or(&start[..], |member: u16| &self.owned[usize::from(member)]);
            for &partition in given {
                let mut end = None;
                unseen.retain(|&member| {
                    if end.is_some() || !self.may_take(partition, member, from) {
                        return true;
                    }
                    links[usize::from(member)] = Some(Link { partition, from });
                    queue.push_back(member);
                    if !self.is_full(member) {
                        end = Some(member);
                    }
                    false
                });
                if let Some(end) = end {
                    return follow(&links, end);
                }
            }
            from = Some(
                queue
                    .pop_front()
                    .expect("the limits can hold every copy, so a chain exists"),
            );
        }
    }
}

/// The links from the start of the chain to its end.
fn follow(links: &[Option<Link>], end: u16) -> Vec<(u16, Link)> {
    let mut chain = Vec::new();
    let mut next = Some(end);
    while let Some(member) = next {
        let link = links[usize::from(member)].expect("every member of a chain was reached");
        chain.push((member, link));
        next = link.from;
    }
    chain.reverse();
    chain
}
