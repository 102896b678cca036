//! One stream of a published track (a layer of simulcast): its packets, what is missing of it,
//! and how it is received.

mod rates;
mod statistics;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::MediaKind;
use super::codec::{MAX_TEMPORAL, PayloadReader};
use super::nack::NackGenerator;
use super::parameters::{Codec, ExtensionIds};
use super::ring::{AUDIO_PACKETS, NewPacket, PacketRing, StoredPacket, VIDEO_PACKETS};
use super::rtcp::ReportBlock;
use super::rtp::{RtpHeader, Unwrapper};

use rates::LayerRates;
use statistics::Statistics;

pub(super) use statistics::Received;

/// A layer that sent nothing for this long does not count as active.
const SILENCE: Duration = Duration::from_secs(2);
/// A layer that missed this many pictures while another layer sent on was stopped by its encoder,
/// which lacks bandwidth; the bounds are for layers of a high and of a low frame rate.
const MISSED_PICTURES: f64 = 6.0;
const STOPPED: Duration = Duration::from_millis(250);
/// Time between key frame requests: one upstream however many subscribers ask.
const KEY_FRAME_INTERVAL: Duration = Duration::from_millis(500);
/// Most requests for a key frame that does not come; somebody who still needs it asks again.
const MAX_KEY_FRAME_REQUESTS: u8 = 10;

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
    reader: PayloadReader,
    rates: LayerRates,
    wants_nack: bool,
    nack: NackGenerator,
    statistics: Statistics,
    last_packet: Option<Instant>,
    /// How often to ask for a key frame unless one comes.
    key_frame_requests: u8,
    last_key_frame_request: Option<Instant>,
    /// NTP and RTP time of the last sender report, and when it came.
    sender_report: Option<(u64, u32, Instant)>,
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
            reader: PayloadReader::default(),
            rates: LayerRates::default(),
            wants_nack: false,
            nack: NackGenerator::default(),
            statistics: Statistics::default(),
            last_packet: None,
            key_frame_requests: 0,
            last_key_frame_request: None,
            sender_report: None,
        }
    }

    /// The kept packets.
    pub(super) fn ring(&self) -> &PacketRing {
        &self.ring
    }

    /// The kept packet with these low bits of its extended number.
    pub(super) fn find(&self, low: u32) -> Option<&Arc<StoredPacket>> {
        let highest = self.sequence.highest()?;
        let behind = (highest as u32).wrapping_sub(low);
        self.ring.get(highest.checked_sub(u64::from(behind))?)
    }

    /// Whether a packet that has not come will not come any more.
    pub(super) fn has_given_up(&self, sequence: u64) -> bool {
        let is_old = self.sequence.highest().is_some_and(|highest| sequence < highest);
        is_old && self.wants_nack && !self.nack.awaits(sequence)
    }

    /// The kept packets behind `sequence`, in order.
    pub(super) fn after(&self, sequence: u64) -> impl Iterator<Item = &Arc<StoredPacket>> {
        let highest = self.sequence.highest().unwrap_or(sequence);
        (sequence + 1..=highest).filter_map(|later| self.ring.get(later))
    }

    /// Bits a second up to a spatial layer, once known.
    pub(super) fn rate(&self, spatial: u8) -> Option<f64> {
        self.rates.rate(spatial)
    }

    /// Spatial layers that the stream has.
    pub(super) fn spatial_layers(&self) -> u8 {
        self.rates.spatial_layers().max(self.reader.max_spatial().map_or(0, |max| max + 1))
    }

    /// Highest temporal layer that stays within a frame rate.
    pub(super) fn temporal_for(&self, frame_rate: Option<u32>) -> u8 {
        frame_rate.map_or(MAX_TEMPORAL - 1, |limit| self.rates.temporal_for(limit))
    }

    /// The publisher ended the stream (RFC 3550 section 6.6).
    pub(super) fn end(&mut self) {
        self.last_packet = None;
    }

    /// What came since the last call.
    pub(super) fn take_received(&mut self) -> Received {
        let mut received = self.statistics.take_received(self.sequence.highest());
        received.jitter_ms *= 1000.0 / f64::from(self.clock_rate);
        received
    }

    /// Whether something of this stream is to be asked for.
    pub(super) fn is_restless(&self) -> bool {
        self.key_frame_requests > 0 || (self.wants_nack && self.nack.poll_timeout().is_some())
    }

    /// When the last packet came.
    pub(super) fn last_packet(&self) -> Option<Instant> {
        self.last_packet
    }

    /// Whether packets come, when the last one of any layer of the track came at `newest`.
    pub(super) fn is_active(&self, newest: Option<Instant>, now: Instant) -> bool {
        let Some(last) = self.last_packet else { return false };
        let behind = newest.map_or(Duration::ZERO, |newest| newest.saturating_duration_since(last));
        now.duration_since(last) < SILENCE && behind < self.patience()
    }

    /// How long another layer may send alone before this one counts as stopped.
    fn patience(&self) -> Duration {
        let pictures = self.rates.frame_rate();
        if pictures < MISSED_PICTURES / SILENCE.as_secs_f64() {
            return SILENCE;
        }
        Duration::from_secs_f64(MISSED_PICTURES / pictures).max(STOPPED)
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
        self.wants_nack = codec.1.nack;
        if !self.nack.received(sequence, now) {
            self.want_key_frame();
        }
        self.statistics.received(sequence, header.timestamp, self.clock_rate, payload.len(), now);
        if payload.is_empty() {
            return Ingested::Padding(sequence);
        }
        self.last_packet = Some(now);
        let value = |id| header.extension(packet, id);
        let dependency_descriptor = value(extensions.dependency_descriptor);
        let info = self.reader.read(codec.1.kind, payload, dependency_descriptor);
        self.note_key_frame(info.key_frame);
        self.rates.add(&info, header.marker, payload.len(), now);
        let kept = self.ring.insert(&NewPacket {
            sequence,
            timestamp: header.timestamp,
            marker: header.marker,
            codec: codec.0,
            kind: codec.1.kind,
            info,
            audio_level: value(extensions.audio_level).and_then(|value| value.first().copied()),
            video_orientation: value(extensions.video_orientation)
                .and_then(|value| value.first().copied()),
            abs_capture_time: value(extensions.abs_capture_time),
            playout_delay: value(extensions.playout_delay)
                .and_then(|value| value.first_chunk().copied()),
            dependency_descriptor,
            payload,
        });
        if kept.is_some() { Ingested::Packet(sequence) } else { Ingested::Duplicate }
    }

    /// Takes a packet that another engine received; `false` when it was taken before.
    pub(super) fn take_shared(
        &mut self,
        packet: Arc<StoredPacket>,
        clock_rate: u32,
        now: Instant,
    ) -> bool {
        self.clock_rate = clock_rate;
        self.sequence.note(packet.sequence);
        self.last_packet = Some(now);
        self.note_key_frame(packet.info.key_frame);
        self.rates.add(&packet.info, packet.marker, packet.payload.len(), now);
        self.ring.insert_shared(packet).is_some()
    }

    /// Another source continues this layer: numbers start anew.
    pub(super) fn restart(&mut self, ssrc: u32, kind: MediaKind) {
        let key_frame_requests = self.key_frame_requests;
        *self = Self { ssrc: Some(ssrc), key_frame_requests, ..Self::new(kind) };
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
        self.key_frame_requests = if self.is_video { MAX_KEY_FRAME_REQUESTS } else { 0 };
    }

    fn note_key_frame(&mut self, has_come: bool) {
        if has_come {
            self.key_frame_requests = 0;
        }
    }

    /// Whether to ask the publisher for a key frame at `now`: until one comes, since the request
    /// may be lost.
    pub(super) fn take_key_frame_request(&mut self, now: Instant) -> bool {
        let is_early = self
            .last_key_frame_request
            .is_some_and(|last| now.duration_since(last) < KEY_FRAME_INTERVAL);
        if self.key_frame_requests == 0 || is_early || self.ssrc.is_none() {
            return false;
        }
        self.key_frame_requests -= 1;
        self.last_key_frame_request = Some(now);
        true
    }

    /// Appends what to ask the publisher for again.
    pub(super) fn due_nacks(&mut self, now: Instant, lost: &mut Vec<u16>) {
        if self.wants_nack {
            self.nack.due(now, lost);
        }
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
            remb: false,
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
        let mut again = now;
        for _ in 1..=MAX_KEY_FRAME_REQUESTS {
            again += KEY_FRAME_INTERVAL;
            assert!(layer.take_key_frame_request(again));
        }
        assert!(!layer.take_key_frame_request(again + KEY_FRAME_INTERVAL), "it is bounded");
    }

    #[test]
    fn a_key_frame_that_came_is_not_asked_for_again() {
        let now = Instant::now();
        let mut layer = Layer::new(MediaKind::Video);
        layer.ssrc = Some(5);
        layer.want_key_frame();
        assert!(layer.take_key_frame_request(now));
        layer.note_key_frame(false);
        assert!(layer.take_key_frame_request(now + KEY_FRAME_INTERVAL));
        layer.note_key_frame(true);
        assert!(!layer.take_key_frame_request(now + 2 * KEY_FRAME_INTERVAL));
        assert!(!layer.is_restless());
    }
}
