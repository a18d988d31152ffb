//! Layouts for tests.

use crate::{
    DEFAULT_PARTITIONS, DEFAULT_REPLICAS, Epoch, Layout, Member, NodeName, PlacementId, StoreId,
    TOKENS_PER_CAPACITY, token,
};

/// How the members of a test cluster differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// All alike, without zones.
    Equal,
    /// Capacities 1, 2, 4, 1, 2, 4, …
    Weighted,
    /// All alike, dealt to that many zones.
    Zoned(u32),
}

impl Kind {
    /// The member of that number in the cluster of that family.
    pub(crate) fn member(self, family: u32, number: u32) -> Member {
        let (capacity, zone) = match self {
            Kind::Equal => (1, String::new()),
            Kind::Weighted => (1 << (number % 3), String::new()),
            Kind::Zoned(zones) => (1, format!("zone-{}", number % zones)),
        };
        member(family, number, capacity * TOKENS_PER_CAPACITY, zone)
    }

    /// The first `count` members of the family.
    pub(crate) fn members(self, family: u32, count: u32) -> Vec<Member> {
        (0..count)
            .map(|number| self.member(family, number))
            .collect()
    }
}

/// A member with well spread ids, the same for the same family and number.
pub(crate) fn member(family: u32, number: u32, tokens: u32, zone: String) -> Member {
    let id = token(&family.to_be_bytes(), &number.to_be_bytes()).0;
    Member {
        name: NodeName::new(format!("node-{number}")).expect("a valid name"),
        placement_id: PlacementId(id),
        store_id: StoreId(!id),
        tokens,
        zone,
        client_addr: String::new(),
        peer_addr: String::new(),
        http_addr: String::new(),
    }
}

/// A layout of the default size.
pub(crate) fn layout(members: Vec<Member>) -> Layout {
    sized(DEFAULT_PARTITIONS, DEFAULT_REPLICAS, members)
}

/// A layout of that many partitions and replicas.
pub(crate) fn sized(partitions: u32, replicas: u32, members: Vec<Member>) -> Layout {
    Layout::new(Epoch(1), partitions, replicas, members).expect("a valid layout")
}
