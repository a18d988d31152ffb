//! What the clients of a run asked for and what they were told, in one total order, and the trace of everything else.
//!
//! Keeps what the checker needs to judge I1 to I4: every value is unique and names its write, and every write knows which writes its
//! context covered.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::trace::Trace;

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

/// One write.
#[derive(Debug, Clone)]
pub struct Write {
    /// The client that asked.
    pub client: usize,
    /// The key, by its number.
    pub key: usize,
    /// What it does.
    pub kind: Kind,
    /// The writes that its context is known to cover.
    pub covers: BTreeSet<WriteId>,
    /// It was made with a context of the client's own reading, about which the history knows nothing more.
    pub reads_itself: bool,
    /// Copies that it asked for.
    pub w: u32,
    /// Its place in the order of all beginnings and ends.
    pub begun: u64,
    /// Likewise; `u64::MAX` if it never ended.
    pub ended: u64,
    /// When it began, in ms of the run's time.
    pub begun_ms: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// One read that was answered.
#[derive(Debug, Clone)]
pub struct Read {
    /// The client that asked.
    pub client: usize,
    /// The key, by its number.
    pub key: usize,
    /// Copies that it asked for.
    pub r: u32,
    /// Its place in the order of all beginnings and ends.
    pub begun: u64,
    /// Likewise.
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
    pub finals: BTreeMap<usize, BTreeSet<WriteId>>,
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
        History {
            records: Arc::default(),
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

    /// Notes a write that is about to be asked for, and names it.
    pub fn begin_write(
        &self,
        client: usize,
        key: usize,
        kind: Kind,
        covers: Option<BTreeSet<WriteId>>,
        w: u32,
    ) -> WriteId {
        let begun = self.tick();
        let mut records = self.records();
        let id = records.writes.len() as WriteId + 1;
        self.trace.line(format_args!(
            "client {client} begins {kind:?} {id} of key {key}, w {w}, covers {covers:?}"
        ));
        let write = Write {
            client,
            key,
            kind,
            reads_itself: covers.is_none() && kind == Kind::Delete,
            covers: covers.unwrap_or_default(),
            w,
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

    /// Notes a read that was answered with these values; gives the writes that they name.
    pub fn end_read(
        &self,
        client: usize,
        key: usize,
        r: u32,
        begun: u64,
        values: &[Bytes],
    ) -> BTreeSet<WriteId> {
        let ended = self.tick();
        let mut records = self.records();
        let seen = records.name(key, values);
        self.trace.line(format_args!(
            "client {client} read key {key} at r {r}: {seen:?}"
        ));
        records.reads.push(Read {
            client,
            key,
            r,
            begun,
            ended,
            ended_ms: self.trace.now_ms(),
            seen: seen.clone(),
        });
        seen
    }

    /// The writes that these values of a key name. A value that names none is invented, and wrong.
    pub fn name(&self, key: usize, values: &[Bytes]) -> BTreeSet<WriteId> {
        self.records().name(key, values)
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
    fn name(&mut self, key: usize, values: &[Bytes]) -> BTreeSet<WriteId> {
        let mut seen = BTreeSet::new();
        for value in values {
            match parse(value) {
                Some(id)
                    if self
                        .writes
                        .get(&id)
                        .is_some_and(|w| w.key == key && w.kind == Kind::Put) =>
                {
                    if !seen.insert(id) {
                        self.wrong
                            .push(format!("key {key}: write {id} shows twice"));
                    }
                }
                _ => self
                    .wrong
                    .push(format!("key {key}: a value that nobody wrote: {value:?}")),
            }
        }
        seen
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
