//! Participants of one room in another.

use std::time::Duration;

use contract::ids::{Identity, RoomName};
use contract::sfu_config::RoomConfig;
use livekit_protocol::participant_info::KindDetail;
use livekit_protocol::signal_request::Message as Request;
use livekit_protocol::signal_response::Message;
use livekit_protocol::{DisconnectReason, MuteTrackRequest, ParticipantInfo, TrackType};
use sfu_core::room::{
    AdministrationError, ForwardEnd, ForwardError, ForwardId, ForwardNews, ParticipantUpdate,
    RoomCloseReason,
};
use sfu_core::signal::join::PeerConnectionMode::{Dual, Single};

use crate::client::*;

const ID: ForwardId = ForwardId(1);

fn identity(name: &str) -> Identity {
    Identity::new(name).unwrap()
}

fn stage() -> RoomName {
    RoomName::new("stage").unwrap()
}

/// Carries what a room says of participants to the room that shows them.
fn carry(from: &mut World, to: &mut World) {
    for (id, news) in std::mem::take(&mut from.forwards) {
        match news {
            ForwardNews::Changed(state) => {
                assert!(to.call(|room, now| room.update_forwarded(id, &state, now)));
            }
            ForwardNews::Ended(reason) => {
                to.call(|room, now| room.end_forwarded(id, reason, now));
            }
        }
    }
}

fn forward(from: &mut World, to: &mut World, name: &str) {
    let state = from
        .call(|room, now| room.forward_participant(ID, &identity(name), &stage(), now))
        .unwrap()
        .unwrap();
    to.call(|room, now| room.show_forwarded(ID, 1, &state, now)).unwrap();
}

/// What a client heard last of a participant.
fn seen(world: &mut World, session: sfu_core::room::SessionId) -> Option<ParticipantInfo> {
    world.find(session, |message| match message {
        Message::Update(update) => update.participants.last().cloned(),
        _ => None,
    })
}

#[test]
fn a_forwarded_participant_is_seen_and_heard_in_the_other_room() {
    let (mut lobby, mut other) = (World::new(), World::new());
    enter_dual(&mut lobby, "anna", Some(DUAL_SIMULCAST));
    let (ben, _, subscriber) = enter_dual(&mut other, "ben", None);
    forward(&mut lobby, &mut other, "anna");
    other.settle();
    accept(&mut other, ben);

    let anna = seen(&mut other, ben).unwrap();
    assert_eq!((anna.identity.as_str(), anna.tracks.len()), ("anna", 2));
    assert!(anna.kind_details.contains(&KindDetail::Forwarded.into()));
    assert_ne!(anna.sid, lobby.me("anna").sid);
    assert_eq!(anna.tracks, lobby.me("anna").tracks);
    // Ben's senders take mirrors of what the lobby's engine receives.
    let mirrors = other.mirrors.values().next().unwrap();
    let sources: Vec<_> = mirrors.iter().map(|mirror| mirror.source).collect();
    let received = lobby.engine.values().flat_map(|t| t.receivers.iter().map(|r| r.track));
    assert_eq!(received.collect::<Vec<_>>(), sources);
    let sent: Vec<_> = other.engine[&subscriber].senders.iter().map(|s| s.track).collect();
    let mut shown: Vec<_> = mirrors.iter().map(|mirror| mirror.receiver.track).collect();
    shown.sort_unstable();
    let mut sorted = sent.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, shown);
    assert!(sent.iter().all(|track| !sources.contains(track)), "each room has keys of its own");
    let events: Vec<_> =
        other.events.iter().map(|(name, who)| (name.as_str(), who.as_str())).collect();
    let tracks =
        [("participant_joined", "anna"), ("track_published", "anna"), ("track_published", "anna")];
    assert!(events.ends_with(&tracks), "{events:?}");
}

#[test]
fn changes_of_the_participant_follow_it_and_its_leave_ends_it() {
    let (mut lobby, mut other) = (World::new(), World::new());
    let (anna, ..) = enter_single(&mut lobby, "anna", SINGLE_START);
    let (ben, _, subscriber) = enter_dual(&mut other, "ben", None);
    forward(&mut lobby, &mut other, "anna");
    assert!(seen(&mut other, ben).unwrap().tracks.is_empty());

    publish(&mut lobby, anna, SINGLE_SIMULCAST);
    carry(&mut lobby, &mut other);
    other.settle();
    accept(&mut other, ben);
    assert_eq!(other.engine[&subscriber].senders.len(), 2);
    let sid = lobby.track("anna", TrackType::Audio);
    lobby.signal(anna, Request::Mute(MuteTrackRequest { sid: sid.clone(), muted: true }));
    let update = ParticipantUpdate { metadata: "on stage".to_owned(), ..Default::default() };
    lobby.call(|room, now| room.update_participant(&identity("anna"), update, now)).unwrap();
    carry(&mut lobby, &mut other);
    let told = seen(&mut other, ben).unwrap();
    assert_eq!(told.metadata, "on stage");
    assert!(told.tracks.iter().any(|track| track.sid == sid && track.muted));

    lobby.signal(anna, Request::Leave(livekit_protocol::LeaveRequest::default()));
    carry(&mut lobby, &mut other);
    let told = seen(&mut other, ben).unwrap();
    assert_eq!(told.disconnect_reason(), DisconnectReason::ClientInitiated);
    assert!(other.engine[&subscriber].senders.is_empty());
    assert!(other.mirrors.values().all(Vec::is_empty));
    assert_eq!(other.forwarded_left, [(ID, ForwardEnd::Over)]);
    assert!(lobby.forwards.is_empty());
}

