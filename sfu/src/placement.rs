//! Finds the home of a room and keeps this node's lease. The decisions are in
//! `sfu_core::placement` and in the scripts of `contract::redis`.

mod link;
mod memory;
mod pledges;
mod redis;

use std::net::SocketAddr;
use std::time::Duration;

use contract::ids::{NodeId, RoomName, RoomSid};
use contract::redis::NodeRecord;
pub use contract::redis::NodeState;
use sfu_core::placement::{Candidate, Kept, Question};
use thiserror::Error;
use tokio::sync::watch;

use crate::room_events::Entry;
pub use memory::MemoryStore;
pub use pledges::{PLEDGE, PLEDGED, REFUSED, ask_for_pledges};
pub use redis::{RedisStore, Report, StoreError};

/// Where a room lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// The node.
    pub node: NodeRecord,
    /// Rises with each new home; writes with an old one are refused.
    pub epoch: String,
    /// The room's id, which outlives its home.
    pub sid: RoomSid,
    /// The room's metadata as last written.
    pub metadata: String,
    /// What else the room has of an earlier home (`sfu_core::room::RoomState`); else empty.
    pub state: String,
    /// Where the node is reached whose lease ended with this room at home on it, if this claim gave the
    /// room another home: it may live, with people in the room, and not know.
    pub earlier: Option<SocketAddr>,
}

/// What came of giving a room away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandOver {
    /// It has a new home.
    Moved(Box<Home>),
    /// No other node takes it.
    Refused,
    /// It had another home already.
    Lost,
}

/// Why a room has no home.
#[derive(Debug, Error)]
pub enum PlacementError {
    /// No living node takes new rooms.
    #[error("no media node takes new rooms")]
    NoOpenNode,
    /// As many rooms as the nodes take.
    #[error("all media nodes are full")]
    Full,
    /// Redis was away, and homes assert themselves before anybody gets a new one.
    #[error("rooms are being found again")]
    Quiet,
    /// Nodes that will take new rooms have just started.
    #[error("media nodes are starting")]
    Settling,
    /// This node does not reach Redis well enough to give homes.
    #[error("rooms cannot be placed from here at the moment")]
    NotRenewing,
    /// Redis cannot be asked, so a new room cannot be placed safely.
    #[error("rooms cannot be placed at the moment")]
    Unavailable(#[from] StoreError),
}

impl PlacementError {
    /// One word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoOpenNode => "no_open_node",
            Self::Full => "full",
            Self::Quiet => "quiet",
            Self::Settling => "settling",
            Self::NotRenewing => "not_renewing",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// Room homes in Redis, or in memory for a node that is alone.
pub enum Placement {
    /// One node, no Redis.
    Memory(Box<MemoryStore>),
    /// Many nodes.
    Redis(Box<RedisStore>),
}

impl Placement {
    /// The home of `room`, which becomes an open node where it has none.
    ///
    /// # Errors
    ///
    /// When no node is open, or Redis does not answer.
    pub async fn claim(&self, room: &RoomName) -> Result<Home, PlacementError> {
        match self {
            Self::Memory(store) => store.claim(room).ok_or(PlacementError::NoOpenNode),
            Self::Redis(store) => store.claim(room).await,
        }
    }

    /// The home of `room`, which becomes this node where it has none.
    ///
    /// # Errors
    ///
    /// When this node takes no new rooms, or Redis does not answer.
    pub async fn claim_here(&self, room: &RoomName) -> Result<Home, PlacementError> {
        match self {
            Self::Memory(store) => store.claim(room).ok_or(PlacementError::NoOpenNode),
            Self::Redis(store) => store.claim_here(room).await,
        }
    }

    /// The home of `room`, if it has one that lives.
    ///
    /// # Errors
    ///
    /// When Redis does not answer.
    pub async fn find(&self, room: &RoomName) -> Result<Option<Home>, PlacementError> {
        match self {
            Self::Memory(_) => Ok(None),
            Self::Redis(store) => store.find(room).await,
        }
    }

    /// Asks whether a living room is still at home here, under this epoch.
    ///
    /// # Errors
    ///
    /// When Redis does not answer.
    pub async fn keep(
        &self,
        room: &RoomName,
        sid: &RoomSid,
        epoch: &str,
        question: Question,
    ) -> Result<Kept, PlacementError> {
        match self {
            Self::Memory(_) => Ok(Kept::Here(epoch.to_owned())),
            Self::Redis(store) => store.keep(room, sid, epoch, question).await,
        }
    }

