//! Signal messages of clients.

use livekit_protocol::request_response::{Reason, Request};
use livekit_protocol::{
    self as proto, DisconnectReason, RequestResponse, UpdateParticipantMetadata, signal_request,
    signal_response,
};

use super::participant::ParticipantKey;
use super::{Room, SessionId};
use crate::signal::SignalRequest;
use crate::time::Now;

/// Protocol version from which clients understand a response that is no error.
const OK_RESPONSE_PROTOCOL: i32 = 15;
/// Protocol version from which clients understand that they were moved to another room.
pub(super) const MOVED_PROTOCOL: i32 = 16;

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
            Message::Offer(offer) => self.handle_offer(key, &offer, now),
            Message::Answer(answer) => self.handle_answer(key, &answer),
            // We are ICE-lite: the client's checks tell its addresses.
            Message::Trickle(_) => {}
            Message::AddTrack(request) => self.add_track(key, request, now),
            Message::Mute(mute) => {
                if !self.set_muted(key, &mute.sid, mute.muted, now) {
                    let request = Some(Request::Mute(mute));
                    self.respond(key, 0, Reason::NotFound, "track is not found", request);
                }
            }
            Message::Subscription(update) => self.update_subscription(key, &update),
            Message::TrackSetting(settings) => self.update_track_settings(key, &settings),
            Message::Leave(_) => {
                self.remove(key, DisconnectReason::ClientInitiated, None, now);
            }
            // Clients of today say their layers with the track; LiveKit ignores this too.
            Message::UpdateLayers(_) => {}
            Message::SubscriptionPermission(rules) => self.set_subscribers(key, rules),
            Message::SyncState(state) => self.sync_state(key, &state, now),
            Message::Simulate(scenario) => self.simulate(key, scenario, now),
            Message::Ping(_) => {
                self.send(key, signal_response::Message::Pong(millis(now)));
            }
            Message::PingReq(ping) => {
                let pong =
                    proto::Pong { last_ping_timestamp: ping.timestamp, timestamp: millis(now) };
                self.send(key, signal_response::Message::PongResp(pong));
            }
            Message::UpdateMetadata(update) => self.update_metadata(key, update, now),
            Message::UpdateAudioTrack(update) => self.update_audio_track(key, update, now),
            Message::UpdateVideoTrack(update) => self.update_video_track(key, update, now),
            Message::PublishDataTrackRequest(request) => {
                self.publish_data_track(key, request, now);
            }
            Message::UnpublishDataTrackRequest(request) => {
                self.unpublish_data_track(key, request, now);
            }
            Message::UpdateDataSubscription(update) => {
                self.update_data_subscription(key, &update);
            }
            Message::StoreDataBlobRequest(request) => self.unsupported(key, request.request_id),
            Message::GetDataBlobRequest(request) => self.unsupported(key, request.request_id),
        }
    }

    pub(super) fn unsupported(&mut self, key: ParticipantKey, request_id: u32) {
        let message = "not supported by this server";
        self.respond(key, request_id, Reason::UnsupportedType, message, None);
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
        let Some(participant) = self.participants.get(&key) else { return };
        let confirm = participant.client.protocol >= OK_RESPONSE_PROTOCOL;
        let id = update.request_id;
        let changed = if participant.permission.can_update_metadata {
            let (name, metadata) = (update.name.clone(), update.metadata.clone());
            self.set_texts(key, name, metadata, &update.attributes)
                .map_err(|error| (Reason::LimitExceeded, error.to_string()))
        } else {
            let message = "does not have permission to update own metadata";
            Err((Reason::NotAllowed, message.to_owned()))
        };
        if let Err((reason, message)) = changed {
            return self.respond(key, id, reason, &message, Some(Request::UpdateMetadata(update)));
        }
        self.broadcast_participant(key, true, now);
        self.refresh_token(key, now);
        if confirm {
            self.respond(key, id, Reason::Ok, "", Some(Request::UpdateMetadata(update)));
        }
    }

    fn update_audio_track(
        &mut self,
        key: ParticipantKey,
        update: proto::UpdateLocalAudioTrack,
        now: Now,
    ) {
        let features = update.features.clone();
        if !self.change_track(key, &update.track_sid, now, |info| info.audio_features = features) {
            let request = Some(Request::UpdateAudioTrack(update));
            self.respond(key, 0, Reason::NotFound, "track is not found", request);
        }
    }

    fn update_video_track(
        &mut self,
        key: ParticipantKey,
        update: proto::UpdateLocalVideoTrack,
        now: Now,
    ) {
        let found = self.change_track(key, &update.track_sid, now, |info| {
            info.width = update.width;
            info.height = update.height;
        });
        if !found {
            let request = Some(Request::UpdateVideoTrack(update));
            self.respond(key, 0, Reason::NotFound, "track is not found", request);
        }
    }
}

fn millis(now: Now) -> i64 {
    i64::try_from(now.unix_ms).unwrap_or(i64::MAX)
}
