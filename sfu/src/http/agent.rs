//! The WebSocket of agent workers, and requests of other nodes about their jobs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use contract::ids::{RoomName, generate_id};
use livekit_protocol::server_message::Message as ToWorker;
use livekit_protocol::worker_message::Message as FromWorker;
use livekit_protocol::{
    Job, JobStatus, ParticipantPermission, RegisterWorkerRequest, RegisterWorkerResponse,
    ServerInfo, ServerMessage, WorkerMessage, WorkerPong, server_info,
};
use prost::Message as _;
use sfu_core::signal::codec::MAX_FRAME_BYTES;
use sfu_core::signal::{AGENT_PROTOCOL_VERSION, COMPATIBLE_VERSION, PROTOCOL_VERSION};
use tokio::sync::mpsc;

use super::signal::READ_BUFFER;
use super::{claims, query, text};
use crate::agents::{JobReport, Registration, Worker, report_here};
use crate::node::{Node, Route};
use crate::session::now;

/// Time a worker has to register (LiveKit's figure).
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between WebSocket pings.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// A worker that sent nothing for this long is gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Messages that wait for a worker.
const OUTBOX: usize = 256;

pub(super) async fn agent(State(node): State<Arc<Node>>, request: Request) -> Response {
    let is_websocket = request
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !is_websocket {
        return text(404, "");
    }
    let (mut parts, _) = request.into_parts();
    let api_key = match claims(&node, &parts.headers, &query(&parts.uri)) {
        Ok(claims) if claims.video.agent => claims.iss,
        Ok(_) => return text(401, "permissions denied"),
        Err(message) => return text(401, message),
    };
    if node.is_ending() {
        return text(503, "the node is going away, try again");
    }
    match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade
            .read_buffer_size(READ_BUFFER)
            .max_message_size(MAX_FRAME_BYTES)
            .on_upgrade(move |socket| serve(node, socket, api_key)),
        Err(refused) => refused.into_response(),
    }
}

async fn serve(node: Arc<Node>, mut socket: WebSocket, api_key: String) {
    let registered = tokio::time::timeout(REGISTER_TIMEOUT, register(&mut socket)).await;
    let Ok(Some(request)) = registered else { return };
    let registration = registration(request, api_key);
    let id = registration.id.clone();
    let (messages, outbox) = mpsc::channel(OUTBOX);
    let worker = Arc::new(Worker::new(registration, messages));
    let response = RegisterWorkerResponse {
        worker_id: id.clone(),
        server_info: Some(server_info(&node)),
        endpoint_settings: None,
    };
    worker.tell(ToWorker::Register(response));
    tracing::info!(worker = id, "Agent worker registered");
    node.agents.register(Arc::clone(&worker));
    run(&node, &worker, socket, outbox).await;
    tracing::info!(worker = id, "Agent worker left");
    for (job_id, room) in node.agents.unregister(&worker) {
        report(&node, &room, job_id, JobReport::Lost).await;
    }
}

/// The first message must be the registration; pings before it are answered.
async fn register(socket: &mut WebSocket) -> Option<RegisterWorkerRequest> {
    loop {
        match read(socket.recv().await)? {
            Some(FromWorker::Register(request)) => return Some(request),
            Some(FromWorker::Ping(ping)) => {
                let frame = frame(ServerMessage { message: Some(pong(ping.timestamp)) });
                socket.send(frame).await.ok()?;
            }
            Some(_) => return None,
            None => {}
        }
    }
}

fn registration(request: RegisterWorkerRequest, api_key: String) -> Registration {
    Registration {
        id: generate_id("AW_", &mut rand::rng()),
        job_type: request.r#type(),
        namespace: request.namespace().to_owned(),
        agent_name: request.agent_name,
        deployment: request.deployment,
        permissions: request.allowed_permissions.unwrap_or_else(|| ParticipantPermission {
            can_subscribe: true,
            can_publish: true,
            can_publish_data: true,
            can_update_metadata: true,
            ..ParticipantPermission::default()
        }),
        api_key,
    }
}

fn server_info(node: &Node) -> ServerInfo {
    ServerInfo {
        edition: server_info::Edition::Standard.into(),
        version: COMPATIBLE_VERSION.to_owned(),
        protocol: PROTOCOL_VERSION,
        node_id: node.placement.node_id().to_string(),
        agent_protocol: AGENT_PROTOCOL_VERSION,
        ..ServerInfo::default()
    }
}

