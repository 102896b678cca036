//! A room: who is in it, what they publish and subscribe to, as a state machine without I/O.
//!
//! Signal messages and media events go in; [`Room::poll_output`] gives what is to be done:
//! messages to clients and [`MediaCommand`]s. What the media engine shall do is derived from
//! the room's state after every input (`forwarding`), never said piece by piece.

mod administration;
mod backup;
mod codecs;
mod configuration;
mod data;
mod data_tracks;
mod dispatches;
mod dynacast;
mod events;
mod forwarding;
mod forwards;
mod joining;
mod leaving;
mod negotiation;
mod output;
mod participant;
mod presence;
mod publishing;
mod quality;
mod requests;
mod revocations;
mod rpc;
mod sections;
mod simulate;
mod speakers;
mod state;
mod subscribing;
mod timers;
mod track_info;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::ids::{Identity, NodeId, ParticipantSid, RoomName, RoomSid};
use contract::sfu_config::RoomConfig;
use livekit_protocol::{self as proto, ParticipantInfo, SignalResponse, signal_response};
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::media::engine::WorkerIndex;
use crate::media::{
    Fingerprint, LocalCandidate, MediaCommand, MediaEvent, TrackKey, TransportId, TransportState,
};
use crate::time::Now;
pub use administration::{AdministrationError, ParticipantUpdate};
pub use codecs::is_known_codec;
pub use configuration::{UnknownPreset, configuration};
pub use data::{MAX_DATA_BYTES, ServerData};
pub use dispatches::TooManyDispatches;
pub use forwards::{
    ForwardEnd, ForwardError, ForwardId, ForwardNews, ForwardedParticipant, ForwardedTrack,
};
pub use output::RoomOutput;
pub use revocations::{NoTimestamp, cutoff};
pub use rpc::{RpcCall, RpcId};
pub use state::RoomState;

use data::Replay;
use dispatches::Dispatches;
use dynacast::Demands;
use forwards::Forwards;
use participant::{Participant, ParticipantKey, TransportRole};
use presence::PendingUpdates;
use publishing::LiveTrack;
use revocations::Revocations;
use rpc::Rpcs;
use simulate::Preferences;

/// Length of the bytes that mark frames which a server made (LiveKit's figure).
const SIF_TRAILER_BYTES: usize = 50;

/// A signal connection: one WebSocket. A participant that resumes gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// Gives clients the STUN and TURN servers that they may use.
pub trait IceServers: std::fmt::Debug + Send + Sync {
    /// The servers for a participant, with credentials that are good from `unix_s` on, in seconds
    /// since 1970.
    fn servers_for(&self, participant: &ParticipantSid, unix_s: u64) -> Vec<proto::IceServer>;
}

/// What a room is made with.
#[derive(Debug, Clone)]
pub struct RoomOptions {
    /// Its name.
    pub name: RoomName,
    /// Its id.
    pub sid: RoomSid,
    /// Timeouts and limits.
    pub config: RoomConfig,
    /// Metadata at the beginning.
    pub metadata: String,
    /// Where each worker's engine receives, by the number of the worker.
    pub candidates: Vec<Vec<LocalCandidate>>,
    /// Certificate of the engine.
    pub fingerprint: Fingerprint,
    /// This node.
    pub node_id: NodeId,
    /// Readable name of this node, for `ServerInfo.debug_info`.
    pub node_name: String,
    /// STUN and TURN servers for clients.
    pub ice_servers: Arc<dyn IceServers>,
    /// Clients reach the candidates by TURN only.
    pub relay_only: bool,
}

impl RoomOptions {
    /// Where a transport on this worker is reached.
    fn candidates_of(&self, worker: WorkerIndex) -> &[LocalCandidate] {
        self.candidates.get(worker).map_or(&[], Vec::as_slice)
    }
}

/// Why a room is closed from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomCloseReason {
    /// By the API: participants stay out.
    Deleted,
    /// The node goes away: participants come back on another.
    Drain,
}

