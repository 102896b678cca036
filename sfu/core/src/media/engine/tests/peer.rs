//! A client in memory: the engine's own codecs on the other side of a handshake that is a
//! single datagram.

use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::media::dtls::{DtlsEvent, DtlsFactory, DtlsSession};
use crate::media::engine::Engine;
use crate::media::ice::Path;
use crate::media::rtp::{HeaderFields, RtpHeader, write_header};
use crate::media::srtp::{self, Inbound, Outbound, SrtpProfile};
use crate::media::{
    DtlsRole, Fingerprint, IceCredentials, MediaCommand, MediaEvent, Receiver, RemoteTransport,
    RoomKey, Sender, TransportId, stun,
};

const PROFILE: SrtpProfile = SrtpProfile::AeadAes128Gcm;
/// First byte of the handshake's datagram, and of that which ends the session.
const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;

/// Both sides of the stub's handshake get the same bytes.
fn keying_material() -> Vec<u8> {
    (0..PROFILE.keying_material_length()).map(|byte| byte as u8).collect()
}

struct StubFactory;

impl DtlsFactory for StubFactory {
    fn fingerprint(&self) -> Fingerprint {
        Fingerprint([0; 32])
    }

    fn session(&mut self, _: DtlsRole, _: Fingerprint, _: Instant) -> Box<dyn DtlsSession> {
        Box::new(StubSession::default())
    }
}

#[derive(Default)]
struct StubSession {
    event: Option<DtlsEvent>,
}

impl DtlsSession for StubSession {
    fn handle_datagram(&mut self, datagram: &[u8], _: Instant) {
        self.event = match datagram[0] {
            HANDSHAKE => {
                Some(DtlsEvent::Connected { profile: PROFILE, keying_material: keying_material() })
            }
            ALERT => Some(DtlsEvent::Closed),
            _ => None,
        };
    }
    fn handle_timeout(&mut self, _: Instant) {}
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        None
    }
    fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.event.take()
    }
    fn send(&mut self, _: &[u8], _: Instant) {}
    fn close(&mut self) {}
}

/// A packet that a peer got, decrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) ssrc: u32,
    pub(super) payload_type: u8,
    pub(super) sequence: u16,
    pub(super) timestamp: u32,
    pub(super) payload: Vec<u8>,
}

/// A client's transport.
pub(super) struct Peer {
    pub(super) id: TransportId,
    pub(super) path: Path,
    credentials: IceCredentials,
    inbound: Inbound,
    outbound: Outbound,
    /// Media packets that came.
    pub(super) media: Vec<Got>,
    /// Compound RTCP packets that came.
    pub(super) control: Vec<Vec<u8>>,
    /// Answers to connectivity checks.
    pub(super) answers: usize,
}

impl Peer {
    pub(super) fn take(&mut self, datagram: &[u8]) {
        let mut packet = datagram.to_vec();
        match (packet[0], packet[1]) {
            (0..=3, _) => self.answers += 1,
            (_, 192..=223) => {
                let length = self.inbound.unprotect_rtcp(&mut packet).unwrap();
                packet.truncate(length);
                self.control.push(packet);
            }
            _ => {
                let header = RtpHeader::parse(&packet).unwrap();
                let (length, _) =
                    self.inbound.unprotect_rtp(&mut packet, header.header_length).unwrap();
                self.media.push(Got {
                    ssrc: header.ssrc,
                    payload_type: header.payload_type,
                    sequence: header.sequence,
                    timestamp: header.timestamp,
                    payload: header.payload(&packet[..length]).unwrap().to_vec(),
                });
            }
        }
    }
}

/// An engine with peers around it, and a clock that only the test moves.
pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) now: Instant,
    pub(super) events: Vec<MediaEvent>,
    pub(super) peers: Vec<Peer>,
}

pub(super) const ROOM: RoomKey = RoomKey(1);

