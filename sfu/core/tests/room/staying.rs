use std::time::Duration;

use livekit_protocol::signal_request::Message as Request;
use livekit_protocol::signal_response::Message;
use livekit_protocol::{
    DataPacket, ParticipantPermission, Ping, UpdateParticipantMetadata, UserPacket, data_packet,
    request_response,
};
use prost::Message as _;
use sfu_core::media::{AudioLevel, DataChannelKind, MediaEvent, TransportState};
use sfu_core::room::ParticipantUpdate;
use sfu_core::signal::join::PeerConnectionMode::{Dual, Single};

use crate::client::*;

fn packet(text: &str, sequence: u32, to: &[&str]) -> DataPacket {
    DataPacket {
        participant_identity: "somebody else".to_owned(),
        destination_identities: to.iter().map(|name| (*name).to_owned()).collect(),
        sequence,
        value: Some(data_packet::Value::User(UserPacket {
            payload: text.as_bytes().to_vec(),
            ..UserPacket::default()
        })),
        ..DataPacket::default()
    }
}

#[test]
fn data_goes_out_in_the_senders_own_name() {
    let mut world = World::new();
    let (_, anna) = enter_single(&mut world, "anna", SINGLE_START);
    let (_, _, ben) = enter_dual(&mut world, "ben", None);
    let (_, carl) = enter_single(&mut world, "carl", SINGLE_START);
    let send = |world: &mut World, packet: DataPacket| {
        world.media(MediaEvent::Data {
            transport: anna,
            channel: DataChannelKind::Reliable,
            payload: packet.encode_to_vec().into(),
        });
        std::mem::take(&mut world.data)
    };
    let to_all = send(&mut world, packet("hello", 1, &[]));
    assert_eq!(to_all.iter().map(|(to, ..)| *to).collect::<Vec<_>>(), [ben, carl]);
    let got = DataPacket::decode(to_all[0].2.as_slice()).unwrap();
    assert_eq!(got.participant_identity, "anna");
    assert_eq!(got.participant_sid, world.me("anna").sid);
    let to_carl = send(&mut world, packet("hello", 2, &["carl"]));
    assert_eq!(to_carl.iter().map(|(to, ..)| *to).collect::<Vec<_>>(), [carl]);
    assert!(send(&mut world, packet("repeated", 2, &[])).is_empty());
}

#[test]
fn without_the_right_no_data_is_forwarded() {
    let mut world = World::new();
    let mut muted = params("anna", Single);
    muted.claims.video.can_publish_data = Some(false);
    let session = world.join(muted).unwrap();
    world.signal(session, offer(SINGLE_START, 1));
    let transport = *world.opened.last().unwrap();
    enter_single(&mut world, "ben", SINGLE_START);
    let payload = packet("hello", 0, &[]).encode_to_vec().into();
    world.media(MediaEvent::Data { transport, channel: DataChannelKind::Lossy, payload });
    assert!(world.data.is_empty());
}

#[test]
fn a_token_for_coming_back_is_renewed_every_five_minutes_with_the_rights_of_the_moment() {
    let mut world = World::new();
    enter_single(&mut world, "anna", SINGLE_START);
    let first = world.tokens.last().unwrap().clone();
    assert_eq!((first.sub.as_str(), first.video.room.as_str()), ("anna", "lobby"));
    for renewals in 1..=12 {
        world.pass(Duration::from_secs(299));
        assert_eq!(world.tokens.len(), renewals, "not before it is due");
        world.pass(Duration::from_secs(1));
        assert_eq!(world.tokens.len(), renewals + 1);
        let token = world.tokens.last().unwrap();
        let left = (token.exp as u64).saturating_sub(world.now.unix_ms / 1000);
        // The token that she came with is good for an hour.
        assert!(left >= 600 && token.exp >= first.exp, "{left} s left");
    }
    let rights = ParticipantPermission { can_subscribe: true, ..ParticipantPermission::default() };
    let update = ParticipantUpdate { permission: Some(rights), ..ParticipantUpdate::default() };
    let anna = contract::ids::Identity::new("anna").unwrap();
    world.call(|room, now| room.update_participant(&anna, update, now)).unwrap();
    assert_eq!(world.tokens.last().unwrap().video.can_publish, Some(false));
}

