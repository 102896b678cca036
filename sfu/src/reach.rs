//! The way of a join to its room's home, which may have died: then the join waits until the room has
//! another, so that who was in the room is back at the first try.

use std::time::{Duration, Instant};

use contract::ids::RoomName;
use contract::redis::NodeRecord;
use sfu_core::signal::join::JoinError;

use crate::node::{Node, Route};
use crate::peer::{PeerConnection, PeerError};
use crate::session::RoomHandle;

/// How long a join waits for a home that is reached: longer than a dead one keeps its lease, and
/// shorter than clients wait for their WebSocket.
const PATIENCE: Duration = Duration::from_millis(4_500);
/// Wait before a home that was not reached is looked for again.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a join goes.
pub enum Reached {
    /// To this node.
    Here(RoomHandle),
    /// To another, by this connection.
    There(NodeRecord, PeerConnection),
}

impl Node {
    /// Connects to the home of a room, or to the next that it gets.
    ///
    /// # Errors
    ///
    /// With an HTTP status: 503 when no home is reached in time.
    pub async fn reach(&self, room: &RoomName, mut home: NodeRecord) -> Result<Reached, JoinError> {
        let end = Instant::now() + PATIENCE;
        loop {
            let unreached = || JoinError::new(503, "the room's node does not answer, try again");
            let peers = self.peers.as_ref().ok_or_else(unreached)?;
            let error = match peers.connect(home.address).await {
                Ok(connection) => return Ok(Reached::There(home, connection)),
                Err(error) => error,
            };
            let is_ended = error.is_gone() && self.placement.end_node(&home.id).await;
            let is_late = Instant::now() >= end;
            tell(room, &home, &error, is_ended || !is_late);
            if !is_ended {
                if is_late {
                    return Err(unreached());
                }
                tokio::time::sleep(PAUSE).await;
            }
            match self.route(room).await? {
                Route::Local(handle) => return Ok(Reached::Here(handle)),
                Route::Remote(next) => home = next,
            }
        }
    }
}

fn tell(room: &RoomName, home: &NodeRecord, error: &PeerError, goes_on: bool) {
    let error = error as &dyn std::error::Error;
    if goes_on {
        tracing::debug!(%room, home = home.name, error, "Home of a room not reached");
    } else {
        tracing::warn!(%room, home = home.name, error, "Home of a room not reached");
    }
}
