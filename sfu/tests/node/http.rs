//! The public HTTP surface of one node: statuses and bodies that clients act on.

use crate::support::{
    HOUR, admin_token, dev_node, get, join, join_token, next_message, open, request, sign, twirp,
    unix_time,
};
use contract::access_token::{ApiKeys, VideoGrants, claims};
use contract::sfu_config::CreateRoom;
use futures::SinkExt as _;
use hyper::Method;
use livekit_protocol::{Ping, SignalRequest, signal_request, signal_response};
use prost::Message as _;
use serde_json::json;
use sfu::program::Running;
use sfu::settings::Settings;
use tokio_tungstenite::tungstenite;

#[tokio::test]
async fn tokens_are_checked_with_the_documented_status() {
    let (_node, base) = dev_node().await;
    let foreign: ApiKeys = [("stranger".to_owned(), "secret".to_owned())].into_iter().collect();
    let forged: ApiKeys = [("devkey".to_owned(), "guess".to_owned())].into_iter().collect();
    let granted = |room: &str| {
        let mut claims = claims("anna", unix_time(), HOUR);
        claims.video =
            VideoGrants { room_join: true, room: room.to_owned(), ..VideoGrants::default() };
        claims
    };
    let mut expired = granted("r");
    expired.exp = (unix_time().as_secs() - 120) as usize;
    let mut no_grant = granted("r");
    no_grant.video.room_join = false;
    let cases = [
        ("none", String::new(), 401, "invalid authorization token"),
        ("garbage", "a.b.c".to_owned(), 401, "invalid authorization token"),
        ("foreign key", foreign.sign("stranger", granted("r")).unwrap(), 401, "API key"),
        ("forged", forged.sign("devkey", granted("r")).unwrap(), 401, "signature"),
        ("expired", sign(expired), 401, "expired"),
        ("no grant", sign(no_grant), 401, "no permissions to access the room"),
        ("good", sign(granted("r")), 200, "success"),
    ];
    for (name, token, status, text) in cases {
        for path in ["/rtc/validate", "//rtc/validate"] {
            let answer = get(&format!("{base}{path}?access_token={token}")).await;
            assert_eq!(answer.status, status, "{name}: {answer:?}");
            assert!(answer.body.contains(text), "{name}: {answer:?}");
        }
        if status != 200 {
            let refused = open(&base, &format!("/rtc?access_token={token}")).await.unwrap_err();
            assert_eq!(refused.0, status, "{name}");
        }
    }
}

#[tokio::test]
async fn v1_needs_its_join_request_and_http_is_not_signalling() {
    let (_node, base) = dev_node().await;
    let token = join_token("r", "anna");
    for path in ["/rtc/v1", "/rtc/v1/validate"] {
        let url = format!("{path}?access_token={token}");
        let status = match path {
            "/rtc/v1" => open(&base, &url).await.unwrap_err().0,
            _ => get(&format!("{base}{url}")).await.status,
        };
        assert_eq!(status, 400, "{path}");
    }
    let plain = get(&format!("{base}/rtc?access_token={token}")).await;
    assert_eq!((plain.status, plain.body.as_str()), (404, ""));
}

#[tokio::test]
async fn the_token_that_a_client_gets_lets_it_in_again_with_the_same_rights() {
    let (_node, base) = dev_node().await;
    let mut given = claims("anna", unix_time(), HOUR);
    given.name = "Anna".to_owned();
    given.video = VideoGrants {
        room_join: true,
        room: "again".to_owned(),
        can_publish: Some(false),
        ..VideoGrants::default()
    };
    let mut token = sign(given);
    for _ in 0..3 {
        let mut socket = open(&base, &format!("/rtc?access_token={token}")).await.unwrap();
        let signal_response::Message::Join(joined) = next_message(&mut socket).await else {
            panic!("it joins")
        };
        let anna = joined.participant.unwrap();
        assert_eq!((anna.identity.as_str(), anna.name.as_str()), ("anna", "Anna"));
        assert!(!anna.permission.unwrap().can_publish);
        let signal_response::Message::RefreshToken(next) = next_message(&mut socket).await else {
            panic!("it gets a token")
        };
        token = next;
    }
}

