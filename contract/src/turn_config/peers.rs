//! Where data may go.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Network, is_default};

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

impl PeersConfig {
    pub(super) fn validate(&self) -> Result<(), String> {
        for rule in &self.allow {
            if rule.ports.is_some_and(|ports| ports.first == 0 || ports.last < ports.first) {
                return Err("peers.allow.ports: 1 <= first <= last is needed".into());
            }
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peers_file_is_what_the_media_node_writes() {
        let text = r#"{"peers":[{"advertised":"203.0.113.5","local":"10.1.2.3","ports":[20000]}]}"#;
        let file = PeersFile::from_json(text).unwrap();
        assert_eq!(file.peers[0].ports, [20_000]);
        assert_eq!(serde_json::to_string(&file).unwrap(), text);
        assert!(PeersFile::from_json(r#"{"peer":[]}"#).is_err());
    }
}
