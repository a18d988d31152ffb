//! The store as a whole, on the simulated disk and engine: what was acknowledged is there after any crash.

mod basics;
mod concurrent;
mod damage;
mod engine;
mod erase;
mod hints;
mod model;
mod real;
mod reaping;
mod renew;
pub(super) mod rig;
mod scrub;
mod sweep;
mod trees;
