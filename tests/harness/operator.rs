//! Operators: they change the layout of a running cluster, as a seed wants it, while everything else goes on.
//!
//! What they do goes through the client alone. An order is given up only when it makes no sense any more (the node is no member, too few
//! would be left); everything else is tried again, under the same plan hash as long as nobody knows what became of it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use ringfort::layout_wire::member_from_wire;
use ringfort_client::{Client, Error, LayoutPlan, Layouts};
use ringfort_proto::v1;
use ringfort_ring::{Change, Member, NodeName, PlacementId};
use tokio::time::{Instant, sleep};

use super::{
    cluster::{Fate, Role, SimNode},
    net::SimDial,
    workload::Plan,
};

/// How long an operator waits for one answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often operators look, and try again, in ms: from, to.
const PAUSE_MS: (u64, u64) = (100, 500);
/// Capacities that are given, in tokens: half of the usual, the usual, and double.
const TOKENS: [u32; 3] = [128, 256, 512];
/// Operators at work at the same time.
pub const OPERATORS: usize = 2;

/// What is to become different.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// A member gets another capacity.
    Resize,
    /// A member goes.
    Leave,
    /// A spare node joins.
    Join,
    /// A spare node takes the place of a member.
    Replace,
    /// A member's machine goes off for good, and it is excused; it comes back empty. The errand's seed is the node's number.
    Excuse,
}

/// All wishes that change who owns what.
pub const WISHES: [Wish; 4] = [Wish::Resize, Wish::Leave, Wish::Join, Wish::Replace];

/// One thing that an operator is to do.
#[derive(Debug, Clone, Copy)]
pub struct Errand {
    /// When, in ms after the storm began.
    pub at_ms: u64,
    /// What.
    pub wish: Wish,
    /// Who of the operators.
    pub operator: usize,
    /// Decides the rest.
    pub seed: u64,
}

/// `count` errands for a storm of `storm_ms`, in order of time. Half of them are given to both operators at once, who want different
/// things.
pub fn errands(seed: u64, count: usize, storm_ms: u64) -> Vec<Errand> {
    let mut chance = StdRng::seed_from_u64(seed ^ 0x6f70_6572_6174);
    let mut errands: Vec<Errand> = Vec::new();
    while errands.len() < count {
        let mut errand = Errand {
            at_ms: chance.random_range(0..storm_ms),
            wish: WISHES[chance.random_range(0..WISHES.len())],
            operator: chance.random_range(0..OPERATORS),
            seed: chance.random(),
        };
        errands.push(errand);
        if errands.len() < count && chance.random() {
            errand.operator = 1 - errand.operator;
            errand.wish = WISHES[chance.random_range(0..WISHES.len())];
            errand.seed = chance.random();
            errands.push(errand);
        }
    }
    errands.sort_by_key(|errand| errand.at_ms);
    errands
}

/// How far the operators are.
#[derive(Debug, Default)]
struct State {
    open: usize,
    /// All members said that one layout is live, and the same, when last asked.
    settled: bool,
    done: Vec<Wish>,
    given_up: Vec<Wish>,
}

/// What operators and the run tell each other. Clones share it.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<State>>);

