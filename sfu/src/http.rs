//! The public HTTP surface: signalling, server API, create-room, the web page.

mod admin;
mod agent;
mod create_room;
mod pages;
mod peers;
mod room_service;
mod signal;
mod twirp;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get, post};
use contract::access_token::Claims;
use contract::redis::NodeRecord;
use tower::{Layer as _, util::MapRequestLayer};
use tower_http::cors::{Any, CorsLayer};

pub use admin::router as admin_router;

use crate::node::Node;
use crate::peer::{FORWARDED_BY, PeerConnection, PeerError, PeerServer};
use crate::{agents, forwards, lookup, placement, session};

/// Most bytes of a request body (LiveKit's limit).
const MAX_BODY_BYTES: usize = 10 * 1024 * 1024;
/// How long browsers may keep the answer to a preflight request.
const PREFLIGHT_LIFETIME: Duration = Duration::from_secs(86_400);
/// Seconds after which a client shall try again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// How often a request is passed on at most: by the front door to the home, and by a home that
/// gave the room away meanwhile to the next.
const MAX_HOPS: u16 = 2;
/// How often a request was passed on.
const HOPS: HeaderName = HeaderName::from_static("x-livecluster-hops");
/// The address of the client that a request came from.
const CLIENT: HeaderName = HeaderName::from_static("x-livecluster-client");

/// Where a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From a client: may be passed on to a room's home.
    Client,
    /// From another node, which found that the home is here.
    Peer,
}

/// All public paths. `origin` says on which listener they are.
pub fn router(node: Arc<Node>, origin: Origin) -> Router {
    let settings = Arc::clone(&node.settings);
    let mut router = Router::new()
        .route("/rtc", get(signal::rtc))
        .route("/rtc/v1", get(signal::rtc_v1))
        .route("/rtc/validate", get(signal::validate))
        .route("/rtc/v1/validate", get(signal::validate_v1))
        .route("/agent", get(agent::agent))
        .route(
            "/twirp/livekit.RoomService/{method}",
            post(room_service::call).fallback(room_service::bad_route),
        )
        .route(
            "/twirp/livekit.AgentDispatchService/{method}",
            post(room_service::call_dispatch).fallback(room_service::bad_route),
        )
        .route("/twirp/{*path}", any(room_service::bad_route))
        .route("/api/create-room", post(create_room::create_room))
        .fallback(pages::fallback)
        .layer(axum::Extension(origin));
    if origin == Origin::Peer {
        router = router
            .route(agents::ASSIGN, post(agent::assign))
            .route(agents::TERMINATE, post(agent::terminate))
            .route(agents::REPORT, post(agent::reported))
            .route(session::ADOPT, post(peers::adopt))
            .route(lookup::HERE, post(peers::here))
            .route(lookup::HOME, post(peers::home))
            .route(lookup::LOST, post(peers::lost))
            .route(placement::PLEDGE, post(peers::pledge))
            .route(forwards::FORWARDS, post(peers::forward));
    }
    let mut router = router.with_state(Arc::clone(&node));
    if settings.dev {
        router = router.merge(admin_router(node));
    }
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods(Any)
        .allow_headers(Any)
        .max_age(PREFLIGHT_LIFETIME);
    router.layer(cors).layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

/// Serves clients until `stopped` ends; open connections go on until they end or the process
/// does.
///
/// # Errors
///
/// When accepting fails for good.
pub async fn serve(
    listener: tokio::net::TcpListener,
    router: Router,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let service = MapRequestLayer::new(without_double_slashes).layer(router);
    let service =
        axum::ServiceExt::<Request>::into_make_service_with_connect_info::<SocketAddr>(service);
    axum::serve(listener, service).with_graceful_shutdown(stopped).await
}

/// Serves other nodes.
pub async fn serve_peers(server: PeerServer, node: Arc<Node>) {
    server.run(router(node, Origin::Peer)).await;
}

/// Clients that join a URL ending in `/` with a path make `//rtc` of it.
fn without_double_slashes(mut request: Request) -> Request {
    let uri = request.uri();
    if uri.path().contains("//") {
        let mut path = uri.path().to_owned();
        while path.contains("//") {
            path = path.replace("//", "/");
        }
        if let Some(query) = uri.query() {
            path = format!("{path}?{query}");
        }
        if let Ok(uri) = Uri::try_from(path) {
            *request.uri_mut() = uri;
        }
    }
    request
}

/// A plain text answer with a status.
fn text(status: u16, message: impl Into<String>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, message.into()).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    response
}

