//! The signalling WebSocket. The room answers before the connection is upgraded, so that every
//! refusal is an HTTP status, which clients show and act on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header};
use axum::response::Response;
use contract::access_token::MoreClaims;
use sfu_core::room::{Room, SessionId};
use sfu_core::signal::codec::{self, Frame, FrameFormat, MAX_FRAME_BYTES};
use sfu_core::signal::join::{JoinError, JoinParams};
use tokio::sync::mpsc;

use super::{
    Origin, claims, client_address, forward, forward_by, may_pass_on, moving, query, text, token,
};
use crate::node::{Joined, Node, Route};
use crate::reach::Reached;
use crate::session::{Outgoing, RoomHandle};

/// Bytes that a connection reads at once. Messages are small, connections are many, and the
/// default would take most of a subscriber's memory.
pub(super) const READ_BUFFER: usize = 4096;
/// Time between WebSocket pings.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// A client that sent nothing for this long is gone: it answers pings and sends its own.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the way of a join is changed at most.
const MAX_TURNS: u32 = 4;
/// Time a client gets to answer a closing frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// `/rtc`: parameters in the query.
    V0,
    /// `/rtc/v1`: a join request in the query.
    V1,
}

pub(super) async fn rtc(
    State(node): State<Arc<Node>>,
    Extension(origin): Extension<Origin>,
    request: Request,
) -> Response {
    join(node, origin, Version::V0, request).await
}

pub(super) async fn rtc_v1(
    State(node): State<Arc<Node>>,
    Extension(origin): Extension<Origin>,
    request: Request,
) -> Response {
    join(node, origin, Version::V1, request).await
}

pub(super) async fn validate(
    State(node): State<Arc<Node>>,
    Extension(origin): Extension<Origin>,
    request: Request,
) -> Response {
    validated(&node, origin, Version::V0, request).await
}

pub(super) async fn validate_v1(
    State(node): State<Arc<Node>>,
    Extension(origin): Extension<Origin>,
    request: Request,
) -> Response {
    validated(&node, origin, Version::V1, request).await
}

/// Clients ask here why their WebSocket was refused.
async fn validated(node: &Node, origin: Origin, version: Version, request: Request) -> Response {
    let checked = match params(node, version, request.uri(), request.headers()) {
        Ok(params) => check_room(node, &params).await.map(|()| params),
        Err(error) => Err(error),
    };
    let checked = match checked {
        Ok(params) => match node.find(&params.room).await {
            Ok(Some(Route::Remote(home))) => return forward(node, origin, &home, request).await,
            Ok(Some(Route::Local(room))) => check_token(&room, params).await,
            // Nobody was removed from a room that is not there.
            Ok(None) | Err(_) => Ok(()),
        },
        Err(error) => Err(error),
    };
    match checked {
        Ok(()) => text(200, "success"),
        Err(error) => text(error.status, error.message),
    }
}

/// Whoever was removed from a room needs a new token.
async fn check_token(room: &RoomHandle, params: JoinParams) -> Result<(), JoinError> {
    let check = move |room: &mut Room, now| room.check_token(&params.identity, &params.claims, now);
    // A room that ended has forgotten whom it removed.
    room.call(check).await.unwrap_or(Ok(()))
}