impl World {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let engine = Engine::new(Box::new(StubFactory), StdRng::seed_from_u64(1), now);
        Self { engine, now, events: Vec::new(), peers: Vec::new() }
    }

    /// A transport that the engine knows, whose peer has not sent anything.
    pub(super) fn add(&mut self) -> usize {
        let index = self.peers.len();
        let id = TransportId(index as u64);
        let credentials = credentials(&format!("ufrag{index}"));
        self.command(MediaCommand::OpenTransport {
            transport: id,
            worker: 0,
            local: credentials.clone(),
        });
        let remote = RemoteTransport {
            ice: IceCredentials { ufrag: "peer".to_owned(), pwd: "unused".to_owned() },
            fingerprint: Fingerprint([0; 32]),
            role: DtlsRole::Server,
        };
        self.command(MediaCommand::ConnectTransport { transport: id, remote });
        let (inbound, outbound) =
            srtp::from_keying_material(PROFILE, &keying_material(), true).unwrap();
        self.peers.push(Peer {
            id,
            path: Path::Udp(([192, 0, 2, 1], 1000 + index as u16).into()),
            credentials,
            inbound,
            outbound,
            media: Vec::new(),
            control: Vec::new(),
            answers: 0,
        });
        index
    }

    /// A transport whose handshake is complete.
    pub(super) fn connect(&mut self) -> usize {
        let peer = self.add();
        self.finish(peer);
        peer
    }

    /// Completes the handshake of a transport.
    pub(super) fn finish(&mut self, peer: usize) {
        self.check(peer);
        self.send_raw(peer, vec![HANDSHAKE]);
    }

    /// Sends an authentic connectivity check that nominates.
    pub(super) fn check(&mut self, peer: usize) {
        let check = stun::write_check(&self.peers[peer].credentials, "peer", true);
        self.send_raw(peer, check);
    }

    /// Ends the peer's session.
    pub(super) fn hang_up(&mut self, peer: usize) {
        self.send_raw(peer, vec![ALERT]);
    }

    pub(super) fn restart_ice(&mut self, peer: usize, ufrag: &str) {
        let transport = self.peers[peer].id;
        self.peers[peer].credentials = credentials(ufrag);
        self.command(MediaCommand::OpenTransport {
            transport,
            worker: 0,
            local: credentials(ufrag),
        });
    }

    pub(super) fn command(&mut self, command: MediaCommand) {
        self.engine.handle_command(ROOM, command, self.now);
        self.settle();
    }

    pub(super) fn set_receivers(&mut self, peer: usize, receivers: Vec<Receiver>) {
        let transport = self.peers[peer].id;
        self.command(MediaCommand::SetReceivers { transport, receivers });
    }

    pub(super) fn set_senders(&mut self, peer: usize, senders: Vec<Sender>) {
        let transport = self.peers[peer].id;
        self.command(MediaCommand::SetSenders { transport, senders });
    }

    /// Sends an RTP packet.
    pub(super) fn send(
        &mut self,
        peer: usize,
        fields: HeaderFields,
        extensions: &[(u8, &[u8])],
        payload: &[u8],
    ) {
        let packet = self.seal(peer, fields, extensions, payload);
        self.send_raw(peer, packet);
    }

    /// Protects an RTP packet; `fields.sequence` is the whole index, so wraps are not for this.
    pub(super) fn seal(
        &mut self,
        peer: usize,
        fields: HeaderFields,
        extensions: &[(u8, &[u8])],
        payload: &[u8],
    ) -> Vec<u8> {
        let mut packet = Vec::new();
        let header_length = write_header(&mut packet, fields, extensions);
        packet.extend_from_slice(payload);
        let index = u64::from(fields.sequence);
        self.peers[peer]
            .outbound
            .protect_rtp(&mut packet, 0, header_length, fields.ssrc, index)
            .unwrap();
        packet
    }

    /// Sends a compound RTCP packet.
    pub(super) fn send_control(&mut self, peer: usize, mut compound: Vec<u8>) {
        self.peers[peer].outbound.protect_rtcp(&mut compound).unwrap();
        self.send_raw(peer, compound);
    }

    pub(super) fn send_raw(&mut self, peer: usize, mut datagram: Vec<u8>) {
        let path = self.peers[peer].path;
        self.engine.handle_datagram(path, &mut datagram, self.now);
        self.settle();
    }

    /// Lets time pass, with timers handled when they are due.
    pub(super) fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(next) = self.engine.poll_timeout().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.engine.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
    }

    pub(super) fn settle(&mut self) {
        while let Some((room, event)) = self.engine.poll_event() {
            assert_eq!(room, ROOM);
            self.events.push(event);
        }
        let peers = &mut self.peers;
        self.engine.flush(|path, bytes, size| {
            let peer = peers.iter_mut().find(|peer| peer.path == path).unwrap();
            for datagram in bytes.chunks(size) {
                peer.take(datagram);
            }
        });
    }
}

fn credentials(ufrag: &str) -> IceCredentials {
    IceCredentials { ufrag: ufrag.to_owned(), pwd: format!("password-of-{ufrag}-long") }
}
