//! What somebody sends that makes no sense is somebody's own problem: whoever is in the room stays
//! there and is served.

use futures::SinkExt as _;
use livekit_protocol::{
    AddTrackRequest, LeaveRequest, MuteTrackRequest, Ping, SessionDescription, SignalRequest,
    SyncState, TrickleRequest, UpdateDataSubscription, UpdateSubscription, UpdateTrackSettings,
    UpdateVideoLayers, signal_request as request, signal_response as response,
    update_data_subscription,
};
use prost::Message as _;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Socket, admin_token, dev_node, join, join_token, next_message, open, twirp};

const ROOM: &str = "unmoved";
/// One byte more than a frame may have.
const TOO_LONG: usize = 2 * 1024 * 1024 + 1;
/// Messages of one kind that come in one breath.
const MANY: usize = 2000;

fn frame(message: request::Message) -> Message {
    Message::Binary(SignalRequest { message: Some(message) }.encode_to_vec().into())
}

fn description(kind: &str, sdp: &str, id: u32) -> SessionDescription {
    SessionDescription { r#type: kind.to_owned(), sdp: sdp.to_owned(), id, ..Default::default() }
}

/// Waits for the answer to a ping: the session lives and is served.
async fn assert_served(socket: &mut Socket) {
    let ping = request::Message::PingReq(Ping { timestamp: 7, rtt: 0 });
    socket.send(frame(ping)).await.unwrap();
    while !matches!(next_message(socket).await, response::Message::PongResp(_)) {}
}

/// What makes no sense, or not at this moment, by what it is called.
#[expect(deprecated, reason = "older clients send such messages")]
fn nonsense(victim: &str) -> Vec<(&'static str, Vec<Message>)> {
    use request::Message as M;
    let sids = vec![String::new(), victim.to_owned(), "TR_nothing".to_owned()];
    let track =
        AddTrackRequest { cid: "c".to_owned(), r#type: 99, source: -5, ..Default::default() };
    let data = update_data_subscription::Update {
        track_sid: victim.to_owned(),
        subscribe: true,
        ..Default::default()
    };
    let out_of_order = vec![
        M::Answer(description("answer", "v=0", 77)),
        M::Offer(description("answer", "no description", 0)),
        M::Offer(description("offer", &"m=audio 9 x 0\r\n".repeat(9999), u32::MAX)),
        M::Trickle(TrickleRequest { candidate_init: "{".to_owned(), target: 9, r#final: true }),
        M::Mute(MuteTrackRequest { sid: victim.to_owned(), muted: true }),
        M::Subscription(UpdateSubscription { track_sids: sids.clone(), ..Default::default() }),
        M::TrackSetting(UpdateTrackSettings {
            track_sids: sids,
            quality: -1,
            width: u32::MAX,
            height: 1,
            fps: u32::MAX,
            priority: u32::MAX,
            ..Default::default()
        }),
        M::UpdateLayers(UpdateVideoLayers::default()),
        M::SyncState(SyncState::default()),
        M::UpdateDataSubscription(UpdateDataSubscription { updates: vec![data] }),
        M::AddTrack(track.clone()),
    ];
    let out_of_order = out_of_order.into_iter().map(frame).collect();
    vec![
        ("messages out of order", out_of_order),
        ("no message at all", vec![frame(M::Ping(i64::MIN)), Message::Binary(Vec::new().into())]),
        ("bytes", vec![Message::Binary(vec![0xFF; 4096].into())]),
        ("text", vec![Message::Text("{\"offer\": [".into())]),
        ("a frame that is too long", vec![Message::Binary(vec![0; TOO_LONG].into())]),
        ("many announcements", vec![frame(M::AddTrack(track)); MANY]),
        ("many leaves", vec![frame(M::Leave(LeaveRequest::default())); 3]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_ends_nobody_elses_session() {
    let (_node, base) = dev_node().await;
    let (mut anna, _) = join(&base, ROOM, "anna").await;
    let (mut ben, _) = join(&base, ROOM, "ben").await;
    let people = json!({"room": ROOM, "identity": "anna"});
    let before = twirp(&base, "GetParticipant", &admin_token(ROOM), people.clone()).await.json();
    let victim = before["sid"].as_str().unwrap();
    for (what, messages) in nonsense(victim) {
        let (mut carl, _) = join(&base, ROOM, "carl").await;
        for message in messages {
            // The server may have closed the connection by now.
            if carl.send(message).await.is_err() {
                break;
            }
        }
        for witness in [&mut anna, &mut ben] {
            assert_served(witness).await;
        }
        drop(carl);
        let now = twirp(&base, "GetParticipant", &admin_token(ROOM), people.clone()).await.json();
        assert_eq!(now["sid"], before["sid"], "after {what}");
        assert_eq!(now["tracks"], before["tracks"], "after {what}");
    }
    // And it goes on for those who come.
    let (mut dora, _) = join(&base, ROOM, "dora").await;
    assert_served(&mut dora).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_resumes_the_session_of_another() {
    let (_node, base) = dev_node().await;
    let (mut anna, _) = join(&base, ROOM, "anna").await;
    let who = json!({"room": ROOM, "identity": "anna"});
    let info = twirp(&base, "GetParticipant", &admin_token(ROOM), who).await.json();
    let (token, sid) = (join_token(ROOM, "carl"), info["sid"].as_str().unwrap());
    let path = format!("/rtc?access_token={token}&protocol=16&reconnect=1&sid={sid}");
    let mut carl = open(&base, &path).await.unwrap();
    let response::Message::Leave(leave) = next_message(&mut carl).await else {
        panic!("there is nothing to resume")
    };
    assert_eq!(leave.reason, i32::from(livekit_protocol::DisconnectReason::StateMismatch));
    assert_served(&mut anna).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_with_nonsense_is_refused_and_the_room_goes_on() {
    let (_node, base) = dev_node().await;
    let (mut anna, _) = join(&base, ROOM, "anna").await;
    let token = join_token(ROOM, "carl");
    let many = "x".repeat(20_000);
    for query in ["join_request=%%%", "join_request=AAAA", "join_request=eA", &many] {
        for version in ["/rtc/v1", "/rtc"] {
            let path = format!("{version}?access_token={token}&protocol=16&{query}");
            if let Ok(mut socket) = open(&base, &path).await {
                // `/rtc` knows no parameter of that name.
                assert!(version == "/rtc" && query == many, "{path}");
                assert_served(&mut socket).await;
            }
            assert_served(&mut anna).await;
        }
    }
}
