//! Which owners can be reached, and whom to send an operation to that is another node's.
//!
//! Keeps I3 (copies that are not synced count toward W, never toward R) and the rule that an operation is sent on once.

use ringfort_proto::{Failure, Reason, peer, v1};
use ringfort_ring::PartitionId;
use ringfort_storage::mutants::{Mutant, is_planted};

use super::{
    admit::Arrival,
    pending::{Owners, Phase},
    step::Step,
};
use crate::{
    core::{LAYOUTS_MAX, OwnerSet, put::Quorum},
    counters::add,
    peer::{PeerId, links::Item},
    view::Live,
};

impl Step<'_> {
    /// Sends an operation on to one synced owner that is reachable, once.
    pub fn forward(
        &mut self,
        mut operation: v1::Operation,
        arrival: Arrival<'_>,
    ) -> Result<(), Failure> {
        let Some((_, target)) = self.synced_owner(arrival.addressed.partition) else {
            let why = "no synced owner of the key is reachable from this node";
            return Err(Failure::new(Reason::QuorumUnavailable, why)
                .with("need", 1)
                .with("alive", 0));
        };
        operation.deadline_us = arrival.addressed.deadline.as_micros() as u64;
        let owners = Owners::none();
        let id = self.insert(arrival, None, owners, Phase::Forwarded(target));
        operation.id = id.0;
        add(&self.parts.counters.forwards, 1);
        self.send(
            target,
            Item::Forward(Box::new(peer::Forward {
                operation: Some(operation),
            })),
        );
        Ok(())
    }

    /// The first synced owner that is connected, other than this node: its place among the members, and its number. One that
    /// gossip holds to be down (it may hang while its connections stand) is taken only if there is no other; and one that owns
    /// the partition by one of two live layouts alone only if none owns it by both, because it may read by the other one.
    pub fn synced_owner(&self, partition: PartitionId) -> Option<(usize, PeerId)> {
        let owners = self
            .view
            .owners(partition)
            .iter()
            .map(|&member| usize::from(member));
        let is_down = |member: usize| {
            let store = self.view.layout().members()[member].store_id;
            self.parts.routes.is_down(store)
        };
        owners
            .filter(|&member| self.view.is_synced(member, partition))
            .filter_map(|member| Some((member, self.peer_of(member)?)))
            .filter(|&(_, peer)| self.parts.links.connected(peer))
            .min_by_key(|&(member, _)| {
                (
                    is_down(member),
                    !self.view.owns_throughout(member, partition),
                )
            })
    }

    /// This node's copy does not hold all that it should: names a node to ask.
    pub fn not_synced(&self, partition: PartitionId) -> Failure {
        let failure = Failure::new(
            Reason::NotSynced,
            "this node's copy does not hold all that it should",
        );
        match self.synced_owner(partition) {
            Some((member, _)) => failure.with("ask", &self.view.layout().members()[member].name),
            None => failure,
        }
    }

    /// The owners by the layout that this node reads from; unless the read is strict, with fallbacks for those that are down.
    pub fn readers(&mut self, partition: PartitionId, strict: bool) -> Owners {
        let mut owners = Owners::none();
        let read = self.view.read_index();
        owners.add(read, self.view.owners(partition), self.peers(read));
        if is_planted(Mutant::CountOverLayouts) {
            for (layout, live) in self.view.live().iter().enumerate() {
                owners.add(layout, live.owners(partition), self.peers(layout));
            }
        }
        match strict {
            true => owners,
            false => self.with_fallbacks(partition, owners),
        }
    }

    /// The owners by all live layouts: whom an object is sent to.
    pub fn writers(&self, partition: PartitionId) -> Owners {
        let mut owners = Owners::none();
        for (layout, live) in self.view.live().iter().enumerate() {
            if is_planted(Mutant::ForgetOldEarly) && layout + 1 < self.view.live().len() {
                continue;
            }
            if is_planted(Mutant::PlaceByLiveness) {
                let placed = self.placed_by_liveness(layout, live, partition);
                owners.add(layout, &placed, self.peers(layout));
                continue;
            }
            owners.add(layout, live.owners(partition), self.peers(layout));
        }
        owners
    }

    /// The owners that are reached, and other members in the place of those that are not: a planted bug.
    fn placed_by_liveness(&self, layout: usize, live: &Live, partition: PartitionId) -> Vec<u16> {
        let (owners, peers) = (live.owners(partition), self.peers(layout));
        let is_up = |member: &u16| {
            let peer = peers[usize::from(*member)];
            peer.is_none_or(|peer| self.parts.links.connected(peer))
        };
        let others = (0..peers.len() as u16).filter(|member| !owners.contains(member));
        let up = owners.iter().copied().chain(others).filter(is_up);
        let mut placed: Vec<u16> = up.take(owners.len()).collect();
        let down = owners.iter().filter(|owner| !is_up(owner));
        let missing = owners.len() - placed.len();
        placed.extend(down.take(missing));
        placed
    }

    /// How many of whom must hold a copy: W in each live layout.
    pub fn quorums(&self, owners: Owners, w: Option<u32>) -> [Quorum; LAYOUTS_MAX] {
        let mut quorums = [Quorum::default(); LAYOUTS_MAX];
        for (layout, live) in self.view.live().iter().enumerate() {
            if is_planted(Mutant::ForgetOldEarly) && layout + 1 < self.view.live().len() {
                continue;
            }
            quorums[layout] = Quorum {
                owners: owners.by_layout(layout),
                fallbacks: OwnerSet::default(),
                need: w.unwrap_or_else(|| live.layout().default_quorum()),
            };
        }
        quorums
    }

    /// Whether as many as a write needs are reached: owners, and, unless it is strict, fallbacks of those that are not.
    pub fn check_writable(
        &self,
        owners: Owners,
        w: Option<u32>,
        strict: bool,
    ) -> Result<(), Failure> {
        let connected = |place: &usize| {
            let peer = owners.peer(*place);
            peer.is_none_or(|peer| self.parts.links.connected(peer))
        };
        for quorum in self.quorums(owners, w) {
            let alive = quorum.owners.iter().filter(connected).count() as u32;
            let fallbacks = owners.fallbacks();
            let counted = fallbacks
                .filter(|(place, _)| !strict && quorum.owners.contains(owners.stands_for(*place)));
            quorum_reachable("W", quorum.need, alive, counted.count() as u32)?;
        }
        Ok(())
    }

    /// Whether as many as a read needs are reached and count, the fallbacks among them for all that is known.
    pub fn check_readable(
        &self,
        partition: PartitionId,
        owners: Owners,
        need: u32,
    ) -> Result<(), Failure> {
        let members = self.view.owners(partition).iter().enumerate();
        let countable = members.filter(|&(place, &member)| {
            let reachable = owners
                .peer(place)
                .is_none_or(|peer| self.parts.links.connected(peer));
            reachable && self.view.is_synced(usize::from(member), partition)
        });
        let fallbacks = owners.fallback_count() as u32;
        quorum_reachable("R", need, countable.count() as u32, fallbacks)
    }
}

fn quorum_reachable(name: &str, need: u32, owners: u32, fallbacks: u32) -> Result<(), Failure> {
    if owners + fallbacks >= need {
        return Ok(());
    }
    let reached = match (owners, fallbacks) {
        (1, 0) => "1 owner of the key is".to_owned(),
        (_, 0) => format!("{owners} owners of the key are"),
        _ => format!("of the key's owners {owners} and of its fallbacks {fallbacks} are"),
    };
    let why = format!("{name} is {need}, and {reached} reachable; nothing was attempted");
    Err(Failure::new(Reason::QuorumUnavailable, why)
        .with("need", need)
        .with("alive", owners + fallbacks))
}
