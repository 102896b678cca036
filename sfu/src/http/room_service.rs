//! LiveKit's `RoomService`. Calls for a room are answered by its home; lists gather over all
//! nodes.

mod dispatches;
mod participants;
mod zero;

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::response::Response;
use contract::access_token::Claims;
use contract::ids::{Identity, RoomName};
use contract::redis::NodeRecord;
use futures::future::join_all;
use livekit_protocol::{self as proto, RoomConfiguration};
use prost::Message;
use sfu_core::room::{AdministrationError, Room, RoomCloseReason, configuration, cutoff};
use sfu_core::signal::join::JoinError;
use sfu_core::time::Now;

use super::twirp::{Form, TwirpError};
use super::{MAX_BODY_BYTES, Origin, claims, forward, query};
use crate::node::{Node, Route};

/// Longest wait for another node's part of a list.
const GATHER_TIMEOUT: Duration = Duration::from_secs(2);
const LIST_ROOMS: &str = "/twirp/livekit.RoomService/ListRooms";

/// A call on its way to its answer.
struct Call {
    node: Arc<Node>,
    origin: Origin,
    form: Form,
    claims: Claims,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

type Answer = Result<Response, TwirpError>;

pub(super) async fn call(
    State(node): State<Arc<Node>>,
    Extension(origin): Extension<Origin>,
    Path(method): Path<String>,
    request: Request,
) -> Response {
    let answered = match Call::read(node, origin, request).await {
        Ok(call) => call.answer(&method).await,
        Err(error) => Err(error),
    };
    answered.unwrap_or_else(TwirpError::into_response)
}

/// SDKs read an error of every service that they know, here or not.
pub(super) async fn bad_route(uri: Uri) -> Response {
    TwirpError::no_service(uri.path()).into_response()
}

pub(super) async fn call_dispatch(
    State(node): State<Arc<Node>>,
    Extension(origin): Extension<Origin>,
    Path(method): Path<String>,
    request: Request,
) -> Response {
    let answered = match Call::read(node, origin, request).await {
        Ok(call) => call.answer_dispatch(&method).await,
        Err(error) => Err(error),
    };
    answered.unwrap_or_else(TwirpError::into_response)
}

fn grant(is_granted: bool) -> Result<(), TwirpError> {
    if is_granted { Ok(()) } else { Err(TwirpError::unauthenticated()) }
}

fn room_name(name: &str) -> Result<RoomName, TwirpError> {
    RoomName::new(name).map_err(|error| TwirpError::invalid_argument(&error.to_string()))
}

/// What would be accepted and then not done is refused by name.
fn check_supported(request: &proto::CreateRoomRequest) -> Result<(), TwirpError> {
    let asked = [
        (request.egress.is_some(), "egress"),
        (request.replay_enabled, "replay_enabled"),
        (!request.node_id.is_empty(), "node_id"),
        (!request.tags.is_empty(), "tags"),
    ];
    match asked.into_iter().find(|(asked, _)| *asked) {
        Some((_, field)) => {
            Err(TwirpError::unimplemented(&format!("{field} is not supported by this server")))
        }
        None => Ok(()),
    }
}

fn unavailable(error: JoinError) -> TwirpError {
    TwirpError::unavailable(&error.message)
}

impl Call {
    async fn read(node: Arc<Node>, origin: Origin, request: Request) -> Result<Self, TwirpError> {
        let (parts, body) = request.into_parts();
        let claims = claims(&node, &parts.headers, &query(&parts.uri))
            .map_err(|_| TwirpError::unauthenticated())?;
        let form = Form::of(&parts.headers)?;
        let body = to_bytes(body, MAX_BODY_BYTES).await.map_err(|_| TwirpError::too_large())?;
        Ok(Self { node, origin, form, claims, uri: parts.uri, headers: parts.headers, body })
    }

    async fn answer(self, method: &str) -> Answer {
        match method {
            "CreateRoom" => self.create_room().await,
            "ListRooms" => self.list_rooms().await,
            "DeleteRoom" => self.delete_room().await,
            "ListParticipants" => self.list_participants().await,
            "GetParticipant" => self.get_participant().await,
            "RemoveParticipant" => self.remove_participant().await,
            "MutePublishedTrack" => self.mute_published_track().await,
            "UpdateParticipant" => self.update_participant().await,
            "UpdateSubscriptions" => self.update_subscriptions().await,
            "SendData" => self.send_data().await,
            "UpdateRoomMetadata" => self.update_room_metadata().await,
            "PerformRpc" => self.perform_rpc().await,
            "MoveParticipant" => self.move_participant().await,
            "ForwardParticipant" => self.forward_participant().await,
            _ => Err(TwirpError::bad_route(method)),
        }
    }

