//! CreatePermission and ChannelBind (RFC 8656 sections 10 and 12).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::Server;
use super::requests::{Outcome, Request};
use crate::allocation::{CHANNEL_LIFE, Channel, PERMISSION_LIFE, Permission};
use crate::api::{RelayId, RelayTransport};

/// For so long after its end a channel's number and peer may not be bound otherwise.
const CHANNEL_REST: Duration = Duration::from_secs(300);
/// Addresses that one request may name.
const MAX_PEERS: usize = 64;

impl Server {
    pub(super) fn create_permission(&mut self, request: &Request<'_, '_>, now: Instant) -> Outcome {
        let index = self.owned(request)?;
        let relays = self.allocations[index].relays;
        let mut peers: Vec<(IpAddr, Box<[IpAddr]>)> = Vec::new();
        for peer in request.message.peers().take(MAX_PEERS + 1) {
            let peer = peer.ok_or(400_u16)?;
            self.relay_of_family(relays, peer).ok_or(443_u16)?;
            let locals = self.peers.permitted(peer).ok_or(403_u16)?;
            peers.push((peer.ip(), locals));
        }
        if peers.is_empty() {
            return Err(400);
        }
        if peers.len() > MAX_PEERS {
            return Err(508);
        }
        self.permit(index, peers, now)?;
        Ok(Some(request.success()))
    }

    /// Gives all of these (address, local addresses) permissions, or none.
    fn permit(
        &mut self,
        index: usize,
        peers: Vec<(IpAddr, Box<[IpAddr]>)>,
        now: Instant,
    ) -> Result<(), u16> {
        let limits = &self.limits;
        let allocation = &mut self.allocations[index];
        allocation.permissions.retain(|permission| permission.expires > now);
        let is_known = |peer: &IpAddr| allocation.permissions.iter().any(|p| p.peer == *peer);
        let mut new: Vec<IpAddr> =
            peers.iter().map(|(peer, _)| *peer).filter(|peer| !is_known(peer)).collect();
        new.sort_unstable();
        new.dedup();
        let count = new.len() as u64;
        let total = allocation.permissions.len() + new.len();
        if total > limits.permissions as usize
            || !allocation.new_peers.try_take(count, limits.new_peers_per_second.into(), now)
        {
            return Err(508);
        }
        let expires = now + PERMISSION_LIFE;
        for (peer, locals) in peers {
            match allocation.permissions.iter_mut().find(|known| known.peer == peer) {
                Some(known) => (known.locals, known.expires) = (locals, expires),
                None => allocation.permissions.push(Permission { peer, locals, expires }),
            }
        }
        Ok(())
    }

    pub(super) fn channel_bind(&mut self, request: &Request<'_, '_>, now: Instant) -> Outcome {
        let index = self.owned(request)?;
        let message = request.message;
        let (Some(number), Some(peer)) = (message.channel, message.peer) else { return Err(400) };
        let is_udp = self.allocations[index].transport == RelayTransport::Udp;
        if !(0x4000..=0x4fff).contains(&number) || !is_udp {
            return Err(400);
        }
        let relay = self.relay_of_family(self.allocations[index].relays, peer).ok_or(443_u16)?;
        let local = self.peers.local(peer).ok_or(403_u16)?;
        let locals = self.peers.locals(peer.ip()).ok_or(403_u16)?;
        let allocation = &mut self.allocations[index];
        allocation.channels.retain(|channel| channel.expires + CHANNEL_REST > now);
        let same = |channel: &&mut Channel| channel.number == number || channel.peer == peer;
        let known = allocation.channels.iter_mut().find(same);
        let is_new = known.is_none();
        if known.is_some_and(|known| known.number != number || known.peer != peer) {
            return Err(400);
        }
        if is_new && allocation.channels.len() >= self.limits.channels as usize {
            return Err(508);
        }
        self.permit(index, vec![(peer.ip(), locals)], now)?;
        let expires = now + CHANNEL_LIFE;
        let channels = &mut self.allocations[index].channels;
        match channels.iter_mut().find(|channel| channel.number == number) {
            Some(known) => (known.local, known.expires) = (Some(local), expires),
            None => channels.push(Channel { number, peer, local: Some(local), relay, expires }),
        }
        Ok(Some(request.success()))
    }

    /// The relay of an allocation that reaches a peer.
    pub(super) fn relay_of_family(
        &self,
        relays: [Option<RelayId>; 2],
        peer: SocketAddr,
    ) -> Option<RelayId> {
        relays.into_iter().flatten().find(|id| {
            self.relay(*id).is_some_and(|relay| {
                self.addresses[relay.address].0.bind.is_ipv4() == peer.is_ipv4()
            })
        })
    }
}
