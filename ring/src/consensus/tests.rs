//! Tests of voters and proposers: each rule, and hostile orders. `tests/model` goes through all orders of small cases.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;

use super::*;
use crate::{
    Change, Decree, Trackers, apply,
    testing::{Kind as Family, sized},
};

const EPOCH: Epoch = Epoch(2);
const SEAT: Seat = Seat {
    newest: Epoch(1),
    votes: true,
};

fn ballot(round: u64, by: u64) -> Ballot {
    Ballot {
        round,
        by: StoreId(by),
    }
}

fn prepare(ballot: Ballot) -> Request<u8> {
    Request::Prepare {
        instance: EPOCH,
        ballot,
    }
}

fn accept(ballot: Ballot, value: u8) -> Request<u8> {
    Request::Accept {
        instance: EPOCH,
        ballot,
        value,
    }
}

fn reply(effects: &[Effect<u8>]) -> &Response<u8> {
    match effects.last() {
        Some(Effect::Reply(reply)) => reply,
        other => panic!("no reply but {other:?}"),
    }
}

#[test]
fn a_promise_is_durable_before_it_is_told() {
    let mut acceptor = Acceptor::new(Votes::none(EPOCH));
    let effects = acceptor.handle(SEAT, prepare(ballot(1, 1)));
    let promised = Votes {
        promised: ballot(1, 1),
        ..Votes::none(EPOCH)
    };
    let told = Response::Promised {
        ballot: ballot(1, 1),
        accepted: None,
    };
    assert_eq!(
        effects,
        [Effect::Persist(promised), Effect::Reply(told.clone())]
    );
    // Said again, nothing is new.
    assert_eq!(
        acceptor.handle(SEAT, prepare(ballot(1, 1))),
        [Effect::Reply(told)]
    );
}

#[test]
fn nothing_below_a_promise_is_voted_for() {
    let mut acceptor = Acceptor::new(Votes::none(EPOCH));
    acceptor.handle(SEAT, prepare(ballot(2, 1)));
    for request in [prepare(ballot(1, 9)), accept(ballot(1, 9), 7)] {
        let effects = acceptor.handle(SEAT, request);
        let outbid = Response::Outbid {
            ballot: ballot(1, 9),
            promised: ballot(2, 1),
        };
        assert_eq!(effects, [Effect::Reply(outbid)]);
    }
    let effects = acceptor.handle(SEAT, accept(ballot(2, 2), 7));
    assert!(matches!(effects[0], Effect::Persist(_)));
    let effects = acceptor.handle(SEAT, prepare(ballot(3, 1)));
    let accepted = Some((ballot(2, 2), 7));
    assert!(matches!(reply(&effects), Response::Promised { accepted: a, .. } if *a == accepted));
}

#[test]
fn only_a_listed_store_votes_and_only_on_the_next_epoch() {
    let mut acceptor = Acceptor::new(Votes::none(EPOCH));
    let seats = [
        (
            Seat {
                newest: EPOCH,
                votes: true,
            },
            Response::Decided { newest: EPOCH },
        ),
        (
            Seat {
                newest: Epoch(0),
                votes: true,
            },
            Response::Behind { newest: Epoch(0) },
        ),
        (
            Seat {
                newest: Epoch(1),
                votes: false,
            },
            Response::NoVote,
        ),
    ];
    for (seat, answer) in seats {
        let effects = acceptor.handle(seat, prepare(ballot(1, 1)));
        assert_eq!(effects, [Effect::Reply(answer)]);
        assert_eq!(acceptor.votes(), &Votes::none(EPOCH));
    }
}

#[test]
fn votes_of_a_decided_epoch_do_not_count_in_the_next() {
    let mut acceptor = Acceptor::new(Votes::none(EPOCH));
    acceptor.handle(SEAT, accept(ballot(5, 1), 7));
    let seat = Seat {
        newest: EPOCH,
        votes: true,
    };
    let request = Request::Prepare {
        instance: EPOCH.next(),
        ballot: ballot(1, 2),
    };
    let effects = acceptor.handle(seat, request);
    assert!(matches!(
        reply(&effects),
        Response::Promised { accepted: None, .. }
    ));
}

fn voters(count: u64) -> BTreeSet<StoreId> {
    (1..=count).map(StoreId).collect()
}

fn promise(ballot: Ballot, accepted: Option<(Ballot, u8)>) -> Response<u8> {
    Response::Promised { ballot, accepted }
}

