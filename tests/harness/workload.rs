//! What clients do in a run: random calls through the real client, each noted in the history before it is made and after it ended.

mod batches;
mod last;
mod singles;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use ringfort_client::{Client, Context, Durability, Error, Sibling, Written};
use tokio::time::{Instant, sleep};

pub use self::last::final_pass;
use super::{
    history::{Ask, History, Kind, Outcome, Reading, WriteId},
    net::SimDial,
    tempo::{Baton, Tempo},
};

/// What a page of a scan has more than other calls, in ms: it reads many partitions, one after the other.
const SCAN_MS: u64 = 3_000;

/// Pause between two calls of a client in a hurry, at most, in ms.
const RUSH_PAUSE_MS: u64 = 4;
/// How often clients look whether they may go on.
const HUSH: Duration = Duration::from_millis(5);

/// What is drawn for a read of one key, in percent of all calls.
const A_GET: u32 = 30;

/// A value that soon expires lives for less than this, in ms.
const FLEETING_MS_MAX: u64 = 500;
/// What is drawn for a put, a delete and a read-modify-write of one key.
const A_PUT: u32 = 0;
const A_DELETE: u32 = 55;
const A_CHANGE: u32 = 65;

/// So long a hasty client gives a call, in ms.
pub const HASTY_MS_MAX: u64 = 400;
/// A lifetime that outlasts every run, whatever clocks jump, in ms.
const LONG_TTL_MS: u64 = 60 * 3_600_000;

/// How clients connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dial {
    /// Through the simulated network.
    Simulated,
    /// Over TCP, to real nodes.
    Tcp,
}

/// What clients mostly do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    /// Everything that there is.
    #[default]
    Usual,
    /// Every other call is a read, and all want quorums of owners that meet.
    HotReads,
    /// Every other call is a read, and most let fallbacks count.
    Lenient,
    /// Every other call is a read, all want quorums of owners that meet, and every other value soon expires.
    Fleeting,
    /// Mostly puts and deletes, all of which want quorums of owners that meet, and none waits for long.
    Hasty,
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
    /// What clients mostly do.
    pub manner: Manner,
    /// How fast clients work just now.
    pub baton: Baton,
    /// Set when the clients may begin.
    pub begin: Arc<AtomicBool>,
    /// Set when they are to stop.
    pub stop: Arc<AtomicBool>,
    /// Clients that have not stopped yet: their last calls may run on for a while.
    pub working: Arc<AtomicUsize>,
    /// Set when everything is healed and the final pass may begin.
    pub healed: Arc<AtomicBool>,
    /// Set when the final pass is done.
    pub done: Arc<AtomicBool>,
    /// A disk loses synced data: what a single copy promised may be gone.
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

