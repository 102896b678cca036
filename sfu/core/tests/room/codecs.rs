//! Which codecs are published, in which subscribers get what, and how it is played.

use std::time::Duration;

use contract::sfu_config::RoomConfig;
use livekit_protocol::signal_request::Message as Request;
use livekit_protocol::signal_response::Message;
use livekit_protocol::{
    AddTrackRequest, BackupCodecPolicy, SimulcastCodec, TrackType, encryption, request_response,
};
use sfu_core::media::{Codec, CodecKind, MediaKind, PlayoutDelay, TrackKey, TransportId};
use sfu_core::room::{RoomUpdate, SessionId};
use sfu_core::signal::join::PeerConnectionMode::Single;

use crate::client::*;

fn kinds(codecs: &[Codec]) -> Vec<CodecKind> {
    codecs.iter().map(|codec| codec.kind).collect()
}

/// Anna's microphone, announced as `change` says; what the engine receives.
fn microphone(world: &mut World, change: impl FnOnce(&mut AddTrackRequest)) -> Vec<CodecKind> {
    let (anna, ..) = enter_dual(world, "anna", None);
    let (_, audio) = cids(DUAL_SIMULCAST);
    let Request::AddTrack(mut request) = add_track(&audio, TrackType::Audio) else { panic!() };
    change(&mut request);
    world.signal(anna, Request::AddTrack(request));
    world.signal(anna, offer(DUAL_SIMULCAST, 1));
    let publisher = *world.opened.last().unwrap();
    kinds(&world.engine[&publisher].receivers[0].codecs)
}

#[test]
fn sound_is_published_redundantly_unless_the_client_says_otherwise() {
    use CodecKind::{Opus, Red};
    type Change = fn(&mut AddTrackRequest);
    let plain: Change = |_| {};
    let disabled: Change = |request| request.disable_red = true;
    let encrypted: Change = |request| request.encryption = encryption::Type::Gcm.into();
    let named: Change = |request| {
        request.simulcast_codecs =
            vec![SimulcastCodec { codec: "audio/opus".to_owned(), ..SimulcastCodec::default() }];
    };
    for (case, change, redundant) in [
        ("plain", plain, true),
        ("disable_red", disabled, false),
        ("encrypted", encrypted, false),
        ("named", named, false),
    ] {
        let mut world = World::new();
        let codecs = microphone(&mut world, change);
        let expected: &[CodecKind] = if redundant { &[Red, Opus] } else { &[Opus] };
        assert_eq!(&codecs[..expected.len()], expected, "{case}");
        assert_eq!(codecs.contains(&Red), redundant, "{case}");
        let mime = if redundant { "audio/red" } else { "audio/opus" };
        assert_eq!(world.me("anna").tracks[0].mime_type, mime, "{case}");
    }
}

#[test]
fn who_knows_no_redundancy_is_sent_opus() {
    let mut world = World::new();
    microphone(&mut world, |_| {});
    let without = SINGLE_START.replace("red/48000", "other/48000");
    for (name, sdp, expected) in
        [("ben", SINGLE_START, CodecKind::Red), ("clara", &without, CodecKind::Opus)]
    {
        let session = world.join(params(name, Single)).unwrap();
        world.signal(session, offer(sdp, 1));
        let transport = *world.opened.last().unwrap();
        let senders = &world.engine[&transport].senders;
        let sound = kinds(&senders.iter().find(|s| s.kind == MediaKind::Audio).unwrap().codecs);
        assert_eq!(sound.contains(&CodecKind::Red), expected == CodecKind::Red, "{name}");
        assert!(sound.contains(&CodecKind::Opus), "{name}");
        let refused = world.find(session, |message| match message {
            Message::SubscriptionResponse(_) => Some(()),
            _ => None,
        });
        assert_eq!(refused, None, "{name}");
    }
}

#[test]
fn an_offer_to_a_subscriber_lists_redundant_sound_first() {
    let mut world = World::new();
    microphone(&mut world, |_| {});
    let (ben, ..) = enter_dual(&mut world, "ben", None);
    let sdp = world
        .find(ben, |message| match message {
            Message::Offer(offer) => Some(offer.sdp.clone()),
            _ => None,
        })
        .unwrap();
    assert!(sdp.contains("m=audio 9 UDP/TLS/RTP/SAVPF 63 111\r\n"), "{sdp}");
    assert!(sdp.contains("a=fmtp:63 111/111\r\n"), "{sdp}");
}

