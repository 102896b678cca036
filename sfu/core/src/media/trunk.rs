//! What engines of different nodes tell each other of a track, as bytes. Both ends are nodes of one
//! cluster; what is malformed is dropped all the same.
//!
//! ```text
//! kind 1 | track 8 | layer 1 | of a packet: ssrc 4, clock rate 4, sequence 8, timestamp 4,
//!                              codec 1, its kind 1, flags 1, spatial 1, temporal 1, needed 2,
//!                              level 1, orientation 1, delay 3, lengths 2, extensions, payload
//!                              of padding: sequence 8
//!                              of a clock: NTP 8, RTP 4, age in microseconds 4
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::TrackKey;
use super::codec::PacketInfo;
use super::engine::{SiblingContent, SiblingMessage};
use super::parameters::CodecKind;
use super::ring::{NewPacket, StoredPacket};

const PACKET: u8 = 1;
const PADDING: u8 = 2;
const CLOCK: u8 = 3;
const KEY_FRAME_REQUEST: u8 = 4;

/// Codecs by their numbers.
const KINDS: [CodecKind; 9] = [
    CodecKind::Opus,
    CodecKind::Red,
    CodecKind::Pcmu,
    CodecKind::Pcma,
    CodecKind::Vp8,
    CodecKind::Vp9,
    CodecKind::H264,
    CodecKind::H265,
    CodecKind::Av1,
];

const MARKER: u8 = 1;
const KEY_FRAME: u8 = 1 << 1;
const BEGINS_FRAME: u8 = 1 << 2;
const ENDS_FRAME: u8 = 1 << 3;
const TEMPORAL_SYNC: u8 = 1 << 4;
const AUDIO_LEVEL: u8 = 1 << 5;
const VIDEO_ORIENTATION: u8 = 1 << 6;
const PLAYOUT_DELAY: u8 = 1 << 7;

/// Appends a message.
pub fn encode(message: &SiblingMessage, now: Instant, out: &mut Vec<u8>) {
    let SiblingMessage { track, layer, content } = message;
    let kind = match content {
        SiblingContent::Packet { .. } => PACKET,
        SiblingContent::Padding(_) => PADDING,
        SiblingContent::Clock { .. } => CLOCK,
        SiblingContent::KeyFrameRequest => KEY_FRAME_REQUEST,
    };
    out.push(kind);
    out.extend_from_slice(&track.0.to_be_bytes());
    out.push(*layer);
    match content {
        SiblingContent::Packet { ssrc, clock_rate, packet } => {
            out.extend_from_slice(&ssrc.to_be_bytes());
            out.extend_from_slice(&clock_rate.to_be_bytes());
            encode_packet(packet, out);
        }
        SiblingContent::Padding(sequence) => out.extend_from_slice(&sequence.to_be_bytes()),
        SiblingContent::Clock { ntp, rtp_timestamp, at } => {
            // The nodes' clocks are not compared: only how long ago it was.
            let age = now.saturating_duration_since(*at).as_micros();
            out.extend_from_slice(&ntp.to_be_bytes());
            out.extend_from_slice(&rtp_timestamp.to_be_bytes());
            out.extend_from_slice(&u32::try_from(age).unwrap_or(u32::MAX).to_be_bytes());
        }
        SiblingContent::KeyFrameRequest => {}
    }
}

fn encode_packet(packet: &StoredPacket, out: &mut Vec<u8>) {
    let PacketInfo {
        key_frame,
        begins_frame,
        ends_frame,
        spatial,
        temporal,
        temporal_sync,
        needed,
    } = packet.info;
    let extensions = &packet.extensions;
    let flags = [
        (packet.marker, MARKER),
        (key_frame, KEY_FRAME),
        (begins_frame, BEGINS_FRAME),
        (ends_frame, ENDS_FRAME),
        (temporal_sync, TEMPORAL_SYNC),
        (extensions.audio_level.is_some(), AUDIO_LEVEL),
        (extensions.video_orientation.is_some(), VIDEO_ORIENTATION),
        (extensions.playout_delay.is_some(), PLAYOUT_DELAY),
    ];
    let flags = flags.iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, flag)| all | flag);
    let kind = KINDS.iter().position(|kind| *kind == packet.kind).expect("all kinds are listed");
    out.extend_from_slice(&packet.sequence.to_be_bytes());
    out.extend_from_slice(&packet.timestamp.to_be_bytes());
    out.extend_from_slice(&[packet.codec, kind as u8, flags, spatial, temporal]);
    out.extend_from_slice(&needed.to_be_bytes());
    out.push(extensions.audio_level.unwrap_or_default());
    out.push(extensions.video_orientation.unwrap_or_default());
    out.extend_from_slice(&extensions.playout_delay.unwrap_or_default());
    out.extend_from_slice(&[extensions.abs_capture_time, extensions.dependency_descriptor]);
    out.extend_from_slice(packet.abs_capture_time().unwrap_or_default());
    out.extend_from_slice(packet.dependency_descriptor().unwrap_or_default());
    out.extend_from_slice(&packet.payload);
}

