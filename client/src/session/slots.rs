//! The operations of one session that have no answer yet, by id.
//!
//! *Invariant:* an id is never used twice in a session, so that a late answer finds nothing rather than another
//! operation's place. An id is the place's number with the count of its uses above.

use ringfort_proto::v1::{operation, operation_result};
use tokio::{sync::oneshot, time::Instant};

use crate::error::Error;

/// What comes back to the call.
pub(crate) type Reply = Result<operation_result::Kind, Error>;

/// One operation: queued, or sent and not answered.
#[derive(Debug)]
pub(super) struct Entry {
    /// The operation; `None` once it is sent.
    pub(super) kind: Option<operation::Kind>,
    /// Whoever waits; `None` once the deadline was reported. Closed if the call was dropped.
    pub(super) reply: Option<oneshot::Sender<Reply>>,
    pub(super) deadline: Instant,
    /// Bytes of credit that it holds.
    pub(super) weight: u32,
    /// Whether it changes something.
    pub(super) is_write: bool,
}

impl Entry {
    pub(super) fn is_sent(&self) -> bool {
        self.kind.is_none()
    }
}

/// The places.
#[derive(Debug, Default)]
pub(super) struct Slots {
    places: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Place {
    uses: u32,
    entry: Option<Entry>,
}

impl Slots {
    /// Puts an entry in; gives its id. The credit bounds how many there are.
    pub(super) fn insert(&mut self, entry: Entry) -> u64 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).expect("credit bounds the places")
        });
        let place = &mut self.places[number as usize];
        place.uses = place.uses.wrapping_add(1);
        place.entry = Some(entry);
        u64::from(place.uses) << 32 | u64::from(number)
    }

    /// The entry with that id, if it is still here.
    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Entry> {
        let place = self.places.get_mut((id & u64::from(u32::MAX)) as usize)?;
        if u64::from(place.uses) == id >> 32 {
            place.entry.as_mut()
        } else {
            None
        }
    }

    /// Takes the entry with that id out, if it is still here.
    pub(super) fn remove(&mut self, id: u64) -> Option<Entry> {
        self.get_mut(id)?;
        let number = (id & u64::from(u32::MAX)) as u32;
        self.free.push(number);
        self.places[number as usize].entry.take()
    }

    /// The ids and entries in use.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Entry)> {
        (0_u64..).zip(&self.places).filter_map(|(number, place)| {
            Some((u64::from(place.uses) << 32 | number, place.entry.as_ref()?))
        })
    }

    /// Takes all entries out.
    pub(super) fn drain(&mut self) -> Vec<Entry> {
        let ids: Vec<u64> = self.iter().map(|(id, _)| id).collect();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn entry() -> Entry {
        let deadline = Instant::now() + Duration::from_secs(1);
        Entry {
            kind: None,
            reply: None,
            deadline,
            weight: 1,
            is_write: false,
        }
    }

    #[tokio::test]
    async fn a_place_is_used_again_under_another_id() {
        let mut slots = Slots::default();
        let first = slots.insert(entry());
        assert!(slots.remove(first).is_some());
        let second = slots.insert(entry());
        assert_ne!(first, second);
        assert!(slots.remove(first).is_none(), "a late answer finds nothing");
        assert!(slots.get_mut(second).is_some());
        assert_eq!(slots.drain().len(), 1);
        assert_eq!(slots.iter().count(), 0);
    }
}