#[test]
fn pings_of_both_kinds_are_answered() {
    let mut world = World::new();
    let session = world.join(params("anna", Dual)).unwrap();
    world.signal(session, Request::Ping(5));
    world.signal(session, Request::PingReq(Ping { timestamp: 7, rtt: 0 }));
    let messages = world.take(session);
    assert!(messages.contains(&Message::Pong(1_800_000_000_000)));
    assert!(
        messages.iter().any(|m| matches!(m, Message::PongResp(p) if p.last_ping_timestamp == 7))
    );
}

#[test]
fn metadata_needs_the_right_and_is_always_answered() {
    for (allowed, reason) in
        [(false, request_response::Reason::NotAllowed), (true, request_response::Reason::Ok)]
    {
        let mut world = World::new();
        let mut joining = params("anna", Dual);
        joining.claims.video.can_update_own_metadata = Some(allowed);
        let session = world.join(joining).unwrap();
        let update = UpdateParticipantMetadata {
            name: "Anna".to_owned(),
            request_id: 9,
            ..UpdateParticipantMetadata::default()
        };
        world.signal(session, Request::UpdateMetadata(update));
        let response = world
            .find(session, |m| match m {
                Message::RequestResponse(r) => Some((r.request_id, r.reason())),
                _ => None,
            })
            .unwrap();
        assert_eq!(response, (9, reason));
        assert_eq!(world.me("anna").name == "Anna", allowed);
    }
}

#[test]
fn speakers_are_told_as_changes() {
    let mut world = World::new();
    let (_, publisher, _) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let (ben, _) = enter_single(&mut world, "ben", SINGLE_START);
    let audio =
        world.engine[&publisher].receivers.iter().find(|r| r.rids.is_empty()).unwrap().track;
    let loud = AudioLevel { loudest_dbov: 20, active_percent: 90 };
    let changes = |world: &mut World| {
        world
            .take(ben)
            .into_iter()
            .filter_map(|m| if let Message::SpeakersChanged(s) = m { Some(s) } else { None })
            .map(|s| s.speakers[0].active)
            .collect::<Vec<_>>()
    };
    world.take(ben);
    world.media(MediaEvent::AudioLevels(vec![(audio, loud)]));
    world.media(MediaEvent::AudioLevels(vec![(audio, loud)]));
    assert_eq!(changes(&mut world), [true]);
    // Another worker's tracks say nothing of this one.
    world.media(MediaEvent::AudioLevels(Vec::new()));
    assert!(changes(&mut world).is_empty());
    let silent = AudioLevel { loudest_dbov: 127, active_percent: 0 };
    world.media(MediaEvent::AudioLevels(vec![(audio, silent)]));
    assert_eq!(changes(&mut world), [false]);
}

#[test]
fn a_lost_media_connection_has_five_seconds() {
    for back in [true, false] {
        let mut world = World::new();
        let (session, transport) = enter_single(&mut world, "anna", SINGLE_START);
        world.media(MediaEvent::Transport { transport, state: TransportState::Failed });
        world.pass(Duration::from_secs(4));
        if back {
            world.connect(transport);
        }
        world.pass(Duration::from_secs(10));
        assert_eq!(world.room.participants().len(), usize::from(back));
        assert_eq!(world.closed.contains(&session), !back);
    }
}

#[test]
fn without_signalling_and_media_nobody_stays() {
    let mut world = World::new();
    let session = world.join(params("anna", Single)).unwrap();
    world.room.handle_session_closed(session, world.now);
    world.pass(Duration::from_secs(16));
    assert_eq!(world.room.participants().len(), 0);
}

#[test]
fn an_unanswered_offer_ends_in_a_new_connection() {
    let mut world = World::new();
    let session = world.join(params("anna", Dual)).unwrap();
    world.pass(Duration::from_secs(16));
    assert!(world.closed.contains(&session));
}

#[test]
fn a_broken_offer_is_refused_and_harms_nobody() {
    let mut world = World::new();
    let (session, _) = enter_single(&mut world, "anna", SINGLE_START);
    world.take(session);
    for sdp in ["", "v=0", "nonsense", &SINGLE_START.replace("a=mid:1\n", "a=mid:0\n")] {
        world.signal(session, offer(sdp, 3));
        let reason = world.take(session).into_iter().find_map(|m| {
            if let Message::RequestResponse(r) = m { Some(r.reason()) } else { None }
        });
        assert_eq!(reason, Some(request_response::Reason::InvalidRequest), "{sdp:.20}");
    }
    assert_eq!(world.room.participants().len(), 1);
}
