//! Rounds as they travel, and back. What comes in is checked (I7).

use ringfort_proto::{
    Failure, Reason,
    peer::{self, ReapList, ReapLists},
};
use ringfort_storage::store::{REAPED_BYTES_MAX, REAPED_TOMBS_MAX, Tomb};

use crate::{
    peer::owned::key_in,
    view::View,
    wire::{clock_from_wire, clock_to_wire},
};

/// Partitions of one request, at most.
pub const LISTS_AT_ONCE: usize = 16;

/// What a request says of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The partition.
    pub partition: u32,
    /// The generation.
    pub generation: u64,
    /// What is to be reaped.
    pub tombs: Vec<Tomb>,
}

/// A list as it travels.
pub fn list_to_wire(partition: u32, generation: u64, tombs: &[Tomb]) -> ReapList {
    let tombs = tombs.iter().map(|tomb| peer::Tomb {
        key: tomb.key.framed().clone(),
        leaf: tomb.leaf,
        clock: Some(clock_to_wire(&tomb.clock)),
    });
    ReapList {
        partition,
        generation,
        tombs: tombs.collect(),
    }
}

/// Lists off the wire.
///
/// # Errors
/// `BAD_REQUEST`: more than there may be, or no lists at all.
pub fn lists_from_wire(view: &View, lists: ReapLists) -> Result<Vec<Asked>, Failure> {
    if lists.lists.len() > LISTS_AT_ONCE {
        let why = "more partitions than one request may have";
        return Err(Failure::new(Reason::BadRequest, why).with("limit", LISTS_AT_ONCE));
    }
    let lists = lists.lists.into_iter();
    lists.map(|list| list_from_wire(view, list)).collect()
}

fn list_from_wire(view: &View, list: ReapList) -> Result<Asked, Failure> {
    let bad = |why: String| Failure::new(Reason::BadRequest, why);
    let ReapList {
        partition,
        generation,
        tombs,
    } = list;
    if partition >= view.layout().partitions() {
        return Err(bad("a partition that there is not".to_owned()));
    }
    if tombs.len() > REAPED_TOMBS_MAX {
        return Err(bad("more keys than one list may have".to_owned()));
    }
    let tomb = |tomb: peer::Tomb| {
        Ok(Tomb {
            key: key_in(view, partition, &tomb.key).map_err(bad)?,
            leaf: tomb.leaf,
            clock: clock_from_wire(tomb.clock.unwrap_or_default())
                .map_err(|why| bad(why.to_string()))?,
        })
    };
    let tombs = tombs.into_iter().map(tomb);
    let tombs = tombs.collect::<Result<Vec<Tomb>, Failure>>()?;
    if tombs.iter().map(Tomb::byte_len).sum::<usize>() > REAPED_BYTES_MAX {
        return Err(bad("more bytes than one list may have".to_owned()));
    }
    if !tombs.is_sorted_by(|one, other| one.key < other.key) {
        return Err(bad("keys in no order".to_owned()));
    }
    Ok(Asked {
        partition,
        generation,
        tombs,
    })
}
