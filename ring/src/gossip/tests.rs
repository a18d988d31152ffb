//! What gossip promises, message by message.

use std::sync::Arc;

use super::{
    message::{ENTRIES_MAX, ENTRY_BYTES_MAX},
    *,
};
use crate::testing::{Kind, layout};

const ASH: StoreId = StoreId(1);
const BIRCH: StoreId = StoreId(2);
const CEDAR: StoreId = StoreId(3);

pub(super) fn gossip(store: StoreId, generation: u64) -> Gossip {
    Gossip::new(store, generation, Settings::default(), 7)
}

/// One whole exchange that `a` opens with `b`, without a tick.
fn exchange(now_ms: u64, a: &mut Gossip, b: &mut Gossip) -> Vec<Change> {
    let digest = Message::Digest(a.nodes.iter().map(|node| node.beat).collect());
    talk(now_ms, a, b, digest)
}

fn talk(now_ms: u64, a: &mut Gossip, b: &mut Gossip, message: Message) -> Vec<Change> {
    let mut changes = Vec::new();
    let (mut to, mut from) = (b, a);
    let mut next = Some(message);
    while let Some(message) = next {
        let received = to.receive(now_ms, from.me(), message).expect("sound");
        changes.extend(received.changes);
        next = received.reply;
        std::mem::swap(&mut to, &mut from);
    }
    changes
}

/// Both tick once a second and talk to each other.
fn keep_company(from_s: u64, to_s: u64, a: &mut Gossip, b: &mut Gossip) {
    for second in from_s..to_s {
        let digest = a.tick(second * 1_000, 0).spread.message;
        talk(second * 1_000, a, b, digest);
        let digest = b.tick(second * 1_000 + 500, 0).spread.message;
        talk(second * 1_000 + 500, b, a, digest);
    }
}

#[test]
fn an_exchange_makes_both_know_the_same() {
    let (mut a, mut b, mut c) = (gossip(ASH, 1), gossip(BIRCH, 1), gossip(CEDAR, 1));
    c.set(Topic::EPOCH, Value::number(4)).expect("small");
    exchange(0, &mut c, &mut b);
    exchange(0, &mut a, &mut b);
    assert_eq!(a.numbers(CEDAR, Topic::EPOCH), Some(&[4][..]));
    let heard = a.health(0, CEDAR).expect("known");
    assert_eq!(
        heard.standing,
        Standing::Unheard,
        "hearsay proves nobody alive"
    );
    assert!(a.is_up(BIRCH) && b.is_up(CEDAR));
    // The later word goes the other way, too, and only what is new travels.
    c.tick(1_000, 0);
    c.set(Topic::TRACKERS, Value::Numbers(Arc::new([4, 4, 3])))
        .expect("small");
    exchange(1_000, &mut b, &mut c);
    let changes = exchange(1_000, &mut b, &mut a);
    assert!(changes.contains(&Change::Up(CEDAR)), "it rises: it lives");
    assert!(changes.contains(&Change::Entry(CEDAR, Topic::TRACKERS)));
    assert!(!changes.contains(&Change::Entry(CEDAR, Topic::EPOCH)));
    let again = exchange(1_000, &mut b, &mut a);
    assert_eq!(again, [], "nothing is said twice");
}

#[test]
fn any_order_of_messages_leads_to_the_same() {
    let mut c = gossip(CEDAR, 1);
    let mut digests = Vec::new();
    let mut news = Vec::new();
    for number in 0..6 {
        c.tick(number * 1_000, 0);
        c.set(Topic::EPOCH, Value::number(number)).expect("small");
        let whole = News {
            beat: c.my_beat(),
            since: 0,
            entries: c.nodes[0].entries.clone(),
        };
        digests.push(Message::Digest(vec![c.my_beat()]));
        news.push(Message::News(vec![whole]));
    }
    let mut orders = vec![digests.clone(), news.clone()];
    let mixed = |a: &[Message], b: &[Message]| -> Vec<Message> {
        let reversed = a.iter().rev().cloned();
        reversed
            .chain(b.iter().cloned())
            .chain(a.to_vec())
            .collect()
    };
    orders.push(mixed(&news, &digests));
    orders.push(mixed(&digests, &news));
    for order in &orders[2..] {
        let mut a = gossip(ASH, 1);
        for message in order {
            a.receive(1, CEDAR, message.clone()).expect("sound");
        }
        assert_eq!(a.beat(CEDAR), Some(c.my_beat()));
        assert_eq!(a.numbers(CEDAR, Topic::EPOCH), Some(&[5][..]));
    }
}

