//! What leaves together in one segmented send, and what of it is to be told of.

use super::*;
use crate::media::rtp::RtpHeader;

/// A packet reaches the engine, which does not send yet.
fn receive(world: &mut World, publisher: usize, fields: HeaderFields, payload: &[u8]) {
    let mut packet = world.seal(publisher, fields, &[(MID_ID, b"v")], payload);
    let path = world.peers[publisher].path;
    world.engine.handle_datagram(path, &mut packet, world.now);
}

/// The engine sends, and the subscriber takes it: bytes of each run and the size of its datagrams.
fn send(world: &mut World, subscriber: usize) -> Vec<(usize, usize)> {
    let (mut found, mut datagrams) = (Vec::new(), Vec::new());
    world.engine.flush(|_, bytes, size| {
        found.push((bytes.len(), size));
        datagrams.extend(bytes.chunks(size).map(<[u8]>::to_vec));
    });
    for datagram in datagrams {
        world.peers[subscriber].take(&datagram);
    }
    found
}

/// Sizes of payloads that reach the engine before it sends, and what leaves: bytes of each run and
/// the size of its datagrams.
fn runs(sizes: &[usize], rtx: Option<u32>) -> (World, usize, Vec<(usize, usize)>) {
    let (mut world, publisher, subscriber) = call(&[]);
    let ssrc = SsrcPair { ssrc: SSRC, rtx };
    world.set_senders(subscriber, vec![Sender { ssrc, ..sender(Some(VideoQuality::High)) }]);
    let mut source = Source::new(1000, None);
    source.send(&mut world, publisher, &KEY);
    world.peers[subscriber].media.clear();
    for (number, size) in sizes.iter().enumerate() {
        let fields = source.next();
        let mut payload = DELTA.to_vec();
        payload.resize(*size, number as u8);
        receive(&mut world, publisher, fields, &payload);
    }
    let found = send(&mut world, subscriber);
    (world, subscriber, found)
}

#[test]
fn packets_of_a_picture_that_differ_by_little_leave_in_one_run() {
    let sizes = [1100, 1100, 1099, 1060, 1099, 700];
    let (world, subscriber, found) = runs(&sizes, Some(RTX_SSRC));
    // 12 bytes of header, 16 of tag; only the last may be shorter.
    assert_eq!(found, [(5 * 1128 + 728, 1128)]);
    let media = &world.peers[subscriber].media;
    let payloads: Vec<usize> = media.iter().map(|got| got.payload.len()).collect();
    assert_eq!(payloads, sizes, "padding is not payload");
    assert_eq!(last_bytes(media), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_packet_that_is_much_smaller_ends_a_run() {
    let (_, _, found) = runs(&[1100, 1000, 1000], Some(RTX_SSRC));
    assert_eq!(found, [(1128 + 1028, 1128), (1028, 1028)]);
}

#[test]
fn what_may_be_sent_again_under_the_same_number_has_the_same_bytes() {
    let (_, _, found) = runs(&[1100, 1099, 1099], None);
    assert_eq!(found, [(1128 + 1127, 1128), (1127, 1127)]);
}

const SOUND: TrackKey = TrackKey(8);

fn opus() -> Codec {
    Codec {
        kind: CodecKind::Opus,
        payload_type: 111,
        rtx_payload_type: None,
        clock_rate: 48_000,
        channels: 2,
        ..vp8(0, 0)
    }
}

/// A publisher's sound.
fn microphone(track: TrackKey) -> Receiver {
    Receiver { track, kind: MediaKind::Audio, codecs: vec![opus()], ..receiver(&[]) }
}

/// The same at a subscriber.
fn speaker(track: TrackKey) -> Sender {
    Sender {
        mid: Mid(format!("sound {}", track.0)),
        track,
        kind: MediaKind::Audio,
        ssrc: SsrcPair { ssrc: 6000 + track.0 as u32, rtx: None },
        codecs: vec![opus()],
        ..sender(Some(VideoQuality::High))
    }
}

/// Sizes of payloads of as many speakers that reach the engine before it sends, and what leaves.
fn voices(sizes: &[usize]) -> (Vec<usize>, Vec<(usize, usize)>) {
    let mut world = World::new();
    let subscriber = world.connect();
    let speakers: Vec<_> = sizes.iter().map(|_| world.connect()).collect();
    let track = |number: usize| TrackKey(SOUND.0 + number as u64);
    for (number, speaker) in speakers.iter().enumerate() {
        world.set_receivers(*speaker, vec![microphone(track(number))]);
    }
    let senders = (0..sizes.len()).map(|number| speaker(track(number))).collect();
    world.set_senders(subscriber, senders);
    for (speaker, size) in speakers.iter().zip(sizes) {
        let mut source = Source { payload_type: 111, ..Source::new(1000, None) };
        let fields = source.next();
        receive(&mut world, *speaker, fields, &vec![1; *size]);
    }
    let found = send(&mut world, subscriber);
    let media = &world.peers[subscriber].media;
    (media.iter().map(|got| got.payload.len()).collect(), found)
}

#[test]
fn voices_at_the_same_moment_leave_in_one_run() {
    let sizes = [70, 96, 64, 80, 60];
    let (payloads, found) = voices(&sizes);
    // 12 bytes of header, 16 of tag; as large as the largest but the last.
    assert_eq!(found, [(4 * 124 + 88, 124)]);
    assert_eq!(payloads, sizes, "padding is not payload");
}

#[test]
fn silence_is_not_padded_to_the_size_of_speech() {
    let (_, found) = voices(&[3, 90, 90]);
    assert_eq!(found, [(31, 31), (2 * 118, 118)]);
}

#[test]
fn a_voice_alone_is_not_padded() {
    assert_eq!(voices(&[70]).1, [(98, 98)]);
}

#[test]
fn who_gets_only_sound_is_not_asked_to_tell_when_it_came() {
    let extensions = ExtensionIds { transport_cc: Some(TRANSPORT_ID), ..ExtensionIds::default() };
    let audio = Sender { extensions, ..speaker(SOUND) };
    let mut world = World::new();
    let (publisher, subscriber) = (world.connect(), world.connect());
    world.set_receivers(publisher, vec![microphone(SOUND)]);
    let mut source = Source { payload_type: 111, ..Source::new(1000, None) };
    let paused = Sender { extensions, ..sender(None) };
    for (senders, is_told) in [(vec![audio.clone()], false), (vec![audio, paused], true)] {
        world.set_senders(subscriber, senders);
        let fields = source.next();
        receive(&mut world, publisher, fields, b"sound");
        let mut told = Vec::new();
        world.engine.flush(|_, bytes, _| {
            let header = RtpHeader::parse(bytes).unwrap();
            told.push(header.extension(bytes, Some(TRANSPORT_ID)).is_some());
        });
        assert_eq!(told, [is_told]);
    }
}
