//! The media loop: one thread, one epoll, all sockets of the load.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use crossbeam_channel::{Receiver, Sender, bounded};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::dtls::DtlsClient;
use super::publisher::Publisher;
use super::session::Session;
use super::signal::{Negotiated, Role, SessionKey};
use super::socket::{MAX_COALESCED, receive};
use super::totals::Totals;

const WAKE: Token = Token(usize::MAX);
/// Sessions are looked at in so many groups, one each [`LOOK`].
const GROUPS: usize = 10;
const LOOK: Duration = Duration::from_millis(10);
/// Datagrams of one socket before the next gets its turn.
const MAX_RECEIVES: usize = 8;

/// Things that were negotiated and wait for the loop; signalling waits when there are more.
const QUEUE: usize = 4096;

/// Tells the loop what was negotiated.
#[derive(Debug, Clone)]
pub(super) struct MediaSender {
    queue: Sender<Negotiated>,
    waker: Arc<Waker>,
}

impl MediaSender {
    /// Queues it; a loop that ended needs nothing.
    pub(super) fn send(&self, negotiated: Negotiated) {
        let _ended = self.queue.send(negotiated);
        let _ended = self.waker.wake();
    }
}

/// A layer of somebody's track and how much of it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Published {
    pub(super) packets: u64,
    pub(super) frames: u64,
    pub(super) frame_rate: u32,
}

/// The loop's state.
pub(super) struct Media {
    poll: Poll,
    queue: Receiver<Negotiated>,
    sender: MediaSender,
    pub(super) dtls: Arc<DtlsClient>,
    sessions: Vec<Option<Session>>,
    /// Sockets whose datagrams were not all read.
    pending: Vec<usize>,
    /// Next frame of a session's layer.
    frames: BinaryHeap<Reverse<(Instant, usize, usize)>>,
    publishes: bool,
    next_look: Instant,
    group: usize,
    coalesce: bool,
    buffer: Vec<u8>,
    pub(super) totals: Totals,
    /// Participants that gave up, and why.
    pub(super) failed: BTreeMap<usize, String>,
}

fn slot((participant, role): SessionKey) -> usize {
    2 * participant + usize::from(role == Role::Subscriber)
}

impl Media {
    /// A loop for `participants`.
    pub(super) fn new(participants: usize, coalesce: bool) -> Result<Self> {
        let poll = Poll::new()?;
        let (sender, queue) = bounded(QUEUE);
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let mut sessions = Vec::new();
        sessions.resize_with(2 * participants, || None);
        Ok(Self {
            poll,
            queue,
            sender: MediaSender { queue: sender, waker },
            dtls: Arc::new(DtlsClient::new()?),
            sessions,
            pending: Vec::new(),
            frames: BinaryHeap::new(),
            publishes: true,
            next_look: Instant::now(),
            group: 0,
            coalesce,
            buffer: vec![0; MAX_COALESCED],
            totals: Totals::default(),
            failed: BTreeMap::new(),
        })
    }

    /// How signalling reaches the loop.
    pub(super) fn sender(&self) -> MediaSender {
        self.sender.clone()
    }

    /// A participant's transport.
    pub(super) fn session(&self, key: SessionKey) -> Option<&Session> {
        self.sessions.get(slot(key))?.as_ref()
    }

