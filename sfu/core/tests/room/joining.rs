use std::time::Duration;

use contract::sfu_config::RoomConfig;
use livekit_protocol::participant_info::State;
use livekit_protocol::signal_request::Message as Request;
use livekit_protocol::signal_response::Message;
use livekit_protocol::{DisconnectReason, leave_request};
use sfu_core::room::RoomCloseReason;
use sfu_core::signal::join::PeerConnectionMode::{Dual, Single};

use crate::client::*;

fn names(messages: &[Message]) -> Vec<&'static str> {
    messages
        .iter()
        .map(|message| match message {
            Message::Join(_) => "join",
            Message::RefreshToken(_) => "refresh_token",
            Message::Offer(_) => "offer",
            Message::Trickle(_) => "trickle",
            Message::Leave(_) => "leave",
            Message::Reconnect(_) => "reconnect",
            Message::Update(_) => "update",
            Message::RoomUpdate(_) => "room_update",
            _ => "other",
        })
        .collect()
}

fn left(messages: &[Message]) -> Option<(DisconnectReason, leave_request::Action)> {
    messages.iter().find_map(|message| match message {
        Message::Leave(leave) => Some((leave.reason(), leave.action())),
        _ => None,
    })
}

#[test]
fn two_connections_get_an_offer_of_data_channels_and_candidates() {
    let mut world = World::new();
    let session = world.join(params("anna", Dual)).unwrap();
    let messages = world.take(session);
    assert_eq!(names(&messages), ["join", "refresh_token", "offer", "trickle", "trickle"]);
    let Message::Join(join) = &messages[0] else { panic!() };
    assert!(join.subscriber_primary);
    assert_eq!((join.ping_interval, join.ping_timeout), (2, 6));
    assert_eq!(join.server_info.as_ref().unwrap().version, "1.13.5");
    let Message::Offer(offer) = &messages[2] else { panic!() };
    assert_eq!(offer.sdp.matches("m=application").count(), 1);
    assert_eq!(offer.sdp.matches("\r\nm=").count(), 1);
    let finals: Vec<bool> = messages[3..]
        .iter()
        .map(|m| match m {
            Message::Trickle(trickle) => trickle.r#final,
            _ => panic!(),
        })
        .collect();
    assert_eq!(finals, [false, true]);
    assert!(world.engine[&world.opened[0]].data_channels);
}

#[test]
fn one_connection_waits_for_the_client() {
    let mut world = World::new();
    let session = world.join(params("anna", Single)).unwrap();
    let messages = world.take(session);
    assert_eq!(names(&messages), ["join", "refresh_token"]);
    let Message::Join(join) = &messages[0] else { panic!() };
    assert!(!join.subscriber_primary);
    world.signal(session, offer(SINGLE_START, 4));
    let answer = world
        .find(session, |m| if let Message::Answer(a) = m { Some(a.clone()) } else { None })
        .unwrap();
    assert_eq!(answer.id, 4);
    for line in ["a=ice-lite", "a=setup:passive", "a=end-of-candidates", "a=sctp-port:5000"] {
        assert!(answer.sdp.contains(line), "{line} is missing in {}", answer.sdp);
    }
    // A simulcast track may follow: browsers then offer only what is negotiated here.
    assert_eq!(answer.sdp.matches("sdes:rtp-stream-id").count(), 3);
    assert_eq!(answer.sdp.matches("ssrc-audio-level").count(), 3);
    assert_eq!(answer.sdp.matches("\r\nm=").count(), SINGLE_START.matches("\nm=").count());
}

#[test]
fn the_primary_connection_makes_active_and_others_see_it() {
    let mut world = World::new();
    let (anna, ..) = enter_dual(&mut world, "anna", None);
    world.take(anna);
    enter_single(&mut world, "ben", SINGLE_START);
    let states: Vec<i32> = world
        .take(anna)
        .into_iter()
        .filter_map(|m| if let Message::Update(u) = m { Some(u) } else { None })
        .flat_map(|u| u.participants)
        .map(|p| p.state)
        .collect();
    assert_eq!(states, [State::Joined as i32, State::Active as i32]);
    let versions = world.me("ben").version;
    assert!(versions >= 2);
}

