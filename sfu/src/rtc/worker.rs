//! A worker thread: epoll, one UDP socket, TCP connections, one engine. Nothing here is shared
//! but counters.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use contract::gathering::{Bounds, Gathering};
use crossbeam_channel::{Receiver, Sender};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use rand::rngs::StdRng;
use rustc_hash::FxHashMap;
use sfu_core::media::engine::{Engine, SiblingMessage};
use sfu_core::media::ice::Path;
use sfu_core::media::stun::BindingRequest;
use sfu_core::media::{MediaEvent, RoomKey, TrackKey};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::WorkerCounters;
use super::dtls::OpenSslFactory;
use super::siblings::Siblings;
use super::spread::RoomCommand;
use super::tcp::{Connection, NewConnection};
use super::trunk::{TrunkId, Trunks};

const SOCKET: Token = Token(0);
const COMMANDS: Token = Token(1);
/// Tokens of TCP connections begin here.
const FIRST_CONNECTION: usize = 2;
/// Most TCP connections of a worker.
const MAX_CONNECTIONS: usize = 4096;
/// How long a TCP connection may be without a transport: before its first authentic check, and
/// after its transport ended.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(5);
/// How often such connections are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// Sockets that are told of at once.
const EVENTS: usize = 256;
/// Receive calls in a row before timers and commands get their turn.
const MAX_RECEIVES: usize = 16;
/// Longest wait: counters stay fresh.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// Bytes of the kernel's buffers: a key frame to hundreds of subscribers at once.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// Up to a tenth of a core nothing waits. Clients have jitter of the longest time from any wireless
/// network.
const GATHERING: Bounds =
    Bounds { easy: 20_000.0, hard: 60_000.0, longest: Duration::from_millis(10) };

fn token(connection: u32) -> Token {
    Token(FIRST_CONNECTION + connection as usize)
}

/// What the rest of the process asks of a worker.
pub(super) enum Command {
    /// A room begins.
    Attach { room: RoomKey, events: mpsc::Sender<MediaEvent>, audio_limit: Option<usize> },
    /// A room wants something.
    Media { room: RoomKey, command: RoomCommand },
    /// A room ended.
    Detach { room: RoomKey },
    /// A client opened a connection; it may belong to another worker.
    Connection(NewConnection),
    /// What happens on a track goes to another node, too, or wishes for a track that comes from
    /// there do.
    OpenTrunk { trunk: TrunkId, track: TrackKey, to: mpsc::Sender<SiblingMessage> },
    /// That ends.
    CloseTrunk { trunk: TrunkId, track: TrackKey },
    /// What another node said.
    Trunk(Vec<SiblingMessage>),
    /// The process ends.
    Stop,
}

/// The other end of a worker's queue.
pub(super) struct Link {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    pub(super) counters: Arc<WorkerCounters>,
}

impl Link {
    pub(super) fn new(
        commands: Sender<Command>,
        waker: Arc<Waker>,
        counters: Arc<WorkerCounters>,
    ) -> Self {
        Self { commands, waker, counters }
    }

    /// Queues a command and wakes the worker.
    pub(super) fn send(&self, command: Command) {
        if self.commands.try_send(command).is_err() {
            tracing::error!("A media worker does not take commands");
            return;
        }
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "Failed to wake a media worker");
        }
    }
}

/// A worker before and while it runs.
pub(super) struct Worker {
    poll: Poll,
    socket: UdpSocket,
    udp: UdpSocketState,
    engine: Engine,
    queue: Receiver<Command>,
    siblings: Siblings,
    trunks: Trunks,
    rooms: FxHashMap<RoomKey, mpsc::Sender<MediaEvent>>,
    connections: FxHashMap<u32, Connection>,
    next_connection: u32,
    next_sweep: Instant,
    counters: Arc<WorkerCounters>,
    gathering: Gathering,
    buffers: Vec<u8>,
    buffer_size: usize,
}