    /// All transports.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter().flatten()
    }

    /// All transports, with the numbers of their participants.
    pub(super) fn numbered_sessions(&self) -> impl Iterator<Item = (usize, &Session)> {
        let slots = self.sessions.iter().enumerate();
        slots.filter_map(|(slot, session)| Some((slot / 2, session.as_ref()?)))
    }

    /// Begins or stops sending media.
    pub(super) fn set_publishing(&mut self, publishes: bool) {
        let now = Instant::now();
        self.publishes = publishes;
        if publishes {
            // Cameras are not in step.
            let layers: Vec<_> = self.frames.drain().map(|Reverse((_, s, l))| (s, l)).collect();
            for (session, layer) in layers {
                self.schedule(session, layer, now);
            }
        }
    }

    /// How much was sent of each track's layers: by track id and layer.
    pub(super) fn published(&self) -> BTreeMap<(String, usize), Published> {
        let layers = self.sessions().flat_map(|session| &session.publisher.layers);
        let entry = |layer: &super::publisher::PublishedLayer| {
            let published = Published {
                packets: layer.packets,
                frames: layer.frames,
                frame_rate: layer.frame_rate(),
            };
            ((layer.sid.clone(), layer.index), published)
        };
        layers.map(entry).collect()
    }

    /// Runs until `done`, or until `end`; says whether it was done.
    pub(super) fn run(
        &mut self,
        end: Instant,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<bool> {
        let mut events = Events::with_capacity(1024);
        loop {
            if done(self) {
                return Ok(true);
            }
            let now = Instant::now();
            if now >= end {
                return Ok(false);
            }
            self.turn(&mut events, end)?;
        }
    }

    /// Runs for some time.
    pub(super) fn run_for(&mut self, time: Duration) -> Result<()> {
        self.run(Instant::now() + time, |_| false).map(drop)
    }

    fn turn(&mut self, events: &mut Events, end: Instant) -> Result<()> {
        let next_frame = self.frames.peek().filter(|_| self.publishes).map(|Reverse(f)| f.0);
        let next = next_frame.unwrap_or(end).min(self.next_look).min(end);
        let wait = match self.pending.is_empty() {
            true => next.saturating_duration_since(Instant::now()),
            false => Duration::ZERO,
        };
        match self.poll.poll(events, Some(wait)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        let mut ready = std::mem::take(&mut self.pending);
        ready.extend(events.iter().map(|event| event.token()).filter(|t| *t != WAKE).map(|t| t.0));
        for index in ready {
            self.receive(index);
        }
        while let Ok(negotiated) = self.queue.try_recv() {
            self.take(negotiated)?;
        }
        self.send_frames()?;
        if Instant::now() >= self.next_look {
            self.look();
        }
        Ok(())
    }

    fn receive(&mut self, index: usize) {
        let Some(session) = &mut self.sessions[index] else { return };
        let now = Instant::now();
        for _ in 0..MAX_RECEIVES {
            let Some(socket) = session.socket() else { return };
            // A refused datagram shows as an error of the next call: the server is gone.
            let Ok(Some(received)) = receive(socket, &mut self.buffer) else { return };
            let whole = &mut self.buffer[..received.length];
            for datagram in whole.chunks_mut(received.segment) {
                let handled =
                    session.handle(datagram, received.nanos, now, &self.dtls, &mut self.totals);
                if let Err(error) = handled {
                    self.fail(index, &error);
                    return;
                }
            }
        }
        self.pending.push(index);
    }

    /// A transport is gone, and with it the run.
    fn fail(&mut self, index: usize, error: &anyhow::Error) {
        self.failed.insert(index / 2, format!("{error:#}"));
        self.sessions[index] = None;
    }

    fn take(&mut self, negotiated: Negotiated) -> Result<()> {
        let now = Instant::now();
        match negotiated {
            Negotiated::Open { key, local, remote, since } => {
                let is_offerer = key.1 == Role::Publisher;
                let session = Session::new(local, *remote, is_offerer, since, now);
                self.sessions[slot(key)] = Some(session);
            }
            Negotiated::Candidate { key, address } => {
                let index = slot(key);
                if let Some(session) = &mut self.sessions[index]
                    && let Some(socket) = session.reach(address, self.coalesce, now)?
                {
                    let fd = socket.as_raw_fd();
                    let interest = Interest::READABLE;
                    self.poll.registry().register(&mut SourceFd(&fd), Token(index), interest)?;
                }
            }
            Negotiated::Sources { key, sources } => {
                if let Some(session) = &mut self.sessions[slot(key)] {
                    session.set_sources(sources);
                }
            }
            Negotiated::Publish { key, tracks } => {
                let index = slot(key);
                if let Some(session) = &mut self.sessions[index] {
                    session.publisher = Publisher::new(tracks, key.0 as u64);
                    for layer in 0..session.publisher.layers.len() {
                        self.schedule(index, layer, now);
                    }
                }
            }
            Negotiated::Failed { participant, error } => {
                self.failed.insert(participant, error);
            }
        }
        Ok(())
    }

    /// The first frame of a layer: layers of one participant in step, participants spread over
    /// a frame's time.
    fn schedule(&mut self, session: usize, layer: usize, now: Instant) {
        /// Golden section: any number of participants is spread evenly.
        const SPREAD: f64 = 0.618_034;
        if let Some(known) = &self.sessions[session] {
            let phase = (session as f64 * SPREAD).fract();
            let at = now + known.publisher.layers[layer].interval().mul_f64(phase);
            self.frames.push(Reverse((at, session, layer)));
        }
    }

    fn send_frames(&mut self) -> Result<()> {
        while self.publishes
            && let Some(&Reverse((at, index, layer))) = self.frames.peek()
            && at <= Instant::now()
        {
            self.frames.pop();
            let Some(session) = &mut self.sessions[index] else { continue };
            let next = at + session.publisher.layers[layer].interval();
            if session.is_connected() {
                let frame = session.publisher.next_frame(layer);
                session.publish(frame)?;
            }
            self.frames.push(Reverse((next, index, layer)));
        }
        Ok(())
    }

    fn look(&mut self) {
        let now = Instant::now();
        self.next_look = now + LOOK;
        self.group = (self.group + 1) % GROUPS;
        let group = self.group;
        for index in (group..self.sessions.len()).step_by(GROUPS) {
            if let Some(session) = &mut self.sessions[index]
                && let Err(error) = session.look(now)
            {
                self.fail(index, &error);
            }
        }
    }
}