/// The query's parameters, decoded.
fn query(uri: &Uri) -> Vec<(String, String)> {
    axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map(|query| query.0)
        .unwrap_or_default()
}

/// The token of a request: `Authorization: Bearer`, else the parameter `access_token`.
fn token<'a>(headers: &'a HeaderMap, query: &'a [(String, String)]) -> Option<&'a str> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer ")));
    let parameter =
        || query.iter().find(|(key, _)| key == "access_token").map(|(_, value)| value.as_str());
    bearer.or_else(parameter).map(str::trim).filter(|token| !token.is_empty())
}

/// The verified claims of a request, or the text of a 401.
fn claims(node: &Node, headers: &HeaderMap, query: &[(String, String)]) -> Result<Claims, String> {
    let token = token(headers, query)
        .ok_or_else(|| "invalid authorization token: none was sent".to_owned())?;
    node.keys.verify(token).map_err(|error| format!("invalid authorization token: {error}"))
}

/// Whether a request may be passed on once more.
fn may_pass_on(origin: Origin, headers: &HeaderMap) -> bool {
    hops(origin, headers) < MAX_HOPS
}

/// The answer to a request that may not be passed on any more.
fn moving(headers: &HeaderMap, home: &NodeRecord) -> Response {
    let by = headers.get(FORWARDED_BY);
    tracing::info!(home = home.name, ?by, "Request for a room that is not here");
    text(503, "the room is moving, try again")
}

/// Passes a request on to the home of its room.
async fn forward(node: &Node, origin: Origin, home: &NodeRecord, request: Request) -> Response {
    let may_pass_on = may_pass_on(origin, request.headers());
    let Some(peers) = node.peers.as_ref().filter(|_| may_pass_on) else {
        return moving(request.headers(), home);
    };
    match peers.connect(home.address).await {
        Ok(connection) => forward_by(node, origin, home, connection, request).await,
        Err(error) => {
            if error.is_gone() {
                // The next try finds another home.
                node.placement.end_node(&home.id).await;
            }
            unreached(home, &error)
        }
    }
}

/// Passes a request on by a connection to the home of its room.
async fn forward_by(
    node: &Node,
    origin: Origin,
    home: &NodeRecord,
    connection: PeerConnection,
    mut request: Request,
) -> Response {
    let hops = hops(origin, request.headers());
    if origin == Origin::Client {
        let client = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let client = client.and_then(|info| HeaderValue::try_from(info.0.to_string()).ok());
        // What a client wrote there is not believed.
        request.headers_mut().remove(CLIENT);
        request.headers_mut().extend(client.map(|client| (CLIENT, client)));
    }
    request.headers_mut().insert(HOPS, HeaderValue::from(hops + 1));
    match connection.forward(&node.settings.node_name, request).await {
        Ok(response) => response,
        Err(error) => unreached(home, &error),
    }
}

fn unreached(home: &NodeRecord, error: &PeerError) -> Response {
    let error = error as &dyn std::error::Error;
    tracing::warn!(home = home.name, error, "Home of a room not reached");
    text(503, "the room's node does not answer, try again")
}

/// How often a request was passed on already.
fn hops(origin: Origin, headers: &HeaderMap) -> u16 {
    let written = || headers.get(HOPS)?.to_str().ok()?.parse().ok();
    match origin {
        Origin::Client => 0,
        Origin::Peer => written().unwrap_or(MAX_HOPS),
    }
}

/// The address of the client that a request came from, through all hops.
fn client_address(origin: Origin, request: &Parts) -> Option<SocketAddr> {
    match origin {
        Origin::Client => request.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0),
        Origin::Peer => request.headers.get(CLIENT)?.to_str().ok()?.parse().ok(),
    }
}

/// Whether a request wants a page rather than data.
fn wants_page(method: &Method, headers: &HeaderMap) -> bool {
    let accepts_html = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("text/html"));
    (method == Method::GET || method == Method::HEAD) && accepts_html
}
