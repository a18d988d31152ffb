//! What a store keeps of its word: the newest decree it knows, its votes and its trackers, as they stand in its identity
//! file. They change together, so that none outlives what it rests on.
//!
//! *Invariant:* a store that has lost this is another store. Its encoding is versioned and bounded.

use std::sync::Arc;

use super::{Ballot, Votes};
use crate::{
    encoding::{DecodeError, Reader, Writer},
    id::{Epoch, StoreId},
    layout::{Decree, Trackers},
};

/// The newest format.
const FORMAT: u8 = 1;
/// The longest encoded decree, in bytes: two layouts of the most and longest members.
pub const DECREE_BYTES_MAX: usize = 10 << 20;

/// Newest decree, votes and trackers of one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promises {
    /// The newest decree that the store knows.
    pub decree: Arc<Decree>,
    /// In the epoch that is being decided.
    pub votes: Votes<Decree>,
    /// The store's own.
    pub trackers: Trackers,
}

impl Promises {
    /// A store that knows the decree and has promised nothing: all trackers at the oldest live layout.
    pub fn start(decree: Arc<Decree>) -> Promises {
        Promises {
            votes: Votes::none(decree.epoch().next()),
            trackers: Trackers::starting_at(decree.oldest().epoch()),
            decree,
        }
    }

    /// A store that knows the decree, and that no layout has listed yet.
    pub fn outside(decree: Arc<Decree>) -> Promises {
        Promises {
            trackers: Trackers::starting_at(Epoch(0)),
            ..Promises::start(decree)
        }
    }

    /// Whether a layout lists the store, or has done so.
    pub fn was_member(&self) -> bool {
        self.trackers.ack > Epoch(0)
    }

    /// The same store, `me`, with a newer decree: votes on what is decided are forgotten, trackers are kept and, once a layout
    /// has listed the store, never behind the oldest live one.
    #[must_use]
    pub fn with_decree(self, decree: Arc<Decree>, me: StoreId) -> Promises {
        let start = Trackers::starting_at(decree.oldest().epoch());
        let trackers = match self.was_member() || decree.lists(me) {
            true => self.trackers.union(start),
            false => self.trackers,
        };
        Promises {
            votes: self.votes.of_instance(decree.epoch().next()),
            trackers,
            decree,
        }
    }

    /// The promises as they are kept.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u8(FORMAT);
        writer.bytes(&self.decree.encode());
        let Trackers {
            ack,
            merged,
            flipped,
        } = self.trackers;
        [ack, merged, flipped]
            .iter()
            .for_each(|epoch| writer.u64(epoch.0));
        writer.u64(self.votes.instance.0);
        writer.u64(self.votes.proposed);
        ballot(&mut writer, self.votes.promised);
        writer.u8(u8::from(self.votes.accepted.is_some()));
        if let Some((number, decree)) = &self.votes.accepted {
            ballot(&mut writer, *number);
            writer.bytes(&decree.encode());
        }
        writer.finish()
    }

    /// Promises that [`encode`](Promises::encode) wrote.
    ///
    /// # Errors
    /// [`DecodeError`]: the bytes are no promises of this version.
    pub fn decode(bytes: &[u8]) -> Result<Promises, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version(FORMAT)?;
        let decree = read_decree(&mut reader)?;
        let trackers = Trackers {
            ack: reader.epoch()?,
            merged: reader.epoch()?,
            flipped: reader.epoch()?,
        };
        let (instance, proposed): (Epoch, u64) = (reader.epoch()?, reader.u64()?);
        let promised = read_ballot(&mut reader)?;
        let accepted = match reader.u8()? {
            0 => None,
            1 => {
                let number = read_ballot(&mut reader)?;
                Some((number, read_decree(&mut reader)?))
            }
            mark => return Err(DecodeError::Mark(mark, "a vote")),
        };
        reader.end()?;
        let votes = Votes {
            instance,
            promised,
            accepted,
            proposed,
        };
        let decree = Arc::new(decree);
        Ok(Promises {
            decree,
            votes,
            trackers,
        })
    }
}

fn read_decree(reader: &mut Reader<'_>) -> Result<Decree, DecodeError> {
    Decree::decode(reader.bytes("bytes of a decree", DECREE_BYTES_MAX)?)
}

fn ballot(writer: &mut Writer, ballot: Ballot) {
    writer.u64(ballot.round);
    writer.u64(ballot.by.0);
}

fn read_ballot(reader: &mut Reader<'_>) -> Result<Ballot, DecodeError> {
    Ok(Ballot {
        round: reader.u64()?,
        by: StoreId(reader.u64()?),
    })
}
