//! One client's transport: connectivity, keys, what it receives and sends, and the datagrams
//! that wait for the socket.

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::codec::Vp8Descriptor;
use super::data::DataTransport;
use super::dtls::DtlsSession;
use super::ice::IceAgent;
use super::parameters::{CodecKind, ExtensionIds};
use super::ring::StoredPacket;
use super::rtp::{HeaderFields, RtpHeader, write_header};
use super::sender::{Outgoing, PayloadTypes, SenderState};
use super::srtp::{Inbound, Outbound};
use super::twcc::ArrivalRecorder;
use super::{IceCredentials, Receiver, RemoteTransport, RoomKey, TransportId};

/// Most sources of a peer that are told apart.
const MAX_STREAMS: usize = 256;
/// Time between sender and receiver reports.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// What a source of the peer carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stream {
    /// Index of the receiver.
    pub(super) receiver: usize,
    /// Layer in rising quality.
    pub(super) layer: u8,
    /// Carries retransmissions (RFC 4588).
    pub(super) is_rtx: bool,
}

/// Datagrams to one peer, back to back, with their lengths.
#[derive(Debug, Default)]
pub(super) struct OutBatch {
    bytes: Vec<u8>,
    lengths: Vec<u16>,
}

impl OutBatch {
    /// Appends the bytes from `start` on as one datagram.
    fn close_datagram(&mut self, start: usize) {
        self.lengths.push((self.bytes.len() - start) as u16);
    }

    fn push(&mut self, datagram: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(datagram);
        self.close_datagram(start);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Hands out runs of datagrams of one size, of which the last may be shorter: what one
    /// segmented send takes.
    pub(super) fn drain(&mut self, mut send: impl FnMut(&[u8], usize)) {
        let (mut start, mut index) = (0, 0);
        while let Some(&size) = self.lengths.get(index) {
            let size = usize::from(size);
            let mut end = start + size;
            index += 1;
            while let Some(&next) = self.lengths.get(index)
                && usize::from(next) <= size
                && end - start + usize::from(next) <= super::engine::MAX_RUN_BYTES
                && (end - start) / size < super::engine::MAX_RUN_SEGMENTS
            {
                end += usize::from(next);
                index += 1;
                if usize::from(next) < size {
                    break;
                }
            }
            send(&self.bytes[start..end], size);
            start = end;
        }
        self.bytes.clear();
        self.lengths.clear();
    }
}

/// A client's transport.
pub(super) struct Transport {
    pub(super) id: TransportId,
    pub(super) room: RoomKey,
    pub(super) ice: IceAgent,
    pub(super) remote: Option<RemoteTransport>,
    pub(super) dtls: Option<Box<dyn DtlsSession>>,
    pub(super) srtp: Option<(Inbound, Outbound)>,
    pub(super) data: Option<DataTransport>,
    pub(super) wants_channels: bool,
    pub(super) receivers: Vec<Receiver>,
    pub(super) streams: FxHashMap<u32, Stream>,
    pub(super) senders: Vec<SenderState>,
    pub(super) arrivals: ArrivalRecorder,
    /// Our source in feedback packets.
    pub(super) feedback_ssrc: u32,
    pub(super) next_report: Instant,
    pub(super) next_feedback: Instant,
    pub(super) out: OutBatch,
}

impl Transport {
    /// A transport that waits for connectivity checks.
    pub(super) fn new(
        id: TransportId,
        room: RoomKey,
        local: IceCredentials,
        feedback_ssrc: u32,
        now: Instant,
    ) -> Self {
        Self {
            id,
            room,
            ice: IceAgent::new(local, now),
            remote: None,
            dtls: None,
            srtp: None,
            data: None,
            wants_channels: false,
            receivers: Vec::new(),
            streams: FxHashMap::default(),
            senders: Vec::new(),
            arrivals: ArrivalRecorder::new(now),
            feedback_ssrc,
            next_report: now + REPORT_INTERVAL,
            next_feedback: now,
            out: OutBatch::default(),
        }
    }

