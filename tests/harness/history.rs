//! What the clients of a run asked for and what they were told, in one total order, and the trace of everything else.
//!
//! Keeps what the checker needs to judge I1 to I4: every value is unique and names its write, and every write knows which writes its
//! context covered.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use ringfort_client::Sibling;

use super::{trace::Trace, wall::Wall};

/// Names one write of a run.
pub type WriteId = u64;

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Stores the value that carries its id.
    Put,
    /// Deletes what it covers.
    Delete,
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It still runs, or its client stopped before the answer.
    Open,
    /// Acknowledged.
    Acked,
    /// It may have been applied, and may still be.
    Ambiguous(String),
    /// Refused with the promise that nothing changed.
    Nothing(String),
}

/// How a write is asked for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// What it does.
    pub kind: Kind,
    /// The writes that its context is known to cover; `None` without a context.
    pub covers: Option<BTreeSet<WriteId>>,
    /// Copies that it asks for.
    pub w: u32,
    /// Only owners count.
    pub strict: bool,
    /// Copies count before they are on stable storage.
    pub buffered: bool,
    /// How long its value lives, in ms; 0: for ever.
    pub ttl_ms: u64,
    /// Only if a read finds no value.
    pub if_absent: bool,
}

/// One write.
#[derive(Debug, Clone)]
pub struct Write {
    /// The client that asked.
    pub client: usize,
    /// The key, by its number.
    pub key: usize,
    /// How it was asked for.
    pub ask: Ask,
    /// The writes that its context is known to cover.
    pub covers: BTreeSet<WriteId>,
    /// It was made with a context of the client's own reading, about which the history knows nothing more.
    pub reads_itself: bool,
    /// Its place in the order of all beginnings and ends.
    pub begun: u64,
    /// Likewise; `u64::MAX` if it never ended.
    pub ended: u64,
    /// When it began, in ms of the run's time.
    pub begun_ms: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// A read that is being made. It may be of many keys.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// The client that asks.
    pub client: usize,
    /// Copies that it asks for.
    pub r: u32,
    /// Only owners count.
    pub strict: bool,
    /// Its place in the order of all beginnings and ends.
    pub begun: u64,
    /// When it began, in ms of the run's time.
    pub begun_ms: u64,
}

/// One read that was answered.
#[derive(Debug, Clone)]
pub struct Read {
    /// How it was asked for.
    pub asked: Reading,
    /// The key, by its number.
    pub key: usize,
    /// Its place in the order of all beginnings and ends.
    pub ended: u64,
    /// When it ended, in ms of the run's time.
    pub ended_ms: u64,
    /// The values that it returned.
    pub seen: BTreeSet<WriteId>,
}

/// All that was recorded.
#[derive(Debug, Default)]
pub struct Records {
    /// Writes by id.
    pub writes: BTreeMap<WriteId, Write>,
    /// Reads that were answered.
    pub reads: Vec<Read>,
    /// The last read of each key after healing: what is there in the end.
    pub finals: BTreeMap<usize, Read>,
    /// Clocks and losses of the nodes.
    pub wall: Wall,
    /// Calls that were answered, or refused, or given up.
    pub calls: u64,
    /// Calls that outlived their deadline by more than the bound.
    pub late: u64,
    /// Calls that failed, by the kind of their error.
    pub errors: BTreeMap<String, u64>,
    /// What is wrong beyond doubt at the moment when it is seen.
    pub wrong: Vec<String>,
    order: u64,
}

/// A history that is being recorded. Clones share it.
#[derive(Clone)]
pub struct History {
    records: Arc<Mutex<Records>>,
    /// Everything that happens, line by line.
    pub trace: Trace,
}

impl History {
    /// Nothing yet.
    pub fn new(trace: Trace) -> Self {
        let records = Records {
            wall: Wall::new(trace.epoch_ms()),
            ..Records::default()
        };
        History {
            records: Arc::new(Mutex::new(records)),
            trace,
        }
    }

    /// What was recorded until now.
    pub fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next place in the order of all beginnings and ends.
    pub fn tick(&self) -> u64 {
        let mut records = self.records();
        records.order += 1;
        records.order
    }

