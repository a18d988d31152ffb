//! The layout: the versioned, validated input of placement.
//!
//! *Invariant I6 (liveness moves no data):* a layout is all that placement looks at. One that exists is valid, and its
//! members are in the order of their names, however they arrived.

mod acquire;
mod decree;
mod history;
mod plan;
mod recover;
mod staging;
#[cfg(test)]
mod tests;
mod trackers;

pub use acquire::{Acquisition, acquired};
pub use decree::{Decree, DecreeError, Excuse, Kind, LIVE_MAX, NotSuccessor};
pub use history::{History, Sources, Step, TwoDecrees};
pub use plan::{
    Holding, Notice, Plan, PlanError, PlanHash, PlanMember, check_hash, plan, plan_hash,
};
pub use recover::{RecoverError, Recovery, cluster_of, recover};
pub use staging::{CHANGES_MAX, Change, ChangeError, apply, decode_changes, encode_changes};
pub use trackers::Trackers;

use std::collections::BTreeSet;

use crate::{
    hash::Token,
    id::{Epoch, NodeName, PartitionId, PlacementId, StoreId},
};

/// Partitions of a new cluster, if nothing else is asked for.
pub const DEFAULT_PARTITIONS: u32 = 1024;
/// Owners of a partition, if nothing else is asked for.
pub const DEFAULT_REPLICAS: u32 = 3;
/// Virtual nodes of a member of capacity 1.
pub const TOKENS_PER_CAPACITY: u32 = 256;

/// The fewest partitions a cluster may have.
pub const PARTITIONS_MIN: u32 = 2;
/// The most partitions a cluster may have.
pub const PARTITIONS_MAX: u32 = 65_536;
/// The most owners a partition may have.
pub const REPLICAS_MAX: u32 = 7;
/// The most members of a layout.
pub const MEMBERS_MAX: usize = 4_096;
/// The most virtual nodes of one member: capacity 256.
pub const TOKENS_MAX: u32 = 65_536;
/// The most virtual nodes of all members together (32 MiB of tokens).
pub const TOKENS_TOTAL_MAX: u64 = 1 << 22;
/// The longest zone name, in bytes.
pub const ZONE_LEN_MAX: usize = 63;
/// The longest address, in bytes: a DNS name, a colon and a port.
pub const ADDRESS_LEN_MAX: usize = 260;

/// One member of a cluster, as the layout lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The node's name, which is its id.
    pub name: NodeName,
    /// What fixes the member's virtual nodes; kept when the machine is replaced.
    pub placement_id: PlacementId,
    /// The data directory that votes and stores for this member.
    pub store_id: StoreId,
    /// How many virtual nodes it has, which is its weight: `round(256 × capacity)`, at least 1.
    pub tokens: u32,
    /// What fails together with it; empty for none, and then the member counts as a zone of its own.
    pub zone: String,
    /// Where clients reach it, `host:port`.
    pub client_addr: String,
    /// Where other nodes reach it, `host:port`.
    pub peer_addr: String,
    /// Where metrics and probes are served, `host:port`.
    pub http_addr: String,
}

/// The versioned input of placement: epoch, members, Q and N.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    epoch: Epoch,
    partitions: u32,
    replicas: u32,
    members: Vec<Member>,
}

/// Why a layout is not valid. Nothing was changed by finding out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Q is no power of two, or out of range.
    #[error(
        "the number of partitions is a power of two from {PARTITIONS_MIN} to {PARTITIONS_MAX}, not {0}"
    )]
    Partitions(u32),
    /// N is out of range.
    #[error("the number of replicas is 1 to {REPLICAS_MAX}, not {0}")]
    Replicas(u32),
    /// There is nobody to own anything.
    #[error("a layout has at least one member")]
    NoMembers,
    /// There are too many members.
    #[error("a layout has at most {MEMBERS_MAX} members, not {0}")]
    TooManyMembers(usize),
    /// Two members have one name.
    #[error("two members are called {0}")]
    DuplicateName(NodeName),
    /// Two members have one placement id.
    #[error("two members have the placement id {0}")]
    DuplicatePlacement(PlacementId),
    /// Two members have one store id.
    #[error("two members have the store id {0}")]
    DuplicateStore(StoreId),
    /// A member's number of virtual nodes is out of range.
    #[error("member {name} has {tokens} tokens; it may have 1 to {TOKENS_MAX}")]
    Tokens {
        /// The member.
        name: NodeName,
        /// Its tokens.
        tokens: u32,
    },
    /// All members together have too many virtual nodes.
    #[error(
        "the members have {0} tokens together; they may have {TOKENS_TOTAL_MAX}: lower all capacities alike"
    )]
    TooManyTokens(u64),
    /// A zone name is too long, or has a character that is not printable ASCII.
    #[error("the zone of member {0} is longer than {ZONE_LEN_MAX} bytes, or not printable ASCII")]
    Zone(NodeName),
    /// An address is too long, or has a character that is not printable ASCII.
    #[error(
        "an address of member {0} is longer than {ADDRESS_LEN_MAX} bytes, or not printable ASCII"
    )]
    Address(NodeName),
}

