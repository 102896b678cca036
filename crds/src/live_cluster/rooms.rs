//! Defaults of rooms, and who is told what happens in them.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Defaults of rooms that neither `CreateRoom` nor a token changes.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoomsSpec {
    /// A join makes a room that does not exist.
    #[serde(default = "default_auto_create")]
    pub auto_create: bool,
    /// Seconds that a room stays when nobody joined.
    #[serde(default = "default_empty_timeout")]
    #[schemars(range(min = 1, max = 86_400))]
    #[schemars(extend("format" = "int32"))]
    pub empty_timeout_seconds: u32,
    /// Seconds that a room stays after the last participant left.
    #[serde(default = "default_departure_timeout")]
    #[schemars(range(min = 1, max = 86_400))]
    #[schemars(extend("format" = "int32"))]
    pub departure_timeout_seconds: u32,
    /// Most participants of a room, agents and egress not counted; 0 is no limit.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100_000))]
    #[schemars(extend("format" = "int32"))]
    pub max_participants: u32,
    /// The server API may unmute tracks, too.
    #[serde(default)]
    pub remote_unmute: bool,
    /// Codecs that may be published; all that are known when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 9))]
    pub enabled_codecs: Vec<RoomCodec>,
    /// How long clients hold pictures back.
    #[serde(default)]
    pub playout_delay: PlayoutDelaySpec,
    /// Camera and microphone of a participant are one stream, which browsers play in step.
    #[serde(default)]
    pub sync_streams: bool,
    /// Of a room's audio only this many of the loudest tracks are forwarded; 0 forwards all.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    #[schemars(extend("format" = "int32"))]
    pub loudest_audio_tracks: u32,
    /// Most tracks that one participant receives; what exceeds them waits.
    #[serde(default)]
    pub subscription_limits: SubscriptionLimits,
    /// Settings of rooms that tokens (`roomPreset`) and `CreateRoom` (`room_preset`) choose by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub presets: Vec<RoomPresetSpec>,
    /// About how many room events the stream in Redis keeps for other programs; 0 is no stream.
    #[serde(default = "default_event_stream_length")]
    #[schemars(range(min = 0, max = 10_000_000))]
    #[schemars(extend("format" = "int32"))]
    pub event_stream_length: u32,
}

/// About 5 MB of Redis.
fn default_event_stream_length() -> u32 {
    10_000
}

fn default_auto_create() -> bool {
    true
}

/// LiveKit's default, as the next.
fn default_empty_timeout() -> u32 {
    300
}

fn default_departure_timeout() -> u32 {
    20
}

impl Default for RoomsSpec {
    fn default() -> Self {
        Self {
            auto_create: default_auto_create(),
            empty_timeout_seconds: default_empty_timeout(),
            departure_timeout_seconds: default_departure_timeout(),
            max_participants: 0,
            remote_unmute: false,
            enabled_codecs: Vec::new(),
            playout_delay: PlayoutDelaySpec::default(),
            sync_streams: false,
            loudest_audio_tracks: 0,
            subscription_limits: SubscriptionLimits::default(),
            presets: Vec::new(),
            event_stream_length: default_event_stream_length(),
        }
    }
}

/// Settings of a room by a name. What is absent stays as it is otherwise, and what the token or
/// `CreateRoom` says itself holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoomPresetSpec {
    /// The name.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Seconds that a room stays when nobody joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    #[schemars(extend("format" = "int32"))]
    pub empty_timeout_seconds: Option<u32>,
    /// Seconds that a room stays after the last participant left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    #[schemars(extend("format" = "int32"))]
    pub departure_timeout_seconds: Option<u32>,
    /// Most participants of a room, agents and egress not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    #[schemars(extend("format" = "int32"))]
    pub max_participants: Option<u32>,
    /// How long clients hold pictures back.
    #[serde(default)]
    pub playout_delay: PlayoutDelaySpec,
    /// Camera and microphone of a participant are one stream, which browsers play in step.
    #[serde(default)]
    pub sync_streams: bool,
    /// Metadata of the room.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub metadata: String,
    /// Agents that are dispatched to the room.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub agents: Vec<PresetAgentSpec>,
}

/// An agent that is dispatched to a room.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PresetAgentSpec {
    /// Name under which its workers register; empty for those that register without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub name: String,
    /// Told to the agent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub metadata: String,
}

