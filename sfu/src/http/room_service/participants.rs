//! Calls that change participants or send them something.

use livekit_protocol as proto;
use sfu_core::room::{
    ForwardError, MAX_DATA_BYTES, ParticipantUpdate, Room, RoomUpdate, RpcCall, ServerData,
};
use sfu_core::signal::join::MAX_METADATA_BYTES;

use super::{Answer, Call, TwirpError, grant, identity, refused, room_name, zero};
use crate::forwards::{self, BeginError};
use crate::node::Route;

const NO_ROOM: &str = "requested room does not exist";
const NO_PARTICIPANT: &str = "participant does not exist";
/// Length of a nonce: a UUID.
const NONCE_BYTES: usize = 16;

impl Call {
    pub(super) async fn mute_published_track(self) -> Answer {
        let request: proto::MuteRoomTrackRequest = self.form.decode(&self.body)?;
        self.grant_admin(&request.room)?;
        let identity = identity(&request.identity)?;
        let proto::MuteRoomTrackRequest { room, track_sid, muted, .. } = request;
        let mute = move |room: &mut Room, now| {
            let track = room.mute_published_track(&identity, &track_sid, muted, now)?;
            Ok(proto::MuteRoomTrackResponse { track: Some(track) })
        };
        self.change(&room, NO_PARTICIPANT, mute, zero::muted_track).await
    }

    pub(super) async fn update_participant(self) -> Answer {
        let request: proto::UpdateParticipantRequest = self.form.decode(&self.body)?;
        self.grant_admin(&request.room)?;
        let identity = identity(&request.identity)?;
        let proto::UpdateParticipantRequest {
            room, metadata, permission, name, attributes, ..
        } = request;
        let update = ParticipantUpdate { name, metadata, attributes, permission };
        let change = move |room: &mut Room, now| room.update_participant(&identity, update, now);
        self.change(&room, NO_PARTICIPANT, change, zero::participant).await
    }

    pub(super) async fn update_subscriptions(self) -> Answer {
        let request: proto::UpdateSubscriptionsRequest = self.form.decode(&self.body)?;
        self.grant_admin(&request.room)?;
        let identity = identity(&request.identity)?;
        let update = proto::UpdateSubscription {
            track_sids: request.track_sids,
            subscribe: request.subscribe,
            participant_tracks: request.participant_tracks,
        };
        let change = move |room: &mut Room, now| {
            room.update_subscriptions(&identity, &update, now)?;
            Ok(proto::UpdateSubscriptionsResponse {})
        };
        self.change(&request.room, NO_PARTICIPANT, change, zero::empty).await
    }

    pub(super) async fn send_data(self) -> Answer {
        let request: proto::SendDataRequest = self.form.decode(&self.body)?;
        self.grant_admin(&request.room)?;
        if !matches!(request.nonce.len(), 0 | NONCE_BYTES) {
            let message = format!(
                "nonce should be 16-bytes or not present, got: {} bytes",
                request.nonce.len()
            );
            return Err(TwirpError::invalid_argument(&message));
        }
        if request.data.len() > MAX_DATA_BYTES {
            let message = format!("data exceeds {MAX_DATA_BYTES} bytes");
            return Err(TwirpError::invalid_argument(&message));
        }
        let is_lossy = request.kind() == proto::data_packet::Kind::Lossy;
        #[expect(deprecated, reason = "older servers address by sid")]
        let mut destinations = request.destination_sids;
        destinations.extend(request.destination_identities);
        let data = ServerData {
            payload: request.data,
            is_lossy,
            destinations,
            topic: request.topic,
            nonce: request.nonce,
        };
        let send = move |room: &mut Room, _| {
            room.send_server_data(data);
            Some(proto::SendDataResponse {})
        };
        self.ask(&request.room, NO_ROOM, send, zero::empty).await
    }

    pub(super) async fn update_room_metadata(self) -> Answer {
        let request: proto::UpdateRoomMetadataRequest = self.form.decode(&self.body)?;
        self.grant_admin(&request.room)?;
        if request.metadata.len() > MAX_METADATA_BYTES {
            return Err(TwirpError::invalid_argument("metadata size exceeds limits"));
        }
        let update = RoomUpdate { metadata: Some(request.metadata), ..RoomUpdate::default() };
        let change = move |room: &mut Room, now| {
            room.update(update, now);
            Some(room.info())
        };
        self.ask(&request.room, NO_ROOM, change, zero::room).await
    }