    /// What the source of this packet carries: known, or told by the packet's extensions, or
    /// by a payload type that only one section has.
    pub(super) fn stream(&mut self, header: &RtpHeader, packet: &[u8]) -> Option<Stream> {
        if let Some(&stream) = self.streams.get(&header.ssrc) {
            return Some(stream);
        }
        let stream = self.identify(header, packet)?;
        if self.streams.len() < MAX_STREAMS {
            self.streams.insert(header.ssrc, stream);
        }
        Some(stream)
    }

    fn identify(&self, header: &RtpHeader, packet: &[u8]) -> Option<Stream> {
        let by_mid = |receiver: &Receiver| {
            header.extension(packet, receiver.extensions.mid) == Some(receiver.mid.0.as_bytes())
        };
        let receiver = match self.receivers.iter().position(by_mid) {
            Some(receiver) => receiver,
            None => self.by_payload_type(header.payload_type)?,
        };
        let config = &self.receivers[receiver];
        let layer_of = |id| {
            let rid = header.extension(packet, id)?;
            config.rids.iter().position(|known| known.0.as_bytes() == rid)
        };
        if let Some(layer) = layer_of(config.extensions.repaired_rid) {
            return Some(Stream { receiver, layer: layer as u8, is_rtx: true });
        }
        if let Some(layer) = layer_of(config.extensions.rid) {
            return Some(Stream { receiver, layer: layer as u8, is_rtx: false });
        }
        // Without a layer's name in the packet a simulcast source stays unknown.
        let is_rtx = config.codecs.iter().any(|c| c.rtx_payload_type == Some(header.payload_type));
        config.rids.is_empty().then_some(Stream { receiver, layer: 0, is_rtx })
    }

    fn by_payload_type(&self, payload_type: u8) -> Option<usize> {
        let has_type = |receiver: &Receiver| {
            receiver.codecs.iter().any(|codec| {
                codec.payload_type == payload_type || codec.rtx_payload_type == Some(payload_type)
            })
        };
        let mut fitting =
            (0..self.receivers.len()).filter(|&index| has_type(&self.receivers[index]));
        let first = fitting.next()?;
        fitting.next().is_none().then_some(first)
    }

    /// Replaces the receivers; sources that were found stay with their section.
    pub(super) fn set_receivers(&mut self, receivers: Vec<Receiver>) {
        let old = std::mem::replace(&mut self.receivers, receivers);
        let new = &self.receivers;
        self.streams.retain(|_, stream| {
            let mid = &old[stream.receiver].mid;
            match new.iter().position(|receiver| receiver.mid == *mid) {
                Some(receiver) => {
                    stream.receiver = receiver;
                    true
                }
                None => false,
            }
        });
        for (receiver, config) in new.iter().enumerate() {
            for (layer, pair) in config.ssrcs.iter().enumerate() {
                let stream = Stream { receiver, layer: layer as u8, is_rtx: false };
                self.streams.insert(pair.ssrc, stream);
                if let Some(rtx) = pair.rtx {
                    self.streams.insert(rtx, Stream { is_rtx: true, ..stream });
                }
            }
        }
    }

    /// The transport-wide sequence number of a packet.
    pub(super) fn transport_sequence(&self, header: &RtpHeader, packet: &[u8]) -> Option<u16> {
        let ids = self.receivers.iter().find_map(|receiver| receiver.extensions.transport_cc);
        let value = header.extension(packet, ids)?;
        Some(u16::from_be_bytes(*value.first_chunk()?))
    }

    /// Seals a published packet for this subscriber. Returns whether it was the first of its
    /// sender.
    pub(super) fn send_media(
        &mut self,
        sender: usize,
        packet: &StoredPacket,
        types: PayloadTypes,
        outgoing: Outgoing,
    ) {
        let config = &self.senders[sender].config;
        let fields = HeaderFields {
            marker: packet.marker,
            payload_type: types.media,
            sequence: outgoing.sequence as u16,
            timestamp: outgoing.timestamp,
            ssrc: config.ssrc.ssrc,
        };
        let extensions = config.extensions;
        self.seal(fields, extensions, &[], packet, outgoing, outgoing.sequence);
    }

