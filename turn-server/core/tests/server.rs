//! The whole server without a network: what RFC 8656, RFC 8489 and RFC 6062 say, and what must
//! not happen.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail it")]

#[path = "server/harness.rs"]
mod harness;

#[path = "server/allocate.rs"]
mod allocate;
#[path = "server/auth.rs"]
mod auth;
#[path = "server/data.rs"]
mod data;
#[path = "server/limits.rs"]
mod limits;
#[path = "server/peers.rs"]
mod peers;
#[path = "server/random.rs"]
mod random;
#[path = "server/tcp.rs"]
mod tcp;