#[test]
fn the_value_of_the_highest_vote_is_taken_over() {
    let mut proposer = Proposer::new(StoreId(1), EPOCH, voters(5), 0, 7_u8);
    let acts = proposer.start();
    assert_eq!(acts, [Act::KeepRound(1), Act::Ask(prepare(ballot(1, 1)))]);
    let mine = ballot(1, 1);
    assert_eq!(
        proposer.hear(StoreId(2), promise(mine, Some((ballot(1, 0), 3)))),
        []
    );
    assert_eq!(
        proposer.hear(StoreId(2), promise(mine, None)),
        [],
        "one voter counts once"
    );
    assert_eq!(
        proposer.hear(StoreId(9), promise(mine, None)),
        [],
        "a stranger"
    );
    assert_eq!(
        proposer.hear(StoreId(3), promise(ballot(0, 1), None)),
        [],
        "of another attempt"
    );
    proposer.hear(StoreId(2), promise(mine, Some((ballot(1, 0), 3))));
    proposer.hear(StoreId(4), promise(mine, Some((ballot(0, 9), 4))));
    let acts = proposer.hear(StoreId(5), promise(mine, None));
    assert_eq!(acts, [Act::Ask(accept(mine, 3))]);
    let vote = Response::Accepted { ballot: mine };
    assert_eq!(proposer.hear(StoreId(1), vote.clone()), []);
    assert_eq!(proposer.hear(StoreId(1), vote.clone()), []);
    assert_eq!(proposer.hear(StoreId(2), vote.clone()), []);
    assert_eq!(proposer.hear(StoreId(3), vote.clone()), [Act::Decided(3)]);
    assert_eq!(proposer.hear(StoreId(4), vote), []);
}

#[test]
fn an_outbid_proposer_goes_above() {
    let mut proposer = Proposer::new(StoreId(1), EPOCH, voters(3), 4, 7_u8);
    proposer.start();
    let outbid = Response::Outbid {
        ballot: ballot(5, 1),
        promised: ballot(9, 2),
    };
    assert_eq!(
        proposer.hear(StoreId(2), outbid),
        [Act::Outbid(ballot(9, 2))]
    );
    assert_eq!(proposer.start()[0], Act::KeepRound(10));
    let decided = Response::Decided { newest: EPOCH };
    assert_eq!(proposer.hear(StoreId(2), decided), [Act::Passed(EPOCH)]);
    assert_eq!((proposer.start(), proposer.asking()), (Vec::new(), None));
}

#[test]
fn a_voter_that_is_behind_is_told_first() {
    let mut proposer = Proposer::new(StoreId(1), Epoch(3), voters(3), 0, 7_u8);
    proposer.start();
    let behind = Response::Behind { newest: Epoch(1) };
    assert_eq!(proposer.hear(StoreId(2), behind), [Act::Tell(StoreId(2))]);
}

#[test]
fn promises_are_read_as_written() {
    let base = Decree::founding(sized(16, 3, Family::Equal.members(0, 3)));
    let mut promises = Promises::start(Arc::new(base.clone()));
    assert_eq!(promises.votes.instance, Epoch(2));
    let change = Change::Add(Family::Equal.member(0, 3));
    let decree = apply(&base, &[change]).expect("fits");
    for accepted in [None, Some((ballot(3, 4), decree))] {
        promises.votes.accepted = accepted;
        promises.votes.promised = ballot(3, 4);
        promises.votes.proposed = 6;
        let bytes = promises.encode();
        assert_eq!(Promises::decode(&bytes).as_ref(), Ok(&promises));
        for short in 0..bytes.len() {
            assert!(Promises::decode(&bytes[..short]).is_err());
        }
    }
    let (_, decided) = promises.votes.accepted.clone().expect("voted for");
    let next = promises.with_decree(Arc::new(decided), StoreId(1));
    assert_eq!(next.votes, Votes::none(Epoch(3)));
    assert_eq!(
        next.trackers.ack,
        Epoch(1),
        "the first layout is live still"
    );
}

#[test]
fn a_store_was_a_member_from_the_first_decree_that_lists_it() {
    let base = Decree::founding(sized(16, 3, Family::Equal.members(0, 3)));
    let newcomer = Family::Equal.member(0, 3);
    let (me, other) = (newcomer.store_id, StoreId(7));
    let decree = apply(&base, &[Change::Add(newcomer)]).expect("fits");
    let decree = Arc::new(decree);
    let waiting = Promises::outside(Arc::new(base));
    assert!(!waiting.was_member());
    let still = waiting.clone().with_decree(decree.clone(), other);
    assert!(!still.was_member());
    assert_eq!(still.trackers, Trackers::starting_at(Epoch(0)));
    let listed = waiting.with_decree(decree, me);
    assert!(listed.was_member());
    assert_eq!(listed.trackers, Trackers::starting_at(Epoch(1)));
}

