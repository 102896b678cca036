//! What keeps Kubernetes from evicting media nodes that have rooms, and a Redis that starts.

use crds::names::{self, component};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{metadata, selector};
use crate::cluster::validate::{ValidCluster, ValidRedis};

/// No node with rooms may be evicted; one without may. Another number than none would be counted
/// against all nodes of the LiveCluster, of which those with rooms are only some.
pub fn occupied(valid: &ValidCluster) -> PodDisruptionBudget {
    let mut selector = selector(&valid.name, component::NODE);
    selector.insert(names::OCCUPIED.to_owned(), "true".to_owned());
    PodDisruptionBudget {
        metadata: metadata(valid, names::occupied_budget(&valid.name), component::NODE),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(0)),
            selector: Some(LabelSelector {
                match_labels: Some(selector),
                ..LabelSelector::default()
            }),
            // A pod that is not ready may still have rooms, but nobody should keep a broken one.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

/// The managed Redis may be evicted, or its Kubernetes node would never be emptied; but not again
/// before it answers: media nodes go on without it only as long as none of them is lost meanwhile.
pub fn redis(valid: &ValidCluster) -> Option<PodDisruptionBudget> {
    match valid.redis {
        ValidRedis::Managed { .. } => {}
        ValidRedis::External(_) => return None,
    }
    Some(PodDisruptionBudget {
        metadata: metadata(valid, names::redis(&valid.name), component::REDIS),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(selector(&valid.name, component::REDIS)),
                ..LabelSelector::default()
            }),
            unhealthy_pod_eviction_policy: Some("IfHealthyBudget".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    })
}
