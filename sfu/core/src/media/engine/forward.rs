//! The media path: a publisher's packet to its subscribers.

use std::sync::Arc;
use std::time::Instant;

use super::super::MediaEvent;
use super::super::ice::Path;
use super::super::layer::Ingested;
use super::super::parameters::MediaKind;
use super::super::ring::StoredPacket;
use super::super::rtp::RtpHeader;
use super::super::sender::{Repeat, SenderState, Sent};
use super::super::track::Track;
use super::super::transport::{Offered, Pending, Stream};
use super::super::{MediaEvent as Event, TrackKey};
use super::{Engine, SiblingContent};

/// Bytes that an answer to a NACK counts at least.
const MIN_REPEAT: usize = 40;

impl Engine {
    pub(super) fn handle_srtp(&mut self, path: Path, datagram: &mut [u8], now: Instant) {
        let Some(&index) = self.by_path.get(&path) else {
            self.counters.dropped += 1;
            return;
        };
        // RFC 5761 section 4: RTCP has packet types 192 to 223.
        if matches!(datagram.get(1), Some(192..=223)) {
            return self.handle_srtcp(index, datagram, now);
        }
        if self.handle_rtp(index, datagram, now).is_none() {
            self.counters.dropped += 1;
        }
    }

    fn handle_rtp(&mut self, index: usize, datagram: &mut [u8], now: Instant) -> Option<()> {
        let transport = &mut self.transports[index];
        let header = RtpHeader::parse(datagram)?;
        let (inbound, _) = transport.srtp.as_mut()?;
        let (length, _) = inbound.unprotect_rtp(datagram, header.header_length).ok()?;
        let packet = &datagram[..length];
        self.counters.packets_in += 1;
        if let Some(sequence) = transport.transport_sequence(&header, packet) {
            transport.arrivals.received(sequence, now);
            let (at, wake) = (transport.next_feedback.max(now), transport.wake);
            if wake.is_none_or(|wake| at < wake) {
                self.schedule(index, at);
            }
        }
        let transport = &mut self.transports[index];
        let stream = transport.stream(&header, packet)?;
        let key = transport.receivers.get(stream.receiver)?.track;
        self.ingest(key, stream, header, packet, now)
    }

    fn ingest(
        &mut self,
        key: TrackKey,
        stream: Stream,
        mut header: RtpHeader,
        packet: &[u8],
        now: Instant,
    ) -> Option<()> {
        let track = self.tracks.get_mut(&key)?;
        let mut payload = header.payload(packet)?;
        let (codec_index, codec) = track.codec(header.payload_type, stream.is_rtx)?;
        let (codec, layer_index) = (codec.clone(), stream.layer);
        let layer = track.layers.get_mut(usize::from(layer_index))?;
        if stream.is_rtx {
            // RFC 4588 section 4: the original sequence number comes first. A shorter payload
            // is a probe.
            let Some((original, rest)) = payload.split_first_chunk() else { return Some(()) };
            header.sequence = u16::from_be_bytes(*original);
            payload = rest;
            // Repairs of a layer that is not known yet have nothing to join.
            layer.ssrc?;
        } else if layer.ssrc != Some(header.ssrc) {
            layer.restart(header.ssrc, track.config.kind);
            for route in &track.routes {
                self.transports[route.transport].senders[route.sender].forget_stream(layer_index);
            }
            track.may_wait = true;
        }
        let was_active = track.active[usize::from(layer_index)];
        let extensions = track.config.extensions;
        let ingested =
            layer.ingest(&header, packet, payload, (codec_index, &codec), &extensions, now);
        let is_restless = track.has_requests();
        let becomes_active = !was_active && matches!(ingested, Ingested::Packet(_));
        if becomes_active {
            track.refresh_active(now);
            let ssrc = header.ssrc;
            let event =
                Event::LayerActive { track: key, layer: layer_index, ssrc, codec: codec.kind };
            self.events.push_back((track.room, event));
        }
        if track.config.kind == MediaKind::Audio
            && let Some(level) = header.extension(packet, extensions.audio_level)
        {
            track.meter(*level.first()?, now);
        }
        if is_restless {
            self.mark_restless(key);
        }
        if becomes_active {
            self.retarget_routes(key);
        }
        match ingested {
            Ingested::Packet(sequence) => {
                if self.is_audible(key) {
                    self.forward(key, layer_index, sequence, codec.clock_rate, now);
                    self.export_packet(key, layer_index, sequence, codec.clock_rate);
                }
                // Another room has loudest voices of its own.
                self.mirror_packet(key, layer_index, sequence, codec.clock_rate, now);
            }
            Ingested::Padding(sequence) => {
                self.skip(key, layer_index, sequence);
                let padding = SiblingContent::Padding(sequence);
                self.export(key, layer_index, &padding);
                self.mirror(key, layer_index, &padding, now);
            }
            Ingested::Duplicate => {}
        }
        Some(())
    }

