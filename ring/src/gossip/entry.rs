//! What is said of a node: heartbeats, and typed entries that only their node writes.
//!
//! *Invariant:* within one generation a counter, a version and what a topic says only go forward, so that two copies of a
//! node's state merge by taking the later of each, in any order (van Renesse et al., *Efficient reconciliation and flow
//! control for anti-entropy protocols*, LADIS 2008).

use std::sync::Arc;

use crate::{
    id::{Epoch, StoreId},
    layout::{Member, Trackers},
};

/// A node's heartbeat, as somebody knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Beat {
    /// The node, by its store: a replaced disk is another node to gossip.
    pub store: StoreId,
    /// Which life of the node; at least 1. 0 says: known from elsewhere, never heard.
    pub generation: u64,
    /// Rises with each tick and each change of an entry.
    pub counter: u64,
    /// The counter at which the newest known entry was written; all older ones are known, too.
    pub content: u64,
}

impl Beat {
    /// What orders the heartbeats of one node.
    pub fn age(&self) -> Age {
        Age {
            generation: self.generation,
            counter: self.counter,
        }
    }
}

/// A point in the life of a node: later ones are greater.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Age {
    /// See [`Beat::generation`].
    pub generation: u64,
    /// See [`Beat::counter`].
    pub counter: u64,
}

/// An opinion: nothing was heard of `store` for too long after `since`. A later heartbeat refutes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Suspicion {
    /// Who is suspected.
    pub store: StoreId,
    /// The last heartbeat that the observer heard.
    pub since: Age,
}

/// What an entry is about. Unknown topics are carried, too: a newer version may know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(pub u32);

impl Topic {
    /// How the node would be listed in a layout: its name and its addresses as they are now ([`Value::Listing`]).
    pub const LISTING: Topic = Topic(1);
    /// Whom the node suspects ([`Value::Suspects`]). Written by gossip itself.
    pub const SUSPECTS: Topic = Topic(2);
    /// The epoch of the newest layout that the node holds (one number).
    pub const EPOCH: Topic = Topic(3);
    /// The highest log sequence that the node knows to be durable in its own log (one number; now and then).
    pub const DURABLE_SEQUENCE: Topic = Topic(4);
    /// The trackers of the node's store (three numbers: [`Value::trackers`]).
    pub const TRACKERS: Topic = Topic(5);
    /// Reap generations that the node holds (numbers, defined by the reaper).
    pub const REAP_GENERATIONS: Topic = Topic(6);
    /// Whether the node waits to be added to a layout (one number: 1 or 0).
    pub const WAITING: Topic = Topic(7);
    /// Whether the node has stopped (one number: 1): its last word in this life.
    pub const GOODBYE: Topic = Topic(8);
}

/// What an entry says. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A node as a layout would list it.
    Listing(Arc<Member>),
    /// Opinions, ascending by store.
    Suspects(Arc<[Suspicion]>),
    /// Numbers whose meaning the topic gives.
    Numbers(Arc<[u64]>),
}

impl Value {
    /// One number.
    pub fn number(number: u64) -> Value {
        Value::Numbers(Arc::new([number]))
    }

    /// The trackers of a store: `ack`, `merged`, `flipped`.
    pub fn trackers(trackers: Trackers) -> Value {
        let Trackers {
            ack,
            merged,
            flipped,
        } = trackers;
        Value::Numbers(Arc::new([ack.0, merged.0, flipped.0]))
    }

    /// The trackers that it says, if it says any. Whether they are in order is for their reader to check.
    pub fn as_trackers(&self) -> Option<Trackers> {
        match self {
            Value::Numbers(numbers) => match **numbers {
                [ack, merged, flipped] => Some(Trackers {
                    ack: Epoch(ack),
                    merged: Epoch(merged),
                    flipped: Epoch(flipped),
                }),
                _ => None,
            },
            _ => None,
        }
    }

    /// About how many bytes it takes on the wire.
    pub fn bytes(&self) -> usize {
        match self {
            Value::Listing(member) => {
                40 + member.name.as_str().len()
                    + member.zone.len()
                    + member.client_addr.len()
                    + member.peer_addr.len()
                    + member.http_addr.len()
            }
            Value::Suspects(suspects) => suspects.iter().map(suspicion_bytes).sum(),
            Value::Numbers(numbers) => numbers.iter().map(|n| varint_bytes(*n)).sum(),
        }
    }
}

fn suspicion_bytes(suspicion: &Suspicion) -> usize {
    8 + varint_bytes(suspicion.since.generation) + varint_bytes(suspicion.since.counter)
}

/// One entry of a node's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is about.
    pub topic: Topic,
    /// The node's counter when it was written.
    pub version: u64,
    /// What it says.
    pub value: Value,
}

/// Bytes of a number in the wire's variable length.
pub(super) fn varint_bytes(number: u64) -> usize {
    let bits = (u64::BITS - number.leading_zeros()).max(1);
    bits.div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trackers_are_three_numbers() {
        let trackers = Trackers {
            ack: Epoch(7),
            merged: Epoch(6),
            flipped: Epoch(5),
        };
        assert_eq!(Value::trackers(trackers).as_trackers(), Some(trackers));
        assert_eq!(Value::number(7).as_trackers(), None);
    }

    #[test]
    fn numbers_take_seven_bits_a_byte() {
        for (number, bytes) in [
            (0, 1),
            (127, 1),
            (128, 2),
            (16_383, 2),
            (16_384, 3),
            (u64::MAX, 10),
        ] {
            assert_eq!(varint_bytes(number), bytes);
        }
    }
}