    /// Gives a room that is at home here to another node, the least loaded of a few.
    ///
    /// # Errors
    ///
    /// When Redis does not answer: then the room may have moved or not.
    pub async fn hand_over(
        &self,
        room: &RoomName,
        epoch: &str,
        metadata: &str,
        state: &str,
    ) -> Result<HandOver, PlacementError> {
        match self {
            Self::Memory(_) => Ok(HandOver::Refused),
            Self::Redis(store) => store.hand_over(room, epoch, metadata, state).await,
        }
    }

    /// Says each time that Redis answers again after it did not.
    pub fn returns(&self) -> watch::Receiver<()> {
        match self {
            Self::Memory(store) => store.returns(),
            Self::Redis(store) => store.returns(),
        }
    }

    /// Ends a room that had its home here.
    pub async fn release(&self, room: &RoomName, epoch: &str) {
        match self {
            Self::Memory(store) => store.release(room),
            Self::Redis(store) => store.release(room, epoch).await,
        }
    }

    /// Keeps a room's metadata and state for its next home; `false` when this node is not known
    /// as its home under this epoch.
    pub async fn update(&self, room: &RoomName, epoch: &str, metadata: &str, state: &str) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Redis(store) => store.update(room, epoch, metadata, state).await,
        }
    }

    /// Appends entries to the stream of room events, which keeps about `length` of them.
    ///
    /// # Errors
    ///
    /// When Redis does not answer, or refuses: then some of the entries may be there.
    pub async fn append_events(&self, entries: &[Entry], length: u32) -> Result<(), StoreError> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::Redis(store) => store.append_events(entries, length).await,
        }
    }

    /// The living nodes, this one among them.
    pub fn nodes(&self) -> Vec<Candidate> {
        match self {
            Self::Memory(store) => vec![store.node()],
            Self::Redis(store) => store.nodes(),
        }
    }

    /// Whether this node may admit participants to rooms that live here.
    pub fn may_admit(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Redis(store) => store.may_admit(),
        }
    }

    /// Rises each time that this node's lease had ended, or was forgotten, before it was renewed:
    /// others may have taken rooms meanwhile. A room that was confirmed under an earlier term
    /// admits nobody before it is confirmed again.
    pub fn term(&self) -> u64 {
        match self {
            Self::Memory(_) => 0,
            Self::Redis(store) => store.term(),
        }
    }

    /// The term that began when this node had stopped to act as a home (see
    /// `sfu_core::placement::Lease::fenced_term`).
    pub fn fenced_term(&self) -> u64 {
        match self {
            Self::Memory(_) => 0,
            Self::Redis(store) => store.fenced_term(),
        }
    }

    /// Whether there was a time at which this node could begin rooms.
    pub fn has_settled(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Redis(store) => store.has_settled(),
        }
    }

    /// Whether Redis did not answer when it was asked last.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Memory(_) => false,
            Self::Redis(store) => store.is_away(),
        }
    }

    /// Another node asks this one to begin no room for the time of a lease: whether it will not.
    pub fn pledge(&self) -> bool {
        match self {
            Self::Memory(_) => false,
            Self::Redis(store) => store.pledge(),
        }
    }

    /// Says whether this node takes new rooms.
    pub fn set_state(&self, state: NodeState) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(store) => store.set_state(state),
        }
    }

    /// Ends this node's lease, so that its rooms find another home at once.
    pub async fn leave(&self) {
        match self {
            Self::Memory(store) => store.leave(),
            Self::Redis(store) => store.leave().await,
        }
    }

    /// Ends the lease of a node whose port refused us, so that its rooms find another home at once;
    /// `false` while it may live all the same.
    pub async fn end_node(&self, node: &NodeId) -> bool {
        match self {
            Self::Memory(_) => false,
            Self::Redis(store) => store.end_node(node).await,
        }
    }

    /// This node's id.
    pub fn node_id(&self) -> NodeId {
        match self {
            Self::Memory(store) => store.node().record.id,
            Self::Redis(store) => store.node_id().clone(),
        }
    }
}

/// How long a claim may take before the caller is told to come again.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(3);

/// Tells the renewal task to stop.
type Stop = watch::Sender<bool>;
