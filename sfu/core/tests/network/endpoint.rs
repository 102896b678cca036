//! A client's transport: SRTP with keys that both sides know, behind a handshake that is one
//! datagram.

use std::time::Instant;

use sfu_core::media::dtls::{DtlsEvent, DtlsFactory, DtlsSession};
use sfu_core::media::ice::Path;
use sfu_core::media::rtp::{HeaderFields, RtpHeader, write_header};
use sfu_core::media::srtp::{Inbound, Outbound, SrtpError, SrtpProfile, from_keying_material};
use sfu_core::media::{DtlsRole, Fingerprint, IceCredentials, RemoteTransport, TransportId, stun};

const PROFILE: SrtpProfile = SrtpProfile::AeadAes128Gcm;
/// First byte of DTLS handshake records.
const HANDSHAKE: u8 = 22;

/// The same bytes for every transport: a nonce that two transports share is found too.
fn keying_material() -> Vec<u8> {
    (0..PROFILE.keying_material_length()).map(|byte| byte as u8).collect()
}

/// Both directions of SRTP, as a client has them.
pub(crate) fn client_keys() -> (Inbound, Outbound) {
    from_keying_material(PROFILE, &keying_material(), true).unwrap()
}

/// Sessions that are connected by any handshake record.
pub(crate) struct FixedKeys;

impl DtlsFactory for FixedKeys {
    fn fingerprint(&self) -> Fingerprint {
        Fingerprint([0; 32])
    }

    fn session(&mut self, _: DtlsRole, _: Fingerprint, _: Instant) -> Box<dyn DtlsSession> {
        Box::new(FixedSession(None))
    }
}

struct FixedSession(Option<DtlsEvent>);

impl DtlsSession for FixedSession {
    fn handle_datagram(&mut self, datagram: &[u8], _: Instant) {
        if datagram.first() == Some(&HANDSHAKE) {
            let keying_material = keying_material();
            self.0 = Some(DtlsEvent::Connected { profile: PROFILE, keying_material });
        }
    }
    fn handle_timeout(&mut self, _: Instant) {}
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        None
    }
    fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.0.take()
    }
    fn send(&mut self, _: &[u8], _: Instant) {}
    fn close(&mut self) {}
}

/// An RTP packet before protection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RtpPacket {
    pub(crate) marker: bool,
    pub(crate) payload_type: u8,
    pub(crate) ssrc: u32,
    /// Extended sequence number.
    pub(crate) index: u64,
    pub(crate) timestamp: u32,
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    pub(crate) payload: Vec<u8>,
}

/// What a client wants to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Send {
    Rtp(RtpPacket),
    Rtcp(Vec<u8>),
}

/// What a datagram of the engine was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Received {
    /// A plain RTP packet; padding is still in it.
    Rtp(RtpHeader, Vec<u8>),
    /// A compound RTCP packet.
    Rtcp(Vec<u8>),
    /// The answer to a connectivity check.
    Stun,
    /// A packet that came before.
    Duplicate,
}

/// A client's side of a transport.
pub(crate) struct Endpoint {
    pub(crate) id: TransportId,
    pub(crate) path: Path,
    pub(crate) credentials: IceCredentials,
    inbound: Inbound,
    outbound: Outbound,
}

impl Endpoint {
    pub(crate) fn new(index: u16) -> Self {
        let (inbound, outbound) = client_keys();
        Self {
            id: TransportId(u64::from(index)),
            path: Path::Udp(([192, 0, 2, 1], 1000 + index).into()),
            credentials: IceCredentials {
                ufrag: format!("ufrag{index}"),
                pwd: format!("password-of-{index}-long-enough"),
            },
            inbound,
            outbound,
        }
    }

    /// What the engine is told of this client's description.
    pub(crate) fn description() -> RemoteTransport {
        RemoteTransport {
            ice: IceCredentials { ufrag: "peer".to_owned(), pwd: "unused".to_owned() },
            fingerprint: Fingerprint([0; 32]),
            role: DtlsRole::Server,
        }
    }

    /// A connectivity check that nominates.
    pub(crate) fn check(&self) -> Vec<u8> {
        stun::write_check(&self.credentials, "peer", true)
    }

    /// The datagram that completes the handshake.
    pub(crate) fn handshake() -> Vec<u8> {
        vec![HANDSHAKE]
    }

    /// Protects what a client sends.
    pub(crate) fn seal(&mut self, send: Send) -> Vec<u8> {
        match send {
            Send::Rtp(packet) => {
                let fields = HeaderFields {
                    marker: packet.marker,
                    payload_type: packet.payload_type,
                    sequence: packet.index as u16,
                    timestamp: packet.timestamp,
                    ssrc: packet.ssrc,
                };
                let extensions: Vec<(u8, &[u8])> =
                    packet.extensions.iter().map(|(id, value)| (*id, &value[..])).collect();
                let mut out = Vec::with_capacity(packet.payload.len() + 64);
                let header = write_header(&mut out, fields, &extensions);
                out.extend_from_slice(&packet.payload);
                self.outbound.protect_rtp(&mut out, 0, header, packet.ssrc, packet.index).unwrap();
                out
            }
            Send::Rtcp(mut compound) => {
                self.outbound.protect_rtcp(&mut compound).unwrap();
                compound
            }
        }
    }

    /// Takes the protection off a datagram of the engine; one that does not decrypt fails the
    /// test.
    pub(crate) fn open(&mut self, datagram: &[u8]) -> Received {
        let mut packet = datagram.to_vec();
        match (packet[0], packet.get(1)) {
            (0..=3, _) => Received::Stun,
            (_, Some(192..=223)) => match self.inbound.unprotect_rtcp(&mut packet) {
                Ok(length) => {
                    packet.truncate(length);
                    Received::Rtcp(packet)
                }
                Err(SrtpError::Replay) => Received::Duplicate,
                Err(error) => panic!("RTCP to {:?}: {error}", self.id),
            },
            _ => {
                let header = RtpHeader::parse(&packet).unwrap();
                match self.inbound.unprotect_rtp(&mut packet, header.header_length) {
                    Ok((length, _)) => {
                        packet.truncate(length);
                        Received::Rtp(header, packet)
                    }
                    Err(SrtpError::Replay) => Received::Duplicate,
                    Err(error) => panic!("RTP {header:?} to {:?}: {error}", self.id),
                }
            }
        }
    }
}
