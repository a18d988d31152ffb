//! The Ringfort node: the parts that join `ring` and `storage`, and the command line.

pub mod config;
pub mod net;
