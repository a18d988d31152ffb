//! The simulation's workload and checker against the containers of docker-compose.yml, while they are killed, stopped, held still
//! and cut off from their network.
//!
//! Everything here has a name and ports of its own: a cluster that a user started from the same file is not touched.

mod containers;

use std::{
    fs::File,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use containers::Containers;
use futures::{StreamExt, stream};
use ringfort_client::{Client, ClusterStatus, Roots};
use ringfort_tests::{
    outside::{
        Held, Options, run,
        schedule::{Fault, Kind},
    },
    trace::Trace,
};

/// Clients at work.
const CLIENTS: usize = 6;
/// How long faults come in one storm, in ms.
const STORM_MS: u64 = 25_000;

/// Keys that are there before nodes come.
const KEYS: usize = 3_000;
/// Writes and reads of them at once.
const KEYS_AT_ONCE: usize = 64;
/// Time between two looks at a cluster that takes nodes in.
const LOOK: Duration = Duration::from_millis(500);
/// Looks until the test gives up on it: three minutes.
const LOOKS_MAX: u32 = 360;

/// How long a container is cut off at least.
const CUT_OFF: Duration = Duration::from_secs(60);

/// One cluster at a time: its name and its ports are the same.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(i: usize) -> String {
    format!("key {i}")
}

async fn write_all(client: &Client) {
    let write = |i| async move {
        let written = client.put(key(i), format!("value {i}")).await;
        written.unwrap_or_else(|error| panic!("{}: {error}", key(i)));
    };
    let all = stream::iter(0..KEYS).map(write);
    all.buffer_unordered(KEYS_AT_ONCE).collect::<()>().await;
}

async fn read_all(client: &Client) {
    let read = |i| async move {
        let read = client.get(key(i)).await;
        let read = read.unwrap_or_else(|error| panic!("{}: {error}", key(i)));
        let value = read.one().expect("no siblings").expect("a value");
        assert_eq!(value, format!("value {i}"), "{}", key(i));
    };
    let all = stream::iter(0..KEYS).map(read);
    all.buffer_unordered(KEYS_AT_ONCE).collect::<()>().await;
}

/// Waits until so many nodes are members that are up, own partitions, and hold all that they should, by one layout, and until each
/// node that clients can ask reaches all owners.
async fn settled(containers: &Containers, nodes: usize) -> ClusterStatus {
    let mut last = None;
    for endpoint in containers.endpoints() {
        let client = Client::builder().endpoints([endpoint]).build();
        last = Some(settled_at(&client.expect("a client"), nodes).await);
    }
    last.expect("there are endpoints")
}

/// The same as one node sees it.
async fn settled_at(client: &Client, nodes: usize) -> ClusterStatus {
    let mut last = String::new();
    for _ in 0..LOOKS_MAX {
        if let (Ok(status), Ok(layouts)) = (client.status().await, client.layouts().await) {
            let mut all = status.nodes.iter();
            let whole = all.all(|n| n.state == "up" && n.owned > 0 && n.unsynced == 0);
            let reached = status.under_replicated == 0;
            if status.nodes.len() == nodes && whole && reached && layouts.live.len() == 1 {
                return status;
            }
            last = format!("{status:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
    panic!("{nodes} nodes do not settle: {last}");
}

/// Waits until all nodes, asked one by one, tell the same Merkle roots.
async fn same_roots(containers: &Containers) -> usize {
    let one = |endpoint: String| Client::builder().endpoints([endpoint]).build();
    let clients: Vec<Client> = (containers.endpoints().into_iter())
        .map(|endpoint| one(endpoint).expect("a client"))
        .collect();
    let mut last = Vec::new();
    for _ in 0..LOOKS_MAX {
        last.clear();
        for client in &clients {
            last.extend(client.roots().await);
        }
        let same = |told: &Roots| told.roots == last[0].roots && told.changing.is_empty();
        if last.len() == clients.len() && last.iter().all(same) {
            return last[0].roots.values().map(|(_, keys)| *keys as usize).sum();
        }
        tokio::time::sleep(LOOK).await;
    }
    panic!("the nodes do not come to hold the same: {last:?}");
}

/// I5: a container that was cut off from the others while they were written to, and then kept no client busy.
#[test]
#[ignore = "needs Docker and the static binary: `.ci/compose` runs it"]
fn a_container_that_was_cut_off_heals() {
    let _alone = alone();
    let Some(mut containers) = Containers::up() else {
        println!("skipped: no Docker with compose answers here");
        return;
    };
    let cut = Fault {
        kind: Kind::Cut,
        node: 2,
        at_ms: 0,
        for_ms: 0,
        seed: 0,
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let reached = containers.endpoints()[..2].to_vec();
        let client = Client::builder().endpoints(reached).build();
        let client = client.expect("a client");
        settled(&containers, 3).await;
        containers.begin(&cut);
        let cut_at = tokio::time::Instant::now();
        write_all(&client).await;
        tokio::time::sleep_until(cut_at + CUT_OFF).await;
        containers.end(&cut);
        let back_at = tokio::time::Instant::now();
        let keys = same_roots(&containers).await;
        println!(
            "the same {keys} keys at all nodes {:.1?} after the network was back",
            back_at.elapsed()
        );
        assert_eq!(keys, KEYS);
        read_all(&client).await;
    });
    containers.assert_never_failed();
}

/// Two nodes more by `--scale`: they are added by themselves, receive their share, and stay the nodes that they are when their
/// containers are made anew.
#[test]
#[ignore = "needs Docker and the static binary: `.ci/compose` runs it"]
fn two_more_nodes_come_by_scale() {
    let _alone = alone();
    let Some(containers) = Containers::up() else {
        println!("skipped: no Docker with compose answers here");
        return;
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let client = Client::builder().endpoints(containers.endpoints()).build();
        let client = client.expect("a client");
        settled(&containers, 3).await;
        write_all(&client).await;
        containers.scale(2);
        let five = settled(&containers, 5).await;
        read_all(&client).await;
        let names = |status: &ClusterStatus| -> Vec<String> {
            let mut names: Vec<String> = status.nodes.iter().map(|n| n.name.clone()).collect();
            names.sort();
            names
        };
        containers.renew_more(2);
        assert_eq!(names(&settled(&containers, 5).await), names(&five));
        read_all(&client).await;
    });
    containers.assert_never_failed();
}

#[test]
#[ignore = "needs Docker and the static binary: `.ci/compose` runs it"]
fn containers_keep_every_promise_in_a_storm() {
    let _alone = alone();
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
        trace.flush().expect("the trace is written");
        report.assert_well(&options, &containers.kinds(), &path.display().to_string());
        containers.assert_never_failed();
    }
}
