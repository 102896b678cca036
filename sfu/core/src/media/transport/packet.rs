//! Writing and sealing packets for one subscriber, when they leave.

use std::time::{Duration, Instant};

use super::super::bandwidth::Bandwidth;
use super::super::codec::Vp8Descriptor;
use super::super::parameters::{CodecKind, ExtensionIds, MediaKind, PlayoutDelay};
use super::super::ring::StoredPacket;
use super::super::rtp::{HeaderFields, write_header};
use super::super::sender::SenderState;
use super::Transport;
use super::outbox::{Pending, Run};

/// Bytes of padding in one packet at most: the count is one byte.
const MAX_PADDING: u8 = 255;
/// Most padding packets at once.
const MAX_PADDING_PACKETS: usize = 64;
/// A packet is padded to leave in one run with its neighbours by at most this part of its size:
/// packets of one picture often differ by a byte, and a run costs more than some bytes.
const ALIGNMENT: usize = 16;
/// Sound is padded by at most so many bytes: sizes of a codec with variable rate differ by less,
/// and every datagram of its own costs the network more.
const SOUND_ALIGNMENT: usize = 40;
/// Extensions that a packet may carry to a subscriber.
const MAX_EXTENSIONS: usize = 6;

/// A size that lets packets leave in one run.
#[derive(Debug, Clone, Copy, Default)]
enum Aim {
    /// It leaves alone, or nobody knows yet.
    #[default]
    Nothing,
    /// That of the packets before it.
    Packet(usize),
    /// That of the largest payload behind it.
    Payload(usize),
}

/// What is written of a packet.
#[derive(Default)]
struct Frame<'a> {
    fields: HeaderFields,
    /// SRTP's packet index.
    index: u64,
    /// Original sequence number of a retransmission.
    original: Option<u16>,
    packet: Option<&'a StoredPacket>,
    payload: &'a [u8],
    /// Picture id and `TL0PICIDX` to write.
    vp8: Option<(u16, u8)>,
    padding: u8,
    /// What it shall be as large as, where it nearly is.
    aim: Aim,
    /// Most padding that is worth it, beyond a share of the packet.
    patience: usize,
    /// The subscriber shall tell when it came.
    is_told: bool,
    /// Time since the transport began.
    age: Duration,
}

impl Frame<'_> {
    /// Bytes of padding for a packet that has `length` bytes without.
    fn padding_of(&self, length: usize) -> u8 {
        let missing = match self.aim {
            Aim::Nothing => 0,
            Aim::Packet(size) => size.saturating_sub(length),
            Aim::Payload(size) => size.saturating_sub(self.payload.len()),
        };
        let most = (length / ALIGNMENT).max(self.patience);
        match u8::try_from(missing) {
            Ok(bytes) if missing <= most => bytes.max(self.padding),
            Ok(_) | Err(_) => self.padding,
        }
    }
}

impl Transport {
    /// Writes what may leave now into `arena` and hands it out in runs; counts the media
    /// packets.
    pub(in super::super) fn flush(
        &mut self,
        arena: &mut Vec<u8>,
        now: Instant,
        mut send: impl FnMut(&[u8], usize),
    ) -> u64 {
        for datagram in self.outbox.take_control() {
            send(&datagram, datagram.len());
        }
        let pace = self.bandwidth.as_ref().and_then(|bandwidth| bandwidth.pacing_rate(now));
        self.outbox.refill(pace, now);
        arena.clear();
        let (mut run, mut count) = (Run::default(), 0);
        let largest = self.outbox.largest_urgent();
        while let Some(pending) = self.outbox.pop() {
            let start = arena.len();
            // What comes last may be shorter.
            let aim = match run.open_size() {
                _ if self.outbox.is_empty() => Aim::Nothing,
                Some(size) => Aim::Packet(size),
                None => Aim::Payload(largest),
            };
            if self.write(arena, &pending, aim, now) {
                self.outbox.spend(arena.len() - start);
                run.add(arena, start, &mut send);
                count += 1;
            }
        }
        if self.padding > 0 {
            self.write_padding(arena, &mut run, now, &mut send);
        }
        run.send(arena, &mut send);
        count
    }

