//! Where room homes are kept.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SECRET_NAME;
use super::node::Resources;
use crate::quantity::Quantity;

/// Where room homes are kept: a Redis that the operator runs (the default), or one of yours.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!(has(self.managed) && has(self.external))")
    .message("spec.redis must have either managed or external, not both"))]
pub struct RedisSpec {
    /// A Redis that the operator runs beside the media nodes. It keeps nothing on disk, unless
    /// `storage` is set: rooms live in the media nodes, which announce them again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedRedis>,
    /// A Redis that is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalRedis>,
}

/// A Redis that the operator runs.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedRedis {
    /// CPU and memory of Redis. Of what has neither a request nor a limit, 50m and 64Mi are requested.
    #[serde(default)]
    pub resources: Resources,
    /// A volume on which Redis keeps what it has, so that room events, and rooms whose node ended
    /// meanwhile, outlive its pod. Removed from the specification, it is deleted with all that it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<RedisStorage>,
}

/// The volume of a Redis that the operator runs.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("quantity(string(self.size)).compareTo(quantity('64Mi')) >= 0")
        .message("spec.redis.managed.storage.size must be 64Mi or more"),
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("spec.redis.managed.storage.storageClassName cannot be changed: remove spec.redis.managed.storage first, and with it what Redis keeps")
)]
pub struct RedisStorage {
    /// Size of the volume. It can grow where the StorageClass allows that, and never shrinks.
    #[serde(default = "default_size")]
    pub size: Quantity,
    /// StorageClass of the volume; the Kubernetes cluster's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_NAME))]
    pub storage_class_name: Option<String>,
}

/// Ten times what a thousand media nodes and ten thousand room events take.
fn default_size() -> Quantity {
    Quantity::from("1Gi")
}

/// How `spec.redis.external.addresses` are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RedisMode {
    /// One server.
    #[default]
    Standalone,
    /// Redis Sentinels that name the server, as it changes.
    Sentinel,
    /// A Redis Cluster: all keys of a LiveCluster are in one slot.
    Cluster,
}

/// A Redis that is there already.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.mode == 'Standalone' ? size(self.addresses) == 1 : size(self.addresses) > 0")
        .message("spec.redis.external.addresses must hold exactly one host:port, or some with mode Sentinel or Cluster"),
    validation = Rule::new("self.mode == 'Sentinel' ? has(self.masterName) : !has(self.masterName)")
        .message("spec.redis.external.masterName is needed with mode Sentinel, and only then"),
    validation = Rule::new("self.tls || !has(self.caSecretName)")
        .message("spec.redis.external.caSecretName needs spec.redis.external.tls")
)]
pub struct ExternalRedis {
    /// Whether the addresses are of the server (the default), of its Sentinels or of servers of a Redis
    /// Cluster.
    #[serde(default)]
    pub mode: RedisMode,
    /// Address of the server, exactly one `host:port`, or addresses of its Sentinels, or of some
    /// servers of the cluster, by which the others are found. Sentinels are asked without a password,
    /// and where they want one, with that of Redis.
    #[schemars(length(max = 8), inner(length(min = 1, max = 260)))]
    #[x_kube(
        validation = Rule::new("self.all(a, a.matches('^([a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?|[[][0-9a-fA-F:.]+[]]):[1-9][0-9]{0,4}$'))")
            .message("spec.redis.external.addresses must be host:port, such as redis.example.com:6379, without a scheme")
    )]
    pub addresses: Vec<String>,
    /// The name under which the Sentinels watch the server. Set `min-replicas-to-write 1` there, or
    /// two servers take writes while one is cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub master_name: Option<String>,
    /// Use TLS, checked against the authorities in the media node's image, or those of
    /// `caSecretName`.
    #[serde(default)]
    pub tls: bool,
    /// Secret with the entry `ca.crt`: the authorities (PEM) that TLS is checked against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_NAME))]
    pub ca_secret_name: Option<String>,
    /// ACL user; the default user when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub username: Option<String>,
    /// Secret with the entry `password`; no password when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_NAME))]
    pub secret_name: Option<String>,
}
