use std::collections::BTreeSet;

use livekit_protocol::signal_request::Message as Request;
use livekit_protocol::signal_response::Message;
use livekit_protocol::{
    MuteTrackRequest, TrackType, UpdateSubscription, UpdateTrackSettings, request_response,
};
use sfu_core::media::{CodecKind, MediaKind, Rid, VideoQuality};
use sfu_core::signal::join::PeerConnectionMode::{Dual, Single};

use crate::client::*;

#[test]
fn simulcast_of_a_browser_becomes_a_receiver_with_rising_layers() {
    let mut world = World::new();
    let (_, publisher, _) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let receivers = &world.engine[&publisher].receivers;
    assert_eq!(receivers.len(), 2);
    let video = receivers.iter().find(|r| r.kind == MediaKind::Video).unwrap();
    assert_eq!(video.rids, ["q", "h", "f"].map(|rid| Rid(rid.to_owned())));
    assert_eq!(video.codecs[0].kind, CodecKind::Vp8);
    assert_eq!(video.codecs[0].rtx_payload_type, Some(97));
    assert!(video.extensions.rid.is_some() && video.extensions.transport_cc.is_some());
    let audio = receivers.iter().find(|r| r.kind == MediaKind::Audio).unwrap();
    assert_eq!([audio.codecs[0].kind, audio.codecs[1].kind], [CodecKind::Red, CodecKind::Opus]);
    assert_eq!(audio.ssrcs.len(), 1);
    let tracks = world.me("anna").tracks;
    assert!(tracks.iter().any(|t| t.sid.starts_with("TR_VC") && t.mime_type == "video/VP8"));
    assert!(tracks.iter().any(|t| t.sid.starts_with("TR_AM") && t.stream == "camera"));
}

#[test]
fn a_track_may_come_before_its_announcement() {
    let mut world = World::new();
    let (session, _, _) = enter_dual(&mut world, "anna", None);
    let (video, audio) = cids(DUAL_H264);
    world.signal(session, offer(DUAL_H264, 1));
    assert_eq!(world.me("anna").tracks.len(), 0);
    world.signal(session, add_track(&video, TrackType::Video));
    world.signal(session, add_track(&audio, TrackType::Audio));
    let tracks = world.me("anna").tracks;
    assert_eq!(tracks.len(), 2);
    assert_eq!(tracks[0].mime_type, "video/H264");
}

#[test]
fn a_changed_client_id_is_matched_when_only_one_track_is_left() {
    let mut world = World::new();
    let (session, publisher, _) = enter_dual(&mut world, "anna", None);
    world.signal(session, add_track("changed-by-the-browser", TrackType::Video));
    world.signal(session, offer(DUAL_SIMULCAST, 1));
    assert_ne!(publisher, *world.opened.last().unwrap());
    let tracks = world.me("anna").tracks;
    assert_eq!(tracks.len(), 1);
    assert_eq!(tracks[0].codecs[0].sdp_cid, cids(DUAL_SIMULCAST).0);
}

#[test]
fn every_pair_of_modes_receives_what_the_other_publishes() {
    let offers = |mode| if mode == Dual { DUAL_SIMULCAST } else { SINGLE_SIMULCAST };
    for (first, second) in [(Dual, Dual), (Dual, Single), (Single, Dual), (Single, Single)] {
        let mut world = World::new();
        let mut enter = |name, mode| match mode {
            Dual => enter_dual(&mut world, name, Some(offers(mode))).0,
            Single => enter_single(&mut world, name, offers(mode)).0,
        };
        let anna = enter("anna", first);
        let ben = enter("ben", second);
        for _ in 0..3 {
            world.settle();
            for (session, mode) in [(anna, first), (ben, second)] {
                match mode {
                    Dual => drop(accept(&mut world, session)),
                    Single => world.signal(session, offer(SINGLE_SIMULCAST, 2)),
                }
            }
        }
        assert_eq!(world.room.counts().subscriptions, 4, "{first:?} and {second:?}");
        assert_eq!(world.room.counts().tracks, 4);
        let names: Vec<String> = world.me("anna").tracks.into_iter().map(|t| t.sid).collect();
        let description = world
            .find(ben, |m| match m {
                Message::Offer(d) | Message::Answer(d) if !d.mid_to_track_id.is_empty() => {
                    Some(d.clone())
                }
                _ => None,
            })
            .unwrap();
        let pa = world.me("anna").sid;
        for sid in names {
            assert!(description.mid_to_track_id.values().any(|value| *value == sid));
            assert!(description.sdp.contains(&format!("a=msid:{pa}|{sid} {sid}\r\n")));
        }
    }
}

#[test]
fn a_late_joiner_of_two_connections_has_the_tracks_in_the_first_offer() {
    let mut world = World::new();
    enter_single(&mut world, "anna", SINGLE_SIMULCAST);
    let (_, _, subscriber) = enter_dual(&mut world, "ben", None);
    let senders = &world.engine[&subscriber].senders;
    assert_eq!(senders.len(), 2);
    assert!(senders.iter().all(|s| s.max_quality == Some(VideoQuality::High)));
    assert_eq!(world.room.counts().subscribers, 1);
}

