//! Judges a history: I1 and I2 (what was acknowledged is there or causally dominated), I3 (reads meet writes), I4 (what was replaced
//! or deleted stays so), nothing invented, nothing left by what "changed nothing", and I5 (replicas equal in the end).
//!
//! *How:* every write knows the writes that its context covered, by the values of the read that gave the context. Write `b` may
//! replace `a` only if `b` covers `a`. So an acknowledged `a` that is not to be seen needs a chain a → b → … of writes that may have
//! been applied, each covering the one before, which ends in a value that is seen, or in a delete, or in a value that has expired.
//!
//! *Excepted:* values whose time may be over by some clock that was in play; buffered writes, once so many nodes ended in an unclean
//! way that all copies may be gone that the reader meets; and, for single reads, calls that let fallbacks count.

use std::collections::{BTreeMap, BTreeSet};

use ringfort_storage::{Key as StoredKey, Record};

use super::{
    cluster::SimNode,
    history::{Kind, Outcome, Read, Records, Write, WriteId},
    wall::Wall,
    workload::key_name,
};

/// Findings that are told of one run; the first say it all.
const FINDINGS_MAX: usize = 12;

/// Writes that were acknowledged.
pub fn acked(records: &Records) -> u64 {
    let acked = records.writes.values().filter(|w| is_acked(w));
    acked.count() as u64
}

fn is_acked(write: &Write) -> bool {
    write.outcome == Outcome::Acked
}

fn is_nothing(write: &Write) -> bool {
    matches!(write.outcome, Outcome::Nothing(_))
}

/// Whether whoever reads `r` copies meets each write of `w` copies.
fn meets(w: u32, r: u32, copies: u32) -> bool {
    w + r > copies
}

/// What is wrong with a history; empty if nothing is. `damaged`: a disk has lost synced data, so that a single copy promises
/// nothing.
pub fn judge(records: &Records, copies: u32, damaged: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut keys: BTreeMap<usize, Key<'_>> = BTreeMap::new();
    let new = || Key::new(copies, &records.wall);
    for (&id, write) in &records.writes {
        let key = keys.entry(write.key).or_insert_with(new);
        key.writes.insert(id, write);
    }
    for key in keys.values_mut() {
        key.close();
    }
    for (number, read) in &records.finals {
        if let Some(key) = keys.get(number) {
            let view = View {
                name: format!("key {number}, in the end"),
                // After healing all N copies are read, and with damage a majority.
                r: if damaged { copies / 2 + 1 } else { copies },
                strict: true,
                is_final: true,
                begun: u64::MAX,
                ended: u64::MAX,
                ..View::of(read)
            };
            key.judge(&view, &mut wrong);
        }
    }
    for read in &records.reads {
        if let Some(key) = keys.get(&read.key) {
            key.judge(&View::of(read), &mut wrong);
        }
    }
    wrong.truncate(FINDINGS_MAX);
    wrong
}

/// What one read showed.
struct View<'a> {
    name: String,
    seen: &'a BTreeSet<WriteId>,
    r: u32,
    strict: bool,
    /// Everything has healed: what fallbacks held has reached the owners.
    is_final: bool,
    begun: u64,
    ended: u64,
    ended_ms: u64,
}

impl<'a> View<'a> {
    fn of(read: &'a Read) -> Self {
        View {
            name: format!(
                "key {}, read by client {} at {} ms with r {}",
                read.key, read.asked.client as isize, read.ended_ms, read.asked.r
            ),
            seen: &read.seen,
            r: read.asked.r,
            strict: read.asked.strict,
            is_final: false,
            begun: read.asked.begun,
            ended: read.ended,
            ended_ms: read.ended_ms,
        }
    }
}

/// The writes of one key.
struct Key<'a> {
    writes: BTreeMap<WriteId, &'a Write>,
    /// All that a write covers, at any remove.
    covered: BTreeMap<WriteId, BTreeSet<WriteId>>,
    copies: u32,
    wall: &'a Wall,
}