    /// Seals a packet that the subscriber misses, on the retransmission stream where one is
    /// negotiated.
    pub(super) fn send_again(
        &mut self,
        sender: usize,
        packet: &StoredPacket,
        types: PayloadTypes,
        outgoing: Outgoing,
    ) {
        let state = &mut self.senders[sender];
        let (Some(ssrc), Some(payload_type)) = (state.config.ssrc.rtx, types.rtx) else {
            // The same bytes under the same number: nothing in the packet depends on the time
            // of sending, so that SRTP's nonce still belongs to one plain text only.
            return self.send_media(sender, packet, types, outgoing);
        };
        let index = state.next_rtx_sequence();
        let extensions = state.config.extensions;
        let original = (outgoing.sequence as u16).to_be_bytes();
        let fields = HeaderFields {
            marker: packet.marker,
            payload_type,
            sequence: index as u16,
            timestamp: outgoing.timestamp,
            ssrc,
        };
        self.seal(fields, extensions, &original, packet, outgoing, index);
    }

    fn seal(
        &mut self,
        fields: HeaderFields,
        ids: ExtensionIds,
        prefix: &[u8],
        packet: &StoredPacket,
        outgoing: Outgoing,
        index: u64,
    ) {
        let Some((_, outbound)) = &self.srtp else { return };
        let start = self.out.bytes.len();
        let buffer = &mut self.out.bytes;
        let level = packet.extensions.audio_level.map(|level| [level]);
        let orientation = packet.extensions.video_orientation.map(|value| [value]);
        let carried: [(Option<u8>, Option<&[u8]>); 4] = [
            (ids.audio_level, level.as_ref().map(<[u8; 1]>::as_slice)),
            (ids.video_orientation, orientation.as_ref().map(<[u8; 1]>::as_slice)),
            (ids.abs_capture_time, packet.abs_capture_time()),
            (ids.dependency_descriptor, packet.dependency_descriptor()),
        ];
        let mut extensions: [(u8, &[u8]); 4] = [(0, &[]); 4];
        let mut count = 0;
        for (id, value) in carried {
            if let (Some(id), Some(value)) = (id, value) {
                extensions[count] = (id, value);
                count += 1;
            }
        }
        let header_length = write_header(buffer, fields, &extensions[..count]);
        buffer.extend_from_slice(prefix);
        let payload_at = buffer.len();
        buffer.extend_from_slice(&packet.payload);
        if let (Some((picture_id, tl0)), CodecKind::Vp8) = (outgoing.vp8, packet.kind)
            && let Some(descriptor) = Vp8Descriptor::parse(&packet.payload)
        {
            descriptor.rewrite(&mut buffer[payload_at..], picture_id, tl0);
        }
        match outbound.protect_rtp(buffer, start, header_length, fields.ssrc, index) {
            Ok(()) => self.out.close_datagram(start),
            Err(_) => self.out.bytes.truncate(start),
        }
    }

    /// Protects and queues a compound RTCP packet.
    pub(super) fn send_rtcp(&mut self, mut compound: Vec<u8>) {
        if let Some((_, outbound)) = &mut self.srtp
            && !compound.is_empty()
            && outbound.protect_rtcp(&mut compound).is_ok()
        {
            self.out.push(&compound);
        }
    }

    /// Moves what SCTP and DTLS have to send into the batch, once there is a path: a first
    /// flight waits for it, or it would be lost and come again only after a timeout.
    pub(super) fn collect_control(&mut self, now: Instant) {
        if self.ice.path().is_none() {
            return;
        }
        let Some(dtls) = &mut self.dtls else { return };
        if let Some(data) = &mut self.data {
            while let Some(packets) = data.poll_transmit(now) {
                for packet in packets {
                    dtls.send(&packet, now);
                }
            }
        }
        while let Some(datagram) = dtls.poll_transmit() {
            self.out.push(&datagram);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_grouped_into_runs_of_one_size() {
        let mut batch = OutBatch::default();
        for length in [100, 100, 80, 100, 120, 120] {
            batch.push(&vec![0; length]);
        }
        let mut runs = Vec::new();
        batch.drain(|bytes, size| runs.push((bytes.len(), size)));
        assert_eq!(runs, [(280, 100), (100, 100), (240, 120)]);
        assert!(batch.is_empty());
    }
}