async fn run(
    node: &Arc<Node>,
    worker: &Arc<Worker>,
    mut socket: WebSocket,
    mut outbox: mpsc::Receiver<ServerMessage>,
) {
    let mut pings = tokio::time::interval(PING_INTERVAL);
    let mut last_heard = Instant::now();
    loop {
        tokio::select! {
            message = outbox.recv() => {
                let Some(message) = message else { return };
                if socket.send(frame(message)).await.is_err() {
                    return;
                }
            }
            received = socket.recv() => {
                last_heard = Instant::now();
                match read(received) {
                    Some(Some(message)) => handle(node, worker, message).await,
                    Some(None) => {}
                    None => return,
                }
            }
            _ = pings.tick() => {
                let is_idle = last_heard.elapsed() > IDLE_TIMEOUT;
                if is_idle || node.is_ending()
                    || socket.send(Message::Ping(Bytes::new())).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// A message of the worker; `Some(None)` for frames that are none, `None` at the end.
fn read(received: Option<Result<Message, axum::Error>>) -> Option<Option<FromWorker>> {
    match received? {
        Ok(Message::Binary(bytes)) => Some(WorkerMessage::decode(bytes).ok()?.message),
        Ok(Message::Ping(_) | Message::Pong(_)) => Some(None),
        Ok(Message::Text(_) | Message::Close(_)) | Err(_) => None,
    }
}

fn frame(message: ServerMessage) -> Message {
    Message::Binary(message.encode_to_vec().into())
}

fn pong(last_timestamp: i64) -> ToWorker {
    let timestamp = i64::try_from(now().unix_ms).unwrap_or(i64::MAX);
    ToWorker::Pong(WorkerPong { last_timestamp, timestamp })
}

async fn handle(node: &Arc<Node>, worker: &Arc<Worker>, message: FromWorker) {
    match message {
        FromWorker::Availability(answer) => worker.answer(answer),
        FromWorker::UpdateWorker(update) => worker.update(&update),
        FromWorker::UpdateJob(update) => {
            let status = update.status();
            let has_ended = matches!(status, JobStatus::JsSuccess | JobStatus::JsFailed);
            if let Some(room) = worker.room_of(&update.job_id, has_ended) {
                let status = JobReport::Status(status, update.error);
                report(node, &room, update.job_id, status).await;
            }
        }
        FromWorker::Ping(ping) => {
            worker.tell(pong(ping.timestamp));
        }
        FromWorker::SimulateJob(request) => simulate(node, request),
        // The worker gives jobs back: they go to others.
        FromWorker::MigrateJob(request) => {
            for job_id in request.job_ids {
                if let Some(room) = worker.room_of(&job_id, true) {
                    report(node, &room, job_id, JobReport::Lost).await;
                }
            }
        }
        // One registration a connection.
        FromWorker::Register(_) => tracing::debug!(worker = worker.id(), "Registered twice"),
    }
}

/// A job without a dispatch, as workers' tests ask for.
fn simulate(node: &Arc<Node>, request: livekit_protocol::SimulateJobRequest) {
    let job = Job {
        id: generate_id("AJ_", &mut rand::rng()),
        r#type: request.r#type,
        room: request.room,
        participant: request.participant,
        ..Job::default()
    };
    let node = Arc::clone(node);
    tokio::spawn(async move { node.agents.assign_here(&job).await });
}

/// Tells a job's room what became of it, wherever it lives.
async fn report(node: &Arc<Node>, room: &RoomName, job_id: String, report: JobReport) {
    match node.find(room).await {
        Ok(Some(Route::Local(handle))) => report_here(&handle, job_id, report).await,
        Ok(Some(Route::Remote(home))) => {
            let state = match report {
                JobReport::Status(status, error) => {
                    let mut state = livekit_protocol::JobState { error, ..Default::default() };
                    state.set_status(status);
                    Some(state)
                }
                JobReport::Lost => None,
            };
            let room = livekit_protocol::Room { name: room.to_string(), ..Default::default() };
            let job = Job { id: job_id, room: Some(room), state, ..Job::default() };
            node.agents.report_elsewhere(&home, job).await;
        }
        // The room is over, and its jobs with it.
        Ok(None) | Err(_) => {}
    }
}

/// Another node has a job for our workers.
pub(super) async fn assign(State(node): State<Arc<Node>>, body: Bytes) -> Response {
    let Ok(job) = Job::decode(body) else { return text(400, "not a job") };
    match node.agents.assign_here(&job).await {
        Some(state) => state.encode_to_vec().into_response(),
        None => text(404, "no worker"),
    }
}

/// Another node ends a job.
pub(super) async fn terminate(State(node): State<Arc<Node>>, job_id: String) -> Response {
    if node.agents.terminate_here(&job_id) { text(200, "") } else { text(404, "no such job") }
}

/// Another node's worker says how a job of a room is that lives here.
pub(super) async fn reported(State(node): State<Arc<Node>>, body: Bytes) -> Response {
    let Ok(job) = Job::decode(body) else { return text(400, "not a job") };
    let room = job.room.as_ref().and_then(|room| RoomName::new(room.name.clone()).ok());
    let Some(handle) = room.and_then(|room| node.rooms.get(&room)) else {
        return text(404, "no such room");
    };
    let report = match job.state {
        Some(state) => JobReport::Status(state.status(), state.error),
        None => JobReport::Lost,
    };
    report_here(&handle, job.id, report).await;
    text(200, "")
}
