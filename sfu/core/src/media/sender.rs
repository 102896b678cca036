//! One published track on its way to one subscriber: which layers, and under which numbers.

mod history;
mod offsets;

use std::time::Instant;

use super::codec::{Vp8Continuity, Vp8Descriptor, primary_block};
use super::parameters::{Codec, CodecKind, MediaKind};
use super::ring::StoredPacket;
use super::rtcp::SenderReport;
use super::{Sender, SsrcPair};

use history::{History, Lookup};
use offsets::SequenceOffsets;

pub(super) use history::Sent;

/// A packet's numbers towards the subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outgoing {
    /// Extended sequence number: its high bits are SRTP's rollover counter.
    pub(super) sequence: u64,
    /// RTP ticks.
    pub(super) timestamp: u32,
    /// Last packet of what the subscriber gets of a picture.
    pub(super) marker: bool,
    /// VP8 picture id and `TL0PICIDX`, where the payload is VP8.
    pub(super) vp8: Option<(u16, u8)>,
    /// Of redundant audio only the newest frame.
    pub(super) primary_only: bool,
}

impl Outgoing {
    /// What the subscriber gets of a packet; empty when that is nothing.
    pub(super) fn payload<'a>(&self, packet: &'a StoredPacket) -> &'a [u8] {
        if !self.primary_only {
            return &packet.payload;
        }
        primary_block(&packet.payload).and_then(|at| packet.payload.get(at..)).unwrap_or_default()
    }
}

/// What a sender does with a packet of its track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Sends it.
    Send(Outgoing),
    /// Sends only its number, as padding: it is not for this subscriber, but the numbers
    /// around it are used already and it would be asked for.
    Fill(u64),
    /// Does not send it.
    Leave,
}

/// The answer to a subscriber that misses a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// The packet that had it.
    Packet(Sent),
    /// Nothing that a decoder needs had it. A subscriber that puts packets in order waits for it
    /// all the same.
    Nothing(u64),
    /// It is for a packet that has not come.
    Hole {
        /// The number.
        sequence: u64,
        /// The publisher's stream.
        stream: u8,
        /// The publisher's extended sequence number.
        source: u64,
    },
}

/// Layers of a track: a stream of simulcast, and the layers within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Selection {
    /// Index of the stream in rising quality.
    pub(super) stream: u8,
    /// Highest spatial layer.
    pub(super) spatial: u8,
    /// Highest temporal layer.
    pub(super) temporal: u8,
}

/// Payload types of one published codec towards this subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PayloadTypes {
    pub(super) media: u8,
    pub(super) rtx: Option<u8>,
    /// The subscriber decodes only what the redundant audio consists of.
    pub(super) primary_only: bool,
}

/// Counts since the start, and what the subscriber reported.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SendStatistics {
    pub(super) packets: u32,
    pub(super) octets: u32,
    /// Lost packets by the subscriber's reports, in all.
    pub(super) lost: f64,
    /// Jitter of the last report, RTP ticks.
    pub(super) jitter: u32,
}

/// State of a forwarded track.
#[derive(Debug)]
pub(super) struct SenderState {
    pub(super) config: Sender,
    /// By the publisher's codec index; `None` where the subscriber cannot decode it.
    payload_types: Vec<Option<PayloadTypes>>,
    /// Layers that shall be sent; `None` pauses.
    target: Option<Selection>,
    /// Layers that are being sent.
    current: Option<Selection>,
    /// The bandwidth does not suffice for any layer.
    pub(super) is_starved: bool,
    offsets: SequenceOffsets,
    /// Highest source number of the current stream that was sent or left out.
    highest_source: u64,
    timestamp_offset: u32,
    last: Option<LastSent>,
    first_sequence: u64,
    /// The first number of the stream that is being sent.
    switched_at: u64,
    vp8: Vp8Continuity,
    history: History,
    rtx_sequence: u64,
    pub(super) statistics: SendStatistics,
    /// Statistics at the last interval's end.
    pub(super) reported: SendStatistics,
    /// Packets sent when the subscriber reported last.
    packets_at_report: u32,
    /// NTP middle bits and time of the last sender reports, to know the round trip by.
    reports: [Option<(u32, Instant)>; 2],
}