    /// `roomAdmin` for just this room.
    fn grant_admin(&self, room: &str) -> Result<(), TwirpError> {
        let video = &self.claims.video;
        grant(video.room_admin && video.room == room)
    }

    async fn create_room(self) -> Answer {
        grant(self.claims.video.room_create)?;
        let request: proto::CreateRoomRequest = self.form.decode(&self.body)?;
        let name = room_name(&request.name)?;
        check_supported(&request)?;
        let mut wish = self.wish(request)?;
        let agents = std::mem::take(&mut wish.agents);
        let handle = match self.node.route(&name).await.map_err(unavailable)? {
            Route::Local(handle) => handle,
            Route::Remote(home) => return Ok(self.pass_on(&home).await),
        };
        let info = handle
            .call(move |room, now| {
                room.update(wish.into(), now);
                if room.dispatches().is_empty() {
                    for agent in agents {
                        // What exceeds the bound would be an attack, not a wish.
                        let _refused = room.create_dispatch(agent, now);
                    }
                }
                room.info()
            })
            .await
            .map_err(|_| TwirpError::unavailable("the room is ending, try again"))?;
        Ok(self.form.encode(&info, &zero::room()))
    }

    /// What the caller says of the room, itself and by the name of a preset.
    fn wish(&self, request: proto::CreateRoomRequest) -> Result<RoomConfiguration, TwirpError> {
        let wish = RoomConfiguration {
            empty_timeout: request.empty_timeout,
            departure_timeout: request.departure_timeout,
            max_participants: request.max_participants,
            metadata: request.metadata,
            min_playout_delay: request.min_playout_delay,
            max_playout_delay: request.max_playout_delay,
            sync_streams: request.sync_streams,
            agents: request.agents,
            ..RoomConfiguration::default()
        };
        let presets = &self.node.settings.config.room.presets;
        configuration(wish, &request.room_preset, presets)
            .map_err(|error| TwirpError::invalid_argument(&error.to_string()))
    }

    async fn list_rooms(self) -> Answer {
        grant(self.claims.video.room_list)?;
        let request: proto::ListRoomsRequest = self.form.decode(&self.body)?;
        let is_wanted =
            |room: &proto::Room| request.names.is_empty() || request.names.contains(&room.name);
        let mut rooms = Vec::new();
        for handle in self.node.rooms.all() {
            rooms.extend(handle.call(|room, _| room.info()).await);
        }
        if self.origin == Origin::Client {
            rooms.extend(self.gather_rooms(&request).await?);
        }
        rooms.retain(is_wanted);
        rooms.sort_by(|a, b| a.name.cmp(&b.name));
        let reply = proto::ListRoomsResponse { rooms };
        Ok(self.form.encode(&reply, &zero::rooms()))
    }

    /// The rooms of all other nodes. One that does not answer is an error: a list that looks
    /// complete and is not would be worse.
    async fn gather_rooms(
        &self,
        request: &proto::ListRoomsRequest,
    ) -> Result<Vec<proto::Room>, TwirpError> {
        let own = self.node.placement.node_id();
        let others: Vec<NodeRecord> = self
            .node
            .placement
            .nodes()
            .into_iter()
            .map(|node| node.record)
            .filter(|record| record.id != own)
            .collect();
        let body = Bytes::from(request.encode_to_vec());
        let lists = others.iter().map(|other| self.rooms_of(other, body.clone()));
        let mut rooms = Vec::new();
        for (list, other) in join_all(lists).await.into_iter().zip(&others) {
            let missing =
                || TwirpError::unavailable(&format!("node {} did not answer", other.name));
            rooms.extend(list.ok_or_else(missing)?);
        }
        Ok(rooms)
    }

    async fn rooms_of(&self, other: &NodeRecord, body: Bytes) -> Option<Vec<proto::Room>> {
        let peers = self.node.peers.as_ref()?;
        let request = Request::post(LIST_ROOMS)
            .header(header::HOST, contract::sfu_config::PEER_NAME)
            .header(header::CONTENT_TYPE, "application/protobuf")
            .header(header::AUTHORIZATION, self.headers.get(header::AUTHORIZATION)?)
            .body(Body::from(body))
            .ok()?;
        let name = &self.node.settings.node_name;
        let asked = tokio::time::timeout(GATHER_TIMEOUT, async {
            let response = peers.forward(other.address, name, request).await.ok()?;
            if !response.status().is_success() {
                return None;
            }
            to_bytes(response.into_body(), MAX_BODY_BYTES).await.ok()
        });
        let reply = asked.await.ok()??;
        proto::ListRoomsResponse::decode(reply).ok().map(|reply| reply.rooms)
    }