#[test]
fn who_is_removed_from_the_other_room_stays_in_its_own() {
    let (mut lobby, mut other) = (World::new(), World::new());
    enter_dual(&mut lobby, "anna", Some(DUAL_SIMULCAST));
    enter_dual(&mut other, "ben", None);
    forward(&mut lobby, &mut other, "anna");
    let gone = identity("anna");
    assert!(other.call(|room, now| room.remove_participant(&gone, 0, now)));
    assert_eq!(other.forwarded_left, [(ID, ForwardEnd::Over)]);
    assert!(other.mirrors.values().all(Vec::is_empty));
    lobby.call(|room, now| room.stop_forwarding(ID, now));
    assert_eq!(lobby.me("anna").tracks.len(), 2);
    let update = ParticipantUpdate { name: "Anna".to_owned(), ..Default::default() };
    lobby.call(|room, now| room.update_participant(&gone, update, now)).unwrap();
    assert!(lobby.forwards.is_empty(), "nobody is told any more");
}

#[test]
fn another_rooms_participant_is_changed_in_its_own_room_only() {
    let (mut lobby, mut other) = (World::new(), World::new());
    enter_dual(&mut lobby, "anna", Some(DUAL_SIMULCAST));
    enter_dual(&mut other, "ben", None);
    forward(&mut lobby, &mut other, "anna");
    let (anna, sid) = (identity("anna"), lobby.track("anna", TrackType::Audio));
    let refused = Err(AdministrationError::Forwarded);
    let mute = other.call(|room, now| room.mute_published_track(&anna, &sid, true, now));
    assert_eq!(mute.map(|_| ()), refused);
    let moved = other.call(|room, now| room.move_participant(&anna, &stage(), now));
    assert_eq!(moved, refused);
    let third = ForwardId(2);
    let chain = other.call(|room, now| room.forward_participant(third, &anna, &stage(), now));
    assert_eq!(chain.map(|_| ()), refused);
    // A client cannot take its place by resuming, but by joining.
    let sid = other.me("anna").sid;
    let session = other.resume("anna", Single, &sid).unwrap();
    assert!(other.take(session).iter().any(|m| matches!(m, Message::Leave(_))));
    other.join(params("anna", Dual)).unwrap();
    assert_eq!(other.forwarded_left, [(ID, ForwardEnd::Over)]);
    assert!(other.me("anna").kind_details.is_empty());
}

#[test]
fn a_room_shows_nobody_twice_and_no_more_than_it_may_hold() {
    let config = RoomConfig { max_participants: 2, ..RoomConfig::default() };
    let (mut lobby, mut other) = (World::new(), World::with_config(config));
    for name in ["anna", "ben", "clara"] {
        enter_dual(&mut lobby, name, None);
    }
    enter_dual(&mut other, "ben", None);
    let mut try_forward = |name: &str, id: u64| {
        let id = ForwardId(id);
        let state = lobby
            .call(|room, now| room.forward_participant(id, &identity(name), &stage(), now))
            .unwrap();
        state.map(|state| other.call(|room, now| room.show_forwarded(id, 1, &state, now)))
    };
    assert_eq!(try_forward("ben", 1), Some(Err(ForwardError::Taken)));
    assert_eq!(try_forward("anna", 2), Some(Ok(())));
    assert_eq!(try_forward("anna", 3), None, "again is no change");
    assert_eq!(try_forward("clara", 4), Some(Err(ForwardError::Full)));
}

#[test]
fn layers_are_encoded_as_long_as_another_room_may_want_them() {
    let (mut lobby, mut other) = (World::new(), World::new());
    let (anna, ..) = enter_dual(&mut lobby, "anna", Some(DUAL_SIMULCAST));
    forward(&mut lobby, &mut other, "anna");
    let wanted = |world: &mut World| {
        world.find(anna, |message| match message {
            Message::SubscribedQualityUpdate(update) => {
                Some(update.subscribed_codecs[0].qualities.iter().all(|quality| quality.enabled))
            }
            _ => None,
        })
    };
    lobby.pass(Duration::from_secs(10));
    assert_eq!(wanted(&mut lobby), None, "all layers from the beginning");
    lobby.call(|room, now| room.stop_forwarding(ID, now));
    lobby.pass(Duration::from_secs(10));
    assert_eq!(wanted(&mut lobby), Some(false));
}

