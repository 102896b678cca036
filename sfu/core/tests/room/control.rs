//! What subscribers ask for, what publishers are told of it, and how connections do.

use std::time::Duration;

use contract::sfu_config::RoomConfig;
use livekit_protocol::signal_request::Message as Request;
use livekit_protocol::signal_response::Message;
use livekit_protocol::{
    ConnectionQuality, SubscriptionError, TrackType, UpdateSubscription, UpdateTrackSettings,
    VideoLayer,
};
use sfu_core::media::{
    MediaEvent, MediaKind, Sender, StreamStatistics, TrackKey, TransportId, TransportState,
    TransportStatistics, VideoQuality,
};
use sfu_core::room::SessionId;
use sfu_core::signal::join::PeerConnectionMode::Single;

use crate::client::*;

fn video_sender(world: &World, transport: TransportId) -> Sender {
    let senders = &world.engine[&transport].senders;
    senders.iter().find(|s| s.kind == MediaKind::Video).unwrap().clone()
}

fn video_track(world: &World, publisher: TransportId) -> TrackKey {
    let receivers = &world.engine[&publisher].receivers;
    receivers.iter().find(|r| r.kind == MediaKind::Video).unwrap().track
}

fn settings(sid: &str, change: impl FnOnce(&mut UpdateTrackSettings)) -> Request {
    let mut settings = UpdateTrackSettings {
        track_sids: vec![sid.to_owned()],
        quality: 2,
        ..UpdateTrackSettings::default()
    };
    change(&mut settings);
    Request::TrackSetting(settings)
}

/// Layers that a publisher was told to send, each time it was told.
fn demands(world: &mut World, session: SessionId) -> Vec<Vec<bool>> {
    world.take_all(session, |message| match message {
        Message::SubscribedQualityUpdate(update) => {
            assert_eq!(update.subscribed_codecs.len(), 1);
            assert_eq!(update.subscribed_codecs[0].codec, "vp8");
            let qualities = &update.subscribed_codecs[0].qualities;
            Some(qualities.iter().map(|quality| quality.enabled).collect())
        }
        _ => None,
    })
}

#[test]
fn frame_rate_and_priority_reach_the_sender() {
    let mut world = World::new();
    enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let (ben, _, subscriber) = enter_dual(&mut world, "ben", None);
    let sid = world.track("anna", TrackType::Video);
    world.signal(
        ben,
        settings(&sid, |s| {
            s.fps = 15;
            s.priority = 3;
        }),
    );
    let sender = video_sender(&world, subscriber);
    assert_eq!((sender.max_frame_rate, sender.priority), (Some(15), 3));
    world.signal(ben, settings(&sid, |_| {}));
    let sender = video_sender(&world, subscriber);
    assert_eq!((sender.max_frame_rate, sender.priority), (None, 0));
}

#[test]
fn an_adaptive_client_begins_with_the_lowest_layer() {
    let mut world = World::new();
    enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let mut joining = params("ben", Single);
    joining.adaptive_stream = true;
    let ben = world.join(joining).unwrap();
    world.signal(ben, offer(SINGLE_START, 1));
    let transport = *world.opened.last().unwrap();
    assert_eq!(video_sender(&world, transport).max_quality, Some(VideoQuality::Low));
    let sid = world.track("anna", TrackType::Video);
    world.signal(ben, settings(&sid, |_| {}));
    assert_eq!(video_sender(&world, transport).max_quality, Some(VideoQuality::High));
}

