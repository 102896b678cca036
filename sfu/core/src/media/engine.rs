//! The media engine of one worker: all transports of the rooms that live there, without
//! sockets or clocks.
//!
//! After every call that takes an input, drain [`Engine::poll_event`] and call
//! [`Engine::flush`], which hands out datagrams in runs for segmented sending.

mod audibility;
mod forward;
mod mirrors;
mod quality;
mod rtcp;
mod siblings;
mod tables;
mod timers;
mod trunk;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;
use rustc_hash::{FxHashMap, FxHashSet};
use slab::Slab;

use super::data::{DataEvent, DataTransport};
use super::dtls::{DtlsEvent, DtlsFactory};
use super::ice::{CheckOutcome, Path};
use super::stun::BindingRequest;
use super::track::{Source, Track};
use super::transport::Transport;
use super::{
    DtlsRole, MediaCommand, MediaEvent, RemoteTransport, RoomKey, TrackKey, TransportId,
    TransportState, srtp,
};

use audibility::AudioLimits;
use timers::Timers;

pub use siblings::{SiblingContent, SiblingMessage, WorkerIndex};

/// Most bytes of one run: what a segmented send takes.
pub const MAX_RUN_BYTES: usize = 65_000;
/// Most datagrams of one run (`UDP_MAX_SEGMENTS` of older kernels).
pub const MAX_RUN_SEGMENTS: usize = 64;
/// How often queues that wait for their pace are looked at.
const PACE: Duration = Duration::from_millis(5);

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineCounters {
    /// Media packets accepted from publishers.
    pub packets_in: u64,
    /// Media packets sent to subscribers, retransmissions included.
    pub packets_out: u64,
    /// Packets sent again on request.
    pub retransmitted: u64,
    /// Packets that were not authentic, unknown or malformed.
    pub dropped: u64,
}

/// The media engine of one worker.
pub struct Engine {
    dtls: Box<dyn DtlsFactory>,
    rng: StdRng,
    transports: Slab<Transport>,
    by_id: FxHashMap<TransportId, usize>,
    by_ufrag: FxHashMap<String, usize>,
    by_path: FxHashMap<Path, usize>,
    tracks: FxHashMap<TrackKey, Track>,
    events: VecDeque<(RoomKey, MediaEvent)>,
    /// Answers to connectivity checks, which do not follow the transport's path.
    answers: Vec<(Path, Vec<u8>)>,
    /// Transports with datagrams to flush.
    dirty: Vec<usize>,
    /// Tracks that may have to ask their publisher for something.
    restless: Vec<TrackKey>,
    timers: Timers,
    audio_limits: AudioLimits,
    /// For the engines of other workers.
    sibling_messages: VecDeque<(WorkerIndex, SiblingMessage)>,
    /// Tracks that mirror another, by that other one: of this engine, or of another node.
    mirrors: FxHashMap<TrackKey, Vec<TrackKey>>,
    /// Tracks that have a part at another node.
    trunks: FxHashSet<TrackKey>,
    /// For other nodes.
    trunk_messages: VecDeque<SiblingMessage>,
    /// Where packets are sealed before they leave.
    arena: Vec<u8>,
    counters: EngineCounters,
    sender_count: usize,
    next_serial: u64,
    /// The last time that was told.
    now: Instant,
}

impl Engine {
    /// An engine without transports. `rng` gives SSRCs and first sequence numbers.
    pub fn new(dtls: Box<dyn DtlsFactory>, rng: StdRng, now: Instant) -> Self {
        Self {
            dtls,
            rng,
            transports: Slab::new(),
            by_id: FxHashMap::default(),
            by_ufrag: FxHashMap::default(),
            by_path: FxHashMap::default(),
            tracks: FxHashMap::default(),
            events: VecDeque::new(),
            answers: Vec::new(),
            dirty: Vec::new(),
            restless: Vec::new(),
            timers: Timers::default(),
            audio_limits: AudioLimits::default(),
            sibling_messages: VecDeque::new(),
            mirrors: FxHashMap::default(),
            trunks: FxHashSet::default(),
            trunk_messages: VecDeque::new(),
            arena: Vec::new(),
            counters: EngineCounters::default(),
            sender_count: 0,
            next_serial: 0,
            now,
        }
    }

    /// What the engine has done.
    pub fn counters(&self) -> EngineCounters {
        self.counters
    }

    /// Transports and forwarded tracks that exist.
    pub fn sizes(&self) -> (usize, usize) {
        (self.transports.len(), self.sender_count)
    }

