//! Resuming with what the client says it has, and the scenarios of the clients' own tests.

use std::time::Duration;

use livekit_protocol::signal_request::Message as Request;
use livekit_protocol::signal_response::Message;
use livekit_protocol::simulate_scenario::Scenario;
use livekit_protocol::{
    CandidateProtocol, ClientConfigSetting, DataChannelReceiveState, DataPacket, DisconnectReason,
    SimulateScenario, SyncState, TrackType, UserPacket, data_packet, leave_request,
};
use prost::Message as _;
use sfu_core::media::{DataChannelKind, MediaEvent};
use sfu_core::room::SessionId;
use sfu_core::signal::join::PeerConnectionMode::{Dual, Single};

use crate::client::*;

fn simulate(world: &mut World, session: SessionId, scenario: Scenario) {
    world.signal(session, Request::Simulate(SimulateScenario { scenario: Some(scenario) }));
}

fn left(messages: &[Message]) -> Option<(DisconnectReason, leave_request::Action)> {
    messages.iter().find_map(|message| match message {
        Message::Leave(leave) => Some((leave.reason(), leave.action())),
        _ => None,
    })
}

#[test]
fn a_subscribers_bandwidth_is_limited_and_freed_again() {
    let mut world = World::new();
    let (ben, _, subscriber) = enter_dual(&mut world, "ben", None);
    for (said, limit) in [(300_000, Some(300_000)), (0, None), (100_000, Some(100_000)), (-1, None)]
    {
        simulate(&mut world, ben, Scenario::SubscriberBandwidth(said));
        assert_eq!(world.engine[&subscriber].bandwidth_limit, limit);
    }
}

#[test]
fn scenarios_that_end_a_session_say_what_to_do() {
    use leave_request::Action;
    let cases = [
        (Scenario::ServerLeave(true), DisconnectReason::ServerShutdown, Action::Disconnect),
        (
            Scenario::LeaveRequestFullReconnect(true),
            DisconnectReason::UnknownReason,
            Action::Reconnect,
        ),
        (Scenario::Migration(true), DisconnectReason::Migration, Action::Reconnect),
    ];
    for (scenario, reason, action) in cases {
        let mut world = World::new();
        let (anna, ..) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
        simulate(&mut world, anna, scenario);
        assert_eq!(left(&world.take(anna)), Some((reason, action)));
        assert!(world.closed.contains(&anna) && world.engine.is_empty());
    }
}

#[test]
fn a_failed_node_says_nothing_and_does_not_know_the_session() {
    let mut world = World::new();
    let (anna, _) = enter_single(&mut world, "anna", SINGLE_START);
    let sid = world.me("anna").sid;
    world.take(anna);
    simulate(&mut world, anna, Scenario::NodeFailure(true));
    assert!(left(&world.take(anna)).is_none());
    assert!(world.closed.contains(&anna));
    let again = world.resume("anna", Single, &sid).unwrap();
    let expected = (DisconnectReason::StateMismatch, leave_request::Action::Reconnect);
    assert_eq!(left(&world.take(again)), Some(expected));
}

#[test]
fn a_connection_that_breaks_while_resuming_is_resumed_again() {
    for (scenario, messages) in [
        (Scenario::DisconnectSignalOnResume(true), true),
        (Scenario::DisconnectSignalOnResumeNoMessages(true), false),
    ] {
        let mut world = World::new();
        let (anna, _) = enter_single(&mut world, "anna", SINGLE_START);
        let sid = world.me("anna").sid;
        simulate(&mut world, anna, scenario);
        let second = world.resume("anna", Single, &sid).unwrap();
        assert_eq!(!world.take(second).is_empty(), messages);
        assert!(world.closed.contains(&second));
        let third = world.resume("anna", Single, &sid).unwrap();
        assert!(matches!(world.take(third)[0], Message::Reconnect(_)));
        assert!(!world.closed.contains(&third));
    }
}

#[test]
fn relays_are_named_at_each_connection_and_forced_where_nothing_else_leads_in() {
    for (mut world, forced) in
        [(World::new(), None), (World::behind_relays(), Some(ClientConfigSetting::Enabled))]
    {
        let anna = world.join(params("anna", Single)).unwrap();
        let Message::Join(join) = &world.take(anna)[0] else { panic!() };
        let sid = join.participant.as_ref().unwrap().sid.clone();
        let now = (world.now.unix_ms / 1000).to_string();
        assert_eq!(join.ice_servers.len(), 1);
        assert_eq!((&join.ice_servers[0].username, &join.ice_servers[0].credential), (&sid, &now));
        assert_eq!(join.client_configuration.as_ref().map(|c| c.force_relay()), forced);

        world.pass(Duration::from_secs(3));
        let again = world.resume("anna", Single, &sid).unwrap();
        let Message::Reconnect(reconnect) = &world.take(again)[0] else { panic!() };
        let later = (world.now.unix_ms / 1000).to_string();
        assert_eq!(reconnect.ice_servers[0].username, sid);
        assert_eq!(reconnect.ice_servers[0].credential, later, "credentials are new");
        assert_ne!(now, later);
        assert_eq!(reconnect.client_configuration.as_ref().map(|c| c.force_relay()), forced);
    }
}

