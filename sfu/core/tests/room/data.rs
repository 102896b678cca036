//! Data packets, data tracks and remote procedure calls.

use std::time::Duration;

use livekit_protocol::signal_request::Message as Request;
use livekit_protocol::signal_response::Message;
use livekit_protocol::{
    ChatMessage, DataPacket, DataTrackSubscriptionOptions, MetricsBatch, PublishDataTrackRequest,
    RpcAck, RpcError, RpcRequest, RpcResponse, Transcription, UnpublishDataTrackRequest,
    UpdateDataSubscription, UserPacket, data_packet, request_response, rpc_response,
    update_data_subscription,
};
use prost::Message as _;
use sfu_core::media::{DataChannelKind, MediaEvent, TransportId};
use sfu_core::room::{RpcCall, RpcId, ServerData, SessionId};
use sfu_core::signal::join::PeerConnectionMode::Single;

use crate::client::*;

fn send(
    world: &mut World,
    from: TransportId,
    packet: &DataPacket,
) -> Vec<(TransportId, DataPacket)> {
    let payload = packet.encode_to_vec().into();
    let channel = DataChannelKind::Reliable;
    world.media(MediaEvent::Data { transport: from, channel, payload });
    sent(world)
}

fn sent(world: &mut World) -> Vec<(TransportId, DataPacket)> {
    let decode = |payload: Vec<u8>| DataPacket::decode(payload.as_slice()).unwrap();
    std::mem::take(&mut world.data).into_iter().map(|(to, _, bytes)| (to, decode(bytes))).collect()
}

fn enter_with(
    world: &mut World,
    name: &str,
    change: impl FnOnce(&mut contract::access_token::Claims),
) -> (SessionId, TransportId) {
    let mut joining = params(name, Single);
    change(&mut joining.claims);
    let session = world.join(joining).unwrap();
    world.signal(session, offer(SINGLE_START, 1));
    let transport = *world.opened.last().unwrap();
    world.connect(transport);
    (session, transport)
}

#[test]
fn topics_pass_and_destinations_may_be_sids_or_identities() {
    let mut world = World::new();
    let (_, anna) = enter_single(&mut world, "anna", SINGLE_START);
    let (_, ben) = enter_single(&mut world, "ben", SINGLE_START);
    let (_, carl) = enter_single(&mut world, "carl", SINGLE_START);
    let user = |destination_identities: Vec<String>| {
        #[expect(deprecated, reason = "older clients address packets so")]
        let user = UserPacket {
            payload: b"x".to_vec(),
            topic: Some("greeting".to_owned()),
            destination_identities,
            ..UserPacket::default()
        };
        DataPacket { value: Some(data_packet::Value::User(user)), ..DataPacket::default() }
    };
    let mut by_sid = user(Vec::new());
    by_sid.destination_identities = vec![world.me("carl").sid];
    let cases = [
        (user(Vec::new()), vec![ben, carl]),
        (user(vec!["ben".to_owned()]), vec![ben]),
        (by_sid, vec![carl]),
    ];
    for (packet, receivers) in cases {
        let sent = send(&mut world, anna, &packet);
        assert_eq!(sent.iter().map(|(to, _)| *to).collect::<Vec<_>>(), receivers);
        let Some(data_packet::Value::User(user)) = &sent[0].1.value else { panic!() };
        assert_eq!(user.topic.as_deref(), Some("greeting"));
    }
}

#[test]
fn agents_speak_for_others_and_nobody_else_does() {
    for (kind, identity, generated) in [("agent", "ben", true), ("standard", "anna", false)] {
        let mut world = World::new();
        let (_, anna) = enter_with(&mut world, "anna", |claims| claims.kind = kind.to_owned());
        enter_single(&mut world, "ben", SINGLE_START);
        let chat = ChatMessage { id: "1".to_owned(), ..ChatMessage::default() };
        let packet = DataPacket {
            participant_identity: "ben".to_owned(),
            value: Some(data_packet::Value::ChatMessage(chat)),
            ..DataPacket::default()
        };
        let sent = send(&mut world, anna, &packet);
        assert_eq!(sent[0].1.participant_identity, identity);
        let Some(data_packet::Value::ChatMessage(chat)) = &sent[0].1.value else { panic!() };
        assert_eq!(chat.generated, generated);
    }
}

