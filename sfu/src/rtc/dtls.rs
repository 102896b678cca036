//! DTLS 1.2 by OpenSSL behind the engine's border: datagrams go through memory, the
//! certificate is made at start and known by its fingerprint only.
//!
//! OpenSSL does the handshake. With the cipher that WebRTC requires, its session ends with that:
//! [`established`] goes on with the records, in a fiftieth of the memory.
//!
//! OpenSSL reads the clock for its retransmission timer; `now` only tells when to look again.

#![allow(unsafe_code)] // Three calls of OpenSSL, for timers that the bindings do not wrap.

mod established;

use std::collections::VecDeque;
use std::ffi::{c_long, c_uint, c_void};
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use foreign_types::ForeignTypeRef as _;
use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::srtp::SrtpProfileId;
use openssl::ssl::{
    ErrorCode, Ssl, SslContext, SslMethod, SslOptions, SslRef, SslSessionCacheMode, SslStream,
    SslVerifyMode, SslVersion,
};
use openssl::x509::{X509, X509NameBuilder};
use sfu_core::media::dtls::records::Progress;
use sfu_core::media::dtls::{DtlsEvent, DtlsFactory, DtlsSession};
use sfu_core::media::srtp::SrtpProfile;
use sfu_core::media::{DtlsRole, Fingerprint};

use established::Established;

/// Largest handshake datagram: below every path's MTU (RFC 8261 section 5 assumes 1200).
const MTU: u32 = 1200;
/// Largest plain record that is read.
const RECORD: usize = 16 * 1024;
/// Datagrams that wait to be read; a handshake flight has fewer.
const MAX_WAITING: usize = 64;
/// Our profiles in order of preference; OpenSSL lets the server's order win.
const PROFILES: &str = "SRTP_AEAD_AES_128_GCM:SRTP_AES128_CM_SHA1_80";
/// Forward secrecy and authenticated encryption first, and of that the cipher that everybody has
/// (RFC 8827 section 6.5); CBC for old libraries.
const CIPHERS: &str = "ECDHE+AES128+AESGCM:ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:!aNULL:!PSK";
/// Label of the exporter (RFC 5764 section 4.2).
const EXPORTER: &str = "EXTRACTOR-dtls_srtp";
/// How long a flight waits for its answer, the first time and at most, in microseconds. The
/// default of OpenSSL, a second and then twice as long each time (RFC 6347 section 4.2.4.1), makes
/// somebody on a bad network wait for minutes; WebRTC's paths are tested by ICE before.
const FLIGHT_TIMEOUT: (c_uint, c_uint) = (100_000, 1_000_000);
const DTLS_CTRL_GET_TIMEOUT: i32 = 73;
const DTLS_CTRL_HANDLE_TIMEOUT: i32 = 74;

/// Makes sessions with one certificate.
#[derive(Clone)]
pub(super) struct OpenSslFactory {
    context: SslContext,
    fingerprint: Fingerprint,
}

impl OpenSslFactory {
    /// Makes a self-signed P-256 certificate.
    ///
    /// # Errors
    ///
    /// When OpenSSL lacks what it needs.
    pub(super) fn new() -> Result<Self, ErrorStack> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
        Self::with_key(&PKey::from_ec_key(EcKey::generate(group.as_ref())?)?)
    }

    fn with_key(key: &PKey<Private>) -> Result<Self, ErrorStack> {
        Self::with_ciphers(key, CIPHERS)
    }

    fn with_ciphers(key: &PKey<Private>, ciphers: &str) -> Result<Self, ErrorStack> {
        let certificate = self_signed(key)?;
        let digest = certificate.digest(MessageDigest::sha256())?;
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(&digest);

        let mut context = SslContext::builder(SslMethod::dtls())?;
        context.set_min_proto_version(Some(SslVersion::DTLS1_2))?;
        context.set_options(
            SslOptions::NO_QUERY_MTU
                | SslOptions::NO_TICKET
                | SslOptions::NO_RENEGOTIATION
                | SslOptions::CIPHER_SERVER_PREFERENCE,
        );
        context.set_session_cache_mode(SslSessionCacheMode::OFF);
        context.set_cipher_list(ciphers)?;
        context.set_tlsext_use_srtp(PROFILES)?;
        context.set_certificate(&certificate)?;
        context.set_private_key(key)?;
        // Certificates are self-signed: what counts is the fingerprint, checked when the
        // handshake is complete.
        context.set_verify_callback(
            SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
            |_, _| true,
        );
        Ok(Self { context: context.build(), fingerprint: Fingerprint(fingerprint) })
    }
}

fn self_signed(key: &PKey<Private>) -> Result<X509, ErrorStack> {
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_text("CN", "WebRTC")?;
    let name = name.build();
    let mut serial = BigNum::new()?;
    serial.rand(64, MsbOption::MAYBE_ZERO, false)?;
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(serial.to_asn1_integer()?.as_ref())?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.set_pubkey(key)?;
    builder.set_not_before(Asn1Time::days_from_now(0)?.as_ref())?;
    // It lives as long as the process.
    builder.set_not_after(Asn1Time::days_from_now(3650)?.as_ref())?;
    builder.sign(key, MessageDigest::sha256())?;
    Ok(builder.build())
}

