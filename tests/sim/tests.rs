//! A few seeds with every check of the whole, and the replay: one seed, twice, is one trace.

use std::{path::Path, process::Command};

use ringfort_tests::{
    faults::{Kind, first_seed_of},
    fleet,
    sweep::{CHANGES, sweep},
};

const SIM: &str = env!("CARGO_BIN_EXE_sim");

const FAULTS: [&[Kind]; 8] = [
    &[],
    &[Kind::Crash],
    &[Kind::Crash, Kind::Partition],
    &[Kind::CutRecovery, Kind::FailEngine],
    &[Kind::FailEngine],
    &[Kind::BitFlip],
    &[Kind::Restore],
    &[Kind::Stranger],
];

/// Boundaries of each change that are tried here.
const SWEPT: u64 = 4;

#[test]
fn a_few_seeds_keep_every_promise() {
    let mut failed = Vec::new();
    let storm = ["--storm-ms", "2000"].map(str::to_owned);
    let seeds = FAULTS.into_iter().map(first_seed_of);
    fleet::run(Path::new(SIM), &storm, seeds, 2, |verdict| {
        failed.extend(
            verdict
                .failure
                .map(|words| format!("seed {}\n{words}", verdict.seed)),
        );
        true
    });
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Seeds that failed once, with what `sim` was told beside them.
const KEPT: [(u64, &[&str]); 2] = [
    // A scan was still under way when the final pass began to write.
    (310, &[]),
    // A connection that was lost while it was opened was kept, and each question on it went unanswered.
    (1, &["--sweep", "leave", "--end-at=97"]),
];

#[test]
fn seeds_that_failed_once_keep_every_promise() {
    let kept = KEPT.into_iter().map(|(seed, args)| {
        let args = args.iter().map(|arg| (*arg).to_owned());
        (seed, args.collect())
    });
    let mut failed = Vec::new();
    fleet::run_all(Path::new(SIM), kept, 2, |verdict| {
        failed.extend(verdict.failure.map(|words| {
            let args = verdict.extra.join(" ");
            format!("seed {} {args}\n{words}", verdict.seed)
        }));
        true
    });
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn one_seed_twice_is_one_trace_byte_for_byte() {
    let traces = [(); 2].map(|()| {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let ended = Command::new(SIM)
            .args(["--seed", "4", "--storm-ms", "2000", "--json"])
            .args([
                "--log",
                "turmoil=trace,ringfort=debug,ringfort_client=debug",
            ])
            .arg("--trace")
            .arg(file.path())
            .output()
            .expect("the binary is built");
        assert!(
            ended.status.success(),
            "{}",
            String::from_utf8_lossy(&ended.stderr)
        );
        std::fs::read(file.path()).expect("written")
    });
    let [one, other] = traces.each_ref().map(Vec::as_slice);
    assert!(one.len() > 10_000, "there is something to compare");
    let same = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    assert!(one == other, "the traces differ from byte {same} on");
}

/// A sample: `target/release/sweep` goes through all of them.
#[test]
fn a_node_that_ends_at_a_message_of_a_change_breaks_no_promise() {
    for change in CHANGES {
        let sample = |total: u64| total.div_ceil(SWEPT);
        let swept = sweep(Path::new(SIM), (change, 1), sample, 2, |_, _| {});
        assert!(swept.failed.is_empty(), "{:?}", swept.failed);
        assert!(swept.total() > 100, "{:?}", swept.boundaries);
        assert_eq!(swept.ended, SWEPT, "of {}", swept.total());
    }
}
