//! The server of one worker: state, and what goes in and out. Requests, data and connections
//! are in modules of their own.

mod allocate;
mod peers;
mod relay;
mod requests;
mod tcp;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use rand::rngs::StdRng;
use rustc_hash::FxHashMap;
use slab::Slab;

use crate::allocation::Allocation;
use crate::api::{
    Alternate, Client, ClientAction, Command, Config, ConnectionId, RelayAddress, RelayId,
    RelayTransport, Settings,
};
use crate::auth::Users;
use crate::counters::{Counters, DropReason};
use crate::limits::{ChallengeBudget, source};
use crate::nonce::Nonces;
use crate::peers::Peers;
use crate::ports::Ports;
use crate::stun::{Class, Message, Method};
use contract::turn_config::TurnLimits;

/// A relayed transport address.
#[derive(Debug)]
struct Relay {
    allocation: usize,
    generation: u32,
    /// Index of its address and port pool.
    address: usize,
    port: u16,
    even: Option<bool>,
    attempts: u8,
    is_bound: bool,
}

/// A port that waits for its RESERVATION-TOKEN.
#[derive(Debug)]
struct Reservation {
    token: [u8; 8],
    address: usize,
    port: u16,
    expires: Instant,
}

/// What ends at a time. Each thing has one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Deadline {
    Allocation(usize),
    Reservation([u8; 8]),
    Connection(ConnectionId),
}

/// A TURN server without I/O. See the crate's documentation.
#[derive(Debug)]
pub struct Server {
    worker: u8,
    realm: String,
    software: String,
    addresses: Vec<(RelayAddress, Ports)>,
    alternate: Option<Alternate>,
    hide_errors: bool,
    users: Users,
    nonces: Nonces,
    peers: Peers,
    limits: TurnLimits,
    rng: StdRng,
    wall: (Instant, u64),
    is_draining: bool,
    allocations: Slab<Allocation>,
    by_client: FxHashMap<Client, usize>,
    relays: Slab<Relay>,
    generation: u32,
    per_user: FxHashMap<Box<str>, u32>,
    per_address: FxHashMap<IpAddr, u32>,
    reservations: Vec<Reservation>,
    connections: BTreeMap<ConnectionId, tcp::Connection>,
    deadlines: BTreeSet<(Instant, Deadline)>,
    commands: VecDeque<Command>,
    budget: ChallengeBudget,
    counters: Counters,
}

