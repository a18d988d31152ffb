//! Whole nodes notice who is gone, and who is back (DESIGN section 5).

use std::time::{Duration, UNIX_EPOCH};

use turmoil::{Builder, Sim};

use super::{
    cluster::{self, SimNode},
    net::{EPOCH_MS, set_now},
    trace::Trace,
};

/// A killed node is down for all others within this, in ms of simulated time.
const NOTICED_WITHIN_MS: u64 = 5_000;
/// A start takes less, in ms of simulated time.
const START_MS_MAX: u64 = 30_000;

fn sim() -> Sim<'static> {
    Builder::new()
        .epoch(UNIX_EPOCH + Duration::from_millis(EPOCH_MS))
        .simulation_duration(Duration::from_secs(1_000))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(10))
        .tcp_capacity(4_096)
        .rng_seed(7)
        .build()
}

/// Steps until `done`; gives how long that took, in ms.
fn steps(sim: &mut Sim<'_>, most_ms: u64, done: impl Fn() -> bool) -> Option<u64> {
    for ms in 0..most_ms {
        if done() {
            return Some(ms);
        }
        set_now(sim.elapsed());
        sim.step().expect("no host fails");
    }
    None
}

fn others<'a>(nodes: &'a [SimNode], node: &'a SimNode) -> impl Iterator<Item = &'a SimNode> {
    nodes.iter().filter(|other| other.name != node.name)
}

fn all_up(nodes: &[SimNode]) -> bool {
    nodes
        .iter()
        .all(|on| others(nodes, on).all(|by| by.is_ready() && by.sees(on) == Some(true)))
}

#[test]
fn a_killed_node_is_seen_down_by_all_and_up_again_when_it_is_back() {
    let mut sim = sim();
    let nodes = cluster::start(&mut sim, (5, 0), 7, (None, None), &Trace::default());
    steps(&mut sim, START_MS_MAX, || all_up(&nodes)).expect("a cluster starts");
    steps(&mut sim, 10_000, || false);
    assert!(all_up(&nodes), "nobody is down while nothing happens");
    for killed in [&nodes[3], &nodes[0]] {
        killed.medium.kill(7);
        sim.crash(killed.name.as_str());
        killed.forget();
        let took = steps(&mut sim, 60_000, || {
            others(&nodes, killed).all(|by| by.sees(killed) == Some(false))
        });
        assert!(took.is_some_and(|ms| ms <= NOTICED_WITHIN_MS), "{took:?}");
        let living: Vec<_> = others(&nodes, killed).cloned().collect();
        assert!(all_up(&living), "and nobody else");
        killed.medium.kill(7);
        sim.bounce(killed.name.as_str());
        steps(&mut sim, START_MS_MAX, || all_up(&nodes)).expect("back, and seen");
        steps(&mut sim, 10_000, || false);
        assert!(all_up(&nodes));
    }
    // As in a run: hosts dropped in the middle of things would be one more crash.
    std::mem::forget(sim);
}
