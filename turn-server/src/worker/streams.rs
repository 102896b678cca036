//! TCP and TLS clients of a worker.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use mio::Registry;
use turn_server_core::api::{Client, ClientAction, ConnectionId, ToClient, Transport};
use turn_server_core::framer::StreamFramer;

use super::datagrams::send_to_peer;
use super::{ListenerSocket, MAX_ACCEPTS, Source, Worker};
use crate::connection::{Connection, Progress};
use crate::udp::{Destination, MAX_PADDING, Memory, Segment};

/// A client on a stream.
pub(super) struct StreamClient {
    pub(super) connection: Connection,
    transport: Transport,
    framer: StreamFramer,
    /// The 5-tuple, once the first message told that there is no PROXY header to come.
    pub(super) client: Option<Client>,
    /// The peer's connection whose bytes follow (RFC 6062 section 5.4).
    pub(super) spliced: Option<ConnectionId>,
    /// The peer's connection that waits until this client takes more.
    pub(super) waiting_peer: Option<ConnectionId>,
    /// Ends when everything is written.
    pub(super) is_closing: bool,
}

impl Worker {
    /// Accepts clients.
    pub(super) fn accept(&mut self, number: usize, now: Instant) {
        for _ in 0..MAX_ACCEPTS {
            let listener = &self.listeners[number];
            let ListenerSocket::Tcp(socket) = &listener.socket else { return };
            let (stream, from) = match socket.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // Out of descriptors, most likely: the next sweep looks again.
                    tracing::warn!(%error, "Failed to accept a client");
                    self.stalled.insert(Source::Listener(number));
                    return;
                }
            };
            let Some(slot) = self.admission.admit(from.ip()) else {
                self.shell.refused += 1;
                continue;
            };
            let transport = listener.transport;
            let tls = match (transport, &self.certificate) {
                (Transport::Tls, Some(certificate)) => Some(certificate.current().tls),
                _ => None,
            };
            let connection = self.next_connection();
            let token = Source::Connection(connection).token();
            match Connection::new(stream, token, &self.registry, tls, slot, &self.rules, now) {
                Ok(new) => {
                    self.shell.accepted += 1;
                    let client = StreamClient {
                        connection: new,
                        transport,
                        framer: StreamFramer::default(),
                        client: None,
                        spliced: None,
                        waiting_peer: None,
                        is_closing: false,
                    };
                    self.connections.insert(connection, client);
                }
                Err(error) => tracing::debug!(%error, "A client left at once"),
            }
        }
        self.again.insert(Source::Listener(number));
    }

    /// A number that no connection has.
    pub(super) fn next_connection(&mut self) -> usize {
        let number = self.next_connection;
        self.next_connection = number.wrapping_add(1) & (u32::MAX as usize);
        number
    }

    /// Reads what a client sent, and sends what waits for it.
    pub(super) fn serve_connection(&mut self, number: usize, now: Instant) {
        let Some(mut stream) = self.connections.remove(&number) else { return };
        if stream.spliced.is_some_and(|peer| self.is_peer_full(peer, number)) {
            self.connections.insert(number, stream);
            self.dirty.push(number);
            return;
        }
        let mut chunk = std::mem::take(&mut self.chunk);
        let registry = Arc::clone(&self.registry);
        let result = self.read_stream(number, &mut stream, &registry, &mut chunk, now);
        self.chunk = chunk;
        match result {
            Ok(progress) => {
                self.connections.insert(number, stream);
                if progress == Progress::HoldsMore {
                    self.again.insert(Source::Connection(number));
                }
                self.dirty.push(number);
                self.run_commands(now);
            }
            Err(error) => match self.moving.take() {
                Some(moving) => self.hand_over(stream, moving),
                None => self.end_stream(stream, &error),
            },
        }
    }

    fn read_stream(
        &mut self,
        number: usize,
        stream: &mut StreamClient,
        registry: &Registry,
        chunk: &mut [u8],
        now: Instant,
    ) -> io::Result<Progress> {
        let StreamClient { connection, transport, framer, client, spliced, .. } = stream;
        let rules = Arc::clone(&self.rules);
        connection.read(registry, &rules, chunk, |connection, bytes| {
            if let Some(peer) = spliced {
                return self.pass_to_peer(*peer, bytes);
            }
            let client = *client.get_or_insert_with(|| {
                let (local, remote) = (connection.local, connection.remote);
                let client = Client { transport: *transport, local, remote };
                self.by_client.insert(client, number);
                client
            });
            let framed = framer.push(bytes, |frame| self.take_frame(client, frame, now));
            self.flush_stream();
            if self.moving.is_some() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            framed.map_err(io::Error::other)
        })
    }

    fn take_frame(&mut self, client: Client, frame: &[u8], now: Instant) {
        if self.moving.is_some() {
            return;
        }
        self.moving = self.moves(frame);
        if self.moving.is_some() {
            return;
        }
        let ClientAction::Relay { relay, peer, payload, dont_fragment } =
            self.server.handle_client(client, frame, now)
        else {
            return;
        };
        if dont_fragment {
            self.flush_stream();
        }
        let start = self.stream_arena.len();
        self.stream_arena.extend_from_slice(&frame[payload]);
        let segment = Segment::plain(start..self.stream_arena.len());
        let destination = Destination { to: peer, from: None, tos: 0 };
        let Self { to_peers, relays, sender, stream_arena, shell, .. } = self;
        let memory = Memory { arena: stream_arena, headers: &[] };
        if dont_fragment {
            shell.dropped += super::datagrams::send_whole(
                relays,
                sender,
                relay.slot(),
                destination,
                segment,
                memory,
            );
            stream_arena.clear();
            return;
        }
        to_peers.push(relay.slot(), destination, segment, |run| {
            shell.dropped += send_to_peer(relays, sender, run, memory);
        });
    }

    fn flush_stream(&mut self) {
        let Self { to_peers, relays, sender, stream_arena, shell, .. } = self;
        let memory = Memory { arena: stream_arena, headers: &[] };
        to_peers.flush(|run| shell.dropped += send_to_peer(relays, sender, run, memory));
        stream_arena.clear();
    }

    /// Queues an answer.
    pub(super) fn push_message(&mut self, client: Client, bytes: &[u8]) {
        let Some(&number) = self.by_client.get(&client) else { return };
        if let Some(stream) = self.connections.get_mut(&number) {
            self.shell.dropped += stream.connection.push(&[bytes], false);
            self.dirty.push(number);
        }
    }

    /// Queues a peer's data.
    pub(super) fn push_media(&mut self, to: &ToClient, payload: Range<usize>) {
        let Some(&number) = self.by_client.get(&to.client) else { return };
        if let Some(stream) = self.connections.get_mut(&number) {
            let padding = &[0; MAX_PADDING][..to.padding];
            let parts = [to.header(), &self.receiver.arena()[payload], padding];
            self.shell.dropped += stream.connection.push(&parts, true);
            if self.dirty.last() != Some(&number) {
                self.dirty.push(number);
            }
        }
    }

    /// Sends what was queued in this round.
    pub(super) fn write_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for number in dirty.drain(..) {
            let Some(stream) = self.connections.get_mut(&number) else { continue };
            let result = stream.connection.write(&self.registry).and_then(|()| {
                let is_over = stream.is_closing && !stream.connection.has_waiting();
                if is_over { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
            });
            if let Some(peer) = stream.waiting_peer
                && stream.connection.has_room()
            {
                stream.waiting_peer = None;
                self.again.insert(Source::Peer(peer.0 as usize));
            }
            if let Err(error) = result
                && let Some(stream) = self.connections.remove(&number)
            {
                self.end_stream(stream, &error);
            }
        }
        // Keeps its memory.
        self.dirty = dirty;
    }

    pub(super) fn end_stream(&mut self, stream: StreamClient, error: &io::Error) {
        if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::Other) {
            self.shell.failed += 1;
        }
        tracing::debug!(%error, "A client's connection ended");
        if let Some(client) = stream.client {
            self.by_client.remove(&client);
            if let Some(peer) = stream.spliced {
                self.close_peer(peer);
                self.server.connection_closed(peer);
            }
            self.server.client_closed(client);
        }
    }

    /// Ends connections that have had no allocation for too long.
    pub(super) fn sweep_connections(&mut self, now: Instant) {
        for source in self.stalled.drain() {
            self.again.insert(source);
        }
        let (server, setup) = (&self.server, self.setup);
        let late: Vec<usize> = self
            .connections
            .iter_mut()
            .filter_map(|(number, stream)| {
                let is_used = stream.spliced.is_some()
                    || stream.client.is_some_and(|client| server.has_allocation(client));
                if is_used {
                    stream.connection.last_use = now;
                }
                (now.duration_since(stream.connection.last_use) >= setup).then_some(*number)
            })
            .collect();
        for number in late {
            if let Some(stream) = self.connections.remove(&number) {
                self.end_stream(stream, &io::ErrorKind::TimedOut.into());
            }
        }
    }
}