/// Numbers of a room, for metrics and listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoomCounts {
    /// Participants, hidden ones too.
    pub participants: u32,
    /// Participants that receive at least one track.
    pub subscribers: u32,
    /// Tracks that go to somebody, counted a subscriber.
    pub subscriptions: u32,
    /// Tracks that are published.
    pub tracks: u32,
}

/// Changes to a room from the API; `None` leaves a value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoomUpdate {
    /// Shown to all participants.
    pub metadata: Option<String>,
    /// Seconds a room stays when nobody joined.
    pub empty_timeout: Option<u32>,
    /// Seconds a room stays after the last participant left.
    pub departure_timeout: Option<u32>,
    /// Most participants; 0 is no limit.
    pub max_participants: Option<u32>,
    /// Milliseconds that clients hold pictures back at least.
    pub min_playout_delay: Option<u32>,
    /// Milliseconds that clients hold pictures back at most.
    pub max_playout_delay: Option<u32>,
    /// Camera and microphone of who publishes from now on are one stream.
    pub sync_streams: Option<bool>,
}

/// A room without I/O.
#[derive(Debug)]
pub struct Room {
    options: RoomOptions,
    /// Where the next participant's transports are opened.
    worker: WorkerIndex,
    rng: StdRng,
    created_ms: u64,
    participants: BTreeMap<ParticipantKey, Participant>,
    identities: HashMap<Identity, ParticipantKey>,
    sessions: HashMap<SessionId, ParticipantKey>,
    transports: HashMap<TransportId, (ParticipantKey, TransportRole)>,
    /// Tracks that have a receiver in the engine.
    tracks: BTreeMap<TrackKey, LiveTrack>,
    track_sids: HashMap<String, TrackKey>,
    /// Copies of tracks in another codec, with the track.
    backups: BTreeMap<TrackKey, TrackKey>,
    /// Tracks that began, ended or came under other rules since the last settling.
    changed_tracks: BTreeSet<TrackKey>,
    demands: Demands,
    /// Senders may name tracks that are no longer there.
    tracks_ended: bool,
    /// Participants whose part of the media may have to change.
    dirty: BTreeSet<ParticipantKey>,
    /// Who left lately: a client that resumes may have missed it.
    departed: VecDeque<(Instant, ParticipantInfo)>,
    replay: Replay,
    rpcs: Rpcs,
    dispatches: Dispatches,
    forwards: Forwards,
    revocations: Revocations,
    preferences: Preferences,
    pending_updates: PendingUpdates,
    /// When changed connection qualities are told.
    quality_due: Option<Instant>,
    /// Marks frames that are not encrypted although the track is.
    sif_trailer: Vec<u8>,
    simulated_speaker: Option<(ParticipantKey, Instant)>,
    /// Active tracks with their level; each worker tells of its own.
    loudness: BTreeMap<TrackKey, f32>,
    /// Active speakers with their level.
    speakers: BTreeMap<ParticipantKey, f32>,
    output: VecDeque<RoomOutput>,
    next_id: u64,
    /// Somebody was in the room.
    visited: bool,
    /// When an empty room ends.
    ends_at: Option<Instant>,
    /// When the number of participants is told to all.
    update_at: Option<Instant>,
    ended: bool,
    state_version: u64,
}

impl Room {
    /// Makes an empty room.
    pub fn new(options: RoomOptions, rng: StdRng, now: Now) -> Self {
        let mut room = Self::empty(options, rng, now);
        room.emit("room_started", None, None);
        room
    }

