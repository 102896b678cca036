//! The engine between clients in memory.

mod allocations;
mod audibility;
mod copies;
mod key_frames;
mod limits;
mod mirrors;
mod peer;
mod redundancy;
mod runs;
mod siblings;
mod trunk;

use std::time::Duration;

use proptest::prelude::*;

use crate::media::ice::CONSENT_TIMEOUT;
use crate::media::parameters::STATISTICS_INTERVAL;
use crate::media::rtcp::{RtcpMessage, SenderReport, parse, write_nack, write_sender_report};
use crate::media::rtp::HeaderFields;
use crate::media::{
    AudioLevel, Codec, CodecKind, ExtensionIds, MediaCommand, MediaEvent, MediaKind, Mid, Receiver,
    Rid, Sender, SsrcPair, TrackKey, TransportState, VideoQuality,
};

use peer::{Got, ROOM, World};

const TRACK: TrackKey = TrackKey(7);
/// Payload types at the publisher and at the subscriber.
const THEIRS: u8 = 96;
const THEIRS_RTX: u8 = 97;
const OURS: u8 = 106;
const OURS_RTX: u8 = 107;
/// Our sources towards the subscriber.
const SSRC: u32 = 5000;
const RTX_SSRC: u32 = 5001;
/// Extension ids at the publisher.
const MID_ID: u8 = 1;
const RID_ID: u8 = 2;
const REPAIRED_RID_ID: u8 = 3;
const LEVEL_ID: u8 = 4;
const TRANSPORT_ID: u8 = 5;
const KEY: [u8; 3] = [0x10, 0x00, 0xAA];
const DELTA: [u8; 3] = [0x10, 0x01, 0xBB];

fn vp8(payload_type: u8, rtx: u8) -> Codec {
    Codec {
        kind: CodecKind::Vp8,
        payload_type,
        rtx_payload_type: Some(rtx),
        clock_rate: 90_000,
        channels: 1,
        fmtp: String::new(),
        nack: true,
        pli: true,
        transport_cc: true,
        remb: false,
    }
}

fn receiver(rids: &[&str]) -> Receiver {
    Receiver {
        mid: Mid("v".to_owned()),
        track: TRACK,
        kind: MediaKind::Video,
        codecs: vec![vp8(THEIRS, THEIRS_RTX)],
        extensions: ExtensionIds {
            mid: Some(MID_ID),
            rid: Some(RID_ID),
            repaired_rid: Some(REPAIRED_RID_ID),
            transport_cc: Some(TRANSPORT_ID),
            ..ExtensionIds::default()
        },
        rids: rids.iter().map(|rid| Rid((*rid).to_owned())).collect(),
        ssrcs: Vec::new(),
    }
}

fn sender(max_quality: Option<VideoQuality>) -> Sender {
    Sender {
        mid: Mid("0".to_owned()),
        track: TRACK,
        kind: MediaKind::Video,
        ssrc: SsrcPair { ssrc: SSRC, rtx: Some(RTX_SSRC) },
        codecs: vec![vp8(OURS, OURS_RTX)],
        extensions: ExtensionIds::default(),
        max_quality,
        max_frame_rate: None,
        priority: 0,
        may_pause: true,
        playout_delay: None,
    }
}

/// A source of the publisher.
struct Source {
    ssrc: u32,
    payload_type: u8,
    sequence: u16,
    timestamp: u32,
    extensions: Vec<(u8, Vec<u8>)>,
}

impl Source {
    fn new(ssrc: u32, rid: Option<&str>) -> Self {
        let mut extensions = vec![(MID_ID, b"v".to_vec())];
        extensions.extend(rid.map(|rid| (RID_ID, rid.as_bytes().to_vec())));
        let sequence = ssrc as u16;
        Self { ssrc, payload_type: THEIRS, sequence, timestamp: ssrc * 3, extensions }
    }

    /// The next packet's header; the packet may be sent or lost.
    fn next(&mut self) -> HeaderFields {
        self.sequence += 1;
        self.timestamp += 3000;
        HeaderFields {
            marker: true,
            payload_type: self.payload_type,
            sequence: self.sequence,
            timestamp: self.timestamp,
            ssrc: self.ssrc,
        }
    }

