//! Only the loudest tracks of a room.

use super::*;

const VOICES: usize = 4;

fn opus() -> Codec {
    Codec {
        kind: CodecKind::Opus,
        payload_type: 111,
        rtx_payload_type: None,
        clock_rate: 48_000,
        channels: 2,
        nack: false,
        pli: false,
        ..vp8(0, 0)
    }
}

/// Publishers of audio and one subscriber of all of them.
fn choir(limit: Option<usize>) -> (World, Vec<usize>, usize) {
    let mut world = World::new();
    world.engine.set_audio_limit(ROOM, limit);
    let publishers: Vec<usize> = (0..VOICES).map(|_| world.connect()).collect();
    let track = |voice: usize| TrackKey(voice as u64);
    for (voice, publisher) in publishers.iter().enumerate() {
        let extensions = ExtensionIds { audio_level: Some(LEVEL_ID), ..ExtensionIds::default() };
        let audio = Receiver {
            kind: MediaKind::Audio,
            track: track(voice),
            codecs: vec![opus()],
            extensions,
            ..receiver(&[])
        };
        world.set_receivers(*publisher, vec![audio]);
    }
    let subscriber = world.connect();
    let senders = (0..VOICES).map(|voice| Sender {
        kind: MediaKind::Audio,
        track: track(voice),
        ssrc: SsrcPair { ssrc: SSRC + voice as u32, rtx: None },
        codecs: vec![opus()],
        ..sender(Some(VideoQuality::High))
    });
    world.set_senders(subscriber, senders.collect());
    (world, publishers, subscriber)
}

/// Everybody speaks at a level (dB below overload) for a second; packets that came of each.
fn speak(
    world: &mut World,
    publishers: &[usize],
    sources: &mut [Source],
    levels: [u8; VOICES],
    subscriber: usize,
) -> [usize; VOICES] {
    world.peers[subscriber].media.clear();
    for _ in 0..50 {
        for (voice, source) in sources.iter_mut().enumerate() {
            source.extensions = vec![(LEVEL_ID, vec![levels[voice]])];
            source.send(world, publishers[voice], b"sound");
        }
        world.advance(Duration::from_millis(20));
    }
    let media = &world.peers[subscriber].media;
    std::array::from_fn(|voice| media.iter().filter(|got| got.ssrc == SSRC + voice as u32).count())
}

fn sources() -> Vec<Source> {
    let source = |voice: u32| Source { payload_type: 111, ..Source::new(1000 * (voice + 1), None) };
    (0..VOICES as u32).map(source).collect()
}

#[test]
fn only_the_loudest_are_heard_and_a_new_voice_soon() {
    let (mut world, publishers, subscriber) = choir(Some(2));
    let mut sources = sources();
    speak(&mut world, &publishers, &mut sources, [20, 70, 25, 80], subscriber);
    let heard = speak(&mut world, &publishers, &mut sources, [20, 70, 25, 80], subscriber);
    assert_eq!(heard, [50, 0, 50, 0]);
    // The third falls silent and the last speaks.
    let heard = speak(&mut world, &publishers, &mut sources, [20, 70, 127, 10], subscriber);
    assert!(heard[0] == 50 && heard[1] == 0 && heard[3] >= 44, "{heard:?}");
    // It comes back without a hole in its numbers.
    let heard = speak(&mut world, &publishers, &mut sources, [127, 70, 15, 10], subscriber);
    assert!(heard[2] >= 40, "{heard:?}");
    let media = &world.peers[subscriber].media;
    let third: Vec<u16> =
        media.iter().filter(|got| got.ssrc == SSRC + 2).map(|got| got.sequence).collect();
    assert!(third.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)));
}

#[test]
fn without_a_limit_everybody_is_heard() {
    let (mut world, publishers, subscriber) = choir(None);
    let heard = speak(&mut world, &publishers, &mut sources(), [20, 70, 127, 80], subscriber);
    assert_eq!(heard, [50; VOICES]);
}
