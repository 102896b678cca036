//! Events: what happened, for `kubectl describe`. A lost Event is no reason to stop.

use contract::node_state::NodeState;
use crds::{LiveCluster, names};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType};
use kube::{Resource as _, ResourceExt as _};
use tracing::debug;

use super::autoscaling::scaler::Decision;
use super::conditions::Finding;
use super::nodes::{LeaveReason, NodeAction, Refusal};
use super::validate::Invalid;
use crate::controller::Context;

/// Longest note that Kubernetes takes, in bytes.
const MAX_NOTE: usize = 1000;

/// A step with a media pod was carried out.
pub async fn node(context: &Context, cluster: &LiveCluster, action: &NodeAction) {
    let (pod, reason, note) = match action {
        NodeAction::Create { slot, attempt } => {
            let pod = names::node(&cluster.name_any(), *slot);
            let note = match attempt {
                0 => format!("Created media node {pod}"),
                ended => format!("Created media node {pod} after {ended} that ended early"),
            };
            (pod, "NodeCreated", note)
        }
        NodeAction::Open { name, uid: _, addresses, region: _, again: false } => {
            (name.clone(), "NodeOpened", format!("Media node {name} advertises {addresses}"))
        }
        NodeAction::Open { name, uid: _, addresses: _, region: _, again: true } => {
            let note = format!("Media node {name} takes rooms again instead of leaving");
            (name.clone(), "NodeReopened", note)
        }
        NodeAction::Close { name, uid: _, state, since: _, reason, because } => {
            closing(name, *state, *reason, because)
        }
        NodeAction::Delete { name, uid: _, reason } => {
            (name.clone(), reason.as_str(), format!("Deleted media node {name}"))
        }
    };
    // Kubernetes counts Events of one reason as one, except about different objects.
    let related = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: cluster.namespace(),
        name: Some(pod),
        ..ObjectReference::default()
    };
    let kind = EventType::Normal;
    publish(context, cluster, kind, reason, "ManageNodes", note, Some(related)).await;
}

/// Pod, reason and note of a media node that is told to leave.
fn closing(
    name: &str,
    state: NodeState,
    reason: LeaveReason,
    because: &str,
) -> (String, &'static str, String) {
    let cause = reason.as_str();
    let because = if because.is_empty() { String::new() } else { format!(": {because}") };
    let (reason, note) = match state {
        NodeState::Open => ("NodeOpened", format!("Media node {name} takes rooms")),
        NodeState::Cordoned => (
            "NodeCordoned",
            format!("Media node {name} takes no new rooms and leaves ({cause}){because}"),
        ),
        NodeState::Draining { rooms_per_second } => (
            "NodeDraining",
            format!(
                "Media node {name} moves its rooms, {rooms_per_second} per second, and leaves \
                 ({cause}){because}"
            ),
        ),
    };
    (name.to_owned(), reason, note)
}

/// The operator changed the number of media nodes by what they do.
pub async fn scaled(context: &Context, cluster: &LiveCluster, before: u16, decision: &Decision) {
    let need = decision.need.map(|need| format!(": {need}")).unwrap_or_default();
    let reason = if decision.nodes > before { "ScaledOut" } else { "ScaledIn" };
    let note = format!("{} media nodes instead of {before}{need}", decision.nodes);
    publish(context, cluster, EventType::Normal, reason, "Autoscale", note, None).await;
}

/// The HorizontalPodAutoscaler that was asked for cannot be had, and the operator scales itself.
pub async fn metrics_api_missing(context: &Context, cluster: &LiveCluster, finding: &Finding) {
    let (reason, note) = (&finding.reason, finding.message.clone());
    publish(context, cluster, EventType::Warning, reason, "Autoscale", note, None).await;
}

/// The API server refuses media pods.
pub async fn refused(context: &Context, cluster: &LiveCluster, refusal: &Refusal, namespace: &str) {
    let note = refusal.message(namespace);
    publish(context, cluster, EventType::Warning, refusal.reason(), "ManageNodes", note, None)
        .await;
}

/// The LiveCluster cannot be acted upon.
pub async fn invalid(context: &Context, cluster: &LiveCluster, invalid: &Invalid) {
    let note = invalid.to_string();
    publish(context, cluster, EventType::Warning, invalid.reason(), "Validate", note, None).await;
}

async fn publish(
    context: &Context,
    cluster: &LiveCluster,
    type_: EventType,
    reason: &str,
    action: &str,
    mut note: String,
    secondary: Option<ObjectReference>,
) {
    let end = (0..=MAX_NOTE.min(note.len())).rev().find(|end| note.is_char_boundary(*end));
    note.truncate(end.unwrap_or_default());
    let event = Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note),
        action: action.to_owned(),
        secondary,
    };
    if let Err(error) = context.recorder.publish(&event, &cluster.object_ref(&())).await {
        debug!(%error, reason, "Event not published");
    }
}
