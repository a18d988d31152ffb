//! A few seeds with every check of the whole, and the replay: one seed, twice, is one trace.

use std::{path::Path, process::Command};

use ringfort_tests::{
    faults::{Kind, first_seed_of},
    fleet,
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