    pub(super) async fn perform_rpc(self) -> Answer {
        let request: proto::PerformRpcRequest = self.form.decode(&self.body)?;
        self.grant_admin(&request.room)?;
        if request.destination_identity.is_empty() {
            return Err(TwirpError::invalid_argument("destination identity is required"));
        }
        let call = RpcCall {
            destination: identity(&request.destination_identity)?,
            method: request.method,
            payload: request.payload,
            response_timeout_ms: request.response_timeout_ms,
        };
        match self.locate(&request.room, NO_ROOM).await? {
            Route::Local(handle) => {
                let answer = handle.perform_rpc(call).await;
                let answer = answer.map_err(|_| TwirpError::not_found(NO_ROOM))?;
                let payload = answer.map_err(|error| rpc_failed(&error))?;
                Ok(self.form.encode(&proto::PerformRpcResponse { payload }, &zero::rpc()))
            }
            Route::Remote(home) => Ok(self.pass_on(&home).await),
        }
    }

    pub(super) async fn move_participant(self) -> Answer {
        let request: proto::MoveParticipantRequest = self.form.decode(&self.body)?;
        self.grant_admin(&request.room)?;
        let destination = room_name(&request.destination_room)?;
        grant(self.claims.video.destination_room == destination.as_str())?;
        if request.room == request.destination_room {
            return Err(TwirpError::invalid_argument("the participant is in that room"));
        }
        let identity = identity(&request.identity)?;
        let change = move |room: &mut Room, now| {
            room.move_participant(&identity, &destination, now)?;
            Ok(proto::MoveParticipantResponse {})
        };
        self.change(&request.room, NO_PARTICIPANT, change, zero::empty).await
    }

    /// Shows a participant in another room, too, on whichever node that one lives.
    pub(super) async fn forward_participant(self) -> Answer {
        let request: proto::ForwardParticipantRequest = self.form.decode(&self.body)?;
        self.grant_admin(&request.room)?;
        let destination = room_name(&request.destination_room)?;
        grant(self.claims.video.destination_room == destination.as_str())?;
        if request.room == request.destination_room {
            return Err(TwirpError::invalid_argument("the participant is in that room"));
        }
        let identity = identity(&request.identity)?;
        let source = match self.locate(&request.room, NO_PARTICIPANT).await? {
            Route::Local(handle) => handle,
            Route::Remote(home) => return Ok(self.pass_on(&home).await),
        };
        let may_create = self.claims.video.room_create;
        forwards::begin(&self.node, source, identity, &destination, may_create)
            .await
            .map_err(not_forwarded)?;
        Ok(self.form.encode(&proto::ForwardParticipantResponse {}, &zero::empty()))
    }
}

fn not_forwarded(error: BeginError) -> TwirpError {
    let message = error.to_string();
    match error {
        BeginError::NoSource => TwirpError::not_found(NO_PARTICIPANT),
        BeginError::Source(error) => refused(error),
        BeginError::NoDestination => TwirpError::not_found(NO_ROOM),
        BeginError::Elsewhere
        | BeginError::Peer(_)
        | BeginError::Io(_)
        | BeginError::Timeout(_)
        | BeginError::Unplaced(_)
        | BeginError::Destination(ForwardError::Ending) => TwirpError::unavailable(&message),
        BeginError::Destination(ForwardError::Taken) => TwirpError::already_exists(&message),
        BeginError::Destination(ForwardError::Full) => TwirpError::resource_exhausted(&message),
    }
}

/// The participant's error, with its code for SDKs.
fn rpc_failed(error: &proto::RpcError) -> TwirpError {
    let failed = match error.code {
        1401 => TwirpError::not_found(&error.message),
        1402 => TwirpError::invalid_argument(&error.message),
        1501 | 1502 => TwirpError::deadline_exceeded(&error.message),
        _ => TwirpError::failed_precondition(&error.message),
    };
    failed.with("code", error.code).with("data", &error.data)
}
