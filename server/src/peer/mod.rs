//! The data path between nodes: links out, a service in.
//!
//! Keeps I7 (what waits for a peer is bounded in bytes; past it an operation counts as *not sent* to that peer, and no
//! other peer notices) and I9 (each message carries the cluster id and the epoch, and is judged by them).
//!
//! Sending never waits: whatever has queued when the connection has room goes out as one batch.

pub mod bulk;
pub(crate) mod compare;
pub(crate) mod deliver;
mod dial;
pub mod fence;
mod lane;
pub mod links;
mod outbox;
pub(crate) mod owned;
pub mod replica;
pub(crate) mod scan;
pub mod service;
mod transfer;
pub(crate) mod turns;

pub use bulk::Bulk;
pub use fence::{Ahead, Fences, Heard};
pub use links::{LinkEvents, LinkParts, Links, PeerId};
pub use replica::{Replica, ReplicaParts};
pub use service::{DataSlot, Membership, service};
