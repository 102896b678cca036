//! The configuration of the media node (`sfu`): the operator writes it into a ConfigMap, the
//! program reads it with `--config FILE`. Unknown keys are an error that names them.
//!
//! What differs between the pods of one cluster is not here: slot, addresses and pod name come
//! by the downward API (see [`env`]).

mod room;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use room::{PresetAgent, RoomConfig, RoomPreset};

/// Environment variables by which a pod learns what is its own.
pub mod env {
    /// The slot of this node: a small number; its ports derive from it.
    pub const SLOT: &str = "LIVECLUSTER_SLOT";
    /// The pod's name, which becomes the readable name of the node.
    pub const POD_NAME: &str = "POD_NAME";
    /// The pod's address, where its siblings reach it.
    pub const POD_IP: &str = "POD_IP";
    /// The Kubernetes node's address, advertised to clients when nothing better is known.
    pub const HOST_IP: &str = "HOST_IP";
}

/// The whole configuration of a media node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SfuConfig {
    /// Unique id of the LiveCluster; the hash tag of its Redis keys.
    pub cluster_uid: String,
    /// The only address that clients see, with scheme and without a path
    /// (`https://live.example.com`).
    pub public_url: String,
    /// File with the API keys: a YAML map `key: secret`.
    pub keys_file: PathBuf,
    /// Public HTTP and WebSocket listener.
    #[serde(default)]
    pub http: HttpConfig,
    /// Listener for probes, metrics and drain; never published.
    #[serde(default)]
    pub admin: AdminConfig,
    /// Where room homes are kept; without it this node is alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisConfig>,
    /// Pod-to-pod requests by mutual TLS; needed with `redis`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerConfig>,
    /// How this node leaves when its process is told to end.
    #[serde(default, skip_serializing_if = "is_default")]
    pub drain: DrainConfig,
    /// What this node takes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub capacity: CapacityConfig,
    /// Media sockets.
    #[serde(default)]
    pub media: MediaConfig,
    /// The TURN server beside this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnAccessConfig>,
    /// Defaults of rooms.
    #[serde(default)]
    pub room: RoomConfig,
    /// Who is told what happens in rooms.
    #[serde(default, skip_serializing_if = "is_default")]
    pub webhook: WebhookConfig,
    /// Log output.
    #[serde(default)]
    pub log: LogConfig,
}

/// How a node leaves when its process is told to end (SIGTERM).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrainConfig {
    /// Seconds in which rooms may end by themselves before they are moved: the lesser of
    /// `spec.drain.timeout` and what [`END_RESERVE`] leaves of the pod's grace.
    pub wait_seconds: u32,
}

/// How much of each a node has when it gets no new rooms any more; 0 is no limit. Rooms that have
/// their home there go on and grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CapacityConfig {
    /// Rooms.
    pub rooms: u32,
    /// Participants that receive at least one track.
    pub subscribers: u32,
    /// Megabits a second that are sent to clients.
    pub egress_mbps: u32,
}

/// Time that a node needs at its end to move its rooms and close what is left, in seconds.
pub const END_RESERVE: u32 = 30;

impl Default for DrainConfig {
    fn default() -> Self {
        Self { wait_seconds: 30 }
    }
}

/// Public HTTP and WebSocket listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// TCP port.
    pub port: u16,
    /// Who may call `POST /api/create-room`.
    pub create_room: CreateRoom,
    /// File with the bearer token of `create_room: Token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_room_token_file: Option<PathBuf>,
    /// Serve the web page at `/`.
    pub pages: bool,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            port: 7880,
            create_room: CreateRoom::Disabled,
            create_room_token_file: None,
            pages: true,
        }
    }
}

/// Who may call `POST /api/create-room`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CreateRoom {
    /// Nobody: the path answers 404.
    #[default]
    Disabled,
    /// Callers with the configured bearer token.
    Token,
    /// Everybody: whoever reaches the domain may enter any room.
    Open,
}

/// Listener for probes, metrics and drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// TCP port.
    pub port: u16,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { port: 9600 }
    }
}

/// How to reach Redis.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// `host:port`; not used with `sentinel` or `cluster`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Sentinels that name the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinel: Option<SentinelConfig>,
    /// Some servers of a Redis Cluster, `host:port`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster: Vec<String>,
    /// Use TLS, checked against the system's authorities.
    #[serde(default)]
    pub tls: bool,
    /// File with the authorities (PEM) that TLS is checked against instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// ACL user; the default user when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File with the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// The password itself, where the process got it by other ways than this file.
    #[serde(skip)]
    pub password: Option<Password>,
    /// About how many room events the stream in Redis keeps; 0 is no stream.
    #[serde(default)]
    pub room_events: u32,
}

