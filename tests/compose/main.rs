//! The simulation's workload and checker against the containers of docker-compose.yml, while they are killed, stopped, held still
//! and cut off from their network.
//!
//! Everything here has a name and ports of its own: a cluster that a user started from the same file is not touched.

mod containers;

use std::{fs::File, path::PathBuf};

use containers::Containers;
use ringfort_tests::{
    outside::{Held, Options, run},
    trace::Trace,
};

/// Clients at work.
const CLIENTS: usize = 6;
/// How long faults come in one storm, in ms.
const STORM_MS: u64 = 25_000;

#[test]
#[ignore = "needs Docker and the static binary: `.ci/compose` runs it"]
fn containers_keep_every_promise_in_a_storm() {
    for seed in Options::seeds() {
        let Some(mut containers) = Containers::up() else {
            println!("skipped: no Docker with compose answers here");
            return;
        };
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("compose-{seed}.trace"));
        let file = File::create(&path).expect("a file for the trace");
        let trace = Trace::to_file(file).in_real_time();
        let options = Options {
            seed,
            clients: CLIENTS,
            storm_ms: STORM_MS,
        };
        let report = run(&mut containers, &options, &trace);
        trace.flush();
        report.assert_well(&options, &containers.kinds(), &path.display().to_string());
        containers.assert_never_failed();
    }
}
