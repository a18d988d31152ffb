//! Sweeps: a node ends at each boundary of the messages by which a small cluster changes its layout, one run for each boundary.

use std::{collections::BTreeMap, path::Path};

use super::fleet::{Verdict, run_all, run_one};

/// The changes that are swept, as `sim` calls them: from 3 nodes to 4, and from 4 to 3.
pub const CHANGES: [&str; 2] = ["join", "leave"];

/// What came of one sweep.
#[derive(Debug, Default)]
pub struct Swept {
    /// Boundaries of the change, by call.
    pub boundaries: BTreeMap<String, u64>,
    /// Boundaries at which a node ended.
    pub ended: u64,
    /// What failed: the arguments of `sim`, and its words.
    pub failed: Vec<(String, String)>,
}

impl Swept {
    /// All boundaries of the change.
    pub fn total(&self) -> u64 {
        self.boundaries.values().sum()
    }

    fn add(&mut self, args: &str, verdict: &Verdict) {
        if let Some(words) = &verdict.failure {
            self.failed.push((args.to_owned(), words.clone()));
        }
    }
}

/// Counts the boundaries of a change, then runs every `step`th of them, from the first on; tells how many are done.
pub fn sweep(
    sim: &Path,
    (change, seed): (&str, u64),
    step: impl Fn(u64) -> u64,
    side_by_side: usize,
    mut told: impl FnMut(u64, u64) + Send,
) -> Swept {
    let args = |end_at: Option<u64>| {
        let mut args = vec!["--sweep".to_owned(), change.to_owned()];
        args.extend(end_at.map(|end_at| format!("--end-at={end_at}")));
        args
    };
    let mut swept = Swept::default();
    let counted = run_one(sim, &args(None), seed);
    let calls = counted.report["boundaries"]
        .as_object()
        .into_iter()
        .flatten();
    swept.boundaries = calls
        .map(|(call, count)| (call.clone(), count.as_u64().unwrap_or(0)))
        .collect();
    swept.add(&format!("--seed {seed} --sweep {change}"), &counted);
    let total = swept.total();
    let ends = (1..=total).step_by(step(total).max(1) as usize);
    let runs = ends.map(|end_at| (seed, args(Some(end_at))));
    let runs: Vec<(u64, Vec<String>)> = runs.collect();
    let count = runs.len() as u64;
    let mut done = 0;
    run_all(sim, runs.into_iter(), side_by_side, |verdict| {
        done += 1;
        told(done, count);
        swept.ended += u64::from(
            !verdict.report["faults"]
                .as_array()
                .is_none_or(Vec::is_empty),
        );
        let again = format!("--seed {seed} {}", verdict.extra.join(" "));
        swept.add(&again, &verdict);
        true
    });
    swept
}
