//! The configuration of the TURN server (`turn-server`): the operator, or the administrator of
//! a machine, writes it; the program reads it with `--config FILE`. Unknown keys are an error
//! that names them, and so is a value that cannot work.

mod credentials;
mod limits;
mod listen;
mod network;
mod peers;
mod relay;

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::sfu_config::LogConfig;

pub use credentials::CredentialsConfig;
pub use limits::TurnLimits;
pub use listen::{ListenConfig, ProxyProtocolConfig, TlsConfig, TurnAdminConfig};
pub use network::{Network, NetworkError};
pub use peers::{MediaPeer, PeerPorts, PeerRule, PeersConfig, PeersFile};
pub use relay::{RelayAddressConfig, RelayConfig, RelayPorts};

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
    /// Name that the certificate of `alternate_server` has (ALTERNATE-DOMAIN, RFC 8489 section
    /// 14.16), for clients that come by TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alternate_domain: Option<String>,
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
        self.listen.validate(self.tls.is_some())?;
        if self.realm.is_empty() || self.realm.chars().count() > 128 {
            return Err("realm: must have 1 to 128 characters".into());
        }
        if self.drain_timeout_s > 86_400 {
            return Err("drain_timeout_s: must be at most 86400".into());
        }
        if let Some(domain) = &self.alternate_domain {
            let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
            if !(1..=255).contains(&domain.len()) || !domain.bytes().all(is_of_name) {
                return Err("alternate_domain: must be a host name of 1 to 255 bytes".into());
            }
            if self.alternate_server.is_none() {
                return Err("alternate_domain: needs alternate_server".into());
            }
        }
        self.credentials.validate()?;
        self.relay.validate()?;
        self.peers.validate()?;
        self.limits.validate()
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
            ("alternate_domain: turn.example.com", "alternate_server"),
            ("alternate_server: '192.0.2.2:3478'\nalternate_domain: a b", "alternate_domain"),
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
}
