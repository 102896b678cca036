//! The TURN server beside every media node.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SECRET_NAME;
use super::node::Resources;
use super::turn_route::TurnRoute;

/// The TURN server beside every media node: the way in for clients whose network lets nothing
/// through to media ports. Clients get its addresses and credentials when they join.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.enabled || self.udp || self.tcp || has(self.tls)")
        .message("spec.turn must have at least one of udp, tcp and tls, or enabled: false"),
    validation = Rule::new("!has(self.port) || self.udp || self.tcp")
        .message("spec.turn.port is the port of udp and tcp, which are both false")
)]
pub struct TurnSpec {
    /// Run it.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Image of the TURN server; the operator's own release when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("!self.matches('[[:space:]]')")
        .message("spec.turn.image must be an image reference without spaces"))]
    pub image: Option<String>,
    /// Clients reach it by UDP at a port of the Kubernetes node.
    #[serde(default = "yes")]
    pub udp: bool,
    /// Clients reach it by TCP at the same port.
    #[serde(default = "yes")]
    pub tcp: bool,
    /// The same port on every Kubernetes node, such as 3478, in place of one of `spec.media.ports`
    /// for each media node. A Kubernetes node then takes one media node only, and one more than
    /// `spec.nodes` must be there while media nodes are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    #[schemars(extend("format" = "int32"))]
    pub port: Option<u16>,
    /// Clients reach it by TLS at one address for the whole cluster, port 443: what a network lets
    /// through that lets the web through. Off when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TurnTls>,
    /// What a client may use.
    #[serde(default)]
    pub limits: TurnLimits,
    /// CPU and memory of the TURN server. Of what has neither a request nor a limit, 50m and 64Mi are
    /// requested. Without a CPU limit bursts are not throttled.
    #[serde(default)]
    pub resources: Resources,
}

impl Default for TurnSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            image: None,
            udp: true,
            tcp: true,
            port: None,
            tls: None,
            limits: TurnLimits::default(),
            resources: Resources::default(),
        }
    }
}

fn yes() -> bool {
    true
}

/// TURN by TLS. Any media node serves any client: the Service may lead to all of them.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.service.type != 'NodePort' || self.port != 443")
        .message("spec.turn.tls.port is the node port where service.type is NodePort: give one of the Kubernetes cluster's range, usually 30000 to 32767"),
    validation = Rule::new("!has(self.route) || !self.route.perNode || size(self.domain) <= 240")
        .message("spec.turn.tls.domain must have at most 240 characters with route.perNode: names of nodes are put in front of it")
)]
pub struct TurnTls {
    /// DNS name in the certificate, such as `turn.live.example.com`; it leads to the Service.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)+$') && !isIP(self)")
        .message("spec.turn.tls.domain must be a DNS name in lower case without scheme, port or path, such as turn.live.example.com"))]
    pub domain: String,
    /// Secret of type `kubernetes.io/tls` with the certificate of the domain. A renewed one is
    /// used for new connections, the others go on.
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_NAME))]
    pub secret_name: String,
    /// Port that clients connect to.
    #[serde(default = "default_tls_port")]
    #[schemars(range(min = 1, max = 65535))]
    #[schemars(extend("format" = "int32"))]
    pub port: u16,
    /// The Service that leads to the TURN servers.
    #[serde(default)]
    pub service: TurnService,
    /// Leads connections with this name from the ingress controller's or gateway's port to the
    /// Service. Made by yourself, or not needed, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<TurnRoute>,
    /// Networks of load balancers that put a PROXY protocol header (version 2) in front, such as
    /// `10.0.0.0/8`: by it the server knows its clients. Connections from there without one are
    /// closed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 43)))]
    #[x_kube(validation = Rule::new("self.all(n, isCIDR(n) && cidr(n).masked() == cidr(n))")
        .message("spec.turn.tls.proxyProtocol must be networks such as 10.0.0.0/8, without bits behind the prefix"))]
    pub proxy_protocol: Vec<String>,
}

fn default_tls_port() -> u16 {
    443
}

/// The Service of TURN by TLS.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type != 'ClusterIP' || self.externalTrafficPolicy == 'Cluster'")
    .message("spec.turn.tls.service.externalTrafficPolicy is for the types NodePort and LoadBalancer only"))]
pub struct TurnService {
    /// `ClusterIP` for an ingress controller or gateway that passes TLS on by name, `LoadBalancer`
    /// for an address of its own, `NodePort` for a port of every Kubernetes node.
    #[serde(default, rename = "type")]
    pub kind: TurnServiceType,
    /// `Local` keeps the clients' addresses, and leads to media nodes of the Kubernetes node that
    /// the connection came in by; `Cluster` leads to all.
    #[serde(default)]
    pub external_traffic_policy: ExternalTrafficPolicy,
    /// Annotations for whoever makes load balancers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
}

/// How a Service is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TurnServiceType {
    /// From within the Kubernetes cluster.
    #[default]
    ClusterIP,
    /// By a port of every Kubernetes node.
    NodePort,
    /// By an address of its own.
    LoadBalancer,
}

impl TurnServiceType {
    /// The word of the Kubernetes API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// Whom connections from outside reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExternalTrafficPolicy {
    /// Every media node.
    #[default]
    Cluster,
    /// Media nodes of the Kubernetes node where they come in.
    Local,
}

impl ExternalTrafficPolicy {
    /// The word of the Kubernetes API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        }
    }
}

/// What clients of one TURN server may use. The server has further limits with fixed values.
#[derive(KubeSchema, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TurnLimits {
    /// Allocations of the server.
    #[serde(default = "default_allocations")]
    #[schemars(range(min = 1, max = 1_000_000))]
    #[schemars(extend("format" = "int32"))]
    pub allocations: u32,
    /// Allocations of a participant.
    #[serde(default = "default_allocations_per_participant")]
    #[schemars(range(min = 1, max = 1000))]
    #[schemars(extend("format" = "int32"))]
    pub allocations_per_participant: u32,
    /// Allocations of a client address, which many clients share behind NAT.
    #[serde(default = "default_allocations_per_address")]
    #[schemars(range(min = 1, max = 1_000_000))]
    #[schemars(extend("format" = "int32"))]
    pub allocations_per_address: u32,
    /// Bytes a second of an allocation, both directions; more is dropped. 0 is no limit.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    #[schemars(extend("format" = "int32"))]
    pub bytes_per_second: u32,
    /// Packets a second of an allocation, both directions; more is dropped. 0 is no limit.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    #[schemars(extend("format" = "int32"))]
    pub packets_per_second: u32,
}

fn default_allocations() -> u32 {
    16_000
}

/// Two peer connections, each by several transports, and again while a network changes.
fn default_allocations_per_participant() -> u32 {
    24
}

fn default_allocations_per_address() -> u32 {
    1000
}

impl Default for TurnLimits {
    fn default() -> Self {
        Self {
            allocations: default_allocations(),
            allocations_per_participant: default_allocations_per_participant(),
            allocations_per_address: default_allocations_per_address(),
            bytes_per_second: 0,
            packets_per_second: 0,
        }
    }
}
