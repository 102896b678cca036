//! The server API beyond rooms: each method once allowed, and without the grant.

use contract::access_token::{VideoGrants, claims};
use futures::SinkExt as _;
use hyper::Method;
use livekit_protocol::{
    AddTrackRequest, SignalRequest, TrackSource, TrackType, signal_request, signal_response,
};
use prost::Message as _;
use serde_json::{Value, json};
use sfu::program::Running;
use sfu::settings::Settings;
use tokio_tungstenite::tungstenite;

use crate::support::{
    HOUR, Socket, admin_token, dev_node, eventually, join, join_token, next_message, request, sign,
    twirp, unix_time,
};

const ROOM: &str = "governed";

/// The next message that `pick` knows.
async fn await_message<T>(
    socket: &mut Socket,
    pick: impl Fn(signal_response::Message) -> Option<T>,
) -> T {
    loop {
        if let Some(found) = pick(next_message(socket).await) {
            return found;
        }
    }
}

async fn announce_track(socket: &mut Socket) -> String {
    let request = signal_request::Message::AddTrack(AddTrackRequest {
        cid: "microphone".to_owned(),
        r#type: TrackType::Audio.into(),
        source: TrackSource::Microphone.into(),
        ..AddTrackRequest::default()
    });
    let frame = SignalRequest { message: Some(request) }.encode_to_vec();
    socket.send(tungstenite::Message::Binary(frame.into())).await.unwrap();
    await_message(socket, |message| match message {
        signal_response::Message::TrackPublished(published) => Some(published.track?.sid),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn participants_are_changed_and_told() {
    let (_node, base) = dev_node().await;
    let (mut anna, _) = join(&base, ROOM, "anna").await;
    let token = admin_token(ROOM);
    let call = |method: &'static str, body: Value| twirp(&base, method, &token, body);
    let sid = announce_track(&mut anna).await;

    let mute = json!({"room": ROOM, "identity": "anna", "track_sid": sid, "muted": true});
    let muted = call("MutePublishedTrack", mute).await;
    assert_eq!((muted.status, &muted.json()["track"]["muted"]), (200, &json!(true)), "{muted:?}");
    let told = await_message(&mut anna, |message| match message {
        signal_response::Message::Mute(mute) => Some(mute.muted),
        _ => None,
    });
    assert!(told.await);
    let unmute = json!({"room": ROOM, "identity": "anna", "track_sid": sid, "muted": false});
    let refused = call("MutePublishedTrack", unmute).await;
    assert_eq!(refused.json()["code"], "failed_precondition", "{refused:?}");

    let update = json!({
        "room": ROOM, "identity": "anna", "name": "Anna", "metadata": "m",
        "attributes": {"camelCase": "kept"},
        "permission": {"can_subscribe": true, "can_publish": false, "can_publish_data": true},
    });
    let info = call("UpdateParticipant", update).await.json();
    assert_eq!((&info["name"], &info["metadata"]), (&json!("Anna"), &json!("m")), "{info}");
    assert_eq!(info["attributes"], json!({"camelCase": "kept"}));
    assert_eq!(info["permission"]["can_subscribe"], true);
    assert_ne!(info["permission"]["can_publish"], true);
    let seen = await_message(&mut anna, |message| match message {
        signal_response::Message::Update(update) => Some(update.participants[0].name.clone()),
        _ => None,
    });
    assert_eq!(seen.await, "Anna");

    let subscribe = json!({"room": ROOM, "identity": "anna", "track_sids": [], "subscribe": true});
    assert_eq!(call("UpdateSubscriptions", subscribe).await.json(), json!({}));
    let metadata = call("UpdateRoomMetadata", json!({"room": ROOM, "metadata": "new"})).await;
    assert_eq!(metadata.json()["metadata"], "new");
    let room = await_message(&mut anna, |message| match message {
        signal_response::Message::RoomUpdate(update) => Some(update.room?.metadata),
        _ => None,
    });
    assert_eq!(room.await, "new");
    let data = json!({"room": ROOM, "data": "aGk=", "kind": "LOSSY", "topic": "t"});
    assert_eq!(call("SendData", data).await.status, 200);
    let nonce = json!({"room": ROOM, "data": "aGk=", "nonce": "aGk="});
    assert_eq!(call("SendData", nonce).await.json()["code"], "invalid_argument");
}

#[tokio::test]
async fn calls_to_nobody_are_answered_at_once() {
    let (_node, base) = dev_node().await;
    let (_anna, _) = join(&base, ROOM, "anna").await;
    let token = admin_token(ROOM);
    let call = json!({"room": ROOM, "destination_identity": "ben", "method": "m"});
    let failed = twirp(&base, "PerformRpc", &token, call).await;
    assert_eq!(failed.json()["code"], "not_found", "{failed:?}");
    assert_eq!(failed.json()["meta"]["code"], "1401");
    let nobody = json!({"room": ROOM, "method": "m"});
    let failed = twirp(&base, "PerformRpc", &token, nobody).await;
    assert_eq!(failed.json()["code"], "invalid_argument");
}

#[tokio::test]
async fn a_moved_participant_may_enter_the_other_room() {
    let (_node, base) = dev_node().await;
    let (mut anna, _) = join(&base, ROOM, "anna").await;
    let mut mover = claims("server", unix_time(), HOUR);
    mover.video = VideoGrants {
        room_admin: true,
        room: ROOM.to_owned(),
        destination_room: "other".to_owned(),
        ..VideoGrants::default()
    };
    let body = json!({"room": ROOM, "identity": "anna", "destination_room": "other"});
    let denied = twirp(&base, "MoveParticipant", &admin_token(ROOM), body.clone()).await;
    assert_eq!(denied.status, 401, "without destinationRoom: {denied:?}");
    let token = sign(mover);
    assert_eq!(twirp(&base, "MoveParticipant", &token, body).await.status, 200);
    let moved = await_message(&mut anna, |message| match message {
        signal_response::Message::RoomMoved(moved) => Some(moved),
        _ => None,
    })
    .await;
    assert_eq!(moved.room.unwrap().name, "other");
    let path = format!("/rtc?access_token={}&protocol=16", moved.token);
    crate::support::open(&base, &path).await.unwrap();
    let there = json!({"room": "other", "identity": "anna"});
    assert_eq!(twirp(&base, "GetParticipant", &admin_token("other"), there).await.status, 200);
}

#[tokio::test]
async fn a_forwarded_participant_is_in_both_rooms_until_it_leaves_one() {
    let (_node, base) = dev_node().await;
    let (mut anna, _) = join(&base, ROOM, "anna").await;
    let (mut ben, _) = join(&base, "stage", "ben").await;
    let mut forwarder = claims("server", unix_time(), HOUR);
    forwarder.video = VideoGrants {
        room_admin: true,
        room: ROOM.to_owned(),
        destination_room: "stage".to_owned(),
        ..VideoGrants::default()
    };
    let token = sign(forwarder);
    let body =
        |identity: &str| json!({"room": ROOM, "identity": identity, "destination_room": "stage"});
    let forward = |identity: &str| twirp(&base, "ForwardParticipant", &token, body(identity));
    let denied = twirp(&base, "ForwardParticipant", &admin_token(ROOM), body("anna")).await;
    assert_eq!(denied.status, 401, "without destinationRoom: {denied:?}");
    assert_eq!(forward("carl").await.json()["code"], "not_found");
    for _ in 0..2 {
        let forwarded = forward("anna").await;
        assert_eq!((forwarded.status, forwarded.json()), (200, json!({})), "again is no error");
    }
    let seen = |message| match message {
        signal_response::Message::Update(update) => {
            update.participants.into_iter().find(|participant| participant.identity == "anna")
        }
        _ => None,
    };
    let shown = await_message(&mut ben, seen).await;
    assert_eq!(shown.kind_details, [1], "FORWARDED");

    let sid = announce_track(&mut anna).await;
    let rename = json!({"room": ROOM, "identity": "anna", "name": "Anna"});
    twirp(&base, "UpdateParticipant", &admin_token(ROOM), rename).await;
    assert_eq!(await_message(&mut ben, seen).await.name, "Anna");
    let admin = admin_token("stage");
    let mute = json!({"room": "stage", "identity": "anna", "track_sid": sid, "muted": true});
    let refused = twirp(&base, "MutePublishedTrack", &admin, mute).await;
    assert_eq!(refused.json()["code"], "failed_precondition", "{refused:?}");

    let there = json!({"room": "stage", "identity": "anna"});
    assert_eq!(twirp(&base, "RemoveParticipant", &admin, there.clone()).await.status, 200);
    let here = json!({"room": ROOM, "identity": "anna"});
    let stays = twirp(&base, "GetParticipant", &admin_token(ROOM), here.clone()).await;
    assert_eq!(stays.status, 200, "{stays:?}");
    // It may come back, and goes when it leaves its own room.
    eventually("it is forwarded again", || async {
        assert_eq!(forward("anna").await.status, 200);
        twirp(&base, "GetParticipant", &admin, there.clone()).await.status == 200
    })
    .await;
    assert_eq!(twirp(&base, "RemoveParticipant", &admin_token(ROOM), here).await.status, 200);
    eventually("the other room follows", || async {
        twirp(&base, "GetParticipant", &admin, there.clone()).await.status == 404
    })
    .await;
}

#[tokio::test]
async fn a_participant_is_not_forwarded_to_a_room_that_may_not_be_made() {
    let mut settings = Settings::dev(None, 0);
    settings.config.room.auto_create = false;
    let node = Running::start(settings).await.unwrap();
    let base = format!("http://{}", node.public);
    let create = |room: &'static str| {
        let base = &base;
        async move { twirp(base, "CreateRoom", &admin_token(room), json!({"name": room})).await }
    };
    assert_eq!(create(ROOM).await.status, 200);
    let (_anna, _) = join(&base, ROOM, "anna").await;
    let forward = |room_create: bool| {
        let mut forwarder = claims("server", unix_time(), HOUR);
        forwarder.video = VideoGrants {
            room_admin: true,
            room_create,
            room: ROOM.to_owned(),
            destination_room: "stage".to_owned(),
            ..VideoGrants::default()
        };
        let body = json!({"room": ROOM, "identity": "anna", "destination_room": "stage"});
        let (base, token) = (&base, sign(forwarder));
        async move { twirp(base, "ForwardParticipant", &token, body).await }
    };
    let refused = forward(false).await;
    assert_eq!(refused.json()["code"], "not_found", "{refused:?}");
    assert_eq!(forward(true).await.status, 200, "its maker may make rooms");
    assert_eq!(forward(false).await.status, 200, "it exists, and shows anna already");
}

#[tokio::test]
async fn who_was_removed_needs_a_new_token_and_learns_so() {
    let (_node, base) = dev_node().await;
    let token = join_token(ROOM, "anna");
    let path = format!("/rtc?access_token={token}&protocol=16");
    let (_ben, _) = join(&base, ROOM, "ben").await;
    let remove = |cutoff: Value| {
        let mut body = json!({"room": ROOM, "identity": "anna"});
        body["revoke_token_ts"] = cutoff;
        let (base, token) = (&base, admin_token(ROOM));
        async move { twirp(base, "RemoveParticipant", &token, body).await }
    };
    let validate = format!("{base}/rtc/validate?access_token={token}");
    // Tokens from before yesterday are not valid any more: this one is.
    let yesterday = unix_time().as_secs() - 86_400;
    for (cutoff, status) in [(json!(yesterday), 200), (json!(0), 401)] {
        crate::support::open(&base, &path).await.unwrap();
        let milliseconds = remove(json!(yesterday * 1000)).await;
        assert_eq!(milliseconds.json()["code"], "invalid_argument", "{milliseconds:?}");
        assert_eq!(remove(cutoff).await.status, 200);
        assert_eq!(crate::support::get(&validate).await.status, status);
    }
    let (status, body) = crate::support::open(&base, &path).await.unwrap_err();
    assert!(status == 401 && body.contains("revoked"), "{status} {body}");
    // Others come and go, and who gets a later token comes back.
    let (_carl, _) = join(&base, ROOM, "carl").await;
    // As far ahead as clocks may be.
    let mut later = claims("anna", unix_time() + std::time::Duration::from_secs(60), HOUR);
    later.video = VideoGrants { room_join: true, room: ROOM.to_owned(), ..VideoGrants::default() };
    let path = format!("/rtc?access_token={}&protocol=16", sign(later));
    crate::support::open(&base, &path).await.unwrap();
}

#[tokio::test]
async fn every_method_asks_for_its_grant() {
    let (_node, base) = dev_node().await;
    let token = join_token(ROOM, "anna");
    let who = json!({"room": ROOM, "identity": "anna", "destination_room": "other"});
    for method in [
        "MutePublishedTrack",
        "UpdateParticipant",
        "UpdateSubscriptions",
        "SendData",
        "UpdateRoomMetadata",
        "PerformRpc",
        "MoveParticipant",
        "ForwardParticipant",
    ] {
        let mut body = who.clone();
        if matches!(method, "SendData" | "UpdateRoomMetadata" | "PerformRpc") {
            body = json!({"room": ROOM});
        }
        let answer = twirp(&base, method, &token, body).await;
        assert_eq!(answer.json()["code"], "unauthenticated", "{method}: {answer:?}");
    }
}

#[tokio::test]
async fn services_that_are_not_here_are_named_in_an_error_that_sdks_read() {
    let (_node, base) = dev_node().await;
    let headers = [("content-type", "application/json")];
    for (method, path) in [
        (Method::POST, "/twirp/livekit.Egress/ListEgress"),
        (Method::POST, "/twirp/livekit.SIP/ListSIPTrunk"),
        (Method::GET, "/twirp/livekit.RoomService/ListRooms"),
    ] {
        let answer = request(method, &format!("{base}{path}"), &headers, "{}").await;
        assert_eq!(answer.status, 404, "{answer:?}");
        assert_eq!(answer.json()["code"], "bad_route", "{answer:?}");
        assert!(answer.body.contains(path), "{answer:?}");
    }
}

#[tokio::test]
async fn what_is_not_done_is_refused_by_name() {
    let (_node, base) = dev_node().await;
    for (field, value) in [("egress", json!({})), ("tags", json!({"a": "b"}))] {
        let mut body = json!({"name": "r"});
        body[field] = value;
        let answer = twirp(&base, "CreateRoom", &admin_token("r"), body).await;
        assert_eq!(answer.json()["code"], "unimplemented", "{field}: {answer:?}");
        assert!(answer.body.contains(field), "{answer:?}");
    }
}

#[tokio::test]
async fn a_body_is_bounded() {
    let (_node, base) = dev_node().await;
    let (_anna, _) = join(&base, ROOM, "anna").await;
    let body = json!({"room": ROOM, "metadata": "x".repeat(10 * 1024 * 1024)});
    let refused = twirp(&base, "UpdateRoomMetadata", &admin_token(ROOM), body).await;
    assert_eq!(refused.status, 413, "{}", refused.body);
}
