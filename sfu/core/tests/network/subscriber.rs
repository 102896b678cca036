//! A subscriber as libwebrtc is one: it asks for lost packets and key frames, reports, and tells
//! the sender when packets came or what it thinks the network carries.

use std::time::{Duration, Instant};

use sfu_core::media::rtcp::{RtcpMessage, parse, write_nack, write_pli, write_receiver_report};
use sfu_core::media::rtp::RtpHeader;
use sfu_core::media::{
    CodecKind, ExtensionIds, MediaKind, Mid, Sender, SsrcPair, TrackKey, VideoQuality,
};

use crate::assembler::Assembler;
use crate::endpoint::Send;
use crate::feedback::TransportFeedback;
use crate::in_order::InOrder;
use crate::playout::Playout;
use crate::publisher::{DEPENDENCY_ID, codec};
use crate::reception::{Arrival, Reception};
use crate::remb::{self, Remb};
use crate::scalable::Form;
use crate::vp8;

/// Our source in feedback.
const SENDER: u32 = 1;
/// Header extension id of transport-wide numbers.
const TRANSPORT_ID: u8 = 5;
/// The same of `abs-send-time`.
const TIME_ID: u8 = 6;
/// Longest wait for a decodable frame, for a key frame, and since packets came that justify it.
const FRAME_PATIENCE: Duration = Duration::from_secs(3);
const KEY_FRAME_PATIENCE: Duration = Duration::from_millis(200);
const RECENT: Duration = Duration::from_secs(5);
/// Time between receiver reports and between looks at what is missing.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
const NACK_INTERVAL: Duration = Duration::from_millis(20);
/// Time between connectivity checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// How a subscriber tells what it receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FeedbackMode {
    /// Transport-wide feedback, this often.
    TransportWide(Duration),
    /// REMB.
    Remb,
    /// Receiver reports only.
    Reports,
}

/// A track that is received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) track: TrackKey,
    pub(crate) kind: MediaKind,
    pub(crate) form: Form,
    /// Decoded in the order of numbers, and asked for only when more is missed, as aiortc does.
    pub(crate) in_order: bool,
    pub(crate) quality: Option<VideoQuality>,
    pub(crate) priority: u32,
    /// Retransmissions on a stream of their own.
    pub(crate) has_rtx: bool,
}

/// A received track.
pub(crate) struct Stream {
    pub(crate) wanted: Wanted,
    pub(crate) ssrc: SsrcPair,
    pub(crate) reception: Reception,
    rtx: Option<Reception>,
    assembler: Assembler,
    order: Option<InOrder<(Option<vp8::Payload>, bool, u32)>>,
    /// More is missing than when it was asked for last.
    misses_more: bool,
    pub(crate) playout: Playout,
    waits_for_key_since: Option<Instant>,
    last_decoded: Option<Instant>,
    last_request: Option<Instant>,
    /// Audio packets: when each came.
    pub(crate) heard: Vec<Instant>,
}

enum Feedback {
    TransportWide(TransportFeedback, Duration),
    /// With the difference of the clocks by the first packet, in seconds.
    Remb(Remb, Option<f64>),
    Reports,
}

/// A subscribing client.
pub(crate) struct Subscriber {
    start: Instant,
    /// What it takes a repair to come at least.
    round_trip: Duration,
    feedback: Feedback,
    pub(crate) streams: Vec<Stream>,
    next_feedback: Instant,
    next_report: Instant,
    next_nack: Instant,
    next_check: Instant,
    /// Key frames that were asked for.
    pub(crate) key_frame_requests: u64,
}

