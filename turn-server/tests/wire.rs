//! The program on the wire: real sockets, real clients. What must not leave is looked for at the
//! peer.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail it")]
#![allow(unsafe_code)] // Signals and network namespaces.

#[path = "wire/client.rs"]
mod client;
#[path = "wire/server.rs"]
mod server;

#[path = "wire/abuse.rs"]
mod abuse;
#[path = "wire/dev.rs"]
mod dev;
#[path = "wire/exhaustion.rs"]
mod exhaustion;
#[path = "wire/interop.rs"]
mod interop;
#[path = "wire/lifecycle.rs"]
mod lifecycle;
#[path = "wire/marks.rs"]
mod marks;
#[path = "wire/proxy.rs"]
mod proxy;
#[path = "wire/reload.rs"]
mod reload;
#[path = "wire/sans_io.rs"]
mod sans_io;
#[path = "wire/silence.rs"]
mod silence;
#[path = "wire/tcp_relay.rs"]
mod tcp_relay;
#[path = "wire/transports.rs"]
mod transports;
