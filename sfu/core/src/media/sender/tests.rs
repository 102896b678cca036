use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::media::codec::{PacketInfo, PayloadReader};
use crate::media::ring::{NewPacket, PacketRing};
use crate::media::{ExtensionIds, MediaKind, Mid, SsrcPair, TrackKey, VideoQuality};

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
        may_pause: true,
        playout_delay: None,
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
        let info = PayloadReader::default().read(CodecKind::Vp8, &payload, None);
        self.ring.insert(&NewPacket {
            sequence: self.sequence,
            timestamp: self.timestamp,
            marker: true,
            codec: 0,
            kind: CodecKind::Vp8,
            info,
            audio_level: None,
            video_orientation: None,
            playout_delay: None,
            abs_capture_time: None,
            dependency_descriptor: None,
            payload: &payload,
        });
        self.ring.get(self.sequence).unwrap()
    }
}

/// Everything of a stream.
fn all(stream: u8) -> Option<Selection> {
    Some(Selection { stream, spatial: 3, temporal: 3 })
}

/// A sender that shall send `stream`.
fn sender(stream: u8) -> SenderState {
    let config = config(Some(VideoQuality::High));
    let mut sender = SenderState::new(config, 100, Instant::now());
    sender.set_target(all(stream));
    sender
}

impl SenderState {
    fn send(&mut self, packet: &StoredPacket, stream: u8, now: Instant) -> Option<Outgoing> {
        match self.decide(packet, stream, CLOCK, now) {
            Decision::Send(outgoing) => Some(outgoing),
            Decision::Fill(_) | Decision::Leave => None,
        }
    }
}

#[test]
fn numbers_continue_over_a_switch_which_waits_for_a_key_frame() {
    let now = Instant::now();
    let mut sender = sender(0);
    let (mut low, mut high) = (Source::new(1 << 16), Source::new(900_000));
    assert_eq!(sender.send(low.next(false), 0, now), None);
    assert_eq!(sender.waits_for(), Some(0));
    let first = sender.send(low.next(true), 0, now).unwrap();
    sender.set_target(all(1));
    let second = sender.send(low.next(false), 0, now).unwrap();
    assert_eq!((first.sequence, second.sequence), (100, 101));
    assert_eq!(sender.send(high.next(false), 1, now), None);
    assert_eq!(sender.waits_for(), Some(1));
    let later = now + Duration::from_millis(100);
    let third = sender.send(high.next(true), 1, later).unwrap();
    assert_eq!(third.sequence, 102);
    assert_eq!(third.timestamp.wrapping_sub(second.timestamp), 9000);
    assert_eq!(third.vp8.unwrap().0, second.vp8.unwrap().0 + 1);
    assert_eq!(sender.send(low.next(true), 0, later), None);
    assert_eq!(sender.waits_for(), None);
}

#[test]
fn a_paused_sender_needs_a_key_frame_again() {
    let now = Instant::now();
    let mut sender = sender(0);
    let mut source = Source::new(1 << 16);
    sender.send(source.next(true), 0, now).unwrap();
    sender.set_target(None);
    assert_eq!(sender.send(source.next(true), 0, now), None);
    sender.set_target(all(0));
    assert_eq!(sender.send(source.next(false), 0, now), None);
    assert_eq!(sender.send(source.next(true), 0, now).unwrap().sequence, 101);
}

#[test]
fn sent_packets_are_found_again() {
    let now = Instant::now();
    let mut sender = sender(0);
    let mut source = Source::new(1 << 16);
    let outgoing = sender.send(source.next(true), 0, now).unwrap();
    sender.send(source.next(false), 0, now);
    let sent = Sent { outgoing, stream: 0, source: (1 << 16) + 1 };
    assert_eq!(sender.take_for_repeat(100, now), Some(Repeat::Packet(sent)));
    assert_eq!(sender.take_for_repeat(100, now), None, "it is on its way");
    assert_eq!(sender.take_for_repeat(99, now), None);
    assert_eq!(sender.take_for_repeat(102, now), None);
}