impl<'a> Key<'a> {
    fn new(copies: u32, wall: &'a Wall) -> Self {
        Key {
            writes: BTreeMap::new(),
            covered: BTreeMap::new(),
            copies,
            wall,
        }
    }

    /// Computes what each write covers at any remove. A write covers older ones only.
    fn close(&mut self) {
        for (&id, write) in &self.writes {
            let mut all = write.covers.clone();
            for older in &write.covers {
                all.extend(self.covered.get(older).into_iter().flatten());
            }
            self.covered.insert(id, all);
        }
    }

    fn judge(&self, view: &View<'_>, wrong: &mut Vec<String>) {
        self.judge_presence(view, wrong);
        self.judge_absence(view, wrong);
    }

    /// I2, I3: what must be there.
    fn judge_presence(&self, view: &View<'_>, wrong: &mut Vec<String>) {
        let kept = self.kept(view);
        for (id, write) in &self.writes {
            let due = write.ask.kind == Kind::Put
                && self.is_met(write, view)
                && !write.may_be_expired(self.wall, view.ended_ms);
            if due && !kept.contains(id) {
                wrong.push(format!(
                    "{}: write {id} (acknowledged, w {}) is neither there nor replaced; seen: {:?}",
                    view.name, write.ask.w, view.seen
                ));
            }
        }
    }

    /// Whether a view cannot miss a write: it was acknowledged before, on copies of which the reader asked one at least.
    fn is_met(&self, write: &Write, view: &View<'_>) -> bool {
        is_acked(write)
            && write.ended < view.begun
            && meets(write.ask.w, view.r, self.copies)
            && (view.is_final || (write.ask.strict && view.strict))
            && !write.may_be_lost(self.wall, view.ended_ms, view.r, self.copies)
    }

    /// The writes that are seen, or replaced by a chain that ends well.
    fn kept(&self, view: &View<'_>) -> BTreeSet<WriteId> {
        let mut kept: BTreeSet<WriteId> = BTreeSet::new();
        // A delete that read for itself may have covered whatever began before it ended.
        let mut deleted_before = 0;
        for (&id, write) in self.writes.iter().rev() {
            let may_apply = !is_nothing(write) && write.begun < view.ended;
            if may_apply && write.reads_itself {
                deleted_before = deleted_before.max(write.ended);
            }
            let ends_well = view.seen.contains(&id)
                || (write.ask.kind == Kind::Delete && may_apply)
                || (write.may_be_expired(self.wall, view.ended_ms) && may_apply)
                || kept.contains(&id);
            if ends_well && may_apply {
                kept.insert(id);
                kept.extend(&write.covers);
            }
        }
        for (&id, write) in &self.writes {
            if write.begun < deleted_before {
                kept.insert(id);
            }
        }
        kept
    }

    /// I4, and no traces of what "changed nothing": what must not be there.
    fn judge_absence(&self, view: &View<'_>, wrong: &mut Vec<String>) {
        for id in view.seen {
            let Some(write) = self.writes.get(id) else {
                continue;
            };
            if is_nothing(write) {
                wrong.push(format!(
                    "{}: write {id} is there, which was refused with nothing changed: {:?}",
                    view.name, write.outcome
                ));
            }
            if let Some(by) = self.replacer(*id, write, view) {
                wrong.push(format!(
                    "{}: write {id} is there, which write {by} had replaced; seen: {:?}",
                    view.name, view.seen
                ));
            }
        }
    }

    /// A write that surely replaced this one before the view, if there is one.
    fn replacer(&self, id: WriteId, write: &Write, view: &View<'_>) -> Option<WriteId> {
        let replaced = |by: &WriteId, other: &Write| {
            let sure = view.seen.contains(by) || self.is_met(other, view);
            sure && (self.covered[by].contains(&id) || self.has_read(other, write))
        };
        self.writes
            .iter()
            .find(|(by, other)| replaced(by, other))
            .map(|(by, _)| *by)
    }

