//! Which node to ask for a key: a pure choice over the layout and what is known of each session.
//!
//! *Invariant (I6):* what is alive changes the choice among nodes, never what the layout says of ownership. Any node is
//! a right choice, since nodes forward; a synced owner is the cheapest.

use std::{collections::BTreeSet, sync::Arc};

use ringfort_proto::v1;
use ringfort_ring::{
    Epoch, Layout, LayoutError, Member, NodeName, NodeNameError, Placement, PlacementError,
    PlacementId, StoreId, Token,
};

use crate::session::{Health, Session};

/// A layout with its placement; computed once per epoch.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) layout: Layout,
    pub(crate) placement: Placement,
}

/// Why a layout from the wire cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadLayout {
    #[error("it is missing")]
    Missing,
    #[error("{0}")]
    Name(#[from] NodeNameError),
    #[error("{0}")]
    Layout(#[from] LayoutError),
    #[error("{0}")]
    Placement(#[from] PlacementError),
}

impl Ring {
    /// The ring of a layout that came; of one that is `known`, amended at most, owners are the same.
    pub(crate) fn from_wire(
        wire: Option<v1::Layout>,
        known: Option<&Arc<Ring>>,
    ) -> Result<Arc<Self>, BadLayout> {
        let wire = wire.ok_or(BadLayout::Missing)?;
        let members: Result<Vec<Member>, NodeNameError> =
            wire.members.into_iter().map(member).collect();
        let layout = Layout::new(Epoch(wire.epoch), wire.partitions, wire.replicas, members?)?;
        let known = known.filter(|known| known.layout.epoch() == layout.epoch());
        let placement = match known {
            Some(known) if known.layout == layout => return Ok(Arc::clone(known)),
            Some(known) => known.placement.clone(),
            None => Placement::compute(&layout)?,
        };
        Ok(Arc::new(Ring { layout, placement }))
    }
}

fn member(wire: v1::Member) -> Result<Member, NodeNameError> {
    Ok(Member {
        name: NodeName::new(wire.name)?,
        placement_id: PlacementId(wire.placement_id),
        store_id: StoreId(wire.store_id),
        tokens: wire.tokens,
        zone: wire.zone,
        client_addr: wire.client_addr,
        peer_addr: wire.peer_addr,
        http_addr: wire.http_addr,
    })
}

/// What the client routes by.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) cluster: u64,
    /// The newest epoch that was known to whom the layout came from.
    pub(crate) newest: u64,
    pub(crate) ring: Arc<Ring>,
    /// Per member, the partitions that it owns and does not hold whole.
    pub(crate) unsynced: Vec<BTreeSet<u32>>,
    /// Per member, its session.
    pub(crate) sessions: Vec<Arc<Session>>,
    /// Sessions with endpoints that no member advertises: a proxy, or a name that only this side knows.
    pub(crate) seeds: Vec<Arc<Session>>,
}

impl View {
    pub(crate) fn epoch(&self) -> u64 {
        self.ring.layout.epoch().0
    }

    /// The session to send an operation on `token` to. `spin` turns the owners, so that load spreads over them;
    /// `avoid` is the address that just failed; `named` the node that the server said to ask.
    pub(crate) fn choose(
        &self,
        token: Token,
        spin: u64,
        avoid: Option<&str>,
        named: Option<&str>,
    ) -> &Arc<Session> {
        if let Some(session) = named.and_then(|name| self.session_of(name))
            && session.health() != Health::Down
        {
            return session;
        }
        let partition = self.ring.layout.partition_of(token);
        let owners = self.ring.placement.owners(partition);
        let nodes = self.sessions.len() + self.seeds.len();
        let ranked = turned(owners.len(), spin)
            .map(|index| usize::from(owners[index]))
            .map(|index| {
                (
                    index,
                    if self.unsynced[index].contains(&partition.0) {
                        Place::Other
                    } else {
                        Place::Owner
                    },
                )
            })
            .chain(turned(nodes, spin).map(|index| (index, Place::Other)));
        let mut best: Option<(u32, &Arc<Session>)> = None;
        for (index, place) in ranked {
            let session = self.session(index);
            let cost = cost(session.health(), place, avoid == Some(session.address()));
            if cost == 0 {
                return session;
            }
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, session));
            }
        }
        best.expect("a layout has at least one member").1
    }

    fn session(&self, index: usize) -> &Arc<Session> {
        self.sessions
            .get(index)
            .unwrap_or_else(|| &self.seeds[index - self.sessions.len()])
    }

    fn session_of(&self, name: &str) -> Option<&Arc<Session>> {
        let name = NodeName::new(name).ok()?;
        self.ring
            .layout
            .index_of(&name)
            .map(|index| &self.sessions[index])
    }
}

/// What a node is to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// An owner that holds the partition whole.
    Owner,
    /// Any other node: it forwards.
    Other,
}

/// How bad a choice is; 0 is as good as it gets.
fn cost(health: Health, place: Place, avoided: bool) -> u32 {
    let health = match health {
        Health::Fresh | Health::Up => 0,
        Health::Shaky => 4,
        Health::Draining => 16,
        Health::Down => 64,
    };
    let place = match place {
        Place::Owner => 0,
        Place::Other => 2,
    };
    health + place + if avoided { 8 } else { 0 }
}

/// The indices below `len`, from `spin` on around.
fn turned(len: usize, spin: u64) -> impl Iterator<Item = usize> {
    let first = if len == 0 {
        0
    } else {
        usize::try_from(spin % len as u64).expect("below len")
    };
    (first..len).chain(0..first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_healthy_node_beats_an_owner_that_is_not() {
        let owner = |health| cost(health, Place::Owner, false);
        let other = |health| cost(health, Place::Other, false);
        assert_eq!(owner(Health::Up), 0);
        assert_eq!(owner(Health::Fresh), 0);
        assert!(other(Health::Up) < owner(Health::Shaky));
        assert!(owner(Health::Shaky) < other(Health::Shaky));
        assert!(
            other(Health::Shaky) < cost(Health::Up, Place::Owner, true),
            "the one that just failed comes later"
        );
        assert!(cost(Health::Up, Place::Owner, true) < owner(Health::Draining));
        assert!(cost(Health::Draining, Place::Other, true) < owner(Health::Down));
    }

    #[test]
    fn turning_visits_each_once() {
        assert_eq!(turned(3, 7).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(turned(0, 7).count(), 0);
    }

    #[test]
    fn an_amended_layout_has_new_addresses_and_the_same_owners() {
        let member = |number: u64, host: &str| v1::Member {
            name: format!("n{number}"),
            placement_id: number,
            store_id: number,
            tokens: 256,
            client_addr: format!("{host}:7400"),
            ..v1::Member::default()
        };
        let layout = |epoch, host| {
            Some(v1::Layout {
                epoch,
                partitions: 8,
                replicas: 2,
                members: vec![member(1, host), member(2, "b"), member(3, "c")],
            })
        };
        let first = Ring::from_wire(layout(1, "a"), None).expect("valid");
        let same = Ring::from_wire(layout(1, "a"), Some(&first)).expect("valid");
        assert!(Arc::ptr_eq(&first, &same));
        let moved = Ring::from_wire(layout(1, "x"), Some(&first)).expect("valid");
        assert_eq!(moved.layout.members()[0].client_addr, "x:7400");
        assert_eq!(moved.placement, first.placement);
        let next = Ring::from_wire(layout(2, "x"), Some(&moved)).expect("valid");
        assert_eq!(next.layout.epoch(), Epoch(2));
    }
}