    /// Appends a packet to `arena`, with the size that is aimed at where it nearly has it; `false`
    /// when that cannot be.
    fn write(&mut self, arena: &mut Vec<u8>, pending: &Pending, aim: Aim, now: Instant) -> bool {
        let Some((_, outbound)) = &self.srtp else { return false };
        if let Pending::Media { packet, outgoing, .. } = pending
            && outgoing.primary_only
            && outgoing.payload(packet).is_empty()
        {
            return false;
        }
        let (&Pending::Media { sender, payload_type, .. }
        | &Pending::Repeat { sender, payload_type, .. }
        | &Pending::Void { sender, payload_type, .. }
        | &Pending::Fill { sender, payload_type, .. }) = pending;
        let Some(state) = self.senders.get_mut(usize::from(sender)) else { return false };
        let ssrc = state.ssrc();
        let header = |ssrc, index: u64, timestamp, marker| HeaderFields {
            marker,
            payload_type,
            sequence: index as u16,
            timestamp,
            ssrc,
        };
        let frame = match pending {
            Pending::Media { packet, outgoing, .. } => Frame {
                fields: header(ssrc.ssrc, outgoing.sequence, outgoing.timestamp, outgoing.marker),
                index: outgoing.sequence,
                packet: Some(packet),
                payload: outgoing.payload(packet),
                vp8: outgoing.vp8,
                ..Frame::default()
            },
            Pending::Repeat { packet, outgoing, .. } => {
                let Some(rtx) = ssrc.rtx else { return false };
                let index = state.next_rtx_sequence();
                Frame {
                    fields: header(rtx, index, outgoing.timestamp, outgoing.marker),
                    index,
                    original: Some(outgoing.sequence as u16),
                    packet: Some(packet),
                    payload: outgoing.payload(packet),
                    vp8: outgoing.vp8,
                    ..Frame::default()
                }
            }
            Pending::Void { sequence, .. } => {
                let Some(rtx) = ssrc.rtx else { return false };
                let (index, timestamp) = (state.next_rtx_sequence(), state.time_at(*sequence));
                Frame {
                    fields: header(rtx, index, timestamp, false),
                    index,
                    original: Some(*sequence as u16),
                    ..Frame::default()
                }
            }
            Pending::Fill { sequence, .. } => {
                let timestamp = state.last_timestamp().unwrap_or_default();
                let fields = header(ssrc.ssrc, *sequence, timestamp, false);
                Frame { fields, index: *sequence, padding: 1, ..Frame::default() }
            }
        };
        let aim = if frame.original.is_none() { aim } else { Aim::Nothing };
        let patience = if state.config.kind == MediaKind::Audio { SOUND_ALIGNMENT } else { 0 };
        let age = now.saturating_duration_since(self.began);
        let frame = Frame { aim, patience, is_told: self.is_told, age, ..frame };
        seal(arena, outbound, state, &mut self.bandwidth, &frame, now)
    }

    /// Writes the padding that is due, on a retransmission stream, to learn of spare bandwidth.
    fn write_padding(
        &mut self,
        arena: &mut Vec<u8>,
        run: &mut Run,
        now: Instant,
        send: &mut impl FnMut(&[u8], usize),
    ) {
        let (Some((_, outbound)), bytes) = (&self.srtp, std::mem::take(&mut self.padding)) else {
            return;
        };
        let follows_receiver = self.bandwidth.as_ref().is_some_and(|b| b.follows_receiver());
        let takes_padding = |state: &&mut SenderState| {
            let is_counted = state.config.extensions.transport_cc.is_some();
            (is_counted || follows_receiver) && state.ssrc().rtx.is_some() && state.has_sent()
        };
        let Some(state) = self.senders.iter_mut().find(takes_padding) else { return };
        let types = state.config.codecs.iter().find_map(|codec| codec.rtx_payload_type);
        let (Some(payload_type), Some(ssrc)) = (types, state.ssrc().rtx) else { return };
        let end = arena.len() + bytes;
        for _ in 0..MAX_PADDING_PACKETS {
            let start = arena.len();
            if start >= end {
                break;
            }
            let index = state.next_rtx_sequence();
            let fields = HeaderFields {
                marker: false,
                payload_type,
                sequence: index as u16,
                timestamp: state.last_timestamp().unwrap_or_default(),
                ssrc,
            };
            let padding = MAX_PADDING;
            let age = now.saturating_duration_since(self.began);
            let frame = Frame { fields, index, padding, is_told: true, age, ..Frame::default() };
            if !seal(arena, outbound, state, &mut self.bandwidth, &frame, now) {
                break;
            }
            self.outbox.spend(arena.len() - start);
            run.add(arena, start, send);
        }
    }
}

/// What tells a subscriber's estimate of bandwidth from our side.
struct Stamp {
    id: u8,
    value: [u8; 3],
    length: usize,
}

