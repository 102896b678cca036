//! Finds living rooms by asking the other nodes, while Redis does not answer.

use std::time::Duration;

use axum::body::Bytes;
use contract::ids::RoomName;
use contract::redis::NodeRecord;
use futures::StreamExt as _;

use crate::node::Node;

/// Path by which nodes ask each other whether they admit people to a room; the body is its name.
pub const HERE: &str = "/peer/rooms/here";
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_millis(800);
/// Nodes that are asked at a time.
const ASKED: usize = 64;

/// The node that admits people to the room, if one of those says so that were known last.
pub async fn ask_around(node: &Node, room: &RoomName) -> Option<NodeRecord> {
    let peers = node.peers.as_ref()?;
    let own = node.placement.node_id();
    let others = node.placement.nodes().into_iter().map(|other| other.record);
    let others = others.filter(|other| other.id != own);
    let asked = futures::stream::iter(others).map(|other| async move {
        let body = Bytes::from(room.to_string());
        let from = &node.settings.node_name;
        peers.post(other.address, from, HERE, body, TIMEOUT).await.map(|_| other)
    });
    let answers = asked.buffer_unordered(ASKED).filter_map(std::future::ready);
    std::pin::pin!(answers).next().await
}
