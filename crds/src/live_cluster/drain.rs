//! How media nodes leave.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Period;

/// How media nodes leave: by scale-in, replacement, or with their Kubernetes node.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainSpec {
    /// How long a leaving node waits for its rooms to end by themselves (`0s` to `24h`, such as
    /// `1h30m`); those that are left are then moved to other nodes.
    #[serde(default = "default_timeout")]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') ? duration(self) <= duration('24h') : true")
            .message("spec.drain.timeout must be at most 24h")
    )]
    pub timeout: Period,
    /// Rooms that are moved per second: the clients of a room connect anew at the same time.
    #[serde(default = "default_rooms_per_second")]
    #[schemars(range(min = 1, max = 1000))]
    #[schemars(extend("format" = "int32"))]
    pub rooms_per_second: u16,
}

impl Default for DrainSpec {
    fn default() -> Self {
        Self { timeout: default_timeout(), rooms_per_second: default_rooms_per_second() }
    }
}

/// Most meetings are shorter.
fn default_timeout() -> Period {
    Period::from("1h")
}

/// With ten clients a room, fifty that connect per second.
fn default_rooms_per_second() -> u16 {
    5
}