    fn empty(options: RoomOptions, mut rng: StdRng, now: Now) -> Self {
        let empty_timeout = Duration::from_secs(options.config.empty_timeout.into());
        let sif_trailer = sif_trailer(&mut rng);
        Self {
            options,
            worker: 0,
            rng,
            created_ms: now.unix_ms,
            participants: BTreeMap::new(),
            identities: HashMap::new(),
            sessions: HashMap::new(),
            transports: HashMap::new(),
            tracks: BTreeMap::new(),
            track_sids: HashMap::new(),
            backups: BTreeMap::new(),
            changed_tracks: BTreeSet::new(),
            demands: Demands::default(),
            tracks_ended: false,
            dirty: BTreeSet::new(),
            departed: VecDeque::new(),
            replay: Replay::default(),
            rpcs: Rpcs::default(),
            dispatches: Dispatches::default(),
            forwards: Forwards::default(),
            revocations: Revocations::default(),
            preferences: Preferences::default(),
            pending_updates: PendingUpdates::default(),
            quality_due: None,
            sif_trailer,
            simulated_speaker: None,
            loudness: BTreeMap::new(),
            speakers: BTreeMap::new(),
            output: VecDeque::new(),
            next_id: 0,
            visited: false,
            ends_at: Some(now.instant + empty_timeout),
            update_at: None,
            ended: false,
            state_version: 0,
        }
    }

    /// Opens the transports of participants who join from now on on this worker.
    pub fn set_worker(&mut self, worker: WorkerIndex) {
        self.worker = worker;
    }

    /// Takes what the media engine reports.
    pub fn handle_media(&mut self, event: MediaEvent, now: Now) {
        match event {
            MediaEvent::Transport { transport, state } => match state {
                TransportState::Connected => self.transport_connected(transport, now),
                TransportState::Failed => self.transport_failed(transport, now),
            },
            MediaEvent::Data { transport, channel, payload } => {
                self.handle_data(transport, channel, &payload, now);
            }
            MediaEvent::LayerActive { track, layer: _, ssrc: _, codec } => {
                self.published_codec(track, codec, now);
            }
            MediaEvent::ForwardingStarted { transport: _, track } => self.track_subscribed(track),
            MediaEvent::AudioLevels(levels) => self.update_speakers(&levels),
            MediaEvent::StreamState { transport, track, is_paused } => {
                self.tell_stream_state(transport, track, is_paused);
            }
            MediaEvent::Statistics(statistics) => self.measure_quality(&statistics, now),
            MediaEvent::DataChannelOpen { transport: _, channel: _ } => {}
        }
        self.settle(now);
    }

    /// The next thing to do; ask until there is none, after every input.
    pub fn poll_output(&mut self) -> Option<RoomOutput> {
        self.output.pop_front()
    }

    /// The room as the API shows it.
    pub fn info(&self) -> proto::Room {
        let visible = || self.participants.values().filter(|p| !p.permission.hidden);
        proto::Room {
            sid: self.options.sid.to_string(),
            name: self.options.name.to_string(),
            empty_timeout: self.options.config.empty_timeout,
            departure_timeout: self.options.config.departure_timeout,
            max_participants: self.options.config.max_participants,
            creation_time: i64::try_from(self.created_ms / 1000).unwrap_or(i64::MAX),
            creation_time_ms: i64::try_from(self.created_ms).unwrap_or(i64::MAX),
            turn_password: String::new(),
            enabled_codecs: self.enabled_codecs(),
            metadata: self.options.metadata.clone(),
            num_participants: u32::try_from(visible().count()).unwrap_or(u32::MAX),
            num_publishers: u32::try_from(visible().filter(|p| p.is_publisher()).count())
                .unwrap_or(u32::MAX),
            active_recording: self.is_recorded(),
            version: None,
        }
    }

    /// All participants as the API shows them, hidden ones too.
    pub fn participants(&self) -> Vec<ParticipantInfo> {
        self.participants.values().map(Participant::info).collect()
    }

    /// One participant.
    pub fn participant(&self, identity: &Identity) -> Option<ParticipantInfo> {
        Some(self.participants.get(self.identities.get(identity)?)?.info())
    }

