//! A client's TCP connection in its worker: PROXY header, then TLS where the listener has it,
//! then bytes both ways. Knows nothing of TURN.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use contract::turn_config::Network;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::{ServerConfig, ServerConnection};

use crate::admission::Slot;
use crate::proxy::{self, Prefix};
use crate::queue::FrameQueue;

/// Most reads in a row, so that one connection does not hold up the others.
const MAX_READS: usize = 16;
/// Bytes of a read, and of a TLS record.
pub(crate) const CHUNK: usize = 16 * 1024;

/// What happened to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Everything that was there has been read.
    Drained,
    /// More may be there: read again in the next round.
    HoldsMore,
}

/// Where the connection is.
enum Stage {
    /// The first bytes may be a PROXY header.
    Prefix(Vec<u8>),
    /// Bytes are the client's.
    Open,
}

/// A client's connection.
pub(crate) struct Connection {
    stream: TcpStream,
    token: Token,
    stage: Stage,
    tls: Option<Box<ServerConnection>>,
    queue: FrameQueue,
    waits_for_write: bool,
    /// The client, by its PROXY header if it has one.
    pub(crate) remote: SocketAddr,
    /// The address that the client connected to.
    pub(crate) local: SocketAddr,
    /// When it was last found to have an allocation; at first, when it was opened.
    pub(crate) last_use: Instant,
    slot: Slot,
}

/// What every connection of a worker shares.
pub(crate) struct Rules {
    /// Whose PROXY headers are believed.
    pub(crate) trusted: Vec<Network>,
    /// Bytes that wait for a slow client.
    pub(crate) queue_bytes: usize,
}

impl Rules {
    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }
}

impl Connection {
    /// Takes an accepted stream over. `tls` is the certificate of a TLS listener.
    pub(crate) fn new(
        mut stream: TcpStream,
        token: Token,
        registry: &Registry,
        tls: Option<Arc<ServerConfig>>,
        slot: Slot,
        rules: &Rules,
        now: Instant,
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (remote, local) = (stream.peer_addr()?, stream.local_addr()?);
        let tls = tls
            .map(|config| ServerConnection::new(config).map(Box::new).map_err(io::Error::other))
            .transpose()?;
        registry.register(&mut stream, token, Interest::READABLE)?;
        Ok(Self {
            stream,
            token,
            stage: Stage::Prefix(Vec::new()),
            tls,
            queue: FrameQueue::new(rules.queue_bytes),
            waits_for_write: false,
            remote,
            local,
            last_use: now,
            slot,
        })
    }

