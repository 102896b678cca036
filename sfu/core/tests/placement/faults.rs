//! What goes wrong.

use contract::redis::NodeState;
use rand::RngExt as _;

use crate::world::{Event, World};

/// How long a Redis that lost everything has every process live on, in milliseconds: one that
/// starts knows nobody then, nor do those know it that are cut off.
const NO_STARTS: u64 = 60_000;

/// Something goes wrong, or is right again.
pub(crate) fn strike(world: &mut World, rooms: usize) {
    let living = world.living();
    let index = living[world.rng.random_range(0..living.len())];
    let has_forgotten = world.lost_at.is_some_and(|at| world.now - at < NO_STARTS);
    match world.rng.random_range(0..25) {
        0 if !has_forgotten && living.len() > 1 => {
            let after = world.rng.random_range(0..3_000);
            world.restart(index, after);
        }
        1 | 2 => {
            let pause = world.rng.random_range(500..15_000);
            world.nodes[index].frozen_until = world.now + pause;
        }
        3..=5 => cut(world, index, (true, false, false)),
        6 | 7 => cut(world, index, (false, true, false)),
        8 => cut(world, index, (false, false, true)),
        9 => cut(world, index, (true, true, true)),
        10 => world.is_store_up = false,
        11 => {
            world.forget();
            world.is_store_up = true;
        }
        12 => {
            world.restart_store();
            world.is_store_up = true;
        }
        13 => world.fail_over(),
        14 => {
            let (ahead, now) = (world.store_ahead, world.rng.random_range(95_000..105_000));
            world.store_ahead = if ahead == 100_000 { now } else { 100_000 };
        }
        15 => (world.loss, world.latest) = (0.1, 300),
        16 => (world.loss, world.latest) = (0.02, 2_000),
        17 => world.set_state(index, NodeState::Draining),
        18 => world.set_state(index, NodeState::Cordoned),
        19 | 20 => {
            let room = format!("room-{}", world.rng.random_range(0..rooms));
            for node in living {
                world.at(0, Event::End { node, room: room.clone() });
            }
            // Somebody is at the door.
            world.join(&room, 5);
        }
        // A pod is deleted, and another comes.
        21 if !has_forgotten && living.len() > 1 => world.replace(index),
        _ => world.heal(),
    }
}

fn cut(world: &mut World, index: usize, (store, peers, clients): (bool, bool, bool)) {
    let node = &mut world.nodes[index];
    (node.reaches_store, node.reaches_peers, node.reaches_clients) = (!store, !peers, !clients);
}
