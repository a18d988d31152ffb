//! What many seeds add up to: how much was run, which faults and which pairs of them came, what failed.

use std::collections::BTreeMap;

use super::{
    faults::{KINDS, KINDS_OF_CHANGES, Kind},
    fleet::Verdict,
};

/// A seed that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// How the seed set the run up, in words.
    pub settings: String,
    /// What was found.
    pub wrong: Vec<String>,
}

/// What many seeds add up to.
#[derive(Debug, Clone, Default)]
pub struct Sum {
    /// Seeds that were run.
    pub seeds: u64,
    /// Simulated time, in ms.
    pub simulated_ms: u64,
    /// The longest that copies took to become equal, without clients, in ms.
    pub converged_ms_max: u64,
    /// Rounds of reaping that were finished.
    pub rounds: u64,
    /// Calls of clients.
    pub calls: u64,
    /// Writes that were acknowledged.
    pub acked: u64,
    /// Calls that failed, by the kind of their error.
    pub errors: BTreeMap<String, u64>,
    /// Faults, by kind.
    pub faults: BTreeMap<Kind, u64>,
    /// Runs in which two kinds came together, or one came twice, by the pair in the order of [`KINDS`].
    pub pairs: BTreeMap<(Kind, Kind), u64>,
    /// Changes of the layout, by kind.
    pub changes: BTreeMap<String, u64>,
    /// Runs that failed, by seed and what else `sim` was told.
    pub failures: BTreeMap<(u64, String), Failure>,
}

impl Sum {
    /// Adds one seed.
    pub fn add(&mut self, verdict: &Verdict) {
        let report = &verdict.report;
        let number = |name: &str| report[name].as_u64().unwrap_or(0);
        self.seeds += 1;
        self.simulated_ms += number("simulated_ms");
        self.rounds += number("rounds");
        self.converged_ms_max = self.converged_ms_max.max(number("converged_ms"));
        self.calls += number("calls");
        self.acked += number("acked");
        for (kind, count) in report["errors"].as_object().into_iter().flatten() {
            *self.errors.entry(kind.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
        let texts = |name: &str| -> Vec<String> {
            let list = report[name].as_array().into_iter().flatten();
            list.filter_map(|text| text.as_str().map(str::to_owned))
                .collect()
        };
        self.add_faults(&texts("faults"));
        for change in texts("changes") {
            *self.changes.entry(change).or_default() += 1;
        }
        if let Some(words) = &verdict.failure {
            let mut wrong = texts("wrong");
            if wrong.is_empty() {
                // It ended before it could report.
                wrong.push(words.lines().last().unwrap_or_default().to_owned());
            }
            let settings = report["settings"]
                .as_str()
                .unwrap_or("no report")
                .to_owned();
            let failure = Failure { settings, wrong };
            let run = (verdict.seed, verdict.extra.join(" "));
            self.failures.insert(run, failure);
        }
    }

    fn add_faults(&mut self, names: &[String]) {
        let mut counts: BTreeMap<Kind, u64> = BTreeMap::new();
        for name in names {
            let mut kinds = KINDS.into_iter().chain(KINDS_OF_CHANGES);
            let kind = kinds.find(|kind| format!("{kind:?}") == *name);
            *counts
                .entry(kind.expect("a kind that there is"))
                .or_default() += 1;
        }
        for (&kind, &count) in &counts {
            *self.faults.entry(kind).or_default() += count;
        }
        counts.retain(|kind, _| KINDS.contains(kind));
        let pair = match counts.iter().collect::<Vec<_>>()[..] {
            [(&one, _), (&other, _)] => (one, other),
            [(&one, 2..)] => (one, one),
            _ => return,
        };
        *self.pairs.entry(pair).or_default() += 1;
    }

    /// Kinds of fault that never came.
    pub fn kinds_missing(&self) -> Vec<Kind> {
        let missing = KINDS
            .into_iter()
            .filter(|kind| !self.faults.contains_key(kind));
        missing.collect()
    }

    /// Pairs of kinds that never came, each kind with itself among them.
    pub fn pairs_missing(&self) -> Vec<(Kind, Kind)> {
        all_pairs()
            .filter(|pair| !self.pairs.contains_key(pair))
            .collect()
    }
}

/// Every pair of kinds, each kind with itself among them.
pub fn all_pairs() -> impl Iterator<Item = (Kind, Kind)> {
    let with_later =
        |(i, one): (usize, Kind)| KINDS.into_iter().skip(i).map(move |other| (one, other));
    KINDS.into_iter().enumerate().flat_map(with_later)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::kinds_of;

    #[test]
    fn consecutive_seeds_plan_every_pair_and_the_sum_names_what_is_missing() {
        let mut sum = Sum::default();
        let round = 1 + KINDS.len() + all_pairs().count();
        for seed in 1_000..1_000 + round as u64 - 1 {
            let mut names: Vec<String> = kinds_of(seed)
                .iter()
                .map(|kind| format!("{kind:?}"))
                .collect();
            if let [one] = &names[..] {
                names = vec![one.clone()];
            }
            sum.add_faults(&names);
        }
        assert!(sum.kinds_missing().is_empty());
        let last: Vec<Kind> = kinds_of(1_000 + round as u64 - 1);
        let expected: Vec<(Kind, Kind)> = match last[..] {
            [one, other] => vec![(one, other)],
            _ => Vec::new(),
        };
        assert_eq!(sum.pairs_missing(), expected);
    }
}
