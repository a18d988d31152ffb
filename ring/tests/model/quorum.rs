//! A strict read meets every write that was acknowledged before it began, while nodes join and leave.
//!
//! One partition, four nodes, real layouts, placements and [`History`]; the data are a set of writes per node. Reads and
//! writes take time: each of their messages arrives when it likes, or never. A node knows of others' trackers at once:
//! as a tracker only permits steps, and for good, hearing of it late is the same as taking the step late. Decrees are
//! learned late: what a node writes to depends on them alone.

use std::{collections::BTreeMap, sync::Arc};

use ringfort_ring::{
    Acquisition, Change, Decree, Epoch, History, Layout, Member, NodeName, PartitionId, Placement,
    PlacementId, Sources, Step, StoreId, Trackers, acquired, apply,
};
use stateright::{Checker, HasDiscoveries, Model, Property};

const NODES: usize = 4;
const MET: &str = "a read meets what was acknowledged";

/// What is wrong with the nodes, to see that the check finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    /// R is counted over the owners of both layouts.
    CountsOverTwoLayouts,
    /// The older layout is retired when one member has flipped.
    ForgetsOldLayoutEarly,
    /// A partition is copied from owners that have not acknowledged.
    CopiesBeforeAck,
    /// A store takes writes to a partition that it will still erase.
    TakesBeforeAck,
    /// A store past its `ack` takes writes of older epochs.
    TakesStaleWrites,
    /// A copy counts toward R before it is merged: a store flips when it has merged itself, and those that have not
    /// answer. (Either half alone is met by the other rule, and found to be harmless.)
    CountsUnsyncedOwners,
}

/// A set of nodes or of writes, as bits.
type Set = u8;

