//! Who may reach the pods, and whom they may reach: a NetworkPolicy for media nodes and one for the
//! managed Redis. Each isolates its pods in both directions and names the exceptions.
//!
//! What the world may use is open to every address, without a selector: none can name an ingress
//! controller on the network of its Kubernetes node, or a load balancer in front of it. Names of
//! hosts cannot be written either: where a pod goes by name, the port is what is let through.

use std::collections::BTreeSet;

use axum::http::Uri;
use crds::live_cluster::{Exposure, ExternalRedis, RedisMode};
use crds::names::{self, component};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{config, metadata, node, redis, selector, service, turn};
use crate::cluster::validate::{ValidCluster, ValidRedis};

/// Ports of DNS servers; rules see a pod's own port, which is another where it may not bind 53.
const DNS: [u16; 3] = [53, 5353, 8053];

/// The NetworkPolicies of a cluster; none where the specification wants none.
pub fn policies(valid: &ValidCluster) -> Vec<NetworkPolicy> {
    if !valid.spec.network_policy.enabled {
        return Vec::new();
    }
    // In the network of a Kubernetes node no policy holds.
    let mut policies = if is_on_host(valid) { Vec::new() } else { vec![media_nodes(valid)] };
    match &valid.redis {
        ValidRedis::Managed { .. } => policies.push(managed_redis(valid)),
        ValidRedis::External(_) => {}
    }
    policies
}

fn media_nodes(valid: &ValidCluster) -> NetworkPolicy {
    let mut ingress = vec![from(everybody(), ports_of_clients(valid))];
    ingress.extend([
        from(our(valid, component::NODE), ports_among_nodes(valid)),
        // Prometheus and the operator.
        from(every_pod(), admin_ports(valid)),
    ]);
    let name = names::node_policy(&valid.name);
    policy(valid, name, component::NODE, ingress, ways_out(valid))
}

/// Media nodes have the network of their Kubernetes nodes, which no selector names.
fn is_on_host(valid: &ValidCluster) -> bool {
    valid.spec.media.exposure == Exposure::HostNetwork
}

/// Redis connects to nobody. Its password is what keeps others out where no selector can.
fn managed_redis(valid: &ValidCluster) -> NetworkPolicy {
    let users = if is_on_host(valid) { everybody() } else { our(valid, component::NODE) };
    let ingress = vec![from(users, vec![tcp(redis::PORT)])];
    policy(valid, names::redis(&valid.name), component::REDIS, ingress, Vec::new())
}

/// Signalling, which everybody sees at the domain, and media by every way that is open.
fn ports_of_clients(valid: &ValidCluster) -> Vec<NetworkPolicyPort> {
    let mut ports = vec![tcp(service::HTTP_PORT)];
    if valid.media_config().direct {
        ports.extend(media_ports(valid));
    }
    let spec = &valid.spec.turn;
    if valid.turn.is_some() {
        ports.extend(spec.udp.then(|| udp(turn::PORT)));
        ports.extend(spec.tcp.then(|| tcp(turn::PORT)));
        ports.extend(spec.tls.as_ref().map(|_| tcp(turn::TLS_PORT)));
    }
    ports
}

/// Requests between media nodes, and what passes between a TURN server and the others' media ports.
fn ports_among_nodes(valid: &ValidCluster) -> Vec<NetworkPolicyPort> {
    let mut ports = vec![tcp(config::PEER_PORT)];
    if valid.turn.is_some() {
        ports.extend(media_ports(valid));
        let relays = turn::relay_ports(valid.spec.media.ports);
        ports.push(range("UDP", relays.first, relays.last));
    }
    ports
}

fn media_ports(valid: &ValidCluster) -> Vec<NetworkPolicyPort> {
    let media = &valid.spec.media;
    let first = media.ports.first;
    let last = first.saturating_add(media.ports.count.saturating_sub(1));
    let mut ports = vec![range("UDP", first, last)];
    ports.extend(media.tcp.then(|| range("TCP", first, last)));
    ports
}

fn admin_ports(valid: &ValidCluster) -> Vec<NetworkPolicyPort> {
    let mut ports = vec![tcp(node::ADMIN_PORT)];
    ports.extend(valid.turn.as_ref().map(|_| tcp(turn::ADMIN_PORT)));
    ports
}

