//! Versions: dotted version vector sets with request ids. Pure: no clock, no chance, no IO.
//!
//! Invariants kept here:
//! - **I2, nothing lost**: a sibling leaves an object only if a write whose context covered it (or another
//!   dot of the same request) did replace it, or if another sibling of the same request stands for it.
//! - **I5, convergence**: [`Object::merge`] is commutative, associative and idempotent over every object that
//!   [`Object::from_parts`] accepts, so replicas that saw the same objects are equal, whatever the order.
//! - Wall clocks order nothing. Time prunes the list of applied requests and decides what *reads* as expired.
//!
//! Sources: Preguiça et al., "Dotted Version Vectors: Logical Clocks for Optimistic Replication", 2010;
//! Almeida et al., "Scalable and Accurate Causality Tracking for Eventually Consistent Stores", 2014. The
//! compact list form of the latter is not used: counters here are per actor, with gaps.

mod applied;
mod clock;
pub mod context;
mod dot;
mod merge;
mod object;
mod sibling;
mod value;
mod write;

#[cfg(test)]
pub(crate) mod tests;

pub use applied::{APPLIED_AGE_MS_MAX, APPLIED_MAX, Applied, Dots};
pub use clock::{BadClock, Clock};
pub use context::{BadContext, Context};
pub use dot::{ActorId, Dot, Floor, RequestId};
pub use object::{BadObject, Object};
pub use sibling::{Payload, Sibling};
pub use value::Value;
pub use write::{NewPayload, Write};
