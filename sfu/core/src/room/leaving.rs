//! Leaving, being removed, and the end of a room.

use std::time::Duration;

use contract::ids::Identity;
use livekit_protocol::leave_request::Action;
use livekit_protocol::{DisconnectReason, LeaveRequest, ParticipantUpdate, signal_response};
use tracing::info;

use super::participant::ParticipantKey;
use super::{Room, RoomCloseReason, RoomOutput, SessionId};
use crate::media::MediaCommand;
use crate::time::Now;

/// Most departures that are remembered for clients that resume.
const MAX_DEPARTED: usize = 128;

impl Room {
    /// A WebSocket is gone without a leave: the client may come back and resume.
    pub fn handle_session_closed(&mut self, session: SessionId, now: Now) {
        let Some(key) = self.sessions.remove(&session) else { return };
        let Some(participant) = self.participants.get_mut(&key) else { return };
        participant.session = None;
        // With media the engine notices when the client is gone.
        participant.deadlines.signal = Some(now.instant + super::timers::SIGNAL_TIMEOUT);
    }

    /// Throws a participant out; `false` when it is not there.
    pub fn remove_participant(&mut self, identity: &Identity, now: Now) -> bool {
        let Some(key) = self.identities.get(identity).copied() else { return false };
        self.remove(key, DisconnectReason::ParticipantRemoved, Some(Action::Disconnect), now);
        self.settle(now);
        true
    }

    /// Ends the room for all.
    pub fn close(&mut self, reason: RoomCloseReason, now: Now) {
        let (reason, action) = match reason {
            RoomCloseReason::Deleted => (DisconnectReason::RoomDeleted, Action::Disconnect),
            RoomCloseReason::Drain => (DisconnectReason::ServerShutdown, Action::Reconnect),
        };
        let keys: Vec<ParticipantKey> = self.participants.keys().copied().collect();
        for key in keys {
            self.remove(key, reason, Some(action), now);
        }
        self.dirty.clear();
        self.end();
    }

    pub(super) fn end(&mut self) {
        self.ends_at = None;
        if !std::mem::replace(&mut self.ended, true) {
            info!(room = %self.options.name, sid = %self.options.sid, "Room ends");
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
        let before = self.tracks.len();
        self.tracks.retain(|_, track| track.publisher != key);
        self.tracks_ended |= self.tracks.len() != before;
        self.prune_senders();
        for transport in participant.transports() {
            self.transports.remove(&transport.id);
            if transport.remote.is_some() || Some(transport.id) == opened(&participant) {
                self.media(MediaCommand::CloseTransport { transport: transport.id });
            }
        }
        if !participant.permission.hidden {
            self.announce_departure(participant.departed_info(reason), now);
        }
        self.forget_speaker(key, participant.sid.as_str());
        self.dirty.extend(self.participants.keys().copied());
        self.count_changed(now);
        if self.participants.is_empty() {
            let seconds = self.options.config.departure_timeout.into();
            self.ends_at = Some(now.instant + Duration::from_secs(seconds));
        }
    }

    fn announce_departure(&mut self, info: livekit_protocol::ParticipantInfo, now: Now) {
        if self.departed.len() == MAX_DEPARTED {
            self.departed.pop_front();
        }
        self.departed.push_back((now.instant, info.clone()));
        let update = ParticipantUpdate { participants: vec![info] };
        self.send_to_all(&signal_response::Message::Update(update), None);
    }
}

/// The subscriber transport, which we open before the client says anything of it.
fn opened(participant: &super::Participant) -> Option<crate::media::TransportId> {
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
