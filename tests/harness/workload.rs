//! What clients do in a run: random calls through the real client, each noted in the history before it is made and after it ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use ringfort_client::{Change, Client, Context, Error, Mutation, Sibling, Written};
use tokio::time::{Instant, sleep};

use super::{
    history::{History, Kind, Outcome, WriteId, value_of},
    net::SimDial,
};

/// How long the final pass tries to read one key.
const FINAL_PATIENCE: Duration = Duration::from_secs(40);
/// How often it tries.
const FINAL_PAUSE: Duration = Duration::from_millis(250);

/// How clients connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dial {
    /// Through the simulated network.
    Simulated,
    /// Over TCP, to real nodes.
    Tcp,
}

/// What all clients of a run share.
#[derive(Clone)]
pub struct Plan {
    /// How clients connect.
    pub dial: Dial,
    /// Client ports.
    pub endpoints: Vec<String>,
    /// Number of keys.
    pub keys: usize,
    /// Copies of each key.
    pub copies: u32,
    /// Pause between two calls of a client, at most, in ms.
    pub pause_ms: u64,
    /// Set when the clients may begin.
    pub begin: Arc<AtomicBool>,
    /// Set when they are to stop.
    pub stop: Arc<AtomicBool>,
    /// Set when everything is healed and the final pass may begin.
    pub healed: Arc<AtomicBool>,
    /// Set when the final pass is done.
    pub done: Arc<AtomicBool>,
    /// Some owner's copy may be damaged, so that not all N count: the final pass may take fewer.
    pub damaged: bool,
    /// Where all is noted.
    pub history: History,
}

fn connect(plan: &Plan, seed: u64) -> Client {
    let builder = Client::builder()
        .endpoints(plan.endpoints.clone())
        .seed(seed);
    let builder = match plan.dial {
        Dial::Simulated => builder.connector(SimDial),
        Dial::Tcp => builder,
    };
    builder.build().expect("good settings")
}

fn key_name(key: usize) -> String {
    format!("key-{key}")
}

async fn wait_for(flag: &AtomicBool) {
    while !flag.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(20)).await;
    }
}

/// What a client remembers of a key.
type Memory = BTreeMap<usize, (Context, BTreeSet<WriteId>)>;

/// One client that works until it is told to stop.
pub struct Worker {
    plan: Plan,
    number: usize,
    client: Client,
    chance: StdRng,
    memory: Memory,
}

impl Worker {
    /// Client `number` of a run.
    pub fn new(plan: Plan, number: usize, seed: u64) -> Self {
        Worker {
            client: connect(&plan, seed),
            plan,
            number,
            chance: StdRng::seed_from_u64(seed),
            memory: Memory::new(),
        }
    }