#[test]
fn the_shown_size_chooses_the_layer() {
    let mut world = World::new();
    let (anna, _, _) = enter_dual(&mut world, "anna", None);
    let (video, _) = cids(DUAL_SIMULCAST);
    let Request::AddTrack(mut announced) = add_track(&video, TrackType::Video) else { panic!() };
    announced.layers = [(320, 180), (640, 360), (1280, 720)]
        .into_iter()
        .enumerate()
        .map(|(quality, (width, height))| VideoLayer {
            quality: i32::try_from(quality).unwrap(),
            width,
            height,
            ..VideoLayer::default()
        })
        .collect();
    world.signal(anna, Request::AddTrack(announced));
    world.signal(anna, offer(DUAL_SIMULCAST, 1));
    let (ben, _, subscriber) = enter_dual(&mut world, "ben", None);
    let sid = world.track("anna", TrackType::Video);
    let cases = [
        ((100, 100), Some(VideoQuality::Low)),
        ((320, 180), Some(VideoQuality::Low)),
        ((321, 180), Some(VideoQuality::Medium)),
        ((640, 400), Some(VideoQuality::High)),
        ((4000, 2000), Some(VideoQuality::High)),
    ];
    for ((width, height), expected) in cases {
        world.signal(
            ben,
            settings(&sid, |s| {
                s.width = width;
                s.height = height;
            }),
        );
        assert_eq!(video_sender(&world, subscriber).max_quality, expected, "{width}×{height}");
    }
    world.signal(ben, settings(&sid, |s| s.disabled = true));
    assert_eq!(video_sender(&world, subscriber).max_quality, None);
}

#[test]
fn publishers_raise_layers_at_once_and_lower_them_later() {
    let mut world = World::new();
    let (anna, ..) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let (ben, ..) = enter_dual(&mut world, "ben", None);
    let (carl, ..) = enter_dual(&mut world, "carl", None);
    let sid = world.track("anna", TrackType::Video);
    world.take(anna);

    world.signal(ben, settings(&sid, |s| s.quality = 0));
    world.signal(carl, settings(&sid, |s| s.quality = 1));
    world.pass(Duration::from_secs(4));
    assert!(demands(&mut world, anna).is_empty(), "lowered too early");
    world.pass(Duration::from_secs(2));
    assert_eq!(demands(&mut world, anna), [[true, true, false]], "the best of both");

    world.signal(ben, settings(&sid, |_| {}));
    assert_eq!(demands(&mut world, anna), [[true, true, true]]);

    world.signal(ben, settings(&sid, |s| s.disabled = true));
    world.signal(carl, Request::Leave(Default::default()));
    world.pass(Duration::from_secs(3));
    // Somebody is back in time: nothing was lowered, so nothing is told.
    world.signal(ben, settings(&sid, |_| {}));
    world.pass(Duration::from_secs(6));
    assert!(demands(&mut world, anna).is_empty());
    world.signal(ben, settings(&sid, |s| s.disabled = true));
    world.pass(Duration::from_secs(6));
    assert_eq!(demands(&mut world, anna), [[false, false, false]]);
}

#[test]
fn a_track_that_nobody_takes_is_paused() {
    let mut world = World::new();
    let (anna, ..) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    world.pass(Duration::from_secs(6));
    assert_eq!(demands(&mut world, anna), [[false, false, false]]);
    enter_dual(&mut world, "ben", None);
    assert_eq!(demands(&mut world, anna), [[true, true, true]]);
}

#[test]
fn a_subscriber_is_told_that_a_track_rests() {
    let mut world = World::new();
    let (_, publisher, _) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let (ben, _, subscriber) = enter_dual(&mut world, "ben", None);
    let (carl, ..) = enter_dual(&mut world, "carl", None);
    let track = video_track(&world, publisher);
    world.take(ben);
    world.take(carl);
    for is_paused in [true, false] {
        world.media(MediaEvent::StreamState { transport: subscriber, track, is_paused });
    }
    let states = |message| match message {
        Message::StreamStateUpdate(update) => Some(update.stream_states),
        _ => None,
    };
    let told = world.take_all(ben, states).concat();
    assert_eq!(told.iter().map(|info| info.state).collect::<Vec<_>>(), [1, 0]);
    assert_eq!(told[0].track_sid, world.track("anna", TrackType::Video));
    assert_eq!(told[0].participant_sid, world.me("anna").sid);
    assert!(world.take_all(carl, states).is_empty());
}

