//! Layouts and members as they travel, and back. What comes in is checked: a layout that exists is valid.

use ringfort_proto::v1;
use ringfort_ring::{
    Epoch, Layout, LayoutError, Member, NodeName, NodeNameError, PlacementId, StoreId,
};

/// Why a message is no layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLayout {
    /// A member's name is none.
    #[error(transparent)]
    Name(#[from] NodeNameError),
    /// A rule of layouts is broken.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// A member as it travels.
pub fn member_to_wire(member: &Member) -> v1::Member {
    v1::Member {
        name: member.name.to_string(),
        placement_id: member.placement_id.0,
        store_id: member.store_id.0,
        tokens: member.tokens,
        zone: member.zone.clone(),
        client_addr: member.client_addr.clone(),
        peer_addr: member.peer_addr.clone(),
        http_addr: member.http_addr.clone(),
    }
}

/// A member off the wire; the layout that takes it up checks the rest.
///
/// # Errors
/// Its name is none.
pub fn member_from_wire(member: v1::Member) -> Result<Member, NodeNameError> {
    Ok(Member {
        name: NodeName::new(member.name)?,
        placement_id: PlacementId(member.placement_id),
        store_id: StoreId(member.store_id),
        tokens: member.tokens,
        zone: member.zone,
        client_addr: member.client_addr,
        peer_addr: member.peer_addr,
        http_addr: member.http_addr,
    })
}

/// A layout as it travels.
pub fn layout_to_wire(layout: &Layout) -> v1::Layout {
    v1::Layout {
        epoch: layout.epoch().0,
        partitions: layout.partitions(),
        replicas: layout.replicas(),
        members: layout.members().iter().map(member_to_wire).collect(),
    }
}

/// A layout off the wire.
///
/// # Errors
/// [`BadLayout`] names the first rule that is broken.
pub fn layout_from_wire(layout: v1::Layout) -> Result<Layout, BadLayout> {
    let members = layout
        .members
        .into_iter()
        .map(member_from_wire)
        .collect::<Result<_, _>>()?;
    Ok(Layout::new(
        Epoch(layout.epoch),
        layout.partitions,
        layout.replicas,
        members,
    )?)
}
