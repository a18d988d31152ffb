//! The Ringfort node: the parts that join `ring` and `storage`, and the command line.

pub mod bootstrap;
pub mod cli;
pub mod clock;
pub mod config;
pub mod coordinator;
pub mod core;
pub mod council;
pub mod counters;
pub mod data;
pub mod exchange;
pub mod giveway;
pub mod gossip;
pub mod grpc;
pub mod handoff;
pub mod health;
pub mod http;
pub mod layout_wire;
pub mod limits;
pub mod marks;
pub mod metrics;
pub mod mover;
pub mod net;
pub mod node;
pub mod peer;
pub mod pool;
pub mod scrub;
#[cfg(test)]
mod testing;
pub mod view;
pub mod wire;
