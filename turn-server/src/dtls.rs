//! DTLS 1.2 by OpenSSL, server side: datagrams go through memory. A session begins only after
//! the client has shown that it receives at its address (cookie exchange, RFC 6347 section
//! 4.2.1), so that forged addresses cost little and amplify nothing.

#![allow(unsafe_code)] // Two calls of SSL_ctrl, for timers that the bindings do not wrap.

use std::collections::VecDeque;
use std::ffi::{c_long, c_void};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foreign_types::ForeignTypeRef as _;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::hash::MessageDigest;
use openssl::memcmp;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use openssl::ssl::{
    AlpnError, ErrorCode, Ssl, SslContext, SslMethod, SslOptions, SslRef, SslSessionCacheMode,
    SslStream, SslVersion, select_next_proto,
};
use openssl::x509::X509;

/// Largest handshake datagram: below every path's MTU.
const MTU: u32 = 1200;
/// Largest plain record.
const RECORD: usize = 16 * 1024;
/// Datagrams that wait to be read; a handshake flight has fewer.
const MAX_WAITING: usize = 16;
/// Forward secrecy and authenticated encryption.
const CIPHERS: &str = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!PSK";
/// Application protocols in the form of the wire: length, name.
const ALPN: &[u8] = b"\x09stun.turn\x12stun.nat-discovery";
/// Bytes of a cookie.
const COOKIE: usize = 32;
const DTLS_CTRL_GET_TIMEOUT: i32 = 73;
const DTLS_CTRL_HANDLE_TIMEOUT: i32 = 74;

/// Makes sessions with one certificate.
#[derive(Clone)]
pub(crate) struct Context {
    context: SslContext,
    client: Index<Ssl, SocketAddr>,
}

impl Context {
    /// Takes a certificate chain and its key, both PEM.
    pub(crate) fn new(chain: &[u8], key: &[u8]) -> Result<Self, ErrorStack> {
        let client = Ssl::new_ex_index::<SocketAddr>()?;
        let mut context = SslContext::builder(SslMethod::dtls())?;
        context.set_min_proto_version(Some(SslVersion::DTLS1_2))?;
        context.set_options(
            SslOptions::NO_QUERY_MTU | SslOptions::NO_TICKET | SslOptions::COOKIE_EXCHANGE,
        );
        context.set_session_cache_mode(SslSessionCacheMode::OFF);
        context.set_cipher_list(CIPHERS)?;
        let mut chain = X509::stack_from_pem(chain)?.into_iter();
        if let Some(own) = chain.next() {
            context.set_certificate(&own)?;
        }
        for authority in chain {
            context.add_extra_chain_cert(authority)?;
        }
        let key = PKey::private_key_from_pem(key)?;
        context.set_private_key(&key)?;
        context.check_private_key()?;
        context.set_alpn_select_callback(|_, offered| {
            select_next_proto(ALPN, offered).ok_or(AlpnError::ALERT_FATAL)
        });
        let mut secret = [0; COOKIE];
        openssl::rand::rand_bytes(&mut secret)?;
        let secret = Arc::new(secret);
        let to_check = Arc::clone(&secret);
        context.set_cookie_generate_cb(move |ssl, cookie| {
            let made = make_cookie(&secret[..], ssl.ex_data(client))?;
            cookie[..COOKIE].copy_from_slice(&made);
            Ok(COOKIE)
        });
        context.set_cookie_verify_cb(move |ssl, cookie| {
            make_cookie(&to_check[..], ssl.ex_data(client))
                .is_ok_and(|made| made.len() == cookie.len() && memcmp::eq(&made, cookie))
        });
        Ok(Self { context: context.build(), client })
    }
}

/// A cookie that only this process can make, for one address.
fn make_cookie(secret: &[u8], client: Option<&SocketAddr>) -> Result<[u8; COOKIE], ErrorStack> {
    let key = PKey::hmac(secret)?;
    let mut signer = Signer::new(MessageDigest::sha256(), &key)?;
    if let Some(client) = client {
        signer.update(client.to_string().as_bytes())?;
    }
    let mut cookie = [0; COOKIE];
    signer.sign(&mut cookie)?;
    Ok(cookie)
}

/// Datagrams on their way in and out of OpenSSL.
#[derive(Debug, Default)]
struct Memory {
    inbound: VecDeque<Vec<u8>>,
    outbound: VecDeque<Vec<u8>>,
}

impl Read for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let datagram = self.inbound.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
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

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Keys are not agreed on.
    Handshaking,
    /// Data flows.
    Connected,
    /// Over.
    Closed,
}

/// A client's session.
pub(crate) struct Session {
    stream: SslStream<Memory>,
    state: State,
    record: Vec<u8>,
    deadline: Option<Instant>,
}

impl Session {
    /// Waits for the client's first message.
    pub(crate) fn new(context: &Context, client: SocketAddr) -> Result<Self, ErrorStack> {
        let mut ssl = Ssl::new(&context.context)?;
        ssl.set_ex_data(context.client, client);
        ssl.set_mtu(MTU)?;
        ssl.set_accept_state();
        let stream = SslStream::new(ssl, Memory::default())?;
        Ok(Self { stream, state: State::Handshaking, record: Vec::new(), deadline: None })
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Takes a datagram; `handle` gets what it says, each message by itself.
    pub(crate) fn receive(
        &mut self,
        datagram: &[u8],
        now: Instant,
        mut handle: impl FnMut(&mut [u8]),
    ) {
        let memory = self.stream.get_mut();
        if self.state == State::Closed || memory.inbound.len() >= MAX_WAITING {
            return;
        }
        memory.inbound.push_back(datagram.to_vec());
        self.handshake();
        if self.state == State::Connected {
            self.read(&mut handle);
        }
        self.schedule(now);
    }

    /// Encrypts a message.
    pub(crate) fn send(&mut self, message: &[u8]) {
        if self.state == State::Connected
            && let Err(error) = self.stream.ssl_write(message)
        {
            tracing::debug!(%error, "Failed to encrypt");
        }
    }

    /// The next datagram to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.stream.get_mut().outbound.pop_front()
    }

    /// Repeats a lost flight.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            retransmit(self.stream.ssl());
            self.handshake();
            self.schedule(now);
        }
    }

    /// Says good-bye.
    pub(crate) fn close(&mut self) {
        if self.state == State::Connected
            && let Err(error) = self.stream.shutdown()
        {
            tracing::debug!(%error, "Failed to close a DTLS session");
        }
        self.state = State::Closed;
    }

    fn handshake(&mut self) {
        if self.state != State::Handshaking {
            return;
        }
        match self.stream.do_handshake() {
            Ok(()) => self.state = State::Connected,
            Err(error) if error.code() == ErrorCode::WANT_READ => {}
            Err(error) => {
                tracing::debug!(%error, "DTLS handshake failed");
                self.state = State::Closed;
            }
        }
    }

    fn read(&mut self, handle: &mut impl FnMut(&mut [u8])) {
        self.record.resize(RECORD, 0);
        loop {
            match self.stream.ssl_read(&mut self.record) {
                Ok(length) => handle(&mut self.record[..length]),
                Err(error) if error.code() == ErrorCode::WANT_READ => return,
                // The peer's close_notify, or an association that is beyond repair.
                Err(_) => {
                    self.state = State::Closed;
                    return;
                }
            }
        }
    }

    fn schedule(&mut self, now: Instant) {
        let is_open = self.state == State::Handshaking;
        let wait = if is_open { retransmission_timeout(self.stream.ssl()) } else { None };
        self.deadline = wait.map(|wait| now + wait);
    }
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