fn statistics(world: &mut World, transport: TransportId, track: TrackKey, lost: u64, layer: u8) {
    let stream = StreamStatistics { track, packets: 1000, bytes: 1, lost, jitter_ms: 0.0, layer };
    let is_received = world.engine[&transport].receivers.iter().any(|r| r.track == track);
    let (received, sent) =
        if is_received { (vec![stream], Vec::new()) } else { (Vec::new(), vec![stream]) };
    let round_trip = Some(Duration::from_millis(20));
    measured(
        world,
        TransportStatistics {
            transport,
            round_trip,
            estimate: None,
            is_silent: false,
            received,
            sent,
        },
    );
}

fn measured(world: &mut World, statistics: TransportStatistics) {
    world.media(MediaEvent::Statistics(statistics));
    world.pass(Duration::from_secs(1));
}

fn qualities(world: &mut World, session: SessionId) -> Vec<(String, ConnectionQuality)> {
    let updates = world.take_all(session, |message| match message {
        Message::ConnectionQuality(update) => Some(update.updates),
        _ => None,
    });
    updates
        .concat()
        .into_iter()
        .map(|info| (info.participant_sid.clone(), info.quality()))
        .collect()
}

#[test]
fn quality_follows_what_is_measured_and_is_told_when_it_changes() {
    let mut world = World::new();
    let (anna, publisher, _) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let (ben, _, subscriber) = enter_dual(&mut world, "ben", None);
    let track = video_track(&world, publisher);
    let (anna_sid, ben_sid) = (world.me("anna").sid, world.me("ben").sid);
    world.pass(Duration::from_secs(1));
    world.take(anna);
    world.take(ben);

    statistics(&mut world, publisher, track, 0, 2);
    assert!(qualities(&mut world, ben).is_empty(), "excellent as before");
    statistics(&mut world, publisher, track, 100, 2);
    assert_eq!(qualities(&mut world, ben), [(anna_sid.clone(), ConnectionQuality::Poor)]);
    assert_eq!(qualities(&mut world, anna), [(anna_sid, ConnectionQuality::Poor)]);

    // The subscriber wants the best layer and gets the lowest.
    statistics(&mut world, subscriber, track, 0, 0);
    assert_eq!(qualities(&mut world, ben), [(ben_sid.clone(), ConnectionQuality::Good)]);
    world.media(MediaEvent::Transport { transport: subscriber, state: TransportState::Failed });
    world.pass(Duration::from_secs(1));
    assert_eq!(qualities(&mut world, ben), [(ben_sid, ConnectionQuality::Lost)]);
}

#[test]
fn who_is_not_heard_is_poor_and_then_lost_until_something_comes() {
    let mut world = World::new();
    let (_, publisher, _) = enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    let (ben, ..) = enter_dual(&mut world, "ben", None);
    let track = video_track(&world, publisher);
    let anna = world.me("anna").sid;
    statistics(&mut world, publisher, track, 0, 2);
    world.pass(Duration::from_secs(1));
    world.take(ben);
    let nothing = |is_silent| TransportStatistics {
        transport: publisher,
        round_trip: None,
        estimate: None,
        is_silent,
        received: Vec::new(),
        sent: Vec::new(),
    };
    measured(&mut world, nothing(false));
    assert_eq!(qualities(&mut world, ben), [(anna.clone(), ConnectionQuality::Poor)]);
    measured(&mut world, nothing(true));
    assert_eq!(qualities(&mut world, ben), [(anna.clone(), ConnectionQuality::Lost)]);
    statistics(&mut world, publisher, track, 0, 2);
    assert_eq!(qualities(&mut world, ben), [(anna, ConnectionQuality::Good)]);
}

#[test]
fn a_crowd_that_joins_makes_few_messages() {
    let mut world = World::new();
    enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    for number in 0..300 {
        enter_single(&mut world, &format!("guest{number}"), SINGLE_START);
        world.pass(Duration::from_millis(20));
    }
    world.pass(Duration::from_secs(4));
    let sent: usize = world.inbox.values().map(Vec::len).sum();
    // A message for each pair would be 45 000 of every kind.
    assert!(sent < 20_000, "{sent} messages");
    assert_eq!(world.room.counts().subscriptions, 600);
}