#[test]
fn a_number_without_a_packet_is_known_as_such_while_it_is_young() {
    let now = Instant::now();
    let mut sender = sender(0);
    let (mut low, mut high) = (Source::new(1 << 16), Source::new(900_000));
    for key_frame in [true, false] {
        sender.send(low.next(key_frame), 0, now).unwrap();
    }
    sender.set_target(all(1));
    let third = sender.send(high.next(true), 1, now).unwrap().sequence;
    // What was sent before a switch is of no use behind it.
    let number = |sequence: u64| sequence as u16;
    assert_eq!(sender.take_for_repeat(number(third - 1), now), Some(Repeat::Nothing(third - 1)));
    let late = high.sequence + 1;
    high.sequence = late;
    let last = (0..History::LENGTH - 3).map(|_| sender.send(high.next(false), 1, now).unwrap());
    let last = last.last().unwrap().sequence;
    assert_eq!(last - third, History::LENGTH - 2);
    assert_eq!(sender.take_for_repeat(number(third - 1), now), Some(Repeat::Nothing(third - 1)));
    assert_eq!(sender.take_for_repeat(number(third - 2), now), None, "too old");
    let hole = Repeat::Hole { sequence: third + 1, stream: 1, source: late };
    assert_eq!(sender.take_for_repeat(number(third + 1), now), Some(hole));
    sender.skip(late, 1);
    let nothing = Some(Repeat::Nothing(third + 1));
    assert_eq!(sender.take_for_repeat(number(third + 1), now), nothing, "it was padding");
}

#[test]
fn padding_leaves_no_hole() {
    let now = Instant::now();
    let mut sender = sender(0);
    let mut source = Source::new(1 << 16);
    sender.send(source.next(true), 0, now).unwrap();
    source.sequence += 1;
    sender.skip(source.sequence, 0);
    sender.skip(source.sequence, 0);
    let next = sender.send(source.next(false), 0, now).unwrap();
    assert_eq!(next.sequence, 101);
}

/// A packet of a stream with two spatial and three temporal layers.
fn layered(sequence: u64, picture: u32, spatial: u8, temporal: u8, is_key: bool) -> StoredPacket {
    let mut ring = PacketRing::new(1);
    let needed = (0..4u32).flat_map(|s| (0..4u32).map(move |t| (s, t)));
    let needed = needed
        .filter(|(s, t)| u32::from(spatial) <= *s && u32::from(temporal) <= *t)
        .fold(0, |mask, (s, t)| mask | 1 << (4 * s + t));
    let info = PacketInfo {
        key_frame: is_key && spatial == 0,
        begins_frame: true,
        ends_frame: true,
        spatial,
        temporal,
        temporal_sync: true,
        needed,
    };
    let new = NewPacket {
        sequence,
        timestamp: 3000 * picture,
        marker: spatial == 1,
        codec: 0,
        kind: CodecKind::Vp9,
        info,
        audio_level: None,
        video_orientation: None,
        playout_delay: None,
        abs_capture_time: None,
        dependency_descriptor: None,
        payload: b"x",
    };
    let packet = std::sync::Arc::clone(ring.insert(&new).unwrap());
    drop(ring);
    std::sync::Arc::into_inner(packet).unwrap()
}

#[test]
fn layers_within_a_stream_go_down_at_once_and_up_at_a_key_frame() {
    let now = Instant::now();
    let mut sender = sender(0);
    let mut sent = Vec::new();
    let mut picture = |sender: &mut SenderState, number: u32, is_key: bool| {
        for spatial in 0..2 {
            let sequence = 70_000 + u64::from(2 * number) + u64::from(spatial);
            let packet = layered(sequence, number, spatial, 0, is_key);
            if let Some(outgoing) = sender.send(&packet, 0, now) {
                sent.push((outgoing.sequence, number, spatial, outgoing.marker));
            }
        }
    };
    picture(&mut sender, 0, true);
    sender.set_target(Some(Selection { stream: 0, spatial: 0, temporal: 3 }));
    picture(&mut sender, 1, false);
    sender.set_target(Some(Selection { stream: 0, spatial: 1, temporal: 3 }));
    assert_eq!(sender.waits_for(), Some(0));
    picture(&mut sender, 2, false);
    picture(&mut sender, 3, true);
    assert_eq!(
        sent,
        [
            (100, 0, 0, false),
            (101, 0, 1, true),
            (102, 1, 0, true),
            (103, 2, 0, true),
            (104, 3, 0, false),
            (105, 3, 1, true),
        ]
    );
}

