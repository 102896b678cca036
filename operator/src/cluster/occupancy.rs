//! Shows Kubernetes which media nodes have rooms: evictions, the cluster autoscaler and Karpenter
//! leave those alone, and may take the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::{LiveCluster, names};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use super::apply::ApplyError;
use super::nodes::{NodePhase, NodePod, Occupancy};
use crate::controller::Context;

/// HTTP status of a change to what cannot change: the pod has another unique id.
const INVALID: u16 = 422;

/// Brings label and annotations of the media pods in step with what they do.
pub async fn mark(
    pods: &[Pod],
    nodes: &[NodePod],
    cluster: &Arc<LiveCluster>,
    context: &Context,
) -> Result<(), ApplyError> {
    let namespace = cluster.namespace().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    for pod in pods {
        let Some(node) = nodes.iter().find(|node| Some(&node.uid) == pod.uid().as_ref()) else {
            continue;
        };
        let Some(metadata) = marks(pod, node) else { continue };
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let manager = Some(names::MANAGER.to_owned());
        let params = PatchParams { field_manager: manager, ..PatchParams::default() };
        match api.patch_metadata(&node.name, &params, &patch).await {
            Ok(_) => {}
            // It left meanwhile, or another took its name.
            Err(kube::Error::Api(s))
                if s.is_not_found() || s.is_conflict() || s.code == INVALID => {}
            Err(error) => return Err(ApplyError::new("Pod", &node.name, error)),
        }
    }
    Ok(())
}

/// What must change about a pod; `None` where nothing does. A node that does not tell what it does
/// stays what it was, and is taken for occupied where nobody ever knew.
fn marks(pod: &Pod, node: &NodePod) -> Option<Value> {
    let is_marked = pod.labels().get(names::OCCUPIED).is_some_and(|value| value == "true");
    let is_evictable = pod.annotations().get(names::SAFE_TO_EVICT).map(String::as_str);
    let occupied = match (node.phase, node.occupancy) {
        (NodePhase::Ended | NodePhase::Terminating, _) => return None,
        (_, Occupancy::Known { rooms, subscribers }) => rooms > 0 || subscribers > 0,
        (_, Occupancy::Unknown) if is_evictable.is_some() => is_marked,
        (_, Occupancy::Unknown) => true,
    };
    let keeps_host = pod.annotations().contains_key(names::DO_NOT_DISRUPT);
    let safe_to_evict = if occupied { "false" } else { "true" };
    let in_step =
        is_marked == occupied && keeps_host == occupied && is_evictable == Some(safe_to_evict);
    let when_occupied = if occupied { json!("true") } else { Value::Null };
    (!in_step).then(|| {
        let annotations = BTreeMap::from([
            (names::SAFE_TO_EVICT, json!(safe_to_evict)),
            (names::DO_NOT_DISRUPT, when_occupied.clone()),
        ]);
        let labels = BTreeMap::from([(names::OCCUPIED, when_occupied)]);
        json!({"uid": node.uid, "labels": labels, "annotations": annotations})
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(phase: NodePhase, occupancy: Occupancy) -> NodePod {
        NodePod { phase, occupancy, ..NodePod::open(0) }
    }

    /// Applies the marks as a merge patch would, and says what is on the pod then.
    fn marked(pod: &mut Pod, node: &NodePod) -> (bool, bool, Option<String>) {
        if let Some(marks) = marks(pod, node) {
            let into = |target: &mut BTreeMap<String, String>, values: &Value| {
                for (name, value) in values.as_object().unwrap() {
                    match value.as_str() {
                        Some(text) => target.insert(name.clone(), text.to_owned()),
                        None => target.remove(name),
                    };
                }
            };
            into(pod.labels_mut(), &marks["labels"]);
            into(pod.annotations_mut(), &marks["annotations"]);
            assert_eq!(super::marks(pod, node), None, "the second look finds nothing to do");
        }
        let occupied = pod.labels().get(names::OCCUPIED).is_some_and(|value| value == "true");
        let keeps_host = pod.annotations().contains_key(names::DO_NOT_DISRUPT);
        (occupied, keeps_host, pod.annotations().get(names::SAFE_TO_EVICT).cloned())
    }

    #[test]
    fn marks_follow_what_the_node_does_and_silence_changes_nothing() {
        let known = |rooms| Occupancy::Known { rooms, subscribers: 0 };
        let occupied = (true, true, Some("false".to_owned()));
        let empty = (false, false, Some("true".to_owned()));
        let mut pod = Pod::default();
        let looks = [
            (Occupancy::Unknown, &occupied),
            (known(0), &empty),
            (Occupancy::Unknown, &empty),
            (known(2), &occupied),
            (known(3), &occupied),
            (Occupancy::Unknown, &occupied),
            (Occupancy::Known { rooms: 0, subscribers: 1 }, &occupied),
            (known(0), &empty),
        ];
        for (occupancy, expected) in looks {
            let found = marked(&mut pod, &node(NodePhase::Ready, occupancy));
            assert_eq!(&found, expected, "{occupancy:?}");
        }
    }

    #[test]
    fn a_pod_that_ends_is_left_alone() {
        for phase in [NodePhase::Ended, NodePhase::Terminating] {
            assert_eq!(marks(&Pod::default(), &node(phase, Occupancy::Unknown)), None);
        }
    }
}
