//! A cluster of data paths in one process: real gRPC over in-memory connections, real stores on simulated disks.

mod net;
mod node;
mod ops;

pub use net::MemNet;
pub use node::{Cluster, Node, Options};
pub use ops::*;
