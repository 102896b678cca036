//! A TURN server (RFC 8656) on the sans-IO core of `turn-server-core`: sockets, threads, files,
//! metrics. One worker thread a core, each with sockets, allocations and timers of its own;
//! nothing is shared on the way of a packet.

mod admin;
mod admission;
mod connection;
mod dtls;
mod files;
mod metrics;
pub mod program;
mod proxy;
mod queue;
mod reload;
mod runs;
pub mod settings;
mod tls;
pub mod udp;
mod worker;
