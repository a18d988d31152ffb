//! The decree of epoch 1: what a cluster is made of.

use std::fmt::Write;

use prost::Message;
use ringfort_proto::peer;
use ringfort_ring::{ClusterId, Layout};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    config::InitialMember,
    layout_wire::{BadLayout, layout_from_wire, layout_to_wire},
};

/// A cluster id and its first layout, with the hash of the list it was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decree {
    /// Random, and never 0.
    pub cluster: ClusterId,
    /// Epoch 1.
    pub layout: Layout,
    /// See [`initial_hash`].
    pub initial_hash: u64,
}

/// Why a message or a stored text is no decree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDecree {
    /// Its bytes do not decode.
    #[error("a decree that does not decode: {0}")]
    Encoding(String),
    /// It has no layout.
    #[error("a decree without a layout")]
    NoLayout,
    /// Its cluster id is 0.
    #[error("a decree without a cluster id")]
    NoCluster,
    /// Its layout breaks a rule.
    #[error("a decree with a bad layout: {0}")]
    Layout(#[from] BadLayout),
}

impl Decree {
    /// The decree as it travels.
    pub fn to_wire(&self) -> peer::Decree {
        peer::Decree {
            cluster_id: self.cluster.0,
            layout: Some(layout_to_wire(&self.layout)),
            initial_hash: self.initial_hash,
        }
    }

    /// A decree off the wire.
    ///
    /// # Errors
    /// [`BadDecree`].
    pub fn from_wire(decree: peer::Decree) -> Result<Self, BadDecree> {
        if decree.cluster_id == 0 {
            return Err(BadDecree::NoCluster);
        }
        Ok(Decree {
            cluster: ClusterId(decree.cluster_id),
            layout: layout_from_wire(decree.layout.ok_or(BadDecree::NoLayout)?)?,
            initial_hash: decree.initial_hash,
        })
    }

    /// The decree as identity keeps it.
    pub fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    /// A decree that identity kept.
    ///
    /// # Errors
    /// [`BadDecree`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BadDecree> {
        let wire =
            peer::Decree::decode(bytes).map_err(|error| BadDecree::Encoding(error.to_string()))?;
        Decree::from_wire(wire)
    }
}

/// The hash of an `--initial` list, by which nodes find out that they were started with different ones: `xxh3_64` of its
/// entries `name=host:port`, host in lower case, in the order of the names, each ended by a line feed. 0 for an empty list.
pub fn initial_hash(initial: &[InitialMember]) -> u64 {
    if initial.is_empty() {
        return 0;
    }
    let mut sorted: Vec<_> = initial.iter().collect();
    sorted.sort();
    let mut text = String::new();
    for member in sorted {
        let peer = member.peer.to_string().to_lowercase();
        writeln!(text, "{}={peer}", member.name).expect("a string takes all");
    }
    xxh3_64(text.as_bytes())
}
