//! The keys of LiveKit's configuration: those that mean something here, and why others do not.

/// Keys that carry over.
pub(super) const CARRIED: [&str; 48] = [
    "port",
    "bind_addresses",
    "keys",
    "key_file",
    "development",
    "log_level",
    "logging.level",
    "logging.json",
    "prometheus_port",
    "prometheus.port",
    "enable_data_tracks",
    "redis.address",
    "redis.cluster_addresses",
    "redis.sentinel_addresses",
    "redis.sentinel_master_name",
    "redis.username",
    "redis.password",
    "redis.db",
    "redis.use_tls",
    "redis.tls.ca_cert_file",
    "redis.tls.enabled",
    "rtc.udp_port",
    "rtc.tcp_port",
    "rtc.port_range_start",
    "rtc.port_range_end",
    "rtc.node_ip",
    "rtc.use_external_ip",
    "rtc.stun_servers",
    "rtc.turn_servers",
    "room.auto_create",
    "room.empty_timeout",
    "room.departure_timeout",
    "room.max_participants",
    "room.enable_remote_unmute",
    "room.enabled_codecs",
    "room.playout_delay.enabled",
    "room.playout_delay.min",
    "room.playout_delay.max",
    "room.sync_streams",
    "room.room_configurations",
    "limit.subscription_limit_audio",
    "limit.subscription_limit_video",
    "webhook.api_key",
    "webhook.urls",
    "webhook.filter_params.include_events",
    "webhook.filter_params.exclude_events",
    "turn.enabled",
    "livecluster.peer",
];

/// Whether a key's value is a map of the user's own names.
pub(super) fn is_map(path: &str) -> bool {
    matches!(path, "keys" | "livecluster.peer" | "room.room_configurations")
}

/// What a key is that does not carry over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    /// Left out: nothing that clients see depends on it.
    Ignored,
    /// Refused: it asks for something that is not done here.
    Refused,
}

use Foreign::{Ignored, Refused};

