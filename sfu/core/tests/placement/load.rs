//! Rooms spread over the nodes.

use contract::ids::NodeId;
use contract::redis::{MediaAddresses, NodeLoad, NodeRecord, NodeState};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sfu_core::placement::{Candidate, choose_home};

use crate::store::Bug;
use crate::world::World;

/// More than a fair share that one node may have.
const MOST: f64 = 1.3;

/// The largest number of rooms on one of ten nodes, in fair shares, when many come between two
/// renewals and one node has just begun.
fn burst(bug: Bug, seed: u64) -> f64 {
    let (nodes, rooms) = (10, 600);
    let mut world = World::new(seed, nodes - 1, bug);
    world.is_checked = false;
    // As old as it gets where there are a thousand nodes.
    world.view_life = 100;
    world.run_until(world.now + 6_000).unwrap();
    for room in 0..180 {
        world.join(&format!("before-{room}"), 20 * room);
    }
    world.run_until(world.now + 5_000).unwrap();
    world.start(nodes - 1);
    world.run_until(world.now + 6_000).unwrap();
    for room in 0..rooms {
        let after = world.rng.random_range(0..800);
        world.join(&format!("room-{room}"), after);
    }
    world.run_until(world.now + 5_000).unwrap();
    let most = (0..usize::from(nodes)).map(|index| world.rooms_of(index)).max().unwrap();
    most as f64 / ((180 + rooms) as f64 / f64::from(nodes))
}

#[test]
fn a_burst_spreads_by_reservations_and_not_without() {
    let worst = |bug| (0..3).map(|seed| burst(bug, seed)).fold(0.0, f64::max);
    let share = worst(Bug::None);
    assert!(share <= MOST, "{share} fair shares on one node");
    let share = worst(Bug::NoReservation);
    assert!(share > MOST, "without reservations {share} fair shares: the bug goes unnoticed");
}

/// A room: how much longer it lives, in seconds, and on which node.
struct Room {
    left: u32,
    node: usize,
    people: u64,
}

/// Rooms of two to thirty people come and go; the largest share of the packets on one of ten nodes,
/// in fair shares, at any time after the first rooms ended.
fn random_sizes(seed: u64) -> f64 {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut nodes: Vec<Candidate> = (0..10).map(node).collect();
    let mut rooms: Vec<Room> = Vec::new();
    let mut worst: f64 = 0.0;
    for second in 0..1_800 {
        for _ in 0..rng.random_range(0..10) {
            let home = choose_home(&nodes, &mut rng).unwrap().record.id.clone();
            let node = nodes.iter().position(|node| node.record.id == home).unwrap();
            nodes[node].reservations += 1;
            let people = rng.random_range(2..=30);
            rooms.push(Room { left: rng.random_range(60..600), node, people });
        }
        rooms.retain_mut(|room| {
            room.left -= 1;
            room.left > 0
        });
        for node in &mut nodes {
            (node.reservations, node.load) = (0, NodeLoad::default());
        }
        for room in &rooms {
            let load = &mut nodes[room.node].load;
            load.rooms += 1;
            load.subscriptions += 2 * room.people * (room.people - 1);
            load.packets_per_second += 100 * room.people * (room.people - 1);
        }
        if second > 600 {
            let packets = nodes.iter().map(|node| node.load.packets_per_second);
            let (most, sum) = (packets.clone().max().unwrap(), packets.sum::<u64>());
            worst = worst.max(most as f64 * nodes.len() as f64 / sum as f64);
        }
    }
    worst
}

fn node(number: u16) -> Candidate {
    let [high, low] = number.to_be_bytes();
    let record = NodeRecord {
        id: NodeId::from(format!("ND_{number}")),
        name: format!("pod-{number}"),
        address: ([10, 0, high, low], 7890).into(),
        state: NodeState::Open,
        media: MediaAddresses::default(),
    };
    Candidate { record, load: NodeLoad::default(), reservations: 0 }
}

/// The largest share of the rooms on one of a thousand nodes, in fair shares, at any time once there
/// are a hundred rooms on each, while a million come and none goes. Every front door knows the nodes
/// as they were up to a second ago, and forgets at each renewal whom it gave rooms itself.
fn a_million_rooms(seed: u64) -> f64 {
    const NODES: u16 = 1_000;
    const ROOMS: u64 = 1_000_000;
    /// Rooms that come within a second.
    const ARRIVALS: u64 = 4_000;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut nodes: Vec<Candidate> = (0..NODES).map(node).collect();
    let mut rooms = vec![0; nodes.len()];
    let mut worst: f64 = 0.0;
    for second in 1..=ROOMS / ARRIVALS {
        for _ in 0..ARRIVALS {
            let home = choose_home(&nodes, &mut rng).unwrap().record.id.as_str();
            rooms[home[3..].parse::<usize>().unwrap()] += 1;
        }
        for (node, rooms) in nodes.iter_mut().zip(&rooms) {
            node.load.rooms = *rooms;
        }
        let fair = (second * ARRIVALS) as f64 / f64::from(NODES);
        if fair >= 100.0 {
            worst = worst.max(*rooms.iter().max().unwrap() as f64 / fair);
        }
    }
    worst
}

#[test]
fn a_million_rooms_spread_evenly_over_a_thousand_nodes() {
    let share = a_million_rooms(1);
    assert!(share <= MOST, "{share} fair shares on one node");
}

#[test]
fn rooms_of_random_sizes_spread_evenly() {
    for seed in 0..10 {
        let share = random_sizes(seed);
        assert!(share <= MOST, "seed {seed}: {share} fair shares on one node");
    }
}
