//! One client's transport: connectivity, keys, what it receives and sends.

mod outbox;
mod packet;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::bandwidth::Bandwidth;
use super::data::DataTransport;
use super::dtls::DtlsSession;
use super::ice::IceAgent;
use super::parameters::STATISTICS_INTERVAL;
use super::ring::StoredPacket;
use super::rtp::RtpHeader;
use super::sender::{Decision, SenderState};
use super::srtp::{Inbound, Outbound};
use super::twcc::ArrivalRecorder;
use super::{IceCredentials, Receiver, RemoteTransport, RoomKey, TransportId};

pub(super) use outbox::{Outbox, Pending};

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

/// What became of a packet that was offered to a sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offered {
    /// It waits to be sent.
    Taken,
    /// The same, and the subscriber gets this stream from here on.
    Begun,
    /// The subscriber does not get it.
    Left,
    /// There was no room.
    Refused,
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
    /// The peer shall tell when packets came. Where it gets only sound there is nothing to decide
    /// by it, and reports would cost as much as what they tell of.
    pub(super) is_told: bool,
    pub(super) arrivals: ArrivalRecorder,
    /// Our source in feedback packets.
    pub(super) feedback_ssrc: u32,
    pub(super) next_report: Instant,
    pub(super) next_feedback: Instant,
    /// When this transport began.
    pub(super) began: Instant,
    /// What waits for the socket.
    pub(super) outbox: Outbox,
    /// Last sequence numbers of sources that are not sent any more: with the same keys they must
    /// never be used again.
    pub(super) retired: FxHashMap<u32, u64>,
    /// Bytes of padding that are due.
    pub(super) padding: usize,
    /// Bandwidth towards the peer, once something is sent that it reports on.
    pub(super) bandwidth: Option<Box<Bandwidth>>,
    /// Bits a second beyond which the estimate does not count.
    pub(super) bandwidth_limit: Option<u64>,
    /// Tells this transport from an earlier one at the same index.
    pub(super) serial: u64,
    /// When the engine looks at this transport next.
    pub(super) wake: Option<Instant>,
    /// In the engine's list of transports to flush.
    pub(super) is_dirty: bool,
    /// By the peer's reports.
    pub(super) round_trip: Option<Duration>,
    pub(super) next_statistics: Instant,
    /// When the peer's last authentic RTCP packet came.
    pub(super) last_rtcp: Instant,
}

impl Transport {
    /// A transport that waits for connectivity checks.
    pub(super) fn new(
        id: TransportId,
        room: RoomKey,
        local: IceCredentials,
        (feedback_ssrc, serial): (u32, u64),
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
            is_told: false,
            arrivals: ArrivalRecorder::new(now),
            feedback_ssrc,
            next_report: now + REPORT_INTERVAL,
            next_feedback: now,
            began: now,
            outbox: Outbox::new(now),
            retired: FxHashMap::default(),
            padding: 0,
            bandwidth: None,
            bandwidth_limit: None,
            serial,
            wake: None,
            is_dirty: false,
            round_trip: None,
            next_statistics: now + STATISTICS_INTERVAL,
            last_rtcp: now,
        }
    }

    /// Estimated bandwidth towards the peer, bit/s, where it reports what it receives.
    pub(super) fn estimate(&self) -> Option<u64> {
        let estimate = self.bandwidth.as_ref().map(|bandwidth| bandwidth.estimate());
        estimate.map(|estimate| estimate.min(self.bandwidth_limit.unwrap_or(u64::MAX)))
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

    /// Offers a packet of `layer` to a sender, with RTP ticks a second and whether it is never
    /// held back.
    pub(super) fn offer(
        &mut self,
        sender: usize,
        packet: &Arc<StoredPacket>,
        layer: u8,
        (clock_rate, is_urgent): (u32, bool),
        now: Instant,
    ) -> Offered {
        let state = &mut self.senders[sender];
        let Some(types) = state.payload_types(packet.codec) else { return Offered::Left };
        let before = state.current().map(|current| current.stream);
        let (position, payload_type) = (sender as u16, types.media);
        let pending = match state.decide(packet, layer, clock_rate, now) {
            Decision::Send(outgoing) => {
                let packet = Arc::clone(packet);
                Pending::Media { sender: position, payload_type, packet, outgoing }
            }
            Decision::Fill(sequence) => Pending::Fill { sender: position, payload_type, sequence },
            Decision::Leave => return Offered::Left,
        };
        if before.is_some_and(|before| before != layer) && state.ssrc().rtx.is_some() {
            // Pictures of the stream before are of no use behind this key frame. Without
            // retransmission stream their numbers may have been sent already, as repeats,
            // and must not mean anything else (SRTP's nonce).
            self.outbox.forget_paced(position);
        }
        match self.outbox.push(pending, is_urgent) {
            true if before != Some(layer) => Offered::Begun,
            true => Offered::Taken,
            false => Offered::Refused,
        }
    }

    /// The transport-wide sequence number of a packet.
    pub(super) fn transport_sequence(&self, header: &RtpHeader, packet: &[u8]) -> Option<u16> {
        let ids = self.receivers.iter().find_map(|receiver| receiver.extensions.transport_cc);
        let value = header.extension(packet, ids)?;
        Some(u16::from_be_bytes(*value.first_chunk()?))
    }

    /// Protects a compound RTCP packet and keeps it for the next flush.
    pub(super) fn send_rtcp(&mut self, mut compound: Vec<u8>) {
        let Some((_, outbound)) = &mut self.srtp else { return };
        if outbound.protect_rtcp(&mut compound).is_ok() {
            self.outbox.push_control(compound);
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
            self.outbox.push_control(datagram);
        }
    }

    /// The next time that something is due besides what arrives.
    pub(super) fn next_due(&self) -> Instant {
        let mut due = self.ice.expires_at();
        let mut sooner = |at: Option<Instant>| due = at.map_or(due, |at| due.min(at));
        sooner(self.dtls.as_ref().and_then(|dtls| dtls.poll_timeout()));
        sooner(self.data.as_ref().and_then(DataTransport::poll_timeout));
        if self.srtp.is_some() {
            let reports = !self.receivers.is_empty() || !self.senders.is_empty();
            sooner(reports.then_some(self.next_report));
            sooner(self.arrivals.has_feedback().then_some(self.next_feedback));
            sooner(self.bandwidth.as_ref().and_then(|bandwidth| bandwidth.poll_timeout()));
        }
        due
    }
}