impl Layout {
    /// A layout of `partitions` (Q) partitions with `replicas` (N) owners each, over `members` in any order.
    ///
    /// # Errors
    /// [`LayoutError`] names the first rule that is broken.
    pub fn new(
        epoch: Epoch,
        partitions: u32,
        replicas: u32,
        mut members: Vec<Member>,
    ) -> Result<Layout, LayoutError> {
        if !partitions.is_power_of_two() || !(PARTITIONS_MIN..=PARTITIONS_MAX).contains(&partitions)
        {
            return Err(LayoutError::Partitions(partitions));
        }
        if !(1..=REPLICAS_MAX).contains(&replicas) {
            return Err(LayoutError::Replicas(replicas));
        }
        members.sort_by(|a, b| a.name.cmp(&b.name));
        check_members(&members)?;
        Ok(Layout {
            epoch,
            partitions,
            replicas,
            members,
        })
    }

    /// The layout's version.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Q: how many partitions the ring has; a power of two.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// N: how many owners a partition should have.
    pub fn replicas(&self) -> u32 {
        self.replicas
    }

    /// The members in the order of their names; a placement's owners are indices into this.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// N′: how many owners a partition has, `min(N, members)`.
    pub fn effective_replicas(&self) -> u32 {
        let members = u32::try_from(self.members.len()).expect("at most MEMBERS_MAX members");
        self.replicas.min(members)
    }

    /// W and R, if a request asks for nothing else: `⌊N′ / 2⌋ + 1`.
    pub fn default_quorum(&self) -> u32 {
        self.effective_replicas() / 2 + 1
    }

    /// Where in [`members`](Layout::members) the node of that name is.
    pub fn index_of(&self, name: &NodeName) -> Option<usize> {
        self.members
            .binary_search_by(|member| member.name.cmp(name))
            .ok()
    }

    /// The member of that name.
    pub fn member(&self, name: &NodeName) -> Option<&Member> {
        self.index_of(name).map(|index| &self.members[index])
    }

    /// The partition that a token falls in: its top `log2(Q)` bits.
    pub fn partition_of(&self, token: Token) -> PartitionId {
        let bits = self.partitions.trailing_zeros();
        PartitionId(u32::try_from(token.0 >> (u64::BITS - bits)).expect("at most 16 bits are left"))
    }

    /// The first and the last token of a partition, both inside it.
    pub fn token_range(&self, partition: PartitionId) -> (Token, Token) {
        let bits = self.partitions.trailing_zeros();
        let first = u64::from(partition.0) << (u64::BITS - bits);
        (Token(first), Token(first | (u64::MAX >> bits)))
    }

    /// All partitions in the order of the ring.
    pub fn partition_ids(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.partitions).map(PartitionId)
    }
}

/// Checks members that are sorted by name.
fn check_members(members: &[Member]) -> Result<(), LayoutError> {
    if members.is_empty() {
        return Err(LayoutError::NoMembers);
    }
    if members.len() > MEMBERS_MAX {
        return Err(LayoutError::TooManyMembers(members.len()));
    }
    if let Some(pair) = members.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(LayoutError::DuplicateName(pair[0].name.clone()));
    }
    let mut placements = BTreeSet::new();
    let mut stores = BTreeSet::new();
    for member in members {
        if !placements.insert(member.placement_id) {
            return Err(LayoutError::DuplicatePlacement(member.placement_id));
        }
        if !stores.insert(member.store_id) {
            return Err(LayoutError::DuplicateStore(member.store_id));
        }
        check_member(member)?;
    }
    let tokens = members.iter().map(|member| u64::from(member.tokens)).sum();
    if tokens > TOKENS_TOTAL_MAX {
        return Err(LayoutError::TooManyTokens(tokens));
    }
    Ok(())
}

fn check_member(member: &Member) -> Result<(), LayoutError> {
    let printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !(1..=TOKENS_MAX).contains(&member.tokens) {
        return Err(LayoutError::Tokens {
            name: member.name.clone(),
            tokens: member.tokens,
        });
    }
    if member.zone.len() > ZONE_LEN_MAX || !printable(&member.zone) {
        return Err(LayoutError::Zone(member.name.clone()));
    }
    let addresses = [&member.client_addr, &member.peer_addr, &member.http_addr];
    if addresses
        .iter()
        .any(|address| address.len() > ADDRESS_LEN_MAX || !printable(address))
    {
        return Err(LayoutError::Address(member.name.clone()));
    }
    Ok(())
}

/// A capacity that no member may have.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("a capacity is more than 0 and at most {max}, not {0}", max = TOKENS_MAX / TOKENS_PER_CAPACITY)]
pub struct CapacityError(pub f64);

/// The virtual nodes of a member of that capacity: `round(256 × capacity)`, at least 1.
///
/// This is the edge where a person's number becomes an integer; placement knows tokens only.
///
/// # Errors
/// [`CapacityError`] when the capacity is not a number, not above 0, or above 256.
pub fn tokens_for_capacity(capacity: f64) -> Result<u32, CapacityError> {
    let tokens = (capacity * f64::from(TOKENS_PER_CAPACITY)).round();
    if capacity > 0.0 && tokens <= f64::from(TOKENS_MAX) {
        // In range by the check, so the conversion is exact.
        Ok((tokens as u32).max(1))
    } else {
        Err(CapacityError(capacity))
    }
}

/// The capacity that so many virtual nodes stand for, to show to people.
pub fn capacity_of_tokens(tokens: u32) -> f64 {
    f64::from(tokens) / f64::from(TOKENS_PER_CAPACITY)
}
