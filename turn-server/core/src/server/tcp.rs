//! Connections with peers (RFC 6062): Connect, ConnectionBind, and peers that connect.

use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng as _;

use super::requests::{Outcome, Request};
use super::{Deadline, Server};
use crate::api::{Client, Command, ConnectError, ConnectionId, RelayId, RelayTransport};
use crate::stun::{Class, Method, Signer, Writer, attribute as a};

/// Time for the client to bind a connection (RFC 6062 sections 5.2 and 5.3).
const BIND_TIME: Duration = Duration::from_secs(30);
/// Time for the program to say how connecting went; it has a limit of its own.
const CONNECT_TIME: Duration = Duration::from_secs(60);

/// A connection with a peer.
#[derive(Debug)]
pub(super) struct Connection {
    allocation: usize,
    /// As the client names it.
    peer: SocketAddr,
    state: State,
    /// When it ends unless something happens.
    deadline: Option<Instant>,
}

#[derive(Debug)]
enum State {
    /// The peer has not answered; the Connect request waits.
    Connecting { transaction: [u8; 12], signer: Signer, fingerprint: bool },
    /// The client has not bound it.
    Waiting,
    /// ConnectionBind was answered.
    Binding(Client),
    /// Joined.
    Spliced(Client),
}

impl Server {
    pub(super) fn connect(&mut self, request: &Request<'_, '_>, now: Instant) -> Outcome {
        let index = self.owned(request)?;
        if self.allocations[index].transport != RelayTransport::Tcp {
            return Err(400);
        }
        let peer = request.message.peer.ok_or(400_u16)?;
        let relay = self.relay_of_family(self.allocations[index].relays, peer).ok_or(443_u16)?;
        let local = self.peers.local(peer).ok_or(403_u16)?;
        let of_allocation = self.connections.values().filter(|known| known.allocation == index);
        if of_allocation.clone().any(|known| known.peer == peer) {
            return Err(446);
        }
        let rate = self.limits.new_peers_per_second.into();
        if of_allocation.count() >= self.limits.channels as usize
            || !self.allocations[index].new_peers.try_take(1, rate, now)
        {
            return Err(508);
        }
        let state = State::Connecting {
            transaction: request.message.transaction,
            signer: request.signer,
            fingerprint: request.message.fingerprint,
        };
        let connection =
            self.add_connection(Connection { allocation: index, peer, state, deadline: None });
        self.set_deadline(connection, Some(now + CONNECT_TIME));
        self.commands.push_back(Command::Connect { connection, relay, peer: local });
        Ok(None)
    }

    /// Tells how `Command::Connect` went.
    pub fn connected(
        &mut self,
        connection: ConnectionId,
        result: Result<(), ConnectError>,
        now: Instant,
    ) {
        let Some(known) = self.connections.get_mut(&connection) else { return };
        let State::Connecting { transaction, signer, fingerprint } =
            std::mem::replace(&mut known.state, State::Waiting)
        else {
            return;
        };
        let client = self.allocations.get(known.allocation).map(|allocation| allocation.client);
        let writer = match result {
            Ok(()) => {
                self.set_deadline(connection, Some(now + BIND_TIME));
                let mut writer = Writer::new(Class::Success, Method::Connect, transaction);
                writer.number(a::CONNECTION_ID, connection.0);
                writer
            }
            Err(ConnectError::Unreachable | ConnectError::TimedOut) => {
                self.remove_connection(connection);
                self.counters.error(447);
                let mut writer = Writer::new(Class::Error, Method::Connect, transaction);
                writer.error_code(447, "Connection Timeout or Failure");
                writer
            }
        };
        let bytes = self.finish(writer, signer, fingerprint);
        if let Some(client) = client {
            self.send(client, bytes);
        }
    }

    /// A peer has connected to a relay; `None` when it may not and must be closed.
    pub fn accepted(
        &mut self,
        relay: RelayId,
        peer: SocketAddr,
        now: Instant,
    ) -> Option<ConnectionId> {
        let index = self.relay(relay)?.allocation;
        let allocation = self.allocations.get(index)?;
        let permission = allocation.permission_from(peer.ip(), now)?;
        let peer = SocketAddr::new(permission.peer, peer.port());
        let client = allocation.client;
        let count = self.connections.values().filter(|known| known.allocation == index).count();
        if allocation.opening.is_some() || count >= self.limits.channels as usize {
            return None;
        }
        let connection = self.add_connection(Connection {
            allocation: index,
            peer,
            state: State::Waiting,
            deadline: None,
        });
        self.set_deadline(connection, Some(now + BIND_TIME));
        let mut transaction = [0; 12];
        self.rng.fill_bytes(&mut transaction);
        let mut writer = Writer::new(Class::Indication, Method::ConnectionAttempt, transaction);
        writer.number(a::CONNECTION_ID, connection.0);
        writer.xor_address(a::XOR_PEER_ADDRESS, peer);
        self.send(client, writer.finish(None, false));
        Some(connection)
    }