impl DtlsFactory for OpenSslFactory {
    fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    fn session(
        &mut self,
        role: DtlsRole,
        remote: Fingerprint,
        now: Instant,
    ) -> Box<dyn DtlsSession> {
        match OpenSslSession::new(&self.context, role, remote) {
            Ok(mut session) => {
                if role == DtlsRole::Client {
                    session.drive(now);
                }
                Box::new(session)
            }
            Err(error) => {
                tracing::error!(%error, "Failed to make a DTLS session");
                Box::new(Failed(Some(DtlsEvent::Closed)))
            }
        }
    }
}

/// A session that could not be made: says so once.
struct Failed(Option<DtlsEvent>);

impl DtlsSession for Failed {
    fn handle_datagram(&mut self, _: &[u8], _: Instant) {}
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

/// Datagrams on their way in and out of OpenSSL.
#[derive(Debug, Default)]
struct Memory {
    inbound: VecDeque<Vec<u8>>,
    outbound: VecDeque<Vec<u8>>,
    /// What was sent since the last datagram of the peer.
    last_flight: Vec<Vec<u8>>,
    progress: Progress,
}

impl Read for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let datagram = self.inbound.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        self.progress.note_received(&datagram);
        let length = datagram.len().min(buffer.len());
        buffer[..length].copy_from_slice(&datagram[..length]);
        Ok(length)
    }
}

impl Write for Memory {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.progress.note_sent(datagram);
        self.outbound.push_back(datagram.to_vec());
        if self.last_flight.len() < MAX_WAITING {
            self.last_flight.push(datagram.to_vec());
        }
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Handshaking,
    Connected,
    Closed,
}

/// Who works on the records.
enum Association {
    OpenSsl(SslStream<Memory>),
    Established(Box<Established>),
}

struct OpenSslSession {
    association: Association,
    role: DtlsRole,
    state: State,
    remote: Fingerprint,
    events: VecDeque<DtlsEvent>,
    deadline: Option<Instant>,
}

impl OpenSslSession {
    fn new(context: &SslContext, role: DtlsRole, remote: Fingerprint) -> Result<Self, ErrorStack> {
        Self::configured(context, role, remote, |_| Ok(()))
    }

    fn configured(
        context: &SslContext,
        role: DtlsRole,
        remote: Fingerprint,
        configure: impl FnOnce(&mut SslRef) -> Result<(), ErrorStack>,
    ) -> Result<Self, ErrorStack> {
        let mut ssl = Ssl::new(context)?;
        ssl.set_mtu(MTU)?;
        set_timers(&ssl);
        configure(&mut ssl)?;
        match role {
            DtlsRole::Server => ssl.set_accept_state(),
            DtlsRole::Client => ssl.set_connect_state(),
        }
        let stream = SslStream::new(ssl, Memory::default())?;
        Ok(Self {
            association: Association::OpenSsl(stream),
            role,
            state: State::Handshaking,
            remote,
            events: VecDeque::new(),
            deadline: None,
        })
    }

    /// Lets OpenSSL work on what arrived.
    fn drive(&mut self, now: Instant) {
        let Association::OpenSsl(stream) = &mut self.association else { return };
        if self.state == State::Handshaking {
            match stream.do_handshake() {
                Ok(()) => self.finish_handshake(),
                Err(error) if error.code() == ErrorCode::WANT_READ => {}
                Err(error) => {
                    tracing::debug!(%error, "DTLS handshake failed");
                    self.fail();
                }
            }
        }
        if self.state == State::Connected {
            self.read();
        }
        self.deadline = match &self.association {
            Association::OpenSsl(stream) => {
                retransmission_timeout(stream.ssl()).map(|wait| now + wait)
            }
            Association::Established(_) => None,
        };
    }

    fn finish_handshake(&mut self) {
        let Association::OpenSsl(stream) = &self.association else { return };
        match keys(stream.ssl(), self.remote) {
            Some((profile, keying_material)) => {
                self.state = State::Connected;
                self.events.push_back(DtlsEvent::Connected { profile, keying_material });
            }
            None => self.fail(),
        }
    }

    /// Reads what the peer sent together with the end of its handshake, or with OpenSSL's ciphers.
    fn read(&mut self) {
        let Association::OpenSsl(stream) = &mut self.association else { return };
        let mut record = vec![0; RECORD];
        loop {
            match stream.ssl_read(&mut record) {
                Ok(length) => self.events.push_back(DtlsEvent::Data(record[..length].to_vec())),
                Err(error) if error.code() == ErrorCode::WANT_READ => break,
                // The peer's close_notify, or an association that is beyond repair.
                Err(_) => return self.fail(),
            }
        }
        if let Some(established) = Established::take_over(stream, self.role) {
            self.association = Association::Established(Box::new(established));
        }
    }

