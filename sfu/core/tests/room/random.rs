//! Whatever clients send in whatever order, the room neither panics nor leaves a sender
//! without a receiver (which the world checks after every command).

use std::time::Duration;

use contract::ids::Identity;
use livekit_protocol::signal_request::Message as Request;
use livekit_protocol::signal_response::Message;
use livekit_protocol::simulate_scenario::Scenario;
use livekit_protocol::{
    MuteTrackRequest, ParticipantPermission, PublishDataTrackRequest, SimulateScenario, TrackType,
    UnpublishDataTrackRequest, UpdateSubscription, UpdateTrackSettings,
};
use proptest::prelude::*;
use sfu_core::media::{MediaEvent, TransportState};
use sfu_core::room::{ParticipantUpdate, SessionId};
use sfu_core::sdp::Description;
use sfu_core::signal::join::PeerConnectionMode::{Dual, Single};

use crate::client::*;

#[derive(Debug, Clone)]
enum Step {
    Join { name: u8, dual: bool },
    Resume { name: u8, dual: bool },
    Offer { who: usize, which: usize, unpublish: bool },
    AddTracks { who: usize, which: usize },
    Accept { who: usize },
    Subscribe { who: usize, subscribe: bool },
    Settings { who: usize, disabled: bool, quality: i32, width: u32 },
    Mute { who: usize, muted: bool },
    Permission { who: usize, all: bool },
    Leave { who: usize },
    Close { who: usize },
    Transport { which: usize, connected: bool },
    DataTrack { who: usize, handle: u32, publish: bool },
    Rights { name: u8, publish: bool, subscribe: bool },
    Simulate { who: usize, scenario: u8 },
    Pass { millis: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..8_usize;
    prop_oneof![
        (0..4_u8, any::<bool>()).prop_map(|(name, dual)| Step::Join { name, dual }),
        (0..4_u8, any::<bool>()).prop_map(|(name, dual)| Step::Resume { name, dual }),
        (who.clone(), 0..4_usize, any::<bool>()).prop_map(|(who, which, unpublish)| Step::Offer {
            who,
            which,
            unpublish
        }),
        (who.clone(), 0..3_usize).prop_map(|(who, which)| Step::AddTracks { who, which }),
        who.clone().prop_map(|who| Step::Accept { who }),
        (who.clone(), any::<bool>())
            .prop_map(|(who, subscribe)| Step::Subscribe { who, subscribe }),
        (who.clone(), any::<bool>(), 0..5_i32, 0..2000_u32).prop_map(
            |(who, disabled, quality, width)| Step::Settings { who, disabled, quality, width }
        ),
        (who.clone(), any::<bool>()).prop_map(|(who, muted)| Step::Mute { who, muted }),
        (who.clone(), any::<bool>()).prop_map(|(who, all)| Step::Permission { who, all }),
        who.clone().prop_map(|who| Step::Leave { who }),
        (who.clone(), 0..4_u32, any::<bool>()).prop_map(|(who, handle, publish)| Step::DataTrack {
            who,
            handle,
            publish
        }),
        (0..4_u8, any::<bool>(), any::<bool>())
            .prop_map(|(name, publish, subscribe)| Step::Rights { name, publish, subscribe }),
        (who.clone(), 0..6_u8).prop_map(|(who, scenario)| Step::Simulate { who, scenario }),
        who.prop_map(|who| Step::Close { who }),
        (0..8_usize, any::<bool>())
            .prop_map(|(which, connected)| Step::Transport { which, connected }),
        (0..20_000_u64).prop_map(|millis| Step::Pass { millis }),
    ]
}

const OFFERS: [&str; 4] = [DUAL_SIMULCAST, DUAL_H264, SINGLE_SIMULCAST, SINGLE_START];

fn session_of(who: usize, sessions: &[SessionId]) -> SessionId {
    sessions.get(who % sessions.len().max(1)).copied().unwrap_or(SessionId(u64::MAX))
}

fn take_step(world: &mut World, sessions: &mut Vec<SessionId>, step: Step) {
    match step {
        Step::Join { name, dual } => {
            let mode = if dual { Dual } else { Single };
            sessions.extend(world.join(params(&format!("p{name}"), mode)));
        }
        Step::Resume { name, dual } => {
            let name = format!("p{name}");
            let sid = world.room.participants().into_iter().find(|p| p.identity == name);
            let sid = sid.map(|p| p.sid).unwrap_or_default();
            sessions.extend(world.resume(&name, if dual { Dual } else { Single }, &sid));
        }
        Step::Offer { who, which, unpublish } => {
            let sdp = OFFERS[which];
            let sdp = if unpublish { sdp.replace("a=sendonly", "a=inactive") } else { sdp.into() };
            world.signal(session_of(who, sessions), offer(&sdp, 1));
        }
        Step::AddTracks { who, which } => {
            let (video, audio) = cids(OFFERS[which]);
            world.signal(session_of(who, sessions), add_track(&video, TrackType::Video));
            world.signal(session_of(who, sessions), add_track(&audio, TrackType::Audio));
        }
        Step::Accept { who } => {
            let session = session_of(who, sessions);
            let offered = world.find(session, |m| match m {
                Message::Offer(offer) => Some(offer.clone()),
                _ => None,
            });
            if let Some(offered) = offered {
                world.signal(session, answer(&answer_to(&offered.sdp), offered.id));
            }
        }
        Step::DataTrack { who, handle, publish } => {
            let name = format!("track {handle}");
            let request = if publish {
                Request::PublishDataTrackRequest(PublishDataTrackRequest {
                    pub_handle: handle,
                    name,
                    ..Default::default()
                })
            } else {
                Request::UnpublishDataTrackRequest(UnpublishDataTrackRequest { pub_handle: handle })
            };
            world.signal(session_of(who, sessions), request);
        }
        Step::Rights { name, publish, subscribe } => govern(world, name, publish, subscribe),
        Step::Simulate { who, scenario } => {
            let scenario = Some(match scenario {
                0 => Scenario::NodeFailure(true),
                1 => Scenario::Migration(true),
                2 => Scenario::SpeakerUpdate(3),
                3 => Scenario::SwitchCandidateProtocol(1),
                4 => Scenario::DisconnectSignalOnResume(true),
                _ => Scenario::DisconnectSignalOnResumeNoMessages(true),
            });
            let scenario = SimulateScenario { scenario };
            world.signal(session_of(who, sessions), Request::Simulate(scenario));
        }
        step => change(world, sessions, step),
    }
}

/// Gives and takes rights as the server API does.
fn govern(world: &mut World, name: u8, publish: bool, subscribe: bool) {
    let permission = ParticipantPermission {
        can_publish: publish,
        can_publish_data: publish,
        can_subscribe: subscribe,
        ..ParticipantPermission::default()
    };
    let identity = Identity::new(format!("p{name}")).unwrap();
    let update = ParticipantUpdate { permission: Some(permission), ..Default::default() };
    // Nobody of this name may be there.
    let _ = world.call(|room, now| room.update_participant(&identity, update, now));
}

/// Steps on what is there already.
fn change(world: &mut World, sessions: &[SessionId], step: Step) {
    let all: Vec<String> = world
        .room
        .participants()
        .iter()
        .flat_map(|p| p.tracks.iter().map(|t| t.sid.clone()))
        .collect();
    match step {
        Step::Subscribe { who, subscribe } => {
            let update = UpdateSubscription { track_sids: all, subscribe, ..Default::default() };
            world.signal(session_of(who, sessions), Request::Subscription(update));
        }
        Step::Settings { who, disabled, quality, width } => {
            let settings = UpdateTrackSettings {
                track_sids: all,
                disabled,
                quality,
                width,
                height: width,
                ..Default::default()
            };
            world.signal(session_of(who, sessions), Request::TrackSetting(settings));
        }
        Step::Mute { who, muted } => {
            for sid in all {
                world.signal(
                    session_of(who, sessions),
                    Request::Mute(MuteTrackRequest { sid, muted }),
                );
            }
        }
        Step::Permission { who, all } => {
            let rules = livekit_protocol::SubscriptionPermission {
                all_participants: all,
                ..Default::default()
            };
            world.signal(session_of(who, sessions), Request::SubscriptionPermission(rules));
        }
        Step::Leave { who } => {
            world.signal(session_of(who, sessions), Request::Leave(Default::default()))
        }
        Step::Close { who } => {
            world.room.handle_session_closed(session_of(who, sessions), world.now)
        }
        Step::Transport { which, connected } => {
            let state = if connected { TransportState::Connected } else { TransportState::Failed };
            if let Some(transport) = world.opened.get(which).copied() {
                world.media(MediaEvent::Transport { transport, state });
            }
        }
        Step::Pass { millis } => world.pass(Duration::from_millis(millis)),
        Step::Join { .. }
        | Step::Resume { .. }
        | Step::Offer { .. }
        | Step::AddTracks { .. }
        | Step::DataTrack { .. }
        | Step::Rights { .. }
        | Step::Simulate { .. }
        | Step::Accept { .. } => unreachable!("taken by the caller"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_sequence_leaves_the_engine_consistent(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        let mut sessions = Vec::new();
        for step in steps {
            take_step(&mut world, &mut sessions, step);
        }
        // Whoever is still there leaves or loses its media; nothing stays in the engine.
        for session in sessions {
            world.signal(session, Request::Leave(Default::default()));
        }
        for transport in world.opened.clone() {
            world.media(MediaEvent::Transport { transport, state: TransportState::Failed });
        }
        world.pass(Duration::from_secs(120));
        prop_assert!(world.room.participants().is_empty());
        prop_assert!(world.engine.is_empty());
    }

    #[test]
    fn damaged_descriptions_never_panic(cut in 0..20_000_usize, byte in any::<u8>(), which in 0..4_usize) {
        let mut bytes = OFFERS[which].replace('\n', "\r\n").into_bytes();
        let at = cut % bytes.len();
        bytes[at] = byte;
        let _ = Description::parse(&String::from_utf8_lossy(&bytes));
        let _ = Description::parse(&String::from_utf8_lossy(&bytes[..at]));
        let _ = Description::parse(&String::from_utf8_lossy(&bytes[at..]));
    }
}