#[tokio::test]
async fn a_client_is_answered_in_the_form_of_its_last_frame() {
    let (_node, base) = dev_node().await;
    let (mut socket, _) = join(&base, "forms", "anna").await;
    let ping = signal_request::Message::PingReq(Ping { timestamp: 5, rtt: 0 });
    let frame = SignalRequest { message: Some(ping.clone()) }.encode_to_vec();
    socket.send(tungstenite::Message::Binary(frame.into())).await.unwrap();
    while !matches!(next_message(&mut socket).await, signal_response::Message::PongResp(_)) {}
    let text = json!({ "pingReq": { "timestamp": "6" } }).to_string();
    socket.send(tungstenite::Message::Text(text.into())).await.unwrap();
    loop {
        use futures::StreamExt as _;
        if let tungstenite::Message::Text(text) = socket.next().await.unwrap().unwrap() {
            let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(answer["pongResp"]["lastPingTimestamp"], "6", "{answer}");
            break;
        }
    }
}

#[tokio::test]
async fn create_room_gives_a_token_that_joins_and_only_four_fields() {
    let (_node, base) = dev_node().await;
    let url = format!("{base}/api/create-room");
    let bodies = [
        json!({"room_name": "a b", "user_name": "Anna"}),
        json!({"roomName": "a b", "username": "Anna"}),
        json!({"room_name": "a b", "participant_name": "Anna"}),
        json!({"room_name": "a b", "identity": "anna"}),
    ];
    for body in bodies {
        let answer = request(Method::POST, &url, &[], body.to_string()).await;
        assert_eq!(answer.status, 200, "{body}: {answer:?}");
        let answer = answer.json();
        let fields: Vec<&String> = answer.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["room_name", "server_url", "token", "url"]);
        assert_eq!(answer["room_name"], "a b");
        assert_eq!(answer["url"], answer["server_url"]);
        let token = answer["token"].as_str().unwrap();
        let valid = get(&format!("{base}/rtc/validate?access_token={token}")).await;
        assert_eq!(valid.status, 200, "{valid:?}");
    }
    let refused = [
        (json!({"room_name": "r"}), "user_name"),
        (json!({"user_name": "Anna"}), "room_name"),
        (json!({"room_name": "", "user_name": "Anna"}), "room name"),
        (json!({"room_name": "r", "user_name": "Anna", "usr": 1}), "usr"),
    ];
    for (body, named) in refused {
        let answer = request(Method::POST, &url, &[], body.to_string()).await;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert!(answer.body.contains(named), "{body}: {answer:?}");
    }
}

#[tokio::test]
async fn create_room_asks_for_its_token_or_is_not_there() {
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "s3cret\n").unwrap();
    let empty = directory.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    let cases = [
        (CreateRoom::Disabled, Some(&file), "Bearer s3cret", 404),
        (CreateRoom::Token, Some(&file), "Bearer s3cret", 200),
        (CreateRoom::Token, Some(&file), "Bearer guess", 401),
        (CreateRoom::Token, Some(&file), "s3cret", 401),
        (CreateRoom::Token, Some(&empty), "Bearer ", 401),
        (CreateRoom::Token, None, "Bearer s3cret", 401),
    ];
    for (who, file, sent, status) in cases {
        let mut settings = Settings::dev(None, 0);
        settings.config.http.create_room = who;
        settings.config.http.create_room_token_file = file.cloned();
        let running = Running::start(settings).await.unwrap();
        let url = format!("http://{}/api/create-room", running.public);
        let body = json!({"room_name": "r", "user_name": "Anna"}).to_string();
        let answer = request(Method::POST, &url, &[("authorization", sent)], body).await;
        assert_eq!(answer.status, status, "{who:?} {sent}: {answer:?}");
    }
}