#[test]
fn a_new_life_replaces_the_old_one_whatever_its_clock_says() {
    let (mut a, mut b) = (gossip(ASH, 1), gossip(BIRCH, 50));
    b.set(Topic::EPOCH, Value::number(9)).expect("small");
    keep_company(1, 5, &mut a, &mut b);
    // b starts again, its clock far behind, and says less than before.
    let mut b = gossip(BIRCH, 3);
    b.set(Topic::DURABLE_SEQUENCE, Value::number(2))
        .expect("small");
    let changes = exchange(5_000, &mut b, &mut a);
    assert!(changes.contains(&Change::Renewed(51)), "{changes:?}");
    exchange(5_100, &mut b, &mut a);
    assert_eq!(a.beat(BIRCH), Some(b.my_beat()));
    assert_eq!(a.numbers(BIRCH, Topic::EPOCH), None, "of the earlier life");
    assert_eq!(a.numbers(BIRCH, Topic::DURABLE_SEQUENCE), Some(&[2][..]));
    let again = exchange(5_200, &mut b, &mut a);
    assert!(
        !again
            .iter()
            .any(|change| matches!(change, Change::Renewed(_)))
    );
}

#[test]
fn the_only_observer_there_is_suffices_and_one_heartbeat_brings_back() {
    let (mut a, mut b) = (gossip(ASH, 1), gossip(BIRCH, 1));
    keep_company(1, 20, &mut a, &mut b);
    let down_at = (20..40)
        .find(|second| {
            let changes = a.tick(second * 1_000, 0).changes;
            changes.contains(&Change::Down(BIRCH))
        })
        .expect("silence is noticed");
    assert!((22..=24).contains(&down_at), "{down_at}");
    let digest = b.tick(40_000, 0).spread.message;
    assert_eq!(talk(40_000, &mut b, &mut a, digest)[0], Change::Up(BIRCH));
    let health = a.health(40_000, BIRCH).expect("known");
    assert_eq!((health.suspected, health.flaps), (false, 1));
    assert_eq!(health.silence_ms, 0);
}

/// `a` with `others`, all up and heard of at `now_ms`, and with regular arrivals.
pub(super) fn a_with(others: &[StoreId], now_ms: u64) -> Gossip {
    let mut a = gossip(ASH, 1);
    for counter in 1..20 {
        let beats = others
            .iter()
            .map(|&store| News {
                beat: Beat {
                    store,
                    generation: 1,
                    counter,
                    content: 0,
                },
                since: 0,
                entries: Vec::new(),
            })
            .collect();
        let at_ms = now_ms - (19 - counter) * 1_000;
        a.receive(at_ms, others[0], Message::News(beats))
            .expect("sound");
        a.tick(at_ms, 0);
    }
    assert!(others.iter().all(|&store| a.is_up(store)));
    a
}

/// `observer` at that counter suspects `store` since that counter.
pub(super) fn opinion(observer: StoreId, at: u64, store: StoreId, since: u64) -> Message {
    let suspicion = Suspicion {
        store,
        since: Age {
            generation: 1,
            counter: since,
        },
    };
    Message::News(vec![News {
        beat: Beat {
            store: observer,
            generation: 1,
            counter: at,
            content: at,
        },
        since: 0,
        entries: vec![Entry {
            topic: Topic::SUSPECTS,
            version: at,
            value: Value::Suspects(Arc::new([suspicion])),
        }],
    }])
}

#[test]
fn two_observers_must_suspect_and_suspected_ones_do_not_count() {
    let [b, c, d] = [2, 3, 4].map(StoreId);
    let mut a = a_with(&[b, c, d], 100_000);
    let one = a.receive(100_001, b, opinion(b, 20, d, 19)).expect("sound");
    assert_eq!(one.changes, [Change::Entry(b, Topic::SUSPECTS)]);
    assert!(a.is_up(d), "one word is not enough");
    let two = a.receive(100_002, c, opinion(c, 20, d, 19)).expect("sound");
    assert!(two.changes.contains(&Change::Down(d)));

    // The same words, but b has fallen silent: its opinion is that of one who is cut off.
    let mut a = a_with(&[b, c, d], 100_000);
    for counter in 20..26 {
        let now_ms = 81_000 + counter * 1_000;
        let beats = [c, d].map(|store| Beat {
            store,
            generation: 1,
            counter,
            content: 0,
        });
        let digest = Message::Digest(beats.to_vec());
        a.receive(now_ms, c, digest).expect("sound");
        a.tick(now_ms, 0);
    }
    assert!(a.health(106_000, b).expect("known").suspected && a.is_up(b));
    let late = Message::News(vec![News {
        beat: Beat {
            store: b,
            generation: 1,
            counter: 19,
            content: 19,
        },
        since: 0,
        entries: match opinion(b, 19, d, 25) {
            Message::News(mut news) => news.remove(0).entries,
            _ => unreachable!("news"),
        },
    }]);
    a.receive(106_001, c, late).expect("sound");
    a.receive(106_002, c, opinion(c, 26, d, 25)).expect("sound");
    assert!(a.is_up(d), "only c's word counts, and there is me");
}