#[test]
fn a_second_join_of_an_identity_throws_the_first_out() {
    let mut world = World::new();
    let (first, ..) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let second = world.join(params("anna", Single)).unwrap();
    let reason = left(&world.take(first)).unwrap();
    assert_eq!(reason, (DisconnectReason::DuplicateIdentity, leave_request::Action::Disconnect));
    assert!(world.closed.contains(&first) && !world.closed.contains(&second));
    assert_eq!(world.room.participants().len(), 1);
    assert!(world.engine.is_empty(), "{:?}", world.engine);
}

#[test]
fn leaving_is_confirmed_and_told_to_the_others() {
    let mut world = World::new();
    let (anna, ..) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let (ben, _) = enter_single(&mut world, "ben", SINGLE_START);
    world.take(ben);
    world.signal(anna, Request::Leave(Default::default()));
    assert_eq!(left(&world.take(anna)).unwrap().0, DisconnectReason::ClientInitiated);
    assert!(world.closed.contains(&anna));
    let gone = world
        .find(ben, |m| match m {
            Message::Update(u) => u.participants.first().cloned(),
            _ => None,
        })
        .unwrap();
    assert_eq!((gone.identity.as_str(), gone.state()), ("anna", State::Disconnected));
    assert_eq!(world.room.counts().subscriptions, 0);
}

#[test]
fn who_never_connects_is_removed_after_a_minute() {
    let mut world = World::new();
    let session = world.join(params("anna", Single)).unwrap();
    world.pass(Duration::from_secs(59));
    assert_eq!(world.room.participants().len(), 1);
    world.pass(Duration::from_secs(2));
    assert_eq!(left(&world.take(session)).unwrap().0, DisconnectReason::JoinFailure);
    assert_eq!(world.room.participants().len(), 0);
}

#[test]
fn an_empty_room_ends_after_its_timeouts() {
    let mut world = World::new();
    world.pass(Duration::from_secs(299));
    assert!(!world.ended);
    world.pass(Duration::from_secs(2));
    assert!(world.ended);
    assert_eq!(world.join(params("anna", Single)).unwrap_err().status, 404);

    let mut world = World::new();
    let (anna, _) = enter_single(&mut world, "anna", SINGLE_START);
    world.pass(Duration::from_secs(400));
    assert!(!world.ended);
    world.signal(anna, Request::Leave(Default::default()));
    world.pass(Duration::from_secs(21));
    assert!(world.ended);
}

#[test]
fn a_full_room_refuses() {
    let config = RoomConfig { max_participants: 1, ..RoomConfig::default() };
    let mut world = World::with_config(config);
    world.join(params("anna", Dual)).unwrap();
    let error = world.join(params("ben", Dual)).unwrap_err();
    assert_eq!(error.message, "room has exceeded its max participants");
    world.join(params("anna", Dual)).unwrap();
}

#[test]
fn a_session_is_resumed_with_everybody_and_a_restart() {
    let mut world = World::new();
    let (anna, publisher, subscriber) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    world.connect(publisher);
    let (_, _) = enter_single(&mut world, "ben", SINGLE_START);
    let sid = world.me("anna").sid;
    world.room.handle_session_closed(anna, world.now);
    let again = world.resume("anna", Dual, &sid).unwrap();
    let messages = world.take(again);
    assert_eq!(
        names(&messages)[..6],
        ["reconnect", "update", "room_update", "refresh_token", "offer", "trickle"]
    );
    let Message::Update(update) = &messages[1] else { panic!() };
    assert_eq!(update.participants.len(), 2);
    assert!(world.engine.contains_key(&subscriber));
    let Message::Offer(restart) = &messages[4] else { panic!() };
    world.signal(again, answer(&answer_to(&restart.sdp), restart.id));
    world.pass(Duration::from_secs(30));
    assert_eq!(world.me("anna").sid, sid);
}