    fn fail(&mut self) {
        if self.state != State::Closed {
            self.state = State::Closed;
            self.events.push_back(DtlsEvent::Closed);
        }
    }
}

impl DtlsSession for OpenSslSession {
    fn handle_datagram(&mut self, datagram: &[u8], now: Instant) {
        if self.state == State::Closed {
            return;
        }
        match &mut self.association {
            Association::OpenSsl(stream) => {
                let memory = stream.get_mut();
                if memory.inbound.len() < MAX_WAITING {
                    memory.inbound.push_back(datagram.to_vec());
                    memory.last_flight.clear();
                    self.drive(now);
                }
            }
            Association::Established(established) => {
                if established.handle_datagram(datagram, &mut self.events).is_break() {
                    self.fail();
                }
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.state == State::Closed {
            self.deadline = None;
            return;
        }
        if let Association::OpenSsl(stream) = &mut self.association {
            stream.get_mut().last_flight.clear();
            retransmit(stream.ssl());
        }
        self.drive(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        match &mut self.association {
            Association::OpenSsl(stream) => stream.get_mut().outbound.pop_front(),
            Association::Established(established) => established.poll_transmit(),
        }
    }

    fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.events.pop_front()
    }

    fn send(&mut self, data: &[u8], _: Instant) {
        if self.state != State::Connected {
            return;
        }
        match &mut self.association {
            Association::OpenSsl(stream) => {
                if let Err(error) = stream.ssl_write(data) {
                    tracing::debug!(%error, "Failed to encrypt data");
                }
            }
            Association::Established(established) => established.send(data),
        }
    }

    fn close(&mut self) {
        if self.state == State::Connected {
            match &mut self.association {
                Association::OpenSsl(stream) => {
                    if let Err(error) = stream.shutdown() {
                        tracing::debug!(%error, "Failed to close a DTLS session");
                    }
                }
                Association::Established(established) => established.close(),
            }
        }
        self.state = State::Closed;
    }
}

/// Keys for SRTP, if the peer is who its description says and a profile was agreed on.
fn keys(ssl: &SslRef, remote: Fingerprint) -> Option<(SrtpProfile, Vec<u8>)> {
    let digest = ssl.peer_certificate()?.digest(MessageDigest::sha256()).ok()?;
    if digest[..] != remote.0 {
        tracing::debug!("The peer's certificate is not the one in its description");
        return None;
    }
    let profile = match ssl.selected_srtp_profile()?.id() {
        SrtpProfileId::SRTP_AEAD_AES_128_GCM => SrtpProfile::AeadAes128Gcm,
        SrtpProfileId::SRTP_AES128_CM_SHA1_80 => SrtpProfile::Aes128CmSha1_80,
        _ => return None,
    };
    let mut material = vec![0; profile.keying_material_length()];
    ssl.export_keying_material(&mut material, EXPORTER, None).ok()?;
    Some((profile, material))
}

unsafe extern "C" {
    /// Sets who says how long a flight waits (OpenSSL 1.1.1 and later).
    fn DTLS_set_timer_cb(
        ssl: *mut openssl_sys::SSL,
        callback: Option<unsafe extern "C" fn(*mut openssl_sys::SSL, c_uint) -> c_uint>,
    );
}

/// The next wait after one of `micros`, 0 for the first.
unsafe extern "C" fn flight_timeout(_: *mut openssl_sys::SSL, micros: c_uint) -> c_uint {
    let (first, most) = FLIGHT_TIMEOUT;
    if micros == 0 { first } else { micros.saturating_mul(2).min(most) }
}

fn set_timers(ssl: &SslRef) {
    // SAFETY: the pointer to SSL lives as long as `ssl`; the callback is a function without state.
    unsafe { DTLS_set_timer_cb(ssl.as_ptr(), Some(flight_timeout)) }
}

/// How long until a flight must be sent again; `None` when none waits for an answer.
fn retransmission_timeout(ssl: &SslRef) -> Option<Duration> {
    let mut time = libc::timeval { tv_sec: 0, tv_usec: 0 };
    // SAFETY: the pointer to SSL lives as long as `ssl`, and DTLS_CTRL_GET_TIMEOUT writes one
    // timeval, which outlives the call.
    let is_running = unsafe {
        let target = (&raw mut time).cast::<c_void>();
        openssl_sys::SSL_ctrl(ssl.as_ptr(), DTLS_CTRL_GET_TIMEOUT, 0 as c_long, target)
    };
    if is_running != 1 {
        return None;
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let micros = u64::try_from(time.tv_usec).unwrap_or_default();
    Some(Duration::from_secs(seconds) + Duration::from_micros(micros))
}

/// Sends the last flight again if its time has come.
fn retransmit(ssl: &SslRef) {
    // SAFETY: the pointer to SSL lives as long as `ssl`; the command takes no argument. A
    // failure shows in the next handshake step.
    unsafe {
        openssl_sys::SSL_ctrl(ssl.as_ptr(), DTLS_CTRL_HANDLE_TIMEOUT, 0, std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests;