#[test]
fn only_agents_transcribe_and_metrics_go_to_who_may_have_them() {
    let transcription = data_packet::Value::Transcription(Transcription::default());
    for (kind, receivers) in [("agent", 2), ("standard", 0)] {
        let mut world = World::new();
        let (_, anna) = enter_with(&mut world, "anna", |claims| claims.kind = kind.to_owned());
        enter_single(&mut world, "ben", SINGLE_START);
        enter_single(&mut world, "carl", SINGLE_START);
        let packet = DataPacket { value: Some(transcription.clone()), ..DataPacket::default() };
        assert_eq!(send(&mut world, anna, &packet).len(), receivers, "{kind}");
    }
    let mut world = World::new();
    let (_, anna) = enter_single(&mut world, "anna", SINGLE_START);
    enter_single(&mut world, "ben", SINGLE_START);
    let mut watching = params("carl", Single);
    watching.more_claims.video.can_subscribe_metrics = true;
    let session = world.join(watching).unwrap();
    world.signal(session, offer(SINGLE_START, 1));
    let carl = *world.opened.last().unwrap();
    world.connect(carl);
    let metrics = Some(data_packet::Value::Metrics(MetricsBatch::default()));
    let sent = send(&mut world, anna, &DataPacket { value: metrics, ..DataPacket::default() });
    assert_eq!(sent.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [carl]);
}

#[test]
fn a_hidden_sender_stays_unknown() {
    let mut world = World::new();
    let (_, ghost) = enter_with(&mut world, "ghost", |claims| claims.video.hidden = true);
    enter_single(&mut world, "ben", SINGLE_START);
    let user = UserPacket { payload: b"boo".to_vec(), ..UserPacket::default() };
    let packet = DataPacket { value: Some(data_packet::Value::User(user)), ..Default::default() };
    let sent = send(&mut world, ghost, &packet);
    let got = &sent[0].1;
    assert_eq!((got.participant_identity.as_str(), got.participant_sid.as_str()), ("", ""));
}

#[test]
fn the_server_sends_to_all_or_to_some() {
    let mut world = World::new();
    let (_, anna) = enter_single(&mut world, "anna", SINGLE_START);
    let (_, ben) = enter_single(&mut world, "ben", SINGLE_START);
    for (destinations, receivers) in [(vec![], vec![anna, ben]), (vec!["ben"], vec![ben])] {
        let data = ServerData {
            payload: b"news".to_vec(),
            destinations: destinations.into_iter().map(str::to_owned).collect(),
            topic: Some("t".to_owned()),
            ..ServerData::default()
        };
        world.call(|room, _| room.send_server_data(data));
        let sent = sent(&mut world);
        assert_eq!(sent.iter().map(|(to, _)| *to).collect::<Vec<_>>(), receivers);
        let Some(data_packet::Value::User(user)) = &sent[0].1.value else { panic!() };
        assert_eq!((user.payload.as_slice(), user.topic.as_deref()), (&b"news"[..], Some("t")));
    }
}

fn publish(world: &mut World, session: SessionId, pub_handle: u32, name: &str) {
    let request =
        PublishDataTrackRequest { pub_handle, name: name.to_owned(), ..Default::default() };
    world.signal(session, Request::PublishDataTrackRequest(request));
}

fn data_track_packet(handle: u16) -> Vec<u8> {
    let mut packet = vec![0b0001_1000, 0];
    packet.extend(handle.to_be_bytes());
    packet.extend([0, 1, 0, 1, 0, 0, 0, 9]);
    packet.extend(b"frame");
    packet
}