#[derive(Debug, Clone, Copy)]
struct LastSent {
    sequence: u64,
    timestamp: u32,
    source_timestamp: u32,
    at: Instant,
    clock_rate: u32,
}

impl SenderState {
    /// A sender whose numbers start at `first_sequence`, which is below 2¹⁵ so that SRTP
    /// receivers see the first wrap (RFC 3711 section 3.3.1).
    pub(super) fn new(config: Sender, first_sequence: u64, now: Instant) -> Self {
        Self {
            config,
            payload_types: Vec::new(),
            target: None,
            current: None,
            is_starved: false,
            offsets: SequenceOffsets::default(),
            highest_source: 0,
            timestamp_offset: 0,
            last: None,
            first_sequence,
            switched_at: first_sequence,
            vp8: Vp8Continuity::default(),
            history: History::new(now),
            rtx_sequence: first_sequence,
            statistics: SendStatistics::default(),
            reported: SendStatistics::default(),
            packets_at_report: 0,
            reports: [None; 2],
        }
    }

    /// Takes what the subscriber wants now.
    pub(super) fn update(&mut self, config: Sender) {
        if config.max_quality.is_none() {
            self.set_target(None);
        }
        self.config = config;
    }

    /// Goes on with another track on the same source: a copy in another codec. Numbers and times
    /// go on, or the subscriber's decoder would take the new pictures for old ones.
    pub(super) fn change_track(&mut self, config: Sender) {
        self.set_target(None);
        self.payload_types.clear();
        if let Some(last) = self.last {
            self.switched_at = last.sequence + 1;
        }
        self.config = config;
    }

    /// Fits the subscriber's payload types to the publisher's codecs.
    pub(super) fn set_published_codecs(&mut self, published: &[Codec]) {
        let types = |codec: &Codec| {
            let ours = &self.config.codecs;
            let exact = ours.iter().find(|ours| ours.matches(codec));
            let is_opus = |ours: &&Codec| ours.kind == CodecKind::Opus;
            let within = || ours.iter().find(is_opus).filter(|_| codec.kind == CodecKind::Red);
            let found = exact.or_else(within)?;
            Some(PayloadTypes {
                media: found.payload_type,
                rtx: found.rtx_payload_type,
                primary_only: exact.is_none(),
            })
        };
        self.payload_types = published.iter().map(types).collect();
    }

    /// The subscriber's payload types for a codec of the publisher.
    pub(super) fn payload_types(&self, codec: u8) -> Option<PayloadTypes> {
        *self.payload_types.get(usize::from(codec))?
    }

    /// Sources of media and retransmissions.
    pub(super) fn ssrc(&self) -> SsrcPair {
        self.config.ssrc
    }

    /// Sets which layers to send; `None` pauses.
    pub(super) fn set_target(&mut self, target: Option<Selection>) {
        self.target = target;
        if target.is_none() {
            self.current = None;
        }
    }

    /// Which layers shall be sent.
    pub(super) fn target(&self) -> Option<Selection> {
        self.target
    }

    /// The stream of which a key frame is needed before the target is reached.
    pub(super) fn waits_for(&self) -> Option<u8> {
        let target = self.target?;
        let is_reached = self
            .current
            .is_some_and(|now| now.stream == target.stream && now.spatial >= target.spatial);
        (!is_reached && self.config.kind == MediaKind::Video).then_some(target.stream)
    }

    /// Whether anything was sent.
    pub(super) fn has_sent(&self) -> bool {
        self.last.is_some()
    }

    /// The stream that is being sent.
    pub(super) fn current(&self) -> Option<Selection> {
        self.current
    }