    /// Notes that a node's wall clock is off by this much from now on, in ms.
    pub fn set_clock(&self, node: usize, offset_ms: i64) {
        let now_ms = self.trace.now_ms();
        self.records().wall.set_clock(now_ms, node, offset_ms);
    }

    /// Notes that a node has ended without writing down what it held in memory.
    pub fn lose(&self, node: usize) {
        let now_ms = self.trace.now_ms();
        self.records().wall.lose(now_ms, node);
    }

    /// Notes that a node has lost its disk.
    pub fn lose_disk(&self, node: usize) {
        let now_ms = self.trace.now_ms();
        self.records().wall.lose_disk(now_ms, node);
    }

    /// Notes a write that is about to be asked for, and names it.
    pub fn begin_write(&self, client: usize, key: usize, ask: Ask) -> WriteId {
        let begun = self.tick();
        let mut records = self.records();
        let id = records.writes.len() as WriteId + 1;
        self.trace.line(format_args!(
            "client {client} begins write {id} of key {key}: {ask:?}"
        ));
        let write = Write {
            client,
            key,
            reads_itself: ask.covers.is_none() && ask.kind == Kind::Delete,
            covers: ask.covers.clone().unwrap_or_default(),
            ask,
            begun,
            ended: u64::MAX,
            begun_ms: self.trace.now_ms(),
            outcome: Outcome::Open,
        };
        records.writes.insert(id, write);
        id
    }

    /// Notes what became of a write.
    pub fn end_write(&self, id: WriteId, outcome: Outcome) {
        let ended = self.tick();
        let mut records = self.records();
        self.trace
            .line(format_args!("write {id} ends: {outcome:?}"));
        let write = records
            .writes
            .get_mut(&id)
            .expect("ids come from begin_write");
        write.ended = ended;
        write.outcome = outcome;
    }

    /// The writes that these values of a key, read since `begun_ms`, name. A value that names none is invented, and wrong.
    pub fn name(&self, key: usize, siblings: &[Sibling], begun_ms: u64) -> BTreeSet<WriteId> {
        let now_ms = self.trace.now_ms();
        self.records().name(key, siblings, begun_ms, now_ms)
    }

    /// Notes a read that is about to be asked for.
    pub fn begin_read(&self, client: usize, r: u32, strict: bool) -> Reading {
        Reading {
            client,
            r,
            strict,
            begun: self.tick(),
            begun_ms: self.trace.now_ms(),
        }
    }

    /// Notes what a read was answered with for one key.
    pub fn end_read(&self, asked: Reading, key: usize, siblings: &[Sibling]) -> Read {
        let ended = self.tick();
        let ended_ms = self.trace.now_ms();
        let mut records = self.records();
        let seen = records.name(key, siblings, asked.begun_ms, ended_ms);
        let (client, r) = (asked.client as isize, asked.r);
        self.trace.line(format_args!(
            "client {client} read key {key} at r {r}: {seen:?}"
        ));
        let read = Read {
            asked,
            key,
            ended,
            ended_ms,
            seen,
        };
        records.reads.push(read.clone());
        read
    }

    /// Notes a call that failed, by the kind of its error.
    pub fn count_error(&self, kind: String) {
        *self.records().errors.entry(kind).or_default() += 1;
    }

    /// Notes the end of a call that took `took_ms` of the `allowed_ms` that it had (I7: every wait is bounded). In real time nothing
    /// is wrong with a late one: the machine may have been busy elsewhere.
    pub fn count_call(&self, took_ms: u64, allowed_ms: u64) {
        let mut records = self.records();
        records.calls += 1;
        if took_ms <= allowed_ms + LATE_MS {
            return;
        }
        records.late += 1;
        if !self.trace.is_real_time() {
            let wrong = format!("a call outlived its deadline: {took_ms} ms of {allowed_ms} ms");
            records.wrong.push(wrong);
        }
    }
}

/// How long after its deadline a call may still end.
const LATE_MS: u64 = 250;

impl Records {
    /// Whether some write of this key has this value.
    pub fn is_written(&self, key: usize, value: &[u8]) -> bool {
        let write = parse(value).and_then(|id| self.writes.get(&id));
        write.is_some_and(|write| write.is_put_of(key))
    }

