//! The TURN server beside every media node: a native sidecar, its configuration and its Service.
//!
//! It has no part in the pod's readiness: should it fail, those who come by it are cut off, and
//! nobody else. It starts before the media node and ends after it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use contract::sfu_config::{LogConfig, TurnAccessConfig};
use contract::turn_config::{
    CredentialsConfig, ListenConfig, Network, PeersConfig, ProxyProtocolConfig, RelayConfig,
    RelayPorts, TlsConfig, TurnAdminConfig, TurnConfig, TurnLimits, env,
};
use crds::live_cluster::{Exposure, PortRange, TurnTls};
use crds::names::{self, component};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EmptyDirVolumeSource, Service, ServicePort, ServiceSpec, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::config::{DIRECTORY, KEYS, file};
use super::node::{container_security, from_field, port, probe, requirements};
use super::{BuildError, metadata, route, selector, volume};
use crate::cluster::validate::{ValidCluster, ValidTurn};

/// Name of the container.
pub const CONTAINER: &str = "turn";
/// Entry of the ConfigMap, and the file in [`DIRECTORY`].
pub const CONFIG: &str = "turn.yaml";
/// File of the keys of nonces.
pub const NONCE_KEYS: &str = "nonce/keys";
/// Directory of the certificate.
pub const TLS: &str = "tls";
/// Port of UDP and TCP.
pub const PORT: u16 = 3478;
/// Port of TLS.
pub const TLS_PORT: u16 = 5349;
/// Port of probes and metrics.
pub const ADMIN_PORT: u16 = 9601;
const ADMIN: &str = "turn-admin";
/// Volume in which the media node tells the TURN server of its peers.
const PEERS: &str = "turn-peers";
/// Where that volume is, and the file in it.
const PEERS_DIRECTORY: &str = "/run/livecluster";
const PEERS_FILE: &str = "peers.json";
/// Seconds that allocations may go on after the media node beside it ended: those of clients
/// whose room is elsewhere. Short, since the pod's grace is the media node's first.
const DRAIN_SECONDS: u32 = 5;
/// Requested of what the specification says nothing about.
const REQUESTS: [(&str, &str); 2] = [("cpu", "50m"), ("memory", "64Mi")];
/// Below are the ports of our programs.
const FIRST_FREE_PORT: u16 = 10_000;

/// What media nodes tell their clients of it.
pub fn access(valid: &ValidCluster) -> Option<TurnAccessConfig> {
    valid.turn.as_ref()?;
    let turn = &valid.spec.turn;
    Some(TurnAccessConfig {
        udp: turn.udp,
        tcp: turn.tcp,
        port: access_port(valid),
        tls: turn.tls.as_ref().map(route::access),
        peers_file: Some(peers_file()),
        ..TurnAccessConfig::default()
    })
}

