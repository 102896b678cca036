//! A worker thread: epoll, the sockets of its clients and of their relays, one core. Nothing here
//! is shared on the way of a packet.

mod commands;
mod datagrams;
mod neighbours;
mod peer_streams;
mod secure_datagrams;
mod streams;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use contract::gathering::{Bounds, Gathering};
use crossbeam_channel::Receiver as Queue;
use mio::net::{TcpListener, UdpSocket};
use mio::{Events, Interest, Poll, Registry, Token};
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use turn_server_core::api::{Client, ConnectionId, RelayId, Settings, Transport};
use turn_server_core::counters::Counters;
use turn_server_core::server::Server;

use crate::admission::Admission;
use crate::connection::{CHUNK, Rules};
use crate::runs::Runs;
use crate::tls::Certificate;
use crate::udp::{Receiver, Sender};
pub(crate) use neighbours::{Line, lines};
use neighbours::{Moving, Neighbours};
use peer_streams::PeerStream;
use secure_datagrams::SecureClient;

/// Groups of datagrams that one call receives.
const BATCH: usize = 16;
/// Sockets that are told of at once.
const EVENTS: usize = 512;
/// Receive calls in a row before others get their turn.
const MAX_RECEIVES: usize = 16;
/// Connections accepted in a row.
const MAX_ACCEPTS: usize = 64;
/// Longest wait: counters stay fresh, and connections are looked after.
const MAX_WAIT: Duration = Duration::from_millis(500);
/// How often connections without allocations are looked for.
const SWEEP: Duration = Duration::from_millis(500);
/// Up to a quarter of a core nothing waits. Relays send each from a socket of their own, so that
/// gathering saves only the waking up, most of it within the first milliseconds.
const GATHERING: Bounds =
    Bounds { easy: 20_000.0, hard: 40_000.0, longest: Duration::from_millis(3) };

/// What a token stands for. The upper bits are the kind, the lower ones its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    Commands,
    Listener(usize),
    Relay(usize),
    Connection(usize),
    Peer(usize),
}

impl Source {
    const SHIFT: u32 = usize::BITS - 3;

    fn token(self) -> Token {
        let (kind, number) = match self {
            Self::Commands => (0, 0),
            Self::Listener(number) => (1, number),
            Self::Relay(number) => (2, number),
            Self::Connection(number) => (3, number),
            Self::Peer(number) => (4, number),
        };
        Token(kind << Self::SHIFT | number)
    }

    fn of(token: Token) -> Self {
        let number = token.0 & ((1 << Self::SHIFT) - 1);
        match token.0 >> Self::SHIFT {
            1 => Self::Listener(number),
            2 => Self::Relay(number),
            3 => Self::Connection(number),
            4 => Self::Peer(number),
            _ => Self::Commands,
        }
    }
}

/// A socket that clients reach.
pub(crate) struct Listener {
    pub(crate) transport: Transport,
    pub(crate) address: SocketAddr,
    pub(crate) socket: ListenerSocket,
}

/// Its kind.
pub(crate) enum ListenerSocket {
    Udp(UdpSocket),
    Tcp(TcpListener),
}

/// A relay's socket.
enum RelaySocket {
    Udp(UdpSocket),
    Tcp(TcpListener, SocketAddr),
}

struct Relay {
    id: RelayId,
    socket: RelaySocket,
}

/// What the rest of the process asks of a worker.
pub(crate) enum Order {
    /// Files changed.
    Update(Box<Settings>),
    /// No new allocations.
    Drain,
    /// The process ends.
    Stop,
}

/// What the rest of the process sees of a worker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) core: Counters,
    pub(crate) shell: ShellCounters,
    /// No allocation comes any more.
    pub(crate) is_draining: bool,
    /// How long datagrams gather.
    pub(crate) gathering: Duration,
}

/// What the core does not see.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ShellCounters {
    /// Connections accepted, by TCP and TLS.
    pub(crate) accepted: u64,
    /// Connections refused because of a bound.
    pub(crate) refused: u64,
    /// Connections that ended in an error of TLS, framing or a PROXY header.
    pub(crate) failed: u64,
    /// Messages dropped because their client or the kernel did not take them.
    pub(crate) dropped: u64,
}

/// What a worker is made from.
pub(crate) struct Parts {
    pub(crate) server: Server,
    /// Its place among the workers.
    pub(crate) number: usize,
    pub(crate) line: Line,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) certificate: Option<Certificate>,
    pub(crate) admission: Admission,
    pub(crate) rules: Rules,
    /// Time for a connection to have an allocation.
    pub(crate) setup: Duration,
    /// DTLS handshakes under way.
    pub(crate) handshakes: usize,
    pub(crate) orders: Queue<Order>,
    pub(crate) snapshot: Arc<Mutex<Snapshot>>,
}

/// A worker.
pub(crate) struct Worker {
    poll: Poll,
    registry: Arc<Registry>,
    server: Server,
    number: usize,
    neighbours: Neighbours,
    /// A connection that is to go to another worker: which, and the request that says so.
    moving: Option<Moving>,
    listeners: Vec<Listener>,
    certificate: Option<Certificate>,
    admission: Admission,
    rules: Arc<Rules>,
    setup: Duration,
    handshakes: usize,
    orders: Queue<Order>,
    snapshot: Arc<Mutex<Snapshot>>,
    is_draining: bool,

    /// By the relay's slot.
    relays: Vec<Option<Relay>>,
    connections: FxHashMap<usize, streams::StreamClient>,
    by_client: FxHashMap<Client, usize>,
    next_connection: usize,
    /// Connections with something to send.
    dirty: Vec<usize>,
    secure: FxHashMap<(usize, SocketAddr), SecureClient>,
    /// Keys of `secure` with a handshake under way.
    strangers: FxHashSet<(usize, SocketAddr)>,
    peers: FxHashMap<ConnectionId, PeerStream>,

