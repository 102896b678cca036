//! LiveKit's signalling protocol: how a client joins, and the frames of its WebSocket.

pub mod codec;
pub mod join;

pub use livekit_protocol::{SignalRequest, SignalResponse, signal_request, signal_response};

/// Version of the signalling protocol that we speak (`ServerInfo.protocol`).
pub const PROTOCOL_VERSION: i32 = 16;
/// Version of the agents' protocol (`ServerInfo.agent_protocol`).
pub const AGENT_PROTOCOL_VERSION: i32 = 1;
/// LiveKit release whose behaviour clients may expect: they switch features by it.
pub const COMPATIBLE_VERSION: &str = "1.13.5";

/// Whether a message only asks whether we are there, as every client does every other second: it is
/// answered, and the room stays as it is.
pub fn is_ping(request: &SignalRequest) -> bool {
    use signal_request::Message;
    matches!(request.message, Some(Message::Ping(_) | Message::PingReq(_)))
}