    /// Does what a room wants. Commands for transports that do not exist are ignored: they may
    /// have failed while the command was on its way.
    pub fn handle_command(&mut self, room: RoomKey, command: MediaCommand, now: Instant) {
        self.now = now;
        match command {
            MediaCommand::OpenTransport { transport, worker: _, local } => {
                self.open(room, transport, local, now);
            }
            MediaCommand::ConnectTransport { transport, remote } => {
                if let Some(&index) = self.by_id.get(&transport) {
                    self.connect(index, remote, now);
                }
            }
            MediaCommand::SetReceivers { transport, receivers } => {
                if let Some(&index) = self.by_id.get(&transport) {
                    self.set_receivers(index, receivers, now);
                }
            }
            MediaCommand::SetSenders { transport, senders } => {
                if let Some(&index) = self.by_id.get(&transport) {
                    self.set_senders(index, senders, now);
                }
            }
            MediaCommand::SetMirrors { transport, worker: _, mirrors } => {
                self.set_mirrors(room, transport, mirrors);
            }
            MediaCommand::LimitBandwidth { transport, limit } => {
                if let Some(&index) = self.by_id.get(&transport) {
                    self.transports[index].bandwidth_limit = limit;
                    self.retarget(index);
                }
            }
            MediaCommand::OpenDataChannels { transport } => {
                if let Some(&index) = self.by_id.get(&transport) {
                    self.transports[index].wants_channels = true;
                    self.open_channels(index, now);
                }
            }
            MediaCommand::SendData { transport, channel, payload } => {
                if let Some(&index) = self.by_id.get(&transport)
                    && let Some(data) = &mut self.transports[index].data
                    && data.send(channel, &payload, now)
                {
                    self.mark_control(index, now);
                }
            }
            MediaCommand::CloseTransport { transport } => {
                if let Some(&index) = self.by_id.get(&transport) {
                    self.close(index);
                }
            }
        }
    }

    /// Ends all transports of a room, and what it mirrors.
    pub fn close_room(&mut self, room: RoomKey) {
        let members: Vec<usize> = self
            .transports
            .iter()
            .filter(|(_, t)| t.room == room)
            .map(|(index, _)| index)
            .collect();
        for index in members {
            self.close(index);
        }
        let mirrors: Vec<TrackKey> = self
            .tracks
            .iter()
            .filter(|(_, track)| {
                track.room == room && matches!(track.source, Source::Mirror { .. })
            })
            .map(|(key, _)| *key)
            .collect();
        for key in mirrors {
            self.end_mirror(key);
        }
        self.audio_limits.remove(&room);
    }

    /// Whether a transport of this engine has this username fragment.
    pub fn answers_to(&self, ufrag: &str) -> bool {
        self.by_ufrag.contains_key(ufrag)
    }

    /// Whether a path belongs to a transport: an authentic check came over it.
    pub fn knows_path(&self, path: Path) -> bool {
        self.by_path.contains_key(&path)
    }

    /// Packets over this path come no more: its connection ended.
    pub fn forget_path(&mut self, path: Path) {
        self.by_path.remove(&path);
    }

