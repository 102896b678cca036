//! The custom metrics API (`custom.metrics.k8s.io`), which a HorizontalPodAutoscaler asks what the
//! media nodes do.
//!
//! The API server passes requests on to any operator, whether it leads or not, so that each finds
//! out by itself. A cluster has one owner of this API: ours is registered only where nobody else's
//! is, and taken back when another comes. What it must never do is refuse discovery: as long as
//! that fails, no namespace of the whole cluster can be deleted.

use std::sync::Arc;

use kube::Client;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::cluster::conditions::{Finding, Truth};
use crate::cluster::nodes::Hosts;

pub mod access;
pub mod certificates;
pub mod front_proxy;
pub mod registration;
pub mod router;
pub mod server;
pub mod values;

use access::Reviews;
use router::Api;
use values::Values;

/// Group of the API.
pub const GROUP: &str = "custom.metrics.k8s.io";
/// The version that we serve: what HorizontalPodAutoscalers prefer.
pub const VERSION: &str = "v1beta2";

/// A figure that the API tells of a LiveCluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Rooms.
    Rooms,
    /// Rooms, and `spec.autoscaling.freeSlots`.
    RoomSlots,
    /// Participants that subscribe to at least one track.
    Subscribers,
    /// Busy media workers: 1 is a whole node.
    Load,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Rooms, Self::RoomSlots, Self::Subscribers, Self::Load];

    /// Its name in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rooms => "rooms",
            Self::RoomSlots => "room-slots",
            Self::Subscribers => "subscribers",
            Self::Load => "load",
        }
    }

    /// The metric of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.as_str() == name)
    }
}

/// What became of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registration {
    /// The operator was installed without it.
    Off,
    /// Nobody has looked yet.
    Unknown,
    /// Another program serves the group.
    Foreign {
        /// Its namespace and name.
        service: String,
    },
    /// It is ours.
    Ours {
        /// The API server reaches it.
        available: bool,
        /// Why not.
        message: String,
    },
}

impl Registration {
    /// What a condition of this kind tells of it.
    #[must_use]
    pub fn finding(&self, kind: &'static str) -> Finding {
        match self {
            Self::Off => Finding::new(
                kind,
                false,
                "NotInstalled",
                "the operator was installed without it (metricsAPI.enabled of the chart), and \
                 sets spec.nodes itself",
            ),
            Self::Unknown => Finding::new(kind, Truth::Unknown, "NotRegistered", ""),
            Self::Foreign { service } => Finding::new(
                kind,
                false,
                "OwnedByOther",
                format!(
                    "{service} serves {GROUP}, of which a cluster has one; the operator sets \
                     spec.nodes itself"
                ),
            ),
            Self::Ours { available: true, message: _ } => {
                Finding::new(kind, true, "Registered", "")
            }
            Self::Ours { available: false, message } => {
                Finding::new(kind, false, "NoAnswer", message.clone())
            }
        }
    }
}

/// Where the API is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Namespace of the operator.
    pub namespace: String,
    /// The Service that leads to all operators.
    pub service: String,
    /// The ClusterRole that owns the registration: with it goes the registration.
    pub owner: String,
    /// Port to listen on.
    pub port: u16,
}

impl Settings {
    /// The name that the API server expects in the certificate.
    #[must_use]
    pub fn host(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }
}

/// Why the API cannot be served.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The port is taken.
    #[error("failed to listen on port {port}")]
    Listen {
        /// The port.
        port: u16,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Serves until the process ends.
pub async fn serve(client: Client, settings: Settings, hosts: Hosts) -> Result<(), ServeError> {
    let port = settings.port;
    let listener = TcpListener::bind(("::", port)).await;
    let listener = match listener {
        Ok(listener) => listener,
        // A kernel without IPv6.
        Err(_) => TcpListener::bind(("0.0.0.0", port))
            .await
            .map_err(|source| ServeError::Listen { port, source })?,
    };
    let (trust, trusted) = watch::channel(None);
    let (certificate, certified) = watch::channel(None);
    tokio::spawn(front_proxy::watch_trust(client.clone(), trust));
    tokio::spawn(certificates::follow(client.clone(), settings, certificate));
    let api = Api { access: Reviews::new(client.clone()), values: Values::new(client, hosts) };
    server::serve(listener, certified, trusted, Arc::new(api)).await;
    Ok(())
}
