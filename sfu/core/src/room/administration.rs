//! What the server API changes of participants.

use contract::access_token::MoreClaims;
use contract::ids::Identity;
use livekit_protocol::{
    self as proto, MuteTrackRequest, ParticipantInfo, ParticipantPermission, TrackInfo,
    UpdateSubscription, signal_response,
};
use thiserror::Error;

use super::Room;
use super::participant::ParticipantKey;
use crate::signal::join::{MAX_ATTRIBUTES_BYTES, MAX_METADATA_BYTES, attributes_size};
use crate::time::Now;

/// Most bytes of a participant's name.
const MAX_NAME_BYTES: usize = 256;

/// Why a call of the server API was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AdministrationError {
    /// Nobody of this identity is in the room.
    #[error("participant does not exist")]
    NoParticipant,
    /// The participant has no such track.
    #[error("track is not found")]
    NoTrack,
    /// Unmuting somebody's microphone from outside is not allowed here.
    #[error("remote unmute not enabled")]
    RemoteUnmute,
    /// It is another room's: changes are made there.
    #[error("participant is forwarded from another room")]
    Forwarded,
    /// The room forwards as many participants as it may.
    #[error("too many participants are forwarded")]
    TooManyForwards,
    /// A text is too long.
    #[error("{0} exceeds limits")]
    Limit(&'static str),
}

/// Changes to a participant.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ParticipantUpdate {
    /// New name; empty leaves it.
    pub name: String,
    /// New metadata; empty leaves it.
    pub metadata: String,
    /// Changed attributes; an empty value removes one.
    pub attributes: std::collections::HashMap<String, String>,
    /// New rights, all of them.
    pub permission: Option<ParticipantPermission>,
}

impl Room {
    /// A participant of this room, which may be changed here.
    pub(super) fn key_of(
        &self,
        identity: &Identity,
    ) -> Result<ParticipantKey, AdministrationError> {
        let key = self.identities.get(identity).copied();
        let key = key.ok_or(AdministrationError::NoParticipant)?;
        match self.participants.get(&key).and_then(|participant| participant.origin.as_ref()) {
            Some(_) => Err(AdministrationError::Forwarded),
            None => Ok(key),
        }
    }

    /// Mutes a track, or where the configuration allows it unmutes one; the client follows.
    ///
    /// # Errors
    ///
    /// When there is no such track.
    pub fn mute_published_track(
        &mut self,
        identity: &Identity,
        sid: &str,
        muted: bool,
        now: Now,
    ) -> Result<TrackInfo, AdministrationError> {
        let key = self.key_of(identity)?;
        if !muted && !self.options.config.enable_remote_unmute {
            return Err(AdministrationError::RemoteUnmute);
        }
        let track = |room: &Self| {
            let tracks = &room.participants.get(&key)?.tracks;
            tracks.iter().find(|track| track.info.sid == sid).map(|track| track.info.clone())
        };
        let before = track(self).ok_or(AdministrationError::NoTrack)?;
        if before.muted != muted {
            let request = MuteTrackRequest { sid: sid.to_owned(), muted };
            self.send(key, signal_response::Message::Mute(request));
            self.set_muted(key, sid, muted, now);
            self.settle(now);
        }
        track(self).ok_or(AdministrationError::NoTrack)
    }

    /// Changes name, metadata, attributes and rights; rights take effect at once.
    ///
    /// # Errors
    ///
    /// When the participant is not there or a text is too long; then nothing changed.
    pub fn update_participant(
        &mut self,
        identity: &Identity,
        update: ParticipantUpdate,
        now: Now,
    ) -> Result<ParticipantInfo, AdministrationError> {
        let key = self.key_of(identity)?;
        let ParticipantUpdate { name, metadata, attributes, permission } = update;
        self.set_texts(key, name, metadata, &attributes)?;
        if let Some(permission) = permission {
            self.set_permission(key, permission, now);
        }
        self.broadcast_participant(key, true, now);
        self.refresh_token(key, now);
        self.settle(now);
        self.participant(identity).ok_or(AdministrationError::NoParticipant)
    }

