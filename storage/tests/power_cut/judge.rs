//! Opens one image and says whether the store kept its promises.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use ringfort_storage::Key;
use ringfort_storage::engine::EngineError;
use ringfort_storage::log::LogStep;
use ringfort_storage::merkle::Forest;
use ringfort_storage::store::{DrainStep, Hint, Opened, Read, Store};

use crate::chance::Chance;
use crate::history::{History, check_values};
use crate::image::Image;
use crate::life::{self, PARTITIONS};

/// Starts that one image gets: one that finds the engine failing, and one that sets it aside.
const STARTS_MAX: usize = 3;

/// What was done to a directory before it is opened.
pub struct Case {
    pub name: String,
    pub image: Image,
    pub history: Arc<History>,
    /// Operations of the trace that had happened.
    pub position: usize,
    /// A byte was flipped. Else nothing but the power failed, and nothing may be damaged.
    pub flipped: bool,
    /// Goes on to an orderly stop and opens once more.
    pub goes_on: bool,
    pub chance: Chance,
}

/// How a store came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// With every acknowledged write.
    Whole,
    /// As above; sled's files were cut in their making and made anew.
    WholeNewEngine,
    /// Damage was found in the log, the records or the roots, and some partitions are unsynced.
    PartlyUnsynced,
    /// The whole store is unsynced.
    Unsynced,
    /// Sled was set aside.
    EngineReplaced,
    /// It refused to open.
    Refused,
}

/// Opens the image in `root`.
///
/// # Errors
/// The promise that was broken.
pub fn judge(root: &Path, case: &Case) -> Result<Outcome, String> {
    let mut chance = case.chance.clone();
    for _ in 0..STARTS_MAX {
        let opened = match life::open(root, &mut chance) {
            Ok(opened) => opened,
            Err(error) if case.flipped => {
                tracing::debug!(%error, "refused");
                return Ok(Outcome::Refused);
            }
            Err(error) => return Err(format!("it does not open: {error}")),
        };
        match read_all(&opened.store) {
            Ok(found) => {
                let outcome = check(case, &opened, &found)?;
                if case.goes_on {
                    stop(opened)?;
                    reopen(root, &found, &mut chance)?;
                }
                return Ok(outcome);
            }
            // It says so, and the process ends; the next start sets the engine aside.
            Err(_) if case.flipped => {}
            Err(error) => return Err(format!("the engine fails: {error}")),
        }
    }
    Err(format!("the engine failed at {STARTS_MAX} starts"))
}

/// Every key as a read finds it, and every key that a scan finds.
struct Found {
    reads: Vec<(Key, Read)>,
    scanned: Vec<(Key, Read)>,
    hints: BTreeMap<Key, Hint>,
}

fn read_all(store: &Store) -> Result<Found, EngineError> {
    let keys = life::keys();
    let reads = store.load(&keys)?;
    let mut scanned = Vec::new();
    let (mut first_token, mut after) = (0, None);
    loop {
        let page = store.scan(
            first_token,
            after.as_ref().map(|key: &Key| &key.framed()[..]),
            u64::MAX,
            16,
            1 << 20,
        )?;
        scanned.extend(
            page.records
                .into_iter()
                .map(|(key, record)| (key, Read::Found(record))),
        );
        scanned.extend(
            page.quarantined
                .into_iter()
                .map(|key| (key, Read::Quarantined)),
        );
        match page.next {
            Some(next) => {
                first_token = next.token();
                after = Some(next);
            }
            None => break,
        }
    }
    Ok(Found {
        hints: {
            let held = |key: &Key| Some((key.clone(), store.hint(key)?));
            keys.iter().filter_map(held).collect()
        },
        reads: keys.into_iter().zip(reads).collect(),
        scanned,
    })
}

fn check(case: &Case, opened: &Opened, found: &Found) -> Result<Outcome, String> {
    let (store, report) = (&opened.store, &opened.report);
    let unsynced: BTreeSet<u32> = store.unsynced().into_iter().collect();
    let recovered = store.stats().last_sequence;
    let durable = case.history.durable(case.position);
    let (begun, later) = case.history.begun(case.position);
    if recovered >= later {
        return Err(format!(
            "the log came back up to {recovered}, and had not begun {later}"
        ));
    }
    if recovered < durable && unsynced.len() < PARTITIONS as usize {
        return Err(format!(
            "acknowledged up to {durable}, back up to {recovered}"
        ));
    }
    let hints_told = report.lost_hints || !report.damaged_hints.is_empty();
    if !case.flipped && (hints_told || !unsynced.is_empty()) {
        return Err(format!("damage where there is none: {report:?}"));
    }
    check_actor(case, opened, recovered >= begun && unsynced.is_empty())?;
    for (key, read) in found.reads.iter().chain(&found.scanned) {
        let unsynced = unsynced.contains(&store.partition_of(key.token()));
        check_read(&case.history, key, read, recovered, unsynced).map_err(|what| {
            format!("{key:?} at {recovered} ({durable} to {begun}): {what}; {report:?}")
        })?;
    }
    for key in life::keys() {
        check_hint(case, opened, &key, recovered)
            .map_err(|what| format!("the hint of {key:?} at {recovered}: {what}; {report:?}"))?;
    }
    check_scan(found)?;
    check_trees(store, found, &unsynced)?;
    Ok(match (&report.engine_replaced, unsynced.len()) {
        (None, 0) => Outcome::Whole,
        (Some(_), 0) => Outcome::WholeNewEngine,
        (Some(_), _) => Outcome::EngineReplaced,
        (None, count) if count < PARTITIONS as usize => Outcome::PartlyUnsynced,
        (None, _) => Outcome::Unsynced,
    })
}

