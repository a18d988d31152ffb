//! Whole clusters that gossip, in simulated time. `examples/gossip_figures` runs the same worlds at full size.

#[path = "../examples/gossip_figures/world.rs"]
mod world;

use ringfort_ring::gossip::{Standing, Topic, Value};
use world::{FAIR, FOUL, Verdict, World};

/// DESIGN section 5: a killed node is down for all others within this, in 99 of 100 cases.
const NOTICED_WITHIN_MS: u64 = 5_000;

#[test]
fn killed_nodes_are_down_for_all_within_five_seconds_and_up_again_when_they_return() {
    for (count, kills) in [(3, 100), (7, 50), (60, 20)] {
        let mut world = World::members(count, FOUL, 11);
        world.run(30_000);
        let mut late = 0;
        for kill in 0..kills {
            world.run(10_000 + kill as u64 * 337 % 1_000);
            let site = kill % count;
            world.kill(site);
            let took = world.run_until(60_000, |world| world.all_hold(site, Standing::Down));
            late += usize::from(took.expect("silence is noticed") > NOTICED_WITHIN_MS);
            world.start(site);
            let back = world.run_until(60_000, |world| world.all_hold(site, Standing::Up));
            assert!(back.expect("a heartbeat is noticed") < NOTICED_WITHIN_MS);
        }
        assert!(late * 100 <= kills, "{late} of {kills} with {count} nodes");
    }
}

#[test]
fn an_hour_of_loss_and_pauses_raises_no_false_alarm() {
    for count in [2, 3, 5, 9] {
        let mut world = World::members(count, FOUL, 12);
        world.run(3_600_000);
        assert_eq!(world.verdicts, [], "with {count} nodes");
    }
}

#[test]
fn strangers_with_one_seed_find_each_other() {
    let mut world = World::strangers(40, FOUL, 13);
    let took = world.run_until(60_000, World::all_know_all);
    assert!(took.is_some_and(|ms| ms <= 20_000), "{took:?}");
}

#[test]
fn all_find_each_other_again_after_every_address_changed() {
    let mut world = World::members(5, FAIR, 14);
    for site in 0..5 {
        world.kill(site);
    }
    world.run(60_000);
    for site in 0..5 {
        // The seed's address is the one thing that they share; another machine has it now.
        let addr = if site == 3 {
            world::SEED.to_owned()
        } else {
            format!("10.9.9.{site}")
        };
        world.move_to(site, &addr);
        world.start(site);
    }
    let took = world.run_until(60_000, World::all_know_all);
    assert!(took.is_some_and(|ms| ms <= 20_000), "{took:?}");
    let store = world.store(1);
    let listing = world
        .gossip(0)
        .and_then(|gossip| gossip.listing(store).cloned());
    assert_eq!(
        listing.map(|member| member.peer_addr.clone()),
        Some("10.9.9.1:7500".to_owned())
    );
}

#[test]
fn one_node_that_moves_alone_is_found_by_its_own_word() {
    let mut world = World::members(5, FAIR, 15);
    world.kill(2);
    assert!(
        world
            .run_until(60_000, |world| world.all_hold(2, Standing::Down))
            .is_some()
    );
    world.move_to(2, "10.9.9.2");
    world.start(2);
    let took = world.run_until(60_000, World::all_know_all);
    assert!(took.is_some_and(|ms| ms <= 5_000), "{took:?}");
}

#[test]
fn bytes_grow_no_faster_than_the_number_of_nodes() {
    let bytes = |count: usize| {
        let mut world = World::members(count, FAIR, 16);
        world.run(10_000);
        let before = world.bytes;
        world.run(20_000);
        (world.bytes - before) / 20 / count as u64
    };
    let (few, many) = (bytes(25), bytes(100));
    assert!(many <= few * 4 * 12 / 10, "{few} of 25, {many} of 100");
}

#[test]
fn news_reach_all_in_a_few_ticks_although_messages_are_lost() {
    let mut world = World::members(50, FOUL, 17);
    for epoch in 1..10 {
        let site = epoch as usize * 5;
        let value = Value::number(epoch);
        let gossip = world.gossip(site).expect("lives");
        gossip.set(Topic::EPOCH, value.clone()).expect("small");
        let took = world.run_until(60_000, |world| world.all_have(site, Topic::EPOCH, &value));
        assert!(took.is_some_and(|ms| ms <= 6_000), "{took:?}");
    }
}

#[test]
fn one_seed_is_one_history() {
    let history = |seed| {
        let mut world = World::members(9, FOUL, seed);
        world.kill(4);
        world.run(20_000);
        world.start(4);
        world.run(20_000);
        let verdicts: Vec<Verdict> = world.verdicts.clone();
        (verdicts, world.bytes, world.messages, world.now_ms())
    };
    let (one, other) = (history(18), history(18));
    assert_eq!(one, other);
    assert_eq!(one.0.iter().filter(|verdict| !verdict.up).count(), 8);
    assert_ne!(one.0, history(19).0);
}
