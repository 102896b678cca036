//! Signal messages of clients.

use livekit_protocol::request_response::{Reason, Request};
use livekit_protocol::simulate_scenario::Scenario;
use livekit_protocol::{
    self as proto, DisconnectReason, RequestResponse, UpdateParticipantMetadata, leave_request,
    signal_request, signal_response,
};
use tracing::debug;

use super::participant::ParticipantKey;
use super::{Room, SessionId};
use crate::signal::SignalRequest;
use crate::signal::join::{MAX_ATTRIBUTES_BYTES, MAX_METADATA_BYTES, attributes_size};
use crate::time::Now;

/// Protocol version from which clients understand a response that is no error.
const OK_RESPONSE_PROTOCOL: i32 = 15;
/// Most bytes of a participant's name.
const MAX_NAME_BYTES: usize = 256;

impl Room {
    /// Takes a client's message; one from a session that is over is ignored.
    pub fn handle_signal(&mut self, session: SessionId, request: SignalRequest, now: Now) {
        let Some(key) = self.sessions.get(&session).copied() else { return };
        let Some(message) = request.message else { return };
        self.dispatch(key, message, now);
        self.settle(now);
    }

    #[expect(deprecated, reason = "a client may still send them")]
    fn dispatch(&mut self, key: ParticipantKey, message: signal_request::Message, now: Now) {
        use signal_request::Message;
        match message {
            Message::Offer(offer) => self.handle_offer(key, &offer),
            Message::Answer(answer) => self.handle_answer(key, &answer),
            // We are ICE-lite: the client's checks tell its addresses.
            Message::Trickle(_) => {}
            Message::AddTrack(request) => self.add_track(key, request),
            Message::Mute(mute) => self.set_muted(key, &mute.sid, mute.muted),
            Message::Subscription(update) => self.update_subscription(key, &update),
            Message::TrackSetting(settings) => self.update_track_settings(key, &settings),
            Message::Leave(_) => {
                self.remove(key, DisconnectReason::ClientInitiated, None, now);
            }
            // Clients of today say their layers with the track; LiveKit ignores this too.
            Message::UpdateLayers(_) => {}
            Message::SubscriptionPermission(rules) => self.set_subscribers(key, rules),
            Message::SyncState(state) => self.sync_state(key, &state),
            Message::Simulate(scenario) => self.simulate(key, scenario.scenario, now),
            Message::Ping(_) => {
                self.send(key, signal_response::Message::Pong(millis(now)));
            }
            Message::PingReq(ping) => {
                let pong =
                    proto::Pong { last_ping_timestamp: ping.timestamp, timestamp: millis(now) };
                self.send(key, signal_response::Message::PongResp(pong));
            }
            Message::UpdateMetadata(update) => self.update_metadata(key, update, now),
            Message::UpdateAudioTrack(update) => self.update_audio_track(key, update),
            Message::UpdateVideoTrack(update) => self.update_video_track(key, update),
            Message::PublishDataTrackRequest(request) => {
                self.unsupported(key, Some(Request::PublishDataTrack(request)));
            }
            Message::UnpublishDataTrackRequest(request) => {
                self.unsupported(key, Some(Request::UnpublishDataTrack(request)));
            }
            Message::UpdateDataSubscription(_)
            | Message::StoreDataBlobRequest(_)
            | Message::GetDataBlobRequest(_) => self.unsupported(key, None),
        }
    }

    fn unsupported(&mut self, key: ParticipantKey, request: Option<Request>) {
        self.respond(key, 0, Reason::UnsupportedType, "not supported by this server", request);
    }

    /// Tells a client that its message was not understood.
    pub(super) fn refuse(&mut self, key: ParticipantKey, message: &str) {
        self.respond(key, 0, Reason::InvalidRequest, message, None);
    }

    pub(super) fn respond(
        &mut self,
        key: ParticipantKey,
        request_id: u32,
        reason: Reason,
        message: &str,
        request: Option<Request>,
    ) {
        let response = RequestResponse {
            request_id,
            reason: reason.into(),
            message: message.to_owned(),
            request,
        };
        self.send(key, signal_response::Message::RequestResponse(response));
    }

    fn update_metadata(
        &mut self,
        key: ParticipantKey,
        update: UpdateParticipantMetadata,
        now: Now,
    ) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let mut attributes = participant.attributes.clone();
        for (name, value) in &update.attributes {
            if value.is_empty() {
                attributes.remove(name);
            } else {
                attributes.insert(name.clone(), value.clone());
            }
        }
        let refused = if !participant.permission.can_update_metadata {
            Some((Reason::NotAllowed, "does not have permission to update own metadata"))
        } else if update.metadata.len() > MAX_METADATA_BYTES {
            Some((Reason::LimitExceeded, "metadata size exceeds limits"))
        } else if update.name.len() > MAX_NAME_BYTES {
            Some((Reason::LimitExceeded, "name length exceeds limits"))
        } else if attributes_size(&attributes) > MAX_ATTRIBUTES_BYTES {
            Some((Reason::LimitExceeded, "attribute size exceeds limits"))
        } else {
            None
        };
        let id = update.request_id;
        if let Some((reason, message)) = refused {
            return self.respond(key, id, reason, message, Some(Request::UpdateMetadata(update)));
        }
        if !update.metadata.is_empty() {
            participant.metadata = update.metadata;
        }
        if !update.name.is_empty() {
            participant.name = update.name;
        }
        participant.attributes = attributes;
        let confirm = participant.client.protocol >= OK_RESPONSE_PROTOCOL;
        self.broadcast_participant(key, true);
        self.refresh_token(key, now);
        if confirm {
            self.respond(key, id, Reason::Ok, "", None);
        }
    }

    fn update_audio_track(&mut self, key: ParticipantKey, update: proto::UpdateLocalAudioTrack) {
        let features = update.features.clone();
        if !self.change_track(key, &update.track_sid, |info| info.audio_features = features) {
            let request = Some(Request::UpdateAudioTrack(update));
            self.respond(key, 0, Reason::NotFound, "track is not found", request);
        }
    }

    fn update_video_track(&mut self, key: ParticipantKey, update: proto::UpdateLocalVideoTrack) {
        let found = self.change_track(key, &update.track_sid, |info| {
            info.width = update.width;
            info.height = update.height;
        });
        if !found {
            let request = Some(Request::UpdateVideoTrack(update));
            self.respond(key, 0, Reason::NotFound, "track is not found", request);
        }
    }

    /// Scenarios by which the clients' own tests make a server misbehave.
    fn simulate(&mut self, key: ParticipantKey, scenario: Option<Scenario>, now: Now) {
        match scenario {
            Some(Scenario::ServerLeave(true)) => {
                self.remove(key, DisconnectReason::ServerShutdown, None, now);
            }
            Some(Scenario::NodeFailure(true) | Scenario::LeaveRequestFullReconnect(true)) => {
                let action = Some(leave_request::Action::Reconnect);
                self.remove(key, DisconnectReason::UnknownReason, action, now);
            }
            other => {
                debug!(?other, "Scenario is not supported");
                self.unsupported(key, None);
            }
        }
    }
}

fn millis(now: Now) -> i64 {
    i64::try_from(now.unix_ms).unwrap_or(i64::MAX)
}
