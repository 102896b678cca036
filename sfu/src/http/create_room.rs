//! `POST /api/create-room`: a room name and a user name in, a token and the public URL out.
//!
//! The URL is always the cluster's domain, never the address of a node: nodes come and go, and
//! the ingress finds one that lives. (A proxy configuration with a single `localhost` upstream
//! would not; ours is the Service in front of all open nodes. Nor is plain round robin enough:
//! the room's home is found behind the front door.)

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use contract::access_token::{VideoGrants, claims};
use contract::ids::{Identity, RoomName, generate_id};
use contract::sfu_config::CreateRoom;
use serde::{Deserialize, Serialize};
use serde_json::json;
use subtle::ConstantTimeEq as _;

use crate::node::Node;
use crate::settings::read;

/// How long a token admits; a participant that is in stays in.
const TOKEN_LIFETIME: Duration = Duration::from_secs(6 * 3600);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(alias = "roomName")]
    room_name: String,
    /// Unique in the room; a second one throws the first out.
    identity: Option<String>,
    #[serde(alias = "username", alias = "participant_name")]
    user_name: Option<String>,
}

#[derive(Debug, Serialize)]
struct Answer {
    room_name: String,
    token: String,
    url: String,
    server_url: String,
}

/// Status and reason of a refusal.
type Refusal = (StatusCode, String);

pub(super) async fn create_room(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match answer(&node, &headers, &body) {
        Ok(answer) => Json(answer).into_response(),
        Err((status, reason)) => (status, Json(json!({ "error": reason }))).into_response(),
    }
}

fn answer(node: &Node, headers: &HeaderMap, body: &[u8]) -> Result<Answer, Refusal> {
    authorize(node, headers)?;
    let bad_request = |reason: String| (StatusCode::BAD_REQUEST, reason);
    let body: Body =
        serde_json::from_slice(body).map_err(|error| bad_request(error.to_string()))?;
    let room = RoomName::new(body.room_name).map_err(|error| bad_request(error.to_string()))?;
    let name = body.user_name.or_else(|| body.identity.clone()).ok_or_else(|| {
        bad_request("one of user_name, username, participant_name, identity is required".to_owned())
    })?;
    // Two people of one name are two people.
    let identity =
        body.identity.unwrap_or_else(|| generate_id(&format!("{name}-"), &mut rand::rng()));
    let identity = Identity::new(identity).map_err(|error| bad_request(error.to_string()))?;
    let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut claims = claims(identity.as_str(), unix_time, TOKEN_LIFETIME);
    claims.name = name;
    claims.video =
        VideoGrants { room_join: true, room: room.to_string(), ..VideoGrants::default() };
    let token = node.keys.sign(claims).map_err(|error| {
        tracing::error!(%error, "Failed to sign a token");
        (StatusCode::INTERNAL_SERVER_ERROR, "no token could be signed".to_owned())
    })?;
    let url = node.settings.config.public_url.clone();
    Ok(Answer { room_name: room.to_string(), token, server_url: url.clone(), url })
}

fn authorize(node: &Node, headers: &HeaderMap) -> Result<(), Refusal> {
    match node.settings.config.http.create_room {
        CreateRoom::Open => Ok(()),
        CreateRoom::Disabled => Err((
            StatusCode::NOT_FOUND,
            "rooms are not created here: http.createRoom is Disabled".to_owned(),
        )),
        CreateRoom::Token => {
            let expected = node
                .settings
                .config
                .http
                .create_room_token_file
                .as_deref()
                .and_then(|path| read(path).ok())
                .unwrap_or_default();
            let expected = expected.trim();
            let sent = headers
                .get(header::AUTHORIZATION)
                .and_then(|value| value.to_str().ok())
                .and_then(|value| value.strip_prefix("Bearer "))
                .unwrap_or_default();
            let is_equal: bool = sent.as_bytes().ct_eq(expected.as_bytes()).into();
            if is_equal && !expected.is_empty() {
                Ok(())
            } else {
                let reason = "Authorization: Bearer with the configured token is required";
                Err((StatusCode::UNAUTHORIZED, reason.to_owned()))
            }
        }
    }
}
