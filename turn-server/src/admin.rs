//! Probes, metrics and drain over HTTP.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, State};
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

async fn drain(
    State(running): State<Arc<Running>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
) -> StatusCode {
    if !may_drain(from.ip()) {
        return StatusCode::FORBIDDEN;
    }
    running.drain();
    StatusCode::ACCEPTED
}

/// Only the machine or the pod itself: whoever may read metrics must not end calls.
fn may_drain(from: IpAddr) -> bool {
    from.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_machine_itself_drains() {
        for (from, expected) in [
            ("127.0.0.1", true),
            ("127.8.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.1.2.3", false),
            ("::ffff:10.1.2.3", false),
            ("203.0.113.7", false),
            ("fd00::1", false),
        ] {
            assert_eq!(may_drain(from.parse().unwrap()), expected, "{from}");
        }
    }
}
