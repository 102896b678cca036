//! The media node: sockets, threads, HTTP and Redis around the decisions of `sfu-core`.

pub mod agents;
pub mod call;
pub mod drain;
pub mod forwards;
pub mod http;
pub mod keys;
pub mod livekit;
pub mod lookup;
pub mod metrics;
pub mod node;
pub mod peer;
pub mod placement;
pub mod program;
pub mod reach;
pub mod room_events;
pub mod rooms;
pub mod rtc;
pub mod session;
pub mod settings;
pub mod turn;
pub mod webhooks;