    /// Changes from a worker to another.
    pub(crate) fn leave(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut self.stream)
    }

    /// The other half of [`Self::leave`].
    pub(crate) fn join(&mut self, token: Token, registry: &Registry) -> io::Result<()> {
        self.token = token;
        let interest = self.interest();
        registry.register(&mut self.stream, token, interest)
    }

    /// Reads what is there and calls `handle` with the client's bytes.
    ///
    /// # Errors
    ///
    /// When the client ended the connection, TLS failed, or a header is not to be believed.
    pub(crate) fn read(
        &mut self,
        registry: &Registry,
        rules: &Rules,
        chunk: &mut [u8],
        mut handle: impl FnMut(&mut Self, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<Progress> {
        for _ in 0..MAX_READS {
            let length = match self.stream.read(chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Progress::Drained);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let Stage::Prefix(prefix) = &mut self.stage else {
                self.take(&mut chunk[..length], &mut handle)?;
                continue;
            };
            prefix.extend_from_slice(&chunk[..length]);
            if let Some(mut rest) = self.finish_prefix(rules)? {
                self.take(&mut rest, &mut handle)?;
            }
        }
        // mio tells only of changes: look again without one.
        let interest = self.interest();
        registry.reregister(&mut self.stream, self.token, interest)?;
        Ok(Progress::HoldsMore)
    }

    /// Looks for a PROXY header; returns what follows it once that is clear.
    fn finish_prefix(&mut self, rules: &Rules) -> io::Result<Option<Vec<u8>>> {
        let Stage::Prefix(prefix) = &mut self.stage else { return Ok(None) };
        let (length, addresses) = match proxy::parse(prefix) {
            Prefix::Incomplete if prefix.len() < proxy::MAX_HEADER => return Ok(None),
            Prefix::Incomplete | Prefix::Invalid => return Err(io::ErrorKind::InvalidData.into()),
            Prefix::Absent => (0, None),
            Prefix::Header { length, addresses } => {
                if !rules.trusts(self.remote.ip()) {
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                (length, addresses)
            }
        };
        let rest = prefix.split_off(length);
        if let Some((remote, local)) = addresses {
            (self.remote, self.local) = (remote, local);
            if !self.slot.moves_to(remote.ip()) {
                return Err(io::ErrorKind::QuotaExceeded.into());
            }
        }
        self.stage = Stage::Open;
        if self.tls.is_none() {
            self.slot.handshake_done();
        }
        Ok(Some(rest))
    }

    /// Takes bytes of the stream.
    fn take(
        &mut self,
        bytes: &mut [u8],
        handle: &mut impl FnMut(&mut Self, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.tls.is_none() {
            return if bytes.is_empty() { Ok(()) } else { handle(self, bytes) };
        }
        let mut rest = &*bytes;
        let mut plain = [0; CHUNK];
        while !rest.is_empty() {
            let Some(tls) = &mut self.tls else { return Ok(()) };
            tls.read_tls(&mut rest)?;
            let state = tls.process_new_packets().map_err(io::Error::other);
            if state.is_err() {
                // The alert says why; the connection ends anyway.
                let _alert = tls.write_tls(&mut self.stream);
            }
            let state = state?;
            if !tls.is_handshaking() {
                self.slot.handshake_done();
            }
            let mut waiting = state.plaintext_bytes_to_read();
            while waiting > 0 {
                let Some(tls) = &mut self.tls else { return Ok(()) };
                let length = tls.reader().read(&mut plain)?;
                if length == 0 {
                    break;
                }
                waiting = waiting.saturating_sub(length);
                handle(self, &mut plain[..length])?;
            }
            if state.peer_has_closed() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Queues a message given in parts; [`Self::write`] sends it. Returns how many messages were
    /// dropped because the client is slow.
    pub(crate) fn push(&mut self, parts: &[&[u8]], is_media: bool) -> u64 {
        self.queue.push(parts, is_media)
    }

    /// Sends what waits, as far as the client takes it.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub(crate) fn write(&mut self, registry: &Registry) -> io::Result<()> {
        let is_blocked = match &mut self.tls {
            Some(tls) => write_tls(tls, &mut self.stream, &mut self.queue)?,
            None => write_plain(&mut self.stream, &mut self.queue)?,
        };
        if is_blocked != self.waits_for_write {
            self.waits_for_write = is_blocked;
            let interest = self.interest();
            registry.reregister(&mut self.stream, self.token, interest)?;
        }
        Ok(())
    }

    /// Whether a chunk can be queued without dropping anything.
    pub(crate) fn has_room(&self) -> bool {
        self.queue.room() >= CHUNK
    }

    /// Whether something has not been written yet.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.queue.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    fn interest(&self) -> Interest {
        if self.waits_for_write {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        }
    }
}

/// Sends until the queue is empty (`false`) or the socket full (`true`).
fn write_plain(stream: &mut TcpStream, queue: &mut FrameQueue) -> io::Result<bool> {
    while !queue.is_empty() {
        match stream.write(queue.front()) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => queue.consume(length),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Encrypts only what the socket takes at once: what waits in the queue can still be dropped.
fn write_tls(
    tls: &mut ServerConnection,
    stream: &mut TcpStream,
    queue: &mut FrameQueue,
) -> io::Result<bool> {
    loop {
        while tls.wants_write() {
            match tls.write_tls(stream) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if queue.is_empty() || tls.is_handshaking() {
            return Ok(false);
        }
        let front = queue.front();
        let length = tls.writer().write(&front[..front.len().min(CHUNK)])?;
        queue.consume(length);
    }
}
