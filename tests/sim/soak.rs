//! Runs many seeds of the simulation, each in a process of its own, and sums them up.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Parser, value_parser};
use indicatif::{ProgressBar, ProgressStyle};
use ringfort_tests::{
    drill::DRILLS,
    fleet,
    sum::{Sum, all_pairs},
};

/// Of so many seeds one has a drill, too.
const SEEDS_A_DRILL: u64 = 4;
/// Names in one line of the summary, at most: a short soak lacks most pairs.
const NAMED_MAX: usize = 20;

/// Runs many seeds of the simulation. Failures are told as they come, the sum at the end: an interrupted soak has none, so give
/// `--minutes` where time is short.
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 200, value_parser = value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Begin no more seeds after this many minutes.
    #[arg(long, value_parser = value_parser!(u64).range(..=525_600))]
    minutes: Option<u64>,
    /// How many at a time [default: one a core].
    #[arg(long)]
    jobs: Option<usize>,
    /// Stop at the first failure.
    #[arg(long)]
    first: bool,
    /// Handed to `sim` as they are.
    #[arg(last = true)]
    extra: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let Some(sim) = sim_beside_me() else {
        eprintln!(
            "no binary `sim` beside this one: build it first (cargo build -p ringfort-tests --bins)"
        );
        return ExitCode::from(2);
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let began = now();
    let end = args.minutes.map(|m| began + Duration::from_secs(m * 60));
    let bar = ProgressBar::new(args.seeds).with_style(style());
    let mut sum = Sum::default();
    let seeds = (args.from..args.from.saturating_add(args.seeds))
        .take_while(move |_| end.is_none_or(|end| now() < end));
    let runs = seeds.flat_map(|seed| runs_of(seed, &args.extra));
    fleet::run_all(&sim, runs, args.jobs.unwrap_or(cores), |verdict| {
        sum.add(&verdict);
        bar.set_position(verdict.seed - args.from + 1);
        bar.set_message(format!("{} failed", sum.failures.len()));
        if let Some(failure) = &verdict.failure {
            let extra = verdict.extra.join(" ");
            bar.suspend(|| eprintln!("seed {} {extra} failed:\n{failure}", verdict.seed));
        }
        verdict.failure.is_none() || !args.first
    });
    bar.finish_and_clear();
    tell(&sum, now().duration_since(began), &sim);
    match sum.failures.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// What is run of a seed: itself, and of every few a drill, in turn, unless `sim` is told what to do.
fn runs_of(seed: u64, extra: &[String]) -> Vec<(u64, Vec<String>)> {
    let mut runs = vec![(seed, extra.to_vec())];
    if extra.is_empty() && seed.is_multiple_of(SEEDS_A_DRILL) {
        let turn = (seed / SEEDS_A_DRILL) as usize % DRILLS.len();
        runs.push((
            seed,
            ["--drill", DRILLS[turn].0].map(str::to_owned).to_vec(),
        ));
    }
    runs
}

fn tell(sum: &Sum, took: Duration, sim: &Path) {
    let simulated = sum.simulated_ms as f64 / 1_000.0;
    let took = took.as_secs_f64().max(0.001);
    println!("runs             {}", sum.seeds);
    println!("simulated hours  {:.2}", simulated / 3_600.0);
    println!(
        "equal copies     after {:.1} s at most",
        sum.converged_ms_max as f64 / 1_000.0
    );
    println!(
        "calls            {} ({:.0} a second)",
        sum.calls,
        sum.calls as f64 / took
    );
    println!("acknowledged     {}", sum.acked);
    println!("rounds of reaping {}", sum.rounds);
    println!("errors           {:?}", sum.errors);
    println!(
        "took             {took:.0} s, {:.1} simulated seconds a second",
        simulated / took
    );
    println!("faults           {:?}", sum.faults);
    println!("  never came     {}", or_none(&sum.kinds_missing()));
    println!(
        "pairs of kinds   {} of {}",
        sum.pairs.len(),
        all_pairs().count()
    );
    println!("  never came     {}", or_none(&sum.pairs_missing()));
    println!("changes          {:?}", sum.changes);
    println!("failures         {}", sum.failures.len());
    for ((seed, extra), failure) in &sum.failures {
        println!("seed {seed} {extra}: {}", failure.settings);
        for wrong in &failure.wrong {
            println!("  - {wrong}");
        }
        println!("  again: {} --seed {seed} {extra}", sim.display());
    }
}

fn or_none<T: std::fmt::Debug>(list: &[T]) -> String {
    match list {
        [] => "none".to_owned(),
        list if list.len() <= NAMED_MAX => format!("{list:?}"),
        list => {
            let (named, more) = list.split_at(NAMED_MAX);
            format!("{named:?} and {} more", more.len())
        }
    }
}

fn sim_beside_me() -> Option<PathBuf> {
    let sim = std::env::current_exe().ok()?.with_file_name("sim");
    sim.exists().then_some(sim)
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {eta} left, {msg}")
        .expect("a good template")
}

#[expect(
    clippy::disallowed_methods,
    reason = "measures real time, outside of all simulation"
)]
fn now() -> Instant {
    Instant::now()
}
