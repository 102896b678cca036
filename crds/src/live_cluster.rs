//! The resource `LiveCluster` and its `spec`.
//!
//! Defaults are in the schema, so that `kubectl get -o yaml` shows what is in force, and in
//! `serde`, so that a manifest reads the same without an API server. Every string, list and map
//! has a limit: the API server estimates the cost of CEL rules by them.
#![expect(unreachable_pub, reason = "KubeSchema repeats each type inside a function")]

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

mod autoscaling;
mod drain;
mod gateway;
mod http;
mod ingress;
mod media;
mod network_policy;
mod node;
mod redis;
mod rooms;
mod turn;
mod turn_route;

pub use autoscaling::{AutoscalingMode, AutoscalingSpec, ScalingBehavior, ScalingRule};
pub use drain::DrainSpec;
pub use gateway::GatewaySpec;
pub use http::{CreateRoom, HttpSpec, LogFormat, LogLevel, LogSpec};
pub use ingress::{IngressSpec, IngressTls, IssuerKind, IssuerReference};
pub use media::{Exposure, MediaService, MediaSpec, PortRange, RESERVED_PORTS};
pub use network_policy::NetworkPolicySpec;
pub use node::{
    ImagePullPolicy, LocalSecret, NodeCapacity, NodeSpec, Resources, Scheduling, TaintEffect,
    Toleration, TolerationOperator,
};
pub use redis::{ExternalRedis, ManagedRedis, RedisMode, RedisSpec, RedisStorage};
pub use rooms::{
    PlayoutDelaySpec, PresetAgentSpec, RoomCodec, RoomPresetSpec, RoomsSpec, SubscriptionLimits,
    WebhookEvent, WebhooksSpec,
};
pub use turn::{
    ExternalTrafficPolicy, TurnLimits, TurnService, TurnServiceType, TurnSpec, TurnTls,
};
pub use turn_route::{GatewayReference, TurnRoute, TurnRouteKind};

use crate::status::LiveClusterStatus;

