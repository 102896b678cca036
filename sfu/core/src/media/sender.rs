//! One published track on its way to one subscriber: which layer, and under which numbers.

use std::collections::VecDeque;
use std::time::Instant;

use super::Sender;
use super::codec::{Vp8Continuity, Vp8Descriptor};
use super::parameters::{Codec, CodecKind, VideoQuality};
use super::ring::StoredPacket;
use super::rtcp::SenderReport;

/// Packets that can be sent again to a subscriber; as many as the publisher's ring holds.
const HISTORY: usize = 512;

/// A packet's numbers towards the subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outgoing {
    /// Extended sequence number: its high bits are SRTP's rollover counter.
    pub(super) sequence: u64,
    /// RTP ticks.
    pub(super) timestamp: u32,
    /// VP8 picture id and `TL0PICIDX`, where the payload is VP8.
    pub(super) vp8: Option<(u16, u8)>,
}

/// Output minus source numbers of the current layer, by the source number from which they
/// hold. Each padding packet that is left out begins a new one, while a packet from before it
/// that comes late keeps the old: an output number must never mean two packets, since it is
/// SRTP's nonce.
#[derive(Debug, Default)]
struct SequenceOffsets(VecDeque<(u64, i64)>);

impl SequenceOffsets {
    /// Most offsets that are remembered; packets older than those are not sent.
    const BOUND: usize = 32;

    fn restart(&mut self, source: u64, output: u64) {
        self.0.clear();
        self.0.push_back((source, output as i64 - source as i64));
    }

    fn close_up(&mut self, padding: u64) {
        if let Some(&(_, offset)) = self.0.back() {
            if self.0.len() == Self::BOUND {
                self.0.pop_front();
            }
            self.0.push_back((padding + 1, offset - 1));
        }
    }

    /// The output number; `None` for what is older than the layer's first packet.
    fn map(&self, source: u64) -> Option<u64> {
        let (_, offset) = self.0.iter().rev().find(|(from, _)| *from <= source)?;
        source.checked_add_signed(*offset)
    }
}

/// Where a sent packet can be found again.
#[derive(Debug, Clone, Copy)]
struct Sent {
    outgoing: Outgoing,
    layer: u8,
    source: u64,
}

/// Payload types of one published codec towards this subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PayloadTypes {
    pub(super) media: u8,
    pub(super) rtx: Option<u8>,
}

/// State of a forwarded track.
#[derive(Debug)]
pub(super) struct SenderState {
    pub(super) config: Sender,
    /// By the publisher's codec index; `None` where the subscriber cannot decode it.
    payload_types: Vec<Option<PayloadTypes>>,
    /// Layer that is being sent.
    current: Option<u8>,
    offsets: SequenceOffsets,
    timestamp_offset: u32,
    last: Option<LastSent>,
    first_sequence: u64,
    vp8: Vp8Continuity,
    history: Vec<Option<Sent>>,
    rtx_sequence: u64,
    packets: u32,
    octets: u32,
}

#[derive(Debug, Clone, Copy)]
struct LastSent {
    sequence: u64,
    timestamp: u32,
    at: Instant,
    clock_rate: u32,
}

impl SenderState {
    /// A sender whose numbers start at `first_sequence`, which is below 2¹⁵ so that SRTP
    /// receivers see the first wrap (RFC 3711 section 3.3.1).
    pub(super) fn new(config: Sender, first_sequence: u64) -> Self {
        Self {
            config,
            payload_types: Vec::new(),
            current: None,
            offsets: SequenceOffsets::default(),
            timestamp_offset: 0,
            last: None,
            first_sequence,
            vp8: Vp8Continuity::default(),
            history: Vec::new(),
            rtx_sequence: first_sequence,
            packets: 0,
            octets: 0,
        }
    }

    /// Takes what the subscriber wants now.
    pub(super) fn update(&mut self, config: Sender) {
        if config.max_quality.is_none() {
            self.current = None;
        }
        self.config = config;
    }

    /// Fits the subscriber's payload types to the publisher's codecs.
    pub(super) fn set_published_codecs(&mut self, published: &[Codec]) {
        let types = |codec: &Codec| {
            let found = self.config.codecs.iter().find(|ours| ours.matches(codec))?;
            Some(PayloadTypes { media: found.payload_type, rtx: found.rtx_payload_type })
        };
        self.payload_types = published.iter().map(types).collect();
    }

    /// The subscriber's payload types for a codec of the publisher.
    pub(super) fn payload_types(&self, codec: u8) -> Option<PayloadTypes> {
        *self.payload_types.get(usize::from(codec))?
    }

    /// The layer to send, given which are active: the best one that is wanted, else the lowest
    /// one that there is.
    pub(super) fn target(&self, active: &[bool]) -> Option<u8> {
        let top = match (self.config.max_quality?, active.len()) {
            (_, 0) => return None,
            (VideoQuality::Low, _) => 0,
            (VideoQuality::Medium, layers) => 1.min(layers - 1),
            (VideoQuality::High, layers) => layers - 1,
        };
        let is_active = |layer: &usize| active[*layer];
        let wanted =
            (0..=top).rev().find(is_active).or_else(|| (top..active.len()).find(is_active));
        wanted.map(|layer| layer as u8)
    }

