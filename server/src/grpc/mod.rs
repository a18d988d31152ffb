//! The services on the client port. They translate; every decision is the coordinator's.

pub mod standard;
pub mod switch;