#[test]
fn only_enabled_codecs_are_published() {
    let enabled_codecs = ["audio/opus", "video/H264"].map(str::to_owned).to_vec();
    let config = RoomConfig { enabled_codecs, ..RoomConfig::default() };
    let mut world = World::with_config(config);
    let (anna, publisher, _) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let told = world.find(anna, |message| match message {
        Message::Join(join) => Some(join.enabled_publish_codecs.clone()),
        _ => None,
    });
    let told: Vec<String> = told.unwrap().into_iter().map(|codec| codec.mime).collect();
    assert_eq!(told, ["audio/opus", "video/H264"]);
    for receiver in &world.engine[&publisher].receivers {
        let allowed = [CodecKind::Opus, CodecKind::H264];
        assert!(kinds(&receiver.codecs).iter().all(|kind| allowed.contains(kind)));
    }
}

#[test]
fn a_room_says_how_long_pictures_wait_and_may_change_it() {
    let config = RoomConfig { min_playout_delay: 200, ..RoomConfig::default() };
    let mut world = World::with_config(config);
    enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let (_, _, ben) = enter_dual(&mut world, "ben", None);
    let delays = |world: &World, kind: MediaKind| {
        world.engine[&ben].senders.iter().find(|s| s.kind == kind).unwrap().playout_delay
    };
    let expected = PlayoutDelay { min_ms: 200, max_ms: 10_000 };
    assert_eq!(delays(&world, MediaKind::Video), Some(expected));
    assert_eq!(delays(&world, MediaKind::Audio), None);
    let update = RoomUpdate { max_playout_delay: Some(500), ..RoomUpdate::default() };
    world.call(|room, now| room.update(update, now));
    let expected = PlayoutDelay { min_ms: 200, max_ms: 500 };
    assert_eq!(delays(&world, MediaKind::Video), Some(expected));
}

#[test]
fn streams_are_played_in_step_where_the_room_says_so() {
    for sync_streams in [false, true] {
        let config = RoomConfig { sync_streams, ..RoomConfig::default() };
        let mut world = World::with_config(config);
        enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
        let (ben, ..) = enter_dual(&mut world, "ben", None);
        let sdp = world
            .find(ben, |message| match message {
                Message::Offer(offer) => Some(offer.sdp.clone()),
                _ => None,
            })
            .unwrap();
        let anna = world.me("anna");
        for track in anna.tracks {
            let stream = if sync_streams { "camera" } else { &track.sid };
            let line = format!("a=msid:{}|{stream} {}\r\n", anna.sid, track.sid);
            assert!(sdp.contains(&line), "{line} in {sdp}");
        }
    }
}

/// Codec and whether any of its layers is wanted, of the last word to a publisher.
fn wanted_codecs(world: &mut World, session: SessionId) -> Vec<(String, bool)> {
    let update = world.find(session, |message| match message {
        Message::SubscribedQualityUpdate(update) => Some(update.subscribed_codecs.clone()),
        _ => None,
    });
    let describe = |codec: livekit_protocol::SubscribedCodec| {
        (codec.codec, codec.qualities.iter().any(|quality| quality.enabled))
    };
    update.unwrap_or_default().into_iter().map(describe).collect()
}

fn codec(codec: &str, cid: &str) -> SimulcastCodec {
    SimulcastCodec { codec: codec.to_owned(), cid: cid.to_owned(), ..SimulcastCodec::default() }
}

/// Anna publishes in H264, and in VP8 once she is told; ben decodes VP8 only.
struct TwoCodecs {
    world: World,
    anna: SessionId,
    ben: SessionId,
    publisher: TransportId,
    subscriber: TransportId,
    announced: AddTrackRequest,
}

fn two_codecs(policy: BackupCodecPolicy) -> TwoCodecs {
    let mut world = World::new();
    let (anna, publisher, _) = enter_dual(&mut world, "anna", None);
    let (video, _) = cids(DUAL_H264);
    let Request::AddTrack(mut announced) = add_track(&video, TrackType::Video) else { panic!() };
    announced.simulcast_codecs = vec![codec("h264", &video), codec("vp8", "")];
    announced.backup_codec_policy = policy.into();
    world.signal(anna, Request::AddTrack(announced.clone()));
    world.signal(anna, offer(DUAL_H264, 1));
    let publisher = world.opened.iter().copied().find(|t| *t != publisher).unwrap();
    let ben = world.join(params("ben", Single)).unwrap();
    let without = SINGLE_START.replace("H264/90000", "other/90000");
    world.signal(ben, offer(&without, 1));
    let subscriber = *world.opened.last().unwrap();
    assert!(world.engine[&subscriber].senders.is_empty(), "there is no copy yet");
    assert_eq!(wanted_codecs(&mut world, anna), [("h264".into(), true), ("vp8".into(), true)]);
    announced.sid = world.track("anna", TrackType::Video);
    TwoCodecs { world, anna, ben, publisher, subscriber, announced }
}

