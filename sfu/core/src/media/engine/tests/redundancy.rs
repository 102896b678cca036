//! Redundant audio to subscribers with and without it.

use super::*;

const RED: u8 = 63;
const OPUS: u8 = 111;

fn audio(kind: CodecKind, payload_type: u8, fmtp: &str) -> Codec {
    Codec {
        kind,
        payload_type,
        rtx_payload_type: None,
        clock_rate: 48_000,
        channels: 2,
        fmtp: fmtp.to_owned(),
        nack: false,
        pli: false,
        transport_cc: false,
        remb: false,
    }
}

#[test]
fn who_has_no_redundancy_gets_the_newest_frame_of_each_packet() {
    let mut world = World::new();
    let publisher = world.connect();
    let codecs = vec![audio(CodecKind::Red, RED, "111/111"), audio(CodecKind::Opus, OPUS, "")];
    let sound = Receiver { kind: MediaKind::Audio, codecs: codecs.clone(), ..receiver(&[]) };
    world.set_receivers(publisher, vec![sound]);
    let other = vec![audio(CodecKind::Red, 50, "109/109"), audio(CodecKind::Opus, 109, "")];
    let plain = vec![audio(CodecKind::Opus, 96, "")];
    let subscribers = [codecs, other, plain].map(|codecs| {
        let subscriber = world.connect();
        let sender = Sender {
            kind: MediaKind::Audio,
            codecs,
            ssrc: SsrcPair { ssrc: SSRC, rtx: None },
            ..sender(Some(VideoQuality::High))
        };
        world.set_senders(subscriber, vec![sender]);
        subscriber
    });
    let packets: [(u8, &[u8], &[u8]); 3] = [
        (RED, &[0x80 | OPUS, 0, 0, 2, OPUS, 9, 9, 1], &[1]),
        (OPUS, &[2], &[2]),
        (RED, &[OPUS, 3, 3], &[3, 3]),
    ];
    for (number, (payload_type, payload, _)) in (1..).zip(packets) {
        let fields = HeaderFields {
            marker: false,
            payload_type,
            sequence: number,
            timestamp: 960 * u32::from(number),
            ssrc: 1000,
        };
        world.send(publisher, fields, &[(MID_ID, b"v")], payload);
    }
    let got = |subscriber: usize| {
        let media = &world.peers[subscriber].media;
        assert_continuous(media);
        let packets = media.iter().map(|got| (got.payload_type, got.payload.clone()));
        packets.collect::<Vec<_>>()
    };
    let whole: Vec<_> = packets.iter().map(|(kind, all, _)| (*kind, all.to_vec())).collect();
    let newest = |kind: u8| packets.iter().map(|(_, _, frame)| (kind, frame.to_vec())).collect();
    let expected: [Vec<(u8, Vec<u8>)>; 3] = [whole, newest(109), newest(96)];
    assert_eq!(subscribers.map(got), expected);
}
