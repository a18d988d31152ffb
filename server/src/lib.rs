//! The Ringfort node: the parts that join `ring` and `storage`, and the command line.

pub mod bootstrap;
pub mod clock;
pub mod config;
pub mod counters;
pub mod grpc;
pub mod layout_wire;
pub mod limits;
pub mod net;