/// Where media nodes and the TURN servers beside them go. They use no Kubernetes API.
fn ways_out(valid: &ValidCluster) -> Vec<NetworkPolicyEgressRule> {
    let dns = DNS.into_iter().flat_map(|port| [udp(port), tcp(port)]).collect();
    let mut rules =
        vec![to(everybody(), dns), to(our(valid, component::NODE), ports_among_nodes(valid))];
    let relays_by_udp = valid.turn.is_some() && valid.spec.turn.udp;
    if valid.media_config().direct || relays_by_udp {
        // Clients have any address and port.
        rules.push(to(everybody(), vec![any("UDP")]));
    }
    let mut by_name = webhook_ports(&valid.spec.webhooks.urls);
    match &valid.redis {
        ValidRedis::Managed { .. } => {
            rules.push(to(our(valid, component::REDIS), vec![tcp(redis::PORT)]));
        }
        ValidRedis::External(external) => match external.mode {
            RedisMode::Standalone => by_name.extend(redis_ports(external)),
            RedisMode::Sentinel | RedisMode::Cluster => {
                // Only those that are asked know the ports of those that they name.
                rules.push(to(everybody(), vec![any("TCP")]));
            }
        },
    }
    if !by_name.is_empty() {
        rules.push(to(everybody(), by_name.into_iter().map(tcp).collect()));
        // A Service may lead to another port of its pods, which is what rules see.
        rules.push(to(every_pod(), vec![any("TCP")]));
    }
    rules
}

fn webhook_ports(urls: &[String]) -> BTreeSet<u16> {
    let port = |url: &String| {
        let uri: Uri = url.parse().ok()?;
        let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        Some(uri.port_u16().unwrap_or(usual))
    };
    urls.iter().filter_map(port).collect()
}

fn redis_ports(external: &ExternalRedis) -> BTreeSet<u16> {
    let port = |address: &String| address.rsplit_once(':')?.1.parse().ok();
    external.addresses.iter().filter_map(port).collect()
}

fn policy(
    valid: &ValidCluster,
    name: String,
    part: &str,
    ingress: Vec<NetworkPolicyIngressRule>,
    egress: Vec<NetworkPolicyEgressRule>,
) -> NetworkPolicy {
    NetworkPolicy {
        metadata: metadata(valid, name, part),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(labelled(valid, part)),
            // What is named here and has no rule is refused.
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            // The API server stores no empty list: each apply of one would be a change.
            ingress: (!ingress.is_empty()).then_some(ingress),
            egress: (!egress.is_empty()).then_some(egress),
        }),
    }
}

fn labelled(valid: &ValidCluster, part: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(selector(&valid.name, part)), ..LabelSelector::default() }
}

type Peers = Option<Vec<NetworkPolicyPeer>>;

fn everybody() -> Peers {
    None
}

/// Pods of a part of this cluster.
fn our(valid: &ValidCluster, part: &str) -> Peers {
    let pod_selector = Some(labelled(valid, part));
    Some(vec![NetworkPolicyPeer { pod_selector, ..NetworkPolicyPeer::default() }])
}

/// Pods of all namespaces.
fn every_pod() -> Peers {
    let namespace_selector = Some(LabelSelector::default());
    Some(vec![NetworkPolicyPeer { namespace_selector, ..NetworkPolicyPeer::default() }])
}

fn from(from: Peers, ports: Vec<NetworkPolicyPort>) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule { from, ports: Some(ports) }
}

fn to(to: Peers, ports: Vec<NetworkPolicyPort>) -> NetworkPolicyEgressRule {
    NetworkPolicyEgressRule { to, ports: Some(ports) }
}

fn tcp(port: u16) -> NetworkPolicyPort {
    range("TCP", port, port)
}

fn udp(port: u16) -> NetworkPolicyPort {
    range("UDP", port, port)
}

/// Every port.
fn any(protocol: &str) -> NetworkPolicyPort {
    NetworkPolicyPort { protocol: Some(protocol.to_owned()), ..NetworkPolicyPort::default() }
}

/// Ports from the first to the last.
fn range(protocol: &str, first: u16, last: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.to_owned()),
        port: Some(IntOrString::Int(first.into())),
        end_port: (first < last).then_some(last.into()),
    }
}

#[cfg(test)]
mod tests;
