//! TURN by TLS through an ingress controller or a gateway, by name.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SECRET_NAME;

/// Leads connections with the name of TURN from the port of the web to the TURN servers, without
/// ending TLS.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.kind == 'TLSRoute' ? has(self.parentRefs) : !has(self.parentRefs)")
        .message("spec.turn.tls.route.parentRefs, the gateways, is needed with kind TLSRoute, and only then"),
    validation = Rule::new("self.kind == 'IngressRouteTCP' || !has(self.entryPoints)")
        .message("spec.turn.tls.route.entryPoints is for kind IngressRouteTCP only")
)]
pub struct TurnRoute {
    /// `IngressRouteTCP` (Traefik), or `TLSRoute` (Gateway API) with a listener of protocol `TLS` and
    /// mode `Passthrough`. `TurnReady` tells where the Kubernetes cluster has no such kind.
    pub kind: TurnRouteKind,
    /// Traefik's entry points; `websecure` when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8), inner(length(min = 1, max = 63)))]
    pub entry_points: Vec<String>,
    /// The gateways.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8))]
    pub parent_refs: Vec<GatewayReference>,
    /// Clients are told of the server beside their room, too, under a name of its own:
    /// `node-<slot>.<domain>`. What it relays then stays within a pod. DNS and the certificate must
    /// have these names, as `*.<domain>`.
    #[serde(default)]
    pub per_node: bool,
}

/// What passes connections on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TurnRouteKind {
    /// Traefik, `traefik.io`.
    IngressRouteTCP,
    /// Gateway API, `gateway.networking.k8s.io`.
    TLSRoute,
}

impl TurnRouteKind {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::IngressRouteTCP, Self::TLSRoute];

    /// The word of the Kubernetes API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IngressRouteTCP => "IngressRouteTCP",
            Self::TLSRoute => "TLSRoute",
        }
    }
}

/// A listener of a gateway.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayReference {
    /// Name of the Gateway.
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_NAME))]
    pub name: String,
    /// Its namespace; that of the LiveCluster when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = SECRET_NAME))]
    pub namespace: Option<String>,
    /// The listener; all of the gateway when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_NAME))]
    pub section_name: Option<String>,
}
