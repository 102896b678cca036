//! Rooms by the name of a preset: of `CreateRoom`, of tokens, of what a client got refreshed.

use contract::access_token::{MoreClaims, VideoGrants, claims};
use contract::sfu_config::{PresetAgent, RoomPreset};
use livekit_protocol::{RoomConfiguration, signal_response};
use serde_json::{Value, json};
use sfu::program::Running;
use sfu::settings::Settings;

use crate::support::{HOUR, admin_token, keys, next_message, open, twirp, unix_time};

async fn node_with_preset() -> (Running, String) {
    let mut settings = Settings::dev(None, 0);
    let agent = PresetAgent { agent_name: "notes".to_owned(), ..PresetAgent::default() };
    let preset = RoomPreset {
        max_participants: 9,
        departure_timeout: 77,
        metadata: "a webinar".to_owned(),
        agents: vec![agent],
        ..RoomPreset::default()
    };
    settings.config.room.presets.insert("webinar".to_owned(), preset);
    let running = Running::start(settings).await.unwrap();
    let base = format!("http://{}", running.public);
    (running, base)
}

/// A token for a room, with a preset and what else it says of the room.
fn token(room: &str, preset: &str, wish: Option<RoomConfiguration>) -> String {
    let mut claims = claims("anna", unix_time(), HOUR);
    claims.video = VideoGrants { room_join: true, room: room.to_owned(), ..VideoGrants::default() };
    claims.room_config = wish;
    let more = MoreClaims { room_preset: preset.to_owned(), ..MoreClaims::default() };
    let keys = keys();
    let (key, _) = keys.signing().unwrap();
    keys.sign_more(key, claims, &more).unwrap()
}

async fn agents(base: &str, room: &str) -> Vec<Value> {
    let url = format!("{base}/twirp/livekit.AgentDispatchService/ListDispatch");
    let header = ("authorization", format!("Bearer {}", admin_token(room)));
    let headers = [(header.0, header.1.as_str()), ("content-type", "application/json")];
    let body = json!({"room": room}).to_string();
    let answer = crate::support::request(hyper::Method::POST, &url, &headers, body).await;
    answer.json()["agent_dispatches"].as_array().cloned().unwrap_or_default()
}

#[tokio::test]
async fn create_room_takes_from_a_preset_what_it_does_not_say() {
    let (_node, base) = node_with_preset().await;
    let create = |room: &'static str, mut body: Value| {
        body["name"] = json!(room);
        let base = base.clone();
        async move { twirp(&base, "CreateRoom", &admin_token(room), body).await }
    };
    let made = create("one", json!({"room_preset": "webinar"})).await.json();
    assert_eq!((&made["max_participants"], &made["departure_timeout"]), (&json!(9), &json!(77)));
    assert_eq!(made["metadata"], "a webinar");
    assert_eq!(agents(&base, "one").await[0]["agent_name"], "notes");
    let said = json!({"room_preset": "webinar", "max_participants": 3,
                      "agents": [{"agent_name": "other"}]});
    let made = create("two", said).await.json();
    assert_eq!((&made["max_participants"], &made["departure_timeout"]), (&json!(3), &json!(77)));
    assert_eq!(agents(&base, "two").await[0]["agent_name"], "other");
    let refused = create("three", json!({"room_preset": "seminar"})).await;
    assert_eq!((refused.status, &refused.json()["code"]), (400, &json!("invalid_argument")));
    let rooms = twirp(&base, "ListRooms", &admin_token("three"), json!({"names": ["three"]})).await;
    assert_eq!(rooms.json()["rooms"], json!([]), "nothing was made");
}

#[tokio::test]
async fn the_first_participants_token_chooses_a_preset() {
    let (_node, base) = node_with_preset().await;
    let join = async |token: &str| open(&base, &format!("/rtc?access_token={token}")).await;
    let unknown = join(&token("seminar", "seminar", None)).await.unwrap_err();
    assert_eq!(unknown, (400, "unknown room configuration in create room request".to_owned()));
    let wish = RoomConfiguration { max_participants: 5, ..RoomConfiguration::default() };
    let mut anna = join(&token("webinar", "webinar", Some(wish))).await.unwrap();
    let signal_response::Message::Join(joined) = next_message(&mut anna).await else {
        panic!("it joins")
    };
    let room = joined.room.unwrap();
    assert_eq!((room.max_participants, room.departure_timeout), (5, 77));
    assert_eq!(room.metadata, "a webinar");
    assert_eq!(agents(&base, "webinar").await[0]["agent_name"], "notes");
    // Who begins the room anew with the token that it got meanwhile has the same room.
    let signal_response::Message::RefreshToken(refreshed) = next_message(&mut anna).await else {
        panic!("it gets a token")
    };
    assert_eq!(MoreClaims::of_verified(&refreshed).room_preset, "webinar");
    // The room is there: what others' tokens say has no part in it.
    assert!(join(&token("webinar", "seminar", None)).await.is_ok());
}
