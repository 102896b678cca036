//! Rooms: defaults, and settings that are chosen by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::is_default;

/// Defaults of rooms that their creator did not set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoomConfig {
    /// A join creates a room that does not exist.
    pub auto_create: bool,
    /// Seconds a room stays when nobody joined.
    pub empty_timeout: u32,
    /// Seconds a room stays after the last participant left.
    pub departure_timeout: u32,
    /// Most participants in a room; 0 is no limit.
    pub max_participants: u32,
    /// Most audio tracks that a participant receives; 0 is no limit. What exceeds it waits.
    #[serde(skip_serializing_if = "is_default")]
    pub subscription_limit_audio: u32,
    /// Most video tracks that a participant receives; 0 is no limit. What exceeds it waits.
    #[serde(skip_serializing_if = "is_default")]
    pub subscription_limit_video: u32,
    /// Of a room's audio only this many of the loudest tracks are forwarded (on each worker that
    /// has publishers of the room); 0 forwards all.
    #[serde(skip_serializing_if = "is_default")]
    pub loudest_audio_tracks: u32,
    /// Codecs that may be published (`video/VP8`); all that are known when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub enabled_codecs: Vec<String>,
    /// Milliseconds that clients hold pictures back at least before they show them.
    #[serde(skip_serializing_if = "is_default")]
    pub min_playout_delay: u32,
    /// The same at most; 0 leaves both to the client, or with a minimum is 10 s.
    #[serde(skip_serializing_if = "is_default")]
    pub max_playout_delay: u32,
    /// Camera and microphone of a participant are one stream, which browsers play in step.
    #[serde(skip_serializing_if = "is_default")]
    pub sync_streams: bool,
    /// The server API may unmute tracks, too.
    #[serde(skip_serializing_if = "is_default")]
    pub enable_remote_unmute: bool,
    /// What tokens (`roomPreset`) and `CreateRoom` (`room_preset`) choose by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub presets: BTreeMap<String, RoomPreset>,
}

impl Default for RoomConfig {
    fn default() -> Self {
        Self {
            auto_create: true,
            empty_timeout: 300,
            departure_timeout: 20,
            max_participants: 0,
            subscription_limit_audio: 0,
            subscription_limit_video: 0,
            loudest_audio_tracks: 0,
            enabled_codecs: Vec::new(),
            min_playout_delay: 0,
            max_playout_delay: 0,
            sync_streams: false,
            enable_remote_unmute: false,
            presets: BTreeMap::new(),
        }
    }
}

/// Settings of a room under a name. What is 0, empty or false here stays as it is otherwise, and so
/// does what the token or `CreateRoom` says itself. Keys may also be written as in JSON
/// (`emptyTimeout`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoomPreset {
    /// As in [`RoomConfig`].
    #[serde(alias = "emptyTimeout", skip_serializing_if = "is_default")]
    pub empty_timeout: u32,
    /// As in [`RoomConfig`].
    #[serde(alias = "departureTimeout", skip_serializing_if = "is_default")]
    pub departure_timeout: u32,
    /// As in [`RoomConfig`].
    #[serde(alias = "maxParticipants", skip_serializing_if = "is_default")]
    pub max_participants: u32,
    /// As in [`RoomConfig`].
    #[serde(alias = "minPlayoutDelay", skip_serializing_if = "is_default")]
    pub min_playout_delay: u32,
    /// As in [`RoomConfig`].
    #[serde(alias = "maxPlayoutDelay", skip_serializing_if = "is_default")]
    pub max_playout_delay: u32,
    /// As in [`RoomConfig`].
    #[serde(alias = "syncStreams", skip_serializing_if = "is_default")]
    pub sync_streams: bool,
    /// Shown to all participants.
    #[serde(skip_serializing_if = "is_default")]
    pub metadata: String,
    /// Who is dispatched to the room.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<PresetAgent>,
}

/// An agent that is dispatched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PresetAgent {
    /// Name under which its workers register.
    #[serde(alias = "agentName")]
    pub agent_name: String,
    /// Told to the agent.
    #[serde(skip_serializing_if = "is_default")]
    pub metadata: String,
    /// Attributes of the agent's participant.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}
