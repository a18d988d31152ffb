//! The names of things: nodes, clusters, stores, placements, partitions, epochs.
//!
//! *Invariant I9 (fenced)* rests on these being distinct types: a store id never passes for a cluster id.

use std::{fmt, num::ParseIntError, str::FromStr};

/// The longest node name, in characters: what a DNS label can hold.
pub const NAME_LEN_MAX: usize = 63;

/// A node's name, which is also its id: 1 to 63 characters of `a-z`, `0-9` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(String);

/// Why a text is no node name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeNameError {
    /// The name is empty or longer than [`NAME_LEN_MAX`].
    #[error("a node name has 1 to {NAME_LEN_MAX} characters, this one has {0}")]
    Length(usize),
    /// The name holds something else than `a-z`, `0-9` and `-`.
    #[error("a node name is made of a-z, 0-9 and -, not of {0:?}")]
    Character(char),
}

impl NodeName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`NodeNameError`] when the name has the wrong length or a character outside `[a-z0-9-]`.
    pub fn new(name: impl Into<String>) -> Result<NodeName, NodeNameError> {
        let name = name.into();
        if let Some(bad) = name
            .chars()
            .find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-'))
        {
            return Err(NodeNameError::Character(bad));
        }
        if name.is_empty() || name.len() > NAME_LEN_MAX {
            return Err(NodeNameError::Length(name.len()));
        }
        Ok(NodeName(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for NodeName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = NodeNameError;

    fn from_str(name: &str) -> Result<NodeName, NodeNameError> {
        NodeName::new(name)
    }
}

macro_rules! hex_ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            /// 16 hexadecimal digits.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;

            /// Reads what `Display` writes.
            fn from_str(hex: &str) -> Result<$name, ParseIntError> {
                u64::from_str_radix(hex, 16).map($name)
            }
        }
    )*};
}

hex_ids! {
    /// The random id of a cluster, made at its bootstrap.
    ClusterId;
    /// The random id of one data directory, made with it.
    StoreId;
    /// The id that fixes a member's virtual nodes. It outlives the machine, so that replacing a node moves nothing else.
    PlacementId;
}

/// The number of a partition: the top `log2(Q)` bits of a token, `0..Q`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u32);

impl PartitionId {
    /// The number as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The version of a layout; each decree adds one. Epoch 1 is the bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "node-1", "0", &"x".repeat(NAME_LEN_MAX)] {
            assert_eq!(
                NodeName::new(good).map(|name| name.to_string()),
                Ok(good.to_owned())
            );
        }
        assert_eq!(NodeName::new(""), Err(NodeNameError::Length(0)));
        assert_eq!(
            NodeName::new("x".repeat(64)),
            Err(NodeNameError::Length(64))
        );
        for (bad, character) in [("Node", 'N'), ("a_b", '_'), ("a b", ' '), ("é", 'é')] {
            assert_eq!(NodeName::new(bad), Err(NodeNameError::Character(character)));
        }
    }

    #[test]
    fn ids_read_what_they_write() {
        for id in [0, 1, 0xdead_beef, u64::MAX] {
            let text = ClusterId(id).to_string();
            assert_eq!(text.len(), 16);
            assert_eq!(text.parse(), Ok(ClusterId(id)));
        }
        assert!("xyz".parse::<StoreId>().is_err());
    }
}
