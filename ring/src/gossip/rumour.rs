//! News that do not wait for a tick: who is suspected, and who said goodbye.
//!
//! A suspicion that an observer has just formed goes to some others at once, and each of them that finds it current passes it on, so
//! that it is with all after a few hops of one message (Demers et al., *Epidemic algorithms for replicated database maintenance*,
//! PODC 1987, section 1.4: rumour mongering). Whom it misses hears of it by the next ticks. Whoever knows a later heartbeat of the
//! suspect answers with that; so does the suspect itself, whom the observer asks, too.
//!
//! *Invariant I7 (bounded):* of one silence of a node each other passes on the word of [`OBSERVERS_MIN`] observers, each once: more
//! change nothing. Where a later heartbeat is known nothing is passed on, so that a wrong suspicion ends with the few that share it.

use std::collections::BTreeSet;

use super::{
    Change, Gossip,
    entry::{Beat, Entry, Suspicion, Topic},
    judge::OBSERVERS_MIN,
    message::{Message, News},
    node::{Node, Standing},
    tick::{Spread, Target},
};
use crate::id::StoreId;

/// Nodes that a rumour is told by each that passes it on, over the logarithm of the number of nodes.
const FANOUT_OVER_LOG: usize = 1;

/// Nodes that a rumour is told by each that passes it on, among `nodes`: more than `ln n + 4`, with which all hear of it in 98 % of
/// cases (Kermarrec, Massoulié, Ganesh, *Probabilistic reliable dissemination in large-scale systems*, TPDS 2003, theorem 1).
fn rumour_fanout(nodes: usize) -> usize {
    nodes.ilog2() as usize + 1 + FANOUT_OVER_LOG
}

/// What is to be told at once.
#[derive(Debug, Default)]
pub(super) struct Rumour {
    /// Whose word it is.
    pub tellers: BTreeSet<StoreId>,
    /// Whom this node has begun to suspect.
    asked: Vec<StoreId>,
}

/// Of whom a silence was passed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PassedOn([Option<StoreId>; OBSERVERS_MIN]);

impl Change {
    /// The observer that says something new of whom it suspects, if that is what changed.
    pub(super) fn opinions_of(&self) -> Option<StoreId> {
        match self {
            Change::Entry(observer, Topic::SUSPECTS) => Some(*observer),
            _ => None,
        }
    }
}

impl PassedOn {
    /// Notes one more observer. Returns whether its word is to be passed on.
    fn note(&mut self, observer: StoreId) -> bool {
        if self.0.contains(&Some(observer)) {
            return false;
        }
        let free = self.0.iter_mut().find(|place| place.is_none());
        free.map(|place| *place = Some(observer)).is_some()
    }
}

impl Gossip {
    /// Takes the opinions of `observers` up for `rumour`, but for those that are refuted here or were passed on before.
    pub(super) fn hear_opinions(
        &mut self,
        observers: impl IntoIterator<Item = StoreId>,
        rumour: &mut Rumour,
    ) {
        for observer in observers {
            for opinion in self.believed(observer) {
                let Ok(index) = self.find(opinion.store) else {
                    continue;
                };
                let node = &mut self.nodes[index];
                if node.passed_on.note(observer) {
                    rumour.tellers.extend(node.passed_on.0.iter().flatten());
                    if observer == self.me {
                        rumour.asked.push(opinion.store);
                    }
                }
            }
        }
    }

    /// Tells a rumour to some that are up, and asks those whom this node has begun to suspect and that are not down yet.
    pub(super) fn pass_on(&mut self, rumour: Rumour) -> Option<Spread> {
        let Rumour { tellers, mut asked } = rumour;
        if tellers.is_empty() {
            return None;
        }
        let told = tellers.iter().filter_map(|&store| self.find(store).ok());
        let news = told.map(|index| urgent(&self.nodes[index])).collect();
        let mut targets = self.near(rumour_fanout(self.nodes.len()));
        asked.retain(|store| self.is_up(*store) && !targets.contains(&Target::Node(*store)));
        targets.extend(asked.into_iter().map(Target::Node));
        Some(Spread {
            targets,
            message: Message::News(news),
        })
    }

    /// The opinions of `observer` that count here.
    fn believed(&self, observer: StoreId) -> Vec<Suspicion> {
        let Ok(index) = self.find(observer) else {
            return Vec::new();
        };
        let node = &self.nodes[index];
        if observer != self.me && (node.suspected || node.standing != Standing::Up) {
            return Vec::new();
        }
        let current = |opinion: &&Suspicion| self.is_current(opinion);
        node.suspects().iter().filter(current).copied().collect()
    }

