//! The gRPC interfaces of Ringfort: generated types, and the typed error that both sides speak.
//!
//! This crate leaves out, on purpose: any decision. It knows shapes and codes, not when to use them.

mod error;

pub use error::{ERROR_TRAILER, Failure, Reason};

/// The packages as the protos nest them; use the re-exports [`v1`] and [`peer`].
#[allow(missing_docs, clippy::all)]
pub mod ringfort {
    pub mod v1 {
        tonic::include_proto!("ringfort.v1");
    }
    pub mod peer {
        pub mod v1 {
            tonic::include_proto!("ringfort.peer.v1");
        }
    }
}

/// `ringfort.peer.v1`: what nodes speak to each other.
pub use ringfort::peer::v1 as peer;
/// `ringfort.v1`: what clients and operators speak.
pub use ringfort::v1;

/// The encoded `FileDescriptorSet` of all packages, for the reflection service.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ringfort.bin"));