/// Keys that do not carry over, by section (empty: the top), with the reason. `*` is every key
/// below.
#[rustfmt::skip]
const FOREIGN: [(&str, &[&str], Foreign, &str); 35] = [
    ("", &["region"], Ignored, "rooms are placed by load, and a cluster is in one region"),
    ("", &["metric.*", "trace.jaeger_url"], Ignored, "metrics and logs are what the node tells of itself"),
    ("", &["cpuprofile", "memprofile"], Refused, "profiles are taken with the system's tools"),
    ("", &["enable_participant_data_blob"], Refused, "data blobs are not stored"),
    ("webtransport", &["*"], Refused, "agent workers connect by WebSocket"),
    ("debug_handler", &["port"], Refused, "there is no debug handler; the log level can be raised"),
    ("prometheus", &["username", "password"], Refused, "metrics are on a port of their own, which no client reaches"),
    ("api", &["execution_timeout", "check_interval", "max_check_interval"], Ignored, "calls go straight to a room's node"),
    ("node_stats", &["stats_update_interval", "stats_rate_measurement_intervals", "stats_max_delay"], Ignored, "nodes tell their load with their lease, each second"),
    ("node_selector", &["kind", "sort_by", "algorithm", "cpu_load_limit", "sysload_limit", "hard_sysload_limit", "regions"], Ignored, "rooms go to the less loaded of two random nodes"),
    ("signal_relay", &["retry_timeout", "min_retry_interval", "max_retry_interval", "stream_buffer_size", "connect_attempts", "enabled"], Ignored, "signalling goes straight to a room's node"),
    ("psrpc", &["max_attempts", "timeout", "backoff", "buffer_size", "compression"], Ignored, "nodes do not call each other through Redis"),
    ("logging", &["sample", "item_sample_seconds", "item_sample_initial", "item_sample_interval", "component_levels.*", "pion_level"], Ignored, "the filter of logging.level names modules, such as info,sfu=debug"),
    ("redis", &["sentinel_username", "sentinel_password"], Refused, "Sentinels are asked with redis.username and redis.password, where they want a password"),
    ("redis", &["max_redirects"], Ignored, "a key that has moved is looked for once more"),
    ("redis", &["dial_timeout", "read_timeout", "write_timeout", "pool_timeout", "pool_size"], Ignored, "one connection with fixed time limits is enough"),
    ("redis.tls", &["insecure", "server_name", "client_cert_file", "client_key_file"], Refused, "the server's certificate is checked, for the name in its address, and clients have none"),
    ("rtc", &["external_ip_only", "advertise_internal_ip", "skip_external_ip_validation"], Refused, "the address in rtc.node_ip is advertised, no other"),
    ("rtc", &["use_ice_lite"], Ignored, "the node is always ICE-lite"),
    ("rtc", &["interfaces.*", "ips.*", "use_mdns", "enable_loopback_candidate"], Refused, "the address in rtc.node_ip is advertised, no other"),
    ("rtc", &["batch_io.*", "packet_buffer_size", "packet_buffer_size_video", "packet_buffer_size_audio", "strict_acks", "pli_throttle.*", "forward_stats.*", "enable_rtp_stream_restart_detection"], Ignored, "the forwarding plane is made otherwise and has no such dial"),
    ("rtc", &["allow_tcp_fallback", "tcp_fallback_rtt_threshold", "allow_udp_unstable_fallback", "force_tcp"], Ignored, "clients get UDP and TCP candidates and choose by their checks"),
    ("rtc", &["reconnect_on_publication_error", "reconnect_on_subscription_error", "reconnect_on_data_channel_error"], Ignored, "who cannot go on is always asked to connect anew"),
    ("rtc", &["data_channel_max_buffered_amount", "datachannel_slow_threshold", "datachannel_lossy_target_latency", "datachannel_data_track_target_latency"], Ignored, "queues of data are bounded, and a slow receiver loses its own messages only"),
    ("rtc", &["enable_warp", "flexfec.*", "rtx_budget.*"], Ignored, "experiments of LiveKit's media path"),
    ("rtc.congestion_control", &["enabled", "stream_allocator.*", "remote_bwe.*", "use_send_side_bwe_interceptor", "use_send_side_bwe", "send_side_bwe_pacer", "send_side_bwe.*"], Ignored, "bandwidth is always estimated on the sending side, and by REMB where a client tells no more"),
    ("rtc.congestion_control", &["allow_pause"], Ignored, "a track that the network of a subscriber does not carry is paused, and the subscriber told"),
    ("audio", &["active_level", "min_percentile", "update_interval", "smooth_intervals", "active_red_encoding", "enable_loss_proxying", "enable_red_encoding"], Ignored, "speakers are told as with LiveKit's defaults"),
    ("video", &["dynacast_pause_delay", "stream_tracker_manager.*", "stream_tracker.*", "codec_regression_threshold"], Ignored, "LiveKit's defaults hold"),
    ("room", &["create_room_timeout", "create_room_attempts", "enable_full_room_in_webhooks", "update_batch_target_size", "create_room_enabled"], Ignored, "webhooks always hold the whole room; sizes and times are LiveKit's"),
    ("room", &["max_metadata_size", "max_room_name_length", "max_participant_identity_length"], Ignored, "the limits are LiveKit's defaults"),
    ("limit", &["num_tracks", "bytes_per_sec"], Refused, "there is no limit of a whole node"),
    ("limit", &["max_metadata_size", "max_attributes_size", "max_room_name_length", "max_participant_identity_length", "max_participant_name_length", "max_data_blob_key_length", "max_data_blobs_size", "max_data_track_custom_encoding_length", "signal_message_size_limit", "agent_signal_message_size_limit", "max_api_request_body_size"], Ignored, "the limits are LiveKit's defaults"),
    ("webhook", &["url_notifier.*", "resource_url_notifier.*"], Ignored, "queues, retries and their bounds are fixed"),
    ("turn", &["domain", "cert_file", "key_file", "tls_port", "udp_port", "relay_range_start", "relay_range_end", "external_tls", "bind_addresses", "per_user_relay_allocation_limit", "ttl_seconds", "allow_restricted_peer_cidrs", "deny_peer_cidrs", "proxy_protocol.*"], Ignored, "the TURN server is a program of its own"),
];

/// Services beside LiveKit's server.
const SERVICES: [&str; 4] = ["ingress", "egress", "sip", "agents"];

/// What a key is that does not carry over; `None` when LiveKit does not know it either.
pub(super) fn foreign(path: &str) -> Option<(Foreign, &'static str)> {
    let service = path.split('.').next().filter(|section| SERVICES.contains(section));
    if service.is_some() {
        return Some((Ignored, "what it sets is not part of a media node"));
    }
    FOREIGN
        .iter()
        .find(|(section, names, _, _)| {
            let name = match section.is_empty() {
                true => Some(path),
                false => path.strip_prefix(section).and_then(|rest| rest.strip_prefix('.')),
            };
            name.is_some_and(|name| names.iter().any(|known| covers(known, name)))
        })
        .map(|(_, _, kind, reason)| (*kind, *reason))
}

fn covers(known: &str, name: &str) -> bool {
    match known.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix) || prefix.strip_suffix('.') == Some(name),
        None => known == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_either_carries_over_or_has_a_reason() {
        for path in CARRIED {
            assert_eq!(foreign(path), None, "{path} is in both tables");
        }
        for (path, expected) in [
            ("psrpc.timeout", Some(Ignored)),
            ("rtc.interfaces.includes", Some(Refused)),
            ("rtc.pli_throttle.low_quality", Some(Ignored)),
            ("ingress.whip_base_url", Some(Ignored)),
            ("region", Some(Ignored)),
            ("psrpc.timeuot", None),
            ("rtc.tcp_prot", None),
            ("regions", None),
        ] {
            assert_eq!(foreign(path).map(|(kind, _)| kind), expected, "{path}");
        }
    }
}