    /// Later heartbeats of those whom the observers in `changes` suspect: this node's own, too.
    pub(super) fn refute(&mut self, changes: &[Change]) -> Option<Message> {
        let mut beats: Vec<Beat> = Vec::new();
        for observer in changes.iter().filter_map(Change::opinions_of) {
            let Ok(observer) = self.find(observer) else {
                continue;
            };
            for opinion in self.nodes[observer].suspects().to_vec() {
                let Ok(index) = self.find(opinion.store) else {
                    continue;
                };
                let beat = &mut self.nodes[index].beat;
                if opinion.store == self.me && beat.age() == opinion.since && !self.has_left {
                    beat.counter = beat.counter.saturating_add(1);
                }
                if beat.age() > opinion.since {
                    beats.push(*beat);
                }
            }
        }
        beats.sort_by_key(|beat| beat.store);
        beats.dedup_by_key(|beat| beat.store);
        (!beats.is_empty()).then_some(Message::Answer {
            beats,
            news: Vec::new(),
            want: Vec::new(),
        })
    }
}

/// A node's latest urgent entry alone. Who knows all others before it has everything then.
fn urgent(node: &Node) -> News {
    let is_urgent = |entry: &&Entry| [Topic::SUSPECTS, Topic::GOODBYE].contains(&entry.topic);
    let latest = node
        .entries
        .iter()
        .filter(is_urgent)
        .max_by_key(|entry| entry.version);
    let version = latest.map_or(0, |entry| entry.version);
    let since = if version <= node.beat.content {
        let others = node.entries.iter().map(|entry| entry.version);
        others.filter(|other| *other < version).max().unwrap_or(0)
    } else {
        // It came here as a rumour, too, and what was written before it is not known here.
        version.saturating_sub(1)
    };
    let mut beat = node.beat;
    beat.content = version;
    News {
        beat,
        since,
        entries: latest.into_iter().cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            entry::Value,
            tests::{a_with, gossip, opinion},
        },
        *,
    };

    const ME: StoreId = StoreId(1);
    const B: StoreId = StoreId(2);
    const C: StoreId = StoreId(3);
    const D: StoreId = StoreId(4);
    const E: StoreId = StoreId(5);

    /// Whose word a rumour tells.
    fn tellers(rumour: &Spread) -> Vec<StoreId> {
        match &rumour.message {
            Message::News(news) => news.iter().map(|news| news.beat.store).collect(),
            other => panic!("a rumour is news: {other:?}"),
        }
    }

    #[test]
    fn a_suspicion_is_passed_on_once_and_of_two_observers() {
        let mut a = a_with(&[B, C, D, E], 100_000);
        let first = opinion(B, 20, E, 19);
        let heard = a.receive(100_001, B, first.clone()).expect("sound");
        let rumour = heard.hurry.expect("current");
        assert_eq!((rumour.targets.len(), tellers(&rumour)), (4, vec![B]));
        rumour.message.check().expect("sound");
        let again = a.receive(100_002, C, first).expect("sound");
        assert_eq!(again.hurry, None);
        let second = a.receive(100_003, C, opinion(C, 20, E, 19)).expect("sound");
        let rumour = second.hurry.expect("the second observer");
        assert_eq!((rumour.targets.len(), tellers(&rumour)), (3, vec![B, C]));
        assert!(!a.is_up(E));
        let third = a.receive(100_004, D, opinion(D, 20, E, 19)).expect("sound");
        assert_eq!(third.hurry, None, "two are enough");
    }

    #[test]
    fn an_own_suspicion_goes_to_the_suspect_too_which_refutes_it() {
        let others: Vec<StoreId> = (2..200).map(StoreId).collect();
        let mut a = a_with(&others, 100_000);
        let silent = others[0];
        for counter in 20..30 {
            let now_ms = 81_000 + counter * 1_000;
            let beats = others[1..].iter().map(|&store| Beat {
                store,
                generation: 1,
                counter,
                content: 0,
            });
            let digest = Message::Digest(beats.collect());
            let heard = a.receive(now_ms, others[1], digest).expect("sound");
            let Some(rumour) = heard.hurry.or(a.tick(now_ms, 0).hurry) else {
                continue;
            };
            assert_eq!(tellers(&rumour), [ME]);
            assert!(rumour.targets.contains(&Target::Node(silent)));
            assert!(rumour.targets.len() > rumour_fanout(199));
            let mut suspect = gossip(silent, 1);
            while suspect.my_beat().counter < 19 {
                suspect.tick(now_ms, 0);
            }
            let answer = suspect.receive(now_ms, ME, rumour.message).expect("sound");
            a.receive(now_ms, silent, answer.reply.expect("it lives"))
                .expect("sound");
            assert!(!a.health(now_ms, silent).expect("known").suspected);
            return;
        }
        panic!("the silence was not noticed");
    }

    #[test]
    fn who_knows_better_says_so_and_passes_nothing_on() {
        let mut a = a_with(&[B, C, D], 100_000);
        let heard = a.receive(100_001, B, opinion(B, 20, D, 18)).expect("sound");
        assert_eq!(heard.hurry, None);
        let Some(Message::Answer { beats, .. }) = heard.reply else {
            panic!("heartbeat 19 is known here");
        };
        assert_eq!(beats, [a.beat(D).expect("known")]);
    }

    #[test]
    fn a_rumour_counts_where_other_entries_are_missing_and_does_not_hide_them() {
        let mut b = gossip(B, 1);
        b.set(Topic::EPOCH, Value::number(7)).expect("small");
        let mut a = a_with(&[C, D], 100_000);
        let mut whole = b.nodes[0].clone();
        whole.beat.counter = 30;
        whole.entries.extend(match opinion(B, 25, D, 19) {
            Message::News(mut news) => news.remove(0).entries,
            _ => unreachable!("news"),
        });
        whole.entries.sort_by_key(|entry| entry.topic);
        whole.beat.content = 25;
        // a knows of b, but not its entries.
        for counter in [10, 11] {
            let beat = Beat {
                counter,
                content: 0,
                ..whole.beat
            };
            let entries = Vec::new();
            let since = 0;
            let news = News {
                beat,
                since,
                entries,
            };
            a.receive(100_001, B, Message::News(vec![news]))
                .expect("sound");
        }
        let rumour = urgent(&whole);
        assert_eq!((rumour.since, rumour.beat.content), (2, 25));
        let heard = a
            .receive(100_002, B, Message::News(vec![rumour]))
            .expect("sound");
        assert!(heard.changes.contains(&Change::Entry(B, Topic::SUSPECTS)));
        let beat = a.beat(B).expect("known");
        assert_eq!(beat.content, 0, "the epoch is still wanted");
        // What a tells of b now is sound, as a rumour and in an exchange.
        let rumour = heard.hurry.expect("current");
        rumour.message.check().expect("sound");
        let Message::News(news) = rumour.message else {
            unreachable!("news");
        };
        assert_eq!((news[0].since, news[0].beat.content), (24, 25));
        let mut e = gossip(E, 1);
        let digest = Message::Digest(vec![e.my_beat()]);
        let answer = a.receive(100_003, E, digest).expect("sound").reply;
        e.receive(100_003, ME, answer.expect("answers"))
            .expect("sound");
        assert_eq!(e.beat(B).map(|beat| beat.content), Some(0));
        let rest = News {
            beat: whole.beat,
            since: 0,
            entries: whole.entries,
        };
        a.receive(100_004, B, Message::News(vec![rest]))
            .expect("sound");
        assert_eq!(a.numbers(B, Topic::EPOCH), Some(&[7][..]));
    }

    #[test]
    fn a_heartbeat_that_comes_after_the_opinions_on_it_brings_nobody_back() {
        let mut a = a_with(&[B, C, D], 100_000);
        a.receive(100_001, B, opinion(B, 20, D, 20)).expect("sound");
        a.receive(100_002, C, opinion(C, 20, D, 20)).expect("sound");
        assert!(!a.is_up(D));
        let late = |counter| {
            let beat = Beat {
                store: D,
                generation: 1,
                counter,
                content: 0,
            };
            Message::Digest(vec![beat])
        };
        a.receive(100_003, B, late(20)).expect("sound");
        assert!(!a.is_up(D), "both suspect it since this one");
        a.receive(100_004, B, late(21)).expect("sound");
        assert!(a.is_up(D));
    }

    #[test]
    fn a_goodbye_is_passed_on_once() {
        let mut a = a_with(&[B, C, D], 100_000);
        let mut d = gossip(D, 1);
        while d.my_beat().counter < 19 {
            d.tick(100_000, 0);
        }
        d.leave(100_000);
        let news = Message::News(vec![urgent(&d.nodes[0])]);
        let heard = a.receive(100_001, D, news.clone()).expect("sound");
        let rumour = heard.hurry.expect("new here");
        assert_eq!((rumour.targets.len(), tellers(&rumour)), (2, vec![D]));
        assert!(!a.is_up(D));
        assert_eq!(a.receive(100_002, C, news).expect("sound").hurry, None);
    }
}