/// Reads a message; `None` when it is none.
pub fn decode(bytes: &[u8], now: Instant) -> Option<SiblingMessage> {
    let mut reader = Reader(bytes);
    let [kind] = reader.take()?;
    let track = TrackKey(u64::from_be_bytes(reader.take()?));
    let [layer] = reader.take()?;
    let content = match kind {
        PACKET => {
            let ssrc = u32::from_be_bytes(reader.take()?);
            let clock_rate = u32::from_be_bytes(reader.take()?);
            let packet = Arc::new(decode_packet(&mut reader)?);
            SiblingContent::Packet { ssrc, clock_rate, packet }
        }
        PADDING => SiblingContent::Padding(u64::from_be_bytes(reader.take()?)),
        CLOCK => {
            let ntp = u64::from_be_bytes(reader.take()?);
            let rtp_timestamp = u32::from_be_bytes(reader.take()?);
            let age = Duration::from_micros(u32::from_be_bytes(reader.take()?).into());
            SiblingContent::Clock { ntp, rtp_timestamp, at: now.checked_sub(age).unwrap_or(now) }
        }
        KEY_FRAME_REQUEST => SiblingContent::KeyFrameRequest,
        _ => return None,
    };
    Some(SiblingMessage { track, layer, content })
}

fn decode_packet(reader: &mut Reader<'_>) -> Option<StoredPacket> {
    let sequence = u64::from_be_bytes(reader.take()?);
    let timestamp = u32::from_be_bytes(reader.take()?);
    let [codec, kind, flags, spatial, temporal] = reader.take()?;
    let needed = u16::from_be_bytes(reader.take()?);
    let [audio_level, video_orientation] = reader.take()?;
    let playout_delay: [u8; 3] = reader.take()?;
    let [capture, descriptor] = reader.take()?;
    let has = |flag: u8| flags & flag != 0;
    let abs_capture_time = reader.slice(capture)?;
    let dependency_descriptor = reader.slice(descriptor)?;
    Some(StoredPacket::new(&NewPacket {
        sequence,
        timestamp,
        marker: has(MARKER),
        codec,
        kind: *KINDS.get(usize::from(kind))?,
        info: PacketInfo {
            key_frame: has(KEY_FRAME),
            begins_frame: has(BEGINS_FRAME),
            ends_frame: has(ENDS_FRAME),
            spatial,
            temporal,
            temporal_sync: has(TEMPORAL_SYNC),
            needed,
        },
        audio_level: has(AUDIO_LEVEL).then_some(audio_level),
        video_orientation: has(VIDEO_ORIENTATION).then_some(video_orientation),
        playout_delay: has(PLAYOUT_DELAY).then_some(playout_delay),
        abs_capture_time,
        dependency_descriptor,
        payload: reader.0,
    }))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    /// So many bytes; `None` within when they are none.
    #[expect(clippy::option_option, reason = "not there is not the same as cut short")]
    fn slice(&mut self, length: u8) -> Option<Option<&'a [u8]>> {
        let (head, rest) = self.0.split_at_checked(length.into())?;
        self.0 = rest;
        Some((length > 0).then_some(head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> SiblingMessage {
        let packet = StoredPacket::new(&NewPacket {
            sequence: 1 << 40,
            timestamp: 7,
            marker: true,
            codec: 3,
            kind: CodecKind::Av1,
            info: PacketInfo {
                key_frame: true,
                begins_frame: false,
                ends_frame: true,
                spatial: 2,
                temporal: 1,
                temporal_sync: true,
                needed: 0x8421,
            },
            audio_level: Some(0),
            video_orientation: None,
            playout_delay: Some([1, 2, 3]),
            abs_capture_time: Some(&[4; 16]),
            dependency_descriptor: Some(&[5; 9]),
            payload: b"payload",
        });
        let packet = Arc::new(packet);
        let content = SiblingContent::Packet { ssrc: 11, clock_rate: 90_000, packet };
        SiblingMessage { track: TrackKey(u64::MAX - 1), layer: 2, content }
    }

    fn sent(message: &SiblingMessage) -> SiblingMessage {
        let (now, mut bytes) = (Instant::now(), Vec::new());
        encode(message, now, &mut bytes);
        for cut in 0..bytes.len().min(50) {
            // Whatever is cut off, nothing panics.
            let _read = decode(&bytes[..cut], now);
        }
        decode(&bytes, now).unwrap()
    }

    #[test]
    fn a_packet_arrives_with_all_that_forwarding_knows_of_it() {
        let message = packet();
        assert_eq!(format!("{:?}", sent(&message)), format!("{message:?}"));
    }

    #[test]
    fn padding_and_wishes_arrive() {
        for content in [SiblingContent::Padding(77), SiblingContent::KeyFrameRequest] {
            let message = SiblingMessage { track: TrackKey(1), layer: 0, content };
            assert_eq!(format!("{:?}", sent(&message)), format!("{message:?}"));
        }
    }

    #[test]
    fn a_clock_is_as_old_there_as_it_was_here() {
        let (sent_at, mut bytes) = (Instant::now(), Vec::new());
        let content = SiblingContent::Clock { ntp: 5, rtp_timestamp: 6, at: sent_at };
        let message = SiblingMessage { track: TrackKey(1), layer: 0, content };
        let age = Duration::from_millis(30);
        encode(&message, sent_at + age, &mut bytes);
        let received_at = sent_at + Duration::from_secs(5);
        let SiblingContent::Clock { ntp: 5, rtp_timestamp: 6, at } =
            decode(&bytes, received_at).unwrap().content
        else {
            panic!("a clock is sent")
        };
        assert_eq!(received_at - at, age);
    }

    #[test]
    fn what_is_no_message_is_dropped() {
        let now = Instant::now();
        let mut bytes = Vec::new();
        encode(&packet(), now, &mut bytes);
        let fixed = bytes.len() - b"payload".len() - 25;
        for cut in 0..fixed + 25 {
            assert!(decode(&bytes[..cut], now).is_none(), "{cut}");
        }
        let mut unknown = bytes.clone();
        unknown[0] = 9;
        assert!(decode(&unknown, now).is_none());
    }
}
