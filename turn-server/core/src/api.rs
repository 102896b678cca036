//! What goes into the server and what comes out of it: the vocabulary that it shares with the
//! program around it.

use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use contract::turn_config::{MediaPeer, Network, PeerRule, TurnLimits};

/// How a client reaches the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream.
    Tcp,
    /// A stream within TLS.
    Tls,
    /// Datagrams within DTLS.
    Dtls,
}

impl Transport {
    /// Whether messages must be framed, and channel data padded (RFC 8656 section 12.5).
    pub const fn is_stream(self) -> bool {
        match self {
            Self::Udp | Self::Dtls => false,
            Self::Tcp | Self::Tls => true,
        }
    }
}

/// A client: the 5-tuple of RFC 8656 section 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Client {
    /// Protocol between the client and the server.
    pub transport: Transport,
    /// Address of the server that the client sends to.
    pub local: SocketAddr,
    /// Address that the client sends from.
    pub remote: SocketAddr,
}

/// A relayed transport address, from its `Command::Bind` to its `Command::Close`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RelayId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl RelayId {
    /// A small number to index sockets by; used again after `Command::Close`.
    pub const fn slot(self) -> usize {
        self.slot as usize
    }
}

/// A TCP connection with a peer (RFC 6062); its value is the CONNECTION-ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u32);

impl ConnectionId {
    const WORKER_SHIFT: u32 = 24;

    pub(crate) const fn new(worker: u8, random: u32) -> Self {
        Self((worker as u32) << Self::WORKER_SHIFT | random & ((1 << Self::WORKER_SHIFT) - 1))
    }

    /// The worker whose server made it: ConnectionBind may reach another one.
    pub const fn worker(self) -> u8 {
        (self.0 >> Self::WORKER_SHIFT) as u8
    }
}

/// What a relayed transport address carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayTransport {
    /// Datagrams (RFC 8656).
    Udp,
    /// Connections (RFC 6062).
    Tcp,
}

/// What to do with the bytes that a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAction {
    /// Nothing, apart from the commands that may be waiting.
    None,
    /// Send a part of the bytes to a peer.
    Relay {
        /// The socket to send from.
        relay: RelayId,
        /// Where to, as this machine reaches it.
        peer: SocketAddr,
        /// Which of the bytes.
        payload: Range<usize>,
        /// The datagram must not be fragmented (DONT-FRAGMENT, RFC 8656 section 15).
        dont_fragment: bool,
    },
}

/// Bytes of the longest header in front of a peer's data: a Data indication with an IPv6 address.
pub const MAX_HEADER: usize = 20 + 24 + 4;

/// Where the data of a peer goes: header, data as it came, then padding zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToClient {
    /// The client.
    pub client: Client,
    /// Zero bytes after the data.
    pub padding: usize,
    pub(crate) header: [u8; MAX_HEADER],
    pub(crate) header_length: u8,
}

impl ToClient {
    /// What goes before the data.
    pub fn header(&self) -> &[u8] {
        &self.header[..usize::from(self.header_length)]
    }
}

/// What the program has to do for the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Send a message to a client.
    Send {
        /// The client.
        client: Client,
        /// The message, framed.
        bytes: Vec<u8>,
    },
    /// Open a socket, and answer by `Server::bound`. A TCP one listens, too.
    Bind {
        /// Its name.
        relay: RelayId,
        /// Address and port of this machine.
        address: SocketAddr,
        /// Its kind.
        transport: RelayTransport,
    },
    /// Close a socket; for a TCP one also the connections that are not spliced yet.
    Close {
        /// Its name.
        relay: RelayId,
    },
    /// Connect to a peer, and answer by `Server::connected` (RFC 6062 section 5.2).
    Connect {
        /// Name of the connection to be.
        connection: ConnectionId,
        /// Its local address is this relay's.
        relay: RelayId,
        /// Where to, as this machine reaches it.
        peer: SocketAddr,
    },
    /// From here on, copy bytes between the client's connection, once everything is written to
    /// it, and the peer's, and tell the end by `Server::connection_closed`.
    Splice {
        /// The peer's connection.
        connection: ConnectionId,
        /// The client's.
        client: Client,
    },
    /// Close the connection with a peer, and the client's if they are spliced.
    CloseConnection {
        /// Its name.
        connection: ConnectionId,
    },
}

