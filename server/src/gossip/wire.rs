//! Gossip as it travels, and back. What comes in has the right shape here; [`Message::check`] judges the rest.

use std::sync::Arc;

use ringfort_proto::peer::{self, GossipKind};
use ringfort_ring::{
    NodeNameError, StoreId,
    gossip::{Age, Beat, Entry, Message, News, Suspicion, Topic, Value},
};

use crate::layout_wire::{member_from_wire, member_to_wire};

/// Why a message is no gossip.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadGossip {
    /// Parallel lists have different lengths.
    #[error("a list of heartbeats is torn")]
    Torn,
    /// A name is none.
    #[error(transparent)]
    Name(#[from] NodeNameError),
    /// There is no such kind.
    #[error("gossip of the unknown kind {0}")]
    Kind(i32),
}

/// A message as it travels; `None` says that the exchange is over.
pub fn to_wire(fence: peer::Fence, message: Option<&Message>) -> peer::GossipMessage {
    let empty = peer::GossipMessage {
        fence: Some(fence),
        ..peer::GossipMessage::default()
    };
    match message {
        None => empty,
        Some(Message::Digest(beats)) => peer::GossipMessage {
            kind: GossipKind::Digest.into(),
            beats: Some(beats_to_wire(beats)),
            ..empty
        },
        Some(Message::Answer { beats, news, want }) => peer::GossipMessage {
            kind: GossipKind::Answer.into(),
            beats: Some(beats_to_wire(beats)),
            news: news.iter().map(news_to_wire).collect(),
            want: Some(beats_to_wire(want)),
            ..empty
        },
        Some(Message::News(news)) => peer::GossipMessage {
            kind: GossipKind::News.into(),
            news: news.iter().map(news_to_wire).collect(),
            ..empty
        },
    }
}

/// A message off the wire, without its fence; `None` if the exchange is over.
///
/// # Errors
/// [`BadGossip`].
pub fn from_wire(wire: peer::GossipMessage) -> Result<Option<Message>, BadGossip> {
    let news = |wire: Vec<peer::GossipNews>| -> Result<Vec<News>, BadGossip> {
        wire.into_iter().map(news_from_wire).collect()
    };
    let message = match GossipKind::try_from(wire.kind) {
        Ok(GossipKind::Unspecified) => return Ok(None),
        Ok(GossipKind::Digest) => Message::Digest(beats_from_wire(wire.beats)?),
        Ok(GossipKind::Answer) => Message::Answer {
            beats: beats_from_wire(wire.beats)?,
            news: news(wire.news)?,
            want: beats_from_wire(wire.want)?,
        },
        Ok(GossipKind::News) => Message::News(news(wire.news)?),
        Err(_) => return Err(BadGossip::Kind(wire.kind)),
    };
    Ok(Some(message))
}

fn beats_to_wire(beats: &[Beat]) -> peer::Beats {
    peer::Beats {
        stores: beats.iter().map(|beat| beat.store.0).collect(),
        generations: beats.iter().map(|beat| beat.generation).collect(),
        counters: beats.iter().map(|beat| beat.counter).collect(),
        contents: beats.iter().map(|beat| beat.content).collect(),
    }
}

fn beats_from_wire(wire: Option<peer::Beats>) -> Result<Vec<Beat>, BadGossip> {
    let wire = wire.unwrap_or_default();
    let count = wire.stores.len();
    let lengths = [
        wire.generations.len(),
        wire.counters.len(),
        wire.contents.len(),
    ];
    if lengths != [count; 3] {
        return Err(BadGossip::Torn);
    }
    let beat = |place: usize| Beat {
        store: StoreId(wire.stores[place]),
        generation: wire.generations[place],
        counter: wire.counters[place],
        content: wire.contents[place],
    };
    Ok((0..count).map(beat).collect())
}

fn news_to_wire(news: &News) -> peer::GossipNews {
    peer::GossipNews {
        store: news.beat.store.0,
        generation: news.beat.generation,
        counter: news.beat.counter,
        content: news.beat.content,
        since: news.since,
        entries: news.entries.iter().map(entry_to_wire).collect(),
    }
}

fn news_from_wire(wire: peer::GossipNews) -> Result<News, BadGossip> {
    Ok(News {
        beat: Beat {
            store: StoreId(wire.store),
            generation: wire.generation,
            counter: wire.counter,
            content: wire.content,
        },
        since: wire.since,
        entries: wire
            .entries
            .into_iter()
            .map(entry_from_wire)
            .collect::<Result<_, _>>()?,
    })
}