/// The name of a key.
pub fn key_name(key: usize) -> String {
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
        plan.working.fetch_add(1, Ordering::Relaxed);
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
            let mut timeout = self.chance.random_range(200..2_000);
            if self.plan.manner == Manner::Hasty {
                timeout = timeout.min(HASTY_MS_MAX);
            }
            let key = self.chance.random_range(0..self.plan.keys);
            let began = Instant::now();
            let mut longest_ms = None;
            match self.draw() {
                0..24 => self.put(key, timeout).await,
                24..30 => self.put_if_absent(key, timeout).await,
                30..55 => self.get(key, timeout).await,
                55..65 => self.delete(key, timeout).await,
                65..80 => self.modify(key, timeout).await,
                80..88 => self.batch_write(timeout).await,
                88..95 => self.batch_get(timeout).await,
                _ => {
                    timeout += SCAN_MS;
                    longest_ms = Some(self.scan(timeout).await);
                }
            }
            let took_ms = longest_ms.unwrap_or_else(|| began.elapsed().as_millis() as u64);
            self.plan.history.count_call(took_ms, timeout);
            let most_ms = match self.plan.baton.tempo() {
                Tempo::Rush => RUSH_PAUSE_MS.min(self.plan.pause_ms),
                Tempo::Usual | Tempo::Hush => self.plan.pause_ms,
            };
            let pause = self.chance.random_range(0..=most_ms);
            sleep(Duration::from_millis(pause)).await;
            while self.plan.baton.tempo() == Tempo::Hush {
                sleep(HUSH).await;
            }
        }
        self.plan.working.fetch_sub(1, Ordering::Relaxed);
    }

    /// Decides the next call.
    fn draw(&mut self) -> u32 {
        match self.plan.manner {
            Manner::Usual => self.chance.random_range(0..100),
            Manner::Hasty => match self.chance.random_range(0..10) {
                0..4 => A_PUT,
                4..8 => A_DELETE,
                8 => A_CHANGE,
                _ => A_GET,
            },
            _ if self.chance.random() => A_GET,
            _ => self.chance.random_range(0..100),
        }
    }

    /// How many copies a call asks for: mostly what makes quorums meet.
    fn copies(&mut self) -> u32 {
        if self.plan.manner != Manner::Usual {
            return self.majority();
        }
        let most = self.plan.copies;
        match self.chance.random_range(0..10) {
            0 => 1,
            1 => most,
            _ => self.majority(),
        }
    }

    /// What calls ask for that do not say how many copies they want.
    fn majority(&self) -> u32 {
        self.plan.copies / 2 + 1
    }

    fn strict(&mut self) -> bool {
        match self.plan.manner {
            Manner::Usual => self.chance.random_range(0..5) > 0,
            Manner::HotReads | Manner::Fleeting | Manner::Hasty => true,
            Manner::Lenient => self.chance.random_range(0..4) == 0,
        }
    }

    /// How a write is asked for: mostly so that it has to last.
    fn ask(&mut self, kind: Kind, covers: Option<BTreeSet<WriteId>>) -> Ask {
        // Only the simulation knows which nodes lost what they had not written down.
        let buffered = self.plan.dial == Dial::Simulated && self.chance.random_range(0..8) == 0;
        Ask {
            kind,
            covers,
            w: self.copies(),
            strict: self.strict(),
            buffered,
            ttl_ms: match kind {
                Kind::Put => self.ttl_ms(),
                Kind::Delete => 0,
            },
            if_absent: false,
        }
    }

    fn ttl_ms(&mut self) -> u64 {
        if self.plan.manner == Manner::Fleeting && self.chance.random() {
            return self.chance.random_range(50..FLEETING_MS_MAX);
        }
        if self.plan.manner == Manner::Hasty {
            return 0;
        }
        match self.chance.random_range(0..20) {
            0..3 => self.chance.random_range(50..3_000),
            3 => self.chance.random_range(5_000..60_000),
            4 => LONG_TTL_MS,
            _ => 0,
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

    fn begin_read(&self, r: u32, strict: bool) -> Reading {
        self.plan.history.begin_read(self.number, r, strict)
    }

    fn begin_write(&self, key: usize, ask: &Ask) -> WriteId {
        let history = &self.plan.history;
        history.begin_write(self.number, key, ask.clone())
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

    /// A put with `if_absent`: it has read, too, a majority.
    fn settle_if_absent(
        &mut self,
        key: usize,
        id: WriteId,
        asked: Reading,
        answer: Result<Written, Error>,
    ) {
        match &answer {
            // Some attempt found nothing.
            Ok(_) => drop(self.plan.history.end_read(asked, key, &[])),
            Err(error) => {
                if let Some(read) = error.current() {
                    self.saw(asked, key, read.context(), read.siblings());
                }
            }
        }
        self.settle_put(key, id, answer);
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
        // That a value is there is an answer.
        if error.kind() != ringfort_client::Kind::ConditionFailed {
            self.plan.history.count_error(format!("{:?}", error.kind()));
        }
    }

    fn failed_read(&self, what: std::fmt::Arguments<'_>, error: &Error) {
        self.count(error);
        let number = self.number;
        let trace = &self.plan.history.trace;
        trace.line(format_args!("client {number} cannot {what}: {error}"));
    }

    fn saw(&mut self, asked: Reading, key: usize, context: Option<&Context>, siblings: &[Sibling]) {
        let read = self.plan.history.end_read(asked, key, siblings);
        if let Some(context) = context {
            self.memory.insert(key, (context.clone(), read.seen));
        }
    }
}

fn durability(ask: &Ask) -> Durability {
    match ask.buffered {
        true => Durability::Buffered,
        false => Durability::Synced,
    }
}

fn ttl(ask: &Ask) -> Option<Duration> {
    (ask.ttl_ms > 0).then(|| Duration::from_millis(ask.ttl_ms))
}

fn outcome_of(error: &Error) -> Outcome {
    if error.is_ambiguous() {
        Outcome::Ambiguous(error.to_string())
    } else {
        Outcome::Nothing(error.to_string())
    }
}
