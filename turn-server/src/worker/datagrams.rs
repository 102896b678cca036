//! The way of a packet over UDP: batches in, runs out, in both directions.

use std::net::SocketAddr;
use std::time::Instant;

use turn_server_core::api::{Client, ClientAction, Icmp, ToClient, Transport};

use super::{ListenerSocket, MAX_RECEIVES, Relay, RelaySocket, Source, Worker};
use crate::runs::Run;
use crate::udp::{self, Datagrams, Destination, Memory, Segment};

impl Worker {
    /// Client → peer.
    pub(super) fn receive_from_clients(&mut self, number: usize, now: Instant) {
        for _ in 0..MAX_RECEIVES {
            let ListenerSocket::Udp(socket) = &self.listeners[number].socket else { return };
            let groups = match self.receiver.receive(socket) {
                Ok(groups) => groups,
                // An error of an earlier datagram; the socket goes on.
                Err(error) => {
                    tracing::debug!(%error, "Failed to receive from clients");
                    self.again.insert(Source::Listener(number));
                    return;
                }
            };
            for group in 0..groups {
                if let Some(datagrams) = self.receiver.datagrams(group) {
                    self.take_from_client(number, &datagrams, now);
                }
            }
            self.flush_to_peers();
            self.run_commands(now);
            if groups < self.receiver.slots() {
                return;
            }
        }
        self.again.insert(Source::Listener(number));
    }

    fn take_from_client(&mut self, number: usize, datagrams: &Datagrams, now: Instant) {
        let mut local = self.listeners[number].address;
        if let Some(ip) = datagrams.to {
            local.set_ip(ip);
        }
        let client = Client { transport: Transport::Udp, local, remote: datagrams.from };
        for range in datagrams.ranges() {
            let start = range.start;
            let bytes = &self.receiver.arena()[range];
            match self.server.handle_client(client, bytes, now) {
                ClientAction::None => {}
                ClientAction::Relay { relay, peer, payload, dont_fragment } => {
                    let payload = start + payload.start..start + payload.end;
                    let segment = Segment::plain(payload);
                    let destination = Destination { to: peer, from: None, tos: datagrams.tos };
                    if dont_fragment {
                        self.flush_to_peers();
                        let Self { relays, sender, receiver, shell, .. } = self;
                        let memory = Memory { arena: receiver.arena(), headers: &[] };
                        shell.dropped +=
                            send_whole(relays, sender, relay.slot(), destination, segment, memory);
                    } else {
                        self.queue_to_peer(relay.slot(), destination, segment);
                    }
                }
            }
        }
    }

    fn queue_to_peer(&mut self, slot: usize, destination: Destination, segment: Segment) {
        let Self { to_peers, relays, sender, receiver, shell, .. } = self;
        let memory = Memory { arena: receiver.arena(), headers: &[] };
        to_peers.push(slot, destination, segment, |run| {
            shell.dropped += send_to_peer(relays, sender, run, memory);
        });
    }

    fn flush_to_peers(&mut self) {
        let Self { to_peers, relays, sender, receiver, shell, .. } = self;
        let memory = Memory { arena: receiver.arena(), headers: &[] };
        to_peers.flush(|run| shell.dropped += send_to_peer(relays, sender, run, memory));
    }

    /// Peer → client.
    pub(super) fn receive_from_peers(&mut self, slot: usize, now: Instant) {
        for _ in 0..MAX_RECEIVES {
            let Some(Some(Relay { id, socket: RelaySocket::Udp(socket) })) = self.relays.get(slot)
            else {
                return;
            };
            let id = *id;
            let Ok(groups) = self.receiver.receive(socket) else {
                // An ICMP error, which is in the error queue, too.
                self.take_icmp_errors(slot, now);
                self.again.insert(Source::Relay(slot));
                return;
            };
            for group in 0..groups {
                let Some(datagrams) = self.receiver.datagrams(group) else { continue };
                for range in datagrams.ranges() {
                    let to = self.server.handle_peer(id, datagrams.from, range.len(), now);
                    if let Some(to) = to {
                        self.queue_to_client(&to, range, datagrams.tos);
                    }
                }
            }
            self.flush_to_clients();
            self.run_commands(now);
            if groups < self.receiver.slots() {
                return;
            }
        }
        self.again.insert(Source::Relay(slot));
    }

