//! Many seeds: each in a process of its own, a few at a time.

use std::{
    path::Path,
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::Value;

/// What came of one seed.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// The seed.
    pub seed: u64,
    /// What else `sim` was told.
    pub extra: Vec<String>,
    /// What its process printed; `Null` if it printed no report.
    pub report: Value,
    /// Its last events and findings, if it failed.
    pub failure: Option<String>,
}

/// Runs seeds, `side_by_side` at a time; tells each verdict as it comes. Ends early when `told` says `false`.
pub fn run(
    sim: &Path,
    extra: &[String],
    seeds: impl Iterator<Item = u64> + Send,
    side_by_side: usize,
    told: impl FnMut(Verdict) -> bool + Send,
) {
    let seeds = seeds.map(|seed| (seed, extra.to_vec()));
    run_all(sim, seeds, side_by_side, told);
}

/// The same of seeds that each have arguments of their own.
pub fn run_all(
    sim: &Path,
    seeds: impl Iterator<Item = (u64, Vec<String>)> + Send,
    side_by_side: usize,
    told: impl FnMut(Verdict) -> bool + Send,
) {
    let seeds = Mutex::new(seeds);
    let told = Mutex::new(told);
    let go_on = AtomicBool::new(true);
    std::thread::scope(|scope| {
        for _ in 0..side_by_side.max(1) {
            scope.spawn(|| {
                while go_on.load(Ordering::Relaxed) {
                    let seed = seeds.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((seed, extra)) = seed else {
                        return;
                    };
                    let verdict = run_one(sim, &extra, seed);
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    if !told(verdict) {
                        go_on.store(false, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

/// Runs one seed in a process of its own.
pub fn run_one(sim: &Path, extra: &[String], seed: u64) -> Verdict {
    let output = Command::new(sim)
        .args(["--json", "--seed", &seed.to_string()])
        .args(extra)
        .output();
    match output {
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            Verdict {
                seed,
                extra: extra.to_vec(),
                report: serde_json::from_slice(&output.stdout).unwrap_or(Value::Null),
                failure: (!output.status.success()).then_some(words),
            }
        }
        Err(error) => Verdict {
            seed,
            extra: extra.to_vec(),
            report: Value::Null,
            failure: Some(format!("{}: {error}", sim.display())),
        },
    }
}
