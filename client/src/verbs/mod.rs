//! The verbs of a client: one builder each, which becomes a future when it is awaited.

mod admin;
mod batch;
mod delete;
mod get;
mod layout;
mod modify;
mod put;
mod scan;
mod scrub;
mod undelete;

pub use self::{
    admin::{
        ClusterStatus, HeldHints, LayoutInfo, Location, MemberInfo, NodeStatus, Receiving,
        RepairProgress, Roots,
    },
    batch::{BatchGet, BatchWrite, Mutation},
    delete::Delete,
    get::Get,
    layout::{LayoutPlan, Layouts, PlannedMember},
    modify::{Change, Current, ReadModifyWrite},
    put::Put,
    scan::{Entry, ResumeToken, Scan},
    scrub::{ScrubStart, Scrubbing},
    undelete::Undelete,
};
