//! Data channels of one transport: SCTP over DTLS (RFC 8831) with the in-band opening handshake
//! (RFC 8832).

use std::collections::VecDeque;
use std::mem;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rtc_sctp::{
    Association, AssociationHandle, ClientConfig, DatagramEvent, Endpoint, EndpointConfig, Event,
    Payload, PayloadProtocolIdentifier, ReliabilityType, ServerConfig, StreamEvent, StreamId,
    TransportConfig,
};
use rtc_shared::TransportProtocol;

use super::DataChannelKind;

/// `a=sctp-port` of our descriptions.
pub const SCTP_PORT: u16 = 5000;
/// `a=max-message-size` of our descriptions, bytes.
pub const MAX_MESSAGE_SIZE: u32 = 65_536;
/// Most bytes that wait for a slow receiver of reliable data; more are dropped.
const MAX_BUFFERED_RELIABLE: usize = 2 * 1024 * 1024;
/// The same for lossy data, where late data is worth nothing.
const MAX_BUFFERED_LOSSY: usize = 64 * 1024;
/// Most bytes of reliable data that wait for the channel to open: a client takes itself for
/// connected once DTLS is up, a round trip or two before it can be sent anything.
const MAX_EARLY: usize = 256 * 1024;
/// Most such messages.
const MAX_EARLY_MESSAGES: usize = 256;
/// Most channels that a peer may open.
const MAX_CHANNELS: usize = 16;

/// The association does not use addresses: DTLS knows the path.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), SCTP_PORT);

/// What happened on the channels.
#[derive(Debug, PartialEq, Eq)]
pub enum DataEvent {
    /// A channel can be used.
    Open(DataChannelKind),
    /// A message came.
    Message(DataChannelKind, Bytes),
}

#[derive(Debug)]
struct Channel {
    stream: StreamId,
    /// `None` for labels that mean nothing here: such channels are accepted and ignored.
    kind: Option<DataChannelKind>,
    is_open: bool,
}

/// The data channels of a transport.
pub struct DataTransport {
    endpoint: Endpoint,
    association: Option<(AssociationHandle, Association)>,
    is_connected: bool,
    opens_channels: bool,
    /// First stream id of our channels: even for the DTLS client (RFC 8832 section 6).
    first_stream: StreamId,
    channels: Vec<Channel>,
    /// Reliable messages that wait for their channel, at most [`MAX_EARLY`].
    early: Vec<Bytes>,
    events: VecDeque<DataEvent>,
}

impl DataTransport {
    /// Waits for the peer's association; see [`Self::associate`].
    pub fn new(is_dtls_client: bool) -> Self {
        Self {
            endpoint: Endpoint::new(
                NOWHERE,
                TransportProtocol::UDP,
                Arc::new(EndpointConfig::new()),
                Some(Arc::new(ServerConfig::new(transport_config()))),
            ),
            association: None,
            is_connected: false,
            opens_channels: false,
            first_stream: if is_dtls_client { 0 } else { 1 },
            channels: Vec::new(),
            early: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// Begins the association, once DTLS is up. For the DTLS client alone: most peers begin it
    /// whatever their role, but some wait for the client to do so.
    pub fn associate(&mut self, now: Instant) {
        if self.association.is_some() {
            return;
        }
        let config = ClientConfig::new(transport_config());
        match self.endpoint.connect(now, config, NOWHERE) {
            Ok(association) => self.association = Some(association),
            Err(error) => tracing::debug!(%error, "Failed to begin an SCTP association"),
        }
    }

    /// Opens our channels, now or when the association is up.
    pub fn open_channels(&mut self, now: Instant) {
        if !self.opens_channels {
            self.opens_channels = true;
            self.open_ours(now);
        }
    }

    /// Takes a decrypted SCTP packet.
    pub fn handle(&mut self, packet: Vec<u8>, now: Instant) {
        match self.endpoint.handle(now, NOWHERE, None, Bytes::from(packet)) {
            // Where both begin, the peer's attempt wins over ours.
            Some((handle, DatagramEvent::NewAssociation(association))) if !self.is_connected => {
                self.association = Some((handle, association));
            }
            Some((handle, DatagramEvent::AssociationEvent(event))) => {
                if let Some((known, association)) = &mut self.association
                    && *known == handle
                {
                    association.handle_event(event);
                }
            }
            _ => {}
        }
        self.poll_association(now);
    }

    /// Retransmits what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some((_, association)) = &mut self.association {
            association.handle_timeout(now);
        }
        self.poll_association(now);
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.association.as_ref()?.1.poll_timeout()
    }

