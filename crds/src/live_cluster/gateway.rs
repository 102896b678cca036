//! A gateway in the place of an Ingress.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::GatewayReference;

/// A gateway (Gateway API) that leads the domain to signalling, in the place of the Ingress.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// The gateways, or single listeners of them, for the `HTTPRoute` that the operator makes.
    /// They must admit routes of the LiveCluster's namespace.
    #[schemars(length(min = 1, max = 8))]
    pub parent_refs: Vec<GatewayReference>,
    /// The listener ends TLS for the domain, so that `status.url` is `https://…`.
    #[serde(default = "default_tls")]
    pub tls: bool,
}

fn default_tls() -> bool {
    true
}
