//! The TURN server beside this node: what clients are told of it, and which peers it is told.
//!
//! Any server of the cluster passes data on to any media node of the cluster, since clients that
//! come by TLS get whichever server the load balancer picks.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use contract::ids::ParticipantSid;
use contract::redis::{MediaAddresses, NODE_RENEWAL};
use contract::sfu_config::TurnAccessConfig;
use contract::turn_config::{MediaPeer, PeersFile};
use livekit_protocol::IceServer;
use sfu_core::room::IceServers;

use crate::keys::Keys;
use crate::node::Node;
use crate::settings::Settings;

/// Makes the ICE servers of a participant.
#[derive(Clone)]
pub struct TurnAccess {
    /// What the server is and where.
    pub settings: Arc<Settings>,
    /// What credentials are made from.
    pub keys: Arc<Keys>,
}

impl std::fmt::Debug for TurnAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TurnAccess").finish_non_exhaustive()
    }
}

impl IceServers for TurnAccess {
    fn servers_for(&self, participant: &ParticipantSid, unix_s: u64) -> Vec<IceServer> {
        let mut servers = self.settings.ice_servers.clone();
        let Some(config) = &self.settings.config.turn else { return servers };
        let settings = &self.settings;
        let name = settings.turn_name.as_deref();
        let urls = urls(config, &settings.public_addresses(), settings.turn_port, name);
        let expiry_s = unix_s + u64::from(config.credentials_life_s);
        let credentials = self.keys.turn_credentials(participant.as_str(), expiry_s);
        if let Some(made) = credentials.filter(|_| !urls.is_empty()) {
            servers.push(IceServer { urls, username: made.username, credential: made.password });
        }
        servers
    }
}

/// The URLs of the server (RFC 7065), cheapest transport first, and by TLS the server beside this node
/// before any.
fn urls(
    config: &TurnAccessConfig,
    addresses: &[IpAddr],
    port: Option<u16>,
    name: Option<&str>,
) -> Vec<String> {
    let transports = [("udp", config.udp), ("tcp", config.tcp)];
    let direct = transports.into_iter().filter(|(_, is_open)| *is_open).flat_map(|(name, _)| {
        addresses.iter().filter_map(move |ip| {
            Some(format!("turn:{}?transport={name}", SocketAddr::new(*ip, port?)))
        })
    });
    let tls = config.tls.iter().flat_map(|tls| {
        let names = name.into_iter().chain([tls.domain.as_str()]);
        names.map(|name| format!("turns:{name}:{}?transport=tcp", tls.port))
    });
    direct.chain(tls).collect()
}

/// Keeps the file of the TURN server's peers up to date, for the life of the node.
pub async fn tell_peers(node: &Node) {
    let turn = node.settings.config.turn.as_ref();
    let Some(path) = turn.and_then(|turn| turn.peers_file.as_ref()) else { return };
    let mut ticks = tokio::time::interval(NODE_RENEWAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut written = None;
    let mut has_failed = false;
    loop {
        ticks.tick().await;
        let peers = peers(node);
        if written.as_ref() == Some(&peers) {
            continue;
        }
        match write(path, &peers).await {
            Ok(()) => {
                tracing::debug!(peers = peers.peers.len(), "The TURN server was told its peers");
                (written, has_failed) = (Some(peers), false);
            }
            Err(error) if !has_failed => {
                tracing::error!(path = %path.display(), %error, "Peers of TURN not written");
                has_failed = true;
            }
            Err(_) => {}
        }
    }
}

/// The media ports of the living nodes; those of this node whether it has a lease or not.
fn peers(node: &Node) -> PeersFile {
    let own = node.placement.node_id();
    let mut peers = media_peers(node.settings.pod_ip, &node.media_addresses());
    for other in node.placement.nodes() {
        if other.record.id != own {
            peers.extend(media_peers(other.record.address.ip(), &other.record.media));
        }
    }
    PeersFile { peers }
}

fn media_peers(local: IpAddr, media: &MediaAddresses) -> Vec<MediaPeer> {
    let MediaAddresses { advertised, ports } = media;
    let peer =
        |advertised: &IpAddr| MediaPeer { advertised: *advertised, local, ports: ports.clone() };
    // A relay reaches addresses of its own family only.
    advertised.iter().filter(|ip| ip.is_ipv4() == local.is_ipv4()).map(peer).collect()
}

/// Puts a whole file in the place of the old one.
async fn write(path: &Path, peers: &PeersFile) -> std::io::Result<()> {
    let new = path.with_extension("new");
    tokio::fs::write(&new, serde_json::to_vec(peers)?).await?;
    tokio::fs::rename(&new, path).await
}

#[cfg(test)]
mod tests {
    use contract::sfu_config::TurnTlsAccess;

    use super::*;

    #[test]
    fn urls_name_what_clients_reach() {
        let addresses: Vec<IpAddr> =
            ["203.0.113.5", "2001:db8::5"].map(|ip| ip.parse().unwrap()).into();
        let all = TurnAccessConfig::default();
        let expected = [
            "turn:203.0.113.5:20003?transport=udp",
            "turn:[2001:db8::5]:20003?transport=udp",
            "turn:203.0.113.5:20003?transport=tcp",
            "turn:[2001:db8::5]:20003?transport=tcp",
        ];
        assert_eq!(urls(&all, &addresses, Some(20_003), None), expected);
        let domain = "turn.example.com".to_owned();
        let tls = TurnTlsAccess { domain, port: 443, per_node: true };
        let own = tls.node_domain(7);
        let only_tls = TurnAccessConfig { udp: false, tcp: false, tls: Some(tls), ..all };
        let expected = ["turns:turn.example.com:443?transport=tcp"];
        assert_eq!(urls(&only_tls, &addresses, None, None), expected);
        let expected = [
            "turns:node-7.turn.example.com:443?transport=tcp",
            "turns:turn.example.com:443?transport=tcp",
        ];
        assert_eq!(urls(&only_tls, &addresses, None, Some(&own)), expected);
    }

    #[test]
    fn peers_are_behind_what_they_advertise_in_the_family_of_the_relay() {
        let media = MediaAddresses {
            advertised: ["203.0.113.5", "2001:db8::5"].map(|ip| ip.parse().unwrap()).into(),
            ports: vec![20_001, 20_002],
        };
        let expected = MediaPeer {
            advertised: "203.0.113.5".parse().unwrap(),
            local: "10.1.2.3".parse().unwrap(),
            ports: vec![20_001, 20_002],
        };
        assert_eq!(media_peers("10.1.2.3".parse().unwrap(), &media), [expected]);
    }
}
