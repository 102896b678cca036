use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::media::ring::{NewPacket, PacketRing};
use crate::media::{ExtensionIds, MediaKind, Mid, SsrcPair, TrackKey};

const CLOCK: u32 = 90_000;

fn config(max_quality: Option<VideoQuality>) -> Sender {
    Sender {
        mid: Mid("0".to_owned()),
        track: TrackKey(1),
        kind: MediaKind::Video,
        ssrc: SsrcPair { ssrc: 1, rtx: Some(2) },
        codecs: Vec::new(),
        extensions: ExtensionIds::default(),
        max_quality,
        max_frame_rate: None,
        priority: 0,
    }
}

/// A source of VP8 packets; numbers start where the layer likes.
struct Source {
    ring: PacketRing,
    sequence: u64,
    timestamp: u32,
    picture_id: u16,
}

impl Source {
    fn new(sequence: u64) -> Self {
        Self { ring: PacketRing::new(512), sequence, timestamp: sequence as u32 * 7, picture_id: 5 }
    }

    fn next(&mut self, key_frame: bool) -> &StoredPacket {
        self.sequence += 1;
        self.timestamp = self.timestamp.wrapping_add(3000);
        self.picture_id = self.picture_id.wrapping_add(1) & 0x7FFF;
        let [high, low] = (self.picture_id | 0x8000).to_be_bytes();
        let payload = [0x90, 0x80, high, low, u8::from(!key_frame)];
        self.ring.insert(NewPacket {
            sequence: self.sequence,
            timestamp: self.timestamp,
            marker: true,
            codec: 0,
            kind: CodecKind::Vp8,
            key_frame,
            audio_level: None,
            video_orientation: None,
            abs_capture_time: None,
            dependency_descriptor: None,
            payload: &payload,
        });
        self.ring.get(self.sequence).unwrap()
    }
}

#[test]
fn numbers_continue_over_a_switch_which_waits_for_a_key_frame() {
    let now = Instant::now();
    let mut sender = SenderState::new(config(Some(VideoQuality::High)), 100);
    let (mut low, mut high) = (Source::new(1 << 16), Source::new(900_000));
    assert_eq!(sender.map(low.next(false), 0, Some(0), CLOCK, now), None);
    let first = sender.map(low.next(true), 0, Some(0), CLOCK, now).unwrap();
    let second = sender.map(low.next(false), 0, Some(1), CLOCK, now).unwrap();
    assert_eq!((first.sequence, second.sequence), (100, 101));
    assert_eq!(sender.map(high.next(false), 1, Some(1), CLOCK, now), None);
    let later = now + Duration::from_millis(100);
    let third = sender.map(high.next(true), 1, Some(1), CLOCK, later).unwrap();
    assert_eq!(third.sequence, 102);
    assert_eq!(third.timestamp.wrapping_sub(second.timestamp), 9000);
    assert_eq!(third.vp8.unwrap().0, second.vp8.unwrap().0 + 1);
    assert_eq!(sender.map(low.next(true), 0, Some(1), CLOCK, later), None);
}

#[test]
fn sent_packets_are_found_again() {
    let now = Instant::now();
    let mut sender = SenderState::new(config(Some(VideoQuality::High)), 100);
    let mut source = Source::new(1 << 16);
    let sent = sender.map(source.next(true), 0, Some(0), CLOCK, now).unwrap();
    sender.map(source.next(false), 0, Some(0), CLOCK, now);
    assert_eq!(sender.find(100), Some((sent, 0, (1 << 16) + 1)));
    assert_eq!(sender.find(99), None);
    assert_eq!(sender.find(102), None);
}

#[test]
fn padding_leaves_no_hole() {
    let now = Instant::now();
    let mut sender = SenderState::new(config(Some(VideoQuality::High)), 100);
    let mut source = Source::new(1 << 16);
    sender.map(source.next(true), 0, Some(0), CLOCK, now).unwrap();
    source.sequence += 1;
    sender.skip(source.sequence, 0);
    let next = sender.map(source.next(false), 0, Some(0), CLOCK, now).unwrap();
    assert_eq!(next.sequence, 101);
}

#[test]
fn the_best_wanted_active_layer_is_the_target() {
    use VideoQuality::{High, Low, Medium};
    let cases: [(Option<VideoQuality>, &[bool], Option<u8>); 9] = [
        (Some(High), &[true, true, true], Some(2)),
        (Some(High), &[true, true, false], Some(1)),
        (Some(Medium), &[true, true, true], Some(1)),
        (Some(Low), &[true, true, true], Some(0)),
        (Some(Low), &[false, true, true], Some(1)),
        (Some(Medium), &[true], Some(0)),
        (Some(High), &[false, false], None),
        (Some(High), &[], None),
        (None, &[true], None),
    ];
    for (wanted, active, expected) in cases {
        let sender = SenderState::new(config(wanted), 0);
        assert_eq!(sender.target(active), expected, "{wanted:?} {active:?}");
    }
}

proptest! {
    /// Whatever is switched, lost, left out as padding or comes late: no output number is used
    /// for two different packets. The same number twice would be the same SRTP nonce twice.
    #[test]
    fn no_output_number_is_used_twice(
        steps in prop::collection::vec((0u8..3, any::<bool>(), 0u8..3, 0u8..4), 1..300)
    ) {
        let start = Instant::now();
        let mut sender = SenderState::new(config(Some(VideoQuality::High)), 7);
        let mut sources = [Source::new(70_000), Source::new(90_000), Source::new(500_000)];
        let mut late: [Vec<u64>; 3] = Default::default();
        let mut used = HashSet::new();
        for (index, (layer, key_frame, target, fate)) in steps.into_iter().enumerate() {
            let now = start + Duration::from_millis(10 * index as u64);
            let source = &mut sources[usize::from(layer)];
            let sequence = source.next(key_frame).sequence;
            let sequence = match fate {
                // Padding.
                0 => {
                    sender.skip(sequence, layer);
                    continue;
                }
                // Lost, and repaired later.
                1 => {
                    late[usize::from(layer)].push(sequence);
                    continue;
                }
                2 => late[usize::from(layer)].pop().unwrap_or(sequence),
                _ => sequence,
            };
            let Some(packet) = source.ring.get(sequence) else { continue };
            if let Some(sent) = sender.map(packet, layer, Some(target), CLOCK, now) {
                prop_assert!(used.insert(sent.sequence), "{} twice", sent.sequence);
            }
        }
    }

    /// Without loss, what is sent has no holes over any history of switches.
    #[test]
    fn output_numbers_have_no_holes(
        steps in prop::collection::vec((0u8..3, any::<bool>(), 0u8..3), 1..300)
    ) {
        let start = Instant::now();
        let mut sender = SenderState::new(config(Some(VideoQuality::High)), 7);
        let mut sources = [Source::new(70_000), Source::new(90_000), Source::new(500_000)];
        let mut expected = 7;
        for (index, (layer, key_frame, target)) in steps.into_iter().enumerate() {
            let now = start + Duration::from_millis(10 * index as u64);
            let packet = sources[usize::from(layer)].next(key_frame);
            if let Some(sent) = sender.map(packet, layer, Some(target), CLOCK, now) {
                prop_assert_eq!(sent.sequence, expected);
                expected += 1;
            }
        }
    }
}
