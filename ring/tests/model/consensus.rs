//! One epoch decides one value, whatever is lost, repeated, late, or restarted.
//!
//! Messages stay in the mail for ever, so each may arrive never, late, and many times. A voter or proposer may stop
//! between any two effects and come back with what is durable. A voter may lose its disk. The word that a ballot was
//! outbid is left out: all that it does is to make the next round a higher one.

use std::collections::BTreeSet;

use ringfort_ring::{
    Epoch, StoreId,
    consensus::{Acceptor, Act, Effect, Proposer, Request, Response, Seat, Votes},
};
use stateright::{Checker, HasDiscoveries, Model, Property};

const EPOCH: Epoch = Epoch(2);
const ONE: &str = "one value is decided";

/// What is wrong with a cluster, to see that the check finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    /// A node that lost its disk votes again, as if the vote were its name's and not its store's.
    VoteForgottenWithDisk,
    /// A voter answers first and syncs afterwards.
    TellsBeforeDurable,
    /// A proposer proposes its own value whatever was voted for before.
    IgnoresVotes,
    /// A voter votes below its promise.
    BreaksPromise,
    /// A proposer that comes back begins with its first ballot again.
    ReusesBallot,
}

#[derive(Debug, Clone)]
struct Consensus {
    voters: usize,
    /// Of each proposer: how many attempts it makes.
    rounds: &'static [u64],
    /// Each proposer's returns; it comes back with another value to propose.
    returns: u8,
    /// Disks that may be lost.
    losses: u8,
    bug: Option<Bug>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    voters: Vec<Voter>,
    proposers: Vec<Candidate>,
    mail: BTreeSet<Mail>,
    decided: BTreeSet<u8>,
    losses: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Voter {
    memory: Votes<u8>,
    durable: Votes<u8>,
    /// Its disk is lost: it is another store now.
    replaced: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Candidate {
    machine: Proposer<u8>,
    kept_round: u64,
    returns: u8,
    done: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Mail {
    /// From a proposer, to all voters.
    Ask(usize, Request<u8>),
    /// To a proposer, from a voter.
    Answer(usize, usize, Response<u8>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Start(usize),
    Return(usize),
    /// A voter hears a request.
    Vote(usize, Mail),
    /// It does, and stops after one effect.
    VoteAndStop(usize, Mail),
    /// A proposer hears an answer.
    Hear(Mail),
    LoseDisk(usize),
}

fn store(voter: usize) -> StoreId {
    StoreId(voter as u64 + 1)
}

impl Consensus {
    fn candidate(&self, index: usize, kept_round: u64, returns: u8) -> Candidate {
        let round = match self.bug {
            Some(Bug::ReusesBallot) => 0,
            _ => kept_round,
        };
        let value = index as u8 * 10 + returns;
        let me = StoreId(100 + index as u64);
        let voters = (0..self.voters).map(store).collect();
        Candidate {
            machine: Proposer::new(me, EPOCH, voters, round, value),
            kept_round,
            returns,
            done: false,
        }
    }

    fn act(&self, state: &mut State, index: usize, acts: Vec<Act<u8>>) {
        for act in acts {
            match act {
                Act::KeepRound(round) => state.proposers[index].kept_round = round,
                Act::Ask(mut request) => {
                    if self.bug == Some(Bug::IgnoresVotes)
                        && let Request::Accept { value, .. } = &mut request
                    {
                        *value = *state.proposers[index].machine.value();
                    }
                    state.mail.insert(Mail::Ask(index, request));
                }
                Act::Decided(value) => {
                    state.proposers[index].done = true;
                    let own = *state.proposers[index].machine.value();
                    let ignores = self.bug == Some(Bug::IgnoresVotes);
                    state.decided.insert(if ignores { own } else { value });
                }
                Act::Outbid(_) | Act::Passed(_) | Act::Tell(_) => {}
            }
        }
    }

    /// A voter hears; with `stops` it stops after the first of several effects.
    fn vote(&self, state: &mut State, index: usize, mail: Mail, stops: bool) {
        let Mail::Ask(from, request) = mail else {
            return;
        };
        let voter = &mut state.voters[index];
        let as_if_listed = self.bug == Some(Bug::VoteForgottenWithDisk);
        let seat = Seat {
            newest: Epoch(1),
            votes: !voter.replaced || as_if_listed,
        };
        let mut votes = voter.memory.clone();
        if self.bug == Some(Bug::BreaksPromise) {
            votes.promised = votes.promised.min(request.ballot());
        }
        let mut acceptor = Acceptor::new(votes);
        let mut effects = acceptor.handle(seat, request);
        voter.memory = acceptor.votes().clone();
        if self.bug == Some(Bug::TellsBeforeDurable) {
            effects.reverse();
        }
        let done = if stops { 1 } else { effects.len() };
        for effect in effects.into_iter().take(done) {
            match effect {
                Effect::Persist(votes) => voter.durable = votes,
                Effect::Reply(Response::Outbid { .. } | Response::NoVote) => {}
                Effect::Reply(response) => {
                    state.mail.insert(Mail::Answer(from, index, response));
                }
            }
        }
        if stops {
            voter.memory = voter.durable.clone();
        }
    }

    fn hear(&self, state: &mut State, mail: Mail) {
        if let Mail::Answer(index, voter, response) = mail {
            let acts = state.proposers[index].machine.hear(store(voter), response);
            self.act(state, index, acts);
        }
    }
}

/// Whether hearing this can still change anything; what cannot is dropped, for fewer states (as long as no ballot is
/// used twice).
fn matters(proposers: &[Candidate], mail: &Mail) -> bool {
    let Mail::Answer(index, _, response) = mail else {
        return true;
    };
    let candidate = &proposers[*index];
    let (ballot, is_promise) = match response {
        Response::Promised { ballot, .. } => (*ballot, true),
        Response::Accepted { ballot } => (*ballot, false),
        _ => return false,
    };
    match candidate.machine.asking() {
        None => !candidate.done,
        Some(Request::Prepare { ballot: now, .. }) => ballot >= now,
        Some(Request::Accept { ballot: now, .. }) => ballot > now || ballot == now && !is_promise,
    }
}

impl Model for Consensus {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let votes = Votes::none(EPOCH);
        let voter = Voter {
            memory: votes.clone(),
            durable: votes,
            replaced: false,
        };
        vec![State {
            voters: vec![voter; self.voters],
            proposers: (0..self.rounds.len())
                .map(|index| self.candidate(index, 0, 0))
                .collect(),
            mail: BTreeSet::new(),
            decided: BTreeSet::new(),
            losses: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (index, candidate) in state.proposers.iter().enumerate() {
            if candidate.kept_round < self.rounds[index] {
                actions.push(Action::Start(index));
            }
            if candidate.returns < self.returns && candidate.kept_round > 0 {
                actions.push(Action::Return(index));
            }
        }
        for mail in &state.mail {
            if let Mail::Answer(..) = mail {
                actions.push(Action::Hear(mail.clone()));
                continue;
            }
            for voter in 0..self.voters {
                actions.push(Action::Vote(voter, mail.clone()));
                // With the effects in their order this is but an answer that never arrives.
                if self.bug == Some(Bug::TellsBeforeDurable) {
                    actions.push(Action::VoteAndStop(voter, mail.clone()));
                }
            }
        }
        if state.losses < self.losses {
            actions.extend((0..self.voters).map(Action::LoseDisk));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Start(index) => {
                let acts = state.proposers[index].machine.start();
                self.act(&mut state, index, acts);
            }
            Action::Return(index) => {
                let Candidate {
                    kept_round,
                    returns,
                    ..
                } = state.proposers[index];
                state.proposers[index] = self.candidate(index, kept_round, returns + 1);
            }
            Action::Vote(voter, mail) => self.vote(&mut state, voter, mail, false),
            Action::VoteAndStop(voter, mail) => self.vote(&mut state, voter, mail, true),
            Action::Hear(mail) => self.hear(&mut state, mail),
            Action::LoseDisk(index) => {
                let voter = &mut state.voters[index];
                voter.memory = Votes::none(EPOCH);
                voter.durable = Votes::none(EPOCH);
                voter.replaced = true;
                state.losses += 1;
            }
        }
        let State {
            mail, proposers, ..
        } = &mut state;
        if self.bug != Some(Bug::ReusesBallot) {
            mail.retain(|mail| matters(proposers, mail));
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE, |_, state: &State| state.decided.len() <= 1),
            Property::sometimes("a value is decided", |_, state: &State| {
                !state.decided.is_empty()
            }),
        ]
    }
}

const TWO_PROPOSERS: Consensus = Consensus {
    voters: 3,
    rounds: &[1, 1],
    returns: 0,
    losses: 0,
    bug: None,
};

/// One proposer that comes back with another value.
const ONE_THAT_RETURNS: Consensus = Consensus {
    rounds: &[2],
    returns: 1,
    ..TWO_PROPOSERS
};

fn holds(model: Consensus) {
    let checker = model.checker().spawn_bfs().join();
    println!(
        "{} states, {} of them different",
        checker.state_count(),
        checker.unique_state_count()
    );
    checker.assert_properties();
}

fn finds(bug: Bug, model: Consensus) {
    let model = Consensus {
        bug: Some(bug),
        ..model
    };
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    println!("{bug:?}: {} states", checker.unique_state_count());
    checker.assert_any_discovery(ONE);
}

#[test]
fn two_proposers_decide_one_value() {
    holds(TWO_PROPOSERS);
}

#[test]
fn a_proposer_that_comes_back_decides_one_value() {
    holds(ONE_THAT_RETURNS);
}

#[test]
fn a_voter_without_its_disk_has_no_vote() {
    holds(Consensus {
        losses: 1,
        ..TWO_PROPOSERS
    });
}

#[test]
fn planted_bugs_are_found() {
    let one_loss = Consensus {
        losses: 1,
        ..TWO_PROPOSERS
    };
    finds(Bug::VoteForgottenWithDisk, one_loss);
    finds(Bug::TellsBeforeDurable, TWO_PROPOSERS);
    finds(Bug::IgnoresVotes, TWO_PROPOSERS);
    finds(Bug::BreaksPromise, TWO_PROPOSERS);
    finds(Bug::ReusesBallot, ONE_THAT_RETURNS);
}

/// Larger: `cargo test --release -p ringfort-ring --test model -- --ignored`.
#[test]
#[ignore = "minutes, and gigabytes"]
fn several_attempts_decide_one_value() {
    holds(Consensus {
        rounds: &[2, 1],
        returns: 1,
        ..TWO_PROPOSERS
    });
}
