//! Which members own which partition: consistent hashing with bounded loads, then augmenting paths.
//!
//! *Invariant:* every partition ends with N′ distinct owners, no member exceeds its limit and no zone its share.
//! After Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2017); the dead ends that its
//! greedy walk leaves are resolved as a maximum flow is found (Ford and Fulkerson 1956), by shortest paths.

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

/// A step of the search for an augmenting path: who looks for one more of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The partition may take one more owner.
    Partition(u32),
    /// The partition may let one more zone exceed its base.
    Extra(u32),
    /// The partition may take one more owner in the zone.
    Zone(u32, usize),
    /// The member was offered one more partition.
    Member(u16),
}

impl<'a> Assignment<'a> {
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
        let owners = &self.owners[partition as usize];
        if owners.len() < self.replicas
            && !self.is_full(member)
            && self.has_room(partition, self.zones.of_member[usize::from(member)])
        {
            self.owners[partition as usize].push(member);
            self.owned[usize::from(member)].push(partition);
        }
    }

    /// Gives every partition the owners that it still lacks, moving as few others as that takes.
    pub(super) fn complete(&mut self) {
        let lacking: Vec<usize> = (0..self.owners.len())
            .filter(|&partition| self.owners[partition].len() < self.replicas)
            .collect();
        if lacking.is_empty() {
            return;
        }
        let mut search = Search::new(self);
        for partition in lacking {
            while self.owners[partition].len() < self.replicas {
                let path = search.path(
                    self,
                    u32::try_from(partition).expect("at most 2^16 partitions"),
                );
                self.apply(&path);
            }
        }
    }

    fn is_full(&self, member: u16) -> bool {
        self.owned[usize::from(member)].len() >= self.limits[usize::from(member)] as usize
    }

    /// How many owners the partition has in the zone.
    fn in_zone(&self, partition: u32, zone: usize) -> u32 {
        let owners = self.owners[partition as usize].iter();
        u32::try_from(
            owners
                .filter(|&&m| self.zones.of_member[usize::from(m)] == zone)
                .count(),
        )
        .expect("at most 7")
    }

    fn exceeds(&self, partition: u32, zone: usize) -> bool {
        self.in_zone(partition, zone) > self.zones.base[zone]
    }

    /// How many zones of the partition exceed their base.
    fn extras(&self, partition: u32) -> u32 {
        let owners = &self.owners[partition as usize];
        let zone = |owner: &u16| self.zones.of_member[usize::from(*owner)];
        let first_of_zone = |&at: &usize| {
            !owners[..at]
                .iter()
                .any(|other| zone(other) == zone(&owners[at]))
        };
        let zones = (0..owners.len())
            .filter(first_of_zone)
            .map(|at| zone(&owners[at]));
        u32::try_from(zones.filter(|&zone| self.exceeds(partition, zone)).count())
            .expect("at most 7")
    }

    fn has_room(&self, partition: u32, zone: usize) -> bool {
        let held = self.in_zone(partition, zone);
        held < self.zones.base[zone]
            || held < self.zones.most(zone) && self.extras(partition) < self.zones.extras
    }

    /// Applies a path: each member on it is taken by the partition before it and given up by the one after it.
    fn apply(&mut self, path: &[Step]) {
        for pair in path.windows(2) {
            match (pair[0], pair[1]) {
                (Step::Zone(partition, _), Step::Member(member)) => {
                    self.owners[partition as usize].push(member);
                    self.owned[usize::from(member)].push(partition);
                }
                (Step::Member(member), Step::Zone(partition, _)) => {
                    self.owners[partition as usize].retain(|&owner| owner != member);
                    self.owned[usize::from(member)].retain(|&owned| owned != partition);
                }
                _ => {}
            }
        }
    }
}

/// A breadth-first search over the flow network; its memory is kept between searches.
struct Search {
    partitions: usize,
    zones: usize,
    /// Of each numbered step: the search that saw it last, and the step before it.
    seen: Vec<(u32, u32)>,
    round: u32,
    queue: VecDeque<Step>,
    /// Of each zone: its members.
    members: Vec<Vec<u16>>,
}

