//! What a room's next home needs to go on where this one ends, beside its id and metadata.
//! Participants bring the rest themselves: their tokens carry what they may and who they are.

use std::time::Duration;

use livekit_protocol::AgentDispatch;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::forwards::KeptForward;
use super::revocations::{Revocation, Revocations};
use super::{Room, RoomOptions};
use crate::time::Now;

/// Participants of a room that moved get at least this long to come back before it ends as empty.
const RETURN_TIMEOUT: Duration = Duration::from_secs(30);

/// The lasting part of a room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoomState {
    created_ms: u64,
    visited: bool,
    empty_timeout: u32,
    departure_timeout: u32,
    max_participants: u32,
    #[serde(default)]
    min_playout_delay: u32,
    #[serde(default)]
    max_playout_delay: u32,
    #[serde(default)]
    sync_streams: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dispatches: Vec<AgentDispatch>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    revocations: Vec<Revocation>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    forwards: Vec<KeptForward>,
}

impl RoomState {
    /// Reads what [`Self::to_json`] wrote; `None` where there is nothing, or nothing of ours.
    pub fn from_json(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// For the store.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers, texts and lists are JSON")
    }
}

impl Room {
    /// Makes a room that goes on where an earlier home ended. Nobody is told that it starts.
    pub fn restore(options: RoomOptions, state: RoomState, rng: StdRng, now: Now) -> Self {
        let mut room = Self::empty(options, rng, now);
        let RoomState {
            created_ms,
            visited,
            empty_timeout,
            departure_timeout,
            max_participants,
            min_playout_delay,
            max_playout_delay,
            sync_streams,
            dispatches,
            revocations,
            forwards,
        } = state;
        room.created_ms = created_ms;
        room.visited = visited;
        let config = &mut room.options.config;
        config.empty_timeout = empty_timeout;
        config.departure_timeout = departure_timeout;
        config.max_participants = max_participants;
        config.min_playout_delay = min_playout_delay;
        config.max_playout_delay = max_playout_delay;
        config.sync_streams = sync_streams;
        let timeout = if visited { departure_timeout } else { empty_timeout };
        let timeout = Duration::from_secs(timeout.into()).max(RETURN_TIMEOUT);
        room.ends_at = Some(now.instant + timeout);
        room.restore_dispatches(dispatches);
        room.revocations = Revocations::restore(revocations);
        room.restore_forwards(forwards, now.instant + RETURN_TIMEOUT);
        room
    }

    /// What the next home needs.
    pub fn state(&self) -> RoomState {
        RoomState {
            created_ms: self.created_ms,
            visited: self.visited,
            empty_timeout: self.options.config.empty_timeout,
            departure_timeout: self.options.config.departure_timeout,
            max_participants: self.options.config.max_participants,
            min_playout_delay: self.options.config.min_playout_delay,
            max_playout_delay: self.options.config.max_playout_delay,
            sync_streams: self.options.config.sync_streams,
            dispatches: self.dispatches(),
            revocations: self.revocations.list(),
            forwards: self.kept_forwards(),
        }
    }

    /// Rises with every change of [`Self::state`] or of the metadata.
    pub fn state_version(&self) -> u64 {
        self.state_version
    }

    pub(super) fn state_changed(&mut self) {
        self.state_version += 1;
    }
}