#[tokio::test]
async fn two_annas_are_two_people() {
    let (_node, base) = dev_node().await;
    let url = format!("{base}/api/create-room");
    let body = json!({"room_name": "r", "user_name": "Anna"}).to_string();
    let mut identities = Vec::new();
    for _ in 0..2 {
        let answer = request(Method::POST, &url, &[], body.clone()).await.json();
        let claims =
            crate::support::keys().verify(answer["token"].as_str().unwrap(), unix_time()).unwrap();
        assert_eq!(claims.name, "Anna");
        identities.push(claims.sub);
    }
    assert_ne!(identities[0], identities[1]);
}

#[tokio::test]
async fn the_server_api_creates_lists_and_deletes_rooms() {
    let (_node, base) = dev_node().await;
    let token = admin_token("api");
    let created = twirp(&base, "CreateRoom", &token, json!({"name": "api", "metadata": "m"})).await;
    assert_eq!(created.status, 200, "{created:?}");
    // Names in snake_case, zero values written.
    assert_eq!(created.json()["num_participants"], 0);
    assert_eq!(created.json()["metadata"], "m");

    let (_socket, _) = join(&base, "api", "anna").await;
    let rooms = twirp(&base, "ListRooms", &token, json!({})).await.json();
    assert_eq!(rooms["rooms"][0]["num_participants"], 1, "{rooms}");
    let people = twirp(&base, "ListParticipants", &token, json!({"room": "api"})).await.json();
    assert_eq!(people["participants"][0]["identity"], "anna", "{people}");
    assert_eq!(people["participants"][0]["tracks"], json!([]));

    let who = json!({"room": "api", "identity": "anna"});
    assert_eq!(twirp(&base, "GetParticipant", &token, who.clone()).await.status, 200);
    assert_eq!(twirp(&base, "RemoveParticipant", &token, who.clone()).await.status, 200);
    let gone = twirp(&base, "RemoveParticipant", &token, who).await;
    assert_eq!((gone.status, gone.json()["code"].as_str()), (404, Some("not_found")));

    assert_eq!(twirp(&base, "DeleteRoom", &token, json!({"room": "api"})).await.status, 200);
    crate::support::eventually("the room is gone", || async {
        let rooms = twirp(&base, "ListRooms", &admin_token("api"), json!({})).await.json();
        rooms["rooms"] == json!([])
    })
    .await;
}

#[tokio::test]
async fn calls_without_the_grant_are_refused() {
    let (_node, base) = dev_node().await;
    let participant = join_token("r", "anna");
    let calls = [
        ("CreateRoom", json!({"name": "r"})),
        ("ListRooms", json!({})),
        ("DeleteRoom", json!({"room": "r"})),
        ("ListParticipants", json!({"room": "r"})),
        ("GetParticipant", json!({"room": "r", "identity": "anna"})),
        ("RemoveParticipant", json!({"room": "r", "identity": "anna"})),
    ];
    for (method, body) in calls {
        let answer = twirp(&base, method, &participant, body).await;
        assert_eq!(answer.status, 401, "{method}: {answer:?}");
        assert_eq!(answer.json(), json!({"code": "unauthenticated", "msg": "permissions denied"}));
    }
    let other_room = admin_token("other");
    let answer = twirp(&base, "ListParticipants", &other_room, json!({"room": "r"})).await;
    assert_eq!(answer.status, 401);
    let unknown = twirp(&base, "Nothing", &admin_token("r"), json!({})).await;
    assert_eq!((unknown.status, unknown.json()["code"].as_str()), (404, Some("bad_route")));
}

#[tokio::test]
async fn probes_metrics_and_the_page_are_there() {
    let (_node, base) = dev_node().await;
    assert_eq!(get(&base).await.body, "OK");
    assert_eq!(get(&format!("{base}/healthz")).await.status, 200);
    assert_eq!(get(&format!("{base}/readyz")).await.status, 200);
    let metrics = get(&format!("{base}/metrics")).await.body;
    assert!(metrics.contains(contract::metrics::ROOMS), "{metrics}");
    let preflight = request(
        Method::OPTIONS,
        &format!("{base}/api/create-room"),
        &[("origin", "https://app.example.com"), ("access-control-request-method", "POST")],
        "",
    )
    .await;
    assert_eq!(preflight.headers["access-control-allow-origin"], "*");
    assert_eq!(get(&format!("{base}/nothing")).await.status, 404);
}
