//! The configuration of the TURN server (`turn-server`): the operator, or the administrator of
//! a machine, writes it; the program reads it with `--config FILE`. Unknown keys are an error
//! that names them, and so is a value that cannot work.

mod network;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::sfu_config::LogConfig;

pub use network::{Network, NetworkError};

/// Environment variables by which a pod learns what is its own.
pub mod env {
    /// The pod's address: where data leaves to peers when `relay.addresses` is empty.
    pub const POD_IP: &str = "POD_IP";
}

/// The whole configuration of a TURN server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TurnConfig {
    /// Realm of the long-term credentials (RFC 8489 section 9.2), at most 128 characters.
    #[serde(default = "default_realm")]
    pub realm: String,
    /// Where clients reach the server.
    #[serde(default)]
    pub listen: ListenConfig,
    /// Certificate of `listen.tls` and `listen.dtls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// Whose PROXY protocol headers are believed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub proxy_protocol: ProxyProtocolConfig,
    /// From where data goes to peers.
    #[serde(default)]
    pub relay: RelayConfig,
    /// Who may allocate.
    #[serde(default)]
    pub credentials: CredentialsConfig,
    /// Where data may go; nowhere by default.
    #[serde(default)]
    pub peers: PeersConfig,
    /// What one client, user or address may use.
    #[serde(default)]
    pub limits: TurnLimits,
    /// Worker threads; 0 is one for each core.
    #[serde(default)]
    pub workers: u16,
    /// Where clients are sent while this server drains (ALTERNATE-SERVER); without it new
    /// allocations get error 508 then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alternate_server: Option<SocketAddr>,
    /// Seconds that allocations may go on after SIGTERM.
    #[serde(default = "default_drain_timeout")]
    pub drain_timeout_s: u32,
    /// Probes, metrics and drain; never published.
    #[serde(default)]
    pub admin: TurnAdminConfig,
    /// Log output.
    #[serde(default)]
    pub log: LogConfig,
}

fn default_realm() -> String {
    "livecluster".to_owned()
}

fn default_drain_timeout() -> u32 {
    3600
}

/// Where clients reach the server. Each transport may listen on several addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenConfig {
    /// TURN over UDP.
    pub udp: Vec<SocketAddr>,
    /// TURN over TCP.
    pub tcp: Vec<SocketAddr>,
    /// TURN over TLS 1.2 or 1.3.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<SocketAddr>,
    /// TURN over DTLS 1.2.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dtls: Vec<SocketAddr>,
}

impl Default for ListenConfig {
    fn default() -> Self {
        let everywhere = vec![SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 3478)];
        Self { udp: everywhere.clone(), tcp: everywhere, tls: Vec::new(), dtls: Vec::new() }
    }
}

/// Certificate of the TLS and DTLS listeners; both files are PEM and are read again when they
/// change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificate chain, the server's own first.
    pub certificate_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// Whose PROXY protocol headers (version 2) are believed. They come before TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyProtocolConfig {
    /// Networks of the load balancers. A header from elsewhere closes the connection.
    pub trusted: Vec<Network>,
}

/// From where data goes to peers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayConfig {
    /// At most one address of each family; empty takes the pod's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<RelayAddressConfig>,
    /// Relayed ports.
    #[serde(default)]
    pub ports: RelayPorts,
}

/// An address of the machine from which data goes to peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayAddressConfig {
    /// Address that sockets are bound to.
    pub bind: IpAddr,
    /// Address that clients are told (XOR-RELAYED-ADDRESS); the bound one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<IpAddr>,
}

/// Relayed ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayPorts {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl Default for RelayPorts {
    fn default() -> Self {
        Self { first: 49_152, last: 65_535 }
    }
}

/// Who may allocate. Without any of these nobody may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CredentialsConfig {
    /// File with API keys, a YAML map `key: secret`: LiveKit's credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_file: Option<PathBuf>,
    /// File with shared secrets of the REST scheme (`expiry:user`), one a line, newest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest_secrets_file: Option<PathBuf>,
    /// File with fixed users, a YAML map `name: password`; for tests and closed networks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users_file: Option<PathBuf>,
    /// File with keys of 64 hexadecimal digits, one a line, newest first, the same for all
    /// servers that share clients. Without it the key is random, and nonces end with the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce_key_file: Option<PathBuf>,
    /// Seconds until a client has to take a new nonce.
    pub nonce_life_s: u32,
}

