//! The client of Ringfort, a distributed key-value store.
//!
//! # Start
//!
//! A [`Client`] is built from any one endpoint of a cluster (or of a single node: there is no difference), is cheap to
//! clone, and connects with its first call. Every verb returns a builder; awaiting it makes the call.
//!
//! ```
//! # use ringfort_client::fake::FakeCluster;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), ringfort_client::Error> {
//! # let cluster = FakeCluster::new(3);
//! # #[cfg(any())]
//! let client = ringfort_client::Client::builder().endpoints(["127.0.0.1:7400"]).build()?;
//! # let client = cluster.client();
//! client.put("user:1", "Ada").await?;
//! let name = client.get("user:1").await?.one()?;
//! assert_eq!(name.as_deref(), Some(&b"Ada"[..]));
//! client.delete("user:1").await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Siblings and contexts
//!
//! Nothing that was acknowledged is lost to a write that did not know of it. Two writes that know nothing of each other
//! leave two **siblings**; a read gives all of them and a [`Context`] that covers exactly these; a write with that
//! context replaces them. Clocks on the wall decide nothing.
//!
//! ```
//! # use ringfort_client::fake::FakeCluster;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), ringfort_client::Error> {
//! # let client = FakeCluster::new(3).client();
//! client.put("cart", "apple").await?;
//! client.put("cart", "pear").await?; // blind: it stands beside the apple
//!
//! let read = client.get("cart").await?;
//! assert_eq!(read.siblings().len(), 2);
//! let context = read.context().cloned().expect("there are values");
//! client.put("cart", "apple,pear").context(context).await?;
//! assert_eq!(client.get("cart").await?.siblings().len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! [`Client::read_modify_write`] does this in one call and goes again when others write meanwhile. If a key has one
//! writer at a time, keep the context that [`Written`] brings and hand it to the next write.
//!
//! # Errors
//!
//! An [`Error`] says what happened ([`kind`](Error::kind)), whether the same call may succeed later
//! ([`is_retryable`](Error::is_retryable)) and whether a failed write may have been applied all the same
//! ([`is_ambiguous`](Error::is_ambiguous)); if not, nothing changed. Not found is no error.
//!
//! A call has one deadline (1 s unless told otherwise) around all of its attempts: at most three, under one request id,
//! so that a resend is applied at most once. Dropping a call's future is safe at any point; a write that was sent runs on.
//!
//! # Many calls
//!
//! Calls that run at the same time are pipelined on one stream per node and travel in batches, without waiting for each
//! other. [`Client::batch_get`] and [`Client::batch_write`] run many for one caller; `tokio::spawn`, `join_all` and
//! `FuturesUnordered` do as well. [`Client::scan`] streams all keys and can be resumed.
//!
//! # Tests
//!
//! [`fake::FakeCluster`] is a cluster in memory behind the same client, with siblings and faults on demand;
//! [`testing::LocalCluster`] starts a real one.
//!
//! *Left out on purpose:* anything that decides for the caller which sibling is right, and any retry of a call whose
//! deadline has passed.

mod ask;
mod builder;
mod call;
mod client;
mod connector;
mod context;
mod discovery;
mod error;
pub mod fake;
mod ids;
mod inner;
mod options;
mod policy;
mod random;
mod read;
mod route;
mod session;
pub mod testing;
mod verbs;

pub use ringfort_proto::{Failure, Reason};

pub use self::{
    builder::{ClientBuilder, DEFAULT_ENDPOINT},
    client::Client,
    context::Context,
    error::{Error, Kind},
    options::{Criticality, Durability},
    read::{Deleted, Evidence, Read, Sibling, Siblings, Written},
    verbs::{
        BatchGet, BatchWrite, Change, ClusterStatus, Current, Delete, Entry, Get, HeldHints,
        LayoutInfo, LayoutPlan, Layouts, Location, MemberInfo, Mutation, NodeStatus, PlannedMember,
        Put, ReadModifyWrite, Receiving, RepairProgress, ResumeToken, Roots, Scan, ScrubStart,
        Scrubbing, Undelete,
    },
};