    receiver: Receiver,
    sender: Sender,
    to_peers: Runs<usize>,
    to_clients: Runs<usize>,
    headers: Vec<u8>,
    chunk: Box<[u8]>,
    /// Data of stream clients on its way to peers.
    stream_arena: Vec<u8>,
    /// Sources that hold more than was read in their turn.
    again: FxHashSet<Source>,
    /// Sources to look at again after a while.
    stalled: FxHashSet<Source>,
    next_sweep: Instant,
    gathering: Gathering,
    shell: ShellCounters,
}

impl Worker {
    /// Watches the listeners.
    pub(crate) fn new(parts: Parts) -> io::Result<Self> {
        let (poll, neighbours) = parts.line.split();
        let registry = Arc::new(poll.registry().try_clone()?);
        let mut listeners = parts.listeners;
        for (number, listener) in listeners.iter_mut().enumerate() {
            let token = Source::Listener(number).token();
            match &mut listener.socket {
                ListenerSocket::Udp(socket) => {
                    registry.register(socket, token, Interest::READABLE)?;
                }
                ListenerSocket::Tcp(socket) => {
                    registry.register(socket, token, Interest::READABLE)?;
                }
            }
        }
        Ok(Self {
            poll,
            registry,
            server: parts.server,
            number: parts.number,
            neighbours,
            moving: None,
            listeners,
            certificate: parts.certificate,
            admission: parts.admission,
            rules: Arc::new(parts.rules),
            setup: parts.setup,
            handshakes: parts.handshakes,
            orders: parts.orders,
            snapshot: parts.snapshot,
            is_draining: false,
            relays: Vec::new(),
            connections: FxHashMap::default(),
            by_client: FxHashMap::default(),
            next_connection: 0,
            dirty: Vec::new(),
            secure: FxHashMap::default(),
            strangers: FxHashSet::default(),
            peers: FxHashMap::default(),
            receiver: Receiver::new(BATCH),
            sender: Sender::default(),
            to_peers: Runs::new(),
            to_clients: Runs::new(),
            headers: Vec::with_capacity(64 * 1024),
            chunk: vec![0; CHUNK].into_boxed_slice(),
            again: FxHashSet::default(),
            stalled: FxHashSet::default(),
            stream_arena: Vec::with_capacity(CHUNK),
            next_sweep: Instant::now(),
            gathering: Gathering::new(GATHERING, Instant::now()),
            shell: ShellCounters::default(),
        })
    }

    /// Works until told to stop.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let wait = self.wait(Instant::now());
            match self.poll.poll(&mut events, Some(wait)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "Worker stops: polling failed");
                    return;
                }
            }
            let now = Instant::now();
            let again = std::mem::take(&mut self.again);
            for source in again {
                self.serve(source, now);
            }
            for event in &events {
                let source = Source::of(event.token());
                if event.is_error()
                    && let Source::Relay(slot) = source
                {
                    self.take_icmp_errors(slot, now);
                }
                self.serve(source, now);
            }
            self.take_moved(now);
            if self.take_orders() {
                return;
            }
            self.server.handle_timeout(now);
            self.run_commands(now);
            self.sweep(now);
            self.write_dirty();
            self.run_commands(now);
            self.gathering.note(self.sender.take_calls(), now);
            let is_drained = self.again.is_empty() && events.iter().count() < EVENTS;
            let rest = self.gathering.rest(now.elapsed(), is_drained);
            if !rest.is_zero() {
                std::thread::sleep(rest);
            }
        }
    }

    fn wait(&self, now: Instant) -> Duration {
        if !self.again.is_empty() {
            return Duration::ZERO;
        }
        let until =
            |at: Option<Instant>| at.map_or(MAX_WAIT, |at| at.saturating_duration_since(now));
        until(self.server.poll_timeout()).min(MAX_WAIT)
    }

    fn serve(&mut self, source: Source, now: Instant) {
        match source {
            Source::Commands => {}
            Source::Listener(number) => match self.listeners.get(number).map(|l| l.transport) {
                Some(Transport::Udp) => self.receive_from_clients(number, now),
                Some(Transport::Dtls) => self.receive_secured(number, now),
                Some(Transport::Tcp | Transport::Tls) => self.accept(number, now),
                None => {}
            },
            Source::Relay(slot) => match self.relays.get(slot).and_then(Option::as_ref) {
                Some(Relay { socket: RelaySocket::Udp(_), .. }) => {
                    self.receive_from_peers(slot, now);
                }
                Some(Relay { socket: RelaySocket::Tcp(..), .. }) => self.accept_peers(slot, now),
                // It was closed in this round.
                None => {}
            },
            Source::Connection(number) => self.serve_connection(number, now),
            Source::Peer(number) => self.serve_peer(ConnectionId(number as u32), now),
        }
    }

    /// Does what was ordered; `true` at the end.
    fn take_orders(&mut self) -> bool {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Update(settings) => self.server.update(*settings),
                Order::Drain => {
                    self.server.drain();
                    self.is_draining = true;
                    self.show();
                }
                Order::Stop => return true,
            }
        }
        false
    }

    /// Looks after what lasts too long, and shows the counters.
    fn sweep(&mut self, now: Instant) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP;
        // The clock may have been set.
        self.server.set_wall_clock(now, SystemTime::now());
        self.sweep_connections(now);
        self.sweep_secured(now);
        self.sweep_peers(now);
        self.show();
    }

    fn show(&self) {
        let Self { shell, is_draining, .. } = *self;
        let core = self.server.counters().clone();
        let gathering = self.gathering.time();
        *self.snapshot.lock() = Snapshot { core, shell, is_draining, gathering };
    }
}
