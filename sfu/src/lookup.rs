//! Finds rooms by asking the other nodes, while Redis does not answer this one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use contract::ids::RoomName;
use contract::redis::NodeRecord;
use futures::StreamExt as _;
use rand::seq::SliceRandom as _;

use crate::node::Node;
use crate::peer::PeerError;

/// Path by which nodes ask each other whether they admit people to a room; the body is its name.
pub const HERE: &str = "/peer/rooms/here";
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_millis(800);
/// Nodes that are asked at a time.
const ASKED: usize = 64;

/// Path by which a node is told that a room of its own has another home; the body is its name.
pub const LOST: &str = "/peer/rooms/lost";
/// Path by which a node that does not reach Redis asks another for the home of a room, which gets one
/// if it has none; the body is its name, the answer the home's record as JSON.
pub const HOME: &str = "/peer/rooms/home";
/// Longest wait for that answer: a claim that waits until rooms begin again takes longer, and is
/// waited for here.
const HOME_TIMEOUT: Duration = Duration::from_secs(2);
/// Nodes that are asked for it, one after the other.
const HOME_ASKED: usize = 3;
/// How long this node asks for it while its own lease stands: it ends within that time.
const HOME_PATIENCE: Duration = Duration::from_millis(4_500);
/// Wait before it asks again.
const HOME_PAUSE: Duration = Duration::from_millis(100);

/// The node that admits people to the room, if one of those says so that were known last.
pub async fn ask_around(node: &Node, room: &RoomName) -> Option<NodeRecord> {
    let peers = node.peers.as_ref()?;
    let asked = futures::stream::iter(others(node)).map(|other| async move {
        let body = Bytes::from(room.to_string());
        let from = &node.settings.node_name;
        peers.post(other.address, from, HERE, body, TIMEOUT).await.map(|_| other)
    });
    let answers = asked.buffer_unordered(ASKED).filter_map(std::future::ready);
    std::pin::pin!(answers).next().await
}

/// The home of a room by another node that reaches Redis; `None` when none of those asked does. As long
/// as this node's own lease stands, Redis says that the room is here, where nobody is let in any more.
pub async fn ask_for_home(node: &Node, room: &RoomName) -> Option<NodeRecord> {
    let peers = node.peers.as_ref()?;
    let own = node.placement.node_id();
    let mut others = others(node);
    others.shuffle(&mut rand::rng());
    others.truncate(HOME_ASKED);
    let end = Instant::now() + HOME_PATIENCE;
    loop {
        let mut comes_later = false;
        for other in &others {
            let (body, from) = (Bytes::from(room.to_string()), &node.settings.node_name);
            match peers.try_post(other.address, from, HOME, body, HOME_TIMEOUT).await {
                Ok(answer) => match serde_json::from_slice::<NodeRecord>(&answer).ok()? {
                    home if home.id == own => {
                        comes_later = true;
                        break;
                    }
                    home => return Some(home),
                },
                Err(error) => comes_later |= matches!(error, PeerError::Timeout(_)),
            }
        }
        // Redis may answer again.
        if !comes_later || Instant::now() >= end || !node.placement.is_away() {
            return None;
        }
        tokio::time::sleep(HOME_PAUSE).await;
    }
}

/// Tells a node that was cut off from Redis, if it lives, that a room of its own has another home.
pub fn tell_earlier_home(node: &Node, earlier: SocketAddr, room: &RoomName) {
    let Some(peers) = node.peers.clone() else { return };
    let (from, room) = (node.settings.node_name.clone(), room.clone());
    tokio::spawn(async move {
        let body = Bytes::from(room.to_string());
        let is_told = peers.post(earlier, &from, LOST, body, TIMEOUT).await.is_some();
        tracing::info!(%room, is_told, "Room has another home than before");
    });
}

/// The other nodes, as they were known last.
fn others(node: &Node) -> Vec<NodeRecord> {
    let own = node.placement.node_id();
    let known = node.placement.nodes().into_iter().map(|known| known.record);
    known.filter(|known| known.id != own).collect()
}
