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
/// Gauge: living nodes that this node knows, itself among them: it places new rooms on these.
pub const KNOWN_NODES: &str = "livecluster_known_nodes";
/// Counter: media datagrams by `direction` (`in`, `out`).
pub const PACKETS: &str = "livecluster_packets_total";
/// Counter: bytes of media datagrams by `direction` (`in`, `out`).
pub const BYTES: &str = "livecluster_bytes_total";
/// Counter: media packets that were sent again because a subscriber asked for them.
pub const RETRANSMITTED: &str = "livecluster_retransmitted_packets_total";
/// Counter: datagrams that were not authentic, unknown or malformed, or found a queue full.
pub const DROPPED: &str = "livecluster_dropped_packets_total";
/// Counter: microseconds in which media workers were not waiting, all workers together.
pub const BUSY: &str = "livecluster_media_busy_microseconds_total";
/// Gauge: microseconds for which a media worker with many sends lets datagrams gather before it
/// reads them, at the worker where it is longest.
pub const GATHERING: &str = "livecluster_media_gathering_microseconds";
/// Label of [`PACKETS`] and [`BYTES`].
pub const DIRECTION: &str = "direction";
/// Counter: joins that this node took in as front door, by `route` (`local`: the room's home is
/// here, `proxied`: it is another node).
pub const FRONT_DOOR_JOINS: &str = "livecluster_front_door_joins_total";
/// Counter: rooms that were asked for here and got no home, by `reason` (`full`, `no_open_node`,
/// `settling`, `quiet`, `not_renewing`, `unavailable`).
pub const UNPLACED_ROOMS: &str = "livecluster_unplaced_rooms_total";
/// Label of [`UNPLACED_ROOMS`].
pub const REASON: &str = "reason";
/// Counter: room events that did not get to the stream in Redis: it was away for long, or refused.
pub const DROPPED_ROOM_EVENTS: &str = "livecluster_dropped_room_events_total";
/// Label of [`FRONT_DOOR_JOINS`].
pub const ROUTE: &str = "route";
/// Counter of the operator: reconciles, by `result`.
pub const RECONCILES: &str = "livecluster_operator_reconciles_total";
/// Histogram of the operator: seconds that a reconcile took.
pub const RECONCILE_SECONDS: &str = "livecluster_operator_reconcile_seconds";
/// Gauge of the operator: 1 while it leads.
pub const LEADER: &str = "livecluster_operator_leader";

/// All that a media node exports.
pub const OF_MEDIA_NODE: [&str; 14] = [
    ROOMS,
    PARTICIPANTS,
    SUBSCRIBERS,
    SUBSCRIPTIONS,
    KNOWN_NODES,
    PACKETS,
    BYTES,
    RETRANSMITTED,
    DROPPED,
    BUSY,
    GATHERING,
    FRONT_DOOR_JOINS,
    UNPLACED_ROOMS,
    DROPPED_ROOM_EVENTS,
];
/// All that an operator exports.
pub const OF_OPERATOR: [&str; 3] = [RECONCILES, RECONCILE_SECONDS, LEADER];