    /// The writes that these values of a key name. A value that names none is invented, and wrong.
    fn name(
        &mut self,
        key: usize,
        siblings: &[Sibling],
        begun_ms: u64,
        ended_ms: u64,
    ) -> BTreeSet<WriteId> {
        let mut seen = BTreeSet::new();
        for sibling in siblings {
            let id = parse(&sibling.value);
            let write = id.and_then(|id| self.writes.get(&id));
            let (Some(id), Some(write)) = (id, write.filter(|w| w.is_put_of(key))) else {
                let value = &sibling.value;
                let wrong = format!("key {key}: a value that nobody wrote: {value:?}");
                self.wrong.push(wrong);
                continue;
            };
            let expires_at_ms = sibling.expires_at.map_or(0, |at| at.as_millis() as u64);
            let expiry = self.judge_expiry(write, expires_at_ms, begun_ms, ended_ms);
            if let Err(why) = expiry {
                let wrong = format!("key {key}: write {id} at {ended_ms} ms {why}: {write:?}");
                self.wrong.push(wrong);
            }
            if !seen.insert(id) {
                let wrong = format!("key {key}: write {id} shows twice");
                self.wrong.push(wrong);
            }
        }
        seen
    }

    /// Whether a value that was read at some moment of this time may end when it says so.
    fn judge_expiry(
        &self,
        write: &Write,
        expires_at_ms: u64,
        begun_ms: u64,
        ended_ms: u64,
    ) -> Result<(), String> {
        let ttl_ms = write.ask.ttl_ms;
        if ttl_ms == 0 && expires_at_ms == 0 {
            return Ok(());
        }
        let wall = &self.wall;
        let first = wall.earliest(write.begun_ms, ended_ms) + ttl_ms;
        let last = wall.latest(write.begun_ms, ended_ms) + ttl_ms;
        if ttl_ms == 0 || !(first..=last).contains(&expires_at_ms) {
            return Err(format!(
                "ends at {expires_at_ms}, which is not in {first}..={last}"
            ));
        }
        let now_ms = wall.earliest(begun_ms, ended_ms);
        if expires_at_ms < now_ms {
            return Err(format!(
                "is expired since {expires_at_ms}; no clock shows less than {now_ms}"
            ));
        }
        Ok(())
    }
}

impl Write {
    fn is_put_of(&self, key: usize) -> bool {
        self.key == key && self.ask.kind == Kind::Put
    }

    /// Whether some clock may have taken its value for expired, at any time until `now_ms` of the run's time.
    pub fn may_be_expired(&self, wall: &Wall, now_ms: u64) -> bool {
        self.ask.ttl_ms > 0
            && wall.earliest(self.begun_ms, now_ms) + self.ask.ttl_ms
                <= wall.latest(self.begun_ms, now_ms)
    }

    /// Whether of its copies none may be left that a reader of `r` of `copies` meets at `now_ms`: of buffered ones, or because all
    /// were on disks that are lost. A copy that is left is met: what took the place of a lost disk has it, or does not count.
    pub fn may_be_lost(&self, wall: &Wall, now_ms: u64, r: u32, copies: u32) -> bool {
        let met = (self.ask.w + r).saturating_sub(copies) as usize;
        let forgotten = self.ask.buffered && wall.lost(self.begun_ms, now_ms) >= met;
        forgotten || wall.disks_lost(self.begun_ms, now_ms) >= self.ask.w as usize
    }
}

/// The value of a write: its id, then dots up to `bytes`.
pub fn value_of(id: WriteId, bytes: usize) -> Bytes {
    let mut value = format!("{id} ").into_bytes();
    let filled = value.len().max(bytes);
    value.resize(filled, b'.');
    value.into()
}

fn parse(value: &[u8]) -> Option<WriteId> {
    let end = value.iter().position(|byte| *byte == b' ')?;
    let (id, rest) = value.split_at(end);
    if rest[1..].iter().any(|byte| *byte != b'.') {
        return None;
    }
    std::str::from_utf8(id).ok()?.parse().ok()
}
