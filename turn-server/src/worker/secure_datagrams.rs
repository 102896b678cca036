//! DTLS clients of a worker.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use turn_server_core::api::{Client, ClientAction, ToClient, Transport};

use super::datagrams::{send_to_peer, send_whole};
use super::{ListenerSocket, MAX_RECEIVES, Source, Worker};
use crate::dtls::{Session, State};
use crate::udp::{Destination, Memory, Segment};

/// A client with a session.
pub(super) struct SecureClient {
    session: Session,
    client: Client,
    /// When it last had an allocation; at first, when it began.
    last_use: Instant,
    /// Handshake datagrams received; who answered the cookie has sent more than one.
    received: u32,
}

impl Worker {
    /// Takes what DTLS clients sent.
    pub(super) fn receive_secured(&mut self, number: usize, now: Instant) {
        for _ in 0..MAX_RECEIVES {
            let ListenerSocket::Udp(socket) = &self.listeners[number].socket else { return };
            let groups = match self.receiver.receive(socket) {
                Ok(groups) => groups,
                Err(error) => {
                    tracing::debug!(%error, "Failed to receive from clients");
                    self.again.insert(Source::Listener(number));
                    return;
                }
            };
            for group in 0..groups {
                let Some(datagrams) = self.receiver.datagrams(group) else { continue };
                let mut local = self.listeners[number].address;
                if let Some(ip) = datagrams.to {
                    local.set_ip(ip);
                }
                let client = Client { transport: Transport::Dtls, local, remote: datagrams.from };
                for range in datagrams.ranges() {
                    self.take_secured(number, client, range, now);
                }
            }
            self.run_commands(now);
            if groups < self.receiver.slots() {
                return;
            }
        }
        self.again.insert(Source::Listener(number));
    }

    fn take_secured(&mut self, number: usize, client: Client, range: Range<usize>, now: Instant) {
        let key = (number, client.remote);
        let mut secured = match self.secure.remove(&key) {
            Some(secured) => secured,
            None => match self.begin_session(number, client, now) {
                Some(secured) => secured,
                None => return,
            },
        };
        secured.received = secured.received.saturating_add(1);
        let mut records: VecDeque<Vec<u8>> = VecDeque::new();
        let datagram = &self.receiver.arena()[range];
        secured.session.receive(datagram, now, |record| records.push_back(record.to_vec()));
        self.flush_session(&mut secured);
        if secured.session.state() != State::Handshaking {
            self.strangers.remove(&key);
        }
        if secured.session.state() == State::Closed {
            self.server.client_closed(secured.client);
            return;
        }
        self.secure.insert(key, secured);
        for record in records {
            self.take_record(client, &record, now);
        }
    }

    fn take_record(&mut self, client: Client, record: &[u8], now: Instant) {
        let action = self.server.handle_client(client, record, now);
        let ClientAction::Relay { relay, peer, payload, dont_fragment } = action else { return };
        let destination = Destination { to: peer, from: None, tos: 0 };
        let memory = Memory { arena: record, headers: &[] };
        let segment = Segment::plain(payload);
        let Self { relays, sender, to_peers, shell, .. } = self;
        if dont_fragment {
            shell.dropped += send_whole(relays, sender, relay.slot(), destination, segment, memory);
            return;
        }
        let mut send = |run: &_| shell.dropped += send_to_peer(relays, sender, run, memory);
        to_peers.push(relay.slot(), destination, segment, &mut send);
        to_peers.flush(send);
    }

    /// Makes a session; what has not answered the cookie makes room for it.
    fn begin_session(
        &mut self,
        number: usize,
        client: Client,
        now: Instant,
    ) -> Option<SecureClient> {
        let context = self.certificate.as_ref()?.current().dtls;
        let is_full = self.strangers.len() >= self.handshakes;
        if is_full && !self.drop_oldest_stranger() {
            self.shell.refused += 1;
            return None;
        }
        match Session::new(&context, client.remote) {
            Ok(session) => {
                self.strangers.insert((number, client.remote));
                Some(SecureClient { session, client, last_use: now, received: 0 })
            }
            Err(error) => {
                tracing::error!(%error, "Failed to make a DTLS session");
                None
            }
        }
    }

    fn drop_oldest_stranger(&mut self) -> bool {
        let oldest = self
            .strangers
            .iter()
            .filter_map(|key| self.secure.get(key).map(|secured| (key, secured)))
            .filter(|(_, secured)| secured.received <= 1)
            .min_by_key(|(_, secured)| secured.last_use)
            .map(|(key, _)| *key);
        let Some(key) = oldest else { return false };
        self.strangers.remove(&key);
        self.secure.remove(&key).is_some()
    }

    /// Encrypts and sends an answer.
    pub(super) fn send_secured(&mut self, client: Client, bytes: &[u8]) {
        let Some((number, _)) = self.listener_of(client.local) else { return };
        let key = (number, client.remote);
        if let Some(mut secured) = self.secure.remove(&key) {
            secured.session.send(bytes);
            self.flush_session(&mut secured);
            self.secure.insert(key, secured);
        }
    }

    /// Encrypts and sends a peer's data.
    pub(super) fn send_secured_media(&mut self, to: &ToClient, payload: Range<usize>) {
        let mut message = to.header().to_vec();
        message.extend_from_slice(&self.receiver.arena()[payload]);
        message.resize(message.len() + to.padding, 0);
        self.send_secured(to.client, &message);
    }

    fn flush_session(&mut self, secured: &mut SecureClient) {
        while let Some(datagram) = secured.session.poll_transmit() {
            self.send_datagram(secured.client, &datagram);
        }
    }

    /// Repeats lost flights, and ends sessions without allocations.
    pub(super) fn sweep_secured(&mut self, now: Instant) {
        let keys: Vec<(usize, SocketAddr)> = self.secure.keys().copied().collect();
        for key in keys {
            let Some(mut secured) = self.secure.remove(&key) else { continue };
            secured.session.handle_timeout(now);
            self.flush_session(&mut secured);
            if self.server.has_allocation(secured.client) {
                secured.last_use = now;
            }
            if now.duration_since(secured.last_use) < self.setup {
                self.secure.insert(key, secured);
            } else {
                self.strangers.remove(&key);
                secured.session.close();
                self.flush_session(&mut secured);
                self.server.client_closed(secured.client);
            }
        }
    }
}
