//! The client of Ringfort.

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
        BatchGet, BatchWrite, Change, ClusterStatus, Current, Delete, Entry, Get, LayoutInfo,
        Location, MemberInfo, Mutation, NodeStatus, Put, ReadModifyWrite, ResumeToken, Scan,
    },
};