/// Redis Sentinels. They are asked without a password, and where they want one, with that of Redis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentinelConfig {
    /// Their addresses, `host:port`.
    pub addresses: Vec<String>,
    /// The name under which they watch the master.
    pub master: String,
}

/// A secret that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

/// Pod-to-pod requests: files of this cluster's own certificate authority, all PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// TCP port.
    #[serde(default = "default_peer_port")]
    pub port: u16,
    /// Authorities that sign the certificates of this cluster's pods (several while rotating).
    pub ca_file: PathBuf,
    /// This pod's certificate; its DNS name is [`PEER_NAME`].
    pub certificate_file: PathBuf,
    /// The certificate's private key.
    pub key_file: PathBuf,
}

/// DNS name in the certificates of pods: who holds one is a media node of this cluster.
pub const PEER_NAME: &str = "node.livecluster.internal";

fn default_peer_port() -> u16 {
    7890
}

/// Media sockets. A node of slot `s` uses the ports
/// `first_port + s * ports_per_slot() ..`: ICE-TCP first, then one UDP port a worker, then the
/// one of the TURN server beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MediaConfig {
    /// Worker threads, each with a UDP port of its own; at least 1.
    pub workers: u16,
    /// First port of the range.
    pub first_port: u16,
    /// Accept ICE over TCP.
    pub tcp: bool,
    /// File with the addresses to advertise, separated by commas; written by the operator into
    /// an annotation and mounted by the downward API. Empty or absent: `HOST_IP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise_file: Option<PathBuf>,
    /// File with the state that this node shall be in (see [`crate::node_state`]), written like
    /// `advertise_file`. It changes while the node runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_file: Option<PathBuf>,
    /// File with the name of the region that this node is in, written like `advertise_file`.
    /// Empty or absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region_file: Option<PathBuf>,
    /// Clients reach the media ports by themselves. Where they do not, candidates carry `POD_IP`,
    /// which only TURN servers of the cluster reach, and clients are told to use these alone.
    #[serde(skip_serializing_if = "is_true")]
    pub direct: bool,
}

impl Default for MediaConfig {
    fn default() -> Self {
        Self {
            workers: 1,
            first_port: 20_000,
            tcp: true,
            advertise_file: None,
            state_file: None,
            region_file: None,
            direct: true,
        }
    }
}

impl MediaConfig {
    /// Ports that a slot takes: ICE-TCP, one a worker, TURN. The last is kept free where there is
    /// no TURN server, so that nodes move no port when it is turned on.
    pub fn ports_per_slot(&self) -> u16 {
        self.workers.saturating_add(2)
    }

    /// The ICE-TCP port of `slot`; `None` where the range ends above 65535.
    pub fn tcp_port(&self, slot: u16) -> Option<u16> {
        slot.checked_mul(self.ports_per_slot())?.checked_add(self.first_port)
    }

    /// The UDP port of a worker of `slot`.
    pub fn udp_port(&self, slot: u16, worker: u16) -> Option<u16> {
        self.tcp_port(slot)?.checked_add(1)?.checked_add(worker)
    }

    /// The port of the TURN server of `slot`, UDP and TCP.
    pub fn turn_port(&self, slot: u16) -> Option<u16> {
        self.udp_port(slot, self.workers)
    }
}

/// The TURN server beside a media node: how clients reach it, and what it must know. Credentials
/// are made from the API keys (`turn_credentials`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TurnAccessConfig {
    /// Clients reach it by UDP at the addresses that this node advertises (`turn:`).
    pub udp: bool,
    /// The same by TCP.
    pub tcp: bool,
    /// Port of both; the slot's own ([`MediaConfig::turn_port`]) when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Clients reach any server of the cluster by TLS at one address (`turns:`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TurnTlsAccess>,
    /// Seconds from a join in which allocations can be made with its credentials; allocations
    /// that are there go on.
    pub credentials_life_s: u32,
    /// Where the media ports of the cluster are written for the server beside this node (a
    /// [`PeersFile`](crate::turn_config::PeersFile)).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers_file: Option<PathBuf>,
}

