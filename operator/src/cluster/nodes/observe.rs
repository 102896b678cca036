//! Reads media pods and their Kubernetes nodes.

use std::collections::HashMap;
use std::time::Duration;

use crds::names;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use super::{HostState, Hosts, LeaveReason, NodePhase, NodePod, Occupancy, Placement, Trouble};
use crate::cluster::build::node::CONTAINER;
use crate::cluster::poll::Reading;

/// An answer older than this says nothing about what a node does.
const MAX_AGE: Duration = Duration::from_secs(15);
/// Characters of a digest that name an image where there is no tag, as everybody shortens them.
const DIGEST_SHOWN: usize = 12;
/// Label of the zone of a Kubernetes node.
const ZONE: &str = "topology.kubernetes.io/zone";
/// Label of the region of a Kubernetes node, which newer versions of Kubernetes copy to its pods.
const REGION: &str = "topology.kubernetes.io/region";
/// Taints by which clouds and autoscalers say that a Kubernetes node is about to end.
const INTERRUPTIONS: [&str; 7] = [
    "ToBeDeletedByClusterAutoscaler",
    "aws-node-termination-handler/spot-itn",
    "cloud.google.com/impending-node-termination",
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
    "node.cloudprovider.kubernetes.io/shutdown",
    "node.kubernetes.io/out-of-service",
];

/// Reads the pods of a cluster; what they do is not known yet, see [`count`].
#[must_use]
pub fn observe(pods: &[Pod], hosts: &Hosts) -> Vec<NodePod> {
    let mut pods: Vec<_> = pods.iter().map(|pod| observe_pod(pod, hosts)).collect();
    pods.sort_by_key(|pod| pod.slot);
    pods
}

/// Enters what the nodes answered. Silence is not emptiness.
pub fn count(pods: &mut [NodePod], readings: &HashMap<String, Reading>) {
    for pod in pods {
        let Some(reading) = readings.get(&pod.uid) else { continue };
        if pod.occupancy == Occupancy::Unknown && reading.age < MAX_AGE {
            let counts = reading.counts;
            pod.occupancy =
                Occupancy::Known { rooms: counts.rooms, subscribers: counts.subscribers };
        }
    }
}

/// The slot of a media pod; `None` when the label is no number.
#[must_use]
pub fn slot_of(pod: &Pod) -> Option<u16> {
    pod.labels().get(names::SLOT)?.parse().ok()
}

fn observe_pod(pod: &Pod, hosts: &Hosts) -> NodePod {
    let node = hosts.of(pod);
    let node = node.as_deref();
    let annotation = |name: &str| pod.annotations().get(name).cloned();
    let status = pod.status.as_ref();
    let ready = status.and_then(|s| s.conditions.as_ref()).is_some_and(|conditions| {
        conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
    });
    let phase = match status.and_then(|s| s.phase.as_deref()) {
        _ if pod.metadata.deletion_timestamp.is_some() => NodePhase::Terminating,
        Some("Failed" | "Succeeded") => NodePhase::Ended,
        _ if ready => NodePhase::Ready,
        _ => NodePhase::Starting,
    };
    let placement = placement_of(pod);
    let told_addresses = annotation(names::ADVERTISE_ADDRESSES);
    // A pod that was told its addresses took traffic, whoever took the label away.
    let untouched = placement == Placement::New && told_addresses.is_none();
    let idle = untouched || (phase != NodePhase::Terminating && !runs(pod));
    NodePod {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        slot: slot_of(pod),
        revision: annotation(names::REVISION).unwrap_or_default(),
        version: image_of(pod).map(|image| version_of(image).to_owned()),
        phase,
        placement,
        occupancy: if idle { Occupancy::EMPTY } else { Occupancy::Unknown },
        host: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        host_state: node.map_or(HostState::Up, host_state),
        zone: node.and_then(|node| node.labels().get(ZONE).cloned()),
        region: region_of(pod, node),
        ip: status.and_then(|s| s.pod_ip.clone()),
        addresses: hosts.addresses(pod, node),
        told_addresses,
        attempt: annotation(names::ATTEMPT).and_then(|n| n.parse().ok()).unwrap_or_default(),
        created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
        ended: (phase == NodePhase::Ended).then(|| ended(pod)).flatten(),
        trouble: trouble(pod),
    }
}