/// What may happen next in a hostile network.
#[derive(Debug, Clone)]
enum Event {
    /// A message that was ever sent arrives (again), and its receiver stops after so many effects.
    Deliver(prop::sample::Index, Option<usize>),
    /// A proposer begins an attempt, and stops after so many acts.
    Start(prop::sample::Index, Option<usize>),
    /// A proposer comes back with what it kept.
    Restart(prop::sample::Index),
}

#[derive(Debug, Clone)]
enum Mail {
    ToVoter(StoreId, usize, Request<u8>),
    ToProposer(usize, StoreId, Response<u8>),
}

struct World {
    durable: BTreeMap<StoreId, Votes<u8>>,
    rounds: Vec<u64>,
    proposers: Vec<Proposer<u8>>,
    mail: Vec<Mail>,
    decided: BTreeSet<u8>,
}

impl World {
    fn new(voters_count: u64, proposers: usize) -> World {
        let fresh = |store| (store, Votes::none(EPOCH));
        let mut world = World {
            durable: voters(voters_count).into_iter().map(fresh).collect(),
            rounds: vec![0; proposers],
            proposers: Vec::new(),
            mail: Vec::new(),
            decided: BTreeSet::new(),
        };
        world.proposers = (0..proposers).map(|index| world.proposer(index)).collect();
        world
    }

    fn proposer(&self, index: usize) -> Proposer<u8> {
        let voters = self.durable.keys().copied().collect();
        let me = StoreId(100 + index as u64);
        Proposer::new(me, EPOCH, voters, self.rounds[index], index as u8)
    }

    fn act(&mut self, index: usize, acts: Vec<Act<u8>>, until: Option<usize>) {
        for act in acts.into_iter().take(until.unwrap_or(usize::MAX)) {
            match act {
                Act::KeepRound(round) => self.rounds[index] = round,
                Act::Ask(request) => {
                    let voters: Vec<StoreId> = self.durable.keys().copied().collect();
                    let to = |store| Mail::ToVoter(store, index, request.clone());
                    self.mail.extend(voters.into_iter().map(to));
                }
                Act::Decided(value) => drop(self.decided.insert(value)),
                Act::Outbid(_) | Act::Passed(_) | Act::Tell(_) => {}
            }
        }
        if until.is_some() {
            self.proposers[index] = self.proposer(index);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start(index, until) => {
                let index = index.index(self.proposers.len());
                let acts = self.proposers[index].start();
                self.act(index, acts, until);
            }
            Event::Restart(index) => {
                let index = index.index(self.proposers.len());
                self.proposers[index] = self.proposer(index);
            }
            Event::Deliver(..) if self.mail.is_empty() => {}
            Event::Deliver(which, until) => {
                let mail = which.get(&self.mail).clone();
                self.deliver(mail, until);
            }
        }
    }

    fn deliver(&mut self, mail: Mail, until: Option<usize>) {
        match mail {
            Mail::ToVoter(store, from, request) => {
                let mut acceptor = Acceptor::new(self.durable[&store].clone());
                let effects = acceptor.handle(SEAT, request);
                for effect in effects.into_iter().take(until.unwrap_or(usize::MAX)) {
                    match effect {
                        Effect::Persist(votes) => drop(self.durable.insert(store, votes)),
                        Effect::Reply(reply) => {
                            self.mail.push(Mail::ToProposer(from, store, reply));
                        }
                    }
                }
            }
            Mail::ToProposer(index, store, response) => {
                let acts = self.proposers[index].hear(store, response);
                self.act(index, acts, until);
            }
        }
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let until = || prop::option::weighted(0.1, 0_usize..2);
    let index = any::<prop::sample::Index>;
    let event = prop_oneof![
        20 => (index(), until()).prop_map(|(which, until)| Event::Deliver(which, until)),
        3 => (index(), until()).prop_map(|(which, until)| Event::Start(which, until)),
        1 => index().prop_map(Event::Restart),
    ];
    prop::collection::vec(event, 0..300)
}

proptest! {
    #[test]
    fn one_epoch_decides_one_value_in_any_order(
        count in 1_u64..6,
        proposers in 1_usize..4,
        events in events(),
    ) {
        let mut world = World::new(count, proposers);
        for event in events {
            world.happen(event);
        }
        prop_assert!(world.decided.len() <= 1, "{:?}", world.decided);
        // Left alone, one proposer finishes, with what was decided before if there was anything.
        for _ in 0..4 {
            if world.decided.is_empty() {
                world.mail.clear();
                let acts = world.proposers[0].start();
                world.act(0, acts, None);
                let mut next = 0;
                while let Some(mail) = world.mail.get(next).cloned() {
                    world.deliver(mail, None);
                    next += 1;
                }
            }
        }
        prop_assert_eq!(world.decided.len(), 1);
    }
}
