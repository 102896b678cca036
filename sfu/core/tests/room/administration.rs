//! What the server API changes while participants are there.

use std::collections::HashMap;

use contract::ids::{Identity, RoomName};
use contract::sfu_config::RoomConfig;
use livekit_protocol::participant_info::State;
use livekit_protocol::signal_request::Message as Request;
use livekit_protocol::signal_response::Message;
use livekit_protocol::{
    DisconnectReason, ParticipantPermission, SubscriptionError, TrackType, UpdateSubscription,
    leave_request, request_response,
};
use sfu_core::room::{AdministrationError, ParticipantUpdate, RoomState};
use sfu_core::signal::join::PeerConnectionMode::Dual;

use crate::client::*;

fn identity(name: &str) -> Identity {
    Identity::new(name).unwrap()
}

fn permission(change: impl FnOnce(&mut ParticipantPermission)) -> ParticipantUpdate {
    let mut permission = ParticipantPermission {
        can_subscribe: true,
        can_publish: true,
        can_publish_data: true,
        ..ParticipantPermission::default()
    };
    change(&mut permission);
    ParticipantUpdate { permission: Some(permission), ..ParticipantUpdate::default() }
}

#[test]
fn a_muted_track_is_told_to_its_publisher_and_the_others() {
    let mut world = World::new();
    let (anna, ..) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let (ben, ..) = enter_dual(&mut world, "ben", None);
    let sid = world.track("anna", TrackType::Audio);
    let mute = |world: &mut World, name: &str, sid: &str, muted| {
        world.call(|room, now| room.mute_published_track(&identity(name), sid, muted, now))
    };
    assert!(mute(&mut world, "anna", &sid, true).unwrap().muted);
    let told = world.find(anna, |m| match m {
        Message::Mute(mute) => Some((mute.sid.clone(), mute.muted)),
        _ => None,
    });
    assert_eq!(told, Some((sid.clone(), true)));
    let seen = world.find(ben, |m| match m {
        Message::Update(u) => {
            Some(u.participants[0].tracks.iter().any(|t| t.sid == sid && t.muted))
        }
        _ => None,
    });
    assert_eq!(seen, Some(true));
    assert_eq!(mute(&mut world, "anna", &sid, false), Err(AdministrationError::RemoteUnmute));
    assert_eq!(mute(&mut world, "anna", "TR_x", true), Err(AdministrationError::NoTrack));
    assert_eq!(mute(&mut world, "carl", &sid, true), Err(AdministrationError::NoParticipant));

    let config = RoomConfig { enable_remote_unmute: true, ..RoomConfig::default() };
    let mut world = World::with_config(config);
    enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let sid = world.track("anna", TrackType::Audio);
    mute(&mut world, "anna", &sid, true).unwrap();
    assert!(!mute(&mut world, "anna", &sid, false).unwrap().muted);
}

#[test]
fn a_right_that_is_taken_ends_what_it_allowed_and_given_back_allows_it() {
    let mut world = World::new();
    let (anna, publisher, _) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let (ben, _, subscriber) = enter_dual(&mut world, "ben", None);
    assert_eq!(world.engine[&subscriber].senders.len(), 2);
    let update = |world: &mut World, name: &str, update: ParticipantUpdate| {
        world.call(|room, now| room.update_participant(&identity(name), update, now)).unwrap()
    };
    let microphone_only = permission(|p| p.can_publish_sources = vec![2]);
    let info = update(&mut world, "anna", microphone_only);
    assert_eq!(info.tracks.len(), 1);
    assert_eq!(world.engine[&publisher].receivers.len(), 1);
    assert_eq!(world.engine[&subscriber].senders.len(), 1);
    assert_eq!(world.tokens.last().unwrap().video.can_publish_sources, ["microphone"]);

    update(&mut world, "anna", permission(|p| p.can_publish = false));
    assert!(world.engine[&publisher].receivers.is_empty());
    world.take(anna);
    world.signal(anna, add_track("new", TrackType::Video));
    let reason = world.find(anna, |m| match m {
        Message::RequestResponse(r) => Some(r.reason()),
        _ => None,
    });
    assert_eq!(reason, Some(request_response::Reason::NotAllowed));

    update(&mut world, "anna", permission(|_| {}));
    publish(&mut world, anna, DUAL_SIMULCAST);
    for _ in 0..2 {
        world.settle();
        accept(&mut world, ben);
    }
    assert_eq!(world.engine[&subscriber].senders.len(), 2);
    update(&mut world, "ben", permission(|p| p.can_subscribe = false));
    assert!(world.engine[&subscriber].senders.is_empty());
}