#[test]
fn who_was_forwarded_when_its_room_moved_is_forwarded_again_when_it_is_back_in_time() {
    for (late, expected) in [(0, 1), (29, 1), (31, 0)] {
        let (mut lobby, mut other) = (World::new(), World::new());
        enter_dual(&mut lobby, "anna", Some(DUAL_SIMULCAST));
        enter_dual(&mut lobby, "ben", None);
        forward(&mut lobby, &mut other, "anna");
        let state = lobby.room.state();
        lobby.call(|room, now| room.close(RoomCloseReason::Drain, now));
        let mut next = World::restored(state);
        assert_eq!(next.room.state(), World::restored(next.room.state()).room.state());
        // He keeps the room.
        enter_dual(&mut next, "ben", None);
        next.pass(Duration::from_secs(late));
        assert!(next.forward_again.is_empty());
        enter_dual(&mut next, "anna", None);
        let again = vec![("anna".to_owned(), "stage".to_owned()); expected];
        assert_eq!(next.forward_again, again, "after {late} s");
    }
}

#[test]
fn what_was_ended_is_not_forwarded_at_the_next_home() {
    let end: [fn(&mut World); 3] = [
        |lobby| lobby.call(|room, now| room.stop_forwarding(ID, now)),
        |lobby| {
            let gone = identity("anna");
            assert!(lobby.call(|room, now| room.remove_participant(&gone, 0, now)));
        },
        // Forwarded anew at the next home, and ended there.
        |lobby| {
            *lobby = World::restored(lobby.room.state());
            enter_dual(lobby, "anna", None);
            let mut other = World::new();
            forward(lobby, &mut other, "anna");
            lobby.call(|room, now| room.stop_forwarding(ID, now));
        },
    ];
    for end in end {
        let (mut lobby, mut other) = (World::new(), World::new());
        enter_dual(&mut lobby, "anna", None);
        forward(&mut lobby, &mut other, "anna");
        end(&mut lobby);
        let mut next = World::restored(lobby.room.state());
        enter_dual(&mut next, "anna", None);
        assert!(next.forward_again.is_empty());
    }
}

#[test]
fn the_store_is_told_what_is_forwarded() {
    let (mut lobby, mut other) = (World::new(), World::new());
    enter_dual(&mut lobby, "anna", None);
    let at_first = lobby.room.state_version();
    forward(&mut lobby, &mut other, "anna");
    let forwarded = lobby.room.state_version();
    assert_ne!(forwarded, at_first);
    lobby.call(|room, now| room.stop_forwarding(ID, now));
    assert_ne!(lobby.room.state_version(), forwarded);
}

#[test]
fn a_room_that_moves_says_so_of_whom_it_shows_and_one_that_ends_does_not() {
    let cases = [
        (RoomCloseReason::Drain, ForwardEnd::RoomMoves),
        (RoomCloseReason::Deleted, ForwardEnd::Over),
    ];
    for (reason, end) in cases {
        let (mut lobby, mut other) = (World::new(), World::new());
        enter_dual(&mut lobby, "anna", None);
        forward(&mut lobby, &mut other, "anna");
        other.call(|room, now| room.close(reason, now));
        assert_eq!(other.forwarded_left, [(ID, end)]);
    }
}

#[test]
fn the_next_home_of_a_participants_room_takes_the_place_of_the_earlier_one() {
    let (mut lobby, mut other) = (World::new(), World::new());
    enter_dual(&mut lobby, "anna", None);
    forward(&mut lobby, &mut other, "anna");
    let before = other.me("anna").sid;
    // The earlier home died, and nobody has noticed.
    let mut next = World::restored(lobby.room.state());
    enter_dual(&mut next, "anna", None);
    let again = ForwardId(2);
    let state = next
        .call(|room, now| room.forward_participant(again, &identity("anna"), &stage(), now))
        .unwrap()
        .unwrap();
    other.call(|room, now| room.show_forwarded(again, 2, &state, now)).unwrap();
    assert_eq!(other.forwarded_left, [(ID, ForwardEnd::Over)]);
    let shown = other.me("anna").sid;
    assert_ne!(shown, before);
    // What the earlier home still says comes too late.
    let late = other.call(|room, now| room.show_forwarded(ForwardId(3), 1, &state, now));
    assert_eq!((late, other.me("anna").sid), (Err(ForwardError::Taken), shown));
}
