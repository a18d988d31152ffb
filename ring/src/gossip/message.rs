//! What nodes say to each other: an exchange is a digest, its answer, and the news that the answer wanted.
//!
//! *Invariant I7 (bounded):* each list has a limit that [`Message::check`] holds a stranger's message to, and news stop at
//! [`NEWS_BYTES_MAX`]: what does not fit comes with a later exchange.

use super::entry::{Beat, Entry, Topic, Value, varint_bytes};
use crate::{id::StoreId, layout::MEMBERS_MAX};

/// Nodes that gossip knows, at most: all members of two layouts.
pub const NODES_MAX: usize = 2 * MEMBERS_MAX;
/// Entries of one node, at most.
pub const ENTRIES_MAX: usize = 32;
/// One entry, at most, in bytes.
pub const ENTRY_BYTES_MAX: usize = 64 * 1024;
/// News in one message, give or take one node's.
pub const NEWS_BYTES_MAX: usize = 256 * 1024;
/// Tags and lengths of one list, of news, of an entry: about.
const FRAME_BYTES: usize = 8;

/// What changed of one node's entries since a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The node and its heartbeat; with the entries comes everything up to its `content`.
    pub beat: Beat,
    /// Entries up to this version are left out; 0: none is.
    pub since: u64,
    /// The entries, ascending by topic.
    pub entries: Vec<Entry>,
}

impl News {
    /// About how many bytes it takes on the wire.
    pub fn bytes(&self) -> usize {
        let entry = |entry: &Entry| {
            FRAME_BYTES
                + varint_bytes(entry.topic.0.into())
                + varint_bytes(entry.version)
                + entry.value.bytes()
        };
        FRAME_BYTES
            + beat_bytes(&self.beat)
            + varint_bytes(self.since)
            + self.entries.iter().map(entry).sum::<usize>()
    }
}

/// One message between two nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Opens an exchange: all heartbeats that the sender knows, ascending by store.
    Digest(Vec<Beat>),
    /// Answers a digest.
    Answer {
        /// Heartbeats that are later here.
        beats: Vec<Beat>,
        /// Entries that the asker lacks.
        news: Vec<News>,
        /// What is known here of nodes whose entries are newer at the asker.
        want: Vec<Beat>,
    },
    /// Closes an exchange: what the answer wanted.
    News(Vec<News>),
}

/// A message that no sound node sends. Nothing was changed by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// A list is too long.
    #[error("a gossip message has a list of {0} items, and {max} are the most", max = NODES_MAX)]
    TooLong(usize),
    /// Heartbeats are not in ascending order of their stores.
    #[error("heartbeats in a gossip message are not in order at store {0}")]
    Order(StoreId),
    /// A heartbeat has a content that is newer than its counter.
    #[error("the heartbeat of store {0} contradicts itself")]
    Beat(StoreId),
    /// An entry is too large, of the wrong form, out of order or newer than its heartbeat; or there are too many.
    #[error("an entry of store {0} (topic {topic}) is none that a node writes", topic = .1.0)]
    Entry(StoreId, Topic),
}

impl Message {
    /// Holds a message that came from outside to the rules.
    ///
    /// # Errors
    /// [`BadMessage`] names the first rule that is broken.
    pub fn check(&self) -> Result<(), BadMessage> {
        match self {
            Message::Digest(beats) => check_beats(beats),
            Message::Answer { beats, news, want } => {
                check_beats(beats)?;
                check_beats(want)?;
                news.iter().try_for_each(check_news)?;
                limit(news.len())
            }
            Message::News(news) => {
                news.iter().try_for_each(check_news)?;
                limit(news.len())
            }
        }
    }

    /// About how many bytes it takes on the wire.
    pub fn bytes(&self) -> usize {
        let beats = |beats: &[Beat]| FRAME_BYTES + beats.iter().map(beat_bytes).sum::<usize>();
        let news = |news: &[News]| news.iter().map(News::bytes).sum::<usize>();
        FRAME_BYTES
            + match self {
                Message::Digest(all) => beats(all),
                Message::Answer {
                    beats: later,
                    news: told,
                    want,
                } => beats(later) + news(told) + beats(want),
                Message::News(told) => news(told),
            }
    }
}

fn beat_bytes(beat: &Beat) -> usize {
    8 + varint_bytes(beat.generation) + varint_bytes(beat.counter) + varint_bytes(beat.content)
}

fn limit(count: usize) -> Result<(), BadMessage> {
    if count > NODES_MAX {
        return Err(BadMessage::TooLong(count));
    }
    Ok(())
}

fn check_beats(beats: &[Beat]) -> Result<(), BadMessage> {
    limit(beats.len())?;
    if let Some(pair) = beats.windows(2).find(|pair| pair[0].store >= pair[1].store) {
        return Err(BadMessage::Order(pair[1].store));
    }
    beats.iter().try_for_each(check_beat)
}

fn check_beat(beat: &Beat) -> Result<(), BadMessage> {
    if beat.content > beat.counter {
        return Err(BadMessage::Beat(beat.store));
    }
    Ok(())
}

fn check_news(news: &News) -> Result<(), BadMessage> {
    check_beat(&news.beat)?;
    let store = news.beat.store;
    let mut last = None;
    for entry in &news.entries {
        let form = match entry.topic {
            Topic::LISTING => matches!(&entry.value, Value::Listing(m) if m.store_id == store),
            Topic::SUSPECTS => matches!(entry.value, Value::Suspects(_)),
            _ => matches!(entry.value, Value::Numbers(_)),
        };
        let sound = form
            && last < Some(entry.topic)
            && entry.version <= news.beat.content
            && entry.value.bytes() <= ENTRY_BYTES_MAX;
        if !sound {
            return Err(BadMessage::Entry(store, entry.topic));
        }
        last = Some(entry.topic);
    }
    if news.entries.len() > ENTRIES_MAX {
        return Err(BadMessage::Entry(store, Topic(0)));
    }
    Ok(())
}