    fn queue_to_client(&mut self, to: &ToClient, payload: std::ops::Range<usize>, tos: u8) {
        match to.client.transport {
            Transport::Udp => {
                let Some((number, from)) = self.listener_of(to.client.local) else { return };
                let start = self.headers.len();
                self.headers.extend_from_slice(to.header());
                let header = start..self.headers.len();
                let segment = Segment { header, payload, padding: to.padding };
                let destination = Destination { to: to.client.remote, from, tos };
                let Self { to_clients, listeners, sender, receiver, headers, shell, .. } = self;
                let memory = Memory { arena: receiver.arena(), headers };
                to_clients.push(number, destination, segment, |run| {
                    shell.dropped += send_to_client(listeners, sender, run, memory);
                });
            }
            Transport::Tcp | Transport::Tls => self.push_media(to, payload),
            Transport::Dtls => self.send_secured_media(to, payload),
        }
    }

    fn flush_to_clients(&mut self) {
        let Self { to_clients, listeners, sender, receiver, headers, shell, .. } = self;
        let memory = Memory { arena: receiver.arena(), headers };
        to_clients.flush(|run| shell.dropped += send_to_client(listeners, sender, run, memory));
        self.headers.clear();
    }

    /// The datagram listener of a client, and the address that answers must come from.
    pub(super) fn listener_of(
        &self,
        local: SocketAddr,
    ) -> Option<(usize, Option<std::net::IpAddr>)> {
        self.listeners.iter().enumerate().find_map(|(number, listener)| {
            let ListenerSocket::Udp(_) = &listener.socket else { return None };
            let ip = listener.address.ip();
            let is_it = listener.address.port() == local.port()
                && (ip == local.ip() || ip.is_unspecified() && ip.is_ipv4() == local.is_ipv4());
            is_it.then(|| (number, udp::source(listener.address, local)))
        })
    }

    /// Sends one message to a client over UDP.
    pub(super) fn send_datagram(&mut self, client: Client, bytes: &[u8]) {
        let Some((number, from)) = self.listener_of(client.local) else { return };
        let ListenerSocket::Udp(socket) = &self.listeners[number].socket else { return };
        let destination = Destination { to: client.remote, from, tos: 0 };
        let memory = Memory { arena: bytes, headers: &[] };
        let segment = Segment::plain(0..bytes.len());
        if let Err(error) = self.sender.send_run(socket, destination, &[segment], memory) {
            tracing::trace!(%error, "Failed to send to a client");
            self.shell.dropped += 1;
        }
    }

    /// Tells the core what ICMP says of a relay's datagrams.
    pub(super) fn take_icmp_errors(&mut self, slot: usize, now: Instant) {
        while let Some(Some(Relay { id, socket: RelaySocket::Udp(socket) })) = self.relays.get(slot)
        {
            let Some(error) = udp::take_icmp_error(socket) else { return };
            let icmp = Icmp { kind: error.icmp_type, code: error.code, data: error.data };
            self.server.handle_icmp(*id, error.peer, icmp, now);
        }
    }
}

/// Sends a datagram that must not be fragmented (RFC 8656 section 15); returns how many were lost.
pub(super) fn send_whole(
    relays: &[Option<Relay>],
    sender: &mut udp::Sender,
    slot: usize,
    destination: Destination,
    segment: Segment,
    memory: Memory<'_>,
) -> u64 {
    let Some(Some(Relay { socket: RelaySocket::Udp(socket), .. })) = relays.get(slot) else {
        return 1;
    };
    let is_v4 = destination.to.is_ipv4();
    let sent = udp::set_fragmenting(socket, is_v4, false)
        .and_then(|()| sender.send_run(socket, destination, &[segment], memory));
    let restored = udp::set_fragmenting(socket, is_v4, true);
    u64::from(sent.is_err() || restored.is_err())
}

/// Sends a run from a relay; returns how many datagrams were lost.
pub(super) fn send_to_peer(
    relays: &[Option<Relay>],
    sender: &mut udp::Sender,
    run: &Run<usize>,
    memory: Memory<'_>,
) -> u64 {
    let Some(Some(Relay { socket: RelaySocket::Udp(socket), .. })) = relays.get(run.key) else {
        return run.segments.len() as u64;
    };
    // The kernel's buffer is full: media is lost as it would be on the wire.
    let sent = sender.send_run(socket, run.destination, &run.segments, memory).unwrap_or(0);
    (run.segments.len() - sent) as u64
}

/// Sends a run from a listener; returns how many datagrams were lost.
fn send_to_client(
    listeners: &[super::Listener],
    sender: &mut udp::Sender,
    run: &Run<usize>,
    memory: Memory<'_>,
) -> u64 {
    let ListenerSocket::Udp(socket) = &listeners[run.key].socket else { return 0 };
    let sent = sender.send_run(socket, run.destination, &run.segments, memory).unwrap_or(0);
    (run.segments.len() - sent) as u64
}