impl Subscriber {
    pub(crate) fn new(
        mode: FeedbackMode,
        round_trip: Duration,
        start: Instant,
        now: Instant,
    ) -> Self {
        let feedback = match mode {
            FeedbackMode::TransportWide(interval) => {
                Feedback::TransportWide(TransportFeedback::new(start), interval)
            }
            FeedbackMode::Remb => Feedback::Remb(Remb::new(), None),
            FeedbackMode::Reports => Feedback::Reports,
        };
        Self {
            start,
            round_trip: round_trip.max(NACK_INTERVAL),
            feedback,
            streams: Vec::new(),
            next_feedback: now,
            next_report: now + REPORT_INTERVAL,
            next_nack: now,
            next_check: now,
            key_frame_requests: 0,
        }
    }

    /// Wants these tracks from now on; those known by track go on.
    pub(crate) fn want(&mut self, wanted: &[Wanted]) {
        for wanted in wanted {
            match self.streams.iter_mut().find(|stream| stream.wanted.track == wanted.track) {
                Some(stream) => stream.wanted = *wanted,
                None => self.streams.push(Stream::new(*wanted, self.start)),
            }
        }
        self.streams.retain(|stream| wanted.iter().any(|w| w.track == stream.wanted.track));
    }

    /// The sections as the room describes them to the engine.
    pub(crate) fn senders(&self) -> Vec<Sender> {
        let transport_cc = matches!(self.feedback, Feedback::TransportWide(..));
        self.streams
            .iter()
            .map(|stream| {
                let mut codec = codec(match stream.wanted.kind {
                    MediaKind::Audio => CodecKind::Opus,
                    MediaKind::Video => stream.wanted.form.codec(),
                });
                codec.transport_cc = transport_cc;
                codec.rtx_payload_type = codec.rtx_payload_type.filter(|_| stream.wanted.has_rtx);
                Sender {
                    mid: Mid(stream.ssrc.ssrc.to_string()),
                    track: stream.wanted.track,
                    kind: stream.wanted.kind,
                    ssrc: stream.ssrc,
                    codecs: vec![codec],
                    extensions: ExtensionIds {
                        transport_cc: transport_cc.then_some(TRANSPORT_ID),
                        abs_send_time: Some(TIME_ID),
                        dependency_descriptor: Some(DEPENDENCY_ID),
                        ..ExtensionIds::default()
                    },
                    max_quality: stream.wanted.quality,
                    max_frame_rate: None,
                    priority: stream.wanted.priority,
                    may_pause: true,
                    playout_delay: None,
                }
            })
            .collect()
    }

    /// Takes a plain RTP packet that waited for `queued` at the bottleneck.
    pub(crate) fn handle_rtp(
        &mut self,
        header: &RtpHeader,
        packet: &[u8],
        queued: Duration,
        now: Instant,
    ) {
        match &mut self.feedback {
            Feedback::TransportWide(feedback, _) => {
                if let Some([high, low]) = header.extension(packet, Some(TRANSPORT_ID)) {
                    feedback.received(u16::from_be_bytes([*high, *low]), now);
                }
            }
            Feedback::Remb(remb, difference) => {
                if let Some(stamp) = header.extension(packet, Some(TIME_ID)) {
                    check_time(stamp, difference, now.saturating_duration_since(self.start));
                }
                remb.received(packet.len(), queued, now);
            }
            Feedback::Reports => {}
        }
        let payload = header.payload(packet).unwrap();
        let stream = self
            .streams
            .iter_mut()
            .find(|stream| stream.ssrc.ssrc == header.ssrc || stream.ssrc.rtx == Some(header.ssrc));
        if let Some(stream) = stream {
            stream.take(header, payload, self.start, now);
        }
    }

    /// Takes a compound RTCP packet.
    pub(crate) fn handle_rtcp(&mut self, compound: &[u8], now: Instant) {
        parse(compound, |message| {
            if let RtcpMessage::SenderReport { ssrc, ntp, .. } = message
                && let Some(stream) = self.streams.iter_mut().find(|s| s.ssrc.ssrc == ssrc)
            {
                stream.reception.handle_sender_report(ntp, now);
            }
        });
    }