impl Default for CredentialsConfig {
    fn default() -> Self {
        Self {
            keys_file: None,
            rest_secrets_file: None,
            users_file: None,
            nonce_key_file: None,
            nonce_life_s: 3600,
        }
    }
}

/// Where data may go. What nothing here names is refused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeersConfig {
    /// File with the media ports of this cluster (a [`PeersFile`]), read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Networks and ports for use without a cluster.
    pub allow: Vec<PeerRule>,
    /// Networks that are refused although `allow` names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Network>,
    /// Whether relayed addresses of this server can be peers where `allow` names them: two
    /// clients that only meet by TURN need it, clients of media nodes do not.
    #[serde(skip_serializing_if = "is_default")]
    pub own_relays: bool,
    /// Clients are not told of ICMP errors (RFC 8656 section 11.5). Clients older than that RFC
    /// take what tells them for broken: pion's stops receiving.
    #[serde(skip_serializing_if = "is_default")]
    pub hide_errors: bool,
}

/// A network to which data may go. Loopback, link-local, private, multicast and other special
/// addresses are refused unless a rule lies within their range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerRule {
    /// Which addresses, as `203.0.113.0/24` or one address.
    pub network: Network,
    /// Which ports; all but 0 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<PeerPorts>,
}

/// Ports of a rule, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerPorts {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl PeerPorts {
    /// The ports as a range.
    pub fn range(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

/// The media ports that data may go to: JSON, written by the media node beside the server into
/// a new file that then takes the old one's name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeersFile {
    /// Media nodes.
    pub peers: Vec<MediaPeer>,
}

/// A media node as clients and as this server know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MediaPeer {
    /// Address in the node's ICE candidates.
    pub advertised: IpAddr,
    /// Address that data is sent to.
    pub local: IpAddr,
    /// UDP and TCP ports, the same on both addresses.
    pub ports: Vec<u16>,
}

impl PeersFile {
    /// Reads JSON.
    ///
    /// # Errors
    ///
    /// With what is wrong.
    pub fn from_json(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }
}

/// What one client, user or address may use. 0 is no limit where the field says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TurnLimits {
    /// Allocations of the server (error 508).
    pub allocations: u32,
    /// Allocations of a user (error 486).
    pub allocations_per_user: u32,
    /// Allocations of a client address (error 486).
    pub allocations_per_address: u32,
    /// Permissions of an allocation (error 508).
    pub permissions: u32,
    /// Channels of an allocation (error 508).
    pub channels: u32,
    /// Peers that an allocation may add in a second (error 508).
    pub new_peers_per_second: u32,
    /// Bytes a second of an allocation, both directions; more is dropped; 0: no limit.
    pub bytes_per_second: u64,
    /// Packets a second of an allocation, both directions; more is dropped; 0: no limit.
    pub packets_per_second: u32,
    /// Answers without a signature a second to one address by UDP and DTLS; more requests get
    /// none.
    pub challenges_per_second: u32,
    /// TCP and TLS connections of the server.
    pub connections: u32,
    /// TCP and TLS connections of a client address.
    pub connections_per_address: u32,
    /// TLS and DTLS handshakes under way.
    pub handshakes: u32,
    /// Seconds until a connection must have its handshake done and an allocation made.
    pub connection_setup_s: u32,
    /// Bytes that wait for a slow TCP or TLS client; then packets are dropped.
    pub connection_queue_bytes: u32,
}

impl Default for TurnLimits {
    fn default() -> Self {
        Self {
            allocations: 16_000,
            allocations_per_user: 12,
            allocations_per_address: 1_000,
            permissions: 64,
            channels: 64,
            new_peers_per_second: 20,
            bytes_per_second: 0,
            packets_per_second: 0,
            challenges_per_second: 20,
            connections: 8_192,
            connections_per_address: 1_000,
            handshakes: 512,
            connection_setup_s: 10,
            connection_queue_bytes: 512 * 1024,
        }
    }
}

