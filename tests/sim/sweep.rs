//! Ends a node at each boundary of the messages by which a small cluster changes its layout; see `harness/sweep.rs`.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use indicatif::ProgressBar;
use ringfort_tests::sweep::{CHANGES, sweep};

/// Ends a node at each boundary of a message, one run for each.
#[derive(Debug, Parser)]
struct Args {
    /// The seed of all runs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only every so manieth boundary.
    #[arg(long, default_value_t = 1)]
    step: u64,
    /// How many runs at a time [default: one a core].
    #[arg(long)]
    jobs: Option<usize>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let sim = std::env::current_exe().ok();
    let sim: Option<PathBuf> = sim.map(|me| me.with_file_name("sim"));
    let Some(sim) = sim.filter(|sim| sim.exists()) else {
        eprintln!(
            "no binary `sim` beside this one: build it first (cargo build -p ringfort-tests --bins)"
        );
        return ExitCode::from(2);
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = args.jobs.unwrap_or(cores);
    let mut failed = false;
    for change in CHANGES {
        let bar = ProgressBar::no_length();
        let swept = sweep(
            &sim,
            (change, args.seed),
            |_| args.step,
            jobs,
            |done, all| {
                bar.set_length(all);
                bar.set_position(done);
            },
        );
        bar.finish_and_clear();
        let (total, ended) = (swept.total(), swept.ended);
        println!(
            "{change}: {total} boundaries {:?}, a node ended at {ended}, {} failed",
            swept.boundaries,
            swept.failed.len()
        );
        for (args, words) in &swept.failed {
            println!("{} {args}\n{words}", sim.display());
        }
        failed |= !swept.failed.is_empty();
    }
    match failed {
        false => ExitCode::SUCCESS,
        true => ExitCode::FAILURE,
    }
}
