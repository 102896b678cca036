//! What each fuzz target does with its input: reads it as the server would, and checks what must
//! hold of whatever was read. `turn-server/core/tests/corpora.rs` replays the corpora with the
//! same functions.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use contract::turn_config::{PeerRule, TurnLimits};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use turn_server_core::api::{
    BindError, Client, Command, Config, ConnectError, Credentials, NonceKeys, PeerPolicy,
    RelayAddress, RelayId, Settings, Transport,
};
use turn_server_core::framer::StreamFramer;
use turn_server_core::server::Server;
use turn_server_core::stun::{
    Algorithm, Class, Integrity, Key, Message, Method, Signer, Writer, attribute as a,
};

/// Most steps of one input.
const MAX_PARTS: usize = 64;
const REALM: &[u8] = b"fuzz";

fn key() -> Key {
    Key::long_term(Algorithm::Md5, b"u", REALM, b"p")
}

/// Cuts an input into parts: a byte with the length, then the part.
fn parts(mut input: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (&length, rest) = input.split_first()?;
        let (part, rest) = rest.split_at(usize::from(length).min(rest.len()));
        input = rest;
        Some(part)
    })
    .take(MAX_PARTS)
}

/// A message, with everything that is looked at.
pub fn message(input: &[u8]) {
    let Ok(message) = Message::parse(input) else { return };
    let _ = (message.is_authentic(key()), message.integrity());
    assert!(message.peers().count() <= input.len() / 8);
    if let Some(data) = message.data.clone() {
        assert!(input.get(data).is_some());
    }
    assert!(message.unknown().iter().all(|kind| *kind < 0x8000));
}

/// A stream cut into parts gives the frames of the whole.
pub fn stream(input: &[u8]) {
    let pieces: Vec<&[u8]> = parts(input).collect();
    let (mut cut, mut cut_frames) = (StreamFramer::default(), Vec::new());
    let cut_result = pieces
        .iter()
        .try_for_each(|piece| cut.push(piece, |frame| cut_frames.push(frame.to_vec())));
    let (mut whole, mut frames) = (StreamFramer::default(), Vec::new());
    let result = whole.push(&pieces.concat(), |frame| frames.push(frame.to_vec()));
    assert_eq!((cut_frames, cut_result.is_ok()), (frames, result.is_ok()));
    if result.is_ok() {
        assert_eq!(cut.pending(), whole.pending());
    }
}

fn config() -> Config {
    let relay = |bind: &str| {
        let bind = bind.parse().expect("it is an address");
        RelayAddress { bind, advertise: bind }
    };
    let rule = |network: &str| PeerRule {
        network: network.parse().expect("it is a network"),
        ports: None,
    };
    Config {
        worker: 0,
        realm: String::from_utf8_lossy(REALM).into_owned(),
        software: String::new(),
        relay_addresses: vec![relay("192.0.2.1"), relay("2001:db8::1")],
        relay_ports: 50_000..=50_005,
        alternate: None,
        hide_errors: false,
        settings: Settings {
            credentials: Credentials {
                users: vec![("u".to_owned(), "p".to_owned())],
                ..Credentials::default()
            },
            nonce_keys: NonceKeys(vec![[1; 32]]),
            nonce_life: Duration::from_secs(1_000_000),
            peers: PeerPolicy {
                media: Vec::new(),
                allow: vec![rule("0.0.0.0/0"), rule("::/0")],
                deny: Vec::new(),
                own_addresses: Vec::new(),
                own_ports: vec![3478],
                relay_ports: Some(50_000..=50_005),
            },
            limits: TurnLimits {
                allocations: 3,
                permissions: 3,
                channels: 2,
                challenges_per_second: 100_000,
                ..TurnLimits::default()
            },
        },
    }
}

/// A server and what the program around it would know.
struct Played {
    server: Server,
    now: Instant,
    nonce: Vec<u8>,
    relays: Vec<RelayId>,
}