/// What every TURN server of the cluster reads.
pub fn turn_config(valid: &ValidCluster) -> Result<TurnConfig, BuildError> {
    let turn = &valid.spec.turn;
    let listen = |port| {
        let families = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
        families.map(|ip| SocketAddr::new(ip, port)).to_vec()
    };
    let listen_if = |is_open: bool, port| if is_open { listen(port) } else { Vec::new() };
    let tls = turn.tls.as_ref();
    let trusted: Result<Vec<Network>, _> =
        tls.into_iter().flat_map(|tls| &tls.proxy_protocol).map(|text| text.parse()).collect();
    let trusted = trusted.map_err(|error| BuildError::Config(format!("{error}")))?;
    let limits = turn.limits;
    Ok(TurnConfig {
        realm: valid.spec.domain.clone(),
        listen: ListenConfig {
            udp: listen_if(turn.udp, PORT),
            tcp: listen_if(turn.tcp, PORT),
            tls: listen_if(tls.is_some(), TLS_PORT),
            dtls: Vec::new(),
        },
        tls: tls.map(|_| TlsConfig {
            certificate_file: file(TLS).join("tls.crt"),
            key_file: file(TLS).join("tls.key"),
        }),
        proxy_protocol: ProxyProtocolConfig { trusted },
        relay: RelayConfig { addresses: Vec::new(), ports: relay_ports(valid.spec.media.ports) },
        credentials: CredentialsConfig {
            keys_file: Some(file(KEYS)),
            nonce_key_file: Some(file(NONCE_KEYS)),
            ..CredentialsConfig::default()
        },
        peers: PeersConfig {
            file: Some(peers_file()),
            // Clients of rooms learn by ICE that a media node is gone, and are of any age.
            hide_errors: true,
            ..PeersConfig::default()
        },
        limits: TurnLimits {
            allocations: limits.allocations,
            allocations_per_user: limits.allocations_per_participant,
            allocations_per_address: limits.allocations_per_address,
            bytes_per_second: limits.bytes_per_second.into(),
            packets_per_second: limits.packets_per_second,
            ..TurnLimits::default()
        },
        workers: valid.workers,
        alternate_server: None,
        alternate_domain: None,
        drain_timeout_s: DRAIN_SECONDS,
        // The kubelet and Prometheus come from outside the pod; no Service leads there.
        admin: TurnAdminConfig {
            listen: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), ADMIN_PORT),
        },
        log: LogConfig {
            level: valid.spec.log.level.as_str().to_owned(),
            format: valid.log_format(),
        },
    })
}

fn peers_file() -> PathBuf {
    PathBuf::from(PEERS_DIRECTORY).join(PEERS_FILE)
}

/// Relayed ports, none of which is a media port: those are in the same pod. What is usual (RFC
/// 8656 section 7.2) where it is free, else the larger gap.
pub fn relay_ports(media: PortRange) -> RelayPorts {
    let usual = RelayPorts::default();
    let last = media.first.saturating_add(media.count.saturating_sub(1));
    if last < usual.first {
        return usual;
    }
    let below = RelayPorts { first: FIRST_FREE_PORT, last: media.first.saturating_sub(1) };
    let above = RelayPorts { first: last.saturating_add(1), last: usual.last };
    let size = |ports: RelayPorts| ports.last.saturating_sub(ports.first);
    // Where media ends with the last port there is nothing above.
    if last == u16::MAX || size(below) > size(above) { below } else { above }
}

/// The sidecar.
pub fn container(valid: &ValidCluster, turn: &ValidTurn) -> Container {
    let spec = &valid.spec.turn;
    let mut ports = vec![port(ADMIN, ADMIN_PORT, "TCP", None)];
    ports.extend(spec.udp.then(|| port("turn", PORT, "UDP", None)));
    ports.extend(spec.tcp.then(|| port("turn-tcp", PORT, "TCP", None)));
    ports.extend(spec.tls.as_ref().map(|_| port("turn-tls", TLS_PORT, "TCP", None)));
    Container {
        name: CONTAINER.to_owned(),
        image: Some(turn.image.clone()),
        image_pull_policy: Some(valid.spec.node.image_pull_policy.as_str().to_owned()),
        args: Some(vec!["--config".to_owned(), format!("{DIRECTORY}/{CONFIG}")]),
        env: Some(vec![from_field(env::POD_IP, "status.podIP")]),
        ports: Some(ports),
        // Among the containers that end, it ends after those that it serves.
        restart_policy: Some("Always".to_owned()),
        startup_probe: Some(probe("/healthz", ADMIN, 1, 60)),
        liveness_probe: Some(probe("/healthz", ADMIN, 10, 3)),
        resources: Some(requirements(&spec.resources, REQUESTS)),
        security_context: Some(container_security()),
        volume_mounts: Some(vec![
            VolumeMount {
                name: volume::TURN_FILES.to_owned(),
                mount_path: DIRECTORY.to_owned(),
                read_only: Some(true),
                ..VolumeMount::default()
            },
            VolumeMount { read_only: Some(true), ..peers_mount() },
        ]),
        ..Container::default()
    }
}

