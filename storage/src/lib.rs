//! The durable store of one node: commit log, memory table, sled.

pub mod codec;
pub mod engine;
pub mod key;
pub mod merkle;
pub mod record;
pub mod version;

pub use codec::rows;
pub use key::{Key, KeyError};
pub use record::Record;
