//! Names of the metrics that more than one program knows: the media node registers them, the
//! operator scales by them, dashboards and tests read them. Stable once released.

/// Gauge: rooms that have their home on this node.
pub const ROOMS: &str = "livecluster_rooms";
/// Gauge: participants in rooms of this node.
pub const PARTICIPANTS: &str = "livecluster_participants";
/// Gauge: participants that subscribe to at least one track.
pub const SUBSCRIBERS: &str = "livecluster_subscribers";
/// Gauge: forwarded tracks (one track to one subscriber counts once).
pub const SUBSCRIPTIONS: &str = "livecluster_subscriptions";
/// Counter: media datagrams by `direction` (`in`, `out`).
pub const PACKETS: &str = "livecluster_packets_total";
/// Counter: bytes of media datagrams by `direction` (`in`, `out`).
pub const BYTES: &str = "livecluster_bytes_total";
/// Label of [`PACKETS`] and [`BYTES`].
pub const DIRECTION: &str = "direction";
/// Counter: joins that this node took in as front door, by `route` (`local`: the room's home is
/// here, `proxied`: it is another node).
pub const FRONT_DOOR_JOINS: &str = "livecluster_front_door_joins_total";
/// Label of [`FRONT_DOOR_JOINS`].
pub const ROUTE: &str = "route";