#[test]
fn a_later_heartbeat_refutes_opinions_before_it() {
    let [b, c, d] = [2, 3, 4].map(StoreId);
    let mut a = a_with(&[b, c, d], 100_000);
    a.receive(100_001, b, opinion(b, 20, d, 18)).expect("sound");
    a.receive(100_002, c, opinion(c, 20, d, 18)).expect("sound");
    assert!(a.is_up(d), "heartbeat 19 is known here");
}

#[test]
fn an_own_stall_is_not_the_silence_of_others() {
    let [b, c] = [2, 3].map(StoreId);
    let mut a = a_with(&[b, c], 100_000);
    assert_eq!(a.tick(160_000, 0).changes, [], "a minute's stall");
    assert!(a.is_up(b) && a.is_up(c));
    let silent: Vec<_> = (161..166)
        .flat_map(|second| a.tick(second * 1_000, 0).changes)
        .collect();
    assert_eq!(silent, [Change::Down(b), Change::Down(c)]);
}

#[test]
fn the_same_hiccup_is_less_suspicious_each_time() {
    let (mut a, mut b) = (gossip(ASH, 1), gossip(BIRCH, 1));
    let mut now_s = 1;
    let mut downs = Vec::new();
    for _ in 0..6 {
        keep_company(now_s, now_s + 10, &mut a, &mut b);
        now_s += 10;
        let silent = (now_s..now_s + 4).flat_map(|second| a.tick(second * 1_000, 0).changes);
        downs.push(
            silent
                .filter(|change| *change == Change::Down(BIRCH))
                .count(),
        );
        now_s += 4;
    }
    assert_eq!(downs[0], 1, "{downs:?}");
    assert_eq!(downs[3..], [0, 0, 0], "{downs:?}");
}

#[test]
fn who_is_in_no_layout_and_gone_is_forgotten_and_members_are_not() {
    let members = Kind::Equal.members(1, 2);
    let layout = layout(members);
    let mut a = Gossip::new(layout.members()[0].store_id, 1, Settings::default(), 7);
    a.follow(0, layout.members());
    let member = layout.members()[1].store_id;
    assert_eq!(a.listing(member).map(|m| &**m), Some(&layout.members()[1]));
    let mut stranger = gossip(CEDAR, 1);
    exchange(0, &mut stranger, &mut a);
    assert!(a.is_up(CEDAR));
    let is_told = |tick: &Tick| match &tick.spread.message {
        Message::Digest(beats) => beats.iter().any(|beat| beat.store == CEDAR),
        _ => false,
    };
    let mut told_until_ms = 0;
    for now_ms in (1_000..FORGET_AFTER_MS + 10_000).step_by(1_000) {
        if is_told(&a.tick(now_ms, 0)) {
            told_until_ms = now_ms;
        }
    }
    assert!((HIDE_AFTER_MS - 2_000..HIDE_AFTER_MS + 2_000).contains(&told_until_ms));
    assert_eq!(a.beat(CEDAR), None);
    assert_eq!(
        a.health(0, member).map(|health| health.standing),
        Some(Standing::Down)
    );
}

#[test]
fn what_was_remembered_gives_way_to_what_is_heard() {
    let mut a = gossip(ASH, 1);
    a.remember(0, BIRCH, Topic::TRACKERS, Value::number(3));
    let mut c = gossip(CEDAR, 1);
    exchange(0, &mut a, &mut c);
    assert_eq!(c.numbers(BIRCH, Topic::TRACKERS), Some(&[3][..]));
    assert_eq!(
        c.health(0, BIRCH).map(|health| health.standing),
        Some(Standing::Unheard)
    );
    let mut b = gossip(BIRCH, 1);
    b.set(Topic::TRACKERS, Value::number(5)).expect("small");
    exchange(0, &mut b, &mut c);
    assert_eq!(c.numbers(BIRCH, Topic::TRACKERS), Some(&[5][..]));
    c.remember(0, BIRCH, Topic::TRACKERS, Value::number(1));
    assert_eq!(c.numbers(BIRCH, Topic::TRACKERS), Some(&[5][..]));
}