    /// The next SCTP packets to encrypt.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Vec<Bytes>> {
        let (_, association) = self.association.as_mut()?;
        match association.poll_transmit(now)?.message {
            Payload::RawEncode(packets) => Some(packets),
            _ => None,
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<DataEvent> {
        self.events.pop_front()
    }

    /// Sends a message, a reliable one once its channel is open; `false` when it was dropped
    /// because the channel is not open or the receiver is too slow.
    pub fn send(&mut self, kind: DataChannelKind, payload: &Bytes, now: Instant) -> bool {
        let limit = match kind {
            DataChannelKind::Reliable => MAX_BUFFERED_RELIABLE,
            DataChannelKind::Lossy | DataChannelKind::DataTrack => MAX_BUFFERED_LOSSY,
        };
        let Some(channel) =
            self.channels.iter().find(|channel| channel.kind == Some(kind) && channel.is_open)
        else {
            return kind == DataChannelKind::Reliable && self.keep(payload);
        };
        let Some((_, association)) = &mut self.association else { return false };
        let Ok(mut stream) = association.stream(channel.stream) else { return false };
        if stream.buffered_amount().is_ok_and(|waiting| waiting + payload.len() > limit) {
            return false;
        }
        stream.write_chunk_with_ppi(now, payload, PayloadProtocolIdentifier::Binary).is_ok()
    }

    fn keep(&mut self, payload: &Bytes) -> bool {
        let waiting: usize = self.early.iter().map(Bytes::len).sum();
        let fits = waiting + payload.len() <= MAX_EARLY && self.early.len() < MAX_EARLY_MESSAGES;
        if fits {
            self.early.push(payload.clone());
        }
        fits
    }

    /// Tells that a channel can be used, and sends what waited for it.
    fn opened(&mut self, kind: DataChannelKind, now: Instant) {
        self.events.push_back(DataEvent::Open(kind));
        if kind == DataChannelKind::Reliable {
            for payload in mem::take(&mut self.early) {
                self.send(kind, &payload, now);
            }
        }
    }

    fn poll_association(&mut self, now: Instant) {
        while let Some((handle, association)) = &mut self.association {
            let Some(event) = association.poll() else { break };
            match event {
                Event::Connected => {
                    self.is_connected = true;
                    self.open_ours(now);
                }
                Event::Stream(StreamEvent::Readable { id }) => self.read(id, now),
                Event::HandshakeFailed { .. } | Event::AssociationLost { .. } => {
                    let handle = *handle;
                    while let Some((_, association)) = &mut self.association
                        && let Some(event) = association.poll_endpoint_event()
                    {
                        self.endpoint.handle_event(handle, event);
                    }
                    self.association = None;
                    self.is_connected = false;
                    self.channels.clear();
                }
                _ => {}
            }
        }
    }

    fn read(&mut self, stream: StreamId, now: Instant) {
        while let Some((_, association)) = &mut self.association
            && let Ok(mut readable) = association.stream(stream)
            && let Ok(Some(chunks)) = readable.read_sctp()
        {
            let Ok(payload) = chunks.to_payload(MAX_MESSAGE_SIZE as usize) else { continue };
            match chunks.ppi {
                PayloadProtocolIdentifier::Dcep => self.handle_dcep(stream, &payload, now),
                PayloadProtocolIdentifier::Binary | PayloadProtocolIdentifier::String => {
                    let channel = self.channels.iter().find(|channel| channel.stream == stream);
                    if let Some(kind) = channel.and_then(|channel| channel.kind) {
                        self.events.push_back(DataEvent::Message(kind, payload.freeze()));
                    }
                }
                _ => {}
            }
        }
    }

    fn handle_dcep(&mut self, stream: StreamId, message: &[u8], now: Instant) {
        if dcep::is_ack(message) {
            let ours = self.channels.iter_mut().find(|channel| channel.stream == stream);
            if let Some(channel) = ours {
                channel.is_open = true;
            }
            return;
        }
        let Some(open) = dcep::Open::parse(message) else { return };
        let is_known = self.channels.iter().any(|channel| channel.stream == stream);
        if is_known || self.channels.len() >= MAX_CHANNELS {
            return;
        }
        let kind = DataChannelKind::from_label(open.label);
        self.configure(stream, open.channel_type, open.reliability);
        self.write_control(stream, Bytes::from_static(&[dcep::ACK]), now);
        self.channels.push(Channel { stream, kind, is_open: true });
        if let Some(kind) = kind {
            self.opened(kind, now);
        }
    }

    fn open_ours(&mut self, now: Instant) {
        if !self.opens_channels || !self.is_connected {
            return;
        }
        let kinds = [DataChannelKind::Reliable, DataChannelKind::Lossy, DataChannelKind::DataTrack];
        for (index, kind) in kinds.into_iter().enumerate() {
            let stream = self.first_stream + 2 * index as StreamId;
            let channel_type = match kind {
                DataChannelKind::Reliable => dcep::RELIABLE,
                DataChannelKind::Lossy | DataChannelKind::DataTrack => dcep::UNORDERED_REXMIT,
            };
            let Some((_, association)) = &mut self.association else { return };
            if association.open_stream(stream, PayloadProtocolIdentifier::Binary).is_err() {
                continue;
            }
            let message = dcep::open(channel_type, 0, kind.label());
            self.write_control(stream, Bytes::from(message), now);
            self.configure(stream, channel_type, 0);
            // Data may follow the opening message at once (RFC 8832 section 6).
            self.channels.push(Channel { stream, kind: Some(kind), is_open: true });
            self.opened(kind, now);
        }
    }

    fn configure(&mut self, stream: StreamId, channel_type: u8, reliability: u32) {
        let kind = match channel_type & !dcep::UNORDERED {
            1 => ReliabilityType::Rexmit,
            2 => ReliabilityType::Timed,
            _ => ReliabilityType::Reliable,
        };
        let unordered = channel_type & dcep::UNORDERED != 0;
        if let Some((_, association)) = &mut self.association
            && let Ok(mut stream) = association.stream(stream)
            && let Err(error) = stream.set_reliability_params(unordered, kind, reliability)
        {
            tracing::debug!(%error, "Failed to set the reliability of a data channel");
        }
    }

    fn write_control(&mut self, stream: StreamId, message: Bytes, now: Instant) {
        if let Some((_, association)) = &mut self.association
            && let Ok(mut stream) = association.stream(stream)
            && let Err(error) =
                stream.write_chunk_with_ppi(now, &message, PayloadProtocolIdentifier::Dcep)
        {
            tracing::debug!(%error, "Failed to write a data channel's opening message");
        }
    }
}

fn transport_config() -> TransportConfig {
    TransportConfig::default().with_sctp_port(SCTP_PORT).with_max_message_size(MAX_MESSAGE_SIZE)
}

/// The Data Channel Establishment Protocol (RFC 8832 section 5).
mod dcep {
    pub(super) const ACK: u8 = 0x02;
    const OPEN: u8 = 0x03;
    pub(super) const RELIABLE: u8 = 0x00;
    pub(super) const UNORDERED: u8 = 0x80;
    pub(super) const UNORDERED_REXMIT: u8 = 0x81;
    /// Bytes before label and protocol.
    const FIXED: usize = 12;

