//! The admin port: probes and metrics. Every operator answers, whether it leads or not.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// What the admin port tells.
#[derive(Debug, Clone)]
pub struct Admin {
    metrics: Metrics,
    ready: Arc<AtomicBool>,
}

impl Admin {
    /// Starts as not ready.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, ready: Arc::default() }
    }

    /// The API server has answered.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Serves until the process ends.
    pub async fn serve(self, port: u16) -> std::io::Result<()> {
        // An IPv6 socket takes IPv4 as well, except where the kernel has no IPv6.
        let listener =
            match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
                Ok(listener) => listener,
                Err(_) => TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await?,
            };
        axum::serve(listener, self.router()).await
    }

    fn router(self) -> Router {
        Router::new()
            .route("/healthz", get(|| async { "ok" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self)
    }
}

async fn readyz(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    if admin.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "waiting for the API server")
    }
}

async fn metrics(State(admin): State<Admin>) -> (StatusCode, Vec<u8>) {
    match admin.metrics.text() {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string().into_bytes()),
    }
}
