//! Keys of one LiveCluster in Redis, the values under them, and the scripts that change them.
//!
//! All keys of a cluster share one hash tag, `{uid}`, so that several clusters share a Redis
//! and Redis Cluster runs the scripts on one shard.
//!
//! | key | type | value | lifetime |
//! |---|---|---|---|
//! | `lc:{uid}:nodes` | sorted set | node ids by the end of their lease (ms since 1970) | [`NODE_MEMORY`] after that |
//! | `lc:{uid}:gone` | sorted set | ids of nodes that are gone for certain, by when that was known (ms since 1970) | [`NODE_MEMORY`] after that |
//! | `lc:{uid}:node:<id>` | hash | `record`: [`NodeRecord`] as JSON; `load`: [`NodeLoad::report`]; `term`: which lease this is | [`NODE_LEASE`] |
//! | `lc:{uid}:view` | hash | `records` and `loads` of the living nodes, read together `at` a time; `version` of the records | [`NODE_MEMORY`] |
//! | `lc:{uid}:reserved:<id>` | integer | rooms claimed for the node since its last report | [`RESERVATION`] |
//! | `lc:{uid}:room:<name>` | hash | `node`, `epoch`, `sid`, `metadata`, `state` | [`ROOM_ROW`] |
//! | `lc:{uid}:pod:<name>` | hash | `node`, `address`, `started` of the pod's process; `follows` an earlier one | [`POD_ROW`] |
//! | `lc:{uid}:pulse` | string | `run_id` of the Redis that somebody renewed at last | [`PULSE`] |
//! | `lc:{uid}:events` | stream | what happens in rooms, for other programs (`docs/room-events.md`) | none; bounded |
//! | `lc:{uid}:quiet` | string | no room begins: the living assert theirs first | [`NODE_LEASE`] |
//!
//! A heartbeat costs one script, a join costs one script, however many rooms and nodes exist. Why
//! two nodes never both are a room's home is argued in `docs/decisions/0004-one-home.md`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, RoomName};

/// How long a node lives without renewing.
pub const NODE_LEASE: Duration = Duration::from_secs(4);
/// How often a node renews.
pub const NODE_RENEWAL: Duration = Duration::from_secs(1);
/// A node that has not renewed for so long has missed a renewal.
pub const NODE_MISSING: Duration = Duration::from_millis(1_200);
/// How long a claim counts as load before the node's own report shows it.
pub const RESERVATION: Duration = Duration::from_secs(3);
/// How long a room's row outlives its last claim, so that rows of rooms whose node died do not
/// stay for ever.
pub const ROOM_ROW: Duration = Duration::from_secs(24 * 3600);
/// How long a pod's row outlives its last renewal: a lease that a process left behind is ended by
/// the next process of the same pod.
pub const POD_ROW: Duration = Duration::from_secs(60);
/// How long, for each node there is, what was read of all nodes is told to whoever renews: 1,000
/// nodes are read once a second, ten a hundred times, which costs Redis the same.
pub const VIEW_LIFE: Duration = Duration::from_millis(1);
/// How long Redis remembers that anybody renewed. Whoever renews after such a silence, or at a Redis
/// that is not the one of the last renewal, begins a quiet time of [`NODE_LEASE`]: leases ended
/// without their nodes, or writes were lost, and rooms live at homes that Redis does not know. At a
/// Redis that knows no node of the cluster it is counted from the start of Redis.
pub const PULSE: Duration = Duration::from_secs(3);
/// How long a node is remembered that is not seen any more: it may live all the same, unless it is
/// known to be gone.
pub const NODE_MEMORY: Duration = Duration::from_secs(60);
/// How long after it was sent a room may begin by a [`CLAIM_ROOM`].
pub const CLAIM_LIFE: Duration = Duration::from_secs(1);
/// How often the home of a living room claims it again.
pub const ROOM_RENEWAL: Duration = Duration::from_secs(3600);

