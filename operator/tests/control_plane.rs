//! The operator beside a control plane of its own: killed, paused, misused, and with many clusters.
//!
//! `cargo run -p e2e --bin cluster -- control-plane cargo test -p operator --test control_plane`
//! starts one and says in `LIVECLUSTER_CONTROL_PLANE` where it is; without it nothing is tested.
//! The tests play scheduler, kubelet and media nodes. What takes minutes is in `long`.
#![expect(clippy::unwrap_used, reason = "a test says no more when it fails")]
#![expect(unreachable_pub, reason = "the modules of a test are one program")]

#[path = "control_plane/cases.rs"]
mod cases;
#[path = "control_plane/exposures.rs"]
mod exposures;
#[path = "control_plane/faults.rs"]
mod faults;
#[path = "control_plane/leaders.rs"]
mod leaders;
#[path = "control_plane/long.rs"]
mod long;
#[path = "control_plane/normal.rs"]
mod normal;
#[path = "control_plane/plane.rs"]
mod plane;
#[path = "control_plane/rest.rs"]
mod rest;
#[path = "control_plane/rights.rs"]
mod rights;
#[path = "control_plane/table.rs"]
mod table;
#[path = "control_plane/troubles.rs"]
mod troubles;
#[path = "control_plane/values.rs"]
mod values;
#[path = "control_plane/world.rs"]
mod world;