    pub(super) fn is_audible(&self, key: TrackKey) -> bool {
        self.tracks.get(&key).is_some_and(|track| track.is_audible)
    }

    /// Hands a kept packet to every subscriber that takes it.
    pub(super) fn forward(
        &mut self,
        key: TrackKey,
        layer: u8,
        sequence: u64,
        clock_rate: u32,
        now: Instant,
    ) {
        let Some(track) = self.tracks.get(&key) else { return };
        let stream = &track.layers[usize::from(layer)];
        let Some(packet) = stream.ring().get(sequence) else { return };
        let is_urgent = track.config.kind == MediaKind::Audio;
        for &route in &track.routes {
            let transport = &mut self.transports[route.transport];
            if transport.srtp.is_none() {
                continue;
            }
            let is_first = !transport.senders[route.sender].has_sent();
            let mut offer = |packet: &Arc<StoredPacket>| {
                transport.offer(route.sender, packet, layer, (clock_rate, is_urgent), now)
            };
            let offered = offer(packet);
            match offered {
                Offered::Left => continue,
                Offered::Refused => self.counters.dropped += 1,
                Offered::Taken => {}
                Offered::Begun => {
                    // What it begins with may come late, as a repair: the rest is here already.
                    for later in stream.after(sequence) {
                        offer(later);
                    }
                }
            }
            if !transport.is_dirty {
                transport.is_dirty = true;
                self.dirty.push(route.transport);
            }
            if is_first && transport.senders[route.sender].has_sent() {
                let event = MediaEvent::ForwardingStarted { transport: transport.id, track: key };
                self.events.push_back((track.room, event));
            }
        }
    }

    fn export_packet(&mut self, key: TrackKey, layer: u8, sequence: u64, clock_rate: u32) {
        let Some(track) = self.tracks.get(&key).filter(|track| !track.exports.is_empty()) else {
            return;
        };
        let stream = &track.layers[usize::from(layer)];
        let (Some(ssrc), Some(packet)) = (stream.ssrc, stream.ring().get(sequence)) else { return };
        let packet = Arc::clone(packet);
        self.export(key, layer, &SiblingContent::Packet { ssrc, clock_rate, packet });
    }

    pub(super) fn skip(&mut self, key: TrackKey, layer: u8, sequence: u64) {
        let Some(track) = self.tracks.get(&key) else { return };
        for route in &track.routes {
            self.transports[route.transport].senders[route.sender].skip(sequence, layer);
        }
    }

    /// Answers a subscriber's NACK from the publisher's ring.
    pub(super) fn retransmit(&mut self, index: usize, ssrc: u32, lost: u16, now: Instant) {
        let transport = &mut self.transports[index];
        let position = transport.senders.iter().position(|s| s.ssrc().ssrc == ssrc);
        let Some(position) = position else { return };
        let estimate = transport.estimate();
        let sender = &mut transport.senders[position];
        let Some(repeat) = sender.take_for_repeat(lost, now) else { return };
        let track = self.tracks.get(&sender.config.track);
        let Some(pending) = repeated(position as u16, sender, repeat, track) else { return };
        if !transport.outbox.take_repeat(pending.bytes().max(MIN_REPEAT), estimate, now) {
            return;
        }
        if transport.outbox.push(pending, true) {
            self.counters.retransmitted += 1;
        }
        self.mark_dirty(index);
    }
}

/// What is sent for a number that a subscriber misses. Every number has an answer where there is
/// a retransmission stream, unless the publisher may still repair it.
fn repeated(
    position: u16,
    state: &SenderState,
    repeat: Repeat,
    track: Option<&Track>,
) -> Option<Pending> {
    let has_rtx = state.ssrc().rtx.is_some();
    let packet = |sent: Sent| {
        let layer = track?.layers.get(usize::from(sent.stream))?;
        let packet = layer.find(sent.source)?;
        let types = state.payload_types(packet.codec)?;
        let (sender, packet, outgoing) = (position, Arc::clone(packet), sent.outgoing);
        Some(match types.rtx.filter(|_| has_rtx) {
            Some(payload_type) => Pending::Repeat { sender, payload_type, packet, outgoing },
            // The same bytes under the same number: nothing in the packet depends on the time
            // of sending, so that SRTP's nonce still belongs to one plain text only.
            None => Pending::Media { sender, payload_type: types.media, packet, outgoing },
        })
    };
    let sequence = match repeat {
        Repeat::Packet(sent) => match packet(sent) {
            Some(pending) => return Some(pending),
            None => sent.outgoing.sequence,
        },
        Repeat::Nothing(sequence) => sequence,
        Repeat::Hole { sequence, stream, source } => {
            // Answered before it came, it would be taken for something old when it comes.
            let layer = track?.layers.get(usize::from(stream))?;
            Some(sequence).filter(|_| layer.has_given_up(source))?
        }
    };
    let payload_type = state.config.codecs.iter().find_map(|codec| codec.rtx_payload_type)?;
    has_rtx.then_some(Pending::Void { sender: position, payload_type, sequence })
}
