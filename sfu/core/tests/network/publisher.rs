//! A publisher as Chromium is one: three layers of video, as simulcast or on one source, with RTX
//! and transport-wide numbers, and Opus. It answers NACK and key frame requests, and paces what it
//! sends.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use sfu_core::media::rtcp::{RtcpMessage, SenderReport, parse, write_sender_report};
use sfu_core::media::{
    Codec, CodecKind, ExtensionIds, MediaKind, Mid, Receiver, Rid, SsrcPair, TrackKey,
};

use crate::encoder::{Encoder, FRAME_RATE};
use crate::endpoint::{RtpPacket, Send};
use crate::scalable::{Form, Place};
use crate::vp8::{self, Frame, Payload};

/// Layers in rising quality: name and bit rate, as livekit-client publishes 720p.
pub(crate) const LAYERS: [(&str, u64); 3] = [("q", 150), ("h", 500), ("f", 1700)];
/// Bit rate of audio, kbit/s.
pub(crate) const AUDIO_KBPS: u64 = 32;
/// Time between audio packets.
pub(crate) const AUDIO_INTERVAL: Duration = Duration::from_millis(20);
/// Payload types.
pub(crate) const VP8: u8 = 96;
pub(crate) const RTX: u8 = 97;
pub(crate) const OPUS: u8 = 111;
/// Header extension ids.
const MID_ID: u8 = 1;
const RID_ID: u8 = 2;
const REPAIRED_RID_ID: u8 = 3;
const LEVEL_ID: u8 = 4;
const TRANSPORT_ID: u8 = 5;
pub(crate) const DEPENDENCY_ID: u8 = 6;
/// Most payload bytes of a packet.
const MAX_PAYLOAD: usize = 1150;
/// Time between the packets of a frame.
const PACING: Duration = Duration::from_micros(400);
/// Packets that can be sent again.
const HISTORY: u64 = 1000;
/// Time between sender reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The codecs of a section with the payload types of these tests, on both sides.
pub(crate) fn codec(kind: CodecKind) -> Codec {
    let is_audio = kind == CodecKind::Opus;
    Codec {
        kind,
        payload_type: if is_audio { OPUS } else { VP8 },
        rtx_payload_type: (!is_audio).then_some(RTX),
        clock_rate: if is_audio { 48_000 } else { 90_000 },
        channels: if is_audio { 2 } else { 1 },
        fmtp: String::new(),
        nack: !is_audio,
        pli: !is_audio,
        transport_cc: true,
        remb: false,
    }
}

/// A source of RTP packets.
struct Source {
    ssrc: u32,
    rtx_ssrc: u32,
    /// Extended number of the last packet.
    index: u64,
    rtx_index: u64,
    timestamp_base: u32,
    clock_rate: u64,
    sent: BTreeMap<u64, RtpPacket>,
    packets: u32,
    octets: u32,
}

impl Source {
    fn new(ssrc: u32, clock_rate: u64) -> Self {
        Self {
            ssrc,
            rtx_ssrc: ssrc + 1,
            index: u64::from(ssrc % 30_000),
            rtx_index: 0,
            timestamp_base: ssrc.wrapping_mul(2_654_435_761),
            clock_rate,
            sent: BTreeMap::new(),
            packets: 0,
            octets: 0,
        }
    }

    fn timestamp(&self, elapsed: Duration) -> u32 {
        let ticks = elapsed.as_micros() as u64 * self.clock_rate / 1_000_000;
        self.timestamp_base.wrapping_add(ticks as u32)
    }

    fn report(&self, elapsed: Duration) -> Vec<u8> {
        let mut compound = Vec::new();
        let report = SenderReport {
            ssrc: self.ssrc,
            ntp: (1000 + elapsed.as_secs()) << 32
                | ((u64::from(elapsed.subsec_nanos()) << 32) / 1_000_000_000),
            rtp_timestamp: self.timestamp(elapsed),
            packets: self.packets,
            octets: self.octets,
        };
        write_sender_report(&mut compound, &report, "publisher");
        compound
    }
}

/// A simulcast layer.
struct Layer {
    source: Source,
    encoder: Encoder,
    picture_id: u16,
    tl0: u8,
    is_on: bool,
}

