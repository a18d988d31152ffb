//! Prints what gossip and placement reach in clusters of several sizes, in simulated time.
//!
//! ```console
//! $ cargo run --release -p ringfort-ring --example gossip_figures [MINUTES [NODES…]]
//! ```
//!
//! MINUTES of foul weather (5 % of messages lost, each node stalls for 200 ms about every 10 s) are watched for false alarms;
//! of more than 100 nodes fewer, as many as there are heartbeats in MINUTES of 100. 0 MINUTES: placement alone.

#[expect(dead_code, reason = "tests use the rest of it")]
mod world;

use std::time::Instant;

use ringfort_ring::{
    DEFAULT_PARTITIONS, DEFAULT_REPLICAS, Epoch, Layout, Member, NodeName, Placement, PlacementId,
    StoreId, TOKENS_PER_CAPACITY,
    gossip::{Settings, Standing, Topic, Value},
    moved, token,
};
use world::{FAIR, FOUL, World};

const SIZES: [usize; 6] = [3, 10, 30, 100, 300, 1_000];
const MINUTES: u64 = 60;
/// What a cluster of a thousand nodes would be made with.
const PARTITIONS_MANY: u32 = 16_384;

fn main() {
    let mut args = std::env::args()
        .skip(1)
        .map(|text| text.parse().expect("a number"));
    let minutes = args.next().unwrap_or(MINUTES);
    let sizes: Vec<usize> = args.map(|size| size as usize).collect();
    let sizes = if sizes.is_empty() {
        SIZES.to_vec()
    } else {
        sizes
    };
    println!(
        "nodes  ticks: cold start  news to all  bytes/s/node  killed: seen by all in ms p50   p99   max  kills  false alarms"
    );
    for &count in sizes.iter().filter(|_| minutes > 0) {
        // There are as many heartbeats in a shorter time of more nodes.
        let minutes = (minutes * 100 / count.max(100) as u64).max(2);
        let (mut world, cold) = cold_start(count);
        let (news, bytes) = steady(&mut world, count);
        world.weather = FOUL;
        world.stir();
        let mut seen = detection(&mut world, count);
        seen.sort_unstable();
        let at = |permille: usize| seen[(seen.len() - 1) * permille / 1_000];
        let alarms = false_alarms(&mut world, minutes);
        println!(
            "{count:5}  {cold:17.1}  {news:11.1}  {bytes:12}  {:29}  {:5} {:5}  {:5}  {alarms} in {minutes} min",
            at(500),
            at(990),
            at(1_000),
            seen.len(),
        );
    }
    println!("nodes  partitions  placement ms  peak/target  moved by one join / fair share");
    for &count in &sizes {
        for partitions in [DEFAULT_PARTITIONS, PARTITIONS_MANY] {
            placement(count as u32, partitions);
        }
    }
}

/// Ticks until strangers with one seed all know each other.
fn cold_start(count: usize) -> (World, f64) {
    let mut world = World::strangers(count, FAIR, 1);
    let took = world.run_until(600_000, World::all_know_all);
    let took = took.expect("gossip converges") as f64;
    world.enlist();
    (world, took / Settings::default().tick_ms as f64)
}

/// Ticks until one node's news are with all others, the mean of several; and bytes sent per node and second.
fn steady(world: &mut World, count: usize) -> (f64, u64) {
    const TRIALS: u64 = 10;
    world.run(10_000);
    let seconds = 10_u64;
    let before = world.bytes;
    world.run(seconds * 1_000);
    let bytes = (world.bytes - before) / seconds / count as u64;
    let mut ticks = 0.0;
    for trial in 0..TRIALS {
        let site = trial as usize * 7 % count;
        let value = Value::number(trial + 1);
        let gossip = world.gossip(site).expect("lives");
        gossip.set(Topic::EPOCH, value.clone()).expect("small");
        let took = world.run_until(60_000, |world| world.all_have(site, Topic::EPOCH, &value));
        ticks += took.expect("gossip converges") as f64 / Settings::default().tick_ms as f64;
    }
    (ticks / TRIALS as f64, bytes)
}

/// How long it took, in foul weather, until all others held a killed node to be down, in ms; one for each kill.
fn detection(world: &mut World, count: usize) -> Vec<u64> {
    let kills = match count {
        0..=30 => 500,
        31..=300 => 100,
        _ => 20,
    };
    world.run(30_000);
    let mut seen = Vec::new();
    for kill in 0..kills {
        let site = kill * 13 % count;
        world.run(1_000 + (kill as u64 * 337) % 1_000);
        world.kill(site);
        let took = world.run_until(60_000, |world| world.all_hold(site, Standing::Down));
        seen.push(took.expect("a killed node is down"));
        world.start(site);
        let back = world.run_until(60_000, |world| world.all_hold(site, Standing::Up));
        back.expect("a returning node is up");
    }
    seen
}

/// How often a living node was held to be down, in foul weather.
fn false_alarms(world: &mut World, minutes: u64) -> usize {
    world.verdicts.clear();
    world.run(minutes * 60_000);
    world.verdicts.iter().filter(|v| !v.right).count()
}

fn placement(count: u32, partitions: u32) {
    let place = |count: u32| {
        let member = |number: u32| {
            let id = token(b"member", &number.to_be_bytes()).0;
            Member {
                name: NodeName::new(format!("node-{number}")).expect("a valid name"),
                placement_id: PlacementId(id),
                store_id: StoreId(!id),
                tokens: TOKENS_PER_CAPACITY,
                zone: String::new(),
                client_addr: String::new(),
                peer_addr: String::new(),
                http_addr: String::new(),
            }
        };
        let members = (0..count).map(member).collect();
        let layout = Layout::new(Epoch(1), partitions, DEFAULT_REPLICAS, members);
        let layout = layout.expect("a valid layout");
        #[expect(clippy::disallowed_methods, reason = "measures how long it takes")]
        let began = Instant::now();
        let placement = Placement::compute(&layout);
        #[expect(clippy::disallowed_methods, reason = "measures how long it takes")]
        let took = began.elapsed();
        placement.map(|placement| (layout, placement, took))
    };
    match (place(count), place(count + 1)) {
        (Ok(old), Ok(new)) => {
            let moves = moved((&old.0, &old.1), (&new.0, &new.1));
            println!(
                "{count:5}  {partitions:10}  {:12.1}  {:11.3}  {:.2}",
                old.2.as_secs_f64() * 1_000.0,
                old.1.peak_over_target(),
                f64::from(moves.total()) / moves.fair_share()
            );
        }
        (Err(error), _) | (_, Err(error)) => println!("{count:5}  {partitions:10}  {error}"),
    }
}