fn entry_to_wire(entry: &Entry) -> peer::GossipEntry {
    let mut wire = peer::GossipEntry {
        topic: entry.topic.0,
        version: entry.version,
        ..peer::GossipEntry::default()
    };
    match &entry.value {
        Value::Listing(member) => wire.listing = Some(member_to_wire(member)),
        Value::Suspects(suspects) => {
            wire.suspects = Some(peer::Beats {
                stores: suspects.iter().map(|s| s.store.0).collect(),
                generations: suspects.iter().map(|s| s.since.generation).collect(),
                counters: suspects.iter().map(|s| s.since.counter).collect(),
                contents: Vec::new(),
            });
        }
        Value::Numbers(numbers) => wire.numbers = numbers.to_vec(),
    }
    wire
}

fn entry_from_wire(wire: peer::GossipEntry) -> Result<Entry, BadGossip> {
    let value = match (wire.listing, wire.suspects) {
        (Some(member), _) => Value::Listing(Arc::new(member_from_wire(member)?)),
        (None, Some(suspects)) => Value::Suspects(suspicions(&suspects)?),
        (None, None) => Value::Numbers(wire.numbers.into()),
    };
    Ok(Entry {
        topic: Topic(wire.topic),
        version: wire.version,
        value,
    })
}

fn suspicions(wire: &peer::Beats) -> Result<Arc<[Suspicion]>, BadGossip> {
    let count = wire.stores.len();
    if [wire.generations.len(), wire.counters.len()] != [count; 2] {
        return Err(BadGossip::Torn);
    }
    let suspicion = |place: usize| Suspicion {
        store: StoreId(wire.stores[place]),
        since: Age {
            generation: wire.generations[place],
            counter: wire.counters[place],
        },
    };
    Ok((0..count).map(suspicion).collect())
}

#[cfg(test)]
mod tests {
    use ringfort_ring::{Member, NodeName, PlacementId};

    use super::*;

    fn beat(store: u64) -> Beat {
        Beat {
            store: StoreId(store),
            generation: 5,
            counter: 9,
            content: 7,
        }
    }

    fn news() -> News {
        let member = Member {
            name: NodeName::new("ash").expect("a valid name"),
            placement_id: PlacementId(1),
            store_id: StoreId(2),
            tokens: 256,
            zone: "z".to_owned(),
            client_addr: "a:1".to_owned(),
            peer_addr: "a:2".to_owned(),
            http_addr: "a:3".to_owned(),
        };
        let suspicion = Suspicion {
            store: StoreId(3),
            since: Age {
                generation: 1,
                counter: 2,
            },
        };
        let values = [
            (Topic::LISTING, Value::Listing(Arc::new(member))),
            (Topic::SUSPECTS, Value::Suspects(Arc::new([suspicion]))),
            (Topic::TRACKERS, Value::Numbers(Arc::new([3, 2, 1]))),
            (Topic(77), Value::Numbers(Arc::new([]))),
        ];
        News {
            beat: beat(2),
            since: 1,
            entries: values
                .into_iter()
                .zip(2..)
                .map(|((topic, value), version)| Entry {
                    topic,
                    version,
                    value,
                })
                .collect(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let messages = [
            Message::Digest(vec![beat(1), beat(2)]),
            Message::Answer {
                beats: vec![beat(1)],
                news: vec![news()],
                want: vec![beat(4)],
            },
            Message::News(vec![news()]),
        ];
        for message in messages {
            let wire = to_wire(peer::Fence::default(), Some(&message));
            let size = prost::Message::encoded_len(&wire);
            assert!(
                size.abs_diff(message.bytes()) < 64,
                "{size} bytes, {} foretold",
                message.bytes()
            );
            assert_eq!(from_wire(wire), Ok(Some(message)));
        }
        assert_eq!(from_wire(to_wire(peer::Fence::default(), None)), Ok(None));
    }

    #[test]
    fn what_is_torn_is_refused() {
        let mut wire = to_wire(
            peer::Fence::default(),
            Some(&Message::Digest(vec![beat(1)])),
        );
        if let Some(beats) = &mut wire.beats {
            beats.counters.clear();
        }
        assert_eq!(from_wire(wire), Err(BadGossip::Torn));
        let odd = peer::GossipMessage {
            kind: 9,
            ..peer::GossipMessage::default()
        };
        assert_eq!(from_wire(odd), Err(BadGossip::Kind(9)));
    }
}
