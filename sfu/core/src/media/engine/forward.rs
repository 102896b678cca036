//! The media path: a publisher's packet to its subscribers.

use std::time::Instant;

use super::super::MediaEvent;
use super::super::ice::Path;
use super::super::layer::Ingested;
use super::super::parameters::MediaKind;
use super::super::rtp::RtpHeader;
use super::super::transport::Stream;
use super::super::{MediaEvent as Event, TrackKey};
use super::Engine;

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
        }
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
                self.transports[route.transport].senders[route.sender].forget_layer(layer_index);
            }
        }
        let was_active = track.active[usize::from(layer_index)];
        let extensions = track.config.extensions;
        let ingested =
            layer.ingest(&header, packet, payload, (codec_index, &codec), &extensions, now);
        if !was_active && matches!(ingested, Ingested::Packet(_)) {
            track.refresh_active(now);
            let ssrc = header.ssrc;
            let event =
                Event::LayerActive { track: key, layer: layer_index, ssrc, codec: codec.kind };
            self.events.push_back((track.room, event));
        }
        if track.config.kind == MediaKind::Audio
            && let Some(level) = header.extension(packet, extensions.audio_level)
        {
            track.meter(*level.first()?);
        }
        match ingested {
            Ingested::Packet(sequence) => {
                self.forward(key, layer_index, sequence, codec.clock_rate, now)
            }
            Ingested::Padding(sequence) => self.skip(key, layer_index, sequence),
            Ingested::Duplicate => {}
        }
        Some(())
    }

    /// Sends a kept packet to every subscriber that takes this layer.
    fn forward(&mut self, key: TrackKey, layer: u8, sequence: u64, clock_rate: u32, now: Instant) {
        let Some(track) = self.tracks.get(&key) else { return };
        let Some(packet) = track.layers[usize::from(layer)].ring().get(sequence) else { return };
        for route in &track.routes {
            let transport = &mut self.transports[route.transport];
            if transport.srtp.is_none() {
                continue;
            }
            let sender = &mut transport.senders[route.sender];
            let Some(types) = sender.payload_types(packet.codec) else { continue };
            let target = sender.target(&track.active);
            let is_first = !sender.has_sent();
            let Some(outgoing) = sender.map(packet, layer, target, clock_rate, now) else {
                continue;
            };
            if transport.out.is_empty() {
                self.dirty.push(route.transport);
            }
            transport.send_media(route.sender, packet, types, outgoing);
            self.counters.packets_out += 1;
            if is_first {
                let event = MediaEvent::ForwardingStarted { transport: transport.id, track: key };
                self.events.push_back((track.room, event));
            }
        }
    }

    fn skip(&mut self, key: TrackKey, layer: u8, sequence: u64) {
        let Some(track) = self.tracks.get(&key) else { return };
        for route in &track.routes {
            self.transports[route.transport].senders[route.sender].skip(sequence, layer);
        }
    }

    /// Answers a subscriber's NACK from the publisher's ring.
    pub(super) fn retransmit(&mut self, index: usize, ssrc: u32, lost: u16) {
        let transport = &mut self.transports[index];
        let position = transport.senders.iter().position(|s| s.config.ssrc.ssrc == ssrc);
        let Some(position) = position else { return };
        let sender = &transport.senders[position];
        let Some((outgoing, layer, source)) = sender.find(lost) else { return };
        let Some(track) = self.tracks.get(&sender.config.track) else { return };
        let kept = track.layers.get(usize::from(layer)).and_then(|l| l.ring().get(source));
        let Some(packet) = kept else { return };
        let Some(types) = sender.payload_types(packet.codec) else { return };
        if transport.out.is_empty() {
            self.dirty.push(index);
        }
        transport.send_again(position, packet, types, outgoing);
        self.counters.packets_out += 1;
        self.counters.retransmitted += 1;
    }
}