impl Default for TurnAccessConfig {
    fn default() -> Self {
        Self {
            udp: true,
            tcp: true,
            port: None,
            tls: None,
            // As long as a token of `POST /api/create-room` admits: a client whose network
            // changes in between allocates anew. What they open is media ports of this cluster.
            credentials_life_s: 6 * 3600,
            peers_file: None,
        }
    }
}

/// Where clients reach TURN by TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TurnTlsAccess {
    /// Name in the certificate.
    pub domain: String,
    /// TCP port.
    #[serde(default = "default_tls_port")]
    pub port: u16,
    /// The server beside this node has a name of its own, too: [`Self::node_domain`].
    #[serde(default)]
    pub per_node: bool,
}

impl TurnTlsAccess {
    /// Name of the server of a slot.
    pub fn node_domain(&self, slot: u16) -> String {
        format!("node-{slot}.{}", self.domain)
    }
}

fn default_tls_port() -> u16 {
    443
}

/// Who is told what happens in rooms, by signed requests (LiveKit's webhooks).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookConfig {
    /// Receivers (`https://app.example.com/webhook`); each gets every event.
    pub urls: Vec<String>,
    /// Key that signs; the first of the cluster when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    /// Only these events (`room_started`); all when empty.
    pub include_events: Vec<String>,
    /// None of these events.
    pub exclude_events: Vec<String>,
}

/// Log output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Least severe level that is written, or a filter such as `info,sfu=debug`.
    pub level: String,
    /// Form of a line.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Json }
    }
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For a person at a terminal.
    Text,
}

fn is_true(value: &bool) -> bool {
    *value
}

/// Keeps what nobody set out of written files.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl SfuConfig {
    /// Reads YAML; the error names the key that is wrong.
    pub fn from_yaml(text: &str) -> Result<Self, String> {
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    }

    /// Writes YAML that [`Self::from_yaml`] reads.
    pub fn to_yaml(&self) -> Result<String, String> {
        serde_saphyr::to_string(self).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str =
        "cluster_uid: u1\npublic_url: https://live.example.com\nkeys_file: keys.yaml\n";

    #[test]
    fn a_minimal_file_gets_the_defaults() {
        let config = SfuConfig::from_yaml(MINIMAL).unwrap();
        assert_eq!(config.http.port, 7880);
        assert_eq!(config.room.departure_timeout, 20);
        assert_eq!(config.redis, None);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut config = SfuConfig::from_yaml(MINIMAL).unwrap();
        config.redis = Some(RedisConfig {
            address: String::new(),
            sentinel: Some(SentinelConfig {
                addresses: vec!["sentinel:26379".to_owned()],
                master: "live".to_owned(),
            }),
            password_file: Some("password".into()),
            room_events: 10_000,
            ..RedisConfig::default()
        });
        let yaml = config.to_yaml().unwrap();
        assert_eq!(SfuConfig::from_yaml(&yaml).unwrap(), config);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = SfuConfig::from_yaml(&format!("{MINIMAL}prot: 1\n")).unwrap_err();
        assert!(error.contains("prot"), "{error}");
    }

    #[test]
    fn presets_are_written_and_read_and_their_unknown_keys_are_named() {
        let mut config = SfuConfig::from_yaml(MINIMAL).unwrap();
        let agent = PresetAgent { agent_name: "notes".to_owned(), ..PresetAgent::default() };
        let preset =
            RoomPreset { max_participants: 9, agents: vec![agent], ..RoomPreset::default() };
        config.room.presets.insert("webinar".to_owned(), preset);
        let yaml = config.to_yaml().unwrap();
        assert_eq!(SfuConfig::from_yaml(&yaml).unwrap(), config);
        let wrong = format!("{MINIMAL}room: {{presets: {{webinar: {{egress: {{}}}}}}}}\n");
        let error = SfuConfig::from_yaml(&wrong).unwrap_err();
        assert!(error.contains("egress"), "{error}");
    }

    #[test]
    fn ports_of_slots_do_not_overlap() {
        let media = MediaConfig { workers: 2, first_port: 20_000, ..MediaConfig::default() };
        assert_eq!(media.tcp_port(0), Some(20_000));
        assert_eq!((media.udp_port(0, 0), media.udp_port(0, 1)), (Some(20_001), Some(20_002)));
        assert_eq!(media.turn_port(0), Some(20_003));
        assert_eq!(media.tcp_port(1), Some(20_004));
        assert_eq!(media.tcp_port(u16::MAX), None);
    }
}