    fn send(&mut self, world: &mut World, peer: usize, payload: &[u8]) {
        let fields = self.next();
        let extensions: Vec<(u8, &[u8])> =
            self.extensions.iter().map(|(id, value)| (*id, &value[..])).collect();
        world.send(peer, fields, &extensions, payload);
    }
}

/// A publisher and a subscriber of its track, connected.
fn call(rids: &[&str]) -> (World, usize, usize) {
    let mut world = World::new();
    let (publisher, subscriber) = (world.connect(), world.connect());
    world.set_receivers(publisher, vec![receiver(rids)]);
    world.set_senders(subscriber, vec![sender(Some(VideoQuality::High))]);
    world.events.clear();
    (world, publisher, subscriber)
}

/// What the engine asked a peer for: NACKs and key frames, as (ssrc, sequence or `None`).
fn requests(world: &mut World, peer: usize) -> Vec<(u32, Option<u16>)> {
    let mut found = Vec::new();
    for compound in world.peers[peer].control.drain(..) {
        parse(&compound, |message| match message {
            RtcpMessage::Nack { ssrc, losses } => {
                found.extend(losses.sequences().map(|sequence| (ssrc, Some(sequence))));
            }
            RtcpMessage::KeyFrameRequest { ssrc } => found.push((ssrc, None)),
            RtcpMessage::SenderReport { .. }
            | RtcpMessage::ReceptionReport { .. }
            | RtcpMessage::TransportFeedback(_)
            | RtcpMessage::ReceiverEstimate { .. }
            | RtcpMessage::Goodbye { .. } => {}
        });
    }
    found
}

fn last_bytes(media: &[Got]) -> Vec<u8> {
    media.iter().map(|got| *got.payload.last().unwrap()).collect()
}

fn assert_continuous(media: &[Got]) {
    for pair in media.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1));
        let step = pair[1].timestamp.wrapping_sub(pair[0].timestamp);
        assert!((1..90_000).contains(&step), "timestamps step by {step}");
    }
}

#[test]
fn a_transport_connects_and_dies_without_checks() {
    let mut world = World::new();
    let peer = world.connect();
    let transport = world.peers[peer].id;
    let connected = MediaEvent::Transport { transport, state: TransportState::Connected };
    assert_eq!(world.events, [connected]);
    assert_eq!(world.peers[peer].answers, 1);
    world.advance(CONSENT_TIMEOUT / 2);
    world.check(peer);
    world.advance(CONSENT_TIMEOUT - Duration::from_millis(10));
    assert_eq!(world.events.len(), 1);
    world.advance(Duration::from_millis(20));
    let failed = MediaEvent::Transport { transport, state: TransportState::Failed };
    assert_eq!(world.events[1..], [failed]);
    assert_eq!((world.engine.sizes(), world.engine.poll_timeout()), ((0, 0), None));
    world.check(peer);
    assert_eq!(world.peers[peer].answers, 2);
}

#[test]
fn nothing_is_taken_from_an_address_that_passed_no_check() {
    let (mut world, publisher, subscriber) = call(&[]);
    let dropped = world.engine.counters().dropped;
    let other = world.add();
    world.send_raw(other, vec![22]);
    let mut source = Source::new(1000, None);
    source.send(&mut world, other, &KEY);
    assert_eq!(world.engine.counters().dropped, dropped + 2);
    assert!(world.peers[subscriber].media.is_empty());
    source.send(&mut world, publisher, &KEY);
    assert_eq!(world.peers[subscriber].media.len(), 1);
}

#[test]
fn a_peer_that_moves_is_followed_after_an_ice_restart() {
    let (mut world, publisher, subscriber) = call(&[]);
    let mut source = Source::new(1000, None);
    source.send(&mut world, publisher, &KEY);
    world.restart_ice(subscriber, "restarted");
    source.send(&mut world, publisher, &DELTA);
    assert_eq!(world.peers[subscriber].media.len(), 2);
    world.peers[subscriber].path = crate::media::ice::Path::Udp(([192, 0, 2, 9], 9).into());
    world.check(subscriber);
    source.send(&mut world, publisher, &DELTA);
    assert_eq!(world.peers[subscriber].media.len(), 3);
}

