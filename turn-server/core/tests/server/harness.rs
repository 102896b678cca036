//! A server with everything around it played by the test: clock, sockets, clients. Every message
//! that the server sends is checked for its form on the way.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use contract::turn_config::{Network, PeerRule, TurnLimits};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use turn_server_core::api::{
    BindError, Client, ClientAction, Command, Config, Credentials, NonceKeys, PeerPolicy,
    RelayAddress, RelayId, Settings, Transport,
};
use turn_server_core::server::Server;
use turn_server_core::stun::{
    Algorithm, Class, Integrity, Key, Message, Method, Signer, Writer, attribute as a,
};

pub(crate) const REALM: &str = "livecluster";
/// Seconds since 1970 when a test begins.
pub(crate) const BEGIN_S: u64 = 1_700_000_000;
pub(crate) const SERVER: &str = "198.51.100.1:3478";
pub(crate) const ALICE: Account<'static> = Account { name: "alice", password: "wonder" };
pub(crate) const BOB: Account<'static> = Account { name: "bob", password: "builder" };

#[derive(Clone, Copy)]
pub(crate) struct Account<'a> {
    pub(crate) name: &'a str,
    pub(crate) password: &'a str,
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn udp(remote: &str) -> Client {
    Client { transport: Transport::Udp, local: at(SERVER), remote: at(remote) }
}

pub(crate) fn tcp(remote: &str) -> Client {
    Client { transport: Transport::Tcp, ..udp(remote) }
}

pub(crate) fn rule(network: &str) -> PeerRule {
    PeerRule { network: network.parse().unwrap(), ports: None }
}

pub(crate) fn network(text: &str) -> Network {
    text.parse().unwrap()
}

/// Two relay addresses; peers are the whole internet, not its special networks.
pub(crate) fn config() -> Config {
    let relay = |bind: &str| RelayAddress { bind: ip(bind), advertise: ip(bind) };
    Config {
        worker: 3,
        realm: REALM.to_owned(),
        software: "test".to_owned(),
        relay_addresses: vec![relay("192.0.2.1"), relay("2001:db8::1")],
        relay_ports: 50_000..=50_999,
        alternate: None,
        hide_errors: false,
        settings: settings(),
    }
}

pub(crate) fn settings() -> Settings {
    let user = |account: Account<'_>| (account.name.to_owned(), account.password.to_owned());
    Settings {
        credentials: Credentials { users: vec![user(ALICE), user(BOB)], ..Credentials::default() },
        nonce_keys: NonceKeys(vec![[7; 32]]),
        nonce_life: Duration::from_secs(3600),
        peers: PeerPolicy {
            media: Vec::new(),
            allow: vec![rule("0.0.0.0/0"), rule("::/0")],
            deny: Vec::new(),
            own_addresses: vec![ip("192.0.2.1"), ip("2001:db8::1"), ip("8.1.1.1")],
            own_ports: vec![3478, 9601],
            relay_ports: Some(50_000..=50_999),
        },
        limits: TurnLimits { challenges_per_second: 100_000, ..TurnLimits::default() },
    }
}

pub(crate) struct Turn {
    pub(crate) server: Server,
    pub(crate) now: Instant,
    /// Messages that left, oldest first.
    pub(crate) sent: Vec<(Client, Vec<u8>)>,
    /// Commands other than sending and opening.
    pub(crate) commands: Vec<Command>,
    /// Relays that are open, with their bound address.
    pub(crate) relays: HashMap<RelayId, SocketAddr>,
    /// Ports that others on the machine have.
    pub(crate) busy: fn(SocketAddr) -> Option<BindError>,
    nonces: HashMap<IpAddr, Vec<u8>>,
    transactions: u64,
}

impl Turn {
    #[expect(clippy::disallowed_methods, reason = "the beginning of virtual time")]
    pub(crate) fn new(config: Config) -> Self {
        let now = Instant::now();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(BEGIN_S);
        Self {
            server: Server::new(config, StdRng::seed_from_u64(1), now, wall),
            now,
            sent: Vec::new(),
            commands: Vec::new(),
            relays: HashMap::new(),
            busy: |_| None,
            nonces: HashMap::new(),
            transactions: 0,
        }
    }

    pub(crate) fn default_peers() -> Self {
        Self::new(config())
    }

