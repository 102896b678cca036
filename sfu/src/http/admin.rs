//! Probes and metrics, on a port that no ingress publishes. No probe of a node that has worked
//! depends on Redis: a failed Redis must not take it down.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

use super::text;
use crate::node::Node;

/// `/healthz`, `/readyz`, `/metrics`.
pub fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(node)
}

async fn ready(State(node): State<Arc<Node>>) -> Response {
    node.unready_reason().map_or_else(|| text(200, "ok"), |reason| text(503, reason))
}

async fn metrics(State(node): State<Arc<Node>>) -> Response {
    node.metrics.set_known_nodes(node.placement.nodes().len());
    let body = node.metrics.render(node.rooms.counts(), node.media.counters());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], body).into_response()
}
