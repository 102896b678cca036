//! DTLS 1.2 as a client, by OpenSSL through memory. All sessions share one certificate.

#![allow(unsafe_code)] // One call of SSL_ctrl, for a timer that the bindings do not wrap.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use foreign_types::ForeignTypeRef as _;
use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::srtp::SrtpProfileId;
use openssl::ssl::{
    ErrorCode, Ssl, SslContext, SslMethod, SslOptions, SslStream, SslVerifyMode, SslVersion,
};
use openssl::x509::{X509, X509NameBuilder};
use sfu_core::media::Fingerprint;
use sfu_core::media::srtp::{self, Inbound, Outbound, SrtpProfile};

/// Largest handshake datagram.
const MTU: u32 = 1200;
/// How often a handshake that does not go on is looked at.
const RETRANSMISSION: Duration = Duration::from_millis(200);
const DTLS_CTRL_HANDLE_TIMEOUT: i32 = 74;

/// Makes sessions.
pub(super) struct DtlsClient {
    context: SslContext,
    /// The certificate's, for our descriptions.
    pub(super) fingerprint: Fingerprint,
}

impl DtlsClient {
    /// Makes a self-signed P-256 certificate.
    pub(super) fn new() -> Result<Self> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
        let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
        let mut name = X509NameBuilder::new()?;
        name.append_entry_by_text("CN", "load")?;
        let name = name.build();
        let mut builder = X509::builder()?;
        builder.set_version(2)?;
        builder.set_subject_name(&name)?;
        builder.set_issuer_name(&name)?;
        builder.set_pubkey(&key)?;
        builder.set_not_before(Asn1Time::days_from_now(0)?.as_ref())?;
        builder.set_not_after(Asn1Time::days_from_now(2)?.as_ref())?;
        builder.sign(&key, MessageDigest::sha256())?;
        let certificate = builder.build();
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(&certificate.digest(MessageDigest::sha256())?);

        let mut context = SslContext::builder(SslMethod::dtls())?;
        context.set_min_proto_version(Some(SslVersion::DTLS1_2))?;
        context.set_options(SslOptions::NO_QUERY_MTU);
        context.set_tlsext_use_srtp("SRTP_AEAD_AES_128_GCM:SRTP_AES128_CM_SHA1_80")?;
        context.set_certificate(&certificate)?;
        context.set_private_key(&key)?;
        // The fingerprint in the description is what counts.
        context.set_verify_callback(SslVerifyMode::PEER, |_, _| true);
        Ok(Self { context: context.build(), fingerprint: Fingerprint(fingerprint) })
    }

    /// A session with the server whose certificate has the fingerprint `remote`.
    pub(super) fn session(&self, remote: Fingerprint, now: Instant) -> Result<DtlsSession> {
        let mut ssl = Ssl::new(&self.context)?;
        ssl.set_mtu(MTU)?;
        ssl.set_connect_state();
        let stream = SslStream::new(ssl, Memory::default())?;
        Ok(DtlsSession { stream, remote, is_connected: false, look_again: now })
    }
}

/// Datagrams on their way in and out of OpenSSL.
#[derive(Debug, Default)]
struct Memory {
    inbound: Option<Vec<u8>>,
    outbound: VecDeque<Vec<u8>>,
}

impl Read for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let datagram = self.inbound.take().ok_or(io::ErrorKind::WouldBlock)?;
        let length = datagram.len().min(buffer.len());
        buffer[..length].copy_from_slice(&datagram[..length]);
        Ok(length)
    }
}

impl Write for Memory {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.outbound.push_back(datagram.to_vec());
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a datagram brought about.
pub(super) enum DtlsProgress {
    /// Nothing to tell.
    None,
    /// The handshake is complete.
    Connected(Box<(Inbound, Outbound)>),
    /// Decrypted SCTP packets.
    Data(Vec<Vec<u8>>),
}

/// One association.
pub(super) struct DtlsSession {
    stream: SslStream<Memory>,
    remote: Fingerprint,
    is_connected: bool,
    look_again: Instant,
}

impl DtlsSession {
    /// Takes a datagram, or begins without one.
    pub(super) fn handle(&mut self, datagram: Option<&[u8]>, now: Instant) -> Result<DtlsProgress> {
        self.stream.get_mut().inbound = datagram.map(<[u8]>::to_vec);
        self.look_again = now + RETRANSMISSION;
        if self.is_connected {
            return self.read();
        }
        match self.stream.do_handshake() {
            Ok(()) => {
                self.is_connected = true;
                Ok(DtlsProgress::Connected(Box::new(self.keys()?)))
            }
            Err(error) if error.code() == ErrorCode::WANT_READ => Ok(DtlsProgress::None),
            Err(error) => Err(error).context("DTLS handshake"),
        }
    }

    fn read(&mut self) -> Result<DtlsProgress> {
        let mut data = Vec::new();
        let mut record = [0; 4096];
        loop {
            match self.stream.ssl_read(&mut record) {
                Ok(length) => data.push(record[..length].to_vec()),
                Err(error) if error.code() == ErrorCode::WANT_READ => break,
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => {
                    bail!("the server closed the association")
                }
                Err(error) => return Err(error).context("reading a DTLS record"),
            }
        }
        Ok(if data.is_empty() { DtlsProgress::None } else { DtlsProgress::Data(data) })
    }

    /// Encrypts an SCTP packet.
    pub(super) fn send(&mut self, data: &[u8]) -> Result<()> {
        self.stream.ssl_write(data).context("writing a DTLS record")?;
        Ok(())
    }

    /// Sends the last flight again if the handshake waits for long.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.is_connected || now < self.look_again {
            return;
        }
        self.look_again = now + RETRANSMISSION;
        // SAFETY: the pointer to SSL lives as long as the stream; the command takes no
        // argument. OpenSSL itself knows whether its timer has run out.
        unsafe {
            let ssl = self.stream.ssl().as_ptr();
            openssl_sys::SSL_ctrl(ssl, DTLS_CTRL_HANDLE_TIMEOUT, 0, std::ptr::null_mut());
        }
    }

    /// The next datagram for the server.
    pub(super) fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.stream.get_mut().outbound.pop_front()
    }

    fn keys(&self) -> Result<(Inbound, Outbound)> {
        let ssl = self.stream.ssl();
        let certificate = ssl.peer_certificate().context("the server showed no certificate")?;
        let digest = certificate.digest(MessageDigest::sha256())?;
        ensure!(digest[..] == self.remote.0, "the server's certificate is another one");
        let selected = ssl.selected_srtp_profile().context("no SRTP profile was agreed on")?;
        let profile = match selected.id() {
            SrtpProfileId::SRTP_AEAD_AES_128_GCM => SrtpProfile::AeadAes128Gcm,
            SrtpProfileId::SRTP_AES128_CM_SHA1_80 => SrtpProfile::Aes128CmSha1_80,
            other => bail!("unexpected SRTP profile {other:?}"),
        };
        let mut material = vec![0; profile.keying_material_length()];
        ssl.export_keying_material(&mut material, "EXTRACTOR-dtls_srtp", None)?;
        srtp::from_keying_material(profile, &material, true).context("keying material")
    }
}
