//! One layer of a published track: its packets, what is missing of it, and how it is received.

use std::time::{Duration, Instant};

use super::MediaKind;
use super::codec::starts_key_frame;
use super::nack::NackGenerator;
use super::parameters::{Codec, ExtensionIds};
use super::ring::{AUDIO_PACKETS, NewPacket, PacketRing, VIDEO_PACKETS};
use super::rtcp::ReportBlock;
use super::rtp::{RtpHeader, Unwrapper};

/// A layer that sent nothing for this long does not count as active.
const SILENCE: Duration = Duration::from_secs(2);
/// Shortest time between key frame requests: one upstream however many subscribers ask.
const KEY_FRAME_INTERVAL: Duration = Duration::from_millis(500);

/// What became of a received packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ingested {
    /// Kept under this extended sequence number.
    Packet(u64),
    /// Padding only: the number is used but nothing is to be forwarded.
    Padding(u64),
    /// Seen before, or too old.
    Duplicate,
}

/// A layer of a published track.
#[derive(Debug)]
pub(super) struct Layer {
    /// Source of the last packet.
    pub(super) ssrc: Option<u32>,
    clock_rate: u32,
    is_video: bool,
    sequence: Unwrapper,
    ring: PacketRing,
    nack: NackGenerator,
    statistics: Statistics,
    last_packet: Option<Instant>,
    key_frame_wanted: bool,
    last_key_frame_request: Option<Instant>,
    /// NTP and RTP time of the last sender report, and when it came.
    sender_report: Option<(u64, u32, Instant)>,
}

/// Reception statistics (RFC 3550 section 6.4.1 and appendix A).
#[derive(Debug, Default)]
struct Statistics {
    first: Option<u64>,
    received: u64,
    expected_before: u64,
    received_before: u64,
    jitter: f64,
    last_transit: Option<f64>,
    epoch: Option<Instant>,
}

impl Layer {
    /// A layer that has not sent yet.
    pub(super) fn new(kind: MediaKind) -> Self {
        let is_video = kind == MediaKind::Video;
        Self {
            ssrc: None,
            clock_rate: if is_video { 90_000 } else { 48_000 },
            is_video,
            sequence: Unwrapper::default(),
            ring: PacketRing::new(if is_video { VIDEO_PACKETS } else { AUDIO_PACKETS }),
            nack: NackGenerator::default(),
            statistics: Statistics::default(),
            last_packet: None,
            key_frame_wanted: false,
            last_key_frame_request: None,
            sender_report: None,
        }
    }

    /// The kept packets.
    pub(super) fn ring(&self) -> &PacketRing {
        &self.ring
    }

    /// Whether packets come.
    pub(super) fn is_active(&self, now: Instant) -> bool {
        self.last_packet.is_some_and(|last| now.duration_since(last) < SILENCE)
    }

    /// Takes a packet whose header says `header`. For a retransmission, `header` has the
    /// original sequence number and payload type, and `payload` lacks the two bytes of RFC
    /// 4588.
    pub(super) fn ingest(
        &mut self,
        header: &RtpHeader,
        packet: &[u8],
        payload: &[u8],
        codec: (u8, &Codec),
        extensions: &ExtensionIds,
        now: Instant,
    ) -> Ingested {
        let sequence = self.sequence.unwrap(header.sequence);
        self.clock_rate = codec.1.clock_rate;
        if !self.nack.received(sequence, now) {
            self.want_key_frame();
        }
        self.statistics.received(sequence, header.timestamp, self.clock_rate, now);
        if payload.is_empty() {
            return Ingested::Padding(sequence);
        }
        self.last_packet = Some(now);
        let value = |id| header.extension(packet, id);
        let kept = self.ring.insert(NewPacket {
            sequence,
            timestamp: header.timestamp,
            marker: header.marker,
            codec: codec.0,
            kind: codec.1.kind,
            key_frame: starts_key_frame(codec.1.kind, payload),
            audio_level: value(extensions.audio_level).and_then(|value| value.first().copied()),
            video_orientation: value(extensions.video_orientation)
                .and_then(|value| value.first().copied()),
            abs_capture_time: value(extensions.abs_capture_time),
            dependency_descriptor: value(extensions.dependency_descriptor),
            payload,
        });
        if kept { Ingested::Packet(sequence) } else { Ingested::Duplicate }
    }

    /// Another source continues this layer: numbers start anew.
    pub(super) fn restart(&mut self, ssrc: u32, kind: MediaKind) {
        *self =
            Self { ssrc: Some(ssrc), key_frame_wanted: self.key_frame_wanted, ..Self::new(kind) };
    }

    /// Notes the publisher's clock.
    pub(super) fn handle_sender_report(&mut self, ntp: u64, rtp_timestamp: u32, now: Instant) {
        self.sender_report = Some((ntp, rtp_timestamp, now));
    }

    /// The publisher's NTP time and RTP time at `now`, once it reported.
    pub(super) fn clock(&self, now: Instant) -> Option<(u64, u32)> {
        let (ntp, rtp_timestamp, at) = self.sender_report?;
        let elapsed = now.duration_since(at).as_secs_f64();
        let ntp = ntp.wrapping_add((elapsed * (1u64 << 32) as f64) as u64);
        let ticks = (elapsed * f64::from(self.clock_rate)) as u64;
        Some((ntp, rtp_timestamp.wrapping_add(ticks as u32)))
    }

    /// Remembers that a subscriber cannot go on without a key frame.
    pub(super) fn want_key_frame(&mut self) {
        self.key_frame_wanted = self.is_video;
    }

