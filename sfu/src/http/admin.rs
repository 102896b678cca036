//! Probes, metrics and drain by hand, on a port that no ingress publishes. No probe of a node that
//! has worked depends on Redis or on a drain: neither must take the node down.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use contract::node_state::NodeState;

use super::{query, text};
use crate::node::Node;

/// `/healthz`, `/readyz`, `/metrics`, `/drain`.
pub fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/drain", get(drain).put(set_drain))
        .with_state(node)
}

async fn ready(State(node): State<Arc<Node>>) -> Response {
    node.unready_reason().map_or_else(|| text(200, "ok"), |reason| text(503, reason))
}

async fn metrics(State(node): State<Arc<Node>>) -> Response {
    node.metrics.set_known_nodes(node.placement.nodes().len());
    let dropped = node.room_events.dropped();
    let body = node.metrics.render(node.rooms.counts(), node.media.counters(), dropped);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], body).into_response()
}

/// The state that the node is in.
async fn drain(State(node): State<Arc<Node>>) -> Response {
    text(200, format!("{}\n", node.drain.state()))
}

/// Sets the state, as the operator does by the pod's annotation: `/drain?state=draining%205`. Only
/// from the pod itself (`kubectl port-forward`, `kubectl exec`): it moves calls. It holds until the
/// next order, by whomever.
async fn set_drain(
    State(node): State<Arc<Node>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    uri: Uri,
) -> Response {
    if !from.ip().to_canonical().is_loopback() {
        return text(403, "only from the pod itself");
    }
    let query = query(&uri);
    let state = query.iter().find(|(key, _)| key == "state").map(|(_, value)| value.as_str());
    match state.unwrap_or_default().parse::<NodeState>() {
        Ok(state) if node.drain.order(state) => text(200, format!("{state}\n")),
        Ok(_) => text(409, "the process ends"),
        Err(error) => text(400, error.to_string()),
    }
}