fn handles(world: &mut World, session: SessionId) -> Vec<Vec<(u32, String)>> {
    world.take_all(session, |message| match message {
        Message::DataTrackSubscriberHandles(handles) => {
            let mut handles: Vec<(u32, String)> =
                handles.sub_handles.into_iter().map(|(h, t)| (h, t.track_sid)).collect();
            handles.sort();
            Some(handles)
        }
        _ => None,
    })
}

#[test]
fn data_track_packets_reach_subscribers_under_their_own_handle() {
    let mut world = World::new();
    let (anna, from) = enter_single(&mut world, "anna", SINGLE_START);
    let (ben, to) = enter_single(&mut world, "ben", SINGLE_START);
    publish(&mut world, anna, 700, "position");
    publish(&mut world, anna, 701, "speed");
    let tracks = world.me("anna").data_tracks;
    assert_eq!(tracks.iter().map(|t| t.pub_handle).collect::<Vec<_>>(), [700, 701]);
    assert!(handles(&mut world, ben).is_empty(), "not subscribed yet");

    let update = UpdateDataSubscription {
        updates: vec![update_data_subscription::Update {
            track_sid: tracks[1].sid.clone(),
            subscribe: true,
            options: None,
        }],
    };
    world.signal(ben, Request::UpdateDataSubscription(update));
    assert_eq!(handles(&mut world, ben), [[(1, tracks[1].sid.clone())]]);
    for handle in [700, 701, 702] {
        let channel = DataChannelKind::DataTrack;
        let payload = data_track_packet(handle).into();
        world.media(MediaEvent::Data { transport: from, channel, payload });
    }
    let expected = (to, DataChannelKind::DataTrack, data_track_packet(1));
    assert_eq!(std::mem::take(&mut world.data), [expected]);

    let unpublish = UnpublishDataTrackRequest { pub_handle: 701 };
    world.signal(anna, Request::UnpublishDataTrackRequest(unpublish));
    assert_eq!(handles(&mut world, ben), [[]]);
    let ended = world.find(anna, |message| match message {
        Message::UnpublishDataTrackResponse(r) => r.info.clone(),
        _ => None,
    });
    assert_eq!(ended.unwrap().pub_handle, 701);
}

#[test]
fn a_subscriber_gets_no_more_frames_than_it_wants_and_each_whole() {
    let mut world = World::new();
    let (anna, from) = enter_single(&mut world, "anna", SINGLE_START);
    let (ben, _) = enter_single(&mut world, "ben", SINGLE_START);
    publish(&mut world, anna, 700, "position");
    let sid = world.me("anna").data_tracks[0].sid.clone();
    let subscribe = |world: &mut World, target_fps: Option<u32>| {
        let options = target_fps.map(|fps| DataTrackSubscriptionOptions { target_fps: Some(fps) });
        let update =
            update_data_subscription::Update { track_sid: sid.clone(), subscribe: true, options };
        let update = UpdateDataSubscription { updates: vec![update] };
        world.signal(ben, Request::UpdateDataSubscription(update));
        world.data.clear();
        // A second of frames at 50 a second, in two packets each.
        for frame in 0..50 {
            for _ in 0..2 {
                let mut packet = data_track_packet(700);
                packet[7] = frame;
                let channel = DataChannelKind::DataTrack;
                world.media(MediaEvent::Data { transport: from, channel, payload: packet.into() });
            }
            world.pass(Duration::from_millis(20));
        }
        let frames: Vec<u8> = world.data.iter().map(|(_, _, packet)| packet[7]).collect();
        assert!(frames.chunks(2).all(|pair| pair[0] == pair[1]), "{frames:?}");
        frames.len() / 2
    };
    assert_eq!(subscribe(&mut world, Some(10)), 10);
    assert_eq!(subscribe(&mut world, Some(25)), 25);
    assert_eq!(subscribe(&mut world, None), 50);
}

