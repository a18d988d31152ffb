//! The services on the client port. They translate; every decision is the coordinator's.

pub mod admin;
mod cursor;
mod deadline;
mod kv;
mod layout;
mod repair;
mod scan;
mod session;
pub mod standard;
pub mod switch;

#[cfg(test)]
mod tests;

pub use kv::{KvParts, KvService, kv_service};
