//! Measures the checker: plants each bug in turn and counts the seeds until it is found, over several ranges of seeds.
//! Prints the table of tests/README.md.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use clap::{Parser, value_parser};
use indicatif::{ProgressBar, ProgressStyle};
use ringfort_storage::mutants::{ALL, CAN_PLANT};
use ringfort_tests::hunt::{Found, Search, search_all};

/// Plants bugs and counts the seeds until each is found.
#[derive(Debug, Parser)]
struct Args {
    /// A bug, by its name in the table of tests/README.md; may be given several times [default: all].
    #[arg(long)]
    mutant: Vec<String>,
    /// How many ranges of seeds to look through for each.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u64).range(1..=1_000))]
    ranges: u64,
    /// Seeds of a range, at most.
    #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u64).range(1..=1_000_000))]
    seeds: u64,
    /// The first seed of the first range.
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u64).range(..=u64::MAX / 2))]
    from: u64,
    /// How many searches at a time [default: one a core].
    #[arg(long)]
    jobs: Option<usize>,
    /// Handed to `sim` as they are.
    #[arg(last = true)]
    extra: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let sim = std::env::current_exe().ok();
    let sim: Option<PathBuf> = sim.map(|me| me.with_file_name("sim"));
    let Some(sim) = sim.filter(|sim| CAN_PLANT && sim.exists()) else {
        eprintln!(
            "build this and `sim` with bugs to plant: cargo build --release -p ringfort-tests --features mutants --bins"
        );
        return ExitCode::from(2);
    };
    let all: Vec<String> = ALL.iter().map(|mutant| format!("{mutant:?}")).collect();
    if let Some(unknown) = args.mutant.iter().find(|name| !all.contains(name)) {
        eprintln!("no bug {unknown}; there are {}", all.join(", "));
        return ExitCode::from(2);
    }
    let mutants = match args.mutant.is_empty() {
        true => all,
        false => args.mutant.clone(),
    };
    let searches = searches(&mutants, &args);
    let bar = ProgressBar::new(searches.len() as u64).with_style(style());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut found: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    let jobs = args.jobs.unwrap_or(cores);
    search_all(&sim, &args.extra, &searches, jobs, |search, one| {
        bar.inc(1);
        bar.suspend(|| tell(search, &one));
        found.entry(search.mutant.clone()).or_default().push(one);
    });
    bar.finish_and_clear();
    println!("| bug | found in ranges | median seeds | most seeds |");
    println!("| --- | --- | --- | --- |");
    for mutant in &mutants {
        println!("{}", row(mutant, &found[mutant]));
    }
    let missed = |found: &Vec<Found>| found.iter().any(|one| one.seed.is_none());
    match found.values().any(missed) {
        false => ExitCode::SUCCESS,
        true => ExitCode::FAILURE,
    }
}

/// Range by range, so that early words tell of all bugs.
fn searches(mutants: &[String], args: &Args) -> Vec<Search> {
    let ranges = (0..args.ranges).map(|range| {
        let first = args.from + range * args.seeds;
        first..first + args.seeds
    });
    ranges
        .flat_map(|seeds| {
            mutants.iter().map(move |mutant| Search {
                mutant: mutant.clone(),
                seeds: seeds.clone(),
            })
        })
        .collect()
}

fn tell(search: &Search, found: &Found) {
    let Search { mutant, seeds } = search;
    if let Some(words) = &found.broken {
        eprintln!("{mutant}: `sim` came to no report: {words}");
    }
    match &found.seed {
        Some((seed, wrong)) => eprintln!("{mutant}: {} seeds, {seed}: {wrong}", found.tried),
        None => eprintln!("{mutant}: not found in seeds {seeds:?}"),
    }
    if !found.unsound.is_empty() {
        eprintln!("these seeds fail without it, too: {:?}", found.unsound);
    }
}

/// A row of the table. A search in vain counts as more than it tried.
fn row(mutant: &str, found: &[Found]) -> String {
    let mut tried: Vec<(u64, &str)> = found
        .iter()
        .map(|one| {
            (
                one.tried,
                if one.seed.is_some() { "" } else { "more than " },
            )
        })
        .collect();
    tried.sort_by_key(|(tried, vain)| (!vain.is_empty(), *tried));
    let show = |(tried, vain): (u64, &str)| format!("{vain}{tried}");
    let hits = found.iter().filter(|one| one.seed.is_some()).count();
    format!(
        "| `{mutant}` | {hits} of {} | {} | {} |",
        found.len(),
        show(tried[tried.len() / 2]),
        show(tried[tried.len() - 1]),
    )
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{bar:40} {pos}/{len} searches, {elapsed}")
        .expect("a good template")
}
