//! The operator: makes a cluster what its LiveClusters say, and reports what it found.
//!
//! A reconcile is a pipeline of types: [`cluster::dereference`] reads what the spec names,
//! [`cluster::validate`] turns it into a type that cannot be wrong, [`cluster::build`] is a plain
//! function to Kubernetes objects, [`cluster::apply`] writes them, [`cluster::status`] reports.

pub mod admin;
pub mod alternative;
pub mod args;
pub mod cluster;
pub mod controller;
pub mod leader;
pub mod manifests;
pub mod metrics;
pub mod metrics_api;
pub mod ownership;
pub mod uninstall;