impl Stamp {
    /// The packet's number, where the subscriber tells when it came. Else the time, by which the
    /// subscriber estimates itself (`abs-send-time`), where it wants that.
    fn new(
        ids: &ExtensionIds,
        transport_cc: Option<u8>,
        bandwidth: &mut Option<Box<Bandwidth>>,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Option<Self> {
        if let Some(id) = transport_cc {
            let bandwidth = bandwidth.get_or_insert_with(|| Box::new(Bandwidth::new(now)));
            let [high, low] = bandwidth.next_sequence().to_be_bytes();
            return Some(Self { id, value: [high, low, 0], length: 2 });
        }
        let id = ids.abs_send_time.filter(|_| ids.transport_cc.is_none())?;
        // Seconds with 18 bits behind the point, of which 24 are sent.
        let time = (frame.age.as_micros() << 18) / 1_000_000;
        let [.., high, middle, low] = time.to_be_bytes();
        Some(Self { id, value: [high, middle, low], length: 3 })
    }

    fn bytes(&self) -> &[u8] {
        &self.value[..self.length]
    }
}

/// Appends a sealed packet to `arena`; `false` when that cannot be.
fn seal(
    arena: &mut Vec<u8>,
    outbound: &super::Outbound,
    state: &SenderState,
    bandwidth: &mut Option<Box<Bandwidth>>,
    frame: &Frame<'_>,
    now: Instant,
) -> bool {
    let start = arena.len();
    let ids = &state.config.extensions;
    // What is sent again must be the same bytes or on another source: without retransmission
    // stream a packet must not depend on when it is sent.
    let is_counted = state.config.kind == MediaKind::Audio || state.ssrc().rtx.is_some();
    let transport_cc = ids.transport_cc.filter(|_| is_counted && frame.is_told);
    let stamp = is_counted.then(|| Stamp::new(ids, transport_cc, bandwidth, frame, now)).flatten();
    let delay = state.config.playout_delay.filter(|_| is_counted && frame.packet.is_some());
    let delay = delay.map(PlayoutDelay::to_extension);
    let header_length = write_headers(arena, frame, ids, stamp.as_ref(), delay);
    arena.extend_from_slice(frame.original.map(u16::to_be_bytes).as_ref().map_or(&[], |o| &o[..]));
    let payload_at = arena.len();
    if let Some(packet) = frame.packet {
        arena.extend_from_slice(frame.payload);
        if let Some((picture_id, tl0)) = frame.vp8
            && packet.kind == CodecKind::Vp8
            && let Some(descriptor) = Vp8Descriptor::parse(frame.payload)
        {
            descriptor.rewrite(&mut arena[payload_at..], picture_id, tl0);
        }
    }
    let length = arena.len() - start + outbound.profile().rtp_overhead();
    let padding = if is_counted { frame.padding_of(length) } else { frame.padding };
    if padding > 0 {
        arena.resize(arena.len() + usize::from(padding) - 1, 0);
        arena.push(padding);
        // The padding bit of the header.
        arena[start] |= 0x20;
    }
    let HeaderFields { ssrc, .. } = frame.fields;
    if outbound.protect_rtp(arena, start, header_length, ssrc, frame.index).is_err() {
        arena.truncate(start);
        return false;
    }
    let bytes = arena.len() - start;
    match (transport_cc, bandwidth) {
        (Some(_), Some(bandwidth)) => bandwidth.sent(bytes, now),
        (None, Some(bandwidth)) => bandwidth.sent_untold(bytes, frame.packet.is_none(), now),
        (_, None) => {}
    }
    true
}

fn write_headers(
    arena: &mut Vec<u8>,
    frame: &Frame<'_>,
    ids: &ExtensionIds,
    stamp: Option<&Stamp>,
    delay: Option<[u8; 3]>,
) -> usize {
    let carried = frame.packet.map(|packet| &packet.extensions);
    let level = carried.and_then(|carried| carried.audio_level).map(|level| [level]);
    let orientation = carried.and_then(|carried| carried.video_orientation).map(|value| [value]);
    let playout_delay = delay.or_else(|| carried?.playout_delay);
    let candidates: [(Option<u8>, Option<&[u8]>); MAX_EXTENSIONS] = [
        (stamp.map(|stamp| stamp.id), stamp.map(Stamp::bytes)),
        (ids.audio_level, level.as_ref().map(<[u8; 1]>::as_slice)),
        (ids.video_orientation, orientation.as_ref().map(<[u8; 1]>::as_slice)),
        (ids.playout_delay, playout_delay.as_ref().map(<[u8; 3]>::as_slice)),
        (ids.abs_capture_time, frame.packet.and_then(StoredPacket::abs_capture_time)),
        (ids.dependency_descriptor, frame.packet.and_then(StoredPacket::dependency_descriptor)),
    ];
    let mut extensions: [(u8, &[u8]); MAX_EXTENSIONS] = [(0, &[]); MAX_EXTENSIONS];
    let mut count = 0;
    for (id, value) in candidates {
        if let (Some(id), Some(value)) = (id, value) {
            extensions[count] = (id, value);
            count += 1;
        }
    }
    write_header(arena, frame.fields, &extensions[..count])
}
