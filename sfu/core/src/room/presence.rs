//! What participants learn of each other.
//!
//! Whoever publishes is announced at once. The rest (joins and departures of an audience,
//! changed names) is gathered for a time that grows with the room: each change goes to
//! everybody, and a thousand people who join at once must not make a million messages.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use livekit_protocol::{DisconnectReason, ParticipantInfo, ParticipantUpdate, signal_response};

use super::Room;
use super::participant::ParticipantKey;
use crate::time::Now;

/// Gathering time for each participant of the room.
const GATHER_EACH: Duration = Duration::from_millis(5);
/// In a room of fewer everything is told at once.
const GATHER_FROM: u32 = 20;
/// Longest gathering time (LiveKit's interval).
const GATHER_LONGEST: Duration = Duration::from_secs(3);
/// Most departures that are remembered for clients that resume.
const MAX_DEPARTED: usize = 128;
/// Most bytes of participants in one message (LiveKit's target).
const MAX_UPDATE_BYTES: usize = 128 * 1024;

/// Updates that wait: the latest of each participant, by its key, which orders them by age.
#[derive(Debug, Default)]
pub(super) struct PendingUpdates {
    updates: BTreeMap<ParticipantKey, ParticipantInfo>,
    pub(super) due: Option<Instant>,
}

impl Room {
    /// Tells the others, and where `to_self` the participant too, how it is.
    pub(super) fn broadcast_participant(&mut self, key: ParticipantKey, to_self: bool, now: Now) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        participant.version += 1;
        let (info, publishes) = (participant.info(), participant.publishes());
        let hidden = participant.permission.hidden;
        if to_self {
            let update = ParticipantUpdate { participants: vec![info.clone()] };
            self.send(key, signal_response::Message::Update(update));
        }
        if !hidden {
            self.announce(key, info, publishes, now);
        }
    }

    /// A participant becomes hidden or visible for all others; whoever is visible is announced by
    /// the caller.
    pub(super) fn visibility_changed(&mut self, key: ParticipantKey, now: Now) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        self.changed_tracks.extend(participant.tracks.iter().map(|track| track.key));
        if participant.permission.hidden {
            let info = participant.departed_info(DisconnectReason::UnknownReason);
            participant.version = info.version;
            let (sid, publishes) = (participant.sid.to_string(), participant.publishes());
            self.remember_departure(info.clone(), now);
            self.announce(key, info, publishes, now);
            self.forget_speaker(key, &sid);
        }
        self.sync_all_data_subscriptions();
        self.count_changed(now);
    }

    /// Tells all that a participant left; who resumes later must learn it, too.
    pub(super) fn announce_departure(
        &mut self,
        participant: &super::Participant,
        reason: DisconnectReason,
        now: Now,
    ) {
        let info = participant.departed_info(reason);
        self.remember_departure(info.clone(), now);
        self.announce(participant.key, info, participant.publishes(), now);
    }

    fn remember_departure(&mut self, info: ParticipantInfo, now: Now) {
        if self.departed.len() == MAX_DEPARTED {
            self.departed.pop_front();
        }
        self.departed.push_back((now.instant, info));
    }

    fn announce(&mut self, key: ParticipantKey, info: ParticipantInfo, at_once: bool, now: Now) {
        let count = u32::try_from(self.participants.len()).unwrap_or(u32::MAX);
        if at_once || count < GATHER_FROM {
            self.pending_updates.updates.remove(&key);
            let update = ParticipantUpdate { participants: vec![info] };
            return self.send_to_all(&signal_response::Message::Update(update), Some(key));
        }
        let delay = (GATHER_EACH * count).min(GATHER_LONGEST);
        self.pending_updates.updates.insert(key, info);
        self.pending_updates.due.get_or_insert(now.instant + delay);
    }

    /// Sends what was gathered.
    pub(super) fn tell_updates(&mut self) {
        self.pending_updates.due = None;
        let updates = std::mem::take(&mut self.pending_updates.updates);
        for participants in messages(updates.into_values()) {
            let update = ParticipantUpdate { participants };
            self.send_to_all(&signal_response::Message::Update(update), None);
        }
    }
}

/// Cuts a list into messages of a size that slow clients take.
fn messages(infos: impl Iterator<Item = ParticipantInfo>) -> Vec<Vec<ParticipantInfo>> {
    use prost::Message as _;
    let mut messages = Vec::new();
    let (mut message, mut bytes) = (Vec::new(), 0);
    for info in infos {
        let length = info.encoded_len();
        if bytes + length > MAX_UPDATE_BYTES && !message.is_empty() {
            messages.push(std::mem::take(&mut message));
            bytes = 0;
        }
        bytes += length;
        message.push(info);
    }
    if !message.is_empty() {
        messages.push(message);
    }
    messages
}