/// Anna sends the copy: a second section in her next offer. Returns its key.
fn send_copy(stage: &mut TwoCodecs) -> TrackKey {
    let TwoCodecs { world, anna, publisher, announced, .. } = stage;
    announced.cid = "copy".to_owned();
    announced.simulcast_codecs = vec![codec("vp8", "copy")];
    world.signal(*anna, Request::AddTrack(announced.clone()));
    let start = DUAL_SIMULCAST.find("m=video").unwrap();
    let end =
        DUAL_SIMULCAST[start + 1..].find("\nm=").map_or(DUAL_SIMULCAST.len(), |at| start + at + 2);
    let copy = DUAL_SIMULCAST[start..end].replace(&cids(DUAL_SIMULCAST).0, "copy");
    let mid = copy.lines().find(|line| line.starts_with("a=mid:")).unwrap().to_owned();
    let with_copy = format!("{}{}", DUAL_H264, copy.replace(&mid, "a=mid:copy"));
    world.signal(*anna, offer(&with_copy, 2));
    assert_eq!(world.me("anna").tracks.len(), 1, "one track for the others");
    let receivers = &world.engine[publisher].receivers;
    receivers.iter().find(|r| r.mid.0 == "copy").unwrap().track
}

#[test]
fn a_copy_in_another_codec_is_sent_while_somebody_needs_it() {
    let mut stage = two_codecs(BackupCodecPolicy::Simulcast);
    let copy = send_copy(&mut stage);
    let TwoCodecs { mut world, anna, ben, subscriber, mut announced, .. } = stage;
    let senders = &world.engine[&subscriber].senders;
    assert_eq!(senders.iter().map(|s| s.track).collect::<Vec<_>>(), [copy]);

    world.signal(ben, Request::Leave(Default::default()));
    world.pass(Duration::from_secs(6));
    assert_eq!(wanted_codecs(&mut world, anna), [("h264".into(), false), ("vp8".into(), false)]);

    announced.simulcast_codecs = vec![codec("av1", "other")];
    announced.cid = "other".to_owned();
    world.signal(anna, Request::AddTrack(announced));
    let refused = world.find(anna, |message| match message {
        Message::RequestResponse(response) => Some(response.reason()),
        _ => None,
    });
    assert_eq!(refused, Some(request_response::Reason::UnsupportedType));
}

#[test]
fn a_publisher_that_regresses_sends_only_the_copy_to_all_who_decode_it() {
    for (policy, crowd, regresses) in [
        (BackupCodecPolicy::Regression, 4, true),
        (BackupCodecPolicy::PreferRegression, 0, true),
        (BackupCodecPolicy::PreferRegression, 4, false),
        (BackupCodecPolicy::Simulcast, 0, false),
    ] {
        let mut stage = two_codecs(policy);
        let (_, _, clara) = enter_dual(&mut stage.world, "clara", None);
        for number in 0..crowd {
            enter_dual(&mut stage.world, &format!("guest {number}"), None);
        }
        let first = stage.world.engine[&clara].senders[0].track;
        let copy = send_copy(&mut stage);
        let TwoCodecs { mut world, anna, .. } = stage;
        let sent = world.engine[&clara].senders[0].track;
        assert_eq!(sent, if regresses { copy } else { first }, "{policy:?} {crowd}");
        world.pass(Duration::from_secs(6));
        let wanted = [("h264".into(), !regresses), ("vp8".into(), true)];
        assert_eq!(wanted_codecs(&mut world, anna), wanted, "{policy:?} {crowd}");
    }
}

#[test]
fn a_publisher_of_sound_in_two_codecs_is_told_which_are_taken() {
    let mut world = World::new();
    microphone(&mut world, |request| {
        request.simulcast_codecs = vec![codec("opus", &request.cid), codec("pcmu", "")];
    });
    let anna = SessionId(2);
    let without = SINGLE_START.replace("opus/48000", "other/48000");
    let ben = world.join(params("ben", Single)).unwrap();
    world.signal(ben, offer(&without, 1));
    let told = world.find(anna, |message| match message {
        Message::SubscribedAudioCodecUpdate(update) => Some(
            update.subscribed_audio_codecs.iter().map(|c| (c.codec.clone(), c.enabled)).collect(),
        ),
        _ => None,
    });
    let expected: Vec<(String, bool)> = vec![("opus".into(), true), ("pcmu".into(), true)];
    assert_eq!(told, Some(expected));
}
