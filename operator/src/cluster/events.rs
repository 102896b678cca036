//! Events: what happened, for `kubectl describe`. A lost Event is no reason to stop.

use crds::{LiveCluster, names};
use kube::Resource as _;
use kube::runtime::events::{Event, EventType};
use tracing::debug;

use super::nodes::{NodeAction, Refusal};
use super::validate::Invalid;
use crate::controller::Context;

/// Longest note that Kubernetes takes, in bytes.
const MAX_NOTE: usize = 1000;

/// A step with a media pod was carried out.
pub async fn node(context: &Context, cluster: &LiveCluster, name: &str, action: &NodeAction) {
    let (reason, note) = match action {
        NodeAction::Create { slot } => {
            ("NodeCreated", format!("Created media node {}", names::node(name, *slot)))
        }
        NodeAction::Open { name, addresses } => {
            ("NodeOpened", format!("Media node {name} advertises {addresses}"))
        }
        NodeAction::Delete { name, uid: _, reason } => {
            (reason.as_str(), format!("Deleted media node {name}"))
        }
    };
    publish(context, cluster, EventType::Normal, reason, "ManageNodes", note).await;
}

/// The API server refuses media pods.
pub async fn refused(context: &Context, cluster: &LiveCluster, refusal: &Refusal, namespace: &str) {
    let note = refusal.message(namespace);
    publish(context, cluster, EventType::Warning, refusal.reason(), "ManageNodes", note).await;
}

/// The LiveCluster cannot be acted upon.
pub async fn invalid(context: &Context, cluster: &LiveCluster, invalid: &Invalid) {
    let note = invalid.to_string();
    publish(context, cluster, EventType::Warning, invalid.reason(), "Validate", note).await;
}

async fn publish(
    context: &Context,
    cluster: &LiveCluster,
    type_: EventType,
    reason: &str,
    action: &str,
    mut note: String,
) {
    let end = (0..=MAX_NOTE.min(note.len())).rev().find(|end| note.is_char_boundary(*end));
    note.truncate(end.unwrap_or_default());
    let event = Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note),
        action: action.to_owned(),
        secondary: None,
    };
    if let Err(error) = context.recorder.publish(&event, &cluster.object_ref(&())).await {
        debug!(%error, reason, "Event not published");
    }
}