#[test]
fn another_protocol_is_offered_at_the_next_connection() {
    for (protocol, udp, relay) in [
        (CandidateProtocol::Tcp, false, false),
        (CandidateProtocol::Udp, true, false),
        (CandidateProtocol::Tls, true, true),
    ] {
        let mut world = World::new();
        let (anna, ..) = enter_dual(&mut world, "anna", None);
        simulate(&mut world, anna, Scenario::SwitchCandidateProtocol(protocol.into()));
        let again = world.join(params("anna", Dual)).unwrap();
        let messages = world.take(again);
        let Message::Join(join) = &messages[0] else { panic!() };
        let forced = join.client_configuration.as_ref().map(|c| c.force_relay());
        assert_eq!(forced, relay.then_some(ClientConfigSetting::Enabled));
        let offer = messages.iter().find_map(|message| match message {
            Message::Offer(offer) => Some(offer.sdp.clone()),
            _ => None,
        });
        let offer = offer.unwrap();
        assert_eq!(offer.contains(" udp "), udp, "{protocol:?}");
        assert!(offer.contains("tcptype passive"));
    }
}

#[test]
fn a_simulated_speaker_speaks_and_falls_silent() {
    let mut world = World::new();
    let (anna, ..) = enter_dual(&mut world, "anna", None);
    world.take(anna);
    simulate(&mut world, anna, Scenario::SpeakerUpdate(3));
    world.media(MediaEvent::AudioLevels(Vec::new()));
    world.pass(Duration::from_secs(4));
    let speaking = world.take_all(anna, |message| match message {
        Message::SpeakersChanged(changed) => Some(changed.speakers[0].active),
        _ => None,
    });
    assert_eq!(speaking, [true, false]);
}

#[test]
fn a_client_that_resumes_gets_what_it_missed_and_nothing_twice() {
    let mut world = World::new();
    let (_, anna) = enter_single(&mut world, "anna", SINGLE_START);
    let (_, ben) = enter_single(&mut world, "ben", SINGLE_START);
    for sequence in 1..=3 {
        let user = UserPacket { payload: vec![sequence], ..UserPacket::default() };
        let packet = DataPacket {
            sequence: sequence.into(),
            value: Some(data_packet::Value::User(user)),
            ..DataPacket::default()
        };
        let payload = packet.encode_to_vec().into();
        let channel = DataChannelKind::Reliable;
        world.media(MediaEvent::Data { transport: anna, channel, payload });
    }
    world.data.clear();
    let (anna_sid, ben_sid) = (world.me("anna").sid, world.me("ben").sid);
    let session = world.resume("ben", Single, &ben_sid).unwrap();
    let state = DataChannelReceiveState { publisher_sid: anna_sid, last_seq: 1 };
    let state = SyncState { datachannel_receive_states: vec![state], ..SyncState::default() };
    world.signal(session, Request::SyncState(state));
    let sequences: Vec<u32> = std::mem::take(&mut world.data)
        .into_iter()
        .map(|(to, _, payload)| {
            assert_eq!(to, ben);
            DataPacket::decode(payload.as_slice()).unwrap().sequence
        })
        .collect();
    assert_eq!(sequences, [2, 3]);

    let sid = world.me("anna").sid;
    let again = world.resume("anna", Single, &sid).unwrap();
    let last = world.find(again, |message| match message {
        Message::Reconnect(reconnect) => Some(reconnect.last_message_seq),
        _ => None,
    });
    assert_eq!(last, Some(3));
}

#[test]
fn tracks_that_were_paused_stay_so() {
    let mut world = World::new();
    enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let (_, _, subscriber) = enter_dual(&mut world, "ben", None);
    let ben_sid = world.me("ben").sid;
    let session = world.resume("ben", Dual, &ben_sid).unwrap();
    let sid = world.track("anna", TrackType::Video);
    let state = SyncState { track_sids_disabled: vec![sid], ..SyncState::default() };
    world.signal(session, Request::SyncState(state));
    let paused = world.engine[&subscriber].senders.iter().filter(|s| s.max_quality.is_none());
    assert_eq!(paused.count(), 1);
}

#[test]
fn a_publisher_that_resumes_learns_again_which_layers_are_wanted() {
    let mut world = World::new();
    enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    world.pass(Duration::from_secs(6));
    let sid = world.me("anna").sid;
    let again = world.resume("anna", Dual, &sid).unwrap();
    let told = world.find(again, |message| match message {
        Message::SubscribedQualityUpdate(update) => {
            Some(update.subscribed_codecs[0].qualities.clone())
        }
        _ => None,
    });
    assert!(told.unwrap().iter().all(|quality| !quality.enabled));
}
