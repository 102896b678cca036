//! The configuration of media nodes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use contract::sfu_config::{
    AdminConfig, CapacityConfig, DrainConfig, END_RESERVE, HttpConfig, LogConfig, MediaConfig,
    PeerConfig, PresetAgent, RedisConfig, RoomConfig, RoomPreset, SentinelConfig, SfuConfig,
    WebhookConfig,
};
use crds::live_cluster::{
    CreateRoom, NodeCapacity, PresetAgentSpec, RedisMode, RoomPresetSpec, RoomsSpec, WebhookEvent,
    WebhooksSpec,
};
use crds::names::{self, component};
use k8s_openapi::api::core::v1::ConfigMap;

use super::{BuildError, metadata, redis, turn};
use crate::cluster::validate::{ValidCluster, ValidRedis};

/// Directory of all files of a media node.
pub const DIRECTORY: &str = "/etc/livecluster";
/// Entry of the ConfigMap, and the file in [`DIRECTORY`].
pub const CONFIG: &str = "sfu.yaml";
/// File of the API keys.
pub const KEYS: &str = "keys/keys.yaml";
/// File of the bearer token for `POST /api/create-room`.
pub const TOKEN: &str = "http/token";
/// File of Redis's password.
pub const REDIS_PASSWORD: &str = "redis/password";
/// File of the authorities of Redis's certificate.
pub const REDIS_CA: &str = "redis-ca/ca.crt";
/// Directory of the pod-to-pod certificates.
pub const PEER: &str = "peer";
/// File of the addresses to tell clients.
pub const ADVERTISE: &str = "pod/advertise-addresses";
/// File of the state that the node shall be in.
pub const STATE: &str = "pod/state";
/// File of the region that the node is in.
pub const REGION: &str = "pod/region";
/// Port of pod-to-pod requests.
pub const PEER_PORT: u16 = 7890;
/// Seconds between SIGTERM and SIGKILL: rooms end or move.
pub const GRACE_SECONDS: u32 = 60;

/// A file of [`DIRECTORY`].
pub(super) fn file(name: &str) -> PathBuf {
    PathBuf::from(DIRECTORY).join(name)
}

/// What every media node of the cluster reads.
#[must_use]
pub fn sfu_config(valid: &ValidCluster) -> SfuConfig {
    let spec = &valid.spec;
    let by_token = spec.http.create_room == CreateRoom::Token;
    SfuConfig {
        cluster_uid: valid.uid.clone(),
        public_url: valid.url(),
        keys_file: file(KEYS),
        http: HttpConfig {
            create_room: valid.create_room(),
            create_room_token_file: by_token.then(|| file(TOKEN)),
            pages: spec.http.pages,
            ..HttpConfig::default()
        },
        admin: AdminConfig::default(),
        redis: Some(redis_config(valid)),
        peer: Some(PeerConfig {
            port: PEER_PORT,
            ca_file: file(PEER).join("ca.crt"),
            certificate_file: file(PEER).join("tls.crt"),
            key_file: file(PEER).join("tls.key"),
        }),
        drain: DrainConfig { wait_seconds: wait_at_end(valid) },
        capacity: capacity(spec.node.capacity),
        media: MediaConfig {
            advertise_file: Some(file(ADVERTISE)),
            state_file: Some(file(STATE)),
            region_file: Some(file(REGION)),
            ..valid.media_config()
        },
        turn: turn::access(valid),
        room: room_config(&spec.rooms),
        webhook: webhook_config(&spec.webhooks),
        log: LogConfig { level: spec.log.level.as_str().to_owned(), format: valid.log_format() },
    }
}

fn capacity(capacity: NodeCapacity) -> CapacityConfig {
    let NodeCapacity { rooms, subscribers, egress_mbps } = capacity;
    CapacityConfig { rooms, subscribers, egress_mbps }
}

fn room_config(rooms: &RoomsSpec) -> RoomConfig {
    let RoomsSpec {
        auto_create,
        empty_timeout_seconds,
        departure_timeout_seconds,
        max_participants,
        remote_unmute,
        enabled_codecs,
        playout_delay,
        sync_streams,
        loudest_audio_tracks,
        subscription_limits,
        presets,
        // It belongs to Redis.
        event_stream_length: _,
    } = rooms;
    RoomConfig {
        auto_create: *auto_create,
        empty_timeout: *empty_timeout_seconds,
        departure_timeout: *departure_timeout_seconds,
        max_participants: *max_participants,
        subscription_limit_audio: subscription_limits.audio,
        subscription_limit_video: subscription_limits.video,
        loudest_audio_tracks: *loudest_audio_tracks,
        enabled_codecs: enabled_codecs.iter().map(|codec| codec.mime().to_owned()).collect(),
        min_playout_delay: playout_delay.min_milliseconds,
        max_playout_delay: playout_delay.max_milliseconds,
        sync_streams: *sync_streams,
        enable_remote_unmute: *remote_unmute,
        presets: presets.iter().map(|preset| (preset.name.clone(), room_preset(preset))).collect(),
    }
}

