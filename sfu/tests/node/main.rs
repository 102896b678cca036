//! Whole nodes in this process, asked over their sockets.

#![allow(clippy::unwrap_used)] // Tests may panic.

mod agents;
mod call;
mod choice;
mod cluster;
mod cost;
mod forwarding;
mod http;
mod media;
mod moving;
mod nonsense;
mod presets;
mod redis_cluster;
mod redis_faults;
mod room_events;
mod room_service;
mod scripts;
mod sentinel;
mod support;
mod webhooks;