/// A published track.
struct Track {
    key: TrackKey,
    mid: String,
    next: Instant,
    /// Layers of video; one for audio. Where all are on one source it is that of the first.
    layers: Vec<Layer>,
    is_video: bool,
    /// Number of the last frame of one layer, where all are on one source.
    frame_number: u16,
}

/// A publishing client.
pub(crate) struct Publisher {
    start: Instant,
    form: Form,
    tracks: Vec<Track>,
    pending: VecDeque<(Instant, RtpPacket)>,
    next_report: Instant,
    next_check: Instant,
    transport_sequence: u16,
    /// Key frame requests that came.
    pub(crate) key_frame_requests: u64,
    /// Packets that were asked for again.
    pub(crate) nacked: u64,
    /// Audio packets sent: time of each.
    pub(crate) audio_sent: Vec<Instant>,
}

impl Publisher {
    /// A publisher of the tracks with these keys; SSRCs are multiples of 1000.
    pub(crate) fn new(
        audio: &[TrackKey],
        (video, form): (&[TrackKey], Form),
        seed: u64,
        start: Instant,
        now: Instant,
    ) -> Self {
        let mut tracks = Vec::new();
        for (kind, key) in
            audio.iter().map(|key| (false, *key)).chain(video.iter().map(|key| (true, *key)))
        {
            let base = 1000 * (tracks.len() as u32 + 1) + key.0 as u32 * 100_000;
            let layer = |index: usize, kbps| Layer {
                source: Source::new(base + 10 * index as u32, if kind { 90_000 } else { 48_000 }),
                encoder: Encoder::new(kbps, seed ^ (u64::from(base) + index as u64)),
                picture_id: (base as u16).wrapping_mul(7) & 0x7FFF,
                tl0: base as u8,
                is_on: true,
            };
            // On one source a layer has only what the one below lacks.
            let below = |index: usize| match index.checked_sub(1) {
                Some(below) if form.is_scalable() => LAYERS[below].1,
                Some(_) | None => 0,
            };
            let own = |(index, (_, kbps)): (usize, &(&str, u64))| layer(index, kbps - below(index));
            let layers = match kind {
                true => LAYERS.iter().enumerate().map(own).collect(),
                false => vec![layer(0, AUDIO_KBPS)],
            };
            let mid = tracks.len().to_string();
            let frame_number = 0;
            tracks.push(Track { key, mid, next: now, layers, is_video: kind, frame_number });
        }
        Self {
            start,
            form,
            tracks,
            pending: VecDeque::new(),
            next_report: now + REPORT_INTERVAL,
            next_check: now,
            transport_sequence: 0,
            key_frame_requests: 0,
            nacked: 0,
            audio_sent: Vec::new(),
        }
    }

    /// The sections as the room describes them.
    pub(crate) fn receivers(&self) -> Vec<Receiver> {
        self.tracks
            .iter()
            .map(|track| Receiver {
                mid: Mid(track.mid.clone()),
                track: track.key,
                kind: if track.is_video { MediaKind::Video } else { MediaKind::Audio },
                codecs: vec![codec(if track.is_video {
                    self.form.codec()
                } else {
                    CodecKind::Opus
                })],
                extensions: ExtensionIds {
                    mid: Some(MID_ID),
                    rid: Some(RID_ID),
                    repaired_rid: Some(REPAIRED_RID_ID),
                    audio_level: Some(LEVEL_ID),
                    transport_cc: Some(TRANSPORT_ID),
                    dependency_descriptor: Some(DEPENDENCY_ID),
                    ..ExtensionIds::default()
                },
                rids: match track.is_video && !self.form.is_scalable() {
                    true => LAYERS.iter().map(|(rid, _)| Rid((*rid).to_owned())).collect(),
                    false => Vec::new(),
                },
                ssrcs: match track.is_video {
                    true => Vec::new(),
                    false => vec![SsrcPair { ssrc: track.layers[0].source.ssrc, rtx: None }],
                },
            })
            .collect()
    }

    /// Stops or starts a simulcast layer of all video tracks, as an encoder does that lacks
    /// bandwidth; a layer comes back with a key frame.
    pub(crate) fn set_layer(&mut self, layer: usize, is_on: bool) {
        for track in self.tracks.iter_mut().filter(|track| track.is_video) {
            let layer = &mut track.layers[layer];
            layer.is_on = is_on;
            layer.encoder.request_key_frame();
        }
    }