#[test]
fn entries_have_limits() {
    let mut a = gossip(ASH, 1);
    let large = Value::Numbers(vec![1; ENTRY_BYTES_MAX + 1].into());
    assert_eq!(
        a.set(Topic::TRACKERS, large),
        Err(SetError::TooLarge(ENTRY_BYTES_MAX + 1))
    );
    for topic in 0..ENTRIES_MAX as u32 {
        a.set(Topic(100 + topic), Value::number(1)).expect("room");
    }
    let before = a.my_beat();
    assert_eq!(
        a.set(Topic::EPOCH, Value::number(1)),
        Err(SetError::TooMany)
    );
    assert_eq!(a.my_beat(), before);
}

#[test]
fn what_no_sound_node_sends_is_refused_and_changes_nothing() {
    let beat = |store, counter, content| Beat {
        store: StoreId(store),
        generation: 1,
        counter,
        content,
    };
    let news = |topic, version, value| {
        Message::News(vec![News {
            beat: beat(2, 5, 3),
            since: 0,
            entries: vec![Entry {
                topic,
                version,
                value,
            }],
        }])
    };
    let foreign = Kind::Equal.member(1, 1);
    let bad = [
        (
            Message::Digest(vec![beat(3, 1, 0), beat(2, 1, 0)]),
            BadMessage::Order(StoreId(2)),
        ),
        (
            Message::Digest(vec![beat(2, 1, 2)]),
            BadMessage::Beat(StoreId(2)),
        ),
        (
            Message::Digest(vec![beat(2, 1, 0); message::NODES_MAX + 1]),
            BadMessage::TooLong(message::NODES_MAX + 1),
        ),
        (
            news(Topic::EPOCH, 4, Value::number(1)),
            BadMessage::Entry(BIRCH, Topic::EPOCH),
        ),
        (
            news(Topic::LISTING, 1, Value::number(1)),
            BadMessage::Entry(BIRCH, Topic::LISTING),
        ),
        (
            news(Topic::LISTING, 1, Value::Listing(Arc::new(foreign))),
            BadMessage::Entry(BIRCH, Topic::LISTING),
        ),
    ];
    for (message, error) in bad {
        let mut a = gossip(ASH, 1);
        assert_eq!(a.receive(1, BIRCH, message), Err(error));
        assert_eq!(a.stores().collect::<Vec<_>>(), [ASH]);
    }
}

#[test]
fn a_stranger_at_the_end_of_time_does_no_harm() {
    let mut a = gossip(ASH, 1);
    let last = |store| Beat {
        store,
        generation: u64::MAX,
        counter: u64::MAX,
        content: u64::MAX,
    };
    let digest = Message::Digest(vec![last(ASH), last(BIRCH)]);
    a.receive(u64::MAX, BIRCH, digest).expect("sound");
    a.set(Topic::EPOCH, Value::number(1)).expect("small");
    a.tick(u64::MAX, 1);
    a.tick(0, 1);
}

#[test]
fn who_says_goodbye_is_down_at_once_and_up_with_its_next_life() {
    let (mut a, mut b, mut c) = (gossip(ASH, 1), gossip(BIRCH, 1), gossip(CEDAR, 1));
    exchange(9_000, &mut b, &mut c);
    exchange(9_000, &mut c, &mut a);
    keep_company(9, 11, &mut a, &mut b);
    assert!(b.is_up(ASH) && c.is_up(ASH));
    let spread = a.leave(10_600);
    assert!(spread.targets.contains(&Target::Node(BIRCH)));
    let changes = talk(10_600, &mut a, &mut b, spread.message);
    assert!(changes.contains(&Change::Down(ASH)) && !b.is_up(ASH));
    // It stops soon; until then nothing refutes its word.
    a.tick(11_000, 0);
    exchange(11_000, &mut a, &mut b);
    assert!(!b.is_up(ASH));
    let changes = exchange(11_100, &mut b, &mut c);
    assert!(changes.contains(&Change::Down(ASH)) && !changes.contains(&Change::Up(ASH)));
    assert!(!c.is_up(ASH), "hearsay of it does not bring it back");
    let mut again = gossip(ASH, 2);
    exchange(12_000, &mut again, &mut c);
    assert!(c.is_up(ASH));
    exchange(12_100, &mut c, &mut b);
    assert!(b.is_up(ASH));
}
