//! Data in both directions: the path of every packet. No heap allocation here.

use std::net::SocketAddr;
use std::time::Instant;

use contract::turn_config::TurnLimits;
use rand::Rng as _;

use super::Server;
use crate::allocation::Allocation;
use crate::api::{Client, ClientAction, Icmp, MAX_HEADER, RelayId, RelayTransport, ToClient};
use crate::counters::DropReason;
use crate::stun::{
    Class, HEADER, MAGIC_COOKIE, Message, Method, Writer, attribute as a, join_type, xor_address,
};

/// Bytes in front of channel data.
const CHANNEL_HEADER: usize = 4;

impl Server {
    pub(super) fn channel_data(
        &mut self,
        client: Client,
        bytes: &[u8],
        now: Instant,
    ) -> ClientAction {
        let Some(head) = bytes.first_chunk::<CHANNEL_HEADER>() else {
            return self.dropped(DropReason::Malformed);
        };
        let number = u16::from_be_bytes([head[0], head[1]]);
        let end = CHANNEL_HEADER + usize::from(u16::from_be_bytes([head[2], head[3]]));
        // What follows is padding (RFC 8656 section 12.5).
        if end > bytes.len() {
            return self.dropped(DropReason::Malformed);
        }
        let Some(allocation) = lookup(&self.by_client, &mut self.allocations, client) else {
            return self.dropped(DropReason::NoAllocation);
        };
        let Some(channel) = allocation.channel(number, now) else {
            return self.dropped(DropReason::NoChannel);
        };
        let relay = channel.relay;
        let Some(peer) = channel.local else { return self.dropped(DropReason::PeerDenied) };
        let payload = CHANNEL_HEADER..end;
        if !admits(allocation, &self.limits, payload.len(), now) {
            return self.dropped(DropReason::Rate);
        }
        self.relayed(ClientAction::Relay { relay, peer, payload, dont_fragment: false })
    }

    pub(super) fn send_indication(
        &mut self,
        client: Client,
        message: &Message<'_>,
        now: Instant,
    ) -> ClientAction {
        let (Some(peer), Some(payload)) = (message.peer, message.data.clone()) else {
            return self.dropped(DropReason::Malformed);
        };
        if message.malformed || !message.unknown().is_empty() {
            return self.dropped(DropReason::Malformed);
        }
        let Some(allocation) = lookup(&self.by_client, &mut self.allocations, client) else {
            return self.dropped(DropReason::NoAllocation);
        };
        if allocation.opening.is_some() || allocation.transport == RelayTransport::Tcp {
            return self.dropped(DropReason::NoAllocation);
        }
        if allocation.permission(peer.ip(), now).is_none() {
            return self.dropped(DropReason::NoPermission);
        }
        let relays = allocation.relays;
        let Some(peer) = self.peers.local(peer) else {
            return self.dropped(DropReason::PeerDenied);
        };
        let Some(relay) = self.relay_of_family(relays, peer) else {
            return self.dropped(DropReason::NoPermission);
        };
        let allocation = lookup(&self.by_client, &mut self.allocations, client);
        if !allocation.is_some_and(|known| admits(known, &self.limits, payload.len(), now)) {
            return self.dropped(DropReason::Rate);
        }
        let dont_fragment = message.dont_fragment;
        self.relayed(ClientAction::Relay { relay, peer, payload, dont_fragment })
    }

    fn relayed(&mut self, action: ClientAction) -> ClientAction {
        if let ClientAction::Relay { payload, .. } = &action {
            self.counters.to_peer_packets += 1;
            self.counters.to_peer_bytes += payload.len() as u64;
        }
        action
    }

    /// Takes a datagram of `length` bytes that a peer sent to a relay; `None` when it is dropped.
    pub fn handle_peer(
        &mut self,
        relay: RelayId,
        peer: SocketAddr,
        length: usize,
        now: Instant,
    ) -> Option<ToClient> {
        let to_client = self.try_peer(relay, peer, length, now);
        match to_client {
            Ok(to_client) => {
                self.counters.to_client_packets += 1;
                self.counters.to_client_bytes += length as u64;
                Some(to_client)
            }
            Err(reason) => {
                self.counters.drop(reason);
                None
            }
        }
    }

