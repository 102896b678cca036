//! Connections with peers (RFC 6062): accepted and made from a relay's port, then joined to a
//! client's connection byte for byte. A side that is slow stops the other; nothing is lost.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};
use turn_server_core::api::{Client, ConnectError, ConnectionId};

use super::{MAX_ACCEPTS, Relay, RelaySocket, Source, Worker};
use crate::connection::CHUNK;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;
/// Most bytes that wait for a peer before its client is no longer read.
const MAX_WAITING: usize = 256 * 1024;
/// Reads in a row.
const MAX_READS: usize = 16;
/// Time for a peer to answer (RFC 6062 section 5.2: 30 seconds).
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection with a peer.
pub(super) struct PeerStream {
    stream: TcpStream,
    /// Since when it is being made; `None` once it is there.
    connecting: Option<Instant>,
    /// The client's connection.
    spliced: Option<usize>,
    outbound: Vec<u8>,
    waits_for_write: bool,
    /// The client is not read until the peer takes more.
    client_waits: bool,
}

/// Opens a relay's port for connections in both directions.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket_on(address)?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// A socket that shares its address with others of the same relay.
fn socket_on(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

impl PeerStream {
    fn new(stream: TcpStream, connecting: Option<Instant>) -> Self {
        Self {
            stream,
            connecting,
            spliced: None,
            outbound: Vec::new(),
            waits_for_write: false,
            client_waits: false,
        }
    }
}

fn source(connection: ConnectionId) -> Source {
    Source::Peer(connection.0 as usize)
}

impl Worker {
    /// Accepts peers that connect to a relay.
    pub(super) fn accept_peers(&mut self, slot: usize, now: Instant) {
        for _ in 0..MAX_ACCEPTS {
            let Some(Some(Relay { id, socket: RelaySocket::Tcp(listener, _) })) =
                self.relays.get(slot)
            else {
                return;
            };
            let id = *id;
            let (mut stream, peer) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!(%error, "Failed to accept a peer");
                    self.stalled.insert(Source::Relay(slot));
                    return;
                }
            };
            // A peer without permission is refused by closing (RFC 6062 section 5.3).
            let Some(connection) = self.server.accepted(id, peer, now) else { continue };
            let token = source(connection).token();
            match self.registry.register(&mut stream, token, Interest::READABLE) {
                Ok(()) => {
                    self.peers.insert(connection, PeerStream::new(stream, None));
                }
                Err(_) => self.server.connection_closed(connection),
            }
        }
        self.again.insert(Source::Relay(slot));
    }

    /// Begins to connect to a peer.
    pub(super) fn connect_peer(
        &mut self,
        connection: ConnectionId,
        slot: usize,
        peer: SocketAddr,
        now: Instant,
    ) {
        let Some(Some(Relay { socket: RelaySocket::Tcp(_, address), .. })) = self.relays.get(slot)
        else {
            self.server.connected(connection, Err(ConnectError::Unreachable), now);
            return;
        };
        match self.begin_connect(*address, peer, connection) {
            Ok(stream) => {
                self.peers.insert(connection, PeerStream::new(stream, Some(now)));
            }
            Err(error) => {
                tracing::debug!(%error, "Failed to connect to a peer");
                self.server.connected(connection, Err(ConnectError::Unreachable), now);
            }
        }
    }

    fn begin_connect(
        &self,
        address: SocketAddr,
        peer: SocketAddr,
        connection: ConnectionId,
    ) -> io::Result<TcpStream> {
        let socket = socket_on(address)?;
        match socket.connect(&peer.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let mut stream = TcpStream::from_std(socket.into());
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(&mut stream, source(connection).token(), interest)?;
        Ok(stream)
    }

    /// Goes on with a connection: it was made, or bytes may be there.
    pub(super) fn serve_peer(&mut self, connection: ConnectionId, now: Instant) {
        let Some(mut peer) = self.peers.remove(&connection) else { return };
        if peer.connecting.is_some() {
            let error = peer.stream.take_error().ok().flatten();
            let is_there = error.is_none() && peer.stream.peer_addr().is_ok();
            if error.is_some() {
                self.server.connected(connection, Err(ConnectError::Unreachable), now);
                return;
            }
            if is_there {
                peer.connecting = None;
                peer.waits_for_write = true;
            }
            self.peers.insert(connection, peer);
            if is_there {
                self.server.connected(connection, Ok(()), now);
            }
            return;
        }
        let result = self.exchange(connection, &mut peer);
        let client = peer.spliced;
        if result.is_ok() {
            self.peers.insert(connection, peer);
            return;
        }
        drop(peer);
        if let Some(stream) = client.and_then(|number| self.connections.get_mut(&number)) {
            // What came from the peer is still delivered.
            stream.spliced = None;
            stream.is_closing = true;
            self.dirty.extend(client);
        }
        self.server.connection_closed(connection);
    }

    fn exchange(&mut self, connection: ConnectionId, peer: &mut PeerStream) -> io::Result<()> {
        self.write_peer(connection, peer)?;
        let Some(number) = peer.spliced else { return Ok(()) };
        for _ in 0..MAX_READS {
            let Some(client) = self.connections.get_mut(&number) else { return Ok(()) };
            if !client.connection.has_room() {
                client.waiting_peer = Some(connection);
                return Ok(());
            }
            match peer.stream.read(&mut self.chunk[..CHUNK]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    client.connection.push(&[&self.chunk[..length]], false);
                    self.dirty.push(number);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.again.insert(source(connection));
        Ok(())
    }

    fn write_peer(&mut self, connection: ConnectionId, peer: &mut PeerStream) -> io::Result<()> {
        let mut sent = 0;
        while sent < peer.outbound.len() {
            match peer.stream.write(&peer.outbound[sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        peer.outbound.drain(..sent);
        let waits = !peer.outbound.is_empty();
        if waits != peer.waits_for_write {
            peer.waits_for_write = waits;
            let interest =
                if waits { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            self.registry.reregister(&mut peer.stream, source(connection).token(), interest)?;
        }
        if peer.client_waits && peer.outbound.len() < MAX_WAITING {
            peer.client_waits = false;
            self.again.extend(peer.spliced.map(Source::Connection));
        }
        Ok(())
    }

    /// Whether a client must not be read because its peer is slow.
    pub(super) fn is_peer_full(&mut self, connection: ConnectionId, client: usize) -> bool {
        let Some(peer) = self.peers.get_mut(&connection) else { return false };
        debug_assert_eq!(peer.spliced, Some(client));
        peer.client_waits = peer.outbound.len() >= MAX_WAITING;
        peer.client_waits
    }

    /// Passes a client's bytes to its peer.
    pub(super) fn pass_to_peer(
        &mut self,
        connection: ConnectionId,
        bytes: &[u8],
    ) -> io::Result<()> {
        let Some(mut peer) = self.peers.remove(&connection) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        peer.outbound.extend_from_slice(bytes);
        let written = self.write_peer(connection, &mut peer);
        self.peers.insert(connection, peer);
        written
    }

    /// Joins a client's connection and a peer's.
    pub(super) fn splice(&mut self, connection: ConnectionId, client: Client) {
        let number = self.by_client.get(&client).copied();
        let stream = number.and_then(|number| self.connections.get_mut(&number));
        match (stream, self.peers.get_mut(&connection)) {
            (Some(stream), Some(peer)) => {
                stream.spliced = Some(connection);
                peer.spliced = number;
                self.again.insert(source(connection));
            }
            (_, _) => {
                self.peers.remove(&connection);
                self.server.connection_closed(connection);
            }
        }
    }

    /// Closes a peer's connection, and the client's that is joined to it.
    pub(super) fn close_peer(&mut self, connection: ConnectionId) {
        let client = self.peers.remove(&connection).and_then(|peer| peer.spliced);
        if let Some(stream) = client.and_then(|number| self.connections.get_mut(&number)) {
            stream.spliced = None;
            stream.is_closing = true;
            self.dirty.extend(client);
        }
    }

    /// Gives up on peers that do not answer.
    pub(super) fn sweep_peers(&mut self, now: Instant) {
        let late: Vec<ConnectionId> = self
            .peers
            .iter()
            .filter(|(_, peer)| {
                peer.connecting.is_some_and(|since| now.duration_since(since) >= CONNECT_TIMEOUT)
            })
            .map(|(connection, _)| *connection)
            .collect();
        for connection in late {
            self.peers.remove(&connection);
            self.server.connected(connection, Err(ConnectError::TimedOut), now);
        }
    }
}