#[test]
fn more_tracks_than_the_limit_wait_by_priority() {
    let config = RoomConfig { subscription_limit_video: 1, ..RoomConfig::default() };
    let mut world = World::with_config(config);
    for name in ["anna", "carl"] {
        enter_dual(&mut world, name, Some(DUAL_SIMULCAST));
    }
    let (ben, _, subscriber) = enter_dual(&mut world, "ben", None);
    let kinds = |world: &World, kind| {
        world.engine[&subscriber].senders.iter().filter(|s| s.kind == kind).count()
    };
    assert_eq!(kinds(&world, MediaKind::Video), 1);
    assert_eq!(kinds(&world, MediaKind::Audio), 2);
    let first = video_sender(&world, subscriber).track;
    let sids = [world.track("anna", TrackType::Video), world.track("carl", TrackType::Video)];
    let waiting = sids.iter().find(|sid| {
        let session = world.me(if **sid == sids[0] { "anna" } else { "carl" }).sid;
        let shown = world.find(ben, |m| match m {
            Message::Offer(offer) => Some(offer.sdp.contains(&format!("{session}|{sid}"))),
            _ => None,
        });
        shown == Some(false)
    });
    let waiting = waiting.unwrap().clone();
    world.signal(ben, settings(&waiting, |s| s.priority = 1));
    for _ in 0..2 {
        world.settle();
        accept(&mut world, ben);
    }
    assert_eq!(kinds(&world, MediaKind::Video), 1);
    assert_ne!(video_sender(&world, subscriber).track, first);
}

#[test]
fn a_track_that_the_client_cannot_decode_fails_once() {
    let mut world = World::new();
    enter_dual(&mut world, "anna", Some(DUAL_H264));
    let session = world.join(params("ben", Single));
    let session = session.unwrap();
    let without = SINGLE_START.replace("H264/90000", "other/90000");
    world.signal(session, offer(&without, 1));
    let errors = |message| match message {
        Message::SubscriptionResponse(response) => {
            Some((response.track_sid.clone(), response.err()))
        }
        _ => None,
    };
    let expected = (world.track("anna", TrackType::Video), SubscriptionError::SeCodecUnsupported);
    assert_eq!(world.take_all(session, errors), [expected]);
    world.pass(Duration::from_secs(20));
    world.signal(session, offer(&without, 2));
    assert!(world.take_all(session, errors).is_empty());
    assert_eq!(world.room.counts().subscriptions, 1, "the sound is forwarded");
}

#[test]
fn unknown_tracks_are_named_in_the_refusal() {
    let mut world = World::new();
    let (ben, ..) = enter_dual(&mut world, "ben", None);
    let update = UpdateSubscription {
        track_sids: vec!["TR_none".to_owned()],
        subscribe: true,
        ..UpdateSubscription::default()
    };
    world.signal(ben, Request::Subscription(update));
    let error = world.find(ben, |message| match message {
        Message::SubscriptionResponse(r) => Some((r.track_sid.clone(), r.err())),
        _ => None,
    });
    assert_eq!(error, Some(("TR_none".to_owned(), SubscriptionError::SeTrackNotfound)));
}

#[test]
fn an_audience_is_announced_in_one_message() {
    let mut world = World::new();
    let mut first = None;
    for number in 0..30 {
        let session = world.join(params(&format!("guest{number}"), Single)).unwrap();
        first.get_or_insert(session);
    }
    let first = first.unwrap();
    world.take(first);
    for number in 30..40 {
        world.join(params(&format!("guest{number}"), Single)).unwrap();
    }
    let updates = |message| match message {
        Message::Update(update) => Some(update.participants.len()),
        _ => None,
    };
    assert!(world.take_all(first, updates).is_empty());
    world.pass(Duration::from_secs(1));
    let told = world.take_all(first, updates);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0] >= 10);
    // Who publishes is announced at once.
    enter_dual(&mut world, "anna", Some(DUAL_SIMULCAST));
    assert!(!world.take_all(first, updates).is_empty());
}