    /// Works.
    pub async fn run(mut self) {
        wait_for(&self.plan.begin).await;
        while !self.plan.stop.load(Ordering::Relaxed) {
            let timeout = self.chance.random_range(200..2_000);
            let key = self.chance.random_range(0..self.plan.keys);
            let began = Instant::now();
            match self.chance.random_range(0..100) {
                0..30 => self.put(key, timeout).await,
                30..60 => self.get(key, timeout).await,
                60..70 => self.delete(key, timeout).await,
                70..85 => self.modify(key, timeout).await,
                85..93 => self.batch_write(timeout).await,
                _ => self.batch_get(timeout).await,
            }
            let took_ms = began.elapsed().as_millis() as u64;
            self.plan.history.count_call(took_ms, timeout);
            let pause = self.chance.random_range(0..=self.plan.pause_ms);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// How many copies a call asks for: mostly what makes quorums meet.
    fn copies(&mut self) -> u32 {
        let most = self.plan.copies;
        let majority = most / 2 + 1;
        match self.chance.random_range(0..10) {
            0 => 1,
            1 => most,
            _ => majority,
        }
    }

    fn value_bytes(&mut self) -> usize {
        match self.chance.random_range(0..40) {
            // Through the connection for large values.
            0 => 70_000,
            // Over more than one row of the engine.
            1..4 => 9_000,
            _ => 20,
        }
    }

    async fn put(&mut self, key: usize, timeout: u64) {
        let known = self.memory.get(&key).cloned();
        let with = known.filter(|_| self.chance.random_range(0..10) < 7);
        let w = self.copies();
        let covers = with.as_ref().map(|(_, seen)| seen.clone());
        let id = (self.plan.history).begin_write(self.number, key, Kind::Put, covers, w);
        let value = value_of(id, self.value_bytes());
        let mut call = self.client.put(key_name(key), value).w(w).strict(true);
        if let Some((context, _)) = with {
            call = call.context(context);
        }
        let answer = call.timeout(Duration::from_millis(timeout)).await;
        self.settle_put(key, id, answer);
    }

    fn settle_put(&mut self, key: usize, id: WriteId, answer: Result<Written, Error>) {
        if let Ok(written) = &answer {
            match &written.context {
                Some(context) => {
                    let seen = BTreeSet::from([id]);
                    self.memory.insert(key, (context.clone(), seen));
                }
                None => {
                    self.memory.remove(&key);
                }
            }
        }
        self.settle(id, answer.err());
    }

    fn settle(&self, id: WriteId, error: Option<Error>) {
        let outcome = match error {
            None => Outcome::Acked,
            Some(error) => {
                self.count(&error);
                outcome_of(&error)
            }
        };
        self.plan.history.end_write(id, outcome);
    }

    fn count(&self, error: &Error) {
        self.plan.history.count_error(format!("{:?}", error.kind()));
    }

    async fn get(&mut self, key: usize, timeout: u64) {
        let r = self.copies();
        let begun = self.plan.history.tick();
        let call = self.client.get(key_name(key)).r(r).strict(true);
        match call.timeout(Duration::from_millis(timeout)).await {
            Ok(read) => self.saw(key, r, begun, read.context(), read.siblings()),
            Err(error) => self.failed_read(key, &error),
        }
    }

    fn failed_read(&self, key: usize, error: &Error) {
        self.count(error);
        let number = self.number;
        let trace = &self.plan.history.trace;
        trace.line(format_args!(
            "client {number} cannot read key {key}: {error}"
        ));
    }

    fn saw(
        &mut self,
        key: usize,
        r: u32,
        begun: u64,
        context: Option<&Context>,
        siblings: &[Sibling],
    ) {
        let history = &self.plan.history;
        let seen = history.end_read(self.number, key, r, begun, &values(siblings));
        if let Some(context) = context {
            self.memory.insert(key, (context.clone(), seen));
        }
    }

    async fn delete(&mut self, key: usize, timeout: u64) {
        let known = self.memory.remove(&key);
        let with = known.filter(|_| self.chance.random_range(0..2) == 0);
        let w = self.copies();
        let covers = with.as_ref().map(|(_, seen)| seen.clone());
        let id = (self.plan.history).begin_write(self.number, key, Kind::Delete, covers, w);
        let mut call = self.client.delete(key_name(key)).w(w).strict(true);
        if let Some((context, _)) = with {
            call = call.context(context);
        }
        match call.timeout(Duration::from_millis(timeout)).await {
            // Whoever deleted before may not have reached as many copies as this call asked for.
            Ok(deleted) if deleted.found == Some(false) => {
                let nothing = Outcome::Nothing("it found nothing to delete".to_owned());
                self.plan.history.end_write(id, nothing);
            }
            answer => self.settle(id, answer.err()),
        }
    }

    async fn modify(&mut self, key: usize, timeout: u64) {
        let tried: Arc<Mutex<Vec<WriteId>>> = Arc::default();
        let (history, number, bytes) = (self.plan.history.clone(), self.number, self.value_bytes());
        let majority = self.plan.copies / 2 + 1;
        let answer = {
            let tried = tried.clone();
            let change = move |current: &ringfort_client::Current<'_>| {
                let covers = history.name(key, &values(current));
                let id = history.begin_write(number, key, Kind::Put, Some(covers), majority);
                tried.lock().expect("nobody panics with it").push(id);
                Change::Put(value_of(id, bytes))
            };
            let call = self.client.read_modify_write(key_name(key), change);
            call.timeout(Duration::from_millis(timeout))
                .strict(true)
                .await
        };
        self.memory.remove(&key);
        if let Err(error) = &answer {
            self.count(error);
        }
        let rounds = tried.lock().expect("nobody panics with it").clone();
        // With one round, the answer is the answer to its write; with more, only that all rounds were tried is known.
        for &id in &rounds {
            let outcome = match &answer {
                Ok(_) if rounds.len() == 1 => Outcome::Acked,
                Ok(_) => Outcome::Ambiguous("one of several rounds".to_owned()),
                Err(error) if rounds.len() == 1 => outcome_of(error),
                Err(error) => Outcome::Ambiguous(error.to_string()),
            };
            self.plan.history.end_write(id, outcome);
        }
    }

    /// A few different keys: for one key twice no order is promised.
    fn some_keys(&mut self) -> Vec<usize> {
        let first = self.chance.random_range(0..self.plan.keys);
        let count = self.chance.random_range(1..=self.plan.keys.min(5));
        (0..count).map(|i| (first + i) % self.plan.keys).collect()
    }

    async fn batch_write(&mut self, timeout: u64) {
        let keys = self.some_keys();
        let w = self.copies();
        let mut mutations = Vec::new();
        let mut ids = Vec::new();
        for &key in &keys {
            let known = self.memory.get(&key).cloned();
            let covers = known.as_ref().map(|(_, seen)| seen.clone());
            let id = (self.plan.history).begin_write(self.number, key, Kind::Put, covers, w);
            let mut mutation = Mutation::put(key_name(key), value_of(id, self.value_bytes()));
            if let Some((context, _)) = known {
                mutation = mutation.context(context);
            }
            mutations.push(mutation);
            ids.push(id);
        }
        let call = self.client.batch_write(mutations).w(w).strict(true);
        let answers = call.timeout(Duration::from_millis(timeout)).await;
        for ((key, id), answer) in keys.into_iter().zip(ids).zip(answers) {
            self.settle_put(key, id, answer);
        }
    }

    async fn batch_get(&mut self, timeout: u64) {
        let keys = self.some_keys();
        let r = self.copies();
        let begun = self.plan.history.tick();
        let names = keys.iter().map(|key| key_name(*key));
        let call = self.client.batch_get(names).r(r).strict(true);
        let answers = call.timeout(Duration::from_millis(timeout)).await;
        for (key, answer) in keys.into_iter().zip(answers) {
            match answer {
                Ok(read) => self.saw(key, r, begun, read.context(), read.siblings()),
                Err(error) => self.failed_read(key, &error),
            }
        }
    }
}

fn values(siblings: &[Sibling]) -> Vec<Bytes> {
    siblings.iter().map(|s| s.value.clone()).collect()
}

fn outcome_of(error: &Error) -> Outcome {
    if error.is_ambiguous() {
        Outcome::Ambiguous(error.to_string())
    } else {
        Outcome::Nothing(error.to_string())
    }
}

/// Reads every key from all its owners, twice: the first read repairs what differs, the second is what is there in the end.
pub async fn final_pass(plan: Plan, seed: u64) {
    let client = connect(&plan, seed);
    wait_for(&plan.healed).await;
    let mut r = plan.copies;
    for round in 0..2 {
        for key in 0..plan.keys {
            let Some(seen) = final_read(&plan, &client, key, &mut r).await else {
                let wrong = format!("key {key} cannot be read after healing");
                plan.history.records().wrong.push(wrong);
                continue;
            };
            if round == 1 {
                plan.history.records().finals.insert(key, seen);
            }
        }
        // Repairs are sent, not waited for.
        sleep(Duration::from_secs(1)).await;
    }
    plan.done.store(true, Ordering::Relaxed);
}

/// One read of the final pass, tried for long. `r` sinks when a damaged disk keeps all N copies from counting.
async fn final_read(
    plan: &Plan,
    client: &Client,
    key: usize,
    r: &mut u32,
) -> Option<BTreeSet<WriteId>> {
    let began = Instant::now();
    while began.elapsed() < FINAL_PATIENCE {
        let begun = plan.history.tick();
        match client.get(key_name(key)).r(*r).strict(true).await {
            Ok(read) => {
                let values = values(read.siblings());
                return Some(plan.history.end_read(usize::MAX, key, *r, begun, &values));
            }
            Err(error) => {
                let trace = &plan.history.trace;
                trace.line(format_args!("final read of key {key} at r {r}: {error}"));
            }
        }
        sleep(FINAL_PAUSE).await;
        if plan.damaged && began.elapsed() > FINAL_PATIENCE / 10 {
            *r = plan.copies / 2 + 1;
        }
    }
    None
}
