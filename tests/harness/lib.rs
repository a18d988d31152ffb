//! A whole cluster in one process and one seed: real nodes and real clients on a simulated network, simulated disks and
//! simulated time, under scheduled faults, with a recorded history and a checker.
//!
//! Keeps one promise for all the tests built on it: nothing here takes time or chance from anywhere but the seed, so one seed
//! replays one run, event by event. Only [`outside`] is no simulation: it runs the same workload and checker against real nodes.
//!
//! *Left out on purpose:* anything that stands in for the node or for the client. Only their parts are simulated.

pub mod ambush;
pub mod checker;
pub mod cluster;
pub mod copies;
pub mod drill;
pub mod driver;
pub mod faults;
pub mod fleet;
pub mod history;
pub mod hunt;
#[cfg(test)]
mod liveness;
pub mod medium;
pub mod net;
pub mod operator;
pub mod outside;
pub mod reaping;
pub mod restore;
pub mod roots;
pub mod rot;
pub mod run;
pub mod storm;
pub mod stranger;
pub mod sum;
pub mod sweep;
pub mod tap;
pub mod tempo;
pub mod trace;
pub mod unrest;
pub mod wall;
pub mod words;
pub mod workload;