    fn try_peer(
        &mut self,
        relay: RelayId,
        peer: SocketAddr,
        length: usize,
        now: Instant,
    ) -> Result<ToClient, DropReason> {
        let index = self.relay(relay).ok_or(DropReason::Stale)?.allocation;
        let allocation = self.allocations.get_mut(index).ok_or(DropReason::Stale)?;
        if allocation.opening.is_some() {
            return Err(DropReason::NoPermission);
        }
        let permission =
            allocation.permission_from(peer.ip(), now).ok_or(DropReason::NoPermission)?;
        let named = SocketAddr::new(permission.peer, peer.port());
        // More than fits a message with its header, rounded down to whole words.
        if length > usize::from(u16::MAX) - 64 {
            return Err(DropReason::TooLong);
        }
        if !admits(allocation, &self.limits, length, now) {
            return Err(DropReason::Rate);
        }
        let client = allocation.client;
        let channel = allocation
            .channels
            .iter()
            .find(|channel| channel.local == Some(peer) && channel.expires > now);
        if let Some(channel) = channel {
            let padding = if client.transport.is_stream() { padding(length) } else { 0 };
            let mut header = [0; MAX_HEADER];
            header[..2].copy_from_slice(&channel.number.to_be_bytes());
            header[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            return Ok(ToClient { client, padding, header, header_length: CHANNEL_HEADER as u8 });
        }
        Ok(self.data_indication(client, named, length))
    }

    /// The header of a Data indication: everything before the data.
    fn data_indication(&mut self, client: Client, peer: SocketAddr, length: usize) -> ToClient {
        let mut transaction = [0; 12];
        self.rng.fill_bytes(&mut transaction);
        let (address, address_length) = xor_address(peer, &transaction);
        let padding = padding(length);
        let body = 4 + address_length + 4 + length + padding;
        let mut header = [0; MAX_HEADER];
        header[..2].copy_from_slice(&join_type(Class::Indication, Method::Data).to_be_bytes());
        header[2..4].copy_from_slice(&(body as u16).to_be_bytes());
        header[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        header[8..HEADER].copy_from_slice(&transaction);
        let mut at = HEADER;
        let mut put = |bytes: &[u8]| {
            header[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&a::XOR_PEER_ADDRESS.to_be_bytes());
        put(&(address_length as u16).to_be_bytes());
        put(&address[..address_length]);
        put(&a::DATA.to_be_bytes());
        put(&(length as u16).to_be_bytes());
        ToClient { client, padding, header, header_length: at as u8 }
    }

    /// Tells a client that a datagram it sent to `peer` met an error (RFC 8656 section 11.5).
    pub fn handle_icmp(&mut self, relay: RelayId, peer: SocketAddr, icmp: Icmp, now: Instant) {
        if self.hide_errors {
            return;
        }
        let Some(index) = self.relay(relay).map(|relay| relay.allocation) else { return };
        let Some(allocation) = self.allocations.get(index) else { return };
        let Some(permission) = allocation.permission_from(peer.ip(), now) else { return };
        let (client, named) = (allocation.client, SocketAddr::new(permission.peer, peer.port()));
        let mut transaction = [0; 12];
        self.rng.fill_bytes(&mut transaction);
        let mut writer = Writer::new(Class::Indication, Method::Data, transaction);
        writer.xor_address(a::XOR_PEER_ADDRESS, named);
        let mut value = [0, 0, icmp.kind, icmp.code, 0, 0, 0, 0];
        value[4..].copy_from_slice(&icmp.data.to_be_bytes());
        writer.attribute(a::ICMP, &value);
        self.send(client, writer.finish(None, false));
    }
}

/// Zero bytes that make a length whole words.
const fn padding(length: usize) -> usize {
    length.next_multiple_of(4) - length
}

/// Whether the allocation may relay this much; counts it if so.
fn admits(allocation: &mut Allocation, limits: &TurnLimits, length: usize, now: Instant) -> bool {
    allocation.admits(length, limits.packets_per_second, limits.bytes_per_second, now)
}

/// Borrows only what it needs, so that the caller keeps the rest.
fn lookup<'a>(
    by_client: &rustc_hash::FxHashMap<Client, usize>,
    allocations: &'a mut slab::Slab<Allocation>,
    client: Client,
) -> Option<&'a mut Allocation> {
    allocations.get_mut(*by_client.get(&client)?)
}