/// A cluster of media nodes for live video and audio rooms, behind one domain.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "livecluster.dev",
    version = "v1alpha1",
    kind = "LiveCluster",
    plural = "liveclusters",
    shortname = "lc",
    category = "media",
    namespaced,
    doc = "A cluster of media nodes for live video and audio rooms, behind one domain.",
    status = "LiveClusterStatus",
    derive = "PartialEq",
    annotation("helm.sh/resource-policy", "keep"),
    scale(
        spec_replicas_path = ".spec.nodes",
        status_replicas_path = ".status.nodes",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".spec.nodes"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyNodes"),
    printcolumn(name = "Draining", type_ = "integer", json_path = ".status.drainingNodes"),
    printcolumn(name = "Rooms", type_ = "integer", json_path = ".status.rooms"),
    printcolumn(name = "Subscribers", type_ = "integer", json_path = ".status.subscribers"),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40")
        .message("metadata.name must have at most 40 characters: the names of pods and services derive from it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must start with a letter and consist of a-z, 0-9 and '-': it names services")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.domain.endsWith('.localhost') || self.development")
        .message("spec.domain may end in .localhost only with spec.development: true"),
    validation = Rule::new("!has(self.node) || !has(self.node.workers) || !has(self.media) || !has(self.media.ports) || self.media.ports.count >= (self.nodes + 1) * (self.node.workers + 2)")
        .message("spec.media.ports.count is too small: it must be at least (spec.nodes + 1) * (spec.node.workers + 2)"),
    validation = Rule::new("!has(self.media) || self.media.exposure != 'TurnOnly' || !has(self.turn) || self.turn.enabled")
        .message("spec.media.exposure: TurnOnly needs spec.turn.enabled: true"),
    validation = Rule::new("!has(self.turn) || !has(self.turn.port) || !has(self.media) || !has(self.media.ports) || self.turn.port < self.media.ports.first || self.turn.port >= self.media.ports.first + self.media.ports.count")
        .message("spec.turn.port must not be one of spec.media.ports"),
    validation = Rule::new("!has(self.turn) || !has(self.turn.port) || !has(self.media) || !(self.media.exposure in ['HostNetwork', 'NodePort'])")
        .message("spec.turn.port must be absent with spec.media.exposure: HostNetwork, where TURN has 3478, and NodePort, where each media node has its own"),
    validation = Rule::new("!has(self.turn) || !has(self.turn.tls) || self.turn.tls.port != 443 || self.turn.tls.domain != self.domain")
        .message("spec.turn.tls.domain must differ from spec.domain: on port 443 the name tells TURN from the web"),
    validation = Rule::new("!has(self.node) || !has(self.node.workers) || !has(self.media) || !has(self.media.ports) || !has(self.autoscaling) || self.autoscaling.mode == 'None' || self.media.ports.count >= (self.autoscaling.maxNodes + 1) * (self.node.workers + 2)")
        .message("spec.media.ports.count is too small: it must be at least (spec.autoscaling.maxNodes + 1) * (spec.node.workers + 2)"),
    validation = Rule::new("!has(self.autoscaling) || self.autoscaling.loadPercent > 0 || !has(self.autoscaling.roomsPerNode) || !has(self.node) || !has(self.node.capacity) || self.node.capacity.rooms == 0 || self.autoscaling.roomsPerNode * 10 <= self.node.capacity.rooms * 9")
        .message("spec.autoscaling.roomsPerNode must be at most nine tenths of spec.node.capacity.rooms with loadPercent: 0: nodes that are full would never ask for more"),
    validation = Rule::new("!has(self.autoscaling) || self.autoscaling.loadPercent > 0 || !has(self.autoscaling.subscribersPerNode) || !has(self.node) || !has(self.node.capacity) || self.node.capacity.subscribers == 0 || self.autoscaling.subscribersPerNode * 10 <= self.node.capacity.subscribers * 9")
        .message("spec.autoscaling.subscribersPerNode must be at most nine tenths of spec.node.capacity.subscribers with loadPercent: 0: nodes that are full would never ask for more"),
    validation = Rule::new("!has(self.autoscaling) || self.autoscaling.mode == 'None' || self.nodes == oldSelf.nodes || self.nodes == 2 || (self.nodes >= self.autoscaling.minNodes && self.nodes <= self.autoscaling.maxNodes)")
        .message("spec.nodes belongs to the autoscaler: it can be changed only to a number from spec.autoscaling.minNodes to maxNodes; leave it out, or set spec.autoscaling.mode: None"),
    validation = Rule::new("!has(self.gateway) || !has(self.ingress) || (!has(self.ingress.className) && !has(self.ingress.annotations) && !has(self.ingress.tls))")
        .message("spec.gateway takes the place of spec.ingress: set one of them"),
    validation = Rule::new("!has(self.webhooks) || !has(self.webhooks.apiKey) || (has(self.keys) && has(self.keys.secretName))")
        .message("spec.webhooks.apiKey names one of the keys of spec.keys.secretName, which must be given")
)]
pub struct LiveClusterSpec {
    /// The only address that clients see: a DNS name such as `live.example.com`. Addresses and
    /// `localhost` are refused; `*.localhost` needs `development: true`.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("!isIP(self)")
            .message("spec.domain must be a DNS name, not an IP address"),
        validation = Rule::new("self != 'localhost'")
            .message("spec.domain must not be localhost: use a public DNS name, or *.localhost with spec.development: true"),
        validation = Rule::new("isIP(self) || self.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$')")
            .message("spec.domain must be a DNS name in lower case without scheme, port or path, such as live.example.com"),
        validation = Rule::new("self == 'localhost' || self.contains('.')")
            .message("spec.domain must have at least two labels, such as live.example.com")
    )]
    pub domain: String,
    /// Allows a domain under `.localhost`, which browsers hold for a secure context without a
    /// certificate. Never set it for a cluster that others use.
    #[serde(default)]
    pub development: bool,
    /// Desired media nodes (pods). Also the `replicas` of the scale subresource. Leave it out where
    /// `spec.autoscaling` sets it.
    #[serde(default = "default_nodes")]
    #[schemars(range(min = 1, max = 1000))]
    #[schemars(extend("format" = "int32"))]
    pub nodes: u16,
    /// How many media nodes there are, by what they do.
    #[serde(default)]
    pub autoscaling: AutoscalingSpec,
    /// The pods of media nodes.
    #[serde(default)]
    pub node: NodeSpec,
    /// How media nodes leave.
    #[serde(default)]
    pub drain: DrainSpec,
    /// API keys with which tokens are signed.
    #[serde(default)]
    pub keys: KeysSpec,
    /// Where room homes are kept.
    #[serde(default)]
    pub redis: RedisSpec,
    /// How media packets reach the nodes.
    #[serde(default)]
    pub media: MediaSpec,
    /// The TURN server beside every media node.
    #[serde(default)]
    pub turn: TurnSpec,
    /// The Ingress for the domain.
    #[serde(default)]
    pub ingress: IngressSpec,
    /// A gateway (Gateway API) in the place of the Ingress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewaySpec>,
    /// Who may reach the pods.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,
    /// HTTP paths beside signalling.
    #[serde(default)]
    pub http: HttpSpec,
    /// Defaults of rooms.
    #[serde(default)]
    pub rooms: RoomsSpec,
    /// Who is told what happens in rooms.
    #[serde(default)]
    pub webhooks: WebhooksSpec,
    /// Log output of media nodes.
    #[serde(default)]
    pub log: LogSpec,
}

/// Two nodes: one may go without ending the service. A rule of the specification knows this number:
/// whoever takes `nodes` out of a manifest asks for it.
fn default_nodes() -> u16 {
    2
}

/// API keys with which tokens are signed.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeysSpec {
    /// Secret with the entry `keys.yaml`, a YAML map `key: secret` of at least one key. When
    /// absent the operator makes the Secret `<name>-keys` with one generated key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_NAME))]
    pub secret_name: Option<String>,
}

/// Names of Secrets: a DNS subdomain (RFC 1123).
const SECRET_NAME: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

#[cfg(test)]
mod tests;