    /// Whether to ask the publisher for a key frame at `now`.
    pub(super) fn take_key_frame_request(&mut self, now: Instant) -> bool {
        let is_early = self
            .last_key_frame_request
            .is_some_and(|last| now.duration_since(last) < KEY_FRAME_INTERVAL);
        if !self.key_frame_wanted || is_early || self.ssrc.is_none() {
            return false;
        }
        self.key_frame_wanted = false;
        self.last_key_frame_request = Some(now);
        true
    }

    /// Appends what to ask the publisher for again.
    pub(super) fn due_nacks(&mut self, now: Instant, lost: &mut Vec<u16>) {
        self.nack.due(now, lost);
    }

    /// The block of a receiver report, once something came.
    pub(super) fn report(&mut self, now: Instant) -> Option<ReportBlock> {
        let (ssrc, highest) = (self.ssrc?, self.sequence.highest()?);
        let (fraction_lost, cumulative_lost) = self.statistics.losses(highest)?;
        let (last_sender_report, delay_since) =
            self.sender_report.map_or((0, 0), |(ntp, _, at)| {
                ((ntp >> 16) as u32, (now.duration_since(at).as_secs_f64() * 65_536.0) as u32)
            });
        Some(ReportBlock {
            ssrc,
            fraction_lost,
            cumulative_lost,
            // Extended numbers begin one turn up.
            highest_sequence: (highest - (1 << 16)) as u32,
            jitter: self.statistics.jitter as u32,
            last_sender_report,
            delay_since,
        })
    }
}

impl Statistics {
    fn received(&mut self, sequence: u64, timestamp: u32, clock_rate: u32, now: Instant) {
        self.first = Some(self.first.map_or(sequence, |first| first.min(sequence)));
        self.received += 1;
        // Only differences of transit times count, so the epoch may be any moment.
        let epoch = *self.epoch.get_or_insert(now);
        let arrival = now.saturating_duration_since(epoch).as_secs_f64();
        let transit = arrival * f64::from(clock_rate) - f64::from(timestamp);
        if let Some(last) = self.last_transit {
            let difference = (transit - last).abs();
            // A wrapped or restarted timestamp says nothing about jitter.
            if difference < f64::from(clock_rate) {
                self.jitter += (difference - self.jitter) / 16.0;
            }
        }
        self.last_transit = Some(transit);
    }

    /// Fraction lost since the last call, of 256, and packets lost in all.
    fn losses(&mut self, highest: u64) -> Option<(u8, u32)> {
        let expected = highest - self.first? + 1;
        let cumulative = expected.saturating_sub(self.received);
        let expected_now = expected - self.expected_before;
        let received_now = self.received - self.received_before;
        self.expected_before = expected;
        self.received_before = self.received;
        let lost_now = expected_now.saturating_sub(received_now);
        let fraction = (lost_now * 256).checked_div(expected_now).unwrap_or(0).min(255);
        Some((fraction as u8, cumulative.min(0x7F_FFFF) as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::CodecKind;
    use crate::media::rtp::{HeaderFields, write_header};

    fn opus() -> Codec {
        Codec {
            kind: CodecKind::Opus,
            payload_type: 111,
            rtx_payload_type: None,
            clock_rate: 48_000,
            channels: 2,
            fmtp: String::new(),
            nack: true,
            pli: false,
            transport_cc: true,
        }
    }

    fn ingest(layer: &mut Layer, sequence: u16, payload: &[u8], now: Instant) -> Ingested {
        let fields =
            HeaderFields { marker: false, payload_type: 111, sequence, timestamp: 0, ssrc: 5 };
        let mut packet = Vec::new();
        write_header(&mut packet, fields, &[]);
        packet.extend_from_slice(payload);
        let header = RtpHeader::parse(&packet).unwrap();
        layer.ingest(&header, &packet, payload, (0, &opus()), &ExtensionIds::default(), now)
    }

    #[test]
    fn losses_are_reported_since_the_last_report_and_in_all() {
        let now = Instant::now();
        let mut layer = Layer::new(MediaKind::Audio);
        layer.ssrc = Some(5);
        for sequence in [10, 11, 13, 14] {
            ingest(&mut layer, sequence, b"x", now);
        }
        let report = layer.report(now).unwrap();
        assert_eq!((report.fraction_lost, report.cumulative_lost), (51, 1));
        assert_eq!(report.highest_sequence, 14);
        ingest(&mut layer, 15, b"x", now);
        let report = layer.report(now).unwrap();
        assert_eq!((report.fraction_lost, report.cumulative_lost), (0, 1));
    }

    #[test]
    fn duplicates_and_padding_are_told_apart() {
        let now = Instant::now();
        let mut layer = Layer::new(MediaKind::Audio);
        let first = ingest(&mut layer, 1, b"x", now);
        assert!(matches!(first, Ingested::Packet(_)));
        assert_eq!(ingest(&mut layer, 1, b"x", now), Ingested::Duplicate);
        assert!(matches!(ingest(&mut layer, 2, b"", now), Ingested::Padding(_)));
    }

    #[test]
    fn key_frames_are_asked_for_once_however_many_want_one() {
        let now = Instant::now();
        let mut layer = Layer::new(MediaKind::Video);
        layer.ssrc = Some(5);
        for _ in 0..3 {
            layer.want_key_frame();
        }
        assert!(layer.take_key_frame_request(now));
        layer.want_key_frame();
        assert!(!layer.take_key_frame_request(now));
        assert!(layer.take_key_frame_request(now + KEY_FRAME_INTERVAL));
    }
}
