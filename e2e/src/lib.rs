//! Asks a running LiveCluster from outside, and brings up the Kubernetes cluster it runs on.
//!
//! [`cluster::Cluster`] is what tests use: it hides whether the cluster is kind with the
//! user's Docker, kind on a bare machine, or somebody else's. This crate never talks to the
//! programs by anything but their public interfaces.

pub mod artifact_cache;
pub mod bench;
pub mod certificate;
pub mod clients;
pub mod cluster;
pub mod control_plane;
pub mod demo;
pub mod dev_server;
pub mod doctor;
pub mod faults;
pub mod firewall;
pub mod images;
pub mod live_cluster;
pub mod livekit;
pub mod namespace;
pub mod node_pair;
pub mod plot;
pub mod pod_host;
pub mod private_network;
pub mod process;
pub mod release;
pub mod scaling;
pub mod server_pair;
pub mod stage;
pub mod tcp_proxy;
pub mod tools;
pub mod turn_server;
pub mod wait;

use std::path::{Path, PathBuf};

/// Returns the root of the repository that this program was built from.
#[must_use]
pub fn repository() -> PathBuf {
    let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_directory.parent().unwrap_or(crate_directory).to_path_buf()
}
