//! Carries the plan out.

use std::sync::Arc;

use contract::node_state::NodeState;
use crds::{LiveCluster, names};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use super::{NodeAction, Plan};
use crate::cluster::apply::ApplyError;
use crate::cluster::build::{Applied, KubernetesResources};
use crate::cluster::{events, status};
use crate::controller::Context;

/// HTTP status of a change to what cannot change: the pod has another unique id.
const INVALID: u16 = 422;

/// What became of the plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CarriedOut {
    /// Actions that were carried out.
    pub changes: usize,
    /// The API server refuses to create pods.
    pub refusal: Option<Refusal>,
}

/// Why the API server refuses to create pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Pod security of the namespace.
    PodSecurity(String),
    /// Another admission rule, such as a quota.
    Other(String),
}

impl Refusal {
    fn of(status: &Status) -> Self {
        let message = status.message.clone();
        if message.contains("PodSecurity") {
            Self::PodSecurity(message)
        } else {
            Self::Other(message)
        }
    }

    /// The reason of the condition.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::PodSecurity(_) => "PodSecurityForbidsHostPorts",
            Self::Other(_) => "PodsRefused",
        }
    }

    /// What a person can do.
    #[must_use]
    pub fn message(&self, namespace: &str) -> String {
        match self {
            Self::PodSecurity(message) => format!(
                "media nodes use ports of the Kubernetes node, which the pod security of \
                 namespace {namespace} forbids: label it with `kubectl label namespace \
                 {namespace} --overwrite pod-security.kubernetes.io/enforce=privileged`, or \
                 create the LiveCluster in a namespace that has the label ({message})"
            ),
            Self::Other(message) => format!("the API server refuses media pods: {message}"),
        }
    }
}

/// Carries the plan out as far as the API server lets it.
pub async fn carry_out(
    plan: &Plan,
    resources: &KubernetesResources<Applied>,
    cluster: &Arc<LiveCluster>,
    context: &Context,
) -> Result<CarriedOut, ApplyError> {
    let namespace = cluster.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    let mut done = CarriedOut::default();
    for action in &plan.actions {
        let changed = match action {
            NodeAction::Create { slot, attempt } => {
                let mut pod = resources.node.pod(*slot, &resources.revision);
                let annotations = pod.metadata.annotations.get_or_insert_default();
                annotations.insert(names::ATTEMPT.to_owned(), attempt.to_string());
                match create(&pods, &pod).await? {
                    Creation::Made => true,
                    Creation::There => false,
                    Creation::Refused(refusal) => {
                        // The others would be refused as well.
                        done.refusal = Some(refusal);
                        break;
                    }
                }
            }
            NodeAction::Open { name, uid, addresses, region, again: _ } => {
                patch(&pods, name, &opening(uid, addresses, region)).await?
            }
            NodeAction::Close { name, uid, state, since, reason, because: _ } => {
                let metadata = closing(uid, *state, &since.to_string(), reason.as_str());
                patch(&pods, name, &metadata).await?
            }
            NodeAction::Delete { name, uid, reason: _ } => delete(&pods, name, uid).await?,
        };
        if changed {
            done.changes += 1;
            events::node(context, cluster, action).await;
        }
    }
    if let Some(refusal) = &done.refusal
        && !status::is_told(cluster, refusal.reason())
    {
        events::refused(context, cluster, refusal, &namespace).await;
    }
    Ok(done)
}

enum Creation {
    Made,
    /// A pod of this name is there: the next look will see it.
    There,
    Refused(Refusal),
}

/// Creates and never writes over: the name of the slot keeps two reconciles from making two pods.
async fn create(pods: &Api<Pod>, pod: &Pod) -> Result<Creation, ApplyError> {
    let params =
        PostParams { field_manager: Some(names::MANAGER.to_owned()), ..PostParams::default() };
    match pods.create(&params, pod).await {
        Ok(_) => Ok(Creation::Made),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(Creation::There),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            Ok(Creation::Refused(Refusal::of(&status)))
        }
        Err(error) => Err(ApplyError::new("Pod", &pod.name_any(), error)),
    }
}

/// What makes a pod take traffic, whatever it was told before.
fn opening(uid: &str, addresses: &str, region: &str) -> Value {
    json!({
        "uid": uid,
        "labels": {names::PLACEMENT: names::OPEN},
        "annotations": {
            names::ADVERTISE_ADDRESSES: addresses,
            names::REGION: region,
            names::STATE: NodeState::Open.to_string(),
            names::PLACEMENT_SINCE: null,
            names::PLACEMENT_REASON: null,
        },
    })
}

/// What makes a pod leave: state, time and reason are there together or not at all.
fn closing(uid: &str, state: NodeState, since: &str, reason: &str) -> Value {
    let placement = match state {
        NodeState::Open => names::OPEN,
        NodeState::Cordoned => names::CORDONED,
        NodeState::Draining { rooms_per_second: _ } => names::DRAINING,
    };
    json!({
        "uid": uid,
        "labels": {names::PLACEMENT: placement},
        "annotations": {
            names::STATE: state.to_string(),
            names::PLACEMENT_SINCE: since,
            names::PLACEMENT_REASON: reason,
        },
    })
}

/// Changes the metadata of a pod; says whether it was there. The unique id in it keeps the change
/// from the pod's successor.
async fn patch(pods: &Api<Pod>, name: &str, metadata: &Value) -> Result<bool, ApplyError> {
    let patch = json!({"metadata": metadata});
    let params =
        PatchParams { field_manager: Some(names::MANAGER.to_owned()), ..PatchParams::default() };
    match pods.patch_metadata(name, &params, &Patch::Merge(&patch)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.code == INVALID => {
            Ok(false)
        }
        Err(error) => Err(ApplyError::new("Pod", name, error)),
    }
}

async fn delete(pods: &Api<Pod>, name: &str, uid: &str) -> Result<bool, ApplyError> {
    let only_this = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    match pods.delete(name, &DeleteParams::default().preconditions(only_this)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(false),
        Err(error) => Err(ApplyError::new("Pod", name, error)),
    }
}
