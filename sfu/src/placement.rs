//! Finds the home of a room and keeps this node's lease. The decisions are in
//! `sfu_core::placement` and in the scripts of `contract::redis`.

mod memory;
mod redis;

use std::time::Duration;

use contract::ids::{NodeId, RoomName, RoomSid};
use contract::redis::{NodeRecord, NodeState};
use sfu_core::placement::Candidate;
use thiserror::Error;
use tokio::sync::watch;

pub use memory::MemoryStore;
pub use redis::{RedisStore, StoreError};

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
}

/// Why a room has no home.
#[derive(Debug, Error)]
pub enum PlacementError {
    /// No living node takes new rooms.
    #[error("no media node takes new rooms")]
    NoOpenNode,
    /// Redis cannot be asked, so a new room cannot be placed safely.
    #[error("rooms cannot be placed at the moment")]
    Unavailable(#[from] StoreError),
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
            Self::Memory(store) => Ok(store.claim(room)),
            Self::Redis(store) => store.claim(room).await,
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

    /// Asserts that a living room is here: keeps its row, or writes it anew where Redis lost
    /// it. Answers where the room's home is by now.
    ///
    /// # Errors
    ///
    /// When Redis does not answer.
    pub async fn keep(
        &self,
        room: &RoomName,
        sid: &RoomSid,
    ) -> Result<Option<Home>, PlacementError> {
        match self {
            Self::Memory(store) => Ok(Some(store.claim(room))),
            Self::Redis(store) => store.keep(room, sid).await,
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

    /// Keeps a room's metadata for its next home.
    pub async fn update(&self, room: &RoomName, epoch: &str, metadata: &str) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(store) => store.update(room, epoch, metadata).await,
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

    /// Whether this node has ever been one of the living.
    pub fn has_held_lease(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Redis(store) => store.has_held_lease(),
        }
    }

    /// Takes no new rooms from now on.
    pub fn cordon(&self) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(store) => store.set_state(NodeState::Draining),
        }
    }

    /// Ends this node's lease, so that its rooms find another home at once.
    pub async fn leave(&self) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(store) => store.leave().await,
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