    /// Decides on a packet of `stream`.
    pub(super) fn decide(
        &mut self,
        packet: &StoredPacket,
        stream: u8,
        clock_rate: u32,
        now: Instant,
    ) -> Decision {
        let Some(target) = self.target else { return Decision::Leave };
        let info = &packet.info;
        match &mut self.current {
            Some(current) if current.stream == stream => {
                let begins_picture = info.begins_frame
                    && self.last.is_none_or(|last| last.source_timestamp != packet.timestamp);
                if target.stream == stream && begins_picture {
                    adapt(current, target, info);
                }
            }
            _ if target.stream == stream
                && info.key_frame
                && info.is_needed(target.spatial, target.temporal) =>
            {
                self.switch(packet, target, now);
            }
            Some(_) | None => return Decision::Leave,
        }
        let Some(current) = self.current else { return Decision::Leave };
        if !info.is_needed(current.spatial, current.temporal) {
            return self.leave_out(packet);
        }
        let Some(sequence) = self.offsets.map(packet.sequence) else { return Decision::Leave };
        let timestamp = packet.timestamp.wrapping_add(self.timestamp_offset);
        let vp8 = (packet.kind == CodecKind::Vp8)
            .then(|| Vp8Descriptor::parse(&packet.payload))
            .flatten()
            .map(|descriptor| self.vp8.map(&descriptor));
        let marker = packet.marker || info.ends_frame && info.spatial == current.spatial;
        let primary_only = self.payload_types(packet.codec).is_some_and(|types| types.primary_only);
        let outgoing = Outgoing { sequence, timestamp, marker, vp8, primary_only };
        let source_timestamp = packet.timestamp;
        if self.last.is_none_or(|last| last.sequence < sequence) {
            self.last =
                Some(LastSent { sequence, timestamp, source_timestamp, at: now, clock_rate });
        }
        self.highest_source = self.highest_source.max(packet.sequence);
        if self.config.kind == MediaKind::Video {
            self.history.push(Sent { outgoing, stream, source: packet.sequence as u32 });
        }
        self.statistics.packets = self.statistics.packets.wrapping_add(1);
        let octets = outgoing.payload(packet).len() as u32;
        self.statistics.octets = self.statistics.octets.wrapping_add(octets);
        Decision::Send(outgoing)
    }

    /// A packet of a stream is padding: the numbers close up, so that the subscriber does not
    /// ask for it.
    pub(super) fn skip(&mut self, source: u64, stream: u8) {
        match self.current {
            Some(current) if current.stream == stream && source > self.highest_source => {
                self.close_up(source);
            }
            // Padding is not kept, so it may come twice: late, its number must not be used.
            Some(current) if current.stream == stream => {
                if let Some(sequence) = self.offsets.map(source) {
                    self.history.push_nothing(sequence);
                }
            }
            Some(_) | None => {}
        }
    }

    /// Leaves out a packet of other layers. The ring took it once, so this is called once.
    fn leave_out(&mut self, packet: &StoredPacket) -> Decision {
        if packet.sequence <= self.highest_source {
            // Numbers after it went out already: only its own number can close the gap.
            let Some(sequence) = self.offsets.map(packet.sequence) else { return Decision::Leave };
            if let Some(last) = &mut self.last {
                last.sequence = last.sequence.max(sequence);
            }
            self.history.push_nothing(sequence);
            return Decision::Fill(sequence);
        }
        self.close_up(packet.sequence);
        if packet.kind == CodecKind::Vp8
            && packet.info.begins_frame
            && let Some(descriptor) = Vp8Descriptor::parse(&packet.payload)
        {
            self.vp8.skip(&descriptor);
        }
        Decision::Leave
    }

    fn close_up(&mut self, source: u64) {
        self.highest_source = source;
        self.offsets.close_up(source);
    }

    /// The publisher began a stream anew: its numbers have nothing to do with those before.
    pub(super) fn forget_stream(&mut self, stream: u8) {
        if self.current.is_some_and(|current| current.stream == stream) {
            self.current = None;
        }
    }

    /// What to answer to a subscriber that asks for a number; `None` for one that was not used, is
    /// too old, or was answered a moment ago.
    pub(super) fn take_for_repeat(&mut self, sequence: u16, now: Instant) -> Option<Repeat> {
        let last = self.last?.sequence;
        let behind = u64::from((last as u16).wrapping_sub(sequence));
        let sequence = last.checked_sub(behind).filter(|_| behind < History::LENGTH)?;
        if sequence < self.first_sequence {
            return None;
        }
        // Behind a switch the decoder needs nothing from before it.
        if sequence < self.switched_at {
            return Some(Repeat::Nothing(sequence));
        }
        match self.history.take_for_repeat(sequence, now) {
            Lookup::Sent(sent) => Some(Repeat::Packet(sent)),
            Lookup::TooSoon => None,
            Lookup::Nothing => Some(Repeat::Nothing(sequence)),
            Lookup::Unknown => {
                let (stream, source) = (self.current?.stream, self.offsets.source_of(sequence)?);
                Some(Repeat::Hole { sequence, stream, source })
            }
        }
    }