    /// Whether a delete that read for itself cannot have missed a write.
    fn has_read(&self, delete: &Write, write: &Write) -> bool {
        let majority = self.copies / 2 + 1;
        // Its read began after it, and ended before it was acknowledged.
        delete.reads_itself
            && is_acked(write)
            && write.ended < delete.begun
            && meets(write.ask.w, majority, self.copies)
            && (write.ask.strict && delete.ask.strict)
            && !write.may_be_lost(self.wall, u64::MAX, majority, self.copies)
    }
}

/// I5: whether the copies of each key are equal, and no hint is left. Reads the stores of the nodes, which must be ready.
pub fn replicas(nodes: &[SimNode], copies: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut leaves: BTreeMap<Vec<u8>, BTreeMap<&str, u64>> = BTreeMap::new();
    for node in nodes {
        let hints = node.store().map_or(0, |store| store.hint_stats().count);
        if hints > 0 {
            wrong.push(format!("{}: {hints} hints are left in the end", node.name));
        }
        match held(node) {
            Ok(held) => held.into_iter().for_each(|(key, leaf)| {
                leaves.entry(key).or_default().insert(&node.name, leaf);
            }),
            Err(why) => wrong.push(format!("{}: {why}", node.name)),
        }
    }
    for (key, leaves) in leaves {
        let mut values = leaves.values();
        let first = values.next();
        if leaves.len() != copies || values.any(|leaf| Some(leaf) != first) {
            let key = String::from_utf8_lossy(&key).into_owned();
            wrong.push(format!(
                "{key:?}: not {copies} equal copies in the end: {leaves:x?}"
            ));
        }
    }
    wrong.truncate(FINDINGS_MAX);
    wrong
}

/// Values of the first `keys` keys that nobody wrote, at the nodes that run: whether or not a client ever reads them, as copies that differ in
/// nothing else become the same one again, and that may be the right one. Reads the stores, so what rots there comes to light.
pub fn invented<'a>(
    nodes: impl Iterator<Item = &'a SimNode>,
    records: &Records,
    keys: usize,
) -> Vec<String> {
    let names: Vec<String> = (0..keys).map(key_name).collect();
    let number = |key: &StoredKey| {
        let mut names = names.iter();
        names.position(|name| key.key() == name.as_bytes())
    };
    let mut wrong = Vec::new();
    for node in nodes.filter(|node| node.store().is_some()) {
        let judged = each(node, |key, record| {
            let Some(number) = number(key) else { return };
            let siblings = record.object().siblings().iter();
            let values = siblings.flat_map(|s| s.values()).filter_map(|v| v.bytes());
            for value in values.filter(|value| !records.is_written(number, value)) {
                wrong.push(format!(
                    "{} holds a value of key {number} that nobody wrote: {value:?}",
                    node.name
                ));
            }
        });
        wrong.extend(judged.err().map(|why| format!("{}: {why}", node.name)));
    }
    wrong.truncate(FINDINGS_MAX);
    wrong
}

/// The leaf of every record that a node holds, by key.
fn held(node: &SimNode) -> Result<BTreeMap<Vec<u8>, u64>, String> {
    let mut leaves = BTreeMap::new();
    each(node, |key, record| {
        leaves.insert(key.framed().to_vec(), record.leaf());
    })?;
    Ok(leaves)
}

/// Calls `f` with every record that a node holds.
fn each(node: &SimNode, mut f: impl FnMut(&StoredKey, &Record)) -> Result<(), String> {
    let store = node.store().ok_or("it has no store in the end")?;
    let mut first = (0, None::<Vec<u8>>);
    loop {
        let after = first.1.as_deref();
        let page = store.scan(first.0, after, u64::MAX, 1_000, usize::MAX);
        let page = page.map_err(|error| error.to_string())?;
        page.records.iter().for_each(|(key, record)| f(key, record));
        let Some(next) = page.next else {
            return Ok(());
        };
        first = (next.token(), Some(next.framed().to_vec()));
    }
}