    async fn delete_room(self) -> Answer {
        grant(self.claims.video.room_create)?;
        let request: proto::DeleteRoomRequest = self.form.decode(&self.body)?;
        let close = |room: &mut Room, now: Now| {
            room.close(RoomCloseReason::Deleted, now);
            Some(proto::DeleteRoomResponse {})
        };
        self.ask(&request.room, "requested room does not exist", close, zero::empty).await
    }

    async fn list_participants(self) -> Answer {
        let request: proto::ListParticipantsRequest = self.form.decode(&self.body)?;
        self.grant_admin(&request.room)?;
        let list = |room: &mut Room, _: Now| {
            Some(proto::ListParticipantsResponse { participants: room.participants() })
        };
        self.ask(&request.room, "requested room does not exist", list, zero::participants).await
    }

    async fn get_participant(self) -> Answer {
        let request: proto::RoomParticipantIdentity = self.form.decode(&self.body)?;
        self.grant_admin(&request.room)?;
        let identity = identity(&request.identity)?;
        let get = move |room: &mut Room, _: Now| room.participant(&identity);
        self.ask(&request.room, "participant does not exist", get, zero::participant).await
    }

    async fn remove_participant(self) -> Answer {
        let request: proto::RoomParticipantIdentity = self.form.decode(&self.body)?;
        self.grant_admin(&request.room)?;
        let identity = identity(&request.identity)?;
        let tokens_from = cutoff(request.revoke_token_ts, crate::session::now())
            .map_err(|error| TwirpError::invalid_argument(&error.to_string()))?;
        let remove = move |room: &mut Room, now: Now| {
            let removed = room.remove_participant(&identity, tokens_from, now);
            removed.then_some(proto::RemoveParticipantResponse {})
        };
        self.ask(&request.room, "participant does not exist", remove, zero::empty).await
    }

    /// Changes the room at its home.
    async fn change<T: Message + serde::Serialize + 'static>(
        self,
        room: &str,
        missing: &str,
        change: impl FnOnce(&mut Room, Now) -> Result<T, AdministrationError> + Send + 'static,
        zero: impl Fn() -> serde_json::Value,
    ) -> Answer {
        match self.locate(room, missing).await? {
            Route::Local(handle) => {
                let changed = handle.call(change).await;
                let reply =
                    changed.map_err(|_| TwirpError::not_found(missing))?.map_err(refused)?;
                Ok(self.form.encode(&reply, &zero()))
            }
            Route::Remote(home) => Ok(self.pass_on(&home).await),
        }
    }

    /// Where the room lives; `missing` is said when it does not.
    async fn locate(&self, room: &str, missing: &str) -> Result<Route, TwirpError> {
        let name = room_name(room)?;
        let found = self.node.find(&name).await.map_err(unavailable)?;
        found.ok_or_else(|| TwirpError::not_found(missing))
    }

    /// Asks the room at its home; `missing` is said when it or what is asked for is not there.
    async fn ask<T: Message + serde::Serialize + 'static>(
        self,
        room: &str,
        missing: &str,
        question: impl FnOnce(&mut Room, Now) -> Option<T> + Send + 'static,
        zero: impl Fn() -> serde_json::Value,
    ) -> Answer {
        let not_found = || TwirpError::not_found(missing);
        match self.locate(room, missing).await? {
            Route::Local(handle) => {
                let reply = handle.call(question).await.ok().flatten().ok_or_else(not_found)?;
                Ok(self.form.encode(&reply, &zero()))
            }
            Route::Remote(home) => Ok(self.pass_on(&home).await),
        }
    }

    /// Has the home answer.
    async fn pass_on(self, home: &NodeRecord) -> Response {
        let mut request = Request::new(Body::from(self.body));
        *request.method_mut() = axum::http::Method::POST;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        forward(&self.node, self.origin, home, request).await
    }
}

fn refused(error: AdministrationError) -> TwirpError {
    let message = error.to_string();
    match error {
        AdministrationError::NoParticipant | AdministrationError::NoTrack => {
            TwirpError::not_found(&message)
        }
        AdministrationError::RemoteUnmute | AdministrationError::Forwarded => {
            TwirpError::failed_precondition(&message)
        }
        AdministrationError::TooManyForwards => TwirpError::resource_exhausted(&message),
        AdministrationError::Limit(_) => TwirpError::invalid_argument(&message),
    }
}

fn identity(identity: &str) -> Result<Identity, TwirpError> {
    Identity::new(identity).map_err(|error| TwirpError::invalid_argument(&error.to_string()))
}
