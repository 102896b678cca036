//! One client: an allocation, a channel, bursts of ChannelData.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use openssl::ssl::{ErrorCode, SslConnector, SslMethod, SslStream, SslVerifyMode};
use turn_server::udp::{self, Destination, Memory, Receiver, Segment, Sender};

use crate::runner::{PASSWORD, PORT, TLS_PORT, USER};
use crate::stun::{Answer, Credentials, Request, frame_length};
use crate::workload::{Transport, Workload};

/// The channel of all clients.
const CHANNEL: u16 = 0x4000;
/// Bytes of a channel's header.
const HEADER: usize = 4;
/// Time for an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Requests are repeated so often over UDP.
const ATTEMPTS: usize = 8;

enum Link {
    Udp(mio::net::UdpSocket, SocketAddr),
    Tls(SslStream<TcpStream>),
}

pub(super) struct Client {
    link: Link,
    /// The burst as it goes out; times are written into it.
    burst: Vec<u8>,
    segments: Vec<Segment>,
    pending: Vec<u8>,
}

impl Client {
    /// Opens the transport.
    pub(super) fn open(
        server: Ipv4Addr,
        address: Ipv4Addr,
        workload: &Workload,
        raw: bool,
    ) -> Result<Self> {
        let link = match workload.transport {
            Transport::Udp => {
                let socket = udp::bind((address, 0).into(), udp::Purpose::Relay)?;
                Link::Udp(socket, (server, PORT).into())
            }
            Transport::Tls => {
                ensure!(!raw, "the floor has no TLS");
                let mut connector = SslConnector::builder(SslMethod::tls())?;
                connector.set_verify(SslVerifyMode::NONE);
                let connector = connector.build().configure()?.verify_hostname(false);
                let stream = TcpStream::connect((server, TLS_PORT))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                let stream = connector
                    .connect("turn.bench", stream)
                    .map_err(|error| anyhow::anyhow!("TLS handshake: {error}"))?;
                Link::Tls(stream)
            }
        };
        let size = HEADER + workload.payload;
        let mut burst = Vec::with_capacity(size * workload.burst);
        for _ in 0..workload.burst {
            burst.extend(CHANNEL.to_be_bytes());
            burst.extend(u16::try_from(workload.payload)?.to_be_bytes());
            burst.resize(burst.len() + workload.payload, 0x5A);
        }
        let segments = (0..workload.burst)
            .map(|index| Segment::plain(index * size..(index + 1) * size))
            .collect();
        Ok(Self { link, burst, segments, pending: Vec::new() })
    }

    /// Makes the allocation and binds the channel to the peer.
    pub(super) fn allocate(&mut self, peer: SocketAddrV4) -> Result<()> {
        let mut credentials = Credentials {
            user: USER.to_owned(),
            password: PASSWORD.to_owned(),
            ..Credentials::default()
        };
        let challenge = self.ask(&Request::allocate(rand::random()).bytes())?;
        challenge.challenge(&mut credentials)?;
        let request = Request::allocate(rand::random()).signed(&credentials)?;
        let answer = self.ask(&request)?;
        ensure!(answer.error.is_none(), "Allocate: {:?}", answer.error);
        let request = Request::channel_bind(rand::random(), CHANNEL, peer).signed(&credentials)?;
        let answer = self.ask(&request)?;
        ensure!(answer.error.is_none(), "ChannelBind: {:?}", answer.error);
        Ok(())
    }

