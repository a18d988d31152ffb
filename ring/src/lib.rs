//! Where keys live: tokens, partitions, virtual nodes, layouts and the placement of partitions on nodes; and who is there.
//!
//! *Invariant I6 (liveness moves no data):* placement is a pure function of the layout, and knows nothing of [`gossip`], which
//! tells who is up. The crate has no clock, no randomness, no IO and no async, and computes in integers, so that every machine
//! that holds a layout computes the same owners from it.
//!
//! ```
//! use ringfort_ring::{Epoch, Layout, Member, NodeName, Placement, PlacementId, StoreId, token, tokens_for_capacity};
//!
//! let members = ["ash", "birch", "cedar", "dogwood"].iter().zip(1..).map(|(name, id)| Member {
//!     name: NodeName::new(*name).expect("a valid name"),
//!     placement_id: PlacementId(id),
//!     store_id: StoreId(id),
//!     tokens: tokens_for_capacity(1.0).expect("a valid capacity"),
//!     zone: String::new(),
//!     client_addr: String::new(),
//!     peer_addr: String::new(),
//!     http_addr: String::new(),
//! });
//! let layout = Layout::new(Epoch(1), 1024, 3, members.collect()).expect("a valid layout");
//! let placement = Placement::compute(&layout).expect("small enough");
//! let partition = layout.partition_of(token(b"default", b"some key"));
//! assert_eq!(placement.owners(partition).len(), 3);
//! assert_eq!(placement.fallbacks(partition).len(), 1);
//! ```

pub mod consensus;
mod encoding;
pub mod gossip;
mod hash;
mod id;
mod layout;
mod moves;
pub mod phi;
mod placement;
#[cfg(test)]
mod testing;

pub use encoding::DecodeError;
pub use hash::{Token, token, token_of_framed};
pub use id::{
    ClusterId, Epoch, NAME_LEN_MAX, NodeName, NodeNameError, PartitionId, PlacementId, StoreId,
};
pub use layout::{
    ADDRESS_LEN_MAX, Acquisition, CHANGES_MAX, CapacityError, Change, ChangeError,
    DEFAULT_PARTITIONS, DEFAULT_REPLICAS, Decree, DecreeError, Excuse, History, Holding, Kind,
    LIVE_MAX, Layout, LayoutError, MEMBERS_MAX, Member, NotSuccessor, Notice, PARTITIONS_MAX,
    PARTITIONS_MIN, Plan, PlanError, PlanHash, PlanMember, REPLICAS_MAX, RecoverError, Recovery,
    Sources, Step, TOKENS_MAX, TOKENS_PER_CAPACITY, TOKENS_TOTAL_MAX, Trackers, TwoDecrees,
    ZONE_LEN_MAX, acquired, apply, capacity_of_tokens, check_hash, cluster_of, decode_changes,
    encode_changes, plan, plan_hash, recover, tokens_for_capacity,
};
pub use moves::{MemberMoves, Moves, moved};
pub use placement::{PAIRS_MAX, Placement, PlacementError, vnode_tokens};
