//! Follows the state that this node shall be in: takes new rooms or not, moves its rooms away at
//! the given rate, and empties the node when its process ends. Every order but the last may be
//! taken back; readiness has no part in it, since clients of living rooms keep coming.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::ids::RoomName;
use contract::node_state::NodeState;
use sfu_core::placement::{closing_rate, pause_between_moves};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::node::Node;
use crate::placement;
use crate::settings::read;

/// How often the file with the state is read.
const FILE_INTERVAL: Duration = Duration::from_secs(1);
/// Rooms that move at the same time.
const MAX_MOVES: usize = 64;
/// Wait before rooms that nobody took, or that came since, are moved.
const PASS_PAUSE: Duration = Duration::from_secs(1);
/// Time for moving when the process ends, of what `contract::sfu_config::END_RESERVE` reserves.
const MOVE_TIME: Duration = Duration::from_secs(15);
/// Time in which the rate of a process that ends shall have moved all rooms.
const CLOSING_TIME: Duration = Duration::from_secs(8);
/// The least rate of a process that ends.
const CLOSING_RATE: u16 = 5;

/// An order that holds until the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Of the operator, or by hand.
    State(NodeState),
    /// The process ends; nothing follows.
    End,
}

/// Takes orders.
pub struct Drain {
    orders: watch::Sender<Order>,
}

impl Default for Drain {
    fn default() -> Self {
        Self { orders: watch::channel(Order::State(NodeState::Open)).0 }
    }
}

impl Drain {
    /// Puts the node into a state; `false` once its process ends.
    pub fn order(&self, state: NodeState) -> bool {
        let mut is_taken = false;
        self.orders.send_if_modified(|order| match order {
            Order::State(current) => {
                is_taken = true;
                std::mem::replace(current, state) != state
            }
            Order::End => false,
        });
        is_taken
    }

    /// The state that the node is in.
    pub fn state(&self) -> NodeState {
        match *self.orders.borrow() {
            Order::State(state) => state,
            Order::End => NodeState::Draining { rooms_per_second: CLOSING_RATE },
        }
    }
}

/// Carries out orders; never ends.
pub async fn run(node: Arc<Node>) {
    let mut orders = node.drain.orders.subscribe();
    loop {
        let order = *orders.borrow_and_update();
        tracing::debug!(?order, "Order for this node");
        let (state, rooms_per_second) = match order {
            Order::State(NodeState::Open) => (placement::NodeState::Open, None),
            Order::State(NodeState::Cordoned) => (placement::NodeState::Cordoned, None),
            Order::State(NodeState::Draining { rooms_per_second }) => {
                (placement::NodeState::Draining, Some(rooms_per_second))
            }
            // The end moves them itself.
            Order::End => (placement::NodeState::Draining, None),
        };
        node.placement.set_state(state);
        let carried_out = async {
            match rooms_per_second {
                Some(rooms_per_second) => move_rooms(&node, rooms_per_second, false).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = carried_out => {}
            changed = orders.changed() => if changed.is_err() { return },
        }
    }
}

/// Takes orders from the file that the operator has written; never ends where there is one.
pub async fn watch_state_file(node: Arc<Node>) {
    let Some(path) = &node.settings.config.media.state_file else { return };
    let mut last = String::new();
    let mut ticks = tokio::time::interval(FILE_INTERVAL);
    loop {
        ticks.tick().await;
        // Without a file nobody has said anything.
        let text = read(path).unwrap_or_default();
        if text == last {
            continue;
        }
        match text.parse::<NodeState>() {
            Ok(state) => {
                tracing::info!(%state, "State of this node");
                node.drain.order(state);
            }
            Err(error) => tracing::warn!(%error, "State of this node not understood"),
        }
        last = text;
    }
}

/// The process was told to end: rooms may end by themselves for a while, then they move, and what
/// nobody takes is closed.
pub async fn end(node: &Node) {
    node.drain.orders.send_replace(Order::End);
    node.set_ending();
    if let placement::Placement::Redis(_) = &*node.placement {
        let wait = Duration::from_secs(node.settings.config.drain.wait_seconds.into());
        let started = Instant::now();
        while node.rooms.counts().rooms > 0 && started.elapsed() < wait {
            sleep(Duration::from_millis(100)).await;
        }
        let rooms = node.rooms.names().len();
        let rate = closing_rate(rooms, CLOSING_TIME, CLOSING_RATE);
        if timeout(MOVE_TIME, move_rooms(node, rate, true)).await.is_err() {
            tracing::warn!(rooms = node.rooms.names().len(), "Rooms did not move in time");
        }
    }
    // First the lease, so that clients that come back at once find another home.
    node.placement.leave().await;
    node.rooms.drain().await;
}

/// Moves rooms until none is left; goes on with those that come later unless `ends_empty`.
async fn move_rooms(node: &Node, rooms_per_second: u16, ends_empty: bool) {
    loop {
        let mut names = VecDeque::from(node.rooms.names());
        if names.is_empty() && ends_empty {
            return;
        }
        let mut moves = JoinSet::new();
        while let Some(name) = names.pop_front() {
            if moves.len() >= MAX_MOVES {
                moves.join_next().await;
            }
            begin_move(node, &mut moves, name);
            if !names.is_empty() {
                let pause = pause_between_moves(rooms_per_second, &mut rand::rng());
                sleep(pause).await;
            }
        }
        while moves.join_next().await.is_some() {}
        if !(node.rooms.names().is_empty() && ends_empty) {
            sleep(PASS_PAUSE).await;
        }
    }
}

/// Has a room move; one that has ended meanwhile needs none.
fn begin_move(node: &Node, moves: &mut JoinSet<()>, name: RoomName) {
    let Some(handle) = node.rooms.get(&name) else { return };
    moves.spawn(async move {
        if let Ok(false) = handle.hand_over().await {
            tracing::info!(room = %name, "No other node takes the room");
        }
    });
}