/// A codec by its media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RoomCodec {
    /// RFC 7587.
    #[serde(rename = "audio/opus")]
    Opus,
    /// Redundant audio, RFC 2198; needs `audio/opus`.
    #[serde(rename = "audio/red")]
    Red,
    /// G.711 μ-law.
    #[serde(rename = "audio/PCMU")]
    Pcmu,
    /// G.711 A-law.
    #[serde(rename = "audio/PCMA")]
    Pcma,
    /// RFC 7741.
    #[serde(rename = "video/VP8")]
    Vp8,
    /// RFC 9628.
    #[serde(rename = "video/VP9")]
    Vp9,
    /// RFC 6184.
    #[serde(rename = "video/H264")]
    H264,
    /// RFC 7798.
    #[serde(rename = "video/H265")]
    H265,
    /// AV1.
    #[serde(rename = "video/AV1")]
    Av1,
}

impl RoomCodec {
    /// Its media type.
    #[must_use]
    pub fn mime(self) -> &'static str {
        match self {
            Self::Opus => "audio/opus",
            Self::Red => "audio/red",
            Self::Pcmu => "audio/PCMU",
            Self::Pcma => "audio/PCMA",
            Self::Vp8 => "video/VP8",
            Self::Vp9 => "video/VP9",
            Self::H264 => "video/H264",
            Self::H265 => "video/H265",
            Self::Av1 => "video/AV1",
        }
    }
}

/// How long clients hold pictures back before they show them. Both 0 leaves it to the client.
#[derive(KubeSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.maxMilliseconds == 0 || self.minMilliseconds <= self.maxMilliseconds")
        .message("spec.rooms.playoutDelay.minMilliseconds must not be above maxMilliseconds")
)]
pub struct PlayoutDelaySpec {
    /// At least so long.
    #[serde(default)]
    #[schemars(range(min = 0, max = 40_950))]
    #[schemars(extend("format" = "int32"))]
    pub min_milliseconds: u32,
    /// At most so long; 0 with a minimum is 10 s.
    #[serde(default)]
    #[schemars(range(min = 0, max = 40_950))]
    #[schemars(extend("format" = "int32"))]
    pub max_milliseconds: u32,
}

/// Most tracks that one participant receives; 0 is no limit. Those of higher priority, and of
/// one priority those subscribed first, come first.
#[derive(KubeSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionLimits {
    /// Audio tracks.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    #[schemars(extend("format" = "int32"))]
    pub audio: u32,
    /// Video tracks.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    #[schemars(extend("format" = "int32"))]
    pub video: u32,
}

/// Who is told what happens in rooms, by signed requests (LiveKit's webhooks).
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("size(self.urls) > 0 || !has(self.apiKey)")
        .message("spec.webhooks.apiKey needs spec.webhooks.urls"),
    validation = Rule::new("!has(self.includeEvents) || !has(self.excludeEvents)")
        .message("spec.webhooks must have either includeEvents or excludeEvents, not both")
)]
pub struct WebhooksSpec {
    /// Receivers, such as `https://app.example.com/webhook`; each gets every event.
    #[serde(default)]
    #[schemars(length(max = 8), inner(length(min = 1, max = 2048)))]
    #[x_kube(validation = Rule::new("self.all(u, u.matches('^https?://[^ /?#@]+([/?#][^ ]*)?$'))")
        .message("spec.webhooks.urls must be http or https URLs without user and password"))]
    pub urls: Vec<String>,
    /// API key whose secret signs; the first of the cluster when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub api_key: Option<String>,
    /// Only these events; all when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 9))]
    pub include_events: Vec<WebhookEvent>,
    /// None of these events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 9))]
    pub exclude_events: Vec<WebhookEvent>,
}

/// An event that webhooks tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WebhookEvent {
    /// A room began.
    RoomStarted,
    /// It ended.
    RoomFinished,
    /// A participant has media.
    ParticipantJoined,
    /// It left.
    ParticipantLeft,
    /// It left before it had media.
    ParticipantConnectionAborted,
    /// A track is there.
    TrackPublished,
    /// It ended.
    TrackUnpublished,
    /// An agent took a job.
    AgentJobStarted,
    /// It ended.
    AgentJobEnded,
}

impl WebhookEvent {
    /// Its name in the event.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoomStarted => "room_started",
            Self::RoomFinished => "room_finished",
            Self::ParticipantJoined => "participant_joined",
            Self::ParticipantLeft => "participant_left",
            Self::ParticipantConnectionAborted => "participant_connection_aborted",
            Self::TrackPublished => "track_published",
            Self::TrackUnpublished => "track_unpublished",
            Self::AgentJobStarted => "agent_job_started",
            Self::AgentJobEnded => "agent_job_ended",
        }
    }
}
