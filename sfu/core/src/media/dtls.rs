//! The handshake behind a border: bytes and time in, bytes, keys and data out. The engine does
//! not know which library does it.

pub mod records;

use std::time::Instant;

use super::srtp::SrtpProfile;
use super::{DtlsRole, Fingerprint};

/// What a session has to say.
#[derive(Debug, PartialEq, Eq)]
pub enum DtlsEvent {
    /// The handshake is complete and the peer showed the certificate that its description
    /// names.
    Connected {
        /// What both sides agreed on.
        profile: SrtpProfile,
        /// The exporter's bytes for both directions (RFC 5764 section 4.2).
        keying_material: Vec<u8>,
    },
    /// Decrypted data (SCTP).
    Data(Vec<u8>),
    /// The peer closed, the handshake failed or the certificate is another one.
    Closed,
}

/// One DTLS association.
pub trait DtlsSession: Send {
    /// Takes a datagram from the peer.
    fn handle_datagram(&mut self, datagram: &[u8], now: Instant);
    /// Retransmits what is due.
    fn handle_timeout(&mut self, now: Instant);
    /// When [`Self::handle_timeout`] has something to do.
    fn poll_timeout(&self) -> Option<Instant>;
    /// The next datagram for the peer.
    fn poll_transmit(&mut self) -> Option<Vec<u8>>;
    /// The next event.
    fn poll_event(&mut self) -> Option<DtlsEvent>;
    /// Encrypts data; lost when the handshake is not complete.
    fn send(&mut self, data: &[u8], now: Instant);
    /// Tells the peer that it is over.
    fn close(&mut self);
}

/// Makes sessions that share one certificate.
pub trait DtlsFactory: Send {
    /// The certificate's fingerprint.
    fn fingerprint(&self) -> Fingerprint;
    /// A session with a peer whose certificate has the fingerprint `remote`; as
    /// [`DtlsRole::Client`] it begins at once.
    fn session(
        &mut self,
        role: DtlsRole,
        remote: Fingerprint,
        now: Instant,
    ) -> Box<dyn DtlsSession>;
}
