//! Layouts for tests.

use crate::{
    Epoch, Layout, Member, NodeName, PlacementId, StoreId, TOKENS_PER_CAPACITY, vnode_token,
};

/// A member with spread-out ids made from `number`, `weight` units of capacity and a zone (empty for none).
pub(crate) fn member(number: u32, weight: u32, zone: &str) -> Member {
    let id = vnode_token(PlacementId(0x5eed), number).0;
    Member {
        name: NodeName::new(format!("node-{number}")).expect("a valid name"),
        placement_id: PlacementId(id),
        store_id: StoreId(!id),
        tokens: weight * TOKENS_PER_CAPACITY,
        zone: zone.to_owned(),
        client_addr: String::new(),
        peer_addr: String::new(),
        http_addr: String::new(),
    }
}

/// A layout of the default size.
pub(crate) fn layout(members: Vec<Member>) -> Layout {
    Layout::new(
        Epoch(1),
        crate::DEFAULT_PARTITIONS,
        crate::DEFAULT_REPLICAS,
        members,
    )
    .expect("a valid layout")
}