    /// Changes the room by the API.
    pub fn update(&mut self, update: RoomUpdate, now: Now) {
        let RoomUpdate {
            metadata,
            empty_timeout,
            departure_timeout,
            max_participants,
            min_playout_delay,
            max_playout_delay,
            sync_streams,
        } = update;
        let config = &mut self.options.config;
        config.empty_timeout = empty_timeout.unwrap_or(config.empty_timeout);
        config.departure_timeout = departure_timeout.unwrap_or(config.departure_timeout);
        config.max_participants = max_participants.unwrap_or(config.max_participants);
        config.min_playout_delay = min_playout_delay.unwrap_or(config.min_playout_delay);
        config.max_playout_delay = max_playout_delay.unwrap_or(config.max_playout_delay);
        config.sync_streams = sync_streams.unwrap_or(config.sync_streams);
        if min_playout_delay.is_some() || max_playout_delay.is_some() {
            self.dirty.extend(self.participants.keys());
        }
        self.state_changed();
        if self.participants.is_empty() && !self.visited && empty_timeout.is_some() {
            let seconds = self.options.config.empty_timeout.into();
            self.ends_at = Some(now.instant + Duration::from_secs(seconds));
        }
        if let Some(metadata) = metadata
            && metadata != self.options.metadata
        {
            self.options.metadata = metadata;
            self.broadcast_room_update();
        }
        self.settle(now);
    }

    /// Numbers of the room.
    pub fn counts(&self) -> RoomCounts {
        let senders = |p: &Participant| p.transports().map(|t| t.senders.len()).sum::<usize>();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        RoomCounts {
            participants: number(self.participants.len()),
            subscribers: number(self.participants.values().filter(|p| senders(p) > 0).count()),
            subscriptions: number(self.participants.values().map(senders).sum()),
            tracks: number(self.tracks.len()),
        }
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn send(&mut self, key: ParticipantKey, message: signal_response::Message) {
        if let Some(session) = self.participants.get(&key).and_then(|p| p.session) {
            self.send_to(session, message);
        }
    }

    fn send_to(&mut self, session: SessionId, message: signal_response::Message) {
        let response = Arc::new(SignalResponse { message: Some(message) });
        self.output.push_back(RoomOutput::Signal { session, response });
    }

    /// Sends everybody the same message, which is held once: it may be long, and they many.
    fn send_to_all(&mut self, message: &signal_response::Message, except: Option<ParticipantKey>) {
        let response = Arc::new(SignalResponse { message: Some(message.clone()) });
        let others = self.participants.iter().filter(|(key, _)| Some(**key) != except);
        self.output.extend(others.filter_map(|(_, participant)| {
            let (session, response) = (participant.session?, Arc::clone(&response));
            Some(RoomOutput::Signal { session, response })
        }));
    }

    fn media(&mut self, command: MediaCommand) {
        self.output.push_back(RoomOutput::Media(command));
    }

    fn broadcast_room_update(&mut self) {
        self.update_at = None;
        let update = proto::RoomUpdate { room: Some(self.info()) };
        self.send_to_all(&signal_response::Message::RoomUpdate(update), None);
    }

    /// Tells a subscriber that a track rests for want of bandwidth, or goes on.
    fn tell_stream_state(&mut self, transport: TransportId, track: TrackKey, is_paused: bool) {
        let Some((key, _)) = self.transports.get(&transport).copied() else { return };
        let Some(live) = self.tracks.get(&self.primary_of(track)) else { return };
        let state = if is_paused { proto::StreamState::Paused } else { proto::StreamState::Active };
        let info = proto::StreamStateInfo {
            participant_sid: live.publisher_sid.clone(),
            track_sid: live.sid.clone(),
            state: state.into(),
        };
        let update = proto::StreamStateUpdate { stream_states: vec![info] };
        self.send(key, signal_response::Message::StreamStateUpdate(update));
    }
}

/// Random printable bytes: no encoder ends a frame like that by chance.
fn sif_trailer(rng: &mut StdRng) -> Vec<u8> {
    (0..SIF_TRAILER_BYTES).map(|_| rng.random_range(b'!'..=b'~')).collect()
}
