//! What a client tells of its room: `clients/browser/src/protocol.ts` in Rust.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::person::Colour;

/// What a client sees of its room.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Report {
    /// State of the connection in livekit-client's words: `connected`, `reconnecting`, ….
    pub state: String,
    /// The room's sid; empty while not connected.
    pub room_sid: String,
    /// The client's own identity.
    pub identity: String,
    /// `server_info` of the join response; the Python client does not know it.
    pub server: ServerInfo,
    /// The others.
    pub participants: Vec<Participant>,
    /// Data messages, newest last.
    pub messages: Vec<Message>,
    /// The latest room events in order, newest last.
    pub events: Vec<String>,
    /// How often each room event has happened.
    pub counts: BTreeMap<String, usize>,
    /// Failures of the client's own code.
    pub errors: Vec<String>,
}

impl Report {
    /// The other participant of this identity.
    #[must_use]
    pub fn participant(&self, identity: &str) -> Option<&Participant> {
        self.participants.iter().find(|participant| participant.identity == identity)
    }

    /// How often an event has happened.
    #[must_use]
    pub fn count(&self, event: &str) -> usize {
        self.counts.get(event).copied().unwrap_or_default()
    }
}

/// `server_info` of the join response.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerInfo {
    /// The LiveKit version that the server is compatible with.
    pub version: String,
    /// Id of the room's home.
    pub node_id: String,
    /// The server's own version and name.
    pub debug_info: String,
}

/// Another participant.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Participant {
    /// Participant sid: who comes back by a new session gets another.
    pub sid: String,
    /// Unique in the room.
    pub identity: String,
    /// For people to read.
    pub name: String,
    /// What it publishes.
    pub tracks: Vec<Track>,
}

impl Participant {
    /// The track of a source such as `camera`.
    #[must_use]
    pub fn track(&self, source: &str) -> Option<&Track> {
        self.tracks.iter().find(|track| track.source == source)
    }
}

/// A remote track; its numbers are zero until something arrived.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Track {
    /// Track sid.
    pub sid: String,
    /// `audio` or `video`.
    pub kind: String,
    /// `camera`, `microphone`, `screen_share`, ….
    pub source: String,
    /// The publisher paused it.
    pub muted: bool,
    /// Mime type, such as `video/VP8`.
    pub codec: String,
    /// RTP packets.
    pub packets_received: u64,
    /// Decoded pictures.
    pub frames_decoded: u64,
    /// Of the last picture, in pixels.
    pub width: u32,
    /// Of the last picture, in pixels.
    pub height: u32,
    /// Middle of the last picture.
    pub colour: Colour,
    /// Grows while there is sound.
    pub audio_energy: f64,
    /// Loudest frequency; 0 is silence.
    pub tone_hz: f64,
    /// Where the media comes from: `udp 10.0.0.1:20001`.
    pub remote: String,
    /// What the decoder says of itself, where the client asks it.
    #[serde(default)]
    pub decoder: String,
}

/// A data message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Identity of the sender.
    pub from: String,
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub text: String,
}