/// An actor goes on minting only if nothing that it minted can be lost.
fn check_actor(case: &Case, opened: &Opened, all_there: bool) -> Result<(), String> {
    let actor = opened.store.actor();
    let keys = case.history.keys.values();
    let minted = keys
        .flat_map(|key| key.minted.keys())
        .any(|dot| dot.actor == actor);
    match opened.report.clean {
        true if !all_there => Err("it passes for cleanly stopped, and lost something".to_owned()),
        false if minted => Err(format!("{actor:?} goes on after a cut")),
        _ => Ok(()),
    }
}

/// Whether what is read of a key may be read.
fn check_read(
    history: &History,
    key: &Key,
    read: &Read,
    recovered: u64,
    unsynced: bool,
) -> Result<(), String> {
    let expected = history.state(key, recovered);
    match read {
        Read::Found(record) if unsynced => match history.keys.get(key) {
            Some(history) => history.check_honest(record.object()),
            None if record.object().is_empty() => Ok(()),
            None => Err("nobody wrote it".to_owned()),
        },
        Read::Found(record) if record.leaf() == expected.leaf() => check_values(record.object()),
        Read::Found(record) => {
            let clocks = (record.object().clock(), expected.object().clock());
            Err(format!("found and expected: {clocks:?}"))
        }
        Read::Quarantined if unsynced => Ok(()),
        Read::Quarantined => Err("quarantined in a synced partition".to_owned()),
        Read::Miss => Err("a load says miss".to_owned()),
    }
}

/// Whether a store may hold this hint of a key: what it took and has not forgotten, all of it. Damage may cost it one, but it
/// says so, and what it holds is what somebody wrote.
fn check_hint(case: &Case, opened: &Opened, key: &Key, recovered: u64) -> Result<(), String> {
    let (held, report) = (opened.store.hint(key), &opened.report);
    if held == case.history.hint(key, recovered) {
        return held.map_or(Ok(()), |hint| check_values(hint.record.object()));
    }
    let told = report.lost_hints || report.damaged_hints.contains(key);
    match (held, case.history.keys.get(key)) {
        (None, _) if case.flipped && told => Ok(()),
        (Some(hint), Some(history)) if case.flipped && told => {
            history.check_honest(hint.record.object())
        }
        (held, _) => {
            let clock = |hint: &Hint| hint.record.object().clock().clone();
            let expected = case.history.hint(key, recovered);
            let (held, expected) = (held.as_ref().map(clock), expected.as_ref().map(clock));
            Err(format!("found and expected: {held:?}, {expected:?}"))
        }
    }
}

/// A scan finds the keys that reads find.
fn check_scan(found: &Found) -> Result<(), String> {
    let there = |list: &[(Key, Read)]| -> BTreeSet<Key> {
        let there = list.iter().filter(|(_, read)| match read {
            Read::Found(record) => !record.object().is_empty(),
            _ => false,
        });
        there.map(|(key, _)| key.clone()).collect()
    };
    let (read, scanned) = (there(&found.reads), there(&found.scanned));
    match read == scanned {
        true => Ok(()),
        false => {
            let differ: Vec<_> = read.symmetric_difference(&scanned).collect();
            Err(format!("reads and a scan differ in {differ:?}"))
        }
    }
}

/// The trees that peers compare say what reads find.
fn check_trees(store: &Store, found: &Found, unsynced: &BTreeSet<u32>) -> Result<(), String> {
    let mut expected = Forest::new(PARTITIONS);
    for (key, read) in &found.reads {
        if let Read::Found(record) = read {
            expected.apply(key.token(), 0, record.leaf());
        }
    }
    for partition in (0..PARTITIONS).filter(|partition| !unsynced.contains(partition)) {
        let now = store.partition_tree(partition);
        if !now.unfolded.is_empty() || now.tree != *expected.tree(partition) {
            return Err(format!(
                "the tree of partition {partition} is not that of its records"
            ));
        }
    }
    Ok(())
}

/// Drives a store to its orderly stop.
fn stop(mut opened: Opened) -> Result<(), String> {
    opened.store.close();
    let mut now_ms = 1;
    loop {
        now_ms += 10;
        while opened.writer.step().map_err(|e| e.to_string())? == LogStep::Worked {}
        match opened.drainer.step(now_ms).map_err(|e| e.to_string())? {
            DrainStep::Closed => break,
            _ => continue,
        }
    }
    opened.log.close();
    while opened.writer.step().map_err(|e| e.to_string())? != LogStep::Closed {}
    Ok(())
}

/// After an orderly stop everything is as it was.
fn reopen(root: &Path, before: &Found, chance: &mut Chance) -> Result<(), String> {
    let opened = life::open(root, chance).map_err(|e| format!("not after an orderly stop: {e}"))?;
    let found = read_all(&opened.store).map_err(|e| e.to_string())?;
    if !opened.report.clean {
        return Err(format!("an orderly stop is not clean: {:?}", opened.report));
    }
    for ((key, before), (_, now)) in before.reads.iter().zip(&found.reads) {
        match (before, now) {
            (Read::Found(before), Read::Found(now)) if before.leaf() == now.leaf() => {}
            (before, now) => {
                return Err(format!("{key:?} changed by a restart: {before:?}, {now:?}"));
            }
        }
    }
    for key in life::keys() {
        if before.hints.get(&key) != opened.store.hint(&key).as_ref() {
            return Err(format!("the hint of {key:?} changed by a restart"));
        }
    }
    check_scan(&found)
}
