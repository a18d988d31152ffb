//! A world of real stores and real cores, whose messages come late, twice or never, in an order that a seed decides.

mod clients;
mod faults;
mod judge;
mod message;
mod rounds;
mod site;
mod world;

use self::{
    message::{Bug, Figures},
    world::World,
};

/// Worlds that are played, each of some hundred steps.
const SEEDS: u64 = 120;

/// Plays one seed; gives what happened, or what is wrong.
fn play(seed: u64, bug: Bug) -> Result<Figures, String> {
    let mut world = World::new(seed, bug);
    world.play()?;
    world.heal()?;
    Ok(world.figures)
}

/// I4, I5, and I2: nothing that was reaped comes back, whatever the order; what was acknowledged stays; all copies become the same.
#[test]
fn nothing_comes_back_in_any_order() {
    let mut all = Figures::default();
    for seed in 0..SEEDS {
        match play(seed, Bug::None) {
            Ok(figures) => all.add(&figures),
            Err(wrong) => panic!("seed {seed}: {wrong}"),
        }
    }
    // The seeds do what the test is about.
    assert!(all.finished > 2 * SEEDS, "{all:?}");
    assert!(all.reaped > SEEDS, "{all:?}");
    assert!(all.refused > SEEDS / 2, "{all:?}");
    assert!(all.missed > SEEDS / 20, "{all:?}");
}

/// The same, many times: `RINGFORT_WORLDS` worlds.
#[test]
#[ignore = "takes long"]
fn nothing_comes_back_in_many_orders() {
    let worlds = std::env::var("RINGFORT_WORLDS").map_or(5_000, |n| n.parse().expect("a number"));
    for seed in SEEDS..SEEDS + worlds {
        if let Err(wrong) = play(seed, Bug::None) {
            panic!("seed {seed}: {wrong}");
        }
    }
}

/// The first seed by which something comes back, or what was acknowledged is lost.
fn first(bug: Bug) -> Option<u64> {
    (0..4 * SEEDS).find(|seed| match play(*seed, bug) {
        Ok(_) => false,
        Err(wrong) => wrong.contains("is back") || wrong.contains("is lost"),
    })
}

/// Without any of these rules some order brings back what was deleted, or loses what was acknowledged.
#[test]
fn each_rule_is_needed() {
    for bug in Bug::ALL {
        assert!(first(bug).is_some(), "{bug:?} is not found");
    }
}