#[test]
fn temporal_layers_are_left_out_without_holes_and_late_ones_are_filled() {
    let now = Instant::now();
    let mut sender = sender(0);
    sender.set_target(Some(Selection { stream: 0, spatial: 3, temporal: 0 }));
    let decide = |sender: &mut SenderState, number: u32, temporal: u8| {
        let packet = layered(70_000 + u64::from(number), number, 0, temporal, number == 0);
        match sender.decide(&packet, 0, CLOCK, now) {
            Decision::Send(outgoing) => Some(Ok(outgoing.sequence)),
            Decision::Fill(sequence) => Some(Err(sequence)),
            Decision::Leave => None,
        }
    };
    assert_eq!(decide(&mut sender, 0, 0), Some(Ok(100)));
    assert_eq!(decide(&mut sender, 1, 2), None);
    assert_eq!(decide(&mut sender, 2, 0), Some(Ok(101)));
    // The next one is late: its number is kept for it.
    assert_eq!(decide(&mut sender, 4, 0), Some(Ok(103)));
    assert_eq!(decide(&mut sender, 3, 2), Some(Err(102)));
    // Higher temporal layers are taken from where they may be.
    sender.set_target(Some(Selection { stream: 0, spatial: 3, temporal: 2 }));
    assert_eq!(decide(&mut sender, 5, 2), Some(Ok(104)));
}

proptest! {
    /// Whatever is switched, lost, left out as padding or comes late: no output number is used
    /// for two different packets. The same number twice would be the same SRTP nonce twice.
    #[test]
    fn no_output_number_is_used_twice(
        steps in prop::collection::vec((0u8..3, any::<bool>(), 0u8..3, 0u8..4, 0u8..3), 1..300)
    ) {
        let start = Instant::now();
        let mut sender = sender(0);
        let mut numbers = [70_000u64, 90_000, 500_000];
        let mut late: [Vec<(u64, u8)>; 3] = Default::default();
        let mut used = HashSet::new();
        for (index, (stream, is_key, target, fate, temporal)) in steps.into_iter().enumerate() {
            let now = start + Duration::from_millis(10 * index as u64);
            let number = &mut numbers[usize::from(stream)];
            *number += 1;
            let (sequence, temporal) = match fate {
                // Padding, which may come twice.
                0 => {
                    sender.skip(*number, stream);
                    sender.skip(*number, stream);
                    continue;
                }
                // Lost, and repaired later.
                1 => {
                    late[usize::from(stream)].push((*number, temporal));
                    continue;
                }
                2 => match late[usize::from(stream)].pop() {
                    Some(late) => {
                        *number -= 1;
                        late
                    }
                    None => (*number, temporal),
                },
                _ => (*number, temporal),
            };
            sender.set_target(Some(Selection { stream: target, spatial: 3, temporal: target }));
            let packet = layered(sequence, index as u32, 0, temporal, is_key);
            match sender.decide(&packet, stream, CLOCK, now) {
                Decision::Send(Outgoing { sequence, .. }) | Decision::Fill(sequence) => {
                    prop_assert!(used.insert(sequence), "{} twice", sequence);
                }
                Decision::Leave => {}
            }
        }
    }

    /// Without loss, what is sent has no holes over any history of switches.
    #[test]
    fn output_numbers_have_no_holes(
        steps in prop::collection::vec((0u8..3, any::<bool>(), 0u8..3, 0u8..3), 1..300)
    ) {
        let start = Instant::now();
        let mut sender = sender(0);
        let mut numbers = [70_000u64, 90_000, 500_000];
        let mut expected = 100;
        for (index, (stream, is_key, target, temporal)) in steps.into_iter().enumerate() {
            let now = start + Duration::from_millis(10 * index as u64);
            numbers[usize::from(stream)] += 1;
            let sequence = numbers[usize::from(stream)];
            sender.set_target(Some(Selection { stream: target, spatial: 3, temporal: target }));
            let packet = layered(sequence, index as u32, 0, temporal, is_key);
            match sender.decide(&packet, stream, CLOCK, now) {
                Decision::Send(outgoing) => {
                    prop_assert_eq!(outgoing.sequence, expected);
                    expected += 1;
                }
                Decision::Fill(sequence) => prop_assert!(false, "{} filled", sequence),
                Decision::Leave => {}
            }
        }
    }
}