    /// Takes a compound RTCP packet of the engine.
    pub(crate) fn handle_rtcp(&mut self, compound: &[u8], now: Instant) {
        let mut again = Vec::new();
        parse(compound, |message| match message {
            RtcpMessage::Nack { ssrc, losses } => {
                again.extend(losses.sequences().map(|sequence| (ssrc, sequence)));
            }
            RtcpMessage::KeyFrameRequest { ssrc } => {
                self.key_frame_requests += 1;
                for track in &mut self.tracks {
                    let is_whole = self.form.is_scalable() && track.layers[0].source.ssrc == ssrc;
                    for layer in &mut track.layers {
                        if is_whole || layer.source.ssrc == ssrc {
                            layer.encoder.request_key_frame();
                        }
                    }
                }
            }
            _ => {}
        });
        self.nacked += again.len() as u64;
        for (ssrc, sequence) in again {
            self.retransmit(ssrc, sequence, now);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Instant {
        let frames = self.tracks.iter().map(|track| track.next);
        let paced = self.pending.front().map(|(at, _)| *at);
        let others = [self.next_report, self.next_check];
        frames.chain(paced).chain(others).min().unwrap_or(self.next_check)
    }

    /// What is to be sent at `now`; the flag asks for a connectivity check.
    pub(crate) fn poll_transmit(&mut self, now: Instant, out: &mut Vec<Send>) -> bool {
        for index in 0..self.tracks.len() {
            while self.tracks[index].next <= now {
                let at = self.tracks[index].next;
                match (self.tracks[index].is_video, self.form.is_scalable()) {
                    (true, false) => self.capture(index, at),
                    (true, true) => self.capture_on_one_source(index, at),
                    (false, _) => self.speak(index, at),
                }
            }
        }
        if now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            let elapsed = now - self.start;
            for layer in self.tracks.iter().flat_map(|track| &track.layers) {
                out.push(Send::Rtcp(layer.source.report(elapsed)));
            }
        }
        while self.pending.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, mut packet)) = self.pending.pop_front() else { break };
            let sequence = self.transport_sequence.to_be_bytes().to_vec();
            self.transport_sequence = self.transport_sequence.wrapping_add(1);
            packet.extensions.push((TRANSPORT_ID, sequence));
            out.push(Send::Rtp(packet));
        }
        let checks = now >= self.next_check;
        if checks {
            self.next_check = now + Duration::from_secs(5);
        }
        checks
    }

    fn speak(&mut self, index: usize, at: Instant) {
        let track = &mut self.tracks[index];
        track.next += AUDIO_INTERVAL;
        let source = &mut track.layers[0].source;
        source.index += 1;
        let size = AUDIO_KBPS * 1000 / 8 * AUDIO_INTERVAL.as_millis() as u64 / 1000;
        let packet = RtpPacket {
            marker: false,
            payload_type: OPUS,
            ssrc: source.ssrc,
            index: source.index,
            timestamp: source.timestamp(at - self.start),
            extensions: vec![(MID_ID, track.mid.clone().into_bytes()), (LEVEL_ID, vec![0x80 | 30])],
            payload: vec![0x5A; size as usize],
        };
        self.audio_sent.push(at);
        self.pending.push_front((at, packet));
    }

    /// Encodes a picture in every layer.
    fn capture(&mut self, index: usize, at: Instant) {
        let elapsed = at - self.start;
        let track = &mut self.tracks[index];
        track.next += Duration::from_secs(1) / FRAME_RATE as u32;
        let mut due = self.pending.back().map_or(at, |(last, _)| at.max(*last));
        for (number, layer) in track.layers.iter_mut().enumerate().filter(|(_, l)| l.is_on) {
            let encoded = layer.encoder.encode();
            layer.picture_id = (layer.picture_id + 1) & 0x7FFF;
            layer.tl0 = layer.tl0.wrapping_add(u8::from(encoded.temporal == 0));
            let frame = Frame {
                is_key: encoded.is_key,
                picture_id: layer.picture_id,
                tl0: layer.tl0,
                temporal: encoded.temporal,
                is_sync: encoded.is_sync,
                layer: number as u8,
                captured_ms: elapsed.as_millis() as u32,
            };
            let count = encoded.size.div_ceil(MAX_PAYLOAD).max(1);
            for part in 0..count {
                let source = &mut layer.source;
                source.index += 1;
                source.packets += 1;
                let payload = Payload { frame, starts: part == 0, source: source.index as u32 };
                let payload = vp8::write(payload, encoded.size / count);
                source.octets = source.octets.wrapping_add(payload.len() as u32);
                let packet = RtpPacket {
                    marker: part + 1 == count,
                    payload_type: VP8,
                    ssrc: source.ssrc,
                    index: source.index,
                    timestamp: source.timestamp(elapsed),
                    extensions: vec![
                        (MID_ID, track.mid.clone().into_bytes()),
                        (RID_ID, LAYERS[number].0.as_bytes().to_vec()),
                    ],
                    payload,
                };
                source.sent.insert(source.index, packet.clone());
                if source.sent.len() as u64 > HISTORY {
                    source.sent.pop_first();
                }
                self.pending.push_back((due, packet));
                due += PACING;
            }
        }
    }

    /// Encodes a picture in every layer, each on top of the one below.
    fn capture_on_one_source(&mut self, index: usize, at: Instant) {
        let elapsed = at - self.start;
        let Self { form, tracks, pending, .. } = self;
        let track = &mut tracks[index];
        track.next += Duration::from_secs(1) / FRAME_RATE as u32;
        let mut due = pending.back().map_or(at, |(last, _)| at.max(*last));
        let layers = track.layers.iter_mut().map(|layer| layer.encoder.encode());
        let layers: Vec<_> = layers.collect();
        let base = layers[0];
        let Layer { source, picture_id, tl0, .. } = &mut track.layers[0];
        *picture_id = (*picture_id + 1) & 0x7FFF;
        *tl0 = tl0.wrapping_add(u8::from(base.temporal == 0));
        for (number, encoded) in layers.iter().enumerate() {
            track.frame_number = track.frame_number.wrapping_add(1);
            let frame = Frame {
                is_key: base.is_key,
                picture_id: *picture_id,
                tl0: *tl0,
                temporal: base.temporal,
                is_sync: base.is_sync,
                layer: number as u8,
                captured_ms: elapsed.as_millis() as u32,
            };
            let count = encoded.size.div_ceil(MAX_PAYLOAD).max(1);
            for part in 0..count {
                source.index += 1;
                source.packets += 1;
                let (starts, ends) = (part == 0, part + 1 == count);
                let place = Place { frame, starts, ends, number: track.frame_number };
                let data = Payload { frame, starts, source: source.index as u32 };
                let mut payload = form.head(&place);
                payload.extend(vp8::write(data, encoded.size / count));
                source.octets = source.octets.wrapping_add(payload.len() as u32);
                let mut extensions = vec![(MID_ID, track.mid.clone().into_bytes())];
                extensions.extend(form.descriptor(&place).map(|bytes| (DEPENDENCY_ID, bytes)));
                let packet = RtpPacket {
                    marker: ends && number + 1 == layers.len(),
                    payload_type: VP8,
                    ssrc: source.ssrc,
                    index: source.index,
                    timestamp: source.timestamp(elapsed),
                    extensions,
                    payload,
                };
                source.sent.insert(source.index, packet.clone());
                if source.sent.len() as u64 > HISTORY {
                    source.sent.pop_first();
                }
                pending.push_back((due, packet));
                due += PACING;
            }
        }
    }

    fn retransmit(&mut self, ssrc: u32, sequence: u16, now: Instant) {
        for track in &mut self.tracks {
            for (number, layer) in track.layers.iter_mut().enumerate() {
                let source = &mut layer.source;
                if source.ssrc != ssrc {
                    continue;
                }
                let behind = (source.index as u16).wrapping_sub(sequence);
                let Some(index) = source.index.checked_sub(u64::from(behind)) else { continue };
                let Some(packet) = source.sent.get(&index) else { continue };
                source.rtx_index += 1;
                let mut payload = sequence.to_be_bytes().to_vec();
                payload.extend_from_slice(&packet.payload);
                let repair = RtpPacket {
                    payload_type: RTX,
                    ssrc: source.rtx_ssrc,
                    index: source.rtx_index,
                    extensions: vec![
                        (MID_ID, track.mid.clone().into_bytes()),
                        (REPAIRED_RID_ID, LAYERS[number].0.as_bytes().to_vec()),
                    ],
                    payload,
                    ..packet.clone()
                };
                self.pending.push_front((now, repair));
            }
        }
    }
}
