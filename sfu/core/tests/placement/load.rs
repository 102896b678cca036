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

/// Rooms of two to thirty people come to ten nodes and go, with so many packets a second from each of
/// them to each other. A node that sends some is `busy` for so many thousandths of its time. Whoever
/// looks sees the nodes once a second after the first rooms ended.
fn rooms_come_and_go(
    seed: u64,
    packets: u64,
    busy: impl Fn(usize, u64) -> u64,
    mut look: impl FnMut(&[Candidate]),
) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut nodes: Vec<Candidate> = (0..10).map(node).collect();
    let mut rooms: Vec<Room> = Vec::new();
    for second in 0..1_800 {
        for _ in 0..rng.random_range(0..10) {
            let home = choose_home(&nodes, "", &mut rng).unwrap().record.id.clone();
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
            // A video and its sound: a hundred packets a second.
            load.subscriptions += packets * room.people * (room.people - 1) / 50;
            load.packets_per_second += packets * room.people * (room.people - 1);
        }
        for (index, node) in nodes.iter_mut().enumerate() {
            node.load.busy = busy(index, node.load.packets_per_second);
        }
        if second > 600 {
            look(&nodes);
        }
    }
}

/// The largest share of the packets on one of ten nodes, in fair shares.
fn random_sizes(seed: u64) -> f64 {
    let mut worst: f64 = 0.0;
    rooms_come_and_go(
        seed,
        100,
        |_, _| 0,
        |nodes| {
            let packets = nodes.iter().map(|node| node.load.packets_per_second);
            let (most, sum) = (packets.clone().max().unwrap(), packets.sum::<u64>());
            worst = worst.max(most as f64 * nodes.len() as f64 / sum as f64);
        },
    );
    worst
}

/// What is asked of the workers of the first of ten nodes, which does half as much as the others, on
/// average, in parts of what it can do. With a fair share it is 1.1. It says how busy it is, or not.
fn slow_node(seed: u64, tells: bool) -> f64 {
    // The others are always busy with half a million packets a second.
    let asked = |index: usize, packets: u64| packets / if index == 0 { 250 } else { 500 };
    let (mut sum, mut looks) = (0.0, 0.0);
    let busy = |index, packets| if tells { asked(index, packets).min(1_000) } else { 0 };
    rooms_come_and_go(seed, 6, busy, |nodes| {
        sum += asked(0, nodes[0].load.packets_per_second) as f64 / 1_000.0;
        looks += 1.0;
    });
    sum / looks
}

#[test]
fn a_slow_node_gets_what_it_can_do() {
    for seed in 0..5 {
        let (told, silent) = (slow_node(seed, true), slow_node(seed, false));
        assert!(told < 0.9, "seed {seed}: {told} of what it can do");
        assert!(silent > 0.95, "seed {seed}: nobody knows, and it is only asked for {silent}");
    }
}

/// Places on each of three nodes.
const PLACES: u32 = 20;
/// More rooms than places that a node may have: those that are on their way to it when it says how
/// many there are.
const ON_THE_WAY: usize = 5;

/// Many more rooms are asked for within a second than three nodes have places.
fn crowded(bug: Bug, seed: u64) -> World {
    let mut world = World::new(seed, 3, bug);
    world.capacity = PLACES;
    world.run_until(world.now + 6_000).unwrap();
    for room in 0..150 {
        let after = world.rng.random_range(0..800);
        world.join(&format!("room-{room}"), after);
    }
    world.run_until(world.now + 5_000).unwrap();
    world
}

#[test]
fn a_full_node_gets_no_new_rooms() {
    let most = |bug, seed| {
        let world = crowded(bug, seed);
        let rooms = [0, 1, 2].map(|index| world.rooms_of(index));
        let all = rooms.iter().all(|rooms| *rooms >= PLACES as usize);
        assert!(all, "seed {seed}: places are left: {rooms:?}");
        rooms.into_iter().max().unwrap()
    };
    for seed in 0..20 {
        let (rooms, without) = (most(Bug::None, seed), most(Bug::FullGetsRooms, seed));
        assert!(rooms <= PLACES as usize + ON_THE_WAY, "seed {seed}: {rooms} rooms on a node");
        assert!(without > PLACES as usize + ON_THE_WAY, "seed {seed}: the bug goes unnoticed");
    }
}

#[test]
fn a_room_that_lost_its_home_gets_another_where_all_are_full() {
    for seed in 0..20 {
        let mut world = crowded(Bug::None, seed);
        let rooms: Vec<String> = world.nodes[0].rooms.keys().cloned().collect();
        let killed = world.now;
        world.restart(0, 60_000);
        for room in &rooms {
            world.join(room, 0);
        }
        world.run_until(killed + 6_000).unwrap();
        for room in rooms {
            assert!(world.admitted[&room] > killed, "seed {seed}: nobody is let into {room}");
        }
    }
}

fn node(number: u16) -> Candidate {
    let [high, low] = number.to_be_bytes();
    let record = NodeRecord {
        id: NodeId::from(format!("ND_{number}")),
        name: format!("pod-{number}"),
        address: ([10, 0, high, low], 7890).into(),
        state: NodeState::Open,
        media: MediaAddresses::default(),
        region: String::new(),
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
            let home = choose_home(&nodes, "", &mut rng).unwrap().record.id.as_str();
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