impl Worker {
    /// Binds the socket; port 0 takes a free one.
    pub(super) fn bind(
        address: SocketAddr,
        factory: OpenSslFactory,
        rng: StdRng,
        queue: Receiver<Command>,
    ) -> io::Result<(Self, Arc<Waker>, SocketAddr)> {
        let mut socket = UdpSocket::bind(address)?;
        let bound = socket.local_addr()?;
        let udp = UdpSocketState::new((&socket).into())?;
        for result in [
            udp.set_send_buffer_size((&socket).into(), SOCKET_BUFFER),
            udp.set_recv_buffer_size((&socket).into(), SOCKET_BUFFER),
        ] {
            if let Err(error) = result {
                tracing::warn!(%error, "Failed to enlarge a socket buffer");
            }
        }
        let poll = Poll::new()?;
        poll.registry().register(&mut socket, SOCKET, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), COMMANDS)?);
        let buffer_size = 2048 * udp.gro_segments().max(1);
        let worker = Self {
            poll,
            socket,
            udp,
            engine: Engine::new(Box::new(factory), rng, Instant::now()),
            queue,
            siblings: Siblings::default(),
            trunks: Trunks::default(),
            rooms: FxHashMap::default(),
            connections: FxHashMap::default(),
            next_connection: 0,
            next_sweep: Instant::now(),
            counters: Arc::default(),
            gathering: Gathering::new(GATHERING, Instant::now()),
            buffers: vec![0; buffer_size * BATCH_SIZE],
            buffer_size,
        };
        Ok((worker, waker, bound))
    }

    /// Connects the worker with the others.
    pub(super) fn connect(&mut self, siblings: Siblings) {
        self.siblings = siblings;
    }

    pub(super) fn counters(&self) -> Arc<WorkerCounters> {
        Arc::clone(&self.counters)
    }

    /// Works until told to stop.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        let mut socket_is_drained = true;
        loop {
            let wait = match self.engine.poll_timeout() {
                _ if !socket_is_drained => Duration::ZERO,
                Some(at) => at.saturating_duration_since(Instant::now()).min(MAX_WAIT),
                None => MAX_WAIT,
            };
            match self.poll.poll(&mut events, Some(wait)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "Media worker stops: polling failed");
                    return;
                }
            }
            let started = Instant::now();
            let is_readable = events.iter().any(|event| event.token() == SOCKET);
            if is_readable || !socket_is_drained {
                socket_is_drained = self.receive(started);
            }
            for event in &events {
                if let Some(token) = event.token().0.checked_sub(FIRST_CONNECTION) {
                    self.serve_connection(token as u32, event.is_writable(), started);
                }
            }
            if self.take_commands(started) {
                self.flush(started);
                return;
            }
            self.siblings.receive(&mut self.engine, started);
            self.engine.handle_timeout(started);
            self.sweep_connections(started);
            self.pass_on_events();
            let lost = self.siblings.send(&mut self.engine);
            let lost = lost + self.trunks.send(&mut self.engine);
            self.counters.lost_between_workers.fetch_add(lost, Ordering::Relaxed);
            self.flush(started);
            self.publish_counters(started.elapsed());
            let is_drained = socket_is_drained && events.iter().count() < EVENTS;
            let rest = self.gathering.rest(started.elapsed(), is_drained);
            if !rest.is_zero() {
                std::thread::sleep(rest);
            }
        }
    }

    /// Reads datagrams; `false` when more may wait.
    fn receive(&mut self, now: Instant) -> bool {
        let mut received = (0, 0);
        let mut is_drained = false;
        for _ in 0..MAX_RECEIVES {
            let mut metas = [RecvMeta::default(); BATCH_SIZE];
            let count = {
                let mut slices =
                    self.buffers.chunks_exact_mut(self.buffer_size).map(IoSliceMut::new);
                let mut slices: [IoSliceMut<'_>; BATCH_SIZE] = std::array::from_fn(|_| {
                    slices.next().expect("the buffer holds BATCH_SIZE slices")
                });
                match self.udp.recv((&self.socket).into(), &mut slices, &mut metas) {
                    Ok(count) => count,
                    Err(error) => {
                        if error.kind() != io::ErrorKind::WouldBlock {
                            tracing::debug!(%error, "Failed to receive");
                        }
                        is_drained = true;
                        break;
                    }
                }
            };
            for (meta, buffer) in
                metas.iter().zip(self.buffers.chunks_exact_mut(self.buffer_size)).take(count)
            {
                received.1 += meta.len as u64;
                for datagram in buffer[..meta.len].chunks_mut(meta.stride.max(1)) {
                    received.0 += 1;
                    self.engine.handle_datagram(Path::Udp(meta.addr), datagram, now);
                }
            }
            // The kernel gives fewer only when it has no more; what comes later is a new event.
            if count < BATCH_SIZE {
                is_drained = true;
                break;
            }
        }
        self.counters.packets_in.fetch_add(received.0, Ordering::Relaxed);
        self.counters.bytes_in.fetch_add(received.1, Ordering::Relaxed);
        is_drained
    }

    /// Does what was asked; `true` when the worker shall stop.
    fn take_commands(&mut self, now: Instant) -> bool {
        while let Ok(command) = self.queue.try_recv() {
            match command {
                Command::Attach { room, events, audio_limit } => {
                    self.engine.set_audio_limit(room, audio_limit);
                    self.rooms.insert(room, events);
                }
                Command::Media { room, command } => self.take_room_command(room, command, now),
                Command::Detach { room } => {
                    self.rooms.remove(&room);
                    self.engine.close_room(room);
                }
                Command::Connection(new) => self.take_connection(new, now),
                Command::OpenTrunk { trunk, track, to } => {
                    self.trunks.open(trunk, track, to, &mut self.engine);
                }
                Command::CloseTrunk { trunk, track } => {
                    self.trunks.close(trunk, track, &mut self.engine);
                }
                Command::Trunk(messages) => {
                    for message in messages {
                        self.engine.handle_trunk(message, now);
                    }
                }
                Command::Stop => return true,
            }
        }
        false
    }

    fn take_room_command(&mut self, room: RoomKey, command: RoomCommand, now: Instant) {
        match command {
            RoomCommand::Media(command) => self.engine.handle_command(room, command, now),
            RoomCommand::Export(track, workers) => self.engine.set_exports(track, workers),
            RoomCommand::Import(from, receiver) => self.engine.import(room, from, *receiver),
            RoomCommand::EndImport(track) => self.engine.end_import(track),
        }
    }

    /// Takes a client's connection if its first packet is for a transport of this worker.
    fn take_connection(&mut self, mut new: NewConnection, now: Instant) {
        let is_mine = BindingRequest::parse(&new.first)
            .is_some_and(|request| self.engine.answers_to(request.local_ufrag()));
        if !is_mine || self.connections.len() >= MAX_CONNECTIONS {
            let (unused, _) = oneshot::channel();
            let back = std::mem::replace(&mut new.not_mine, unused);
            // The acceptor waits for it.
            let _returned = back.send(new);
            return;
        }
        let number = self.next_connection;
        self.next_connection = number.wrapping_add(1);
        let NewConnection { stream, peer, mut first, not_mine: _ } = new;
        match Connection::register(stream, peer, token(number), self.poll.registry(), now) {
            Ok(connection) => {
                self.connections.insert(number, connection);
                let path = Path::Tcp { connection: number, peer };
                self.engine.handle_datagram(path, &mut first, now);
                // More may have come before the connection was watched.
                self.serve_connection(number, false, now);
            }
            Err(error) => tracing::debug!(%error, "Media connection lost"),
        }
    }

    fn serve_connection(&mut self, number: u32, is_writable: bool, now: Instant) {
        let Self { connections, engine, poll, counters, .. } = self;
        let Some(connection) = connections.get_mut(&number) else { return };
        let path = Path::Tcp { connection: number, peer: connection.peer };
        let mut received = (0, 0);
        let served = connection.read(|packet| {
            received.0 += 1;
            received.1 += packet.len() as u64;
            engine.handle_datagram(path, packet, now);
        });
        let (token, registry) = (token(number), poll.registry());
        let served = served.and_then(|holds_more| {
            if is_writable {
                connection.write(token, registry)?;
            }
            if holds_more { connection.rearm(token, registry) } else { Ok(()) }
        });
        counters.packets_in.fetch_add(received.0, Ordering::Relaxed);
        counters.bytes_in.fetch_add(received.1, Ordering::Relaxed);
        if let Err(error) = served {
            tracing::debug!(%error, "Media connection ended");
            connections.remove(&number);
            engine.forget_path(path);
        }
    }

    /// Closes TCP connections that belong to no transport.
    fn sweep_connections(&mut self, now: Instant) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP;
        let engine = &self.engine;
        self.connections.retain(|number, connection| {
            if engine.knows_path(Path::Tcp { connection: *number, peer: connection.peer }) {
                connection.last_use = now;
            }
            now.duration_since(connection.last_use) < CONNECTION_PATIENCE
        });
    }

    fn pass_on_events(&mut self) {
        while let Some((room, event)) = self.engine.poll_event() {
            let Some(events) = self.rooms.get(&room) else { continue };
            match events.try_send(event) {
                // The next levels come soon.
                Ok(())
                | Err(TrySendError::Full(MediaEvent::AudioLevels(_) | MediaEvent::Statistics(_))) =>
                    {}
                Err(error) => {
                    // A room that lost an event would never be right again.
                    tracing::warn!(?room, %error, "A room does not take media events");
                    self.rooms.remove(&room);
                    self.engine.close_room(room);
                }
            }
        }
    }

    fn flush(&mut self, now: Instant) {
        let Self { engine, udp, socket, counters, connections, poll, gathering, .. } = self;
        let (mut sent, mut sends) = (0, 0);
        engine.flush(|path, contents, segment_size| {
            let destination = match path {
                Path::Udp(destination) => destination,
                Path::Tcp { connection: number, .. } => {
                    // A broken connection shows when it is read.
                    if let Some(connection) = connections.get_mut(&number)
                        && connection
                            .send(contents, segment_size, token(number), poll.registry())
                            .is_ok()
                    {
                        sent += contents.len() as u64;
                    }
                    return;
                }
            };
            let transmit = Transmit {
                destination,
                ecn: None,
                contents,
                segment_size: Some(segment_size),
                src_ip: None,
            };
            sends += 1;
            match udp.try_send((&*socket).into(), &transmit) {
                Ok(()) => sent += contents.len() as u64,
                // The kernel's buffer is full: media is lost as it would be on the wire.
                Err(error) => tracing::trace!(%error, "Failed to send"),
            }
        });
        counters.bytes_out.fetch_add(sent, Ordering::Relaxed);
        gathering.note(sends, now);
    }

    fn publish_counters(&self, busy: Duration) {
        let engine = self.engine.counters();
        let (transports, senders) = self.engine.sizes();
        let store = |counter: &std::sync::atomic::AtomicU64, value| {
            counter.store(value, Ordering::Relaxed);
        };
        store(&self.counters.packets_out, engine.packets_out);
        store(&self.counters.retransmitted, engine.retransmitted);
        store(&self.counters.dropped, engine.dropped);
        store(&self.counters.transports, transports as u64);
        store(&self.counters.senders, senders as u64);
        store(&self.counters.rooms, self.rooms.len() as u64);
        store(&self.counters.gathering_micros, self.gathering.time().as_micros() as u64);
        self.counters.busy_micros.fetch_add(busy.as_micros() as u64, Ordering::Relaxed);
    }
}