    /// Takes a datagram. It is decrypted in place.
    pub fn handle_datagram(&mut self, path: Path, datagram: &mut [u8], now: Instant) {
        self.now = now;
        // RFC 7983: the first byte tells the protocols apart.
        match datagram.first() {
            Some(0..=3) => self.handle_stun(path, datagram, now),
            Some(20..=63) => self.handle_dtls(path, datagram, now),
            Some(128..=191) => self.handle_srtp(path, datagram, now),
            _ => self.counters.dropped += 1,
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<(RoomKey, MediaEvent)> {
        self.events.pop_front()
    }

    /// Hands out what is to be sent: a path, datagrams back to back, and the size of each (the
    /// last of a run may be shorter).
    pub fn flush(&mut self, mut send: impl FnMut(Path, &[u8], usize)) {
        for (path, answer) in self.answers.drain(..) {
            send(path, &answer, answer.len());
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            let Some(transport) = self.transports.get_mut(index) else { continue };
            transport.is_dirty = false;
            let Some(path) = transport.ice.path() else {
                transport.outbox.clear();
                continue;
            };
            let hand_out = |bytes: &[u8], size: usize| send(path, bytes, size);
            self.counters.packets_out += transport.flush(&mut self.arena, self.now, hand_out);
            if !transport.outbox.is_empty() {
                self.schedule(index, self.now + PACE);
            }
        }
        // The list keeps its memory.
        self.dirty = dirty;
    }

    fn emit(&mut self, room: RoomKey, event: MediaEvent) {
        self.events.push_back((room, event));
    }

    fn mark_dirty(&mut self, index: usize) {
        let transport = &mut self.transports[index];
        if !transport.is_dirty {
            transport.is_dirty = true;
            self.dirty.push(index);
        }
    }

    /// Collects control datagrams of a transport for the next flush.
    fn mark_control(&mut self, index: usize, now: Instant) {
        let transport = &mut self.transports[index];
        transport.collect_control(now);
        if !transport.outbox.is_empty() {
            self.mark_dirty(index);
        }
        self.reschedule(index);
    }

    fn connect(&mut self, index: usize, remote: RemoteTransport, now: Instant) {
        let transport = &mut self.transports[index];
        let same_peer = transport.remote.as_ref().is_some_and(|known| {
            known.fingerprint == remote.fingerprint && known.role == remote.role
        });
        if !same_peer {
            let is_client = remote.role == DtlsRole::Client;
            transport.dtls = Some(self.dtls.session(remote.role, remote.fingerprint, now));
            transport.srtp = None;
            transport.data = Some(DataTransport::new(is_client));
        }
        transport.remote = Some(remote);
        self.mark_control(index, now);
        self.open_channels(index, now);
    }

    fn open_channels(&mut self, index: usize, now: Instant) {
        let transport = &mut self.transports[index];
        if transport.wants_channels
            && let Some(data) = &mut transport.data
        {
            data.open_channels(now);
            self.mark_control(index, now);
        }
    }

    fn handle_stun(&mut self, path: Path, datagram: &[u8], now: Instant) {
        let Some(request) = BindingRequest::parse(datagram) else {
            self.counters.dropped += 1;
            return;
        };
        let Some(&index) = self.by_ufrag.get(request.local_ufrag()) else {
            self.counters.dropped += 1;
            return;
        };
        let mut answer = Vec::new();
        let transport = &mut self.transports[index];
        let outcome = transport.ice.handle_check(&request, path, now, &mut answer);
        match outcome {
            CheckOutcome::Refused => {
                self.counters.dropped += 1;
                return;
            }
            CheckOutcome::Answered => {}
            CheckOutcome::PathChanged(_) => self.mark_control(index, now),
        }
        self.answers.push((path, answer));
        // Packets may come over any address that passed a check, nominated or not.
        if self.by_path.insert(path, index).is_none() {
            self.bound_paths(index, path);
        }
    }

    fn handle_dtls(&mut self, path: Path, datagram: &[u8], now: Instant) {
        let Some(&index) = self.by_path.get(&path) else {
            self.counters.dropped += 1;
            return;
        };
        if let Some(dtls) = &mut self.transports[index].dtls {
            dtls.handle_datagram(datagram, now);
            self.poll_dtls(index, now);
        }
    }

    /// Takes what the DTLS session of a transport has to say.
    fn poll_dtls(&mut self, index: usize, now: Instant) {
        loop {
            let transport = &mut self.transports[index];
            let Some(event) = transport.dtls.as_mut().and_then(|dtls| dtls.poll_event()) else {
                break;
            };
            match event {
                DtlsEvent::Connected { profile, keying_material } => {
                    let is_client =
                        transport.remote.as_ref().is_some_and(|r| r.role == DtlsRole::Client);
                    transport.srtp =
                        srtp::from_keying_material(profile, &keying_material, is_client);
                    if is_client && let Some(data) = &mut transport.data {
                        data.associate(now);
                    }
                    let (room, transport) = (transport.room, transport.id);
                    let state = TransportState::Connected;
                    self.emit(room, MediaEvent::Transport { transport, state });
                }
                DtlsEvent::Data(packet) => {
                    if let Some(data) = &mut transport.data {
                        data.handle(packet, now);
                        self.poll_data(index);
                    }
                }
                DtlsEvent::Closed => return self.fail(index),
            }
        }
        self.mark_control(index, now);
    }

    fn poll_data(&mut self, index: usize) {
        let transport = &mut self.transports[index];
        let (room, id) = (transport.room, transport.id);
        let Some(data) = &mut transport.data else { return };
        while let Some(event) = data.poll_event() {
            let event = match event {
                DataEvent::Open(channel) => MediaEvent::DataChannelOpen { transport: id, channel },
                DataEvent::Message(channel, payload) => {
                    MediaEvent::Data { transport: id, channel, payload }
                }
            };
            self.events.push_back((room, event));
        }
    }

    /// Closes a transport and tells its room.
    fn fail(&mut self, index: usize) {
        let Transport { room, id, .. } = self.transports[index];
        self.close(index);
        let state = TransportState::Failed;
        self.emit(room, MediaEvent::Transport { transport: id, state });
    }

    /// A first sequence number below 2¹⁵, so that SRTP receivers see the first wrap.
    fn first_sequence(&mut self) -> u64 {
        self.rng.random_range(1..1 << 15)
    }
}

#[cfg(test)]
mod tests;
