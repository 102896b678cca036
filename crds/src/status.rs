//! What the operator reports about a LiveCluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Most nodes listed in `status.members`.
pub const MAX_MEMBERS: usize = 200;

/// Types of conditions.
pub mod condition {
    /// All desired nodes take traffic and the URL is served.
    pub const READY: &str = "Ready";
    /// At least one node takes traffic.
    pub const AVAILABLE: &str = "Available";
    /// Nodes are being started or replaced.
    pub const PROGRESSING: &str = "Progressing";
    /// Something needs a person.
    pub const DEGRADED: &str = "Degraded";
    /// Nodes wait for their rooms to end, or move them.
    pub const DRAINING: &str = "Draining";
    /// Redis takes connections.
    pub const REDIS_REACHABLE: &str = "RedisReachable";
    /// Every node knows the addresses that it tells clients.
    pub const ADDRESSES_DISCOVERED: &str = "AddressesDiscovered";
    /// Every node has a TURN server that runs.
    pub const TURN_READY: &str = "TurnReady";
    /// Clients reach the domain by TLS.
    pub const TLS_CONFIGURED: &str = "TLSConfigured";
    /// Somebody sets the number of nodes by what they do, and has the figures to do so.
    pub const AUTOSCALING_ACTIVE: &str = "AutoscalingActive";
    /// The HorizontalPodAutoscaler can ask the operator; only where there is one.
    pub const METRICS_API_AVAILABLE: &str = "MetricsAPIAvailable";
}

/// What the operator reports about a LiveCluster.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LiveClusterStatus {
    /// The generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where clients connect; SDKs take it with `ws` for `http`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Media nodes that belong to the desired state, those that start included.
    pub nodes: i32,
    /// Media nodes that take traffic.
    pub ready_nodes: i32,
    /// Media nodes that take no new rooms and leave when they are empty.
    pub draining_nodes: i32,
    /// Version of the media nodes, as their image says; several, separated by commas, while nodes
    /// are replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Rooms that have their home on one of the nodes.
    pub rooms: i64,
    /// Participants in all rooms.
    pub participants: i64,
    /// Participants that subscribe to at least one track.
    pub subscribers: i64,
    /// Label selector of the pods that `nodes` counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Conditions: `Ready`, `Available`, `Progressing`, `Degraded`, `Draining`,
    /// `RedisReachable`, `AddressesDiscovered`, `TurnReady`, `TLSConfigured`, `AutoscalingActive`
    /// and `MetricsAPIAvailable`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// What the autoscaler does; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingStatus>,
    /// The media nodes, at most 200 of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    pub members: Vec<Member>,
}

/// What the autoscaler does.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalingStatus {
    /// Who sets `spec.nodes`.
    pub scaler: ActiveScaler,
    /// Media nodes that the rooms of the last look need, before windows and periods.
    #[schemars(extend("format" = "int32"))]
    pub needed_nodes: u16,
    /// What asks for the most nodes, or why nothing is decided.
    pub reason: String,
}

/// Who sets `spec.nodes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ActiveScaler {
    /// The HorizontalPodAutoscaler.
    #[serde(rename = "HPA")]
    Hpa,
    /// The operator.
    BuiltIn,
}

/// A media node.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Name of the pod.
    pub name: String,
    /// The slot, from which its ports derive.
    #[schemars(extend("format" = "int32"))]
    pub slot: u16,
    /// What the node does.
    pub state: MemberState,
    /// The Kubernetes node that it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Addresses that it tells clients.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub addresses: Vec<String>,
    /// Rooms that have their home there.
    #[serde(default)]
    pub rooms: i64,
    /// Participants in these rooms.
    #[serde(default)]
    pub participants: i64,
    /// Participants that subscribe to at least one track.
    #[serde(default)]
    pub subscribers: i64,
}

/// What a media node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MemberState {
    /// It starts, or is not ready.
    Starting,
    /// It takes traffic.
    Open,
    /// It takes no new rooms and waits for its rooms to end.
    Cordoned,
    /// It moves its rooms to other nodes.
    Draining,
    /// It ends.
    Terminating,
}

/// The schema of `metav1.Condition`, a list with the map key `type`.
fn conditions_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "Conditions: `Ready`, `Available`, `Progressing`, `Degraded`, \
            `Draining`, `RedisReachable`, `AddressesDiscovered`, `TurnReady`, `TLSConfigured`, \
            `AutoscalingActive` and `MetricsAPIAvailable`.",
        "type": "array",
        "maxItems": 32,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "description": "One aspect of the state.",
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {
                    "description": "The aspect.", "type": "string", "maxLength": 316
                },
                "status": {
                    "description": "`True`, `False` or `Unknown`.",
                    "type": "string", "enum": ["True", "False", "Unknown"]
                },
                "observedGeneration": {
                    "description": "The generation of the spec that the condition is about.",
                    "type": "integer", "format": "int64", "minimum": 0
                },
                "lastTransitionTime": {
                    "description": "When `status` changed last.",
                    "type": "string", "format": "date-time"
                },
                "reason": {
                    "description": "The cause, a word for programs.",
                    "type": "string", "minLength": 1, "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
                },
                "message": {
                    "description": "The cause, a sentence for people.",
                    "type": "string", "maxLength": 32768
                }
            }
        }
    })
}
