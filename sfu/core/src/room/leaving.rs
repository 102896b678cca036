//! Leaving, being removed, and the end of a room.

use std::collections::BTreeMap;
use std::time::Duration;

use contract::ids::Identity;
use livekit_protocol::leave_request::Action;
use livekit_protocol::participant_info::State;
use livekit_protocol::{DisconnectReason, LeaveRequest, signal_response};
use tracing::info;

use super::participant::{Participant, ParticipantKey};
use super::{Room, RoomCloseReason, RoomOutput, SessionId};
use crate::media::MediaCommand;
use crate::time::Now;

impl Room {
    /// A WebSocket is gone without a leave: the client may come back and resume.
    pub fn handle_session_closed(&mut self, session: SessionId, now: Now) {
        let Some(key) = self.sessions.remove(&session) else { return };
        let Some(participant) = self.participants.get_mut(&key) else { return };
        participant.session = None;
        // With media the engine notices when the client is gone.
        participant.deadlines.signal = Some(now.instant + super::timers::SIGNAL_TIMEOUT);
    }

    /// Throws a participant out, who comes back with no token from before `tokens_from` (Unix
    /// seconds); `false` when it is not there.
    pub fn remove_participant(&mut self, identity: &Identity, tokens_from: u64, now: Now) -> bool {
        let Some(key) = self.identities.get(identity).copied() else { return false };
        // Whoever is another room's came without a token.
        let claims = self.participants.get(&key).filter(|p| p.origin.is_none());
        if let Some(claims) = claims.map(|participant| participant.claims.clone()) {
            self.revoke_tokens(identity.clone(), &claims, tokens_from, now);
        }
        self.remove(key, DisconnectReason::ParticipantRemoved, Some(Action::Disconnect), now);
        self.settle(now);
        true
    }

    /// Ends the room for all, or here: publishers are told first, so that their media is at the
    /// next home when their subscribers come.
    pub fn close(&mut self, reason: RoomCloseReason, now: Now) {
        let (disconnect, action) = match reason {
            RoomCloseReason::Deleted => (DisconnectReason::RoomDeleted, Action::Disconnect),
            RoomCloseReason::Drain => (DisconnectReason::ServerShutdown, Action::Reconnect),
        };
        if reason == RoomCloseReason::Drain {
            // Agents move as all others do; their jobs go on.
            self.forget_dispatches();
        }
        let mut keys: Vec<ParticipantKey> = self.participants.keys().copied().collect();
        keys.sort_by_key(|key| !self.participants.get(key).is_some_and(Participant::is_publisher));
        for key in keys {
            self.remove(key, disconnect, Some(action), now);
        }
        self.dirty.clear();
        match reason {
            RoomCloseReason::Deleted => self.end(),
            RoomCloseReason::Drain => self.end_here(),
        }
    }

    /// The room goes on elsewhere, or will: nobody is told that it is over.
    fn end_here(&mut self) {
        self.ends_at = None;
        if !std::mem::replace(&mut self.ended, true) {
            info!(room = %self.options.name, sid = %self.options.sid, "Room leaves");
            self.output.push_back(RoomOutput::Ended);
        }
    }

    pub(super) fn end(&mut self) {
        self.ends_at = None;
        if !std::mem::replace(&mut self.ended, true) {
            info!(room = %self.options.name, sid = %self.options.sid, "Room ends");
            self.end_dispatches();
            self.emit("room_finished", None, None);
            self.output.push_back(RoomOutput::Ended);
        }
    }

    /// Takes a participant out and tells it (`Disconnect` unless said otherwise) and the others.
    pub(super) fn remove(
        &mut self,
        key: ParticipantKey,
        reason: DisconnectReason,
        action: Option<Action>,
        now: Now,
    ) {
        let action = action.unwrap_or(Action::Disconnect);
        self.send(key, signal_response::Message::Leave(leave_request(reason, action)));
        self.forget(key, reason, now);
    }

    /// Takes a participant out as a node that fails: it is not told.
    pub(super) fn remove_silently(&mut self, key: ParticipantKey, now: Now) {
        self.forget(key, DisconnectReason::UnknownReason, now);
    }

    fn forget(&mut self, key: ParticipantKey, reason: DisconnectReason, now: Now) {
        let was_recorded = self.is_recorded();
        let Some(participant) = self.participants.remove(&key) else { return };
        info!(
            room = %self.options.name,
            participant = %participant.sid,
            reason = reason.as_str_name(),
            "Participant left"
        );
        if let Some(session) = participant.session {
            self.sessions.remove(&session);
            self.output.push_back(RoomOutput::CloseSession { session });
        }
        self.identities.remove(&participant.identity);
        self.dirty.remove(&key);
        self.end_media(&participant);
        self.end_origin(&participant, reason);
        self.end_forwards(key, reason);
        if !participant.permission.hidden {
            self.announce_departure(&participant, reason, now);
        }
        self.forget_speaker(key, participant.sid.as_str());
        self.participant_left_rpcs(key);
        if !participant.data_tracks.is_empty() {
            self.sync_all_data_subscriptions();
        }
        self.recording_changed(key, was_recorded);
        self.emit_departure(&participant, reason);
        self.participant_left_jobs(&participant, now);
        self.count_changed(now);
        if self.participants.is_empty() {
            let seconds = self.options.config.departure_timeout.into();
            self.ends_at = Some(now.instant + Duration::from_secs(seconds));
        }
    }

    /// Ends what a participant published and received.
    fn end_media(&mut self, participant: &Participant) {
        for track in &participant.tracks {
            self.end_track(track.key);
        }
        self.prune_senders();
        self.demands.change(&participant.sending_transport().senders, &[]);
        self.demands.change_backups(&participant.needed_backups, &BTreeMap::new());
        for transport in participant.transports() {
            self.transports.remove(&transport.id);
            if transport.remote.is_some() || Some(transport.id) == opened(participant) {
                self.media(MediaCommand::CloseTransport { transport: transport.id });
            }
        }
    }

    fn emit_departure(&mut self, participant: &Participant, reason: DisconnectReason) {
        let info = participant.departed_info(reason);
        for track in participant.tracks.iter().filter(|t| t.mid.is_some() && t.backup_of.is_none())
        {
            self.emit_track("track_unpublished", info.clone(), track.info.clone());
        }
        let event = match participant.state {
            State::Active => "participant_left",
            State::Joining | State::Joined | State::Disconnected => {
                "participant_connection_aborted"
            }
        };
        self.emit(event, Some(info), None);
    }
}

/// The subscriber transport, which we open before the client says anything of it.
fn opened(participant: &Participant) -> Option<crate::media::TransportId> {
    let subscriber = participant.subscriber.as_ref()?;
    participant.negotiation.begun.then_some(subscriber.id)
}

/// A leave for old and new clients.
pub(super) fn leave_request(reason: DisconnectReason, action: Action) -> LeaveRequest {
    LeaveRequest {
        can_reconnect: action != Action::Disconnect,
        reason: reason.into(),
        action: action.into(),
        regions: None,
    }
}
