//! Shows Kubernetes which media nodes have rooms: evictions, the cluster autoscaler and Karpenter
//! leave those alone, and may take the others. Whoever chooses among those with rooms finds what each
//! would cost.

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

/// Subscribers by which what is told of the cost may differ from the truth.
const COST_SLACK: i64 = 10;
/// Kubernetes takes no greater cost.
const MAX_COST: i64 = i32::MAX as i64;

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
    let told_cost = pod.annotations().get(names::DELETION_COST).map(String::as_str);
    let (occupied, cost) = match (node.phase, node.occupancy) {
        (NodePhase::Ended | NodePhase::Terminating, _) => return None,
        (_, Occupancy::Known { rooms, subscribers }) => {
            (rooms > 0 || subscribers > 0, Some(subscribers.clamp(0, MAX_COST)))
        }
        (_, Occupancy::Unknown) if is_evictable.is_some() => (is_marked, None),
        (_, Occupancy::Unknown) => (true, None),
    };
    let keeps_host = pod.annotations().contains_key(names::DO_NOT_DISRUPT);
    let safe_to_evict = if occupied { "false" } else { "true" };
    let in_step = is_marked == occupied
        && keeps_host == occupied
        && is_evictable == Some(safe_to_evict)
        && cost.is_none_or(|cost| is_near(told_cost, cost));
    let when_occupied = if occupied { json!("true") } else { Value::Null };
    (!in_step).then(|| {
        let cost = cost.map(|cost| cost.to_string());
        let cost = cost.or_else(|| told_cost.map(str::to_owned));
        let annotations = BTreeMap::from([
            (names::SAFE_TO_EVICT, json!(safe_to_evict)),
            (names::DO_NOT_DISRUPT, when_occupied.clone()),
            (names::DELETION_COST, json!(cost)),
        ]);
        let labels = BTreeMap::from([(names::OCCUPIED, when_occupied)]);
        json!({"uid": node.uid, "labels": labels, "annotations": annotations})
    })
}

/// Whether a cost that was told is near enough to the truth: people come and go all the time, and
/// each time that it is told is a write. By half as many, a node is another choice.
fn is_near(told: Option<&str>, cost: i64) -> bool {
    let Some(told) = told.and_then(|told| told.parse::<i64>().ok()) else { return false };
    cost.saturating_sub(told).saturating_abs() <= COST_SLACK.max(told / 2)
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
    fn the_cost_of_a_pod_follows_its_subscribers_in_leaps() {
        let mut pod = Pod::default();
        let known = |subscribers| Occupancy::Known { rooms: 1, subscribers };
        let looks = [
            (Occupancy::Unknown, None),
            (known(3), Some("3")),
            (known(13), Some("3")),
            (known(14), Some("14")),
            (Occupancy::Unknown, Some("14")),
            (known(200), Some("200")),
            (known(300), Some("200")),
            (known(301), Some("301")),
            (known(151), Some("301")),
            (known(150), Some("150")),
            // Empty, which is told at once.
            (Occupancy::EMPTY, Some("0")),
            (known(i64::MAX), Some("2147483647")),
        ];
        for (occupancy, expected) in looks {
            marked(&mut pod, &node(NodePhase::Ready, occupancy));
            let cost = pod.annotations().get(names::DELETION_COST).map(String::as_str);
            assert_eq!(cost, expected, "{occupancy:?}");
        }
        pod.annotations_mut().insert(names::DELETION_COST.to_owned(), "much".to_owned());
        marked(&mut pod, &node(NodePhase::Ready, known(5)));
        assert_eq!(pod.annotations()[names::DELETION_COST], "5", "what somebody else wrote");
    }

    #[test]
    fn a_pod_that_ends_is_left_alone() {
        for phase in [NodePhase::Ended, NodePhase::Terminating] {
            assert_eq!(marks(&Pod::default(), &node(phase, Occupancy::Unknown)), None);
        }
    }
}