/// Probes, metrics and drain over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TurnAdminConfig {
    /// Address of the listener. Only loopback is safe without a firewall or a NetworkPolicy.
    pub listen: SocketAddr,
}

impl Default for TurnAdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9601) }
    }
}

/// Keeps what nobody set out of written files.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl TurnConfig {
    /// Reads and checks YAML; the error names the key that is wrong.
    ///
    /// # Errors
    ///
    /// With what is wrong.
    pub fn from_yaml(text: &str) -> Result<Self, String> {
        Self::from_yaml_in_pod(text, None)
    }

    /// The same in a pod of this address, which `relay.addresses` need not name.
    ///
    /// # Errors
    ///
    /// With what is wrong.
    pub fn from_yaml_in_pod(text: &str, pod_ip: Option<IpAddr>) -> Result<Self, String> {
        let mut config: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let addresses = &mut config.relay.addresses;
        if addresses.is_empty() {
            addresses.extend(pod_ip.map(|bind| RelayAddressConfig { bind, advertise: None }));
        }
        config.validate()?;
        Ok(config)
    }

    /// Writes YAML that [`Self::from_yaml`] reads.
    ///
    /// # Errors
    ///
    /// When a value has no form in YAML.
    pub fn to_yaml(&self) -> Result<String, String> {
        serde_saphyr::to_string(self).map_err(|error| error.to_string())
    }

    /// Checks what types cannot express.
    ///
    /// # Errors
    ///
    /// With the field and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        let ListenConfig { udp, tcp, tls, dtls } = &self.listen;
        if udp.is_empty() && tcp.is_empty() && tls.is_empty() && dtls.is_empty() {
            return Err("listen: at least one address of udp, tcp, tls or dtls is needed".into());
        }
        if self.tls.is_none() && !(tls.is_empty() && dtls.is_empty()) {
            return Err("tls: a certificate is needed for listen.tls and listen.dtls".into());
        }
        if self.realm.is_empty() || self.realm.chars().count() > 128 {
            return Err("realm: must have 1 to 128 characters".into());
        }
        if self.drain_timeout_s > 86_400 {
            return Err("drain_timeout_s: must be at most 86400".into());
        }
        if !(60..=86_400).contains(&self.credentials.nonce_life_s) {
            return Err("credentials.nonce_life_s: must be from 60 to 86400".into());
        }
        self.validate_relay()?;
        self.validate_peers()?;
        self.limits.validate()
    }

    fn validate_relay(&self) -> Result<(), String> {
        let RelayConfig { addresses, ports } = &self.relay;
        let of_family = |is_ipv4| addresses.iter().filter(|a| a.bind.is_ipv4() == is_ipv4).count();
        if addresses.is_empty() || of_family(true) > 1 || of_family(false) > 1 {
            return Err("relay.addresses: one or two are needed, one of a family".into());
        }
        for RelayAddressConfig { bind, advertise } in addresses {
            if advertise.is_some_and(|advertise| advertise.is_ipv4() != bind.is_ipv4()) {
                return Err("relay.addresses.advertise: must be of bind's family".into());
            }
            if advertise.unwrap_or(*bind).is_unspecified() {
                return Err("relay.addresses.advertise: clients need an address they can reach \
                            when bind is unspecified"
                    .into());
            }
        }
        if ports.first < 1024 || ports.last < ports.first {
            return Err("relay.ports: 1024 <= first <= last is needed".into());
        }
        Ok(())
    }

    fn validate_peers(&self) -> Result<(), String> {
        for rule in &self.peers.allow {
            if rule.ports.is_some_and(|ports| ports.first == 0 || ports.last < ports.first) {
                return Err("peers.allow.ports: 1 <= first <= last is needed".into());
            }
        }
        Ok(())
    }
}

