//! Bootstrap: how the first layout of a cluster, the decree of epoch 1, comes to be.
//!
//! Keeps I9: there is at most one decree per `--initial` list, because only its first name proposes, durably before the
//! first offer, and a store that has accepted one decree never accepts another. All members accept it, durably, before
//! any serves. A store with data never comes here, and an empty one that finds a cluster joins that instead ([`join`]).
//!
//! [`core`] decides; [`found`] asks, offers and persists.

pub mod core;
mod decree;
mod found;
pub mod join;
mod ledger;
mod roster;
#[cfg(test)]
mod tests;

pub use self::core::{Action, Answer, Founder, Standing, next};
pub use decree::{BadDecree, Decree, initial_hash};
pub use found::{BootstrapError, Plan, answer_from_wire, found};
pub use join::Place;

pub use ledger::{IdentityLedger, standing_of};
pub use roster::{Ledger, Roster};