#[test]
fn a_section_whose_track_lost_its_right_is_not_taken_for_the_next_track() {
    let mut world = World::new();
    let (anna, ..) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    for sources in [vec![2], Vec::new()] {
        let update = permission(|p| p.can_publish_sources = sources);
        world.call(|room, now| room.update_participant(&identity("anna"), update, now)).unwrap();
    }
    // The client has not offered since, and its last offer still holds the old track.
    let (video, _) = cids(DUAL_H264);
    world.signal(anna, add_track(&video, TrackType::Video));
    assert_eq!(world.me("anna").tracks.len(), 1, "only the microphone");
    world.signal(anna, offer(DUAL_H264, 2));
    let tracks = world.me("anna").tracks;
    assert!(tracks.iter().any(|track| track.mime_type == "video/H264"), "{tracks:?}");
}

#[test]
fn who_gets_the_right_to_subscribe_later_gets_the_second_connection() {
    let mut world = World::new();
    enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let mut mute = params("ben", Dual);
    mute.claims.video.can_subscribe = Some(false);
    let ben = world.join(mute).unwrap();
    world.settle();
    let update = permission(|_| {});
    world.call(|room, now| room.update_participant(&identity("ben"), update, now)).unwrap();
    let subscriber = *world.opened.last().unwrap();
    accept(&mut world, ben);
    assert_eq!(world.engine[&subscriber].senders.len(), 2);
}

#[test]
fn texts_change_all_or_not_at_all() {
    let mut world = World::new();
    let (anna, ..) = enter_dual(&mut world, "anna", None);
    let attributes = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<HashMap<_, _>>()
    };
    let update = |world: &mut World, metadata: String, attributes| {
        let update =
            ParticipantUpdate { name: "Anna".to_owned(), metadata, attributes, permission: None };
        world.call(|room, now| room.update_participant(&identity("anna"), update, now))
    };
    let refused = update(&mut world, "x".repeat(512 * 1024 + 1), attributes(&[]));
    assert_eq!(refused, Err(AdministrationError::Limit("metadata size")));
    assert_eq!(world.me("anna").name, "");
    update(&mut world, "m".to_owned(), attributes(&[("a", "1"), ("b", "2")])).unwrap();
    let info = update(&mut world, String::new(), attributes(&[("a", "")])).unwrap();
    assert_eq!((info.name.as_str(), info.metadata.as_str()), ("Anna", "m"));
    assert_eq!(info.attributes, attributes(&[("b", "2")]));
    let seen = world.find(anna, |m| match m {
        Message::Update(u) => Some(u.participants[0].attributes.len()),
        _ => None,
    });
    assert_eq!(seen, Some(1), "the participant itself is told");
}

#[test]
fn subscriptions_change_from_outside() {
    let mut world = World::new();
    enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let (_, _, subscriber) = enter_dual(&mut world, "ben", None);
    let update = UpdateSubscription {
        track_sids: vec![world.track("anna", TrackType::Video)],
        subscribe: false,
        ..UpdateSubscription::default()
    };
    world.call(|room, now| room.update_subscriptions(&identity("ben"), &update, now)).unwrap();
    assert_eq!(world.engine[&subscriber].senders.len(), 1);
    let nobody = world.call(|room, now| room.update_subscriptions(&identity("x"), &update, now));
    assert_eq!(nobody, Err(AdministrationError::NoParticipant));
}

#[test]
fn a_moved_participant_gets_a_token_for_the_other_room_and_connects_anew() {
    for (protocol, moved) in [(17, true), (14, false)] {
        let mut world = World::new();
        let mut joining = params("anna", Dual);
        joining.client.protocol = protocol;
        let anna = world.join(joining).unwrap();
        world.take(anna);
        let other = RoomName::new("other").unwrap();
        world.call(|room, now| room.move_participant(&identity("anna"), &other, now)).unwrap();
        let messages = world.take(anna);
        assert_eq!(matches!(&messages[0], Message::RoomMoved(_)), moved);
        let Message::Leave(leave) = &messages[1] else { panic!("{messages:?}") };
        assert_eq!(leave.reason(), DisconnectReason::Migration);
        assert_eq!(leave.action(), leave_request::Action::Reconnect);
        assert_eq!(world.tokens.last().unwrap().video.room, "other");
        assert!(world.closed.contains(&anna));
        assert!(world.room.participants().is_empty());
    }
}