#[test]
fn a_client_of_one_connection_is_asked_for_sections_when_none_is_free() {
    let mut world = World::new();
    let (ben, transport) = enter_single(&mut world, "ben", SINGLE_START);
    let mut names = Vec::new();
    for index in 0..4 {
        names.push(format!("anna{index}"));
        enter_dual(&mut world, &names[index], Some(DUAL_SIMULCAST));
    }
    world.settle();
    let asked = world
        .find(ben, |m| match m {
            Message::MediaSectionsRequirement(r) => Some((r.num_audios, r.num_videos)),
            _ => None,
        })
        .unwrap();
    // Four tracks of a kind, three free sections.
    assert_eq!(asked, (1, 1));
    world.signal(ben, offer(SINGLE_START, 2));
    assert_eq!(world.engine[&transport].senders.len(), 6);
    world.settle();
    let asked = world
        .find(ben, |m| match m {
            Message::MediaSectionsRequirement(r) => Some((r.num_audios, r.num_videos)),
            _ => None,
        })
        .unwrap();
    assert_eq!(asked, (1, 1));
}

#[test]
fn a_section_rests_one_negotiation_before_it_carries_another_track() {
    let mut world = World::new();
    let (anna, ..) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let (ben, transport) = enter_single(&mut world, "ben", SINGLE_START);
    assert_eq!(world.engine[&transport].senders.len(), 2);
    world.signal(anna, Request::Leave(Default::default()));
    assert_eq!(world.engine[&transport].senders.len(), 0);
    enter_dual(&mut world, "carl", Some(DUAL_SIMULCAST));
    world.settle();
    world.signal(ben, offer(SINGLE_START, 2));
    let mids: Vec<String> =
        world.engine[&transport].senders.iter().map(|s| s.mid.0.clone()).collect();
    assert_eq!(mids, ["1", "4"], "0 and 3 were freed by this very answer");
}

