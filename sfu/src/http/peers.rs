//! What nodes ask each other about rooms and leases.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use contract::ids::RoomName;
use hyper_util::rt::TokioIo;
use sfu_core::room::RoomCloseReason;

use super::text;
use crate::forwards;
use crate::node::{Node, Route};
use crate::placement::{PLEDGED, REFUSED};

/// Another node gave us a room: it begins before its participants come.
pub(super) async fn adopt(State(node): State<Arc<Node>>, name: String) -> Response {
    let Ok(room) = RoomName::new(name) else { return text(400, "not the name of a room") };
    match node.route(&room).await {
        Ok(Route::Local(_)) => text(200, ""),
        Ok(Route::Remote(_)) => text(409, "the room has another home"),
        Err(error) => text(error.status, error.message),
    }
}

/// A room of ours has another home, as another node knows from Redis, which we do not reach: who is in
/// it belongs there. We have stopped to act as its home before that can be.
pub(super) async fn lost(State(node): State<Arc<Node>>, name: String) -> Response {
    let room = RoomName::new(name).ok().and_then(|room| node.rooms.get(&room));
    let Some(room) = room.filter(|_| !node.placement.may_admit()) else {
        return text(404, "the room does not live here, or nowhere else");
    };
    // One that ended meanwhile has nobody to send away.
    let _ended = room.call(|room, now| room.close(RoomCloseReason::Drain, now)).await;
    text(200, "")
}

/// Another node cannot ask Redis where a room lives.
pub(super) async fn here(State(node): State<Arc<Node>>, name: String) -> Response {
    let room = RoomName::new(name).ok().and_then(|room| node.rooms.get(&room));
    match room {
        Some(_) if node.placement.may_admit() => text(200, ""),
        _ => text(404, "the room does not live here"),
    }
}

/// Another node cannot ask Redis, and nobody says that the room lives there: it gets a home as if
/// somebody had come here.
pub(super) async fn home(State(node): State<Arc<Node>>, name: String) -> Response {
    let Ok(room) = RoomName::new(name) else { return text(400, "not the name of a room") };
    match node.place_for_another(&room).await {
        Some(home) => Json(home).into_response(),
        None => text(503, "rooms cannot be placed from here at the moment"),
    }
}

/// Another node cannot reach Redis and asks whether its rooms are safe from us.
pub(super) async fn pledge(State(node): State<Arc<Node>>) -> &'static str {
    if node.placement.pledge() { PLEDGED } else { REFUSED }
}

/// Another node has a participant that shall be shown in a room of this one.
pub(super) async fn forward(State(node): State<Arc<Node>>, mut request: Request) -> Response {
    let protocol = HeaderValue::from_static(forwards::PROTOCOL);
    if request.headers().get(header::UPGRADE) != Some(&protocol) {
        return text(426, "another version of this node's program");
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => forwards::serve(node, TokioIo::new(connection)).await,
            Err(error) => tracing::debug!(%error, "A node gave up its connection"),
        }
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS.as_u16(), "");
    response.headers_mut().insert(header::UPGRADE, protocol);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response
}
