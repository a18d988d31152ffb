//! Looks for planted bugs: how many seeds does it take until the checker finds one?
//!
//! *Invariant:* a seed counts only if it fails with the bug planted and passes without it: what fails anyway proves nothing. And a
//! run fails only by what its report finds: one that cannot be made (an unknown bug, a bad option, a process killed) ends the search.
//! Seeds whose faults cannot reach the bug are counted as tried, and not run.

use std::{
    ops::Range,
    path::Path,
    sync::{Mutex, PoisonError},
};

use super::{
    faults::{Kind, kinds_of},
    fleet::{Verdict, run_one},
};

/// One search: a bug, and the seeds to look through, in order.
#[derive(Debug, Clone)]
pub struct Search {
    /// The bug, by its name.
    pub mutant: String,
    /// The seeds.
    pub seeds: Range<u64>,
}

/// What a search came to.
#[derive(Debug, Clone)]
pub struct Found {
    /// The seed, and what the checker said; `None`: none of the seeds finds the bug.
    pub seed: Option<(u64, String)>,
    /// Seeds that were tried, the one that found it included.
    pub tried: u64,
    /// Seeds that fail without the bug, too.
    pub unsound: Vec<u64>,
    /// A run that came to no report, and what it said instead: the search is worth nothing.
    pub broken: Option<String>,
}

/// The kinds of faults without which a bug does nothing; `None`: any run may show it.
///
/// A run without them never asks what the bug answers wrongly: nobody speaks under another epoch but the stranger, and where no disk
/// is damaged the final pass fails if a copy does not count.
fn shown_by(mutant: &str) -> Option<&'static [Kind]> {
    match mutant {
        "AcceptStaleEpoch" | "AcceptForeign" => Some(&[Kind::Stranger]),
        "BadChecksum" => Some(&[Kind::BitFlip]),
        "CountUnsynced" => Some(&[Kind::BitFlip, Kind::FailEngine, Kind::Restore]),
        "ReuseActor" => Some(&[Kind::BitFlip, Kind::Restore]),
        "KeepActor" => Some(&[
            Kind::Crash,
            Kind::CutRecovery,
            Kind::Blackout,
            Kind::Kill,
            Kind::FailDisk,
            Kind::FullDisk,
            Kind::BitFlip,
        ]),
        _ => None,
    }
}

/// What `sim` is told where a bug is looked for, unless something else is wanted: a run as they usually are does not meet it, or hardly ever.
pub fn usual_args(mutant: &str) -> &'static [&'static str] {
    match mutant {
        "TwoDecided" | "ForgetVote" => &["--drill", "decide"],
        "CopyBeforeAck" | "CountOverLayouts" | "TreeMissesErase" => &["--drill", "flip"],
        "PlaceByLiveness" | "ForgetOldEarly" | "LeaveWithoutDraining" => &["--changes", "2"],
        "CountUnsynced" => &["--drill", "loss"],
        "HintLost" | "RepairFallback" => &["--drill", "hints"],
        "ShipCorrupt" => &["--drill", "rot"],
        "DropExpiredClock" => &["--drill", "expire"],
        "AcceptOlderGeneration" => &["--drill", "late"],
        "ConfirmBeforeSync" => &["--drill", "confirm"],
        "ReapByTime" => &["--reap"],
        _ => &[],
    }
}

/// Searches, one seed after the other. `extra` is handed to `sim` as it is; if there is none, what is usual for the bug is.
pub fn search(sim: &Path, extra: &[String], search: &Search) -> Found {
    let usual = usual_args(&search.mutant)
        .iter()
        .map(|arg| (*arg).to_owned());
    let usual: Vec<String> = usual.collect();
    let extra = if extra.is_empty() { &usual } else { extra };
    let planted = ["--mutant", &search.mutant].map(str::to_owned);
    let planted = [extra, &planted].concat();
    let mut found = Found {
        seed: None,
        tried: 0,
        unsound: Vec::new(),
        broken: None,
    };
    // Where layouts change, and disks are lost with it, any run may show any of them; and a drill has faults of its own.
    let others = ["--changes", "--drill"];
    let others = extra
        .iter()
        .any(|arg| others.iter().any(|other| arg.starts_with(other)));
    let shown_by = shown_by(&search.mutant).filter(|_| !others);
    for seed in search.seeds.clone() {
        found.tried += 1;
        let kinds = kinds_of(seed);
        if shown_by.is_some_and(|needed| !kinds.iter().any(|kind| needed.contains(kind))) {
            continue;
        }
        let with = run_one(sim, &planted, seed);
        if with.failure.is_none() {
            continue;
        }
        let without = run_one(sim, extra, seed);
        if let Some(words) = [&with, &without].into_iter().find_map(no_report) {
            found.broken = Some(words);
            break;
        }
        if without.failure.is_some() {
            found.unsound.push(seed);
            continue;
        }
        found.seed = Some((seed, first_wrong(&with)));
        break;
    }
    found
}

/// Does all searches, `side_by_side` at a time; tells what each came to as it ends.
pub fn search_all(
    sim: &Path,
    extra: &[String],
    searches: &[Search],
    side_by_side: usize,
    told: impl FnMut(&Search, Found) + Send,
) {
    let (coming, told) = (Mutex::new(searches.iter()), Mutex::new(told));
    std::thread::scope(|scope| {
        for _ in 0..side_by_side.max(1) {
            scope.spawn(|| {
                loop {
                    let next = coming.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(next) = next else { return };
                    let found = search(sim, extra, next);
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    told(next, found);
                }
            });
        }
    });
}

/// What a run said that failed without a report.
fn no_report(verdict: &Verdict) -> Option<String> {
    let words = verdict.failure.as_ref()?;
    verdict.report.is_null().then(|| words.trim().to_owned())
}

fn first_wrong(verdict: &Verdict) -> String {
    let said = verdict.report["wrong"][0].as_str();
    said.unwrap_or_default().to_owned()
}