#[test]
fn wrong_data_tracks_are_refused_with_their_reason() {
    use request_response::Reason;
    let mut world = World::new();
    let (anna, _) = enter_single(&mut world, "anna", SINGLE_START);
    publish(&mut world, anna, 1, "taken");
    let long = "x".repeat(257);
    let cases = [
        (0, "new", Reason::InvalidHandle),
        (65_536, "new", Reason::InvalidHandle),
        (2, "", Reason::InvalidName),
        (2, long.as_str(), Reason::InvalidName),
        (1, "new", Reason::DuplicateHandle),
        (2, "taken", Reason::DuplicateName),
    ];
    for (handle, name, expected) in cases {
        world.take(anna);
        publish(&mut world, anna, handle, name);
        let reason = world.find(anna, |message| match message {
            Message::RequestResponse(response) => Some(response.reason()),
            _ => None,
        });
        assert_eq!(reason, Some(expected), "{handle} {name:.9}");
    }
    let (mute, _) =
        enter_with(&mut world, "mute", |claims| claims.video.can_publish_data = Some(false));
    publish(&mut world, mute, 1, "x");
    let reason = world.find(mute, |message| match message {
        Message::RequestResponse(response) => Some(response.reason()),
        _ => None,
    });
    assert_eq!(reason, Some(Reason::NotAllowed));
}

fn perform(world: &mut World, id: u64, destination: &str) -> Option<(TransportId, RpcRequest)> {
    let call = RpcCall {
        destination: contract::ids::Identity::new(destination).unwrap(),
        method: "greet".to_owned(),
        payload: "hello".to_owned(),
        response_timeout_ms: 10_000,
    };
    world.call(|room, now| room.perform_rpc(RpcId(id), call, now));
    let (to, packet) = sent(world).pop()?;
    let Some(data_packet::Value::RpcRequest(request)) = packet.value else { panic!() };
    Some((to, request))
}

#[test]
fn a_call_of_the_server_is_answered_by_the_participant() {
    let mut world = World::new();
    let (_, anna) = enter_single(&mut world, "anna", SINGLE_START);
    let (_, ben) = enter_single(&mut world, "ben", SINGLE_START);
    let respond = |world: &mut World, from, request_id: &str, value| {
        let response = RpcResponse { request_id: request_id.to_owned(), value: Some(value) };
        let value = Some(data_packet::Value::RpcResponse(response));
        send(world, from, &DataPacket { value, ..Default::default() })
    };
    let (to, request) = perform(&mut world, 1, "anna").unwrap();
    assert_eq!((to, request.method.as_str(), request.payload.as_str()), (anna, "greet", "hello"));
    let payload = || rpc_response::Value::Payload("hi".to_owned());
    // Nobody else can answer.
    assert_eq!(respond(&mut world, ben, &request.id, payload()).len(), 1);
    assert!(world.rpc_answers.is_empty());
    assert!(respond(&mut world, anna, &request.id, payload()).is_empty(), "not forwarded");
    assert_eq!(world.rpc_answers, [(RpcId(1), Ok("hi".to_owned()))]);

    let (_, request) = perform(&mut world, 2, "anna").unwrap();
    let error = rpc_response::Value::Error(RpcError { code: 1400, ..RpcError::default() });
    respond(&mut world, anna, &request.id, error);
    assert_eq!(world.rpc_answers[1], (RpcId(2), Err(1400)));
}

#[test]
fn calls_end_when_nobody_answers() {
    let mut world = World::new();
    let (session, anna) = enter_single(&mut world, "anna", SINGLE_START);
    assert!(perform(&mut world, 1, "nobody").is_none());
    perform(&mut world, 2, "anna").unwrap();
    world.pass(Duration::from_secs(8));
    let (_, request) = perform(&mut world, 3, "anna").unwrap();
    let ack = data_packet::Value::RpcAck(RpcAck { request_id: request.id });
    send(&mut world, anna, &DataPacket { value: Some(ack), ..Default::default() });
    world.pass(Duration::from_secs(11));
    perform(&mut world, 4, "anna").unwrap();
    world.signal(session, Request::Leave(Default::default()));
    let codes: Vec<_> =
        world.rpc_answers.iter().map(|(id, answer)| (id.0, answer.clone())).collect();
    assert_eq!(codes, [(1, Err(1401)), (2, Err(1501)), (3, Err(1502)), (4, Err(1503))]);
}
