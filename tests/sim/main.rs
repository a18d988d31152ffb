//! Runs one seed and tells what came of it. One seed is one process: only so is all that the process counts, hashes and draws by
//! itself the same in every run.

mod ambient;

use std::{fs::File, path::PathBuf, process::ExitCode};

use clap::{Parser, value_parser};
use ringfort_tests::{
    drill::{DRILLS, Drill},
    operator::Wish,
    run::{Options, Panics, Report, Sweep, run},
    trace::{SimTime, Trace},
};

/// Runs one seed of the simulation.
#[derive(Debug, Parser)]
struct Args {
    /// The seed.
    #[arg(long)]
    seed: u64,
    /// Number of nodes, instead of what the seed says: 2 to 50.
    #[arg(long, value_parser = value_parser!(u64).range(2..=50))]
    nodes: Option<u64>,
    /// Number of clients, instead of what the seed says: 1 to 100.
    #[arg(long, value_parser = value_parser!(u64).range(1..=100))]
    clients: Option<u64>,
    /// How long clients work and faults come, in simulated ms, instead of what the seed says: 1000 (shorter ones have no room for
    /// all faults) to 3600000.
    #[arg(long, value_parser = value_parser!(u64).range(1_000..=3_600_000))]
    storm_ms: Option<u64>,
    /// Plant this bug first, to see it found: a name in the table of tests/README.md (needs the feature `mutants`).
    #[arg(long)]
    mutant: Option<String>,
    /// No faults.
    #[arg(long)]
    calm: bool,
    /// Change the layout so many times, at most 20, with two more nodes to be added.
    #[arg(long, value_parser = value_parser!(u64).range(..=20))]
    changes: Option<u64>,
    /// Deleted keys are reaped, whatever the seed.
    #[arg(long, conflicts_with_all = ["storm_ms", "sweep"])]
    reap: bool,
    /// One small change instead: `join` or `leave`, of 3 and 4 nodes, under light work.
    #[arg(long, value_parser = wish)]
    sweep: Option<Wish>,
    /// In a sweep: one node loses power at this boundary of a message, counted from 1.
    #[arg(long)]
    end_at: Option<u64>,
    /// A drill instead, a run that is about one promise: decide, flip, loss, hints, rot, expire, late or confirm.
    #[arg(long, value_parser = drill)]
    drill: Option<Drill>,
    /// Write the whole trace to this file.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// What nodes and network say of themselves in the trace, as in RUST_LOG.
    #[arg(long, default_value = "warn,ringfort=info")]
    log: String,
    /// One line, for programs.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(name) = &args.mutant
        && !ringfort_storage::mutants::plant(name)
    {
        eprintln!("no mutant {name}, or sim was built without the feature `mutants`");
        return ExitCode::from(2);
    }
    ambient::seed(args.seed);
    let trace = match &args.trace {
        None => Trace::default(),
        Some(path) => match File::create(path) {
            Ok(file) => Trace::to_file(file),
            Err(error) => {
                eprintln!("{}: {error}", path.display());
                return ExitCode::from(2);
            }
        },
    };
    tracing_subscriber::fmt()
        .with_env_filter(args.log.as_str())
        .with_timer(SimTime)
        .with_ansi(false)
        .with_writer(trace.clone())
        .init();
    let panics = Panics::default();
    let (noted, traced) = (panics.clone(), trace.clone());
    std::panic::set_hook(Box::new(move |panic| {
        let backtrace = std::backtrace::Backtrace::force_capture();
        traced.line(format_args!("panic: {panic}\n{backtrace}"));
        // One of the harness itself ends the process before it can tell its last events.
        eprintln!("{panic}");
        noted.note(panic.to_string());
    }));
    let options = Options {
        reap: args.reap,
        nodes: args.nodes.map(|nodes| nodes as usize),
        clients: args.clients.map(|clients| clients as usize),
        storm_ms: args.storm_ms,
        calm: args.calm,
        changes: args.changes.map(|changes| changes as usize),
        sweep: args.sweep.map(|wish| Sweep {
            wish,
            end_at: args.end_at,
        }),
        drill: args.drill,
    };
    let report = run(args.seed, &options, trace.clone(), &panics);
    let traced = trace.flush();
    if !report.wrong.is_empty() {
        complain(&args, &report, &trace);
    }
    if args.json {
        println!("{}", json(args.seed, &report));
    } else {
        tell(args.seed, &report);
    }
    if !report.wrong.is_empty() {
        return ExitCode::FAILURE;
    }
    if let Err(error) = traced {
        eprintln!("the trace is not whole: {error}");
        return ExitCode::from(2);
    }
    ExitCode::SUCCESS
}

fn wish(name: &str) -> Result<Wish, String> {
    match name {
        "join" => Ok(Wish::Join),
        "leave" => Ok(Wish::Leave),
        _ => Err("join or leave".to_owned()),
    }
}

fn drill(name: &str) -> Result<Drill, String> {
    let known = DRILLS.iter().find(|(known, _)| *known == name);
    let names: Vec<&str> = DRILLS.iter().map(|(name, _)| *name).collect();
    known
        .map(|(_, drill)| *drill)
        .ok_or_else(|| format!("one of {}", names.join(", ")))
}

fn complain(args: &Args, report: &Report, trace: &Trace) {
    let seed = args.seed;
    eprintln!("the last events:");
    for line in trace.last() {
        eprintln!("{line}");
    }
    eprintln!("\nseed {seed} failed: {}", report.settings);
    for wrong in &report.wrong {
        eprintln!("- {wrong}");
    }
    let features = match &args.mutant {
        Some(_) => " --features mutants",
        None => "",
    };
    let given: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| arg != "--json")
        .collect();
    let given = given.join(" ");
    eprintln!("again: cargo run -p ringfort-tests{features} --bin sim -- {given}\n");
}

fn tell(seed: u64, report: &Report) {
    println!(
        "seed {seed}: {}; {} ms simulated, {} calls, {} writes acknowledged, {} rounds of reaping, faults {:?}, changes {:?}, errors {:?}, {}",
        report.settings,
        report.simulated_ms,
        report.calls,
        report.acked,
        report.rounds,
        report.faults,
        report.changes,
        report.errors,
        if report.wrong.is_empty() {
            "all well"
        } else {
            "FAILED"
        },
    );
}

fn json(seed: u64, report: &Report) -> serde_json::Value {
    let faults: Vec<String> = report
        .faults
        .iter()
        .map(|kind| format!("{kind:?}"))
        .collect();
    let changes: Vec<String> = report
        .changes
        .iter()
        .map(|wish| format!("{wish:?}"))
        .collect();
    serde_json::json!({
        "seed": seed,
        "nodes": report.nodes,
        "settings": report.settings,
        "simulated_ms": report.simulated_ms,
        "converged_ms": report.converged_ms,
        "rounds": report.rounds,
        "calls": report.calls,
        "acked": report.acked,
        "errors": report.errors,
        "faults": faults,
        "changes": changes,
        "boundaries": report.boundaries,
        "wrong": report.wrong,
    })
}