#[test]
fn a_published_track_reaches_its_subscriber_from_a_key_frame_on() {
    let (mut world, publisher, subscriber) = call(&[]);
    let mut source = Source::new(1000, None);
    source.send(&mut world, publisher, &DELTA);
    assert!(world.peers[subscriber].media.is_empty());
    world.advance(Duration::from_millis(10));
    assert_eq!(requests(&mut world, publisher), [(1000, None)]);
    for payload in [KEY, DELTA, DELTA] {
        source.send(&mut world, publisher, &payload);
    }
    let media = &world.peers[subscriber].media;
    assert_eq!(last_bytes(media), [0xAA, 0xBB, 0xBB]);
    assert!(media.iter().all(|got| (got.ssrc, got.payload_type) == (SSRC, OURS)));
    assert_continuous(media);
    let transport = world.peers[subscriber].id;
    assert_eq!(
        world.events,
        [
            MediaEvent::LayerActive { track: TRACK, layer: 0, ssrc: 1000, codec: CodecKind::Vp8 },
            MediaEvent::ForwardingStarted { transport, track: TRACK },
        ]
    );
}

#[test]
fn a_lost_packet_is_sent_again_on_the_retransmission_stream() {
    let (mut world, publisher, subscriber) = call(&[]);
    let mut source = Source::new(1000, None);
    for payload in [KEY, [0x10, 0x01, 0xCC], DELTA] {
        source.send(&mut world, publisher, &payload);
    }
    let lost = world.peers[subscriber].media[1].clone();
    let mut nack = Vec::new();
    write_nack(&mut nack, 1, SSRC, &[lost.sequence]);
    world.send_control(subscriber, nack);
    let again = world.peers[subscriber].media[3].clone();
    assert_eq!((again.ssrc, again.payload_type), (RTX_SSRC, OURS_RTX));
    assert_eq!(again.timestamp, lost.timestamp);
    assert_eq!(again.payload[..2], lost.sequence.to_be_bytes());
    assert_eq!(again.payload[2..], lost.payload);
    assert_eq!(world.engine.counters().retransmitted, 1);

    let mut unknown = Vec::new();
    write_nack(&mut unknown, 1, SSRC, &[lost.sequence.wrapping_sub(100)]);
    world.send_control(subscriber, unknown);
    assert_eq!(world.peers[subscriber].media.len(), 4);
}

#[test]
fn a_hole_is_asked_of_the_publisher_and_its_repair_forwarded() {
    let (mut world, publisher, subscriber) = call(&["q"]);
    let mut source = Source::new(1000, Some("q"));
    source.send(&mut world, publisher, &KEY);
    let lost = source.next();
    source.send(&mut world, publisher, &DELTA);
    world.advance(Duration::from_millis(20));
    assert_eq!(requests(&mut world, publisher), [(1000, Some(lost.sequence))]);

    let mut repair = lost.sequence.to_be_bytes().to_vec();
    repair.extend_from_slice(&[0x10, 0x01, 0xCC]);
    let fields = HeaderFields { ssrc: 1001, payload_type: THEIRS_RTX, sequence: 1, ..lost };
    world.send(publisher, fields, &[(MID_ID, b"v"), (REPAIRED_RID_ID, b"q")], &repair);
    let media = &world.peers[subscriber].media;
    assert_eq!(last_bytes(media), [0xAA, 0xBB, 0xCC]);
    assert_eq!(media[2].sequence, media[0].sequence.wrapping_add(1));
    world.advance(Duration::from_millis(200));
    assert_eq!(requests(&mut world, publisher), []);
}

