//! Allocate and Refresh (RFC 8656 sections 7 and 8).

use std::time::{Duration, Instant};

use rand::Rng as _;

use super::requests::{Outcome, Request};
use super::{Deadline, Relay, Reservation, Server};
use crate::allocation::{Allocation, Opening};
use crate::api::{BindError, Client, Command, RelayId, RelayTransport};
use crate::limits::{Bucket, source};
use crate::stun::{Class, Message, Method, Writer, attribute as a};

/// Life of an allocation when the client asks for nothing, and the shortest.
const DEFAULT_LIFE_S: u32 = 600;
/// The longest.
const MAX_LIFE_S: u32 = 3600;
/// How long a reserved port waits (RFC 8656 section 7.2).
const RESERVATION_LIFE: Duration = Duration::from_secs(30);
/// Ports that are tried when others on the machine have them.
const MAX_ATTEMPTS: u8 = 8;
/// Address families on the wire.
const IPV4: u8 = 1;
const IPV6: u8 = 2;
/// Protocol numbers in REQUESTED-TRANSPORT.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A checked Allocate request: what to open.
struct Plan {
    transport: RelayTransport,
    /// Index of the address.
    address: usize,
    /// Index of a second address, or the family that there is none of.
    additional: Option<Result<usize, u8>>,
    /// EVEN-PORT; whether the next one is reserved.
    even: Option<bool>,
    /// A reserved port.
    token: Option<[u8; 8]>,
}

impl Server {
    pub(super) fn allocate(&mut self, request: &Request<'_, '_>, now: Instant) -> Outcome {
        let Request { client, message, .. } = request;
        if let Some(index) = self.by_client.get(client) {
            let known = &self.allocations[*index];
            if known.transaction != message.transaction {
                return Err(437);
            }
            // Asked again: the same answer, if there is one yet.
            if !known.answer.is_empty() {
                let bytes = known.answer.to_vec();
                self.send(*client, bytes);
            }
            return Ok(None);
        }
        let plan = self.plan(*client, message)?;
        if self.is_draining {
            return Err(if self.alternate.is_some() { 300 } else { 508 });
        }
        self.check_quota(request)?;
        self.open(request, &plan, now)?;
        Ok(None)
    }

    fn plan(&self, client: Client, message: &Message<'_>) -> Result<Plan, u16> {
        let Message { requested_family, additional_family, even_port, reservation_token, .. } =
            message;
        let transport = match message.requested_transport {
            None => return Err(400),
            Some(UDP) => RelayTransport::Udp,
            Some(TCP) => RelayTransport::Tcp,
            Some(_) => return Err(442),
        };
        // RFC 6062 section 5.1.
        if transport == RelayTransport::Tcp {
            let has_udp_options =
                even_port.is_some() || reservation_token.is_some() || message.dont_fragment;
            if !client.transport.is_stream() || has_udp_options || additional_family.is_some() {
                return Err(400);
            }
        }
        let has_family = requested_family.is_some() || additional_family.is_some();
        let is_contradictory = (reservation_token.is_some() && (even_port.is_some() || has_family))
            || (requested_family.is_some() && additional_family.is_some())
            || (additional_family.is_some() && *even_port == Some(true));
        if is_contradictory || additional_family.is_some_and(|family| family != IPV6) {
            return Err(400);
        }
        // Only IPv4 can be had together with another.
        let family = requested_family.or(additional_family.map(|_| IPV4));
        let address = match family {
            None => 0,
            Some(family) => self.address_of(family).ok_or(440_u16)?,
        };
        let additional = additional_family.map(|family| self.address_of(family).ok_or(family));
        let token = *reservation_token;
        Ok(Plan { transport, address, additional, even: *even_port, token })
    }

    fn address_of(&self, family: u8) -> Option<usize> {
        let is_v4 = match family {
            IPV4 => true,
            IPV6 => false,
            _ => return None,
        };
        self.addresses.iter().position(|(address, _)| address.bind.is_ipv4() == is_v4)
    }

    fn check_quota(&self, request: &Request<'_, '_>) -> Result<(), u16> {
        let limits = &self.limits;
        if self.allocations.len() >= limits.allocations as usize {
            return Err(508);
        }
        let of_user = self.per_user.get(&*request.user.quota).copied().unwrap_or(0);
        let address = source(request.client.remote.ip());
        let of_address = self.per_address.get(&address).copied().unwrap_or(0);
        if of_user >= limits.allocations_per_user || of_address >= limits.allocations_per_address {
            return Err(486);
        }
        Ok(())
    }