    /// Whether the target layer is not what is being sent, so that a key frame of it is needed.
    pub(super) fn waits_for(&self, active: &[bool]) -> Option<u8> {
        self.target(active).filter(|&target| self.current != Some(target))
    }

    /// Whether anything was sent.
    pub(super) fn has_sent(&self) -> bool {
        self.last.is_some()
    }

    /// The layer that is being sent.
    pub(super) fn current(&self) -> Option<u8> {
        self.current
    }

    /// Decides on a packet of `layer`: its numbers, or `None` when it is not for this
    /// subscriber.
    pub(super) fn map(
        &mut self,
        packet: &StoredPacket,
        layer: u8,
        target: Option<u8>,
        clock_rate: u32,
        now: Instant,
    ) -> Option<Outgoing> {
        self.config.max_quality?;
        if self.current != Some(layer) {
            if target != Some(layer) || !packet.key_frame {
                return None;
            }
            self.switch(packet, layer, now);
        }
        let sequence = self.offsets.map(packet.sequence)?;
        let timestamp = packet.timestamp.wrapping_add(self.timestamp_offset);
        let vp8 = (packet.kind == CodecKind::Vp8)
            .then(|| Vp8Descriptor::parse(&packet.payload))
            .flatten()
            .map(|descriptor| self.vp8.map(&descriptor));
        let outgoing = Outgoing { sequence, timestamp, vp8 };
        if self.last.is_none_or(|last| last.sequence < sequence) {
            self.last = Some(LastSent { sequence, timestamp, at: now, clock_rate });
        }
        self.remember(Sent { outgoing, layer, source: packet.sequence });
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(packet.payload.len() as u32);
        Some(outgoing)
    }

    /// A packet of the current layer is padding: the numbers close up, so that the subscriber
    /// does not ask for it.
    pub(super) fn skip(&mut self, source: u64, layer: u8) {
        let next = self.last.map(|last| last.sequence + 1);
        if self.current == Some(layer) && next.is_some() && self.offsets.map(source) == next {
            self.offsets.close_up(source);
        }
    }

    /// The publisher began a layer anew: its numbers have nothing to do with those before.
    pub(super) fn forget_layer(&mut self, layer: u8) {
        if self.current == Some(layer) {
            self.current = None;
        }
    }

    /// The source of a sent packet: numbers, layer and the publisher's sequence number.
    pub(super) fn find(&self, sequence: u16) -> Option<(Outgoing, u8, u64)> {
        let last = self.last?.sequence;
        let behind = (last as u16).wrapping_sub(sequence);
        let sequence = last.checked_sub(u64::from(behind))?;
        let sent = (*self.history.get((sequence % HISTORY as u64) as usize)?)?;
        (sent.outgoing.sequence == sequence).then_some((sent.outgoing, sent.layer, sent.source))
    }

    /// The next extended sequence number of the retransmission stream.
    pub(super) fn next_rtx_sequence(&mut self) -> u64 {
        self.rtx_sequence += 1;
        self.rtx_sequence
    }

    /// A sender report, once something was sent. `clock` is the publisher's NTP and RTP time
    /// at this moment.
    pub(super) fn report(&self, clock: Option<(u64, u32)>) -> Option<SenderReport> {
        self.last?;
        let (ntp, rtp_timestamp) = clock?;
        Some(SenderReport {
            ssrc: self.config.ssrc.ssrc,
            ntp,
            rtp_timestamp: rtp_timestamp.wrapping_add(self.timestamp_offset),
            packets: self.packets,
            octets: self.octets,
        })
    }

    fn switch(&mut self, packet: &StoredPacket, layer: u8, now: Instant) {
        let (sequence, timestamp) = match self.last {
            None => (self.first_sequence, packet.timestamp),
            Some(last) => {
                let elapsed = now.duration_since(last.at).as_secs_f64();
                let ticks = (elapsed * f64::from(last.clock_rate)).max(1.0) as u64;
                (last.sequence + 1, last.timestamp.wrapping_add(ticks as u32))
            }
        };
        self.offsets.restart(packet.sequence, sequence);
        self.timestamp_offset = timestamp.wrapping_sub(packet.timestamp);
        self.current = Some(layer);
        if let Some(descriptor) = Vp8Descriptor::parse(&packet.payload)
            && packet.kind == CodecKind::Vp8
        {
            self.vp8.switch(&descriptor);
        }
    }

    fn remember(&mut self, sent: Sent) {
        if self.history.is_empty() {
            self.history.resize(HISTORY, None);
        }
        self.history[(sent.outgoing.sequence % HISTORY as u64) as usize] = Some(sent);
    }
}

#[cfg(test)]
mod tests;