/// The state that is written on a pod.
fn placement_of(pod: &Pod) -> Placement {
    let annotations = pod.annotations();
    let since = annotations.get(names::PLACEMENT_SINCE).and_then(|since| since.parse().ok());
    let since = since.unwrap_or(Timestamp::UNIX_EPOCH);
    let reason = annotations.get(names::PLACEMENT_REASON);
    let reason = reason.and_then(|text| LeaveReason::parse(text)).unwrap_or(LeaveReason::ScaledIn);
    match pod.labels().get(names::PLACEMENT).map(String::as_str) {
        Some(names::OPEN) => Placement::Open,
        Some(names::CORDONED) => Placement::Cordoned { since, reason },
        Some(names::DRAINING) => Placement::Draining { since, reason },
        _ => Placement::New,
    }
}

/// Whether a container runs: without one there are no rooms.
fn runs(pod: &Pod) -> bool {
    let containers =
        pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    containers.filter_map(|container| container.state.as_ref()).any(|state| state.running.is_some())
}

/// The image of the media node.
fn image_of(pod: &Pod) -> Option<&str> {
    let mut containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.find(|container| container.name == CONTAINER)?.image.as_deref()
}

/// The version that an image reference names: its tag, else the beginning of its digest.
fn version_of(image: &str) -> &str {
    let (name, digest) = image.split_once('@').unwrap_or((image, ""));
    // A colon before the last slash is that of the registry's port.
    let last = name.rsplit('/').next().unwrap_or_default();
    match (last.split_once(':'), digest.split_once(':')) {
        (Some((_, tag)), _) => tag,
        (None, Some((_, hash))) => hash.get(..DIGEST_SHOWN).unwrap_or(hash),
        (None, None) => "latest",
    }
}

/// When the last container ended; without one, when the pod was made.
fn ended(pod: &Pod) -> Option<Timestamp> {
    let containers =
        pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ends = containers
        .filter_map(|container| container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref())
        .map(|time| time.0);
    ends.max().or_else(|| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

/// Kubernetes's word for why a pod does not start; `None` for what every start goes through.
fn trouble(pod: &Pod) -> Option<Trouble> {
    let status = pod.status.as_ref()?;
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses);
    let waiting = containers.flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.clone()?;
        let usual = ["ContainerCreating", "PodInitializing"].contains(&reason.as_str());
        let message = waiting.message.clone().unwrap_or_default();
        (!usual).then_some(Trouble { reason, message })
    });
    let failed = || {
        (status.phase.as_deref() == Some("Failed")).then(|| Trouble {
            reason: status.reason.clone().unwrap_or_else(|| "NodeFailed".to_owned()),
            message: status.message.clone().unwrap_or_default(),
        })
    };
    waiting.or_else(failed).or_else(|| {
        let scheduled = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled")?;
        (scheduled.status == "False").then(|| Trouble {
            reason: scheduled.reason.clone().unwrap_or_default(),
            message: scheduled.message.clone().unwrap_or_default(),
        })
    })
}

/// The region of a Kubernetes node; where nobody may read that, what Kubernetes wrote on the pod.
fn region_of(pod: &Pod, node: Option<&Node>) -> Option<String> {
    let of_node = node.and_then(|node| node.labels().get(REGION));
    of_node.or_else(|| pod.labels().get(REGION)).cloned()
}

/// What a Kubernetes node is about to do with its pods.
fn host_state(node: &Node) -> HostState {
    let spec = node.spec.as_ref();
    let mut taints = spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.and_then(|conditions| conditions.iter().find(|c| c.type_ == "Ready"));
    if ready.is_some_and(|ready| ready.status != "True") {
        HostState::Lost
    } else if taints.any(|taint| INTERRUPTIONS.contains(&taint.key.as_str())) {
        HostState::Interrupted
    } else if spec.is_some_and(|spec| spec.unschedulable == Some(true)) {
        HostState::Cordoned
    } else {
        HostState::Up
    }
}

#[cfg(test)]
mod tests;
