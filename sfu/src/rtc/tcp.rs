//! ICE over TCP (RFC 6544): packets framed by their length (RFC 4571) on connections that
//! clients open. One port serves all workers; the first packet, a connectivity check, tells
//! whose connection it is.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::worker::{Command, Link};

/// Longest packet: a DTLS record or a full-sized media packet.
const MAX_PACKET: usize = 2048;
/// Bytes of the length before each packet.
const PREFIX: usize = 2;
/// Time until the first packet is there.
const FIRST_PACKET_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that have not said whose they are.
const MAX_STRANGERS: usize = 256;
/// Most bytes that wait for a slow client; then packets are dropped, as on a full link.
const MAX_WAITING: usize = 512 * 1024;
/// Most reads in a row, so that one connection does not hold up the others.
const MAX_READS: usize = 16;

/// A connection whose first packet was read.
pub(super) struct NewConnection {
    pub(super) stream: std::net::TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) first: Vec<u8>,
    /// Gives the connection back when it belongs to another worker.
    pub(super) not_mine: oneshot::Sender<Self>,
}

/// Accepts connections until the process ends and hands each to its worker.
pub(super) async fn accept(listener: TcpListener, links: Vec<Arc<Link>>) {
    let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
    loop {
        let Ok(permit) = Arc::clone(&strangers).acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "Failed to accept a media connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let links = links.clone();
        tokio::spawn(async move {
            if let Err(error) = introduce(stream, peer, &links).await {
                tracing::debug!(%error, "Media connection refused");
            }
            drop(permit);
        });
    }
}

/// Reads the first packet and asks each worker whether it is for one of its transports.
async fn introduce(
    mut stream: tokio::net::TcpStream,
    peer: SocketAddr,
    links: &[Arc<Link>],
) -> io::Result<()> {
    let first = timeout(FIRST_PACKET_TIMEOUT, async {
        let length = usize::from(stream.read_u16().await?);
        if length == 0 || length > MAX_PACKET {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut packet = vec![0; length];
        stream.read_exact(&mut packet).await?;
        Ok::<_, io::Error>(packet)
    });
    let mut first = first.await??;
    stream.set_nodelay(true)?;
    let mut stream = stream.into_std()?;
    for link in links {
        let (not_mine, returned) = oneshot::channel();
        link.send(Command::Connection(NewConnection { stream, peer, first, not_mine }));
        match returned.await {
            Ok(back) => (stream, first) = (back.stream, back.first),
            // Kept: the sender was dropped.
            Err(_) => return Ok(()),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// A client's connection in its worker.
pub(super) struct Connection {
    stream: TcpStream,
    pub(super) peer: SocketAddr,
    /// When it last belonged to a transport.
    pub(super) last_use: Instant,
    inbound: Vec<u8>,
    outbound: Vec<u8>,
    waits_for_write: bool,
}

impl Connection {
    /// Takes a connection over into the worker's poll.
    pub(super) fn register(
        stream: std::net::TcpStream,
        peer: SocketAddr,
        token: Token,
        registry: &Registry,
        now: Instant,
    ) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        registry.register(&mut stream, token, Interest::READABLE)?;
        Ok(Self {
            stream,
            peer,
            last_use: now,
            inbound: Vec::new(),
            outbound: Vec::new(),
            waits_for_write: false,
        })
    }

    /// Reads what is there and calls `handle` with each packet; `true` when more may wait.
    ///
    /// # Errors
    ///
    /// When the peer ended the connection, or its framing makes no sense.
    pub(super) fn read(&mut self, mut handle: impl FnMut(&mut [u8])) -> io::Result<bool> {
        let mut chunk = [0; 16 * 1024];
        for _ in 0..MAX_READS {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.inbound.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            let used = take_packets(&mut self.inbound, &mut handle)?;
            self.inbound.drain(..used);
        }
        Ok(true)
    }

    /// Queues packets of `size` bytes, of which the last may be shorter, and sends what goes.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub(super) fn send(
        &mut self,
        packets: &[u8],
        size: usize,
        token: Token,
        registry: &Registry,
    ) -> io::Result<()> {
        for packet in packets.chunks(size) {
            let Ok(length) = u16::try_from(packet.len()) else { continue };
            if self.outbound.len() + PREFIX + packet.len() > MAX_WAITING {
                break;
            }
            self.outbound.extend_from_slice(&length.to_be_bytes());
            self.outbound.extend_from_slice(packet);
        }
        self.write(token, registry)
    }

    /// Sends what waits.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub(super) fn write(&mut self, token: Token, registry: &Registry) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.outbound.len() {
            match self.stream.write(&self.outbound[sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.outbound.drain(..sent);
        let waits = !self.outbound.is_empty();
        if waits != self.waits_for_write {
            self.waits_for_write = waits;
            let interest =
                if waits { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            registry.reregister(&mut self.stream, token, interest)?;
        }
        Ok(())
    }

    /// Looks at the connection again: more was there than was read.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub(super) fn rearm(&mut self, token: Token, registry: &Registry) -> io::Result<()> {
        // Registering anew tells what is ready once more.
        registry.reregister(&mut self.stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.waits_for_write = true;
        Ok(())
    }
}

/// Hands out the whole packets at the start of `bytes`; returns how many bytes they took.
fn take_packets(bytes: &mut [u8], handle: &mut impl FnMut(&mut [u8])) -> io::Result<usize> {
    let mut used = 0;
    while let Some(prefix) = bytes[used..].first_chunk::<PREFIX>() {
        let length = usize::from(u16::from_be_bytes(*prefix));
        if length > MAX_PACKET {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let start = used + PREFIX;
        let Some(packet) = bytes.get_mut(start..start + length) else { break };
        handle(packet);
        used = start + length;
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_found_however_the_stream_is_cut() {
        let mut stream = vec![0, 3, b'a', b'b', b'c', 0, 0, 0, 1, b'd'];
        for cut in 0..=stream.len() {
            let mut found: Vec<Vec<u8>> = Vec::new();
            let mut pending = stream[..cut].to_vec();
            let used =
                take_packets(&mut pending, &mut |packet| found.push(packet.to_vec())).unwrap();
            pending.drain(..used);
            pending.extend_from_slice(&stream[cut..]);
            take_packets(&mut pending, &mut |packet| found.push(packet.to_vec())).unwrap();
            assert_eq!(found, [b"abc".to_vec(), Vec::new(), b"d".to_vec()], "cut at {cut}");
        }
        stream[0] = 0xFF;
        assert!(take_packets(&mut stream, &mut |_| {}).is_err());
    }
}
