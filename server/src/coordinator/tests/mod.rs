//! The coordinator in a cluster of three: what it answers, and what it leaves behind.

mod chaos;
mod layouts;
mod lifetimes;
mod overload;
mod quorum;
mod repair;
mod requests;
mod routing;
mod sloppy;