impl Search {
    fn new(assignment: &Assignment<'_>) -> Search {
        let (partitions, zones) = (assignment.owners.len(), assignment.zones.count());
        let mut members = vec![Vec::new(); zones];
        for (member, &zone) in (0..).zip(&assignment.zones.of_member) {
            members[zone].push(member);
        }
        let steps = partitions * (2 + zones) + assignment.limits.len();
        Search {
            partitions,
            zones,
            seen: vec![(0, 0); steps],
            round: 0,
            queue: VecDeque::new(),
            members,
        }
    }

    fn number(&self, step: Step) -> usize {
        match step {
            Step::Partition(partition) => partition as usize,
            Step::Extra(partition) => self.partitions + partition as usize,
            Step::Zone(partition, zone) => {
                self.partitions * 2 + partition as usize * self.zones + zone
            }
            Step::Member(member) => self.partitions * (2 + self.zones) + usize::from(member),
        }
    }

    fn step(&self, number: usize) -> Step {
        let partition = |number| u32::try_from(number).expect("at most 2^16 partitions");
        let (first_zone, first_member) = (self.partitions * 2, self.partitions * (2 + self.zones));
        if number < self.partitions {
            Step::Partition(partition(number))
        } else if number < first_zone {
            Step::Extra(partition(number - self.partitions))
        } else if number < first_member {
            Step::Zone(
                partition((number - first_zone) / self.zones),
                (number - first_zone) % self.zones,
            )
        } else {
            Step::Member(u16::try_from(number - first_member).expect("at most 2^12 members"))
        }
    }

    fn visit(&mut self, from: Step, to: Step) {
        let number = self.number(to);
        if self.seen[number].0 != self.round {
            let before = u32::try_from(self.number(from)).expect("pairs are limited");
            self.seen[number] = (self.round, before);
            self.queue.push_back(to);
        }
    }

    /// A shortest path from the partition to a member with room.
    fn path(&mut self, at: &Assignment<'_>, partition: u32) -> Vec<Step> {
        self.round += 1;
        self.queue.clear();
        let start = Step::Partition(partition);
        self.visit(start, start);
        while let Some(step) = self.queue.pop_front() {
            match step {
                Step::Member(member) if !at.is_full(member) => return self.path_to(step),
                Step::Member(member) => {
                    let zone = at.zones.of_member[usize::from(member)];
                    for &owned in &at.owned[usize::from(member)] {
                        self.visit(step, Step::Zone(owned, zone));
                    }
                }
                Step::Partition(partition) => self.visit_zones(at, step, partition),
                Step::Extra(partition) => {
                    if at.extras(partition) > 0 {
                        self.visit(step, Step::Partition(partition));
                    }
                    for zone in 0..self.zones {
                        if at.zones.may_exceed[zone] && !at.exceeds(partition, zone) {
                            self.visit(step, Step::Zone(partition, zone));
                        }
                    }
                }
                Step::Zone(partition, zone) => self.visit_members(at, step, partition, zone),
            }
        }
        unreachable!(
            "the limits can hold every copy, so a path exists from every partition that lacks an owner"
        )
    }

    fn visit_zones(&mut self, at: &Assignment<'_>, step: Step, partition: u32) {
        if at.extras(partition) < at.zones.extras {
            self.visit(step, Step::Extra(partition));
        }
        for zone in 0..self.zones {
            if at.in_zone(partition, zone) < at.zones.base[zone] {
                self.visit(step, Step::Zone(partition, zone));
            }
        }
    }

    fn visit_members(&mut self, at: &Assignment<'_>, step: Step, partition: u32, zone: usize) {
        for index in 0..self.members[zone].len() {
            let member = self.members[zone][index];
            if !at.owners[partition as usize].contains(&member) {
                self.visit(step, Step::Member(member));
            }
        }
        if at.exceeds(partition, zone) {
            self.visit(step, Step::Extra(partition));
        }
        if at.in_zone(partition, zone) > 0 && at.zones.base[zone] > 0 {
            self.visit(step, Step::Partition(partition));
        }
    }

    fn path_to(&self, end: Step) -> Vec<Step> {
        let mut path = vec![end];
        let mut number = self.number(end);
        loop {
            let before = self.seen[number].1 as usize;
            if before == number {
                path.reverse();
                return path;
            }
            number = before;
            path.push(self.step(number));
        }
    }
}
