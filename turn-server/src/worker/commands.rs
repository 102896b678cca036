//! What the core asks for, carried out.

use std::io;
use std::time::Instant;

use mio::Interest;
use mio::net::TcpListener;
use turn_server_core::api::{BindError, Client, Command, RelayTransport, Transport};

use super::{Relay, RelaySocket, Source, Worker};
use crate::udp::{self, Purpose};

impl Worker {
    /// Does everything that the core has asked for.
    pub(super) fn run_commands(&mut self, now: Instant) {
        while let Some(command) = self.server.poll_command() {
            match command {
                Command::Send { client, bytes } => self.send_message(client, &bytes),
                Command::Bind { relay, address, transport } => {
                    let bound = match transport {
                        RelayTransport::Udp => {
                            udp::bind(address, Purpose::Relay).map(RelaySocket::Udp)
                        }
                        RelayTransport::Tcp => super::peer_streams::listen(address)
                            .map(|listener| RelaySocket::Tcp(listener, address)),
                    };
                    let bound = bound.and_then(|socket| self.watch(relay.slot(), socket));
                    let bound = bound.map(|socket| {
                        if self.relays.len() <= relay.slot() {
                            self.relays.resize_with(relay.slot() + 1, || None);
                        }
                        self.relays[relay.slot()] = Some(Relay { id: relay, socket });
                    });
                    let bound = bound.map_err(|error| match error.kind() {
                        io::ErrorKind::AddrInUse => BindError::AddressInUse,
                        _ => {
                            tracing::warn!(%error, "Failed to open a relay socket");
                            BindError::Failed
                        }
                    });
                    self.server.bound(relay, bound, now);
                }
                Command::Close { relay } => {
                    // Dropping the socket also ends its registration.
                    if let Some(entry) = self.relays.get_mut(relay.slot())
                        && entry.as_ref().is_some_and(|entry| entry.id == relay)
                    {
                        *entry = None;
                    }
                }
                Command::Connect { connection, relay, peer } => {
                    self.connect_peer(connection, relay.slot(), peer, now);
                }
                Command::Splice { connection, client } => self.splice(connection, client),
                Command::CloseConnection { connection } => self.close_peer(connection),
            }
        }
    }

    fn watch(&self, slot: usize, mut socket: RelaySocket) -> io::Result<RelaySocket> {
        let token = Source::Relay(slot).token();
        match &mut socket {
            RelaySocket::Udp(socket) => {
                self.registry.register(socket, token, Interest::READABLE)?;
            }
            RelaySocket::Tcp(listener, _) => self.watch_listener(listener, token)?,
        }
        Ok(socket)
    }

    fn watch_listener(&self, listener: &mut TcpListener, token: mio::Token) -> io::Result<()> {
        self.registry.register(listener, token, Interest::READABLE)
    }

    fn send_message(&mut self, client: Client, bytes: &[u8]) {
        match client.transport {
            Transport::Udp => self.send_datagram(client, bytes),
            Transport::Tcp | Transport::Tls => self.push_message(client, bytes),
            Transport::Dtls => self.send_secured(client, bytes),
        }
    }
}