    /// Takes ports, and asks for their sockets.
    fn open(&mut self, request: &Request<'_, '_>, plan: &Plan, now: Instant) -> Result<(), u16> {
        let (address, port) = match plan.token {
            Some(token) => self.take_reservation(token).ok_or(508_u16)?,
            None => {
                let (_, ports) = self.addresses.get_mut(plan.address).ok_or(508_u16)?;
                (plan.address, ports.take(plan.even, &mut self.rng).ok_or(508_u16)?)
            }
        };
        let (additional, missing) = self.take_additional(plan);
        let Request { client, message, user, signer } = request;
        let lifetime = lifetime(message.lifetime_s);
        let expires = now + lifetime;
        let index = self.allocations.insert(Allocation {
            client: *client,
            user: user.clone(),
            transport: plan.transport,
            opening: Some(Box::new(Opening {
                signer: *signer,
                fingerprint: message.fingerprint,
                lifetime,
                missing,
                wants_reservation: plan.even == Some(true),
            })),
            transaction: message.transaction,
            answer: Box::default(),
            expires,
            relays: [None; 2],
            permissions: Vec::new(),
            channels: Vec::new(),
            packets: Bucket::new(now),
            bytes: Bucket::new(now),
            new_peers: Bucket::new(now),
        });
        self.deadlines.insert((expires, Deadline::Allocation(index)));
        self.by_client.insert(*client, index);
        *self.per_user.entry(user.quota.clone()).or_default() += 1;
        *self.per_address.entry(source(client.remote.ip())).or_default() += 1;
        let is_reserved = plan.token.is_some();
        let first = self.open_relay(index, address, port, plan.even, is_reserved);
        let second = additional.map(|(at, port)| self.open_relay(index, at, port, None, false));
        self.allocations[index].relays = [Some(first), second];
        Ok(())
    }

    /// The port on a second address, or the family that could not be had and why.
    #[expect(clippy::type_complexity, reason = "two optional pairs, used once")]
    fn take_additional(&mut self, plan: &Plan) -> (Option<(usize, u16)>, Option<(u8, u16)>) {
        match plan.additional {
            None => (None, None),
            Some(Err(family)) => (None, Some((family, 440))),
            Some(Ok(index)) => {
                let rng = &mut self.rng;
                let entry = self.addresses.get_mut(index);
                match entry.and_then(|(_, ports)| ports.take(None, rng)) {
                    Some(port) => (Some((index, port)), None),
                    None => (None, Some((IPV6, 508))),
                }
            }
        }
    }

    fn open_relay(
        &mut self,
        allocation: usize,
        address: usize,
        port: u16,
        even: Option<bool>,
        is_reserved: bool,
    ) -> RelayId {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        // The port behind a token is this one or none.
        let attempts = if is_reserved { MAX_ATTEMPTS } else { 1 };
        let slot = self.relays.insert(Relay {
            allocation,
            generation,
            address,
            port,
            even,
            attempts,
            is_bound: false,
        });
        let id = RelayId { slot: slot as u32, generation };
        self.bind(id);
        id
    }

    fn bind(&mut self, id: RelayId) {
        let Some(relay) = self.relay(id) else { return };
        let bind = self.addresses[relay.address].0.bind;
        let address = (bind, relay.port).into();
        let transport = self
            .allocations
            .get(relay.allocation)
            .map_or(RelayTransport::Udp, |allocation| allocation.transport);
        self.commands.push_back(Command::Bind { relay: id, address, transport });
    }

    /// Tells how `Command::Bind` went.
    pub fn bound(&mut self, relay: RelayId, result: Result<(), BindError>, now: Instant) {
        if self.relay(relay).is_none() {
            return;
        }
        match result {
            Ok(()) => self.relays[relay.slot()].is_bound = true,
            Err(BindError::AddressInUse) if self.try_another_port(relay) => return,
            Err(BindError::AddressInUse | BindError::Failed) => self.give_up(relay, now),
        }
        self.answer_when_open(relay, now);
    }

    fn try_another_port(&mut self, id: RelayId) -> bool {
        let relay = &mut self.relays[id.slot()];
        if relay.attempts >= MAX_ATTEMPTS {
            return false;
        }
        relay.attempts += 1;
        let (_, ports) = &mut self.addresses[relay.address];
        let Some(port) = ports.take(relay.even, &mut self.rng) else { return false };
        release_ports(ports, relay);
        relay.port = port;
        self.bind(id);
        true
    }

    /// No socket for a relay: the second one may be missing, the first may not.
    fn give_up(&mut self, id: RelayId, now: Instant) {
        let index = self.relays[id.slot()].allocation;
        let Some(allocation) = self.allocations.get_mut(index) else { return };
        if allocation.relays[1] == Some(id) {
            allocation.relays[1] = None;
            if let Some(opening) = &mut allocation.opening {
                opening.missing = Some((IPV6, 508));
            }
            self.close_relay(id);
            let first = self.allocations[index].relays[0];
            if let Some(first) = first {
                self.answer_when_open(first, now);
            }
            return;
        }
        let Some(opening) = &allocation.opening else { return };
        let (client, signer, fingerprint) =
            (allocation.client, opening.signer, opening.fingerprint);
        let mut writer = Writer::new(Class::Error, Method::Allocate, allocation.transaction);
        writer.error_code(508, "Insufficient Capacity");
        let bytes = self.finish(writer, signer, fingerprint);
        self.counters.error(508);
        self.send(client, bytes);
        self.remove_allocation(index);
    }