    /// Highest extended sequence number of either source. No number after it was used.
    pub(super) fn last_sequence(&self) -> u64 {
        self.last.map_or(self.first_sequence, |last| last.sequence).max(self.rtx_sequence)
    }

    /// RTP time for a number that carries nothing: that of its neighbours, since receivers expect
    /// times in the order of numbers.
    pub(super) fn time_at(&self, sequence: u64) -> u32 {
        self.history.time_at(sequence).or_else(|| self.last_timestamp()).unwrap_or_default()
    }

    /// RTP time of the newest packet, for padding.
    pub(super) fn last_timestamp(&self) -> Option<u32> {
        self.last.map(|last| last.timestamp)
    }

    /// Notes the subscriber's report: packets lost of 256 since the last one, and jitter in RTP
    /// ticks.
    pub(super) fn note_reception(&mut self, fraction_lost: u8, jitter: u32) {
        let statistics = &mut self.statistics;
        let sent = statistics.packets.wrapping_sub(self.packets_at_report);
        self.packets_at_report = statistics.packets;
        statistics.lost += f64::from(sent) * f64::from(fraction_lost) / 256.0;
        statistics.jitter = jitter;
    }

    /// The next extended sequence number of the retransmission stream.
    pub(super) fn next_rtx_sequence(&mut self) -> u64 {
        self.rtx_sequence += 1;
        self.rtx_sequence
    }

    /// A sender report, once something was sent. `clock` is the publisher's NTP and RTP time
    /// at `now`.
    pub(super) fn report(
        &mut self,
        clock: Option<(u64, u32)>,
        now: Instant,
    ) -> Option<SenderReport> {
        self.last?;
        let (ntp, rtp_timestamp) = clock?;
        self.reports = [Some(((ntp >> 16) as u32, now)), self.reports[0]];
        Some(SenderReport {
            ssrc: self.config.ssrc.ssrc,
            ntp,
            rtp_timestamp: rtp_timestamp.wrapping_add(self.timestamp_offset),
            packets: self.statistics.packets,
            octets: self.statistics.octets,
        })
    }

    /// When the sender report with these NTP middle bits left.
    pub(super) fn reported_at(&self, ntp_middle: u32) -> Option<Instant> {
        self.reports.iter().flatten().find(|(known, _)| *known == ntp_middle).map(|(_, at)| *at)
    }

    fn switch(&mut self, packet: &StoredPacket, target: Selection, now: Instant) {
        let (sequence, timestamp) = match self.last {
            None => (self.first_sequence, packet.timestamp),
            Some(last) => {
                let elapsed = now.duration_since(last.at).as_secs_f64();
                let ticks = (elapsed * f64::from(last.clock_rate)).max(1.0) as u64;
                (last.sequence + 1, last.timestamp.wrapping_add(ticks as u32))
            }
        };
        self.offsets.restart(packet.sequence, sequence);
        self.switched_at = sequence;
        self.highest_source = packet.sequence;
        self.timestamp_offset = timestamp.wrapping_sub(packet.timestamp);
        self.current = Some(target);
        if packet.kind == CodecKind::Vp8
            && let Some(descriptor) = Vp8Descriptor::parse(&packet.payload)
        {
            self.vp8.switch(&descriptor);
        }
    }
}

/// Brings the layers within a stream towards the target at the start of a picture: down at
/// once, up where the stream allows it.
fn adapt(current: &mut Selection, target: Selection, info: &super::codec::PacketInfo) {
    if info.key_frame {
        (current.spatial, current.temporal) = (target.spatial, target.temporal);
        return;
    }
    current.spatial = current.spatial.min(target.spatial);
    current.temporal = current.temporal.min(target.temporal);
    if info.temporal_sync && info.temporal > current.temporal {
        current.temporal = info.temporal.min(target.temporal);
    }
}

#[cfg(test)]
mod tests;
