//! Names, labels and annotations of what the operator makes out of a LiveCluster.

/// Label: the program that made the object; its value is [`MANAGER`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`], and the operator's field manager.
pub const MANAGER: &str = "livecluster-operator";
/// Label: the LiveCluster's name.
pub const CLUSTER: &str = "livecluster.dev/cluster";
/// Label: what part an object is, see [`component`].
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// Label of media pods: the slot.
pub const SLOT: &str = "livecluster.dev/slot";
/// Label of media pods: what they are for, [`OPEN`], [`CORDONED`] or [`DRAINING`]; absent until
/// the pod may take traffic.
pub const PLACEMENT: &str = "livecluster.dev/placement";
/// Value of [`PLACEMENT`].
pub const OPEN: &str = "open";
/// Value of [`PLACEMENT`]: the pod takes no new rooms.
pub const CORDONED: &str = "cordoned";
/// Value of [`PLACEMENT`]: the pod moves its rooms to others.
pub const DRAINING: &str = "draining";
/// Label of media pods: `true` while they have rooms or subscribers.
pub const OCCUPIED: &str = "livecluster.dev/occupied";
/// Annotation of media pods: whether the cluster autoscaler may evict them. It leaves pods of
/// controllers that it does not know alone unless told otherwise.
pub const SAFE_TO_EVICT: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";
/// Annotation of media pods: Karpenter leaves their Kubernetes node alone.
pub const DO_NOT_DISRUPT: &str = "karpenter.sh/do-not-disrupt";
/// Annotation of media pods: what it would cost to delete them, in subscribers. Kubernetes reads it of
/// pods of a ReplicaSet only; tools that choose among pods may.
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Annotation of media pods that leave: since when they have been in their state (RFC 3339).
pub const PLACEMENT_SINCE: &str = "livecluster.dev/placement-since";
/// Annotation of media pods that leave: why.
pub const PLACEMENT_REASON: &str = "livecluster.dev/placement-reason";
/// Annotation of media pods: the state that the media node shall be in, which it reads by the
/// downward API.
pub const STATE: &str = "livecluster.dev/state";
/// Annotation of media pods: how many pods ended early, one after the other, before this one.
pub const ATTEMPT: &str = "livecluster.dev/attempt";
/// Annotation and label of media pods: hash of the specification that they were made from.
pub const REVISION: &str = "livecluster.dev/revision";
/// Annotation of media pods: addresses to tell clients, separated by commas.
pub const ADVERTISE_ADDRESSES: &str = "livecluster.dev/advertise-addresses";
/// Annotation of media pods: the region of their Kubernetes node, empty if it has none, which the media
/// node reads by the downward API.
pub const REGION: &str = "livecluster.dev/region";

/// Values of the label [`COMPONENT`].
pub mod component {
    /// A media node.
    pub const NODE: &str = "node";
    /// The managed Redis.
    pub const REDIS: &str = "redis";
    /// What belongs to the cluster as a whole.
    pub const CLUSTER: &str = "cluster";
}

/// Secret with the generated API keys.
#[must_use]
pub fn keys_secret(cluster: &str) -> String {
    format!("{cluster}-keys")
}

/// Secret with the private key of the authority for pod-to-pod certificates; no pod mounts it.
#[must_use]
pub fn authority_secret(cluster: &str) -> String {
    format!("{cluster}-peer-ca")
}

/// Secret with the certificate that media pods show each other.
#[must_use]
pub fn peer_secret(cluster: &str) -> String {
    format!("{cluster}-peer")
}

/// Secret with the keys of the TURN servers' nonces, and Service of TURN by TLS.
#[must_use]
pub fn turn(cluster: &str) -> String {
    format!("{cluster}-turn")
}

/// Service of TURN by TLS of the slot alone.
#[must_use]
pub fn turn_of(cluster: &str, slot: u16) -> String {
    format!("{}-{slot}", turn(cluster))
}

/// ConfigMap with the configuration of media nodes.
#[must_use]
pub fn config_map(cluster: &str) -> String {
    format!("{cluster}-config")
}

/// NetworkPolicy of the media nodes.
#[must_use]
pub fn node_policy(cluster: &str) -> String {
    format!("{cluster}-node")
}

/// StatefulSet, Service, NetworkPolicy, PodDisruptionBudget and volume of the managed Redis.
#[must_use]
pub fn redis(cluster: &str) -> String {
    format!("{cluster}-redis")
}

/// Secret with the password of the managed Redis.
#[must_use]
pub fn redis_secret(cluster: &str) -> String {
    format!("{cluster}-redis")
}

/// Service for signalling, and the Ingress that leads to it.
#[must_use]
pub fn signalling(cluster: &str) -> String {
    format!("{cluster}-signalling")
}

/// Service for media of the slot alone.
#[must_use]
pub fn media(cluster: &str, slot: u16) -> String {
    format!("{cluster}-media-{slot}")
}

/// cert-manager's Certificate of the domain.
#[must_use]
pub fn certificate(cluster: &str) -> String {
    format!("{cluster}-domain")
}

/// HorizontalPodAutoscaler of the media nodes.
#[must_use]
pub fn autoscaler(cluster: &str) -> String {
    format!("{cluster}-nodes")
}

/// PodDisruptionBudget of the media nodes that have rooms.
#[must_use]
pub fn occupied_budget(cluster: &str) -> String {
    format!("{cluster}-occupied")
}

/// The media pod of a slot.
#[must_use]
pub fn node(cluster: &str, slot: u16) -> String {
    format!("{cluster}-node-{slot}")
}

/// Selects every media pod of a LiveCluster.
#[must_use]
pub fn node_selector(cluster: &str) -> String {
    format!("{CLUSTER}={cluster},{COMPONENT}={}", component::NODE)
}

/// Selects the media pods that may take traffic.
#[must_use]
pub fn open_node_selector(cluster: &str) -> String {
    format!("{},{PLACEMENT}={OPEN}", node_selector(cluster))
}
