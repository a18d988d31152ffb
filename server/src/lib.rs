//! The Ringfort node: the parts that join `ring` and `storage`, and the command line.

pub mod clock;
pub mod config;
pub mod counters;
pub mod grpc;
pub mod limits;
pub mod net;
