//! How media packets reach the nodes.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Ports that a media pod listens on besides media: TURN, TURN by TLS, signalling, ICE-TCP of a
/// lone node, pod to pod, administration of both programs. No media port may be one of them.
pub const RESERVED_PORTS: [u16; 7] = [3478, 5349, 7880, 7881, 7890, 9600, 9601];

/// How media packets reach the nodes.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.service) || !has(self.service.annotations) || self.exposure in ['NodePort', 'LoadBalancer']")
        .message("spec.media.service is for spec.media.exposure: NodePort and LoadBalancer only")
)]
pub struct MediaSpec {
    /// `HostPort`: ports of the Kubernetes node lead to the media node. The namespace must allow
    /// it (label `pod-security.kubernetes.io/enforce: privileged`, where pod security is
    /// enforced), and a firewall must let the ports through. `HostNetwork`: media nodes have the
    /// network of their Kubernetes node, which saves a step for each packet; one on each at most,
    /// and one Kubernetes node must be free while they are replaced. `NodePort`: a Service for
    /// each media node, whose node ports have the numbers of `spec.media.ports`; these must be
    /// node ports of the Kubernetes cluster, usually 30000 to 32767. `LoadBalancer`: a Service
    /// with a load balancer for each media node. `TurnOnly`: no media port is open, clients come
    /// in by `spec.turn` alone; with `udp: false`, `tcp: false` and `tls` no port of a Kubernetes
    /// node is used at all.
    #[serde(default)]
    pub exposure: Exposure,
    /// Ports for media. A media node takes one for each worker (UDP), one for ICE over TCP and one
    /// for TURN.
    /// LiveClusters that share Kubernetes nodes do best with ranges of their own: where a port is
    /// taken, Kubernetes places no second pod that wants it.
    #[serde(default)]
    pub ports: PortRange,
    /// Accept media over TCP, for clients whose network lets no UDP through.
    #[serde(default = "default_tcp")]
    pub tcp: bool,
    /// The Services of `NodePort` and `LoadBalancer`.
    #[serde(default)]
    pub service: MediaService,
}

/// The Service of each media node.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaService {
    /// Annotations for who makes the load balancer, or for external-dns.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
}

fn default_tcp() -> bool {
    true
}

impl Default for MediaSpec {
    fn default() -> Self {
        Self {
            exposure: Exposure::default(),
            ports: PortRange::default(),
            tcp: default_tcp(),
            service: MediaService::default(),
        }
    }
}

/// How media packets reach the nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Exposure {
    /// By ports of the Kubernetes node.
    #[default]
    HostPort,
    /// In the network of the Kubernetes node.
    HostNetwork,
    /// By a Service for each media node, at ports of its Kubernetes node.
    NodePort,
    /// By a Service for each media node, with a load balancer.
    LoadBalancer,
    /// By TURN alone.
    TurnOnly,
}

/// Consecutive ports.
#[derive(KubeSchema, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.first + self.count <= 65536")
        .message("spec.media.ports must end at 65535 or below: first + count - 1 <= 65535"),
    validation = Rule::new("[3478, 5349, 7880, 7881, 7890, 9600, 9601].all(p, p < self.first || p >= self.first + self.count)")
        .message("spec.media.ports must not contain 3478, 5349, 7880, 7881, 7890, 9600 or 9601, which media pods use for TURN, signalling and administration")
)]
pub struct PortRange {
    /// The first port.
    #[serde(default = "default_first")]
    #[schemars(range(min = 1024, max = 65535))]
    #[schemars(extend("format" = "int32"))]
    pub first: u16,
    /// How many ports; enough for every node and one more while nodes are replaced.
    #[serde(default = "default_count")]
    #[schemars(range(min = 6, max = 49152))]
    #[schemars(extend("format" = "int32"))]
    pub count: u16,
}

fn default_first() -> u16 {
    20_000
}

fn default_count() -> u16 {
    1000
}

impl Default for PortRange {
    fn default() -> Self {
        Self { first: default_first(), count: default_count() }
    }
}
