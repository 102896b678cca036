//! Participants of one room in another: carries what their own room says of them to the room that
//! shows them, and ends both sides together. Where that one lives on another node, what they
//! publish goes there, too: over one connection of nodes for each (`outgoing`, `incoming`).
//!
//! Rooms move, and nodes end: then the participant is shown again (`carrier`).

mod carrier;
mod incoming;
mod outgoing;
mod wire;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::ids::{Identity, RoomName};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use sfu_core::room::{AdministrationError, ForwardError};
use sfu_core::signal::join::JoinError;
use thiserror::Error;
use tokio::io::{AsyncWriteExt as _, WriteHalf};
use tokio::time::{Interval, interval, timeout};

use crate::node::{Node, Route};
use crate::peer::PeerError;
use crate::session::RoomHandle;
use carrier::Carrier;
pub use incoming::serve;
pub use wire::{FORWARDS, PROTOCOL};

/// Messages of tracks that wait for the connection to another node: a second of a participant with
/// several cameras. What does not fit is lost, as in a network.
const MESSAGES: usize = 2048;
/// Longest wait for another node's answer, or for it to take what is written.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often each side says that it lives.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// A connection of two nodes that became theirs.
pub type Connection = TokioIo<Upgraded>;

/// Why a participant is not forwarded.
#[derive(Debug, Error)]
pub enum BeginError {
    /// The participant's room has ended.
    #[error("participant does not exist")]
    NoSource,
    /// The participant's room refused.
    #[error(transparent)]
    Source(AdministrationError),
    /// The other room does not exist, and is not made by joining.
    #[error("requested room does not exist")]
    NoDestination,
    /// The other room is not where it was said to be.
    #[error("the destination room is moving, try again")]
    Elsewhere,
    /// The other room's node was not reached.
    #[error("the node of the destination room does not answer, try again")]
    Peer(#[from] PeerError),
    /// The connection to that node ended.
    #[error("the node of the destination room does not answer, try again")]
    Io(#[from] io::Error),
    /// That node gave no answer.
    #[error("the node of the destination room does not answer, try again")]
    Timeout(#[from] tokio::time::error::Elapsed),
    /// The other room got no home.
    #[error("the destination room has no home")]
    Unplaced(#[source] JoinError),
    /// The other room refused.
    #[error(transparent)]
    Destination(ForwardError),
}

/// Shows a participant of `source` in `destination` from now on, until it leaves, is removed
/// there, or one of the rooms ends. Again is no error. A destination that does not exist is made
/// only where joining makes rooms, or for somebody who `may_create` them.
///
/// # Errors
///
/// When it is not there, or the other room cannot show it.
pub async fn begin(
    node: &Arc<Node>,
    source: RoomHandle,
    identity: Identity,
    destination: &RoomName,
    may_create: bool,
) -> Result<(), BeginError> {
    let wanted = identity.clone();
    let is_there = source.call(move |room, _| room.participant(&wanted).is_some()).await;
    if !is_there.unwrap_or_default() {
        return Err(BeginError::NoSource);
    }
    // Before the participant's room says anything: what does not exist is not forwarded to.
    let may_create = may_create || node.settings.config.room.auto_create;
    let shown_in = find_destination(node, destination, may_create).await?;
    let (node, destination) = (Arc::clone(node), destination.clone());
    match Carrier::new(node, source, identity, destination, may_create).await? {
        Some(carrier) => carrier.begin(shown_in).await,
        None => Ok(()),
    }
}

/// Shows a participant whom its room's earlier home forwarded, and goes on until that is over.
pub async fn begin_again(
    node: Arc<Node>,
    source: RoomHandle,
    identity: Identity,
    destination: RoomName,
) {
    let may_create = node.settings.config.room.auto_create;
    // Else it is forwarded already, or has left.
    if let Ok(Some(carrier)) = Carrier::new(node, source, identity, destination, may_create).await {
        carrier.run(None).await;
    }
}

/// The other room; one that does not exist begins here.
async fn find_destination(
    node: &Arc<Node>,
    destination: &RoomName,
    may_create: bool,
) -> Result<Route, BeginError> {
    if may_create || node.rooms.get(destination).is_some() {
        return match node.route_here(destination).await {
            Ok(route) => Ok(route),
            // A node that takes no new rooms has others begin them.
            Err(_) => node.route(destination).await.map_err(BeginError::Unplaced),
        };
    }
    match node.placement.find(destination).await {
        Ok(Some(home)) => Ok(Route::Remote(home.node)),
        Ok(None) => Err(BeginError::NoDestination),
        Err(error) => Err(BeginError::Unplaced(JoinError::new(503, error.to_string()))),
    }
}

/// Whether the other end of a connection lives.
struct Alive {
    ticks: Interval,
    heard_at: Instant,
}

impl Alive {
    fn new() -> Self {
        Self { ticks: interval(ALIVE_INTERVAL), heard_at: Instant::now() }
    }

    fn heard(&mut self) {
        self.heard_at = Instant::now();
    }

    /// Waits until it is time to say that this end lives; `false` when the other one has not for
    /// long. Cancel-safe.
    async fn tick(&mut self) -> bool {
        self.ticks.tick().await;
        self.heard_at.elapsed() < CONTROL_TIMEOUT
    }
}

/// Writes all of it, or nothing more.
async fn write(writer: &mut WriteHalf<Connection>, bytes: &[u8]) -> io::Result<()> {
    timeout(CONTROL_TIMEOUT, async {
        writer.write_all(bytes).await?;
        writer.flush().await
    })
    .await?
}