#[test]
fn an_unknown_session_is_told_to_connect_anew() {
    let mut world = World::new();
    let session = world.resume("anna", Single, "PA_unknown").unwrap();
    let reason = left(&world.take(session)).unwrap();
    assert_eq!(reason, (DisconnectReason::StateMismatch, leave_request::Action::Reconnect));
    assert!(world.closed.contains(&session));
    assert_eq!(world.room.participants().len(), 0);
}

#[test]
fn a_drained_room_sends_everybody_elsewhere() {
    for (reason, action) in [
        (RoomCloseReason::Drain, leave_request::Action::Reconnect),
        (RoomCloseReason::Deleted, leave_request::Action::Disconnect),
    ] {
        let mut world = World::new();
        let (anna, _) = enter_single(&mut world, "anna", SINGLE_SIMULCAST);
        world.room.close(reason, world.now);
        world.settle();
        let _ = world.room.join(params("ben", Dual), world.now).unwrap_err();
        // Outputs of `close` are taken with those of the next input.
        world.media(sfu_core::media::MediaEvent::AudioLevels(Vec::new()));
        assert_eq!(left(&world.take(anna)).unwrap().1, action);
        assert!(world.ended && world.engine.is_empty());
    }
}

#[test]
fn an_offer_that_comes_with_the_join_is_answered_with_the_tracks_that_are_there() {
    let mut world = World::new();
    enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let mut joining = params("ben", Single);
    let Request::Offer(description) = offer(SINGLE_START, 1) else { panic!() };
    joining.publisher_offer = Some(description);
    let session = world.join(joining).unwrap();
    let messages = world.take(session);
    assert_eq!(names(&messages), ["join", "refresh_token", "other"]);
    let Message::Answer(answer) = &messages[2] else { panic!() };
    assert_eq!(answer.mid_to_track_id.len(), 2);
    assert_eq!(world.room.counts().subscriptions, 2);
}

#[test]
fn a_hidden_participant_is_seen_by_nobody() {
    let mut world = World::new();
    let (ben, _, subscriber) = enter_dual(&mut world, "ben", None);
    world.take(ben);
    let mut hidden = params("ghost", Dual);
    hidden.claims.video.hidden = true;
    let ghost = world.join(hidden).unwrap();
    publish(&mut world, ghost, DUAL_SIMULCAST);
    world.settle();
    world.signal(ghost, Request::Leave(Default::default()));
    assert!(world.take(ben).is_empty());
    assert!(world.engine[&subscriber].senders.is_empty());
    let carl = world.join(params("carl", Single)).unwrap();
    let Message::Join(join) = &world.take(carl)[0] else { panic!() };
    assert_eq!(join.other_participants.len(), 1);
}

#[test]
fn a_room_says_whether_it_is_recorded() {
    let mut world = World::new();
    let (anna, ..) = enter_dual(&mut world, "anna", None);
    let told = |world: &mut World| {
        world.take_all(anna, |message| match message {
            Message::RoomUpdate(update) => Some(update.room?.active_recording),
            _ => None,
        })
    };
    told(&mut world);
    let mut recorder = params("recorder", Dual);
    recorder.claims.video.recorder = true;
    recorder.claims.video.hidden = true;
    let recorder = world.join(recorder).unwrap();
    assert_eq!(told(&mut world), [true]);
    world.signal(recorder, Request::Leave(Default::default()));
    assert_eq!(told(&mut world), [false]);
}

#[test]
fn rights_that_only_newer_tokens_know_are_given() {
    let mut world = World::new();
    let mut agent = params("agent", Dual);
    agent.more_claims.kind_details = ["cloud_agent", "forwarded", "x"].map(str::to_owned).to_vec();
    agent.more_claims.video.can_subscribe_metrics = true;
    world.join(agent).unwrap();
    let info = world.me("agent");
    assert_eq!(info.kind_details, [0], "and nobody can say that it is forwarded");
    assert!(info.permission.unwrap().can_subscribe_metrics);
}
