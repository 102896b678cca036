//! The LiveCluster API: types, defaults and validation rules of
//! `livecluster.dev/v1alpha1`, and the names of what the operator makes out of it.
//!
//! The manifest `crds/livecluster.yaml` and the reference `docs/api.md` are generated from these
//! types (`make generate`). Nothing here talks to a cluster.

pub mod duration;
pub mod generated;
pub mod live_cluster;
pub mod names;
pub mod quantity;
pub mod reference;
pub mod status;

pub use live_cluster::{LiveCluster, LiveClusterSpec};
pub use status::LiveClusterStatus;
