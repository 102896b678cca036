//! What a receiver of webhooks gets from a real node.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use contract::sfu_config::WebhookConfig;
use livekit_protocol::WebhookEvent;
use serde_json::json;
use sfu::program::Running;
use sfu::settings::Settings;

use crate::support::{admin_token, eventually, free_port, join, keys, twirp, unix_time};

/// A receiver that answers the first requests with an error.
struct Receiver {
    url: String,
    events: Arc<Mutex<Vec<WebhookEvent>>>,
    requests: Arc<Mutex<usize>>,
}

impl Receiver {
    async fn start(failures: usize, refusal: StatusCode) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (events, requests) = (Arc::default(), Arc::new(Mutex::new(0)));
        let receiver = Self { url, events: Arc::clone(&events), requests: Arc::clone(&requests) };
        let handler = move |headers: HeaderMap, body: Bytes| {
            let answer = receive(&events, &requests, (failures, refusal), &headers, &body);
            async move { answer }
        };
        let router = axum::Router::new().route("/hook", axum::routing::post(handler));
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    fn names(&self) -> Vec<String> {
        self.events.lock().unwrap().iter().map(|event| event.event.clone()).collect()
    }

    async fn has(&self, count: usize) {
        eventually("the events arrive", || async { self.names().len() >= count }).await;
    }
}

fn receive(
    events: &Mutex<Vec<WebhookEvent>>,
    requests: &Mutex<usize>,
    (failures, refusal): (usize, StatusCode),
    headers: &HeaderMap,
    body: &[u8],
) -> StatusCode {
    let mut count = requests.lock().unwrap();
    *count += 1;
    if *count <= failures {
        return refusal;
    }
    assert_eq!(headers["content-type"], "application/webhook+json");
    // As receivers of LiveKit's SDKs: the token signs the hash of the body.
    let claims = keys().verify(headers["authorization"].to_str().unwrap(), unix_time()).unwrap();
    let hash = openssl::base64::encode_block(&openssl::sha::sha256(body));
    assert_eq!(claims.sha256, hash);
    events.lock().unwrap().push(serde_json::from_slice(body).unwrap());
    StatusCode::OK
}

async fn node(config: WebhookConfig) -> (Running, String) {
    let mut settings = Settings::dev(None, 0);
    settings.config.webhook = config;
    let running = Running::start(settings).await.unwrap();
    let base = format!("http://{}", running.public);
    (running, base)
}

async fn create_and_delete(base: &str, room: &str) {
    let token = admin_token(room);
    assert_eq!(twirp(base, "CreateRoom", &token, json!({"name": room})).await.status, 200);
    assert_eq!(twirp(base, "DeleteRoom", &token, json!({"room": room})).await.status, 200);
}

#[tokio::test]
async fn events_are_signed_in_order_and_repeated_until_taken() {
    for failures in [0, 2] {
        let receiver = Receiver::start(failures, StatusCode::INTERNAL_SERVER_ERROR).await;
        let urls = vec![receiver.url.clone()];
        let (_node, base) = node(WebhookConfig { urls, ..WebhookConfig::default() }).await;
        create_and_delete(&base, "hooks").await;
        receiver.has(2).await;
        assert_eq!(receiver.names(), ["room_started", "room_finished"], "{failures} failures");
        let events = receiver.events.lock().unwrap();
        assert_ne!(events[0].id, events[1].id);
        assert_eq!(events[0].room.as_ref().unwrap().name, "hooks");
        assert!(events[0].created_at.abs_diff(unix_time().as_secs() as i64) < 60);
    }
}

#[tokio::test]
async fn a_refused_event_is_not_repeated() {
    let receiver = Receiver::start(1, StatusCode::BAD_REQUEST).await;
    let urls = vec![receiver.url.clone()];
    let (_node, base) = node(WebhookConfig { urls, ..WebhookConfig::default() }).await;
    create_and_delete(&base, "refused").await;
    receiver.has(1).await;
    assert_eq!(receiver.names(), ["room_finished"]);
}

#[tokio::test]
async fn a_dead_receiver_delays_neither_rooms_nor_other_receivers() {
    let receiver = Receiver::start(0, StatusCode::OK).await;
    let dead = format!("http://127.0.0.1:{}/hook", free_port());
    let urls = vec![dead, receiver.url.clone()];
    let (_node, base) = node(WebhookConfig { urls, ..WebhookConfig::default() }).await;
    let start = Instant::now();
    for number in 0..20 {
        create_and_delete(&base, &format!("room {number}")).await;
    }
    receiver.has(40).await;
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[tokio::test]
async fn excluded_events_are_not_sent() {
    let receiver = Receiver::start(0, StatusCode::OK).await;
    let config = WebhookConfig {
        urls: vec![receiver.url.clone()],
        exclude_events: vec!["room_started".to_owned()],
        ..WebhookConfig::default()
    };
    let (_node, base) = node(config).await;
    let (socket, _) = join(&base, "quiet", "anna").await;
    drop(socket);
    let token = admin_token("quiet");
    assert_eq!(twirp(&base, "DeleteRoom", &token, json!({"room": "quiet"})).await.status, 200);
    receiver.has(2).await;
    assert_eq!(receiver.names(), ["participant_connection_aborted", "room_finished"]);
    assert_eq!(*receiver.requests.lock().unwrap(), 2);
}

#[tokio::test]
async fn a_wrong_configuration_is_named() {
    let wrong = [
        (WebhookConfig { urls: vec!["ftp://x".to_owned()], ..Default::default() }, "ftp://x"),
        (
            WebhookConfig { include_events: vec!["room_start".to_owned()], ..Default::default() },
            "room_start",
        ),
    ];
    for (webhook, named) in wrong {
        let mut settings = Settings::dev(None, 0);
        settings.config.webhook = webhook;
        let error = Running::start(settings).await.err().unwrap().to_string();
        assert!(error.contains(named), "{error}");
    }
}