    pub(super) struct Open<'a> {
        pub(super) channel_type: u8,
        pub(super) reliability: u32,
        pub(super) label: &'a str,
    }

    pub(super) fn is_ack(message: &[u8]) -> bool {
        message.first() == Some(&ACK)
    }

    impl<'a> Open<'a> {
        pub(super) fn parse(message: &'a [u8]) -> Option<Self> {
            let fixed = message.first_chunk::<FIXED>()?;
            if fixed[0] != OPEN {
                return None;
            }
            let label_length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
            let label = message.get(FIXED..FIXED + label_length)?;
            Some(Self {
                channel_type: fixed[1],
                reliability: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
                label: std::str::from_utf8(label).ok()?,
            })
        }
    }

    pub(super) fn open(channel_type: u8, reliability: u32, label: &str) -> Vec<u8> {
        let mut message = vec![OPEN, channel_type, 0, 0];
        message.extend_from_slice(&reliability.to_be_bytes());
        message.extend_from_slice(&(label.len() as u16).to_be_bytes());
        message.extend_from_slice(&[0, 0]);
        message.extend_from_slice(label.as_bytes());
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets a browser's side begin the association, then carries packets until both are quiet.
    fn connected() -> (DataTransport, DataTransport, Instant) {
        let now = Instant::now();
        let mut ours = DataTransport::new(false);
        let mut theirs = DataTransport::new(true);
        theirs.associate(now);
        settle(&mut ours, &mut theirs, now);
        (ours, theirs, now)
    }

    fn settle(a: &mut DataTransport, b: &mut DataTransport, now: Instant) {
        for _ in 0..50 {
            carry(a, b, now);
            carry(b, a, now);
        }
    }

    fn carry(from: &mut DataTransport, to: &mut DataTransport, now: Instant) {
        from.poll_association(now);
        while let Some(packets) = from.poll_transmit(now) {
            for packet in packets {
                to.handle(packet.to_vec(), now);
            }
        }
    }

    fn events(transport: &mut DataTransport) -> Vec<DataEvent> {
        std::iter::from_fn(|| transport.poll_event()).collect()
    }

    #[test]
    fn channels_opened_by_either_side_carry_messages_both_ways() {
        for we_open in [true, false] {
            let (mut ours, mut theirs, now) = connected();
            let opener = if we_open { &mut ours } else { &mut theirs };
            opener.open_channels(now);
            settle(&mut ours, &mut theirs, now);
            let open =
                [DataChannelKind::Reliable, DataChannelKind::Lossy, DataChannelKind::DataTrack]
                    .map(DataEvent::Open);
            assert_eq!(events(&mut ours), open);
            assert_eq!(events(&mut theirs), open);
            assert!(ours.send(DataChannelKind::Reliable, &Bytes::from_static(b"to them"), now));
            assert!(theirs.send(DataChannelKind::Lossy, &Bytes::from_static(b"to us"), now));
            settle(&mut ours, &mut theirs, now);
            assert_eq!(
                events(&mut theirs),
                [DataEvent::Message(DataChannelKind::Reliable, Bytes::from_static(b"to them"))]
            );
            assert_eq!(
                events(&mut ours),
                [DataEvent::Message(DataChannelKind::Lossy, Bytes::from_static(b"to us"))]
            );
        }
    }

    #[test]
    fn an_association_that_both_begin_carries_messages() {
        let now = Instant::now();
        let mut ours = DataTransport::new(true);
        let mut theirs = DataTransport::new(false);
        ours.open_channels(now);
        ours.associate(now);
        theirs.associate(now);
        settle(&mut ours, &mut theirs, now);
        assert_eq!(events(&mut theirs).len(), 3);
        assert!(ours.send(DataChannelKind::Reliable, &Bytes::from_static(b"to them"), now));
        settle(&mut ours, &mut theirs, now);
        assert_eq!(
            events(&mut theirs),
            [DataEvent::Message(DataChannelKind::Reliable, Bytes::from_static(b"to them"))]
        );
    }

    #[test]
    fn a_large_message_arrives_whole_and_a_slow_receiver_is_bounded() {
        let (mut ours, mut theirs, now) = connected();
        ours.open_channels(now);
        settle(&mut ours, &mut theirs, now);
        events(&mut theirs);
        let large = Bytes::from(vec![7; 60_000]);
        assert!(ours.send(DataChannelKind::Reliable, &large, now));
        settle(&mut ours, &mut theirs, now);
        assert_eq!(
            events(&mut theirs),
            [DataEvent::Message(DataChannelKind::Reliable, large.clone())]
        );
        let accepted =
            (0..100).filter(|_| ours.send(DataChannelKind::Reliable, &large, now)).count();
        assert_eq!(accepted, MAX_BUFFERED_RELIABLE / large.len());
    }

    #[test]
    fn reliable_data_waits_for_its_channel_within_bounds() {
        for we_open in [true, false] {
            let mut ours = DataTransport::new(false);
            let mut theirs = DataTransport::new(true);
            let now = Instant::now();
            let message = |size| Bytes::from(vec![size as u8; size]);
            assert!(!ours.send(DataChannelKind::Lossy, &message(1), now));
            for size in 1..4 {
                assert!(ours.send(DataChannelKind::Reliable, &message(size), now));
            }
            assert!(!ours.send(DataChannelKind::Reliable, &message(MAX_EARLY), now));
            theirs.associate(now);
            let opener = if we_open { &mut ours } else { &mut theirs };
            opener.open_channels(now);
            settle(&mut ours, &mut theirs, now);
            assert!(ours.send(DataChannelKind::Reliable, &message(4), now));
            settle(&mut ours, &mut theirs, now);
            let messages: Vec<DataEvent> = events(&mut theirs)
                .into_iter()
                .filter(|event| matches!(event, DataEvent::Message(..)))
                .collect();
            let expected =
                [1, 2, 3, 4].map(|n| DataEvent::Message(DataChannelKind::Reliable, message(n)));
            assert_eq!(messages, expected);
        }
    }
}