fn room_preset(preset: &RoomPresetSpec) -> RoomPreset {
    let RoomPresetSpec {
        name: _,
        empty_timeout_seconds,
        departure_timeout_seconds,
        max_participants,
        playout_delay,
        sync_streams,
        metadata,
        agents,
    } = preset;
    let agents = agents.iter().map(|PresetAgentSpec { name, metadata }| PresetAgent {
        agent_name: name.clone(),
        metadata: metadata.clone(),
        ..PresetAgent::default()
    });
    RoomPreset {
        empty_timeout: empty_timeout_seconds.unwrap_or_default(),
        departure_timeout: departure_timeout_seconds.unwrap_or_default(),
        max_participants: max_participants.unwrap_or_default(),
        min_playout_delay: playout_delay.min_milliseconds,
        max_playout_delay: playout_delay.max_milliseconds,
        sync_streams: *sync_streams,
        metadata: metadata.clone(),
        agents: agents.collect(),
    }
}

fn webhook_config(webhooks: &WebhooksSpec) -> WebhookConfig {
    let WebhooksSpec { urls, api_key, include_events, exclude_events } = webhooks;
    let names = |events: &[WebhookEvent]| {
        events.iter().map(|event| event.as_str().to_owned()).collect::<Vec<_>>()
    };
    WebhookConfig {
        urls: urls.clone(),
        api_key: api_key.clone(),
        include_events: names(include_events),
        exclude_events: names(exclude_events),
    }
}

/// How long the rooms of a pod that is told to end may end by themselves.
fn wait_at_end(valid: &ValidCluster) -> u32 {
    let timeout = u32::try_from(valid.drain_timeout.as_secs()).unwrap_or(u32::MAX);
    timeout.min(GRACE_SECONDS.saturating_sub(END_RESERVE))
}

fn redis_config(valid: &ValidCluster) -> RedisConfig {
    let room_events = valid.spec.rooms.event_stream_length;
    match &valid.redis {
        ValidRedis::Managed { .. } => RedisConfig {
            address: redis::address(valid),
            password_file: Some(file(REDIS_PASSWORD)),
            room_events,
            ..RedisConfig::default()
        },
        ValidRedis::External(external) => RedisConfig {
            // The schema lets exactly one pass, where it is not those of Sentinels.
            address: match external.mode {
                RedisMode::Standalone => external.addresses.first().cloned().unwrap_or_default(),
                RedisMode::Sentinel | RedisMode::Cluster => String::new(),
            },
            sentinel: match external.mode {
                RedisMode::Standalone | RedisMode::Cluster => None,
                RedisMode::Sentinel => Some(SentinelConfig {
                    addresses: external.addresses.clone(),
                    master: external.master_name.clone().unwrap_or_default(),
                }),
            },
            cluster: match external.mode {
                RedisMode::Standalone | RedisMode::Sentinel => Vec::new(),
                RedisMode::Cluster => external.addresses.clone(),
            },
            tls: external.tls,
            ca_file: external.ca_secret_name.as_ref().map(|_| file(REDIS_CA)),
            username: external.username.clone(),
            password_file: external.secret_name.as_ref().map(|_| file(REDIS_PASSWORD)),
            password: None,
            room_events,
        },
    }
}

/// What the programs of a media pod read, by file.
pub fn files(valid: &ValidCluster) -> Result<BTreeMap<String, String>, BuildError> {
    let sfu = sfu_config(valid).to_yaml().map_err(BuildError::Config)?;
    let mut files = BTreeMap::from([(CONFIG.to_owned(), sfu)]);
    if valid.turn.is_some() {
        let turn = turn::turn_config(valid)?.to_yaml().map_err(BuildError::Config)?;
        files.insert(turn::CONFIG.to_owned(), turn);
    }
    Ok(files)
}

/// The ConfigMap with these files.
pub fn config_map(valid: &ValidCluster, files: BTreeMap<String, String>) -> ConfigMap {
    ConfigMap {
        metadata: metadata(valid, names::config_map(&valid.name), component::NODE),
        data: Some(files),
        ..ConfigMap::default()
    }
}
