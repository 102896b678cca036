//! Where clients and administrators reach the TURN server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Network;

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

impl ListenConfig {
    pub(super) fn validate(&self, has_certificate: bool) -> Result<(), String> {
        let Self { udp, tcp, tls, dtls } = self;
        if udp.is_empty() && tcp.is_empty() && tls.is_empty() && dtls.is_empty() {
            return Err("listen: at least one address of udp, tcp, tls or dtls is needed".into());
        }
        let needs_certificate = !tls.is_empty() || !dtls.is_empty();
        if needs_certificate && !has_certificate {
            return Err("tls: a certificate is needed for listen.tls and listen.dtls".into());
        }
        Ok(())
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
