//! A worker thread: epoll, one UDP socket, one engine. Nothing here is shared but counters.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use rand::rngs::StdRng;
use rustc_hash::FxHashMap;
use sfu_core::media::engine::Engine;
use sfu_core::media::ice::Path;
use sfu_core::media::{MediaCommand, MediaEvent, RoomKey};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::WorkerCounters;
use super::dtls::OpenSslFactory;

const SOCKET: Token = Token(0);
const COMMANDS: Token = Token(1);
/// Receive calls in a row before timers and commands get their turn.
const MAX_RECEIVES: usize = 16;
/// Longest wait: counters stay fresh.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// Bytes of the kernel's buffers: a key frame to hundreds of subscribers at once.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// What the rest of the process asks of a worker.
pub(super) enum Command {
    /// A room begins.
    Attach { room: RoomKey, events: mpsc::Sender<MediaEvent> },
    /// A room wants something.
    Media { room: RoomKey, command: MediaCommand },
    /// A room ended.
    Detach { room: RoomKey },
    /// The process ends.
    Stop,
}

/// The other end of a worker's queue.
pub(super) struct Link {
    commands: Sender<Command>,
    waker: Waker,
    pub(super) counters: Arc<WorkerCounters>,
}

impl Link {
    pub(super) fn new(
        commands: Sender<Command>,
        waker: Waker,
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
    rooms: FxHashMap<RoomKey, mpsc::Sender<MediaEvent>>,
    counters: Arc<WorkerCounters>,
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
    ) -> io::Result<(Self, Waker, SocketAddr)> {
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
        let waker = Waker::new(poll.registry(), COMMANDS)?;
        let buffer_size = 2048 * udp.gro_segments().max(1);
        let worker = Self {
            poll,
            socket,
            udp,
            engine: Engine::new(Box::new(factory), rng, Instant::now()),
            queue,
            rooms: FxHashMap::default(),
            counters: Arc::default(),
            buffers: vec![0; buffer_size * BATCH_SIZE],
            buffer_size,
        };
        Ok((worker, waker, bound))
    }

    pub(super) fn counters(&self) -> Arc<WorkerCounters> {
        Arc::clone(&self.counters)
    }

    /// Works until told to stop.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(16);
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
            socket_is_drained = self.receive(started);
            if self.take_commands(started) {
                self.flush();
                return;
            }
            self.engine.handle_timeout(started);
            self.pass_on_events();
            self.flush();
            self.publish_counters(started.elapsed());
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
        }
        self.counters.packets_in.fetch_add(received.0, Ordering::Relaxed);
        self.counters.bytes_in.fetch_add(received.1, Ordering::Relaxed);
        is_drained
    }

    /// Does what was asked; `true` when the worker shall stop.
    fn take_commands(&mut self, now: Instant) -> bool {
        while let Ok(command) = self.queue.try_recv() {
            match command {
                Command::Attach { room, events } => {
                    self.rooms.insert(room, events);
                }
                Command::Media { room, command } => {
                    self.engine.handle_command(room, command, now);
                }
                Command::Detach { room } => {
                    self.rooms.remove(&room);
                    self.engine.close_room(room);
                }
                Command::Stop => return true,
            }
        }
        false
    }

    fn pass_on_events(&mut self) {
        while let Some((room, event)) = self.engine.poll_event() {
            let Some(events) = self.rooms.get(&room) else { continue };
            match events.try_send(event) {
                // The next levels come soon.
                Ok(()) | Err(TrySendError::Full(MediaEvent::AudioLevels(_))) => {}
                Err(error) => {
                    // A room that lost an event would never be right again.
                    tracing::warn!(?room, %error, "A room does not take media events");
                    self.rooms.remove(&room);
                    self.engine.close_room(room);
                }
            }
        }
    }

    fn flush(&mut self) {
        let Self { engine, udp, socket, counters, .. } = self;
        let mut sent = 0;
        engine.flush(|path, contents, segment_size| {
            let Path::Udp(destination) = path else { return };
            let transmit = Transmit {
                destination,
                ecn: None,
                contents,
                segment_size: Some(segment_size),
                src_ip: None,
            };
            match udp.try_send((&*socket).into(), &transmit) {
                Ok(()) => sent += contents.len() as u64,
                // The kernel's buffer is full: media is lost as it would be on the wire.
                Err(error) => tracing::trace!(%error, "Failed to send"),
            }
        });
        counters.bytes_out.fetch_add(sent, Ordering::Relaxed);
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
        self.counters.busy_micros.fetch_add(busy.as_micros() as u64, Ordering::Relaxed);
    }
}