    /// Answers once every socket is there.
    fn answer_when_open(&mut self, id: RelayId, now: Instant) {
        let Some(index) = self.relay(id).map(|relay| relay.allocation) else { return };
        let Some(allocation) = self.allocations.get(index) else { return };
        let relays = allocation.relays;
        let is_open = relays.iter().flatten().all(|id| self.relays[id.slot()].is_bound);
        if !is_open {
            return;
        }
        let Some(opening) = self.allocations[index].opening.take() else { return };
        self.counters.allocations += 1;
        self.counters.allocations_made += 1;
        let token =
            if opening.wants_reservation { self.reserve_next(relays[0], now) } else { None };
        let bytes = self.success(index, &opening, token);
        let allocation = &mut self.allocations[index];
        allocation.answer = bytes.clone().into();
        let client = allocation.client;
        self.send(client, bytes);
    }

    /// Keeps the port after an even one for whoever knows the token.
    fn reserve_next(&mut self, relay: Option<RelayId>, now: Instant) -> Option<[u8; 8]> {
        let relay = &mut self.relays[relay?.slot()];
        // The relay itself has only its own port from here on.
        relay.even = Some(false);
        let mut token = [0; 8];
        self.rng.fill_bytes(&mut token);
        let expires = now + RESERVATION_LIFE;
        let (address, port) = (relay.address, relay.port + 1);
        self.reservations.push(Reservation { token, address, port, expires });
        self.deadlines.insert((expires, Deadline::Reservation(token)));
        Some(token)
    }

    fn success(&self, index: usize, opening: &Opening, token: Option<[u8; 8]>) -> Vec<u8> {
        let allocation = &self.allocations[index];
        let mut writer = Writer::new(Class::Success, Method::Allocate, allocation.transaction);
        for id in allocation.relays.iter().flatten() {
            let relay = &self.relays[id.slot()];
            let advertise = self.addresses[relay.address].0.advertise;
            writer.xor_address(a::XOR_RELAYED_ADDRESS, (advertise, relay.port).into());
        }
        writer.number(a::LIFETIME, opening.lifetime.as_secs() as u32);
        if let Some(token) = token {
            writer.attribute(a::RESERVATION_TOKEN, &token);
        }
        writer.xor_address(a::XOR_MAPPED_ADDRESS, allocation.client.remote);
        if let Some((family, code)) = opening.missing {
            let number = [(code / 100) as u8, (code % 100) as u8];
            writer.attribute(a::ADDRESS_ERROR_CODE, &[family, 0, number[0], number[1]]);
        }
        self.finish(writer, opening.signer, opening.fingerprint)
    }

    pub(super) fn refresh(&mut self, request: &Request<'_, '_>, now: Instant) -> Outcome {
        let index = self.owned(request)?;
        let family = request.message.requested_family;
        let relays = self.allocations[index].relays;
        let of_family = match family {
            None => None,
            Some(family) => {
                let position = relays.iter().position(|relay| {
                    relay.and_then(|id| self.relay(id)).is_some_and(|relay| {
                        let is_v4 = self.addresses[relay.address].0.bind.is_ipv4();
                        is_v4 == (family == IPV4)
                    })
                });
                Some(position.filter(|_| matches!(family, IPV4 | IPV6)).ok_or(443_u16)?)
            }
        };
        let mut writer = request.success();
        if request.message.lifetime_s == Some(0) {
            match of_family {
                // One of two goes (RFC 8656 section 8.2).
                Some(position) if relays.iter().flatten().count() > 1 => {
                    self.drop_relay(index, position);
                }
                Some(_) | None => self.remove_allocation(index),
            }
            writer.number(a::LIFETIME, 0);
            return Ok(Some(writer));
        }
        let lifetime = lifetime(request.message.lifetime_s);
        self.set_expiry(index, now + lifetime);
        writer.number(a::LIFETIME, lifetime.as_secs() as u32);
        Ok(Some(writer))
    }

    fn drop_relay(&mut self, index: usize, position: usize) {
        let allocation = &mut self.allocations[index];
        if let Some(id) = allocation.relays[position].take() {
            allocation.channels.retain(|channel| channel.relay != id);
            self.close_relay(id);
        }
    }
}

/// What a client gets of the life it asks for (RFC 8656 section 7.2).
fn lifetime(asked_s: Option<u32>) -> Duration {
    let seconds = asked_s.unwrap_or(DEFAULT_LIFE_S).clamp(DEFAULT_LIFE_S, MAX_LIFE_S);
    Duration::from_secs(seconds.into())
}

/// Frees a relay's port, and the next one while that is only meant to be reserved.
pub(super) fn release_ports(ports: &mut crate::ports::Ports, relay: &Relay) {
    ports.release(relay.port);
    if relay.even == Some(true) {
        ports.release(relay.port + 1);
    }
}