impl Board {
    /// A board with so many errands to do.
    pub fn new(errands: usize) -> Self {
        let state = State {
            open: errands,
            settled: errands == 0,
            ..State::default()
        };
        Board(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all errands have ended, and every member has the last layout, alone.
    pub fn is_settled(&self) -> bool {
        let state = self.state();
        state.open == 0 && state.settled
    }

    /// What was done.
    pub fn done(&self) -> Vec<Wish> {
        self.state().done.clone()
    }

    /// In words, how far all is.
    pub fn words(&self) -> String {
        format!("{:?}", self.state())
    }
}

/// One operator.
pub struct Operator {
    plan: Plan,
    nodes: Vec<SimNode>,
    board: Board,
    errands: Vec<Errand>,
    client: Client,
    chance: StdRng,
    number: usize,
}

impl Operator {
    /// Operator `number`, with those of the errands that are its own.
    pub fn new(
        plan: Plan,
        nodes: Vec<SimNode>,
        board: Board,
        errands: &[Errand],
        number: usize,
        seed: u64,
    ) -> Self {
        let own = errands.iter().filter(|e| e.operator == number);
        Operator {
            client: client(plan.endpoints.clone(), seed),
            errands: own.copied().collect(),
            plan,
            nodes,
            board,
            chance: StdRng::seed_from_u64(seed),
            number,
        }
    }

    fn say(&self, words: std::fmt::Arguments<'_>) {
        let (trace, number) = (&self.plan.history.trace, self.number);
        trace.line(format_args!("operator {number}: {words}"));
    }

    /// Works; then sees to it that all members come to rest.
    pub async fn run(mut self) {
        while !self.plan.begin.load(Relaxed) {
            sleep(Duration::from_millis(PAUSE_MS.0)).await;
        }
        let began = Instant::now();
        for errand in std::mem::take(&mut self.errands) {
            tokio::time::sleep_until(began + Duration::from_millis(errand.at_ms)).await;
            let done = self.see_to(errand).await;
            self.say(format_args!("{errand:?} has ended, done: {done}"));
            let mut state = self.board.state();
            state.open -= 1;
            match done {
                true => state.done.push(errand.wish),
                false => state.given_up.push(errand.wish),
            }
        }
        if self.number != 0 {
            return;
        }
        while !self.plan.done.load(Relaxed) {
            self.pause().await;
            let settled = self.look_at_all().await;
            self.board.state().settled = settled;
        }
    }

    async fn pause(&mut self) {
        let ms = self.chance.random_range(PAUSE_MS.0..PAUSE_MS.1);
        sleep(Duration::from_millis(ms)).await;
    }

    /// Gives whether it was done; else it makes no sense any more. Operators with errands of the same time begin at the same time, so
    /// that their proposals meet.
    async fn see_to(&mut self, errand: Errand) -> bool {
        loop {
            if let Some(done) = self.attempt(errand).await {
                return done;
            }
            self.pause().await;
        }
    }

    /// The same, once; `None`: to be tried again.
    async fn attempt(&mut self, errand: Errand) -> Option<bool> {
        let newest = self.newest().await?;
        if errand.wish == Wish::Excuse {
            return Some(self.excuse(errand.seed as usize, &newest).await);
        }
        let Some(change) = self.change(errand, &newest).await else {
            return Some(false);
        };
        if !self.carry_out(&[change.ok()?]).await {
            return None;
        }
        let _ = self.newest().await;
        Some(true)
    }

    /// Switches a member off, excuses it, and lets it come back empty.
    async fn excuse(&mut self, node: usize, newest: &v1::Layout) -> bool {
        let node = self.nodes[node].clone();
        if !lists(newest, &node.name) {
            return false;
        }
        node.set_fate(Fate::Off);
        let name = NodeName::new(&node.name).expect("a member's name");
        let excused = loop {
            self.pause().await;
            if self.newest().await.is_none() {
                continue;
            }
            if node.role() != Role::Member {
                break false;
            }
            if self.carry_out(&[Change::Excuse(name.clone())]).await {
                break true;
            }
        };
        node.set_fate(Fate::Renewed);
        excused
    }

    /// Plans and commits; gives whether it was decided.
    async fn carry_out(&mut self, changes: &[Change]) -> bool {
        let plan: LayoutPlan = match self.client.plan_layout(changes).await {
            Ok(plan) => plan,
            Err(error) => {
                self.say(format_args!("no plan of {changes:?}: {error}"));
                return false;
            }
        };
        loop {
            match self.client.commit_layout(changes, plan.hash).await {
                Ok(epoch) => {
                    self.say(format_args!("{changes:?} decided as epoch {epoch}"));
                    return true;
                }
                Err(error) => {
                    self.say(format_args!("not committed: {error}"));
                    if !error.is_ambiguous() {
                        return false;
                    }
                }
            }
            self.pause().await;
        }
    }

    /// The newest layout, if somebody answers; whoever it lists is a member from now on, and who was one is gone.
    async fn newest(&self) -> Option<v1::Layout> {
        let layouts = self.client.layouts().await;
        let layouts = layouts.map_err(|error| self.say(format_args!("no layout: {error}")));
        let layouts: Layouts = layouts.ok()?;
        for node in &self.nodes {
            node.listed(
                layouts.epoch,
                layouts.live.iter().any(|layout| lists(layout, &node.name)),
            );
        }
        layouts.live.last().cloned()
    }

    /// The change that an errand asks for; `None`: it makes no sense.
    async fn change(&self, errand: Errand, newest: &v1::Layout) -> Option<Result<Change, Error>> {
        let members = &newest.members;
        let chosen = &members[(errand.seed % members.len() as u64) as usize];
        let name = NodeName::new(&chosen.name).expect("a member's name");
        let spare = self.nodes.iter().find(|node| node.role() == Role::Spare);
        match errand.wish {
            Wish::Resize => {
                let others = TOKENS.into_iter().filter(|tokens| *tokens != chosen.tokens);
                let others: Vec<u32> = others.collect();
                let tokens = others[errand.seed as usize / members.len() % others.len()];
                Some(Ok(Change::Set {
                    name,
                    tokens: Some(tokens),
                    zone: None,
                }))
            }
            Wish::Leave => {
                (members.len() > newest.replicas as usize).then_some(Ok(Change::Remove(name)))
            }
            Wish::Excuse => None,
            Wish::Join => Some(self.described(spare?, errand.seed).await.map(Change::Add)),
            Wish::Replace => {
                let new = self.described(spare?, errand.seed).await;
                Some(new.map(|new| Change::Replace { old: name, new }))
            }
        }
    }

    async fn described(&self, spare: &SimNode, seed: u64) -> Result<Member, Error> {
        let addr = spare.peer_addr();
        let member = self.client.describe_node(&addr).await;
        let member = member.inspect_err(|error| self.say(format_args!("{addr}: {error}")))?;
        let member = member_from_wire(member).expect("the name of a node of ours");
        Ok(Member {
            // Both operators may have the same errand, and add two nodes (seed 146).
            placement_id: PlacementId(seed ^ member.store_id.0),
            ..member
        })
    }

    /// Whether every member says that one layout is live, and all the same.
    async fn look_at_all(&mut self) -> bool {
        let Some(newest) = self.newest().await else {
            return false;
        };
        for member in &newest.members {
            let seed = self.chance.random();
            let asked = client(vec![member.client_addr.clone()], seed)
                .layouts()
                .await;
            let same = asked.is_ok_and(|layouts| layouts.live == [newest.clone()]);
            if !same {
                return false;
            }
        }
        true
    }
}

fn lists(layout: &v1::Layout, name: &str) -> bool {
    layout.members.iter().any(|member| member.name == name)
}

fn client(endpoints: Vec<String>, seed: u64) -> Client {
    Client::builder()
        .endpoints(endpoints)
        .timeout(PATIENCE)
        .connector(SimDial)
        .seed(seed)
        .build()
        .expect("good settings")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_seeds_wish_everything_and_at_once() {
        let all: Vec<Errand> = (0..100).flat_map(|seed| errands(seed, 3, 5_000)).collect();
        for wish in WISHES {
            assert!(all.iter().any(|errand| errand.wish == wish), "{wish:?}");
        }
        assert!(all.windows(2).any(|two| two[0].at_ms == two[1].at_ms));
        assert!(all.iter().all(|errand| errand.at_ms < 5_000));
    }
}
