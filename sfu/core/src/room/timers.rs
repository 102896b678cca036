//! What happens because time passes.

use std::time::{Duration, Instant};

use livekit_protocol::DisconnectReason;
use livekit_protocol::leave_request::Action;
use livekit_protocol::participant_info::State;

use super::Room;
use super::participant::{Participant, ParticipantKey};
use crate::media::TransportId;
use crate::time::Now;

/// A participant that has no media connection for so long after joining is removed.
pub(super) const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
/// A lost media connection may come back by an ICE restart for so long.
pub(super) const MEDIA_TIMEOUT: Duration = Duration::from_secs(5);
/// The same after the client resumed: it is about to restart ICE.
pub(super) const RESUME_TIMEOUT: Duration = Duration::from_secs(15);
/// Without signalling and media a participant stays for so long.
pub(super) const SIGNAL_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a client gets a new token.
pub(super) const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// How long departures are remembered.
const DEPARTED_AGE: Duration = Duration::from_secs(60);

impl Room {
    /// When [`Self::handle_timeout`] is to be called at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.participants_due().into_iter().chain(self.rest_due()).min()
    }

    /// When something of a participant is due. This looks at everybody; [`crate::media::MediaEvent::is_measurement`]
    /// says after what it stays as it is.
    pub fn participants_due(&self) -> Option<Instant> {
        self.participants.values().filter_map(next_deadline).min()
    }

    /// When something else of the room is due.
    pub fn rest_due(&self) -> Option<Instant> {
        self.ends_at
            .into_iter()
            .chain(self.update_at.filter(|_| !self.participants.is_empty()))
            .chain(self.pending_updates.due)
            .chain(self.quality_due())
            .chain(self.demands.next_due())
            .chain(self.rpcs.next_due())
            .chain(self.simulated_speaker.map(|(_, until)| until))
            .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        let due: Vec<ParticipantKey> = self
            .participants
            .iter()
            .filter(|(_, p)| next_deadline(p).is_some_and(|at| at <= now.instant))
            .map(|(key, _)| *key)
            .collect();
        for key in due {
            self.participant_timeout(key, now);
        }
        self.departed.retain(|(at, _)| now.instant.duration_since(*at) < DEPARTED_AGE);
        let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now.instant);
        if passed(self.update_at) {
            self.broadcast_room_update();
        }
        if passed(self.pending_updates.due) {
            self.tell_updates();
        }
        if passed(self.quality_due()) {
            self.tell_quality();
        }
        if passed(self.simulated_speaker.map(|(_, until)| until)) {
            self.end_simulated_speaker();
        }
        self.time_out_rpcs(now);
        self.settle(now);
        if self.participants.is_empty() && self.ends_at.is_some_and(|at| at <= now.instant) {
            self.end();
        }
    }

    fn participant_timeout(&mut self, key: ParticipantKey, now: Now) {
        let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now.instant);
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if passed(participant.deadlines.join) {
            return self.remove(key, DisconnectReason::JoinFailure, None, now);
        }
        if passed(participant.deadlines.media) {
            let reason = DisconnectReason::ConnectionTimeout;
            return self.remove(key, reason, Some(Action::Reconnect), now);
        }
        if passed(participant.deadlines.signal) {
            participant.deadlines.signal = None;
            if !participant.transports().any(|transport| transport.connected) {
                return self.remove(key, DisconnectReason::SignalClose, None, now);
            }
        }
        if passed(participant.negotiation.pending) {
            participant.negotiation.pending = None;
            if participant.session.is_some() {
                let reason = DisconnectReason::StateMismatch;
                return self.remove(key, reason, Some(Action::Reconnect), now);
            }
        }
        let refresh = passed(participant.deadlines.refresh);
        if refresh {
            participant.deadlines.refresh = Some(now.instant + REFRESH_INTERVAL);
        }
        let negotiate = passed(participant.negotiation.due);
        if negotiate {
            participant.negotiation.due = None;
        }
        if refresh {
            self.refresh_token(key, now);
        }
        if negotiate {
            self.negotiate(key, now);
        }
    }

    pub(super) fn transport_connected(&mut self, transport: TransportId, now: Now) {
        let Some((key, role)) = self.transports.get(&transport).copied() else { return };
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if let Some(transport) = participant.transport_mut(role) {
            transport.connected = true;
        }
        if participant.transports().all(|t| t.connected || t.remote.is_none()) {
            participant.deadlines.media = None;
            self.set_lost(key, false, now);
        }
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if participant.primary() == role && participant.state == State::Joined {
            participant.state = State::Active;
            participant.deadlines.join = None;
            let info = participant.info();
            self.broadcast_participant(key, true, now);
            self.introduce_quality(key, now);
            self.emit("participant_joined", Some(info), None);
            self.participant_joined_jobs(key);
            self.count_changed(now);
        }
    }

    pub(super) fn transport_failed(&mut self, transport: TransportId, now: Now) {
        let Some((key, role)) = self.transports.get(&transport).copied() else { return };
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if let Some(transport) = participant.transport_mut(role) {
            transport.connected = false;
        }
        participant.deadlines.media.get_or_insert(now.instant + MEDIA_TIMEOUT);
        self.set_lost(key, true, now);
    }
}

fn next_deadline(participant: &Participant) -> Option<Instant> {
    let deadlines = &participant.deadlines;
    let negotiation = &participant.negotiation;
    [
        deadlines.join,
        deadlines.media,
        deadlines.signal,
        deadlines.refresh,
        negotiation.due,
        negotiation.pending,
    ]
    .into_iter()
    .flatten()
    .min()
}