    pub(crate) fn poll_timeout(&self) -> Instant {
        self.next_feedback.min(self.next_report).min(self.next_nack).min(self.next_check)
    }

    /// What is to be sent at `now`; the flag asks for a connectivity check.
    pub(crate) fn poll_transmit(&mut self, now: Instant, out: &mut Vec<Send>) -> bool {
        if now >= self.next_feedback {
            self.send_feedback(now, out);
        }
        if now >= self.next_nack {
            self.next_nack = now + NACK_INTERVAL;
            for stream in &mut self.streams {
                stream.ask(self.round_trip, &mut self.key_frame_requests, now, out);
            }
        }
        if now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            let blocks: Vec<_> =
                self.streams.iter_mut().flat_map(|stream| stream.reports(now)).collect();
            let mut compound = Vec::new();
            write_receiver_report(&mut compound, SENDER, &blocks, "subscriber");
            out.push(Send::Rtcp(compound));
        }
        let checks = now >= self.next_check;
        if checks {
            self.next_check = now + CHECK_INTERVAL;
        }
        checks
    }

    fn send_feedback(&mut self, now: Instant, out: &mut Vec<Send>) {
        match &mut self.feedback {
            Feedback::TransportWide(feedback, interval) => {
                self.next_feedback = now + *interval;
                let media = self.streams.first().map_or(0, |stream| stream.ssrc.ssrc);
                out.extend(feedback.poll(SENDER, media).into_iter().map(Send::Rtcp));
            }
            Feedback::Remb(remb, difference) => {
                let hears = self.streams.iter().any(|stream| !stream.heard.is_empty());
                assert!(difference.is_some() || !hears, "no packet tells when it was sent");
                self.next_feedback = now + remb::INTERVAL;
                let media: Vec<u32> = self.streams.iter().map(|s| s.ssrc.ssrc).collect();
                out.extend(remb.poll(SENDER, &media, now).map(Send::Rtcp));
            }
            Feedback::Reports => self.next_feedback = now + REPORT_INTERVAL,
        }
    }
}

/// Packets tell when they were sent, by the clock of which the first told.
fn check_time(stamp: &[u8], difference: &mut Option<f64>, now: Duration) {
    let [high, middle, low] = *stamp else { panic!("{stamp:?} is not abs-send-time") };
    let sent = f64::from(u32::from_be_bytes([0, high, middle, low])) / f64::from(1 << 18);
    let found = (now.as_secs_f64() - sent).rem_euclid(64.0);
    let apart = (found - *difference.get_or_insert(found) + 32.0).rem_euclid(64.0) - 32.0;
    assert!(apart.abs() < 5.0, "sent {apart} s from when it came");
}

impl Stream {
    fn new(wanted: Wanted, start: Instant) -> Self {
        let base = 50_000 + 10 * wanted.track.0 as u32;
        let is_video = wanted.kind == MediaKind::Video;
        let rtx = (is_video && wanted.has_rtx).then_some(base + 1);
        let clock_rate = if is_video { 90_000 } else { 48_000 };
        Self {
            wanted,
            ssrc: SsrcPair { ssrc: base, rtx },
            reception: Reception::new(base, clock_rate),
            rtx: rtx.map(|ssrc| Reception::new(ssrc, clock_rate)),
            assembler: Assembler::new(wanted.form),
            order: wanted.in_order.then(InOrder::new),
            misses_more: false,
            playout: Playout::new(start),
            waits_for_key_since: None,
            last_decoded: None,
            last_request: None,
            heard: Vec::new(),
        }
    }

    /// Pictures with a layer that has nothing to refer to.
    pub(crate) fn in_vain(&self) -> u64 {
        self.assembler.in_vain
    }