#[test]
fn layers_are_switched_at_key_frames_without_a_gap() {
    let (mut world, publisher, subscriber) = call(&["q", "h", "f"]);
    let mut low = Source::new(1000, Some("q"));
    let mut high = Source::new(3000, Some("f"));
    low.send(&mut world, publisher, &[0x10, 0x00, 1]);
    low.send(&mut world, publisher, &[0x10, 0x01, 2]);

    // The best layer appears: it is asked for a key frame and taken from there on.
    high.send(&mut world, publisher, &[0x10, 0x01, 10]);
    world.advance(Duration::from_millis(30));
    assert_eq!(requests(&mut world, publisher), [(3000, None)]);
    low.send(&mut world, publisher, &[0x10, 0x01, 3]);
    high.send(&mut world, publisher, &[0x10, 0x00, 11]);
    low.send(&mut world, publisher, &[0x10, 0x01, 4]);
    high.send(&mut world, publisher, &[0x10, 0x01, 12]);

    // The subscriber wants less: the high layer goes on until the low one has a key frame.
    world.set_senders(subscriber, vec![sender(Some(VideoQuality::Low))]);
    world.advance(Duration::from_secs(1));
    assert!(requests(&mut world, publisher).contains(&(1000, None)));
    high.send(&mut world, publisher, &[0x10, 0x01, 13]);
    low.send(&mut world, publisher, &[0x10, 0x00, 5]);
    high.send(&mut world, publisher, &[0x10, 0x01, 14]);

    // And nothing while paused.
    world.set_senders(subscriber, vec![sender(None)]);
    low.send(&mut world, publisher, &[0x10, 0x00, 6]);
    world.set_senders(subscriber, vec![sender(Some(VideoQuality::Low))]);
    low.send(&mut world, publisher, &[0x10, 0x01, 7]);
    low.send(&mut world, publisher, &[0x10, 0x00, 8]);

    let media = &world.peers[subscriber].media;
    assert_eq!(last_bytes(media), [1, 2, 3, 11, 12, 13, 5, 8]);
    for pair in media.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1));
        assert!(pair[1].timestamp.wrapping_sub(pair[0].timestamp) < 1 << 31);
    }
}

#[test]
fn a_publisher_gets_transport_wide_feedback_and_reports() {
    let (mut world, publisher, _) = call(&[]);
    let mut source = Source::new(1000, None);
    for sequence in 0..4u16 {
        let fields = source.next();
        let sequence = sequence.to_be_bytes();
        world.send(publisher, fields, &[(MID_ID, b"v"), (TRANSPORT_ID, &sequence)], &KEY);
    }
    world.advance(Duration::from_millis(1100));
    let mut kinds = Vec::new();
    for compound in &world.peers[publisher].control {
        let mut at = 0;
        while at < compound.len() {
            kinds.push((compound[at + 1], compound[at] & 0x1F));
            at += 4 + 4 * usize::from(u16::from_be_bytes([compound[at + 2], compound[at + 3]]));
        }
    }
    assert!(kinds.contains(&(205, 15)), "no transport-wide feedback in {kinds:?}");
    assert!(kinds.contains(&(201, 1)), "no receiver report with a block in {kinds:?}");
}

#[test]
fn the_loudness_of_audio_is_reported() {
    let (mut world, publisher, _) = call(&[]);
    let opus = Codec {
        kind: CodecKind::Opus,
        payload_type: 111,
        rtx_payload_type: None,
        clock_rate: 48_000,
        channels: 2,
        nack: false,
        pli: false,
        ..vp8(0, 0)
    };
    let extensions = ExtensionIds { audio_level: Some(LEVEL_ID), ..ExtensionIds::default() };
    let audio =
        Receiver { kind: MediaKind::Audio, codecs: vec![opus], extensions, ..receiver(&[]) };
    world.set_receivers(publisher, vec![audio]);
    let mut source = Source { payload_type: 111, ..Source::new(1000, None) };
    for level in [0x80 | 20, 90, 60, 0x80 | 34] {
        source.extensions = vec![(LEVEL_ID, vec![level])];
        source.send(&mut world, publisher, b"sound");
    }
    world.advance(Duration::from_millis(2000));
    let loud = AudioLevel { loudest_dbov: 20, active_percent: 50 };
    let silent = AudioLevel { loudest_dbov: 127, active_percent: 0 };
    let levels: Vec<_> =
        world.events.iter().filter(|event| matches!(event, MediaEvent::AudioLevels(_))).collect();
    // Silence is told once.
    let expected = [loud, silent].map(|level| MediaEvent::AudioLevels(vec![(TRACK, level)]));
    assert_eq!(levels, [&expected[0], &expected[1]]);
}

#[test]
fn a_peer_that_keeps_quiet_for_longer_than_peers_do_is_silent() {
    let (mut world, publisher, _) = call(&[]);
    Source::new(1000, None).send(&mut world, publisher, &KEY);
    let mut silent = Vec::new();
    for _ in 0..3 {
        world.advance(STATISTICS_INTERVAL);
        let transport = world.peers[publisher].id;
        silent.extend(world.events.drain(..).filter_map(|event| match event {
            MediaEvent::Statistics(told) if told.transport == transport => Some(told.is_silent),
            _ => None,
        }));
    }
    assert_eq!(silent, [false, true, true]);
}

