//! What a store keeps of its word: votes and trackers, as they stand in its identity file.
//!
//! *Invariant:* a store that has lost this is another store. Its encoding is versioned and bounded.

use super::{Ballot, Votes};
use crate::{
    encoding::{DecodeError, Reader, Writer},
    id::{Epoch, StoreId},
    layout::{Decree, Trackers},
};

/// The newest format.
const FORMAT: u8 = 1;
/// The longest encoded decree, in bytes: two layouts of the most and longest members.
const DECREE_BYTES_MAX: usize = 10 << 20;

/// Votes and trackers of one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promises {
    /// In the epoch that is being decided.
    pub votes: Votes<Decree>,
    /// The store's own.
    pub trackers: Trackers,
}

impl Promises {
    /// A store that knows the decree and has promised nothing: all trackers at the oldest live layout.
    pub fn start(decree: &Decree) -> Promises {
        Promises {
            votes: Votes::none(decree.epoch().next()),
            trackers: Trackers::starting_at(decree.oldest().epoch()),
        }
    }

    /// The promises as they are kept.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u8(FORMAT);
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
                let decree = Decree::decode(reader.bytes("bytes of a decree", DECREE_BYTES_MAX)?)?;
                Some((number, decree))
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
        Ok(Promises { votes, trackers })
    }
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
