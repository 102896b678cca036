//! Placement in virtual time: nodes that freeze, die and are cut off, a Redis that is slow, away or
//! forgetful, and people who join all the while. A seed that fails is named and can be run alone,
//! with all that happens: `SEED=17 TRACE=1 cargo test -p sfu-core --test placement a_room`.

#![allow(clippy::unwrap_used, clippy::cast_precision_loss)] // Tests may panic and round.
#![allow(clippy::print_stderr)] // `TRACE` is for reading.

mod faults;
mod load;
mod node;
mod store;
mod world;

use std::ops::Range;

use contract::redis::NodeState;
use rand::RngExt as _;
use store::Bug;
use world::World;

/// Seeds of a run, unless `SEEDS` says more.
const SEEDS: u64 = 3_000;
const NODES: u8 = 4;
const ROOMS: usize = 3;
/// Time for faults, in milliseconds.
const FAULTS: u64 = 30_000;
/// Time in which everybody is in a room again once all faults are over: the rest of a pause, a
/// lease, a pledge, a quiet time, and what a slow answer may take.
const RECOVERY: u64 = 20_000;

/// Runs one seed; the error names the invariant that was broken.
fn run(seed: u64, bug: Bug) -> Result<(), String> {
    let mut world = World::new(seed, NODES, bug);
    // Half of the time nodes are full now and then.
    world.capacity = if seed.is_multiple_of(2) { 0 } else { 2 };
    world.run_until(world.now + 6_000)?;
    for room in 0..ROOMS {
        let after = world.rng.random_range(0..5_000);
        world.join(&format!("room-{room}"), after);
    }
    let end = world.now + FAULTS;
    while world.now < end {
        faults::strike(&mut world, ROOMS);
        let room = world.rng.random_range(0..ROOMS);
        world.join(&format!("room-{room}"), 0);
        let pause = world.rng.random_range(100..3_000);
        world.run_until(world.now + pause)?;
    }
    world.heal();
    let healed = world.now + 5_000;
    world.run_until(healed)?;
    for room in 0..ROOMS {
        world.join(&format!("room-{room}"), 0);
    }
    world.run_until(healed + RECOVERY)?;
    for room in 0..ROOMS {
        let room = format!("room-{room}");
        if world.admitted.get(&room).is_none_or(|at| *at < healed) {
            return Err(format!("nobody gets into {room}"));
        }
    }
    Ok(())
}

fn seeds() -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => {
            let seeds = std::env::var("SEEDS").map(|seeds| seeds.parse().expect("a number"));
            (0..seeds.unwrap_or(SEEDS)).collect()
        }
    }
}

#[test]
fn a_room_has_one_home_and_always_gets_one_again() {
    for seed in seeds() {
        if let Err(broken) = run(seed, Bug::None) {
            panic!("seed {seed}: {broken}");
        }
    }
}

#[test]
fn known_bugs_are_caught() {
    let bugs = [
        Bug::EpochNotChecked,
        Bug::NoQuietTime,
        Bug::RenewAfterExpiry,
        Bug::PledgeNotKept,
        Bug::LateClaims,
        Bug::SameEpochAgain,
        Bug::SilentIsDead,
    ];
    for bug in bugs {
        let caught = (0..SEEDS).find(|seed| run(*seed, bug).is_err());
        assert!(caught.is_some(), "{bug:?} goes unnoticed");
    }
}

/// All other nodes lose Redis until their leases end; once they have it again, the home loses it and
/// everybody.
fn cut_off_in_turn(seed: u64, bug: Bug) -> Result<(), String> {
    let mut world = World::new(seed, 2, bug);
    world.run_until(world.now + 6_000)?;
    world.join("room", 0);
    world.run_until(world.now + 2_000)?;
    let home = world.living().into_iter().find(|index| world.rooms_of(*index) > 0).unwrap();
    let other = 1 - home;
    world.nodes[other].reaches_store = false;
    world.run_until(world.now + 6_000)?;
    (world.nodes[home].reaches_store, world.nodes[home].reaches_peers) = (false, false);
    world.nodes[home].reaches_clients = false;
    world.nodes[other].reaches_store = true;
    for _ in 0..20 {
        world.join("room", 0);
        world.run_until(world.now + 1_000)?;
    }
    Ok(())
}

#[test]
fn who_is_lost_may_live() {
    for seed in 0..50 {
        cut_off_in_turn(seed, Bug::None).unwrap();
        assert!(cut_off_in_turn(seed, Bug::LostIsGone).is_err(), "seed {seed}: goes unnoticed");
    }
}

/// Nodes without faults that have the rooms.
fn with_rooms(seed: u64, nodes: u8) -> World {
    let mut world = World::new(seed, nodes, Bug::None);
    world.run_until(world.now + 6_000).unwrap();
    for room in 0..ROOMS {
        world.join(&format!("room-{room}"), 0);
    }
    world.run_until(world.now + 2_000).unwrap();
    world
}

/// Redis is away for a minute, and none of these nodes stops.
fn all_serve_without_redis(seed: u64, world: &mut World, nodes: Range<usize>) {
    world.is_store_up = false;
    for _ in 0..60 {
        world.run_until(world.now + 1_000).unwrap();
        let stopped = nodes.clone().find(|index| !world.may_serve(*index));
        assert_eq!(stopped, None, "seed {seed} at {}", world.now);
    }
}

#[test]
fn nobody_notices_that_redis_is_away() {
    for seed in 0..100 {
        let mut world = with_rooms(seed, 4);
        all_serve_without_redis(seed, &mut world, 0..4);
    }
}

#[test]
fn nobody_notices_that_redis_is_away_after_a_node_left() {
    for seed in 0..100 {
        let mut world = with_rooms(seed, 4);
        world.leave(0);
        // Everybody has renewed since.
        world.run_until(world.now + 1_500).unwrap();
        all_serve_without_redis(seed, &mut world, 1..4);
    }
}

#[test]
fn a_room_whose_home_was_killed_has_another_within_two_seconds() {
    for seed in 0..200 {
        let mut world = World::new(seed, 4, Bug::None);
        world.run_until(world.now + 6_000).unwrap();
        world.join("room", 0);
        world.run_until(world.now + 2_000).unwrap();
        let home = world.living().into_iter().find(|index| world.rooms_of(*index) > 0).unwrap();
        let after = world.rng.random_range(0..1_000);
        world.run_until(world.now + after).unwrap();
        let killed = world.now;
        world.restart(home, 10_000);
        world.join("room", 0);
        world.run_until(killed + 2_000).unwrap();
        assert!(world.admitted["room"] >= killed, "seed {seed}: nobody is let in again");
    }
}

#[test]
fn a_drain_loses_no_room_and_is_taken_back_at_any_point() {
    for seed in 0..200 {
        let mut world = with_rooms(seed, 3);
        world.set_state(0, NodeState::Draining);
        let until = world.rng.random_range(0..8_000);
        world.run_until(world.now + until).unwrap();
        if world.rng.random_bool(0.5) {
            world.set_state(0, NodeState::Open);
        } else {
            world.run_until(world.now + 10_000).unwrap();
            assert_eq!(world.rooms_of(0), 0, "seed {seed}: the node is empty");
        }
        world.run_until(world.now + 1_000).unwrap();
        let rooms: usize = (0..3).map(|index| world.rooms_of(index)).sum();
        assert_eq!(rooms, ROOMS, "seed {seed}");
    }
}