fn params(
    node: &Node,
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<JoinParams, JoinError> {
    let query = query(uri);
    let claims = claims(node, headers, &query).map_err(|message| JoinError::new(401, message))?;
    // The token was verified for its claims.
    let more_claims = token(headers, &query).map(MoreClaims::of_verified).unwrap_or_default();
    let params = match version {
        Version::V0 => JoinParams::from_query(&query, claims),
        Version::V1 => {
            let encoded = query.iter().find(|(key, _)| key == "join_request");
            let (_, encoded) =
                encoded.ok_or_else(|| JoinError::new(400, "join_request is required"))?;
            JoinParams::from_join_request(encoded, claims)
        }
    };
    params?.with(more_claims)
}

/// A room that joining may not make must exist.
async fn check_room(node: &Node, params: &JoinParams) -> Result<(), JoinError> {
    if node.settings.config.room.auto_create || params.claims.video.room_create {
        return Ok(());
    }
    node.find(&params.room).await?.map(|_| ()).ok_or_else(JoinError::room_not_found)
}

async fn join(node: Arc<Node>, origin: Origin, version: Version, request: Request) -> Response {
    let is_websocket = request
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !is_websocket {
        return text(404, "");
    }
    let (parts, body) = request.into_parts();
    let (params, mut to) = match route(&node, origin, version, &parts).await {
        Ok(routed) => routed,
        Err(error) => return text(error.status, error.message),
    };
    // A room may move while somebody is on the way to it, but not for ever.
    for _ in 0..MAX_TURNS {
        let turned = match to {
            Route::Local(handle) => node.join(params.clone(), handle).await.map(Turn::Joined),
            Route::Remote(home) if !may_pass_on(origin, &parts.headers) => {
                return moving(&parts.headers, &home);
            }
            Route::Remote(home) => node.reach(&params.room, home).await.map(Turn::Reached),
        };
        to = match turned {
            Ok(Turn::Joined(Joined::Here(handle, session, messages))) => {
                return admit(handle, session, messages, parts).await;
            }
            Ok(Turn::Joined(Joined::Elsewhere(home))) => Route::Remote(home),
            Ok(Turn::Reached(Reached::Here(handle))) => Route::Local(handle),
            Ok(Turn::Reached(Reached::There(home, connection))) => {
                let request = Request::from_parts(parts, body);
                return forward_by(&node, origin, &home, connection, request).await;
            }
            Err(error) => return text(error.status, error.message),
        };
    }
    text(503, "the room is moving, try again")
}

/// What a join came to.
enum Turn {
    Joined(Joined),
    Reached(Reached),
}

async fn route(
    node: &Node,
    origin: Origin,
    version: Version,
    request: &Parts,
) -> Result<(JoinParams, Route), JoinError> {
    let params = params(node, version, &request.uri, &request.headers)?;
    check_room(node, &params).await?;
    let route = node.route(&params.room).await?;
    if origin == Origin::Client {
        node.metrics.count_join(matches!(route, Route::Local(_)));
    }
    let address = client_address(origin, request);
    tracing::debug!(room = %params.room, identity = %params.identity, ?address, "Join");
    Ok((params, route))
}

/// Upgrades the connection of a client that the room admitted.
async fn admit(
    handle: RoomHandle,
    session: SessionId,
    messages: mpsc::Receiver<Outgoing>,
    mut parts: Parts,
) -> Response {
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade
            .read_buffer_size(READ_BUFFER)
            .max_message_size(MAX_FRAME_BYTES)
            .max_frame_size(MAX_FRAME_BYTES),
        Err(refused) => {
            handle.closed(session).await;
            return axum::response::IntoResponse::into_response(refused);
        }
    };
    let failed = handle.clone();
    upgrade
        .on_failed_upgrade(move |error| {
            tracing::debug!(%error, "Client left before it was upgraded");
            tokio::spawn(async move { failed.closed(session).await });
        })
        .on_upgrade(move |socket| async move {
            Connection { socket, handle, session, format: FrameFormat::default() }
                .run(messages)
                .await;
        })
}

/// A client's WebSocket.
struct Connection {
    socket: WebSocket,
    handle: RoomHandle,
    session: SessionId,
    /// Form of the client's last frame, in which it is answered.
    format: FrameFormat,
}

/// Why the loop of a connection ends.
enum End {
    /// The client went, or is not understood.
    Gone,
    /// The room closes it.
    Closed,
}

impl Connection {
    async fn run(mut self, mut messages: mpsc::Receiver<Outgoing>) {
        let mut pings = tokio::time::interval(PING_INTERVAL);
        let mut last_heard = Instant::now();
        let end = loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => {
                        if let Some(end) = self.send(message).await {
                            break end;
                        }
                    }
                    None => break End::Gone,
                },
                received = self.socket.recv() => {
                    last_heard = Instant::now();
                    if self.receive(received).await.is_err() {
                        break End::Gone;
                    }
                }
                _ = pings.tick() => {
                    let is_idle = last_heard.elapsed() > IDLE_TIMEOUT;
                    if is_idle || self.socket.send(Message::Ping(Default::default())).await.is_err() {
                        break End::Gone;
                    }
                }
            }
        };
        match end {
            End::Gone => self.handle.closed(self.session).await,
            End::Closed => self.close().await,
        }
    }

    async fn send(&mut self, message: Outgoing) -> Option<End> {
        let response = match message {
            Outgoing::Response(response) => response,
            Outgoing::Close => return Some(End::Closed),
        };
        let frame = match codec::encode(&response, self.format) {
            Ok(Frame::Binary(bytes)) => Message::Binary(bytes.into()),
            Ok(Frame::Text(text)) => Message::Text(text.into()),
            Err(error) => {
                tracing::error!(%error, "Failed to write a signal message");
                return None;
            }
        };
        self.socket.send(frame).await.is_err().then_some(End::Gone)
    }

    async fn receive(&mut self, received: Option<Result<Message, axum::Error>>) -> Result<(), ()> {
        let request = match received {
            Some(Ok(Message::Binary(bytes))) => {
                self.format = FrameFormat::Binary;
                codec::decode_binary(&bytes)
            }
            Some(Ok(Message::Text(text))) => {
                self.format = FrameFormat::Text;
                codec::decode_text(&text)
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => return Ok(()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(()),
        };
        match request {
            Ok(request) => self.handle.signal(self.session, request).await.map_err(|_| ()),
            Err(error) => {
                tracing::debug!(%error, "Signal message not understood");
                Ok(())
            }
        }
    }

    /// Closes in order: our frame, then the client's.
    async fn close(mut self) {
        let frame = CloseFrame { code: close_code::NORMAL, reason: Default::default() };
        if self.socket.send(Message::Close(Some(frame))).await.is_ok() {
            let answered = async { while let Some(Ok(_)) = self.socket.recv().await {} };
            // A client that does not answer is gone all the same.
            let _late = tokio::time::timeout(CLOSE_TIMEOUT, answered).await;
        }
    }
}
