//! Names of the TURN server's metrics: ours, and those that dashboards of coturn and STUNner ask
//! for. Stable once released.

/// Gauge: allocations.
pub const ALLOCATIONS: &str = "livecluster_turn_allocations";
/// Counter: allocations made.
pub const ALLOCATIONS_MADE: &str = "livecluster_turn_allocations_total";
/// Counter: packets relayed, by [`DIRECTION`].
pub const PACKETS: &str = "livecluster_turn_packets_total";
/// Counter: their bytes without headers, by [`DIRECTION`].
pub const BYTES: &str = "livecluster_turn_bytes_total";
/// Label: `to_peer` or `to_client`.
pub const DIRECTION: &str = "direction";
/// Counter: packets not relayed, by [`REASON`].
pub const DROPPED: &str = "livecluster_turn_dropped_total";
/// Label: why, of a fixed set.
pub const REASON: &str = "reason";
/// Counter: error answers, by [`CODE`].
pub const ERRORS: &str = "livecluster_turn_errors_total";
/// Label: STUN error code.
pub const CODE: &str = "code";
/// Counter: Binding requests answered.
pub const BINDINGS: &str = "livecluster_turn_bindings_total";
/// Gauge: TCP and TLS connections.
pub const CONNECTIONS: &str = "livecluster_turn_connections";
/// Gauge: TLS handshakes under way.
pub const HANDSHAKES: &str = "livecluster_turn_handshakes";
/// Counter: TCP and TLS connections, by [`RESULT`].
pub const CONNECTIONS_TOTAL: &str = "livecluster_turn_connections_total";
/// Label: `accepted`, `refused` (a limit) or `failed` (TLS, framing, PROXY header).
pub const RESULT: &str = "result";
/// Gauge: 1 while no allocations are made.
pub const DRAINING: &str = "livecluster_turn_draining";
/// Gauge: microseconds for which datagrams gather, at the worker where it is longest.
pub const GATHERING: &str = "livecluster_turn_gathering_microseconds";

/// All names of ours that a TURN server exports.
pub const OF_TURN_SERVER: [&str; 12] = [
    ALLOCATIONS,
    ALLOCATIONS_MADE,
    PACKETS,
    BYTES,
    DROPPED,
    ERRORS,
    BINDINGS,
    CONNECTIONS,
    HANDSHAKES,
    CONNECTIONS_TOTAL,
    DRAINING,
    GATHERING,
];

/// Names of coturn's exporter.
pub mod coturn {
    /// Gauge: allocations.
    pub const TOTAL_ALLOCATIONS: &str = "turn_total_allocations";
    /// Counter: packets from clients.
    pub const TOTAL_TRAFFIC_RCVP: &str = "turn_total_traffic_rcvp";
    /// Counter: bytes from clients.
    pub const TOTAL_TRAFFIC_RCVB: &str = "turn_total_traffic_rcvb";
    /// Counter: packets to clients.
    pub const TOTAL_TRAFFIC_SENTP: &str = "turn_total_traffic_sentp";
    /// Counter: bytes to clients.
    pub const TOTAL_TRAFFIC_SENTB: &str = "turn_total_traffic_sentb";
    /// Counter: packets from peers.
    pub const TOTAL_TRAFFIC_PEER_RCVP: &str = "turn_total_traffic_peer_rcvp";
    /// Counter: bytes from peers.
    pub const TOTAL_TRAFFIC_PEER_RCVB: &str = "turn_total_traffic_peer_rcvb";
    /// Counter: packets to peers.
    pub const TOTAL_TRAFFIC_PEER_SENTP: &str = "turn_total_traffic_peer_sentp";
    /// Counter: bytes to peers.
    pub const TOTAL_TRAFFIC_PEER_SENTB: &str = "turn_total_traffic_peer_sentb";
    /// Counter: Binding requests.
    pub const BINDING_REQUEST: &str = "stun_binding_request";
    /// Counter: Binding answers.
    pub const BINDING_RESPONSE: &str = "stun_binding_response";
    /// Counter: answers 401.
    pub const UNAUTHENTICATED_RESPONSES: &str = "turn_unauthenticated_401_responses";
    /// Counter: answers 401 that the limit kept back.
    pub const UNAUTHENTICATED_DROPPED: &str = "turn_unauthenticated_401_dropped_responses";
    /// Counter: packets relayed.
    pub const PACKET_PROCESSED: &str = "turn_packet_processed";
    /// Counter: packets dropped.
    pub const PACKET_DROPPED: &str = "turn_packet_dropped";
}

/// Names of STUNner.
pub mod stunner {
    /// Gauge: allocations.
    pub const ALLOCATIONS_ACTIVE: &str = "stunner_allocations_active";
    /// Gauge: TCP and TLS connections.
    pub const LISTENER_CONNECTIONS: &str = "stunner_listener_connections";
    /// Counter: TCP and TLS connections.
    pub const LISTENER_CONNECTIONS_TOTAL: &str = "stunner_listener_connections_total";
    /// Counter: packets, by direction `rx` or `tx`.
    pub const LISTENER_PACKETS_TOTAL: &str = "stunner_listener_packets_total";
    /// Counter: bytes, by direction `rx` or `tx`.
    pub const LISTENER_BYTES_TOTAL: &str = "stunner_listener_bytes_total";
    /// Counter: packets with peers, by direction `rx` or `tx`.
    pub const CLUSTER_PACKETS_TOTAL: &str = "stunner_cluster_packets_total";
    /// Counter: bytes with peers, by direction `rx` or `tx`.
    pub const CLUSTER_BYTES_TOTAL: &str = "stunner_cluster_bytes_total";
}