#[test]
fn webhooks_hear_of_everything_in_order() {
    let mut world = World::new();
    let (anna, publisher, _) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    world.connect(publisher);
    let unpublished = DUAL_SIMULCAST.replacen("a=sendonly", "a=inactive", 1);
    world.signal(anna, offer(&unpublished, 2));
    let ben = world.join(params("ben", Dual)).unwrap();
    world.signal(ben, Request::Leave(Default::default()));
    world.signal(anna, Request::Leave(Default::default()));
    world.pass(std::time::Duration::from_secs(30));
    let events: Vec<(&str, &str)> =
        world.events.iter().map(|(event, who)| (event.as_str(), who.as_str())).collect();
    let expected = [
        ("room_started", ""),
        ("participant_joined", "anna"),
        ("track_published", "anna"),
        ("track_published", "anna"),
        ("track_unpublished", "anna"),
        ("participant_connection_aborted", "ben"),
        ("track_unpublished", "anna"),
        ("participant_left", "anna"),
        ("room_finished", ""),
    ];
    assert_eq!(events, expected);
}

#[test]
fn who_was_removed_comes_back_with_a_new_token_only_to_the_next_home_too() {
    let mut world = World::new();
    let (anna, ..) = enter_dual(&mut world, "anna", None);
    enter_dual(&mut world, "ben", None);
    let made_at = |nbf: u64| {
        let mut params = params("anna", Dual);
        params.claims.nbf = usize::try_from(nbf).unwrap();
        params
    };
    let version = world.room.state_version();
    let cutoff = 1_800_000_100;
    assert!(world.call(|room, now| room.remove_participant(&identity("anna"), cutoff, now)));
    assert!(world.closed.contains(&anna));
    assert!(world.room.state_version() > version, "the store hears of it");
    assert_eq!(world.join(made_at(cutoff - 1)).unwrap_err().status, 401);
    world.join(params("carl", Dual)).unwrap();
    let state = RoomState::from_json(&world.room.state().to_json()).unwrap();
    let mut next = World::restored(state);
    assert_eq!(next.join(made_at(cutoff - 1)).unwrap_err().status, 401);
    next.join(made_at(cutoff)).unwrap();
    // By then tokens from before have ended by themselves.
    let late = sfu_core::time::Now { unix_ms: next.now.unix_ms + 7 * 3_600_000, ..next.now };
    let old = made_at(cutoff - 1);
    assert!(next.room.check_token(&old.identity, &old.claims, late).is_ok());
}

#[test]
fn whom_nobody_may_see_any_more_leaves_for_all_others_and_comes_back() {
    let mut world = World::new();
    let (anna, ..) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let (ben, _, subscriber) = enter_dual(&mut world, "ben", None);
    world.settle();
    let sid = world.track("anna", TrackType::Audio);
    assert_eq!(world.engine[&subscriber].senders.len(), 2);
    let update = |world: &mut World, hidden| {
        world.take(ben);
        let update = permission(|permission| permission.hidden = hidden);
        let info = world
            .call(|room, now| room.update_participant(&identity("anna"), update, now))
            .unwrap();
        assert_eq!(info.permission.unwrap().hidden, hidden);
        let mut told = Vec::new();
        for _ in 0..3 {
            world.settle();
            let messages = world.take(ben);
            for message in &messages {
                if let Message::Offer(offer) = message {
                    world.signal(ben, answer(&answer_to(&offer.sdp), offer.id));
                }
            }
            told.extend(messages);
        }
        told.into_iter().find_map(|message| match message {
            Message::Update(update) => {
                let anna = update.participants.iter().find(|p| p.identity == "anna")?;
                Some((anna.state(), anna.tracks.len(), anna.version))
            }
            _ => None,
        })
    };
    let (state, tracks, version) = update(&mut world, true).unwrap();
    assert_eq!((state, tracks), (State::Disconnected, 0));
    assert!(world.engine[&subscriber].senders.is_empty());
    assert_eq!(world.room.info().num_participants, 1);
    // Nor can she be asked for, or seen by who comes.
    let ask = UpdateSubscription {
        track_sids: vec![sid],
        subscribe: true,
        ..UpdateSubscription::default()
    };
    world.take(ben);
    world.signal(ben, Request::Subscription(ask));
    let refused = world.find(ben, |message| match message {
        Message::SubscriptionResponse(response) => Some(response.err()),
        _ => None,
    });
    assert_eq!(refused, Some(SubscriptionError::SeTrackNotfound));
    let carl = world.join(params("carl", Dual)).unwrap();
    let others = world.find(carl, |message| match message {
        Message::Join(join) => Some(join.other_participants.len()),
        _ => None,
    });
    assert_eq!(others, Some(1));
    assert_eq!(update(&mut world, true), None, "what is told of her now is for her alone");
    assert!(!world.closed.contains(&anna));

    let (state, tracks, newer) = update(&mut world, false).unwrap();
    assert_eq!((state, tracks), (State::Active, 2));
    assert!(newer > version);
    assert_eq!(world.engine[&subscriber].senders.len(), 2);
}
