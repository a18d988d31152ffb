//! Part of Ringfort.

pub mod engine;