    /// Changes texts of a participant, all or none of them.
    pub(super) fn set_texts(
        &mut self,
        key: ParticipantKey,
        name: String,
        metadata: String,
        changes: &std::collections::HashMap<String, String>,
    ) -> Result<(), AdministrationError> {
        let participant =
            self.participants.get_mut(&key).ok_or(AdministrationError::NoParticipant)?;
        let mut attributes = participant.attributes.clone();
        for (key, value) in changes {
            if value.is_empty() {
                attributes.remove(key);
            } else {
                attributes.insert(key.clone(), value.clone());
            }
        }
        if metadata.len() > MAX_METADATA_BYTES {
            return Err(AdministrationError::Limit("metadata size"));
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(AdministrationError::Limit("name length"));
        }
        if attributes_size(&attributes) > MAX_ATTRIBUTES_BYTES {
            return Err(AdministrationError::Limit("attribute size"));
        }
        if !metadata.is_empty() {
            participant.metadata = metadata;
        }
        if !name.is_empty() {
            participant.name = name;
        }
        participant.attributes = attributes;
        Ok(())
    }

    fn set_permission(&mut self, key: ParticipantKey, permission: ParticipantPermission, now: Now) {
        let was_recorded = self.is_recorded();
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let changes_visibility = participant.permission.hidden != permission.hidden;
        participant.permission = permission;
        participant.permission_to_claims();
        let may_publish_data = participant.permission.can_publish_data;
        if changes_visibility {
            self.visibility_changed(key, now);
        }
        self.recording_changed(key, was_recorded);
        self.match_tracks(key, now);
        if !may_publish_data {
            self.end_data_tracks(key, now);
        }
        self.sync_data_subscriptions(key);
        self.dirty.insert(key);
        self.open_missing_subscriber(key, now);
    }

    /// Subscribes or unsubscribes a participant.
    ///
    /// # Errors
    ///
    /// When the participant is not there.
    pub fn update_subscriptions(
        &mut self,
        identity: &Identity,
        update: &UpdateSubscription,
        now: Now,
    ) -> Result<(), AdministrationError> {
        let key = self.key_of(identity)?;
        self.update_subscription(key, update);
        self.settle(now);
        Ok(())
    }

    /// Sends a participant to another room: it gets a token for it and connects anew with it.
    ///
    /// # Errors
    ///
    /// When the participant is not there.
    pub fn move_participant(
        &mut self,
        identity: &Identity,
        destination: &contract::ids::RoomName,
        now: Now,
    ) -> Result<(), AdministrationError> {
        let key = self.key_of(identity)?;
        let Some(participant) = self.participants.get(&key) else { return Ok(()) };
        if let Some(session) = participant.session {
            let mut claims = participant.refreshed_claims(now.unix_seconds());
            claims.video.room = destination.to_string();
            // What its token says of this room is not said of the other.
            claims.room_config = None;
            let moved = proto::RoomMovedResponse {
                room: Some(proto::Room { name: destination.to_string(), ..Default::default() }),
                token: String::new(),
                participant: Some(participant.info()),
                other_participants: Vec::new(),
            };
            let (claims, moved) = (Box::new(claims), Box::new(moved));
            let announce = participant.client.protocol >= super::requests::MOVED_PROTOCOL;
            let moved = announce.then_some(moved);
            let more_claims =
                MoreClaims { room_preset: String::new(), ..participant.more_claims.clone() };
            let token = super::RoomOutput::MoveToken { session, claims, more_claims, moved };
            self.output.push_back(token);
        }
        self.remove(
            key,
            proto::DisconnectReason::Migration,
            Some(proto::leave_request::Action::Reconnect),
            now,
        );
        self.settle(now);
        Ok(())
    }
}