impl Server {
    /// Makes a server. `wall` is the time of day at `now`, for nonces and expiry.
    pub fn new(config: Config, mut rng: StdRng, now: Instant, wall: SystemTime) -> Self {
        let Config {
            worker,
            realm,
            software,
            relay_addresses,
            relay_ports,
            alternate,
            hide_errors,
            settings: Settings { credentials, nonce_keys, nonce_life, peers, limits },
        } = config;
        let only_static = Users::only_static(&credentials);
        let ports = |address| (address, Ports::new(&relay_ports));
        Self {
            addresses: relay_addresses.into_iter().map(ports).collect(),
            users: Users::new(&realm, credentials),
            nonces: Nonces::new(nonce_keys, nonce_life, only_static),
            peers: Peers::new(peers),
            budget: ChallengeBudget::new(&mut rng, now),
            worker,
            realm,
            software,
            alternate,
            hide_errors,
            limits,
            rng,
            wall: (now, unix_s(wall)),
            is_draining: false,
            allocations: Slab::new(),
            by_client: FxHashMap::default(),
            relays: Slab::new(),
            generation: 0,
            per_user: FxHashMap::default(),
            per_address: FxHashMap::default(),
            reservations: Vec::new(),
            connections: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            commands: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Replaces what can change. Allocations stay; data to peers that are no longer allowed is
    /// dropped from now on.
    pub fn update(&mut self, settings: Settings) {
        let Settings { credentials, nonce_keys, nonce_life, peers, limits } = settings;
        let only_static = Users::only_static(&credentials);
        self.users = Users::new(&self.realm, credentials);
        self.nonces = Nonces::new(nonce_keys, nonce_life, only_static);
        self.peers = Peers::new(peers);
        self.limits = limits;
        for (_, allocation) in &mut self.allocations {
            for channel in &mut allocation.channels {
                channel.local = self.peers.local(channel.peer);
            }
            allocation.permissions.retain_mut(|permission| {
                let Some(locals) = self.peers.locals(permission.peer) else { return false };
                permission.locals = locals;
                true
            });
        }
    }

    /// Corrects the time of day: after a suspension, or once a minute.
    pub fn set_wall_clock(&mut self, now: Instant, wall: SystemTime) {
        self.wall = (now, unix_s(wall));
    }

    /// Refuses new allocations from now on; the others may be refreshed.
    pub fn drain(&mut self) {
        self.is_draining = true;
    }

    /// Takes a datagram, or a message that `StreamFramer` split off.
    pub fn handle_client(&mut self, client: Client, bytes: &[u8], now: Instant) -> ClientAction {
        match bytes.first() {
            Some(0x40..=0x4f) => self.channel_data(client, bytes, now),
            Some(0x00..=0x3f) => match Message::parse(bytes) {
                Ok(message) => self.message(client, &message, now),
                Err(_) => self.dropped(DropReason::Malformed),
            },
            Some(_) | None => self.dropped(DropReason::Malformed),
        }
    }

    fn message(&mut self, client: Client, message: &Message<'_>, now: Instant) -> ClientAction {
        match (message.class, message.method) {
            (Class::Indication, Method::Send) => return self.send_indication(client, message, now),
            // A keepalive (RFC 8489 section 6.3.2): it is enough that it came.
            (Class::Indication, Method::Binding) => {}
            (Class::Indication | Class::Success | Class::Error, _) => {
                return self.dropped(DropReason::Unexpected);
            }
            (Class::Request, _) => self.request(client, message, now),
        }
        ClientAction::None
    }

    /// The next thing that the program has to do.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Ends what has expired.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, deadline)) = self.deadlines.first().copied()
            && at <= now
        {
            self.deadlines.pop_first();
            match deadline {
                Deadline::Allocation(index) => self.remove_allocation(index),
                Deadline::Reservation(token) => {
                    if let Some((address, port)) = self.take_reservation(token) {
                        self.addresses[address].1.release(port);
                    }
                }
                Deadline::Connection(connection) => self.connection_timed_out(connection, now),
            }
        }
    }

    /// A client's connection ended: so does its allocation (RFC 8656 section 7.2).
    pub fn client_closed(&mut self, client: Client) {
        if let Some(index) = self.by_client.get(&client) {
            self.remove_allocation(*index);
        }
        self.data_connection_closed(client);
    }

    /// What was counted.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Allocations that exist, those whose sockets are being opened included.
    pub fn allocations(&self) -> usize {
        self.allocations.len()
    }

    /// Whether a client has an allocation: its connection is in use.
    pub fn has_allocation(&self, client: Client) -> bool {
        self.by_client.contains_key(&client)
    }

    fn unix_s(&self, now: Instant) -> u64 {
        self.wall.1 + now.saturating_duration_since(self.wall.0).as_secs()
    }

    fn dropped(&mut self, reason: DropReason) -> ClientAction {
        self.counters.drop(reason);
        ClientAction::None
    }

    fn send(&mut self, client: Client, bytes: Vec<u8>) {
        self.commands.push_back(Command::Send { client, bytes });
    }

    fn relay(&self, id: RelayId) -> Option<&Relay> {
        self.relays.get(id.slot()).filter(|relay| relay.generation == id.generation)
    }

    fn take_reservation(&mut self, token: [u8; 8]) -> Option<(usize, u16)> {
        let index = self.reservations.iter().position(|known| known.token == token)?;
        let Reservation { token, address, port, expires } = self.reservations.swap_remove(index);
        self.deadlines.remove(&(expires, Deadline::Reservation(token)));
        Some((address, port))
    }

    fn set_expiry(&mut self, index: usize, expires: Instant) {
        if let Some(allocation) = self.allocations.get_mut(index) {
            self.deadlines.remove(&(allocation.expires, Deadline::Allocation(index)));
            allocation.expires = expires;
            self.deadlines.insert((expires, Deadline::Allocation(index)));
        }
    }

    fn remove_allocation(&mut self, index: usize) {
        let Some(allocation) = self.allocations.try_remove(index) else { return };
        self.deadlines.remove(&(allocation.expires, Deadline::Allocation(index)));
        self.by_client.remove(&allocation.client);
        release_one(&mut self.per_user, &allocation.user.quota);
        release_one(&mut self.per_address, &source(allocation.client.remote.ip()));
        if allocation.opening.is_none() {
            self.counters.allocations -= 1;
        }
        if allocation.transport == RelayTransport::Tcp {
            self.close_connections(index);
        }
        for relay in allocation.relays.into_iter().flatten() {
            self.close_relay(relay);
        }
    }

    fn close_relay(&mut self, id: RelayId) {
        if self.relay(id).is_some() {
            let relay = self.relays.remove(id.slot());
            allocate::release_ports(&mut self.addresses[relay.address].1, &relay);
            self.commands.push_back(Command::Close { relay: id });
        }
    }
}

fn release_one<K: std::hash::Hash + Eq + ?Sized, Q>(counts: &mut FxHashMap<Q, u32>, key: &K)
where
    Q: std::borrow::Borrow<K> + std::hash::Hash + Eq,
{
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

fn unix_s(wall: SystemTime) -> u64 {
    wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