    pub(crate) fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.server.handle_timeout(self.now);
        self.run();
    }

    /// Does what the server asks for.
    pub(crate) fn run(&mut self) {
        while let Some(command) = self.server.poll_command() {
            match command {
                Command::Send { client, bytes } => {
                    assert_well_formed(&bytes);
                    self.sent.push((client, bytes));
                }
                Command::Bind { relay, address, transport: _ } => {
                    let result = match (self.busy)(address) {
                        Some(error) => Err(error),
                        None => Ok(()),
                    };
                    if result.is_ok() {
                        assert!(!self.relays.values().any(|open| *open == address), "{address}");
                        self.relays.insert(relay, address);
                    }
                    self.server.bound(relay, result, self.now);
                }
                Command::Close { relay } => {
                    self.relays.remove(&relay);
                }
                Command::Connect { .. }
                | Command::Splice { .. }
                | Command::CloseConnection { .. } => self.commands.push(command),
            }
        }
    }

    /// Gives bytes to the server and takes its action.
    pub(crate) fn give(&mut self, client: Client, bytes: &[u8]) -> ClientAction {
        let action = self.server.handle_client(client, bytes, self.now);
        self.run();
        action
    }

    /// Gives a request to the server; the answer, if there is one.
    pub(crate) fn exchange(&mut self, client: Client, bytes: &[u8]) -> Option<Answer> {
        let before = self.sent.len();
        assert_eq!(self.give(client, bytes), ClientAction::None);
        let (to, bytes) = self.sent.get(before)?.clone();
        assert_eq!(to, client);
        Some(Answer::read(bytes))
    }

    pub(crate) fn transaction(&mut self) -> [u8; 12] {
        self.transactions += 1;
        let mut transaction = [0xA5; 12];
        transaction[4..].copy_from_slice(&self.transactions.to_be_bytes());
        transaction
    }

    pub(crate) fn begin(&mut self, method: Method) -> Writer {
        Writer::new(Class::Request, method, self.transaction())
    }

    /// The nonce that a client gets.
    pub(crate) fn nonce(&mut self, client: Client) -> Vec<u8> {
        let ip = client.remote.ip();
        if let Some(nonce) = self.nonces.get(&ip) {
            return nonce.clone();
        }
        let mut writer = self.begin(Method::Allocate);
        writer.attribute(a::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        let challenge = self.exchange(client, &writer.finish(None, false)).expect("a challenge");
        assert_eq!(challenge.code, Some(401));
        let nonce = challenge.get(a::NONCE).expect("a nonce").to_vec();
        self.nonces.insert(ip, nonce.clone());
        nonce
    }

    pub(crate) fn forget_nonces(&mut self) {
        self.nonces.clear();
    }

    /// A signed request, as clients of RFC 5389 make it.
    pub(crate) fn signed(
        &mut self,
        client: Client,
        account: Account<'_>,
        method: Method,
        build: impl FnOnce(&mut Writer),
    ) -> Vec<u8> {
        let nonce = self.nonce(client);
        let mut writer = self.begin(method);
        build(&mut writer);
        sign(writer, account, REALM, &nonce)
    }

    pub(crate) fn ask_as(
        &mut self,
        client: Client,
        account: Account<'_>,
        method: Method,
        build: impl FnOnce(&mut Writer),
    ) -> Answer {
        let bytes = self.signed(client, account, method, build);
        self.exchange(client, &bytes).expect("an answer")
    }

    pub(crate) fn ask(
        &mut self,
        client: Client,
        method: Method,
        build: impl FnOnce(&mut Writer),
    ) -> Answer {
        self.ask_as(client, ALICE, method, build)
    }

    pub(crate) fn allocate(&mut self, client: Client) -> Answer {
        self.ask(client, Method::Allocate, |writer| {
            writer.attribute(a::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        })
    }

    /// The only relay that is open.
    pub(crate) fn relay(&self) -> RelayId {
        assert_eq!(self.relays.len(), 1);
        *self.relays.keys().next().unwrap()
    }

    pub(crate) fn permit(&mut self, client: Client, peer: &str) -> Option<u16> {
        let build = |writer: &mut Writer| {
            writer.xor_address(a::XOR_PEER_ADDRESS, at(peer));
        };
        self.ask(client, Method::CreatePermission, build).code
    }

    pub(crate) fn bind(&mut self, client: Client, number: u16, peer: &str) -> Option<u16> {
        let build = |writer: &mut Writer| {
            writer.number(a::CHANNEL_NUMBER, u32::from(number) << 16);
            writer.xor_address(a::XOR_PEER_ADDRESS, at(peer));
        };
        self.ask(client, Method::ChannelBind, build).code
    }

    /// Where a Send indication goes.
    pub(crate) fn send(&mut self, client: Client, peer: &str, data: &[u8]) -> Option<SocketAddr> {
        let mut writer = Writer::new(Class::Indication, Method::Send, [9; 12]);
        writer.xor_address(a::XOR_PEER_ADDRESS, at(peer));
        writer.attribute(a::DATA, data);
        let bytes = writer.finish(None, false);
        match self.give(client, &bytes) {
            ClientAction::None => None,
            ClientAction::Relay { peer, payload, .. } => {
                assert_eq!(&bytes[payload], data);
                Some(peer)
            }
        }
    }

    /// Where channel data goes.
    pub(crate) fn channel_data(
        &mut self,
        client: Client,
        number: u16,
        data: &[u8],
    ) -> Option<SocketAddr> {
        let mut bytes = number.to_be_bytes().to_vec();
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
        match self.give(client, &bytes) {
            ClientAction::None => None,
            ClientAction::Relay { peer, payload, .. } => {
                assert_eq!(&bytes[payload], data);
                Some(peer)
            }
        }
    }
}

/// Adds what a long-term credential needs.
pub(crate) fn sign(mut writer: Writer, account: Account<'_>, realm: &str, nonce: &[u8]) -> Vec<u8> {
    writer.attribute(a::USERNAME, account.name.as_bytes());
    writer.attribute(a::REALM, realm.as_bytes());
    writer.attribute(a::NONCE, nonce);
    writer.finish(Some(signer(account, realm)), false)
}

pub(crate) fn signer(account: Account<'_>, realm: &str) -> Signer {
    let Account { name, password } = account;
    let key =
        Key::long_term(Algorithm::Md5, name.as_bytes(), realm.as_bytes(), password.as_bytes());
    Signer { key, integrity: Integrity::Sha1 }
}

/// A message that the server sent.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    /// Error code; `None` when all is well.
    pub(crate) code: Option<u16>,
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Answer {
    pub(crate) fn read(bytes: Vec<u8>) -> Self {
        let attributes = attributes(&bytes);
        let error = attributes.iter().find(|(kind, _)| *kind == a::ERROR_CODE);
        let code = error.map(|(_, value)| u16::from(value[2]) * 100 + u16::from(value[3]));
        let is_error = Message::parse(&bytes).unwrap().class == Class::Error;
        assert_eq!(is_error, code.is_some());
        Self { bytes, code, attributes }
    }

    pub(crate) fn get(&self, kind: u16) -> Option<&[u8]> {
        self.attributes.iter().find(|(known, _)| *known == kind).map(|(_, value)| &**value)
    }

    pub(crate) fn all(&self, kind: u16) -> Vec<&[u8]> {
        let of_kind = self.attributes.iter().filter(|(known, _)| *known == kind);
        of_kind.map(|(_, value)| &**value).collect()
    }

    pub(crate) fn number(&self, kind: u16) -> Option<u32> {
        self.get(kind).map(|value| u32::from_be_bytes(value.try_into().unwrap()))
    }

    /// Port of an XORed address.
    pub(crate) fn port(&self, kind: u16) -> u16 {
        let value = self.get(kind).expect("an address");
        u16::from_be_bytes([value[2], value[3]]) ^ 0x2112
    }

    /// An XORed address.
    pub(crate) fn address(&self, kind: u16) -> Option<SocketAddr> {
        self.get(kind).map(|value| xored(value, &self.bytes))
    }

    pub(crate) fn is_signed_by(&self, signer: Signer) -> bool {
        let message = Message::parse(&self.bytes).unwrap();
        message.integrity() == Some(signer.integrity) && message.is_authentic(signer.key)
    }
}

pub(crate) fn xored(value: &[u8], message: &[u8]) -> SocketAddr {
    let mask: Vec<u8> = message[4..20].to_vec();
    let port = u16::from_be_bytes([value[2] ^ mask[0], value[3] ^ mask[1]]);
    let plain: Vec<u8> = value[4..].iter().zip(&mask).map(|(byte, mask)| byte ^ mask).collect();
    let ip = match plain.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(&*plain).unwrap()),
        _ => IpAddr::from(<[u8; 16]>::try_from(&*plain).unwrap()),
    };
    SocketAddr::new(ip, port)
}

/// Types and values; written apart from the server's own reader.
fn attributes(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut rest = &bytes[20..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let kind = u16::from_be_bytes([rest[0], rest[1]]);
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        found.push((kind, rest[4..4 + length].to_vec()));
        let padded = length.next_multiple_of(4);
        assert!(rest[4 + length..4 + padded].iter().all(|byte| *byte == 0), "padding is zero");
        rest = &rest[4 + padded..];
    }
    found
}

fn assert_well_formed(bytes: &[u8]) {
    let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    assert_eq!(bytes.len(), 20 + length);
    Message::parse(bytes).expect("the server sends what it would read");
    let _padding_is_checked = attributes(bytes);
}