#[test]
fn mute_and_unpublish_are_told_to_the_others() {
    let mut world = World::new();
    let (anna, publisher, _) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let (ben, _, subscriber) = enter_dual(&mut world, "ben", None);
    let sid = world
        .me("anna")
        .tracks
        .iter()
        .find(|t| t.r#type() == TrackType::Video)
        .unwrap()
        .sid
        .clone();
    world.take(ben);
    world.signal(anna, Request::Mute(MuteTrackRequest { sid: sid.clone(), muted: true }));
    let update = world
        .find(ben, |m| if let Message::Update(u) = m { Some(u.clone()) } else { None })
        .unwrap();
    assert!(update.participants[0].tracks.iter().any(|t| t.sid == sid && t.muted));

    let unpublished = DUAL_SIMULCAST.replacen("a=sendonly", "a=inactive", 1);
    world.signal(anna, offer(&unpublished, 2));
    let messages = world.take(anna);
    let is_named = |m: &Message| matches!(m, Message::TrackUnpublished(_));
    assert!(!messages.iter().any(is_named), "who stops a track needs no word of it");
    let mut updates = messages.iter().filter_map(|m| match m {
        Message::Update(update) => update.participants.first(),
        _ => None,
    });
    assert!(
        updates.any(|info| info.identity == "anna" && info.tracks.iter().all(|t| t.sid != sid))
    );
    assert_eq!(world.engine[&publisher].receivers.len(), 1);
    assert_eq!(world.engine[&subscriber].senders.len(), 1);
    world.settle();
    let offer = accept(&mut world, ben);
    assert!(offer.sdp.contains("a=inactive"));
}

#[test]
fn subscriptions_and_settings_shape_the_senders() {
    let mut world = World::new();
    enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let (ben, _, subscriber) = enter_dual(&mut world, "ben", None);
    let sids: Vec<String> = world.me("anna").tracks.into_iter().map(|t| t.sid).collect();
    let settings = |disabled, quality: i32| {
        Request::TrackSetting(UpdateTrackSettings {
            track_sids: sids.clone(),
            disabled,
            quality,
            ..UpdateTrackSettings::default()
        })
    };
    world.signal(ben, settings(false, 0));
    let quality = |world: &World| world.engine[&subscriber].senders[0].max_quality;
    assert_eq!(quality(&world), Some(VideoQuality::Low));
    world.signal(ben, settings(true, 2));
    assert_eq!(quality(&world), None);
    let subscription = |subscribe| {
        Request::Subscription(UpdateSubscription {
            track_sids: sids.clone(),
            subscribe,
            ..UpdateSubscription::default()
        })
    };
    world.signal(ben, subscription(false));
    assert!(world.engine[&subscriber].senders.is_empty());
    world.settle();
    accept(&mut world, ben);
    world.signal(ben, subscription(true));
    world.settle();
    accept(&mut world, ben);
    assert_eq!(world.engine[&subscriber].senders.len(), 2);
}

#[test]
fn who_subscribes_again_at_once_gets_a_new_section() {
    let mut world = World::new();
    enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let (ben, _, subscriber) = enter_dual(&mut world, "ben", None);
    let sids: Vec<String> = world.me("anna").tracks.into_iter().map(|t| t.sid).collect();
    let mids = |world: &World| -> Vec<_> {
        world.engine[&subscriber].senders.iter().map(|sender| sender.mid.clone()).collect()
    };
    let before = mids(&world);
    for subscribe in [false, true] {
        let update = UpdateSubscription {
            track_sids: sids.clone(),
            subscribe,
            ..UpdateSubscription::default()
        };
        world.signal(ben, Request::Subscription(update));
    }
    world.settle();
    let offer = accept(&mut world, ben);
    assert_eq!(offer.sdp.matches("a=inactive").count(), 2);
    let after = mids(&world);
    assert_eq!(after.len(), 2);
    assert!(after.iter().all(|mid| !before.contains(mid)), "{before:?}, {after:?}");
}

#[test]
fn without_the_right_a_track_is_refused() {
    let mut world = World::new();
    let mut denied = params("anna", Dual);
    denied.claims.video.can_publish_sources = vec!["microphone".to_owned()];
    let session = world.join(denied).unwrap();
    world.signal(session, add_track("video", TrackType::Video));
    let reason = world
        .find(session, |m| match m {
            Message::RequestResponse(r) => Some(r.reason()),
            _ => None,
        })
        .unwrap();
    assert_eq!(reason, request_response::Reason::NotAllowed);
    world.signal(session, add_track("audio", TrackType::Audio));
    let published = world.find(session, |m| match m {
        Message::TrackPublished(p) => Some(p.cid.clone()),
        _ => None,
    });
    assert_eq!(published.as_deref(), Some("audio"));
}

#[test]
fn a_publisher_decides_who_subscribes() {
    let mut world = World::new();
    let (anna, ..) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let (ben, _, subscriber) = enter_dual(&mut world, "ben", None);
    assert_eq!(world.engine[&subscriber].senders.len(), 2);
    world.signal(anna, Request::SubscriptionPermission(Default::default()));
    assert_eq!(world.engine[&subscriber].senders.len(), 0);
    let allowed = world.find(ben, |m| match m {
        Message::SubscriptionPermissionUpdate(u) => Some(u.allowed),
        _ => None,
    });
    assert_eq!(allowed, Some(false));
}

#[test]
fn who_does_not_want_all_tracks_gets_those_that_it_asks_for() {
    let mut world = World::new();
    enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let mut asking = params("ben", Dual);
    asking.auto_subscribe = false;
    let ben = world.join(asking).unwrap();
    let subscriber = *world.opened.last().unwrap();
    accept(&mut world, ben);
    world.connect(subscriber);
    world.settle();
    assert!(world.engine[&subscriber].senders.is_empty());
    let track_sids = vec![world.track("anna", TrackType::Audio)];
    let wish = UpdateSubscription { track_sids, subscribe: true, ..UpdateSubscription::default() };
    world.signal(ben, Request::Subscription(wish));
    world.settle();
    accept(&mut world, ben);
    let kinds: Vec<MediaKind> =
        world.engine[&subscriber].senders.iter().map(|sender| sender.kind).collect();
    assert_eq!(kinds, [MediaKind::Audio]);
}

#[test]
fn hundreds_of_tracks_reach_one_subscriber() {
    const PUBLISHERS: usize = 150;
    let mut world = World::new();
    for number in 0..PUBLISHERS {
        let mut publisher = params(&format!("publisher {number}"), Dual);
        publisher.claims.video.can_subscribe = Some(false);
        let session = world.join(publisher).unwrap();
        publish(&mut world, session, DUAL_SIMULCAST);
        let transport = *world.opened.last().unwrap();
        world.connect(transport);
    }
    let (_, _, subscriber) = enter_dual(&mut world, "ben", None);
    let senders = &world.engine[&subscriber].senders;
    assert_eq!(senders.len(), 2 * PUBLISHERS);
    let sources: BTreeSet<_> =
        senders.iter().flat_map(|s| [Some(s.ssrc.ssrc), s.ssrc.rtx]).collect();
    // Audio has no retransmission stream; every other source is somebody's own.
    assert_eq!(sources.into_iter().flatten().count(), 3 * PUBLISHERS);
    // One who leaves takes its tracks along, and no other.
    let gone = contract::ids::Identity::new("publisher 77").unwrap();
    assert!(world.call(|room, now| room.remove_participant(&gone, 0, now)));
    assert_eq!(world.engine[&subscriber].senders.len(), 2 * (PUBLISHERS - 1));
}
