//! The durable store of one node: commit log, memory table, sled.

pub mod checkpoint;
pub mod codec;
pub mod disk;
pub mod driver;
pub mod engine;
pub mod identity;
pub mod key;
pub mod log;
pub mod merkle;
pub mod mutants;
pub mod record;
pub mod store;
pub mod twoslot;
pub mod version;

pub use codec::rows;
pub use key::{Key, KeyError};
pub use record::Record;
pub use store::Store;