/// Why a socket could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindError {
    /// Somebody has the port: another one is tried.
    AddressInUse,
    /// All else: no descriptors, no such address.
    Failed,
}

/// Why a peer could not be connected to (error 447, or 403 for what is forbidden).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectError {
    /// It refused, or there is no way to it.
    Unreachable,
    /// No answer in time.
    TimedOut,
}

/// An ICMP message about a datagram that a relay sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Icmp {
    /// ICMP type, of the relay's IP version.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The MTU of "fragmentation needed" and "packet too big", else 0.
    pub data: u32,
}

/// Address of this machine that relays are bound to, and its public form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayAddress {
    /// Address that sockets are bound to.
    pub bind: IpAddr,
    /// Address that clients are told.
    pub advertise: IpAddr,
}

/// Who may allocate.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// API keys with their secrets (LiveKit's scheme).
    pub api_keys: Vec<(String, String)>,
    /// Shared secrets of the REST scheme, newest first.
    pub rest_secrets: Vec<String>,
    /// Fixed users with their passwords.
    pub users: Vec<(String, String)>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("api_keys", &self.api_keys.len())
            .field("rest_secrets", &self.rest_secrets.len())
            .field("users", &self.users.len())
            .finish()
    }
}

/// Keys of nonces, the same on all servers that share clients, newest first.
#[derive(Clone, PartialEq, Eq)]
pub struct NonceKeys(pub Vec<[u8; 32]>);

impl std::fmt::Debug for NonceKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NonceKeys({})", self.0.len())
    }
}

/// Where data may go. What nothing here names is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerPolicy {
    /// Media nodes of this cluster.
    pub media: Vec<MediaPeer>,
    /// Networks and ports.
    pub allow: Vec<PeerRule>,
    /// Networks that are refused although `allow` names them.
    pub deny: Vec<Network>,
    /// Addresses of this machine, bound and public: its own ports are never peers.
    pub own_addresses: Vec<IpAddr>,
    /// Ports that the program listens on.
    pub own_ports: Vec<u16>,
    /// Relayed ports of all workers, unless they may be peers where a rule allows it.
    pub relay_ports: Option<RangeInclusive<u16>>,
}

/// What can change while the server runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who may allocate.
    pub credentials: Credentials,
    /// Keys of nonces; not empty.
    pub nonce_keys: NonceKeys,
    /// How long a nonce is good, at least 60 s.
    pub nonce_life: Duration,
    /// Where data may go.
    pub peers: PeerPolicy,
    /// What one client may use. `allocations` is the share of this worker.
    pub limits: TurnLimits,
}

/// Another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alternate {
    /// Its address (ALTERNATE-SERVER).
    pub server: SocketAddr,
    /// Name in its certificate (ALTERNATE-DOMAIN, RFC 8489 section 14.16), at most 255 bytes.
    pub domain: Option<String>,
}

/// What a server, that is one worker, is made from.
#[derive(Debug, Clone)]
pub struct Config {
    /// Number of this worker, see [`ConnectionId::worker`].
    pub worker: u8,
    /// Realm of the credentials, at most 128 characters.
    pub realm: String,
    /// SOFTWARE of answers to authenticated clients; empty: none.
    pub software: String,
    /// Where relays are opened: at most one of each family, the first is the default.
    pub relay_addresses: Vec<RelayAddress>,
    /// Relayed ports of this worker; no other worker uses them.
    pub relay_ports: RangeInclusive<u16>,
    /// Where clients are sent while draining (error 300); `None`: error 508.
    pub alternate: Option<Alternate>,
    /// Clients are not told of ICMP errors.
    pub hide_errors: bool,
    /// What can change.
    pub settings: Settings,
}