impl Played {
    #[allow(clippy::disallowed_methods, reason = "virtual time begins at some real moment")]
    fn new() -> Self {
        let now = Instant::now();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let server = Server::new(config(), StdRng::seed_from_u64(7), now, wall);
        Self { server, now, nonce: Vec::new(), relays: Vec::new() }
    }

    /// Does what the server asks for.
    fn run(&mut self, bind: Result<(), BindError>) {
        while let Some(command) = self.server.poll_command() {
            match command {
                Command::Send { bytes, .. } => {
                    let message = Message::parse(&bytes).expect("the server reads what it sends");
                    if let Some(nonce) = message.nonce {
                        self.nonce = nonce.to_vec();
                    }
                }
                Command::Bind { relay, .. } => {
                    self.server.bound(relay, bind, self.now);
                    self.relays.push(relay);
                }
                Command::Close { relay } => self.relays.retain(|known| *known != relay),
                Command::Connect { connection, .. } => {
                    let result = bind.map_err(|_| ConnectError::Unreachable);
                    self.server.connected(connection, result, self.now);
                }
                Command::Splice { .. } | Command::CloseConnection { .. } => {}
            }
        }
    }

    /// A signed request: method, then attributes of a type, a length and a value.
    fn request(&self, kind: u8, mut attributes: &[u8]) -> Vec<u8> {
        let methods = [
            Method::Allocate,
            Method::Refresh,
            Method::CreatePermission,
            Method::ChannelBind,
            Method::Connect,
            Method::ConnectionBind,
        ];
        let method = methods[usize::from(kind) % methods.len()];
        let mut writer = Writer::new(Class::Request, method, [kind; 12]);
        while let [high, low, length, rest @ ..] = attributes {
            let (value, rest) = rest.split_at(usize::from(*length).min(rest.len()));
            writer.attribute(u16::from_be_bytes([*high, *low]), value);
            attributes = rest;
        }
        writer.attribute(a::USERNAME, b"u").attribute(a::REALM, REALM);
        writer.attribute(a::NONCE, &self.nonce);
        writer.finish(Some(Signer { key: key(), integrity: Integrity::Sha1 }), false)
    }
}

/// A server fed with steps: an operation, a client, and bytes.
pub fn server(input: &[u8]) {
    let mut played = Played::new();
    let local: SocketAddr = "198.51.100.1:3478".parse().expect("it is an address");
    for part in parts(input) {
        let [operation, who, bytes @ ..] = part else { continue };
        let transport = [Transport::Udp, Transport::Tcp][usize::from(who & 1)];
        let remote = SocketAddr::from(([203, 0, 113, 9], 1000 + u16::from(who & 7)));
        let client = Client { transport, local, remote };
        let peer = SocketAddr::from(([8, 8, 8, who & 3], 7));
        let relay = played.relays.get(usize::from(who >> 4)).copied();
        let now = played.now;
        match (operation % 8, relay) {
            (0 | 1, _) => {
                played.server.handle_client(client, bytes, now);
            }
            (2..=4, _) => {
                let request = played.request(operation / 8, bytes);
                played.server.handle_client(client, &request, now);
            }
            (5, Some(relay)) => {
                let length = bytes.len() << (who & 8);
                played.server.handle_peer(relay, peer, length, now);
                played.server.accepted(relay, peer, now);
            }
            (6, _) => {
                played.now += Duration::from_secs(u64::from(*who) * 10);
                played.server.handle_timeout(played.now);
            }
            (7, _) => played.server.client_closed(client),
            (_, _) => {}
        }
        let bind = match operation {
            0xf0.. => Err(BindError::Failed),
            0xe0.. => Err(BindError::AddressInUse),
            _ => Ok(()),
        };
        played.run(bind);
        assert!(played.server.allocations() <= 3);
    }
    played.now += Duration::from_secs(4000);
    played.server.handle_timeout(played.now);
    played.run(Ok(()));
    assert_eq!(played.server.allocations(), 0);
    assert_eq!(played.server.poll_timeout(), None);
}
