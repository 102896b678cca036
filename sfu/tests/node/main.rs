//! Whole nodes in this process, asked over their sockets.

#![allow(clippy::unwrap_used)] // Tests may panic.

mod agents;
mod cluster;
mod forwarding;
mod http;
mod media;
mod moving;
mod nonsense;
mod room_service;
mod scripts;
mod sentinel;
mod support;
mod webhooks;