    fn take(&mut self, header: &RtpHeader, payload: &[u8], start: Instant, now: Instant) {
        let is_rtx = Some(header.ssrc) == self.ssrc.rtx;
        let (mut sequence, mut payload) = (header.sequence, payload);
        if is_rtx {
            if let Some(rtx) = &mut self.rtx {
                rtx.take(sequence, header.timestamp, false, start, now);
            }
            // A shorter payload is a probe (RFC 4588 section 4).
            let Some((original, rest)) = payload.split_first_chunk() else { return };
            (sequence, payload) = (u16::from_be_bytes(*original), rest);
        }
        let missed = self.reception.missing().count();
        let index = match self.reception.take(sequence, header.timestamp, is_rtx, start, now) {
            Arrival::Known => return,
            Arrival::New(index) => index,
            Arrival::Overrun(index) => {
                self.waits_for_key_since = Some(now);
                index
            }
        };
        if self.wanted.kind == MediaKind::Audio {
            return self.heard.push(now);
        }
        if self.last_decoded.is_none() {
            self.waits_for_key_since.get_or_insert(now);
        }
        let payload = self.wanted.form.data(payload);
        let parsed = vp8::parse(payload);
        assert!(payload.is_empty() || parsed.is_some(), "{header:?} carries what nobody published");
        self.misses_more |= self.reception.missing().count() > missed;
        let packet = (parsed, header.marker, header.timestamp);
        let ready = match &mut self.order {
            None => vec![(index, packet)],
            Some(order) => {
                let given_up = order.given_up;
                let ready = order.insert(index, packet);
                if order.given_up > given_up {
                    self.waits_for_key_since = Some(now - KEY_FRAME_PATIENCE);
                }
                ready
            }
        };
        let mut pictures = Vec::new();
        for (index, (parsed, marker, timestamp)) in ready {
            pictures.extend(self.assembler.insert(index, parsed, marker, timestamp));
        }
        for picture in pictures {
            self.playout.show(picture.frame.captured_ms, picture.frame.layer, now);
            self.last_decoded = Some(now);
            if picture.frame.is_key {
                self.waits_for_key_since = None;
            }
        }
    }

    /// NACK for what is missing; a key frame request for what cannot be decoded.
    fn ask(&mut self, round_trip: Duration, requests: &mut u64, now: Instant, out: &mut Vec<Send>) {
        if self.wanted.kind == MediaKind::Audio {
            return;
        }
        let lost = match &self.order {
            None => self.reception.due(round_trip, now),
            Some(order) => {
                let is_missed = std::mem::take(&mut self.misses_more);
                let next = order.next().filter(|_| is_missed).unwrap_or(u64::MAX);
                let lost = self.reception.missing().filter(|index| *index >= next);
                lost.map(|index| index as u16).collect()
            }
        };
        if !lost.is_empty() {
            let mut nack = Vec::new();
            write_nack(&mut nack, SENDER, self.ssrc.ssrc, &lost);
            out.push(Send::Rtcp(nack));
        }
        let since = |at: Option<Instant>| at.map(|at| now - at);
        if since(self.reception.last_packet).is_none_or(|last| last > RECENT) {
            return;
        }
        if since(self.last_decoded).is_some_and(|last| last > FRAME_PATIENCE) {
            self.waits_for_key_since.get_or_insert(now - KEY_FRAME_PATIENCE);
        }
        let waits = since(self.waits_for_key_since).is_some_and(|wait| wait >= KEY_FRAME_PATIENCE);
        let asked = since(self.last_request).is_some_and(|asked| asked < KEY_FRAME_PATIENCE);
        if waits && !asked {
            self.last_request = Some(now);
            *requests += 1;
            let mut pli = Vec::new();
            write_pli(&mut pli, SENDER, self.ssrc.ssrc);
            out.push(Send::Rtcp(pli));
        }
    }

    fn reports(&mut self, now: Instant) -> Vec<sfu_core::media::rtcp::ReportBlock> {
        let rtx = self.rtx.as_mut().and_then(|rtx| rtx.report(now));
        self.reception.report(now).into_iter().chain(rtx).collect()
    }
}