impl TurnLimits {
    fn validate(&self) -> Result<(), String> {
        for (name, value) in [
            ("allocations", self.allocations),
            ("allocations_per_user", self.allocations_per_user),
            ("allocations_per_address", self.allocations_per_address),
            ("permissions", self.permissions),
            ("channels", self.channels),
            ("new_peers_per_second", self.new_peers_per_second),
            ("challenges_per_second", self.challenges_per_second),
            ("connections", self.connections),
            ("connections_per_address", self.connections_per_address),
            ("handshakes", self.handshakes),
            ("connection_setup_s", self.connection_setup_s),
        ] {
            if value == 0 {
                return Err(format!("limits.{name}: must be at least 1"));
            }
        }
        if self.connection_queue_bytes < 128 * 1024 {
            return Err(
                "limits.connection_queue_bytes: must be at least 131072, two packets".into()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "relay:\n  addresses:\n    - bind: 192.0.2.1\n";

    #[test]
    fn a_minimal_file_gets_the_defaults() {
        let config = TurnConfig::from_yaml(MINIMAL).unwrap();
        assert_eq!(config.listen.udp, ["0.0.0.0:3478".parse().unwrap()]);
        assert_eq!(config.relay.ports, RelayPorts { first: 49_152, last: 65_535 });
        assert!(config.peers.allow.is_empty(), "nobody is a peer by default");
        assert!(config.admin.listen.ip().is_loopback());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut config = TurnConfig::from_yaml(MINIMAL).unwrap();
        config.peers.allow.push(PeerRule {
            network: "10.0.0.0/8".parse().unwrap(),
            ports: Some(PeerPorts { first: 1, last: 2 }),
        });
        config.proxy_protocol.trusted.push("fd00::/8".parse().unwrap());
        assert_eq!(TurnConfig::from_yaml(&config.to_yaml().unwrap()).unwrap(), config);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (addition, name) in [
            ("prot: 1", "prot"),
            ("listen: {udp: [], tcp: []}", "listen"),
            ("listen: {tls: ['0.0.0.0:5349']}", "tls"),
            ("realm: ''", "realm"),
            ("drain_timeout_s: 86401", "drain_timeout_s"),
            ("credentials: {nonce_life_s: 1}", "credentials.nonce_life_s"),
            ("limits: {channels: 0}", "limits.channels"),
            ("limits: {connection_queue_bytes: 1}", "limits.connection_queue_bytes"),
            ("peers: {allow: [{network: 10.0.0.1/8}]}", "10.0.0.1/8"),
            ("peers: {allow: [{network: 10.0.0.0/33}]}", "10.0.0.0/33"),
            ("peers: {allow: [{network: 10.0.0.0/8, ports: {first: 0, last: 1}}]}", "peers.allow"),
        ] {
            let error = TurnConfig::from_yaml(&format!("{MINIMAL}{addition}\n")).unwrap_err();
            assert!(error.contains(name), "{addition}: {error}");
        }
        for relay in [
            "{addresses: []}",
            "{addresses: [{bind: 192.0.2.1}, {bind: 192.0.2.2}]}",
            "{addresses: [{bind: 0.0.0.0}]}",
            "{addresses: [{bind: 192.0.2.1, advertise: '::1'}]}",
            "{addresses: [{bind: 192.0.2.1}], ports: {first: 5, last: 4}}",
        ] {
            let error = TurnConfig::from_yaml(&format!("relay: {relay}\n")).unwrap_err();
            assert!(error.contains("relay."), "{relay}: {error}");
        }
    }

    #[test]
    fn a_pod_relays_from_its_own_address_unless_told_otherwise() {
        let pod = |text: &str| {
            let config = TurnConfig::from_yaml_in_pod(text, Some([10, 1, 2, 3].into())).unwrap();
            config.relay.addresses.iter().map(|address| address.bind).collect::<Vec<_>>()
        };
        assert_eq!(pod("realm: r\n"), [IpAddr::from([10, 1, 2, 3])]);
        assert_eq!(pod(MINIMAL), [IpAddr::from([192, 0, 2, 1])]);
    }

    #[test]
    fn the_peers_file_is_what_the_media_node_writes() {
        let text = r#"{"peers":[{"advertised":"203.0.113.5","local":"10.1.2.3","ports":[20000]}]}"#;
        let file = PeersFile::from_json(text).unwrap();
        assert_eq!(file.peers[0].ports, [20_000]);
        assert_eq!(serde_json::to_string(&file).unwrap(), text);
        assert!(PeersFile::from_json(r#"{"peer":[]}"#).is_err());
    }
}