/// Finds the home of a room, or gives it one.
///
/// `KEYS`: room, pulse, quiet. `ARGV`: prefix of node keys, prefix of reservations, caller,
/// candidate, fresh sid, row lifetime (ms), reservation lifetime (ms), what the caller takes for the
/// time of Redis (ms since 1970), [`CLAIM_LIFE`] (ms). Answers
/// `[node, epoch, sid, metadata, state, record, reserved, earlier]`: how many rooms the node was given
/// since its report, 0 if this was none, and the node whose lease ended with the room at home on it, if
/// this gave it another, else nothing; an empty list when neither the home nor the candidate lives;
/// `["quiet"]` when no room begins at the moment, `["late"]` when the caller's time is off. A candidate
/// must be [`NodeState::Open`]. `["full"]` when it has no place and the room no row: one that lost its
/// home goes on even where there is no place for more. A caller that is the home itself begins the
/// room, under a new epoch: what it wrote under an earlier one may still be on its way.
///
/// The epoch never goes back, even if Redis lost its last writes: it is at least the time.
pub const CLAIM_ROOM: &str = include_str!("redis/claim_room.lua");
/// Confirms a living room at its home.
///
/// `KEYS`: room, pulse, quiet. `ARGV`: prefix of node keys, caller, its epoch, sid, row lifetime
/// (ms), `assert` or `resume`, `raise` or `same`, the time and its limit as for [`CLAIM_ROOM`].
/// Answers `["here", epoch]`, `["gone"]`, or `["again"]`: ask later. A home that has served all
/// the time asserts the room against a row that is missing or older; one that has not only resumes,
/// under a new epoch, what nobody has taken since, be it that Redis forgot it. `raise` has an earlier [`MOVE_ROOM`] refused that may still come.
pub const KEEP_ROOM: &str = include_str!("redis/keep_room.lua");
/// Gives a room that has its home here to another node, with what it needs to go on.
///
/// `KEYS`: room, pulse, quiet. `ARGV`: node, epoch, candidate, metadata, state, prefix of node keys,
/// prefix of reservations, row lifetime (ms), reservation lifetime (ms). Answers as [`CLAIM_ROOM`]
/// does, without an earlier node; an empty list when the candidate is not open, `["lost"]` when the
/// room is not at home here.
pub const MOVE_ROOM: &str = include_str!("redis/move_room.lua");
/// Ends a room, if it still belongs to this node and epoch.
///
/// `KEYS`: room. `ARGV`: node, epoch. Answers 1 when it did.
pub const RELEASE_ROOM: &str = include_str!("redis/release_room.lua");
/// Writes a room's metadata and state, if it still belongs to this node and epoch.
///
/// `KEYS`: room. `ARGV`: node, epoch, metadata, state. Answers 1 when it did.
pub const UPDATE_ROOM: &str = include_str!("redis/update_room.lua");
/// Renews a node's lease and forgets those that ended long ago.
///
/// `KEYS`: set of nodes, node, pod, pulse, quiet, nodes that are gone, view. `ARGV`: id, record, lease
/// (ms), prefix of node keys, prefix of reservations, `first` or `next`, pod row lifetime (ms), pulse
/// (ms), [`NODE_MEMORY`] (ms), address, when the process started (ms since the machine did), number
/// of the renewal, load, version of the records that the caller has, [`VIEW_LIFE`] (ms). Answers
/// `[term, time, follows, quiet, others, gone, version, records, loads]`: a name of the lease,
/// another one whenever it had ended or Redis is another; the time (ms since 1970); 1 when the
/// process follows an earlier one of its pod that others knew; milliseconds until rooms begin; nodes
/// other than this that lived lately; those that are gone; of the living ones the records as a JSON
/// array, with its version, empty if the caller has them; a JSON array of their loads in the same
/// order, each with how many rooms the node was given since. The first renewal of a process ends the
/// lease of the pod's earlier process at the same address, which is dead.
pub const RENEW_NODE: &str = include_str!("redis/renew_node.lua");
/// Ends the lease of a node that leaves: it serves no more and begins no room.
///
/// `KEYS`: set of nodes, node, nodes that are gone. `ARGV`: id.
pub const RELEASE_NODE: &str = include_str!("redis/release_node.lua");
/// Ends the lease of a node whose process is gone: its port refused the caller, and it has missed a
/// renewal.
///
/// `KEYS`: set of nodes, node, nodes that are gone. `ARGV`: id, how long a lease lives at most after
/// a renewal was missed (ms). Answers 1 when the node has no lease any more.
pub const END_NODE: &str = include_str!("redis/end_node.lua");

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

    /// The nodes that are gone for certain.
    pub fn gone(&self) -> String {
        format!("{}gone", self.prefix)
    }

    /// What was read of all nodes lately.
    pub fn view(&self) -> String {
        format!("{}view", self.prefix)
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

    /// Which process of a pod renewed last.
    pub fn pod(&self, name: &str) -> String {
        format!("{}pod:{name}", self.prefix)
    }

    /// Whether anybody renewed lately.
    pub fn pulse(&self) -> String {
        format!("{}pulse", self.prefix)
    }

    /// Whether nobody gets a new home.
    pub fn quiet(&self) -> String {
        format!("{}quiet", self.prefix)
    }

    /// The stream of room events.
    pub fn events(&self) -> String {
        format!("{}events", self.prefix)
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
    /// Will be open within a lease, and takes no new rooms until then.
    Settling,
}

/// What a node says of its load at each renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeLoad {
    /// Rooms that have their home here.
    pub rooms: u64,
    /// Tracks forwarded, one for each subscriber.
    pub subscriptions: u64,
    /// Media packets sent to subscribers in the last second.
    pub packets_per_second: u64,
    /// Share of the last second in which the busiest media worker was not waiting, in thousandths.
    pub busy: u64,
    /// New rooms that the node takes beside these: what its capacity leaves, or [`NO_LIMIT`].
    pub free_rooms: u64,
}

/// The free rooms of a node that has no capacity.
pub const NO_LIMIT: u64 = u32::MAX as u64;

impl Default for NodeLoad {
    fn default() -> Self {
        Self::from([0, 0, 0, 0, NO_LIMIT])
    }
}

impl NodeLoad {
    /// As a node reports it: the numbers of [`Self::from`], separated by commas.
    pub fn report(self) -> String {
        let Self { rooms, subscriptions, packets_per_second, busy, free_rooms } = self;
        format!("{rooms},{subscriptions},{packets_per_second},{busy},{free_rooms}")
    }
}

impl From<[u64; 5]> for NodeLoad {
    fn from(reported: [u64; 5]) -> Self {
        let [rooms, subscriptions, packets_per_second, busy, free_rooms] = reported;
        Self { rooms, subscriptions, packets_per_second, busy, free_rooms }
    }
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

/// What a node's lease says, but for its load.
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
    /// Where its media is received, which the TURN servers of the cluster pass on to.
    #[serde(default)]
    pub media: MediaAddresses,
    /// The region that it is in; empty if nobody says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region: String,
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
            keys.gone(),
            keys.view(),
            keys.node(&node),
            keys.room(&room),
            keys.node_prefix(),
            keys.reservation_prefix(),
            keys.pod("node-0"),
            keys.pulse(),
            keys.quiet(),
            keys.events(),
        ] {
            assert!(key.starts_with("lc:{u1}:"), "{key}");
        }
        assert_eq!(keys.room(&room), "lc:{u1}:room:a room");
    }
}