#[test]
fn a_track_moves_to_another_transport_and_survives_the_end_of_the_old_one() {
    let (mut world, publisher, subscriber) = call(&[]);
    Source::new(1000, None).send(&mut world, publisher, &KEY);
    let second = world.connect();
    world.set_receivers(second, vec![receiver(&[])]);
    world.hang_up(publisher);
    let failed = TransportState::Failed;
    let transport = world.peers[publisher].id;
    assert!(world.events.contains(&MediaEvent::Transport { transport, state: failed }));
    let mut source = Source::new(2000, None);
    source.send(&mut world, second, &KEY);
    source.send(&mut world, second, &DELTA);
    assert_eq!(last_bytes(&world.peers[subscriber].media), [0xAA, 0xAA, 0xBB]);
    assert_continuous(&world.peers[subscriber].media[1..]);
}

#[test]
fn a_subscriber_is_told_the_publishers_clock_in_its_own_ticks() {
    let (mut world, publisher, subscriber) = call(&[]);
    let mut source = Source::new(1000, None);
    source.send(&mut world, publisher, &KEY);
    let ntp = 5u64 << 32;
    let rtp_timestamp = source.timestamp;
    let report = SenderReport { ssrc: 1000, ntp, rtp_timestamp, packets: 1, octets: 1 };
    let mut compound = Vec::new();
    write_sender_report(&mut compound, &report, "publisher");
    world.send_control(publisher, compound);
    world.advance(Duration::from_secs(2));
    let sent = world.peers[subscriber].media[0].timestamp;
    let mut told = Vec::new();
    for compound in &world.peers[subscriber].control {
        parse(compound, |message| {
            if let RtcpMessage::SenderReport { ssrc: SSRC, ntp, rtp_timestamp } = message {
                told.push((ntp, rtp_timestamp));
            }
        });
    }
    let (told_ntp, told_timestamp) = told[0];
    let seconds = (told_ntp - ntp) as f64 / (1u64 << 32) as f64;
    let ticks = f64::from(told_timestamp.wrapping_sub(sent));
    assert!((ticks - seconds * 90_000.0).abs() < 2.0, "{seconds} s are {ticks} ticks");
}

#[test]
fn a_closed_room_leaves_nothing() {
    let (mut world, publisher, _) = call(&["q"]);
    Source::new(1000, Some("q")).send(&mut world, publisher, &KEY);
    world.engine.close_room(ROOM);
    assert_eq!(world.engine.sizes(), (0, 0));
    assert!(world.engine.by_ufrag.is_empty() && world.engine.by_path.is_empty());
    assert!(world.engine.tracks.is_empty() && world.engine.by_id.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Commands in any order, media and ends of transports between them: no table may point to
    /// what is gone.
    #[test]
    fn any_order_of_commands_is_survived(
        steps in prop::collection::vec((0u8..8, 0usize..4, 0usize..4), 1..60)
    ) {
        let mut world = World::new();
        for _ in 0..4 {
            world.connect();
        }
        let mut sources: Vec<Source> =
            (0..4).map(|peer| Source::new(1000 * (peer + 1), Some("q"))).collect();
        for (step, peer, other) in steps {
            let track = TrackKey(other as u64);
            let transport = world.peers[peer].id;
            match step {
                0 => {
                    let receiver = Receiver { track, ..receiver(&["q", "h"]) };
                    world.set_receivers(peer, vec![receiver]);
                }
                1 => world.set_receivers(peer, Vec::new()),
                2 => {
                    let sender = Sender { track, ..sender(Some(VideoQuality::High)) };
                    world.set_senders(peer, vec![sender]);
                }
                3 => world.set_senders(peer, Vec::new()),
                4 => world.command(MediaCommand::CloseTransport { transport }),
                5 => world.advance(Duration::from_millis(100)),
                _ => sources[peer].send(&mut world, peer, &KEY),
            }
        }
        world.advance(CONSENT_TIMEOUT + Duration::from_secs(1));
        prop_assert_eq!(world.engine.sizes(), (0, 0));
    }

    #[test]
    fn random_datagrams_never_panic(
        datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..20)
    ) {
        let (mut world, publisher, _) = call(&["q"]);
        for datagram in datagrams {
            world.send_raw(publisher, datagram);
        }
    }
}
