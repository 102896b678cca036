//! Keys of one LiveCluster in Redis, the values under them, and the scripts that change them.
//!
//! All keys of a cluster share one hash tag, `{uid}`, so that several clusters share a Redis
//! and Redis Cluster runs the scripts on one shard.
//!
//! | key | type | value | lifetime |
//! |---|---|---|---|
//! | `lc:{uid}:nodes` | sorted set | node ids by the end of their lease (ms since 1970) | swept at each renewal |
//! | `lc:{uid}:node:<id>` | string | [`NodeRecord`] as JSON | [`NODE_LEASE`] |
//! | `lc:{uid}:reserved:<id>` | integer | rooms claimed for the node since its last report | [`RESERVATION`] |
//! | `lc:{uid}:room:<name>` | hash | `node`, `epoch`, `sid`, `metadata` | [`ROOM_ROW`] |
//!
//! A heartbeat costs one script, a join costs one script, however many rooms and nodes exist.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, RoomName};

/// How long a node lives without renewing.
pub const NODE_LEASE: Duration = Duration::from_secs(4);
/// How often a node renews.
pub const NODE_RENEWAL: Duration = Duration::from_secs(1);
/// How long a claim counts as load before the node's own report shows it.
pub const RESERVATION: Duration = Duration::from_secs(3);
/// How long a room's row outlives its last claim, so that rows of rooms whose node died do not
/// stay for ever.
pub const ROOM_ROW: Duration = Duration::from_secs(24 * 3600);
/// How often the home of a living room claims it again.
pub const ROOM_RENEWAL: Duration = Duration::from_secs(3600);

/// Gives a room a home, or keeps the one it has.
///
/// `KEYS`: room. `ARGV`: prefix of node keys, prefix of reservations, candidate, fresh sid, row
/// lifetime (ms), reservation lifetime (ms). Answers `[node, epoch, sid, metadata, record]`, or
/// an empty list when neither the home nor the candidate lives.
///
/// The epoch never goes back, even if Redis lost its last writes: it is at least the time.
pub const CLAIM_ROOM: &str = include_str!("redis/claim_room.lua");
/// Ends a room, if it still belongs to this node and epoch.
///
/// `KEYS`: room. `ARGV`: node, epoch. Answers 1 when it did.
pub const RELEASE_ROOM: &str = include_str!("redis/release_room.lua");
/// Writes a room's metadata, if it still belongs to this node and epoch.
///
/// `KEYS`: room. `ARGV`: node, epoch, metadata. Answers 1 when it did.
pub const UPDATE_ROOM: &str = include_str!("redis/update_room.lua");
/// Renews a node's lease and sweeps ended ones from the set.
///
/// `KEYS`: set of nodes, node. `ARGV`: id, record, lease (ms), prefix of node keys, prefix of
/// reservations. Answers `[known, nodes]`: 1 if the lease was there before, and the living nodes,
/// record and reservations in turn. A lease that was renewed a second ago and is not known tells
/// that Redis lost what it held.
pub const RENEW_NODE: &str = include_str!("redis/renew_node.lua");
/// Ends a node's lease.
///
/// `KEYS`: set of nodes, node. `ARGV`: id.
pub const RELEASE_NODE: &str = include_str!("redis/release_node.lua");

/// Builds the keys of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Keys of the cluster with this unique id.
    pub fn new(cluster_uid: &str) -> Self {
        Self { prefix: format!("lc:{{{cluster_uid}}}:") }
    }

    /// The set of nodes.
    pub fn nodes(&self) -> String {
        format!("{}nodes", self.prefix)
    }

    /// What [`Self::node`] begins with.
    pub fn node_prefix(&self) -> String {
        format!("{}node:", self.prefix)
    }

    /// A node's lease.
    pub fn node(&self, node: &NodeId) -> String {
        format!("{}{node}", self.node_prefix())
    }

    /// What a node's reservations begin with.
    pub fn reservation_prefix(&self) -> String {
        format!("{}reserved:", self.prefix)
    }

    /// A room's row.
    pub fn room(&self, room: &RoomName) -> String {
        format!("{}room:{room}", self.prefix)
    }
}

/// Whether a node takes new rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Takes new rooms.
    Open,
    /// Takes no new rooms; its rooms go on.
    Cordoned,
    /// Takes no new rooms and gives its rooms away.
    Draining,
}

/// What a node says of its load at each renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeLoad {
    /// Rooms that have their home here.
    pub rooms: u64,
    /// Tracks forwarded, one for each subscriber.
    pub subscriptions: u64,
    /// Media packets sent to subscribers in the last second.
    pub packets_per_second: u64,
}

/// Where a node's media is received.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MediaAddresses {
    /// Addresses in the node's ICE candidates.
    pub advertised: Vec<IpAddr>,
    /// UDP ports.
    pub ports: Vec<u16>,
}

/// A node's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// New at every process start.
    pub id: NodeId,
    /// The pod's name.
    pub name: String,
    /// Where siblings reach it.
    pub address: SocketAddr,
    /// Whether it takes new rooms.
    pub state: NodeState,
    /// Its load.
    pub load: NodeLoad,
    /// Where its media is received, which the TURN servers of the cluster pass on to.
    #[serde(default)]
    pub media: MediaAddresses,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_of_a_cluster_share_its_hash_tag() {
        let keys = Keys::new("u1");
        let node = NodeId::from("ND_x".to_owned());
        let room = RoomName::new("a room").unwrap();
        for key in [
            keys.nodes(),
            keys.node(&node),
            keys.room(&room),
            keys.node_prefix(),
            keys.reservation_prefix(),
        ] {
            assert!(key.starts_with("lc:{u1}:"), "{key}");
        }
        assert_eq!(keys.room(&room), "lc:{u1}:room:a room");
    }
}