    /// Sends a request and waits for its answer.
    fn ask(&mut self, request: &[u8]) -> Result<Answer> {
        match &mut self.link {
            Link::Udp(socket, server) => {
                let socket = borrow(socket)?;
                socket.set_nonblocking(false)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                let mut answer = [0; 2048];
                for _ in 0..ATTEMPTS {
                    socket.send_to(request, *server)?;
                    while let Ok(length) = socket.recv(&mut answer) {
                        if length >= 20 && answer[8..20] == request[8..20] {
                            socket.set_nonblocking(true)?;
                            return Answer::parse(&answer[..length]);
                        }
                    }
                }
                anyhow::bail!("no answer")
            }
            Link::Tls(stream) => {
                stream.write_all(request)?;
                let mut answer = Vec::new();
                while frame_length(&answer).is_none_or(|length| answer.len() < length) {
                    let mut part = [0; 2048];
                    let length = stream.read(&mut part).context("reading an answer")?;
                    ensure!(length > 0, "the server closed the connection");
                    answer.extend(&part[..length]);
                }
                Answer::parse(&answer)
            }
        }
    }

    /// Watches the transport.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> Result<()> {
        match &mut self.link {
            Link::Udp(socket, _) => registry.register(socket, token, Interest::READABLE)?,
            Link::Tls(stream) => {
                stream.get_ref().set_nonblocking(true)?;
                let fd = stream.get_ref().as_raw_fd();
                registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
            }
        }
        Ok(())
    }

    /// Sends a burst that carries the time; returns its packets.
    pub(super) fn send_burst(&mut self, sender: &mut Sender, micros: u64) -> Result<u64> {
        for segment in &self.segments {
            let at = segment.payload.start + HEADER;
            self.burst[at..at + 8].copy_from_slice(&micros.to_be_bytes());
        }
        match &mut self.link {
            Link::Udp(socket, server) => {
                let destination = Destination { to: *server, from: None, tos: 0 };
                // What the kernel does not take is missing at the peer.
                let memory = Memory { arena: &self.burst, headers: &[] };
                let _sent = sender.send_run(socket, destination, &self.segments, memory);
            }
            Link::Tls(stream) => match stream.ssl_write(&self.burst) {
                Ok(written) => ensure!(written == self.burst.len(), "a burst fits a record"),
                // The server does not read: the burst is missing at the peer.
                Err(error) if error.code() == ErrorCode::WANT_WRITE => {}
                Err(error) => return Err(error.into()),
            },
        }
        Ok(self.segments.len() as u64)
    }

    /// Takes what came; `sent` gets the time in each packet. Returns the number of packets.
    pub(super) fn receive(
        &mut self,
        receiver: &mut Receiver,
        mut sent: impl FnMut(u64),
    ) -> Result<u64> {
        let mut count = 0;
        match &mut self.link {
            Link::Udp(socket, _) => loop {
                let groups = receiver.receive(socket)?;
                for index in 0..groups {
                    let Some(datagrams) = receiver.datagrams(index) else { continue };
                    for range in datagrams.ranges() {
                        count += u64::from(take(&receiver.arena()[range], &mut sent));
                    }
                }
                if groups < receiver.slots() {
                    return Ok(count);
                }
            },
            Link::Tls(stream) => {
                let mut part = [0; 16 * 1024];
                loop {
                    match stream.ssl_read(&mut part) {
                        Ok(length) => self.pending.extend(&part[..length]),
                        Err(error) if error.code() == ErrorCode::WANT_READ => break,
                        Err(error) => return Err(error).context("the server closed a connection"),
                    }
                }
                let mut used = 0;
                while let Some(length) = frame_length(&self.pending[used..])
                    && let Some(frame) = self.pending.get(used..used + length)
                {
                    count += u64::from(take(frame, &mut sent));
                    used += length;
                }
                self.pending.drain(..used);
                Ok(count)
            }
        }
    }
}

/// Reads the time in a packet of the channel.
fn take(frame: &[u8], sent: &mut impl FnMut(u64)) -> bool {
    let is_ours = frame.starts_with(&CHANNEL.to_be_bytes());
    if is_ours && let Some(micros) = frame.get(HEADER..).and_then(<[u8]>::first_chunk) {
        sent(u64::from_be_bytes(*micros));
    }
    is_ours
}

/// The standard library's view of a socket, which has timeouts.
fn borrow(socket: &mio::net::UdpSocket) -> Result<UdpSocket> {
    Ok(socket.as_fd().try_clone_to_owned()?.into())
}