/// The port of UDP and TCP that clients are told; that of the slot when absent.
fn access_port(valid: &ValidCluster) -> Option<u16> {
    match valid.spec.media.exposure {
        // What the server listens on.
        Exposure::HostNetwork => Some(PORT),
        Exposure::HostPort | Exposure::NodePort | Exposure::LoadBalancer | Exposure::TurnOnly => {
            valid.spec.turn.port
        }
    }
}

/// The same for a slot.
pub fn outer_port(valid: &ValidCluster, slot: u16) -> Option<u16> {
    access_port(valid).or_else(|| valid.media_config().turn_port(slot))
}

/// Ports of the Kubernetes node that lead to the sidecar. They are written at the media node's
/// container: the kubelet opens none for sidecars, and all containers of a pod share its network.
pub fn host_ports(valid: &ValidCluster, slot: u16) -> Vec<ContainerPort> {
    let spec = &valid.spec.turn;
    let on_host = match valid.spec.media.exposure {
        Exposure::HostPort | Exposure::TurnOnly => outer_port(valid, slot),
        Exposure::HostNetwork | Exposure::NodePort | Exposure::LoadBalancer => None,
    };
    if valid.turn.is_none() || on_host.is_none() {
        return Vec::new();
    }
    let udp = spec.udp.then(|| port("turn-host", PORT, "UDP", on_host));
    let tcp = spec.tcp.then(|| port("turn-host-tcp", PORT, "TCP", on_host));
    udp.into_iter().chain(tcp).collect()
}

/// Where the media node writes and the sidecar reads.
pub fn peers_mount() -> VolumeMount {
    VolumeMount {
        name: PEERS.to_owned(),
        mount_path: PEERS_DIRECTORY.to_owned(),
        ..VolumeMount::default()
    }
}

/// The volume of the peers: a few KiB in memory.
pub fn peers_volume() -> Volume {
    Volume {
        name: PEERS.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: Some("Memory".to_owned()),
            size_limit: Some(Quantity("4Mi".to_owned())),
        }),
        ..Volume::default()
    }
}

/// The Service for TURN by TLS. Connections stay with the server that took them, whatever becomes
/// of the Service's list of pods.
pub fn service(valid: &ValidCluster, tls: &TurnTls) -> Service {
    let mut metadata = metadata(valid, names::turn(&valid.name), component::NODE);
    let TurnTls { domain: _, secret_name: _, port, service, route: _, proxy_protocol: _ } = tls;
    metadata.annotations = (!service.annotations.is_empty()).then(|| service.annotations.clone());
    let mut selector = selector(&valid.name, component::NODE);
    selector.insert(names::PLACEMENT.to_owned(), names::OPEN.to_owned());
    let kind = service.kind.as_str();
    let is_outside = kind != "ClusterIP";
    let is_node_port = kind == "NodePort";
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(kind.to_owned()),
            external_traffic_policy: is_outside
                .then(|| service.external_traffic_policy.as_str().to_owned()),
            selector: Some(selector),
            ports: Some(vec![ServicePort {
                name: Some("turn-tls".to_owned()),
                port: i32::from(*port),
                node_port: is_node_port.then_some(i32::from(*port)),
                // Names of ports are looked up among the containers that are no sidecars.
                target_port: Some(IntOrString::Int(i32::from(TLS_PORT))),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_and_media_have_ports_of_their_own() {
        for (first, count, expected) in [
            (20_000, 1000, (49_152, 65_535)),
            (49_000, 152, (49_152, 65_535)),
            (49_000, 153, (10_000, 48_999)),
            (50_000, 1000, (10_000, 49_999)),
            (65_530, 6, (10_000, 65_529)),
            (11_000, 49_000, (60_000, 65_535)),
            (16_384, 49_152, (10_000, 16_383)),
            (1024, 49_152, (50_176, 65_535)),
        ] {
            let ports = relay_ports(PortRange { first, count });
            assert_eq!((ports.first, ports.last), expected, "{first} {count}");
        }
    }
}