    pub(super) fn connection_bind(&mut self, request: &Request<'_, '_>) -> Outcome {
        let Request { client, message, user, .. } = request;
        // The connection carries nothing else (RFC 6062 section 4.3).
        if !client.transport.is_stream() || self.by_client.contains_key(client) {
            return Err(400);
        }
        let connection = ConnectionId(message.connection.ok_or(400_u16)?);
        let known = self.connections.get(&connection).ok_or(400_u16)?;
        let owner = self.allocations.get(known.allocation).ok_or(400_u16)?;
        if owner.user.username != user.username {
            return Err(441);
        }
        if !matches!(known.state, State::Waiting) {
            return Err(400);
        }
        self.set_state(connection, State::Binding(*client));
        self.set_deadline(connection, None);
        let mut writer = request.success();
        writer.number(a::CONNECTION_ID, connection.0);
        Ok(Some(writer))
    }

    /// After the answer to ConnectionBind, the connections are one.
    pub(super) fn splice_bound(&mut self, client: Client) {
        let bound = self
            .connections
            .iter()
            .find(|(_, known)| matches!(known.state, State::Binding(waiting) if waiting == client));
        let Some(connection) = bound.map(|(connection, _)| *connection) else { return };
        self.set_state(connection, State::Spliced(client));
        self.commands.push_back(Command::Splice { connection, client });
    }

    /// The connection with a peer, or the client's that it was joined to, has ended.
    pub fn connection_closed(&mut self, connection: ConnectionId) {
        self.remove_connection(connection);
    }

    /// Whether a client's connection carries a peer's bytes.
    pub(super) fn data_connection_closed(&mut self, client: Client) {
        let of_client = self.connections.iter().find(|(_, known)| match &known.state {
            State::Binding(data) | State::Spliced(data) => *data == client,
            State::Connecting { .. } | State::Waiting => false,
        });
        if let Some(connection) = of_client.map(|(connection, _)| *connection) {
            self.close_connection(connection);
        }
    }

    pub(super) fn close_connections(&mut self, allocation: usize) {
        let of_allocation = self.connections.iter().filter(|(_, c)| c.allocation == allocation);
        let ids: Vec<ConnectionId> = of_allocation.map(|(connection, _)| *connection).collect();
        for connection in ids {
            self.close_connection(connection);
        }
    }

    pub(super) fn connection_timed_out(&mut self, connection: ConnectionId, now: Instant) {
        let state = self.connections.get(&connection).map(|known| &known.state);
        if let Some(State::Connecting { .. }) = state {
            self.connected(connection, Err(ConnectError::TimedOut), now);
            self.commands.push_back(Command::CloseConnection { connection });
        } else {
            self.close_connection(connection);
        }
    }

    fn close_connection(&mut self, connection: ConnectionId) {
        self.remove_connection(connection);
        self.commands.push_back(Command::CloseConnection { connection });
    }

    /// Names a connection: a number that is hard to guess, and tells the worker.
    fn add_connection(&mut self, connection: Connection) -> ConnectionId {
        loop {
            let id = ConnectionId::new(self.worker, self.rng.next_u32());
            if let Entry::Vacant(vacant) = self.connections.entry(id) {
                vacant.insert(connection);
                return id;
            }
        }
    }

    fn remove_connection(&mut self, connection: ConnectionId) {
        self.set_deadline(connection, None);
        self.connections.remove(&connection);
    }

    fn set_state(&mut self, connection: ConnectionId, state: State) {
        if let Some(known) = self.connections.get_mut(&connection) {
            known.state = state;
        }
    }

    fn set_deadline(&mut self, connection: ConnectionId, at: Option<Instant>) {
        let Some(known) = self.connections.get_mut(&connection) else { return };
        let entry = Deadline::Connection(connection);
        if let Some(old) = std::mem::replace(&mut known.deadline, at) {
            self.deadlines.remove(&(old, entry));
        }
        self.deadlines.extend(at.map(|at| (at, entry)));
    }
}