#[derive(Debug, Clone)]
struct Change34 {
    decrees: [Arc<Decree>; 3],
    /// Owners of the partition by the older and the newer layout.
    owners: [Set; 2],
    acquisitions: [Option<Acquisition>; NODES],
    writes: usize,
    w: u32,
    r: u32,
    bug: Option<Bug>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    /// The newest decree that is decided, and the newest that each node knows: 0 before, 1 under way, 2 retired.
    decided: u8,
    known: [u8; NODES],
    trackers: [Trackers; NODES],
    /// Old owners that a node has received its partition from, since its last start.
    received: [Set; NODES],
    data: [Set; NODES],
    writes: Vec<Write>,
    read: Option<Read>,
    missed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Write {
    Unsent,
    /// By whom, by which decree, and who has it.
    Sent(usize, u8, Set),
    Acknowledged,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Read {
    by: usize,
    /// Whose answers count.
    owners: Set,
    answered: Set,
    seen: Set,
    /// The writes that it must meet.
    must: Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Learn(usize),
    Step(usize),
    Receive(usize, usize),
    Restart(usize),
    Send(usize, usize),
    Store(usize, usize),
    Acknowledge(usize),
    StartRead(usize),
    Answer(usize),
}

fn bit(index: usize) -> Set {
    1 << index
}

fn store(node: usize) -> StoreId {
    StoreId(node as u64 + 1)
}

fn node(store: StoreId) -> usize {
    store.0 as usize - 1
}

fn member(node: usize) -> Member {
    Member {
        name: NodeName::new(format!("n{node}")).expect("valid"),
        placement_id: PlacementId(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(node as u64 + 1)),
        store_id: store(node),
        tokens: 256,
        zone: String::new(),
        client_addr: String::new(),
        peer_addr: String::new(),
        http_addr: String::new(),
    }
}

fn layout(epoch: u64, members: usize) -> Layout {
    let members = (0..members).map(member).collect();
    Layout::new(Epoch(epoch), 8, 3, members).expect("valid")
}

impl Change34 {
    /// From `before` members to one more or one less, seen from a partition whose owners change.
    fn new(before: usize) -> Self {
        let last = member(NODES - 1);
        let founding = Decree::founding(layout(1, before));
        let change = match before {
            3 => Change::Add(last.clone()),
            _ => Change::Remove(last.name.clone()),
        };
        let placing = apply(&founding, &[change]).expect("fits");
        let newest = placing.newest().clone();
        let retired = Decree::new(Epoch(3), vec![newest], BTreeMap::new()).expect("valid");
        let place = |layout: &Layout| Placement::compute(layout).expect("small");
        let (old, new) = (placing.oldest(), placing.newest());
        let (before, after) = (place(old), place(new));
        let all = |node| acquired((old, &before), (new, &after), &member(node).name);
        let moving = (0..NODES)
            .flat_map(all)
            .next()
            .expect("something moves")
            .partition;
        let of = |node| {
            all(node)
                .into_iter()
                .find(|got: &Acquisition| got.partition == moving)
        };
        Change34 {
            owners: [owners(old, &before, moving), owners(new, &after, moving)],
            acquisitions: std::array::from_fn(of),
            decrees: [Arc::new(founding), Arc::new(placing), Arc::new(retired)],
            writes: 1,
            w: 2,
            r: 2,
            bug: None,
        }
    }

    fn owners_of(&self, layout: &Layout) -> Set {
        self.owners[usize::from(layout.epoch() > Epoch(1))]
    }

    fn owners_by<'a>(&self, layouts: impl Iterator<Item = &'a Layout>) -> Set {
        layouts.fold(0, |owners, layout| owners | self.owners_of(layout))
    }

    fn history(&self, state: &State, node: usize) -> History {
        let mut history = History::new(self.decrees[usize::from(state.known[node])].clone());
        for (other, trackers) in state.trackers.iter().enumerate() {
            history.hear(store(other), *trackers);
        }
        history
    }

    /// Whether the node is an owner whose copy counts, so that it may coordinate.
    fn is_synced_owner(&self, history: &History, node: usize) -> bool {
        self.owners_by(history.answers_reads_by(store(node))) & bit(node) != 0
    }

    fn step(&self, state: &mut State, node: usize) -> bool {
        let history = self.history(state, node);
        let trackers = &mut state.trackers[node];
        let newest = history.decree().newest().epoch();
        match history.step(store(node)) {
            Step::Acknowledge(epoch) => {
                if self.acquisitions[node].is_some() {
                    state.data[node] = 0;
                }
                trackers.ack = epoch;
            }
            Step::Merge(epoch) => {
                if let Some(acquisition) = &self.acquisitions[node] {
                    match self.sources(&history, acquisition) {
                        Some(from) if from & !state.received[node] == 0 => {}
                        _ => return false,
                    }
                }
                trackers.merged = epoch;
            }
            Step::Flip(epoch) => trackers.flipped = epoch,
            Step::Retire(decree) => {
                assert_eq!(*decree, *self.decrees[2]);
                state.decided = 2;
            }
            Step::Wait(_)
                if self.bug == Some(Bug::CountsUnsyncedOwners) && trackers.flipped < newest =>
            {
                trackers.flipped = newest;
            }
            Step::Wait(_) if self.bug == Some(Bug::ForgetsOldLayoutEarly) => {
                if trackers.flipped < newest || state.decided == 2 {
                    return false;
                }
                state.decided = 2;
            }
            Step::Wait(_) | Step::Out | Step::Settled => return false,
        }
        true
    }

    fn sources(&self, history: &History, acquisition: &Acquisition) -> Option<Set> {
        let set = |stores: &[StoreId]| stores.iter().fold(0, |set, s| set | bit(node(*s)));
        match history.sources(acquisition) {
            _ if self.bug == Some(Bug::CopiesBeforeAck) => Some(set(&acquisition.from)),
            Sources::From { stores, .. } => Some(set(&stores)),
            Sources::Wait(_) | Sources::Lost(_) => None,
        }
    }

    fn receive(&self, state: &mut State, to: usize, from: usize) -> bool {
        let history = self.history(state, to);
        let Step::Merge(_) = history.step(store(to)) else {
            return false;
        };
        let Some(acquisition) = &self.acquisitions[to] else {
            return false;
        };
        let may = self.sources(&history, acquisition);
        if may.is_none_or(|sources| sources & bit(from) == 0) {
            return false;
        }
        state.data[to] |= state.data[from];
        state.received[to] |= bit(from);
        true
    }

    /// A copy of a write arrives at an owner.
    fn store(&self, state: &mut State, write: usize, at: usize) -> bool {
        let Write::Sent(by, known, have) = state.writes[write] else {
            return false;
        };
        let sent = &self.decrees[usize::from(known)];
        let history = self.history(state, at);
        let stale = history.refuses_write(store(at), sent.epoch());
        if stale && self.bug != Some(Bug::TakesStaleWrites) {
            return false;
        }
        let taken_by = match self.bug {
            Some(Bug::TakesBeforeAck) => self.owners_by(history.written().iter()),
            _ => self.owners_by(history.takes_writes_by(store(at))),
        };
        if self.owners_by(sent.live().iter()) & taken_by & bit(at) == 0 {
            return false;
        }
        state.data[at] |= bit(write);
        state.writes[write] = Write::Sent(by, known, have | bit(at));
        true
    }

    fn acknowledge(&self, state: &mut State, write: usize) -> bool {
        let Write::Sent(_, known, have) = state.writes[write] else {
            return false;
        };
        let live = self.decrees[usize::from(known)].live();
        let enough = live
            .iter()
            .all(|l| (have & self.owners_of(l)).count_ones() >= self.w);
        if enough {
            state.writes[write] = Write::Acknowledged;
        }
        enough
    }

    fn start_read(&self, state: &mut State, by: usize) -> bool {
        let history = self.history(state, by);
        let acknowledged = |(index, write): (usize, &Write)| {
            if *write == Write::Acknowledged {
                bit(index)
            } else {
                0
            }
        };
        let must = state.writes.iter().enumerate().map(acknowledged).sum();
        let owners = match self.bug {
            Some(Bug::CountsOverTwoLayouts) => self.owners_by(history.written().iter()),
            _ => self.owners_of(history.read_layout(store(by))),
        };
        let is_owner = owners & bit(by) != 0 && self.is_synced_owner(&history, by);
        if must == 0 || !is_owner || state.read.is_some() {
            return false;
        }
        state.read = Some(Read {
            by,
            owners,
            answered: 0,
            seen: 0,
            must,
        });
        true
    }

    fn answer(&self, state: &mut State, node: usize) -> bool {
        let Some(mut read) = state.read else {
            return false;
        };
        let history = self.history(state, node);
        let answers = match self.bug {
            Some(Bug::CountsUnsyncedOwners) => {
                self.owners_by(history.written().iter()) & bit(node) != 0
            }
            _ => self.is_synced_owner(&history, node),
        };
        if read.owners & !read.answered & bit(node) == 0 || !answers {
            return false;
        }
        read.answered |= bit(node);
        read.seen |= state.data[node];
        let over = read.answered.count_ones() >= self.r;
        state.missed |= over && read.must & !read.seen != 0;
        state.read = (!over).then_some(read);
        true
    }
}

fn owners(layout: &Layout, placement: &Placement, partition: PartitionId) -> Set {
    let owners = placement.owners(partition).iter();
    let stores = owners.map(|owner| layout.members()[usize::from(*owner)].store_id);
    stores.fold(0, |set, store| set | bit(node(store)))
}

impl Model for Change34 {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            decided: 1,
            known: [0; NODES],
            trackers: [Trackers::starting_at(Epoch(1)); NODES],
            received: [0; NODES],
            data: [0; NODES],
            writes: vec![Write::Unsent; self.writes],
            read: None,
            missed: false,
        }]
    }

    fn actions(&self, _: &State, actions: &mut Vec<Action>) {
        for node in 0..NODES {
            let each = [
                Action::Learn,
                Action::Step,
                Action::Restart,
                Action::StartRead,
            ];
            actions.extend(each.map(|action| action(node)));
            actions.push(Action::Answer(node));
            actions.extend((0..NODES).map(|from| Action::Receive(node, from)));
            for write in 0..self.writes {
                actions.extend([Action::Send(write, node), Action::Store(write, node)]);
            }
        }
        actions.extend((0..self.writes).map(Action::Acknowledge));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let happened = match action {
            Action::Learn(node) => {
                let news = state.known[node] < state.decided;
                state.known[node] = state.decided;
                news
            }
            Action::Step(node) => self.step(&mut state, node),
            Action::Receive(to, from) => self.receive(&mut state, to, from),
            Action::Restart(node) => {
                state.received[node] = 0;
                // What it coordinated is never answered.
                state.read = state.read.filter(|read| read.by != node);
                for write in &mut state.writes {
                    if matches!(write, Write::Sent(by, _, have) if *by == node && *have == 0) {
                        *write = Write::Unsent;
                    }
                }
                true
            }
            Action::Send(write, by) => {
                let may = state.writes[write] == Write::Unsent
                    && self.is_synced_owner(&self.history(&state, by), by);
                if may {
                    state.writes[write] = Write::Sent(by, state.known[by], 0);
                }
                may
            }
            Action::Store(write, at) => self.store(&mut state, write, at),
            Action::Acknowledge(write) => self.acknowledge(&mut state, write),
            Action::StartRead(by) => self.start_read(&mut state, by),
            Action::Answer(node) => self.answer(&mut state, node),
        };
        (happened && state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(MET, |_, state: &State| !state.missed),
            Property::sometimes("the change comes to its end", |_, state: &State| {
                state.known == [2; NODES]
            }),
            Property::sometimes("a write is acknowledged under way", |_, state: &State| {
                state.decided == 1
                    && state.writes.contains(&Write::Acknowledged)
                    && state
                        .trackers
                        .iter()
                        .any(|trackers| trackers.ack > Epoch(1))
            }),
        ]
    }
}

