//! Who may reach the pods.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Who may reach the pods of the LiveCluster, and whom they may reach, where the network of the
/// Kubernetes cluster enforces it.
#[derive(KubeSchema, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicySpec {
    /// Make NetworkPolicies that let through what the LiveCluster needs, and nothing else. Set it to
    /// `false` where policies of your own do this.
    #[serde(default = "default_enabled")]
    pub enabled: bool,
}

impl Default for NetworkPolicySpec {
    fn default() -> Self {
        Self { enabled: default_enabled() }
    }
}

fn default_enabled() -> bool {
    true
}
