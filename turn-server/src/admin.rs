//! Probes, metrics and drain over HTTP.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};

use crate::program::Running;

/// The admin listener's paths.
pub(crate) fn router(running: Arc<Running>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/drain", post(drain))
        .with_state(running)
}

/// Alive while every worker works.
async fn healthz(State(running): State<Arc<Running>>) -> (StatusCode, &'static str) {
    if running.workers_live() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "a worker ended")
    }
}

/// Ready while new allocations are made.
async fn readyz(State(running): State<Arc<Running>>) -> (StatusCode, &'static str) {
    if running.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else if running.workers_live() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "a worker ended")
    }
}

async fn metrics(State(running): State<Arc<Running>>) -> String {
    running.render_metrics()
}

async fn drain(State(running): State<Arc<Running>>) -> StatusCode {
    running.drain();
    StatusCode::ACCEPTED
}
