//! A TURN server (RFC 8656, RFC 8489, RFC 6062) without I/O: bytes, addresses and time go in;
//! bytes, timers and commands come out. It never opens a socket, reads a clock or a random
//! source, and waits for nothing. A `Server` serves one worker and shares nothing with others.
//!
//! Per packet, [`api::ClientAction`] and [`api::ToClient`] say what to send where, without
//! copying; everything rarer is an [`api::Command`].

mod allocation;
pub mod api;
mod auth;
pub mod counters;
pub mod framer;
mod limits;
mod nonce;
mod peers;
mod ports;
pub mod server;
pub mod stun;