fn with(before: usize, w: u32, r: u32, writes: usize) -> Change34 {
    let change = Change34::new(before);
    Change34 {
        w,
        r,
        writes,
        ..change
    }
}

fn holds(model: Change34) {
    let checker = model.checker().spawn_bfs().join();
    println!(
        "{} states, {} unique",
        checker.state_count(),
        checker.unique_state_count()
    );
    checker.assert_properties();
}

fn finds(bug: Bug) {
    let change = |before| Change34 {
        bug: Some(bug),
        ..Change34::new(before)
    };
    let found = [3, 4].iter().any(|before| {
        let checker = change(*before)
            .checker()
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        let found = checker.discovery(MET).is_some();
        println!(
            "{bug:?} from {before}: {found}, {} states",
            checker.unique_state_count()
        );
        found
    });
    assert!(found, "{bug:?} is not found");
}

#[test]
fn reads_meet_writes_while_a_node_joins() {
    holds(Change34::new(3));
}

#[test]
fn reads_meet_writes_while_a_node_leaves() {
    holds(Change34::new(4));
}

#[test]
fn other_quorums_that_intersect_do_so_too() {
    holds(with(3, 1, 3, 1));
    holds(with(4, 3, 1, 1));
}

/// Larger: `cargo test --release -p ringfort-ring --test model -- --ignored`.
#[test]
#[ignore = "minutes, and gigabytes"]
fn reads_meet_two_writes() {
    holds(with(3, 2, 2, 2));
    holds(with(4, 2, 2, 2));
}

#[test]
fn quorums_that_do_not_intersect_miss_writes() {
    let checker = with(3, 1, 2, 1)
        .checker()
        .finish_when(HasDiscoveries::AnyFailures);
    assert!(checker.spawn_bfs().join().discovery(MET).is_some());
}

#[test]
fn planted_bugs_are_found() {
    finds(Bug::CountsOverTwoLayouts);
    finds(Bug::ForgetsOldLayoutEarly);
    finds(Bug::CopiesBeforeAck);
    finds(Bug::TakesBeforeAck);
    finds(Bug::TakesStaleWrites);
    finds(Bug::CountsUnsyncedOwners);
}
