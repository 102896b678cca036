//! The world around a room: connections of clients and a model of the media engine that
//! checks every command.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::access_token::{Claims, claims};
use contract::ids::{NodeId, ParticipantSid, RoomName, RoomSid};
use contract::sfu_config::RoomConfig;
use livekit_protocol::signal_response::Message;
use livekit_protocol::{
    AddTrackRequest, IceServer, Job, ParticipantInfo, SessionDescription, SignalRequest,
    TrackSource, TrackType, signal_request,
};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sfu_core::media::{
    CandidateProtocol, DataChannelKind, Fingerprint, LocalCandidate, MediaCommand, MediaEvent,
    Mirror, Receiver, Sender, TransportId, TransportState,
};
use sfu_core::room::{
    ForwardEnd, ForwardId, ForwardNews, IceServers, Room, RoomCounts, RoomOptions, RoomOutput,
    RoomState, RpcId, SessionId,
};
use sfu_core::signal::is_ping;
use sfu_core::signal::join::{JoinError, JoinParams, PeerConnectionMode, Reconnect};
use sfu_core::time::Now;

pub(crate) const SINGLE_START: &str = include_str!("offers/single_start.sdp");
pub(crate) const SINGLE_SIMULCAST: &str = include_str!("offers/single_simulcast.sdp");
pub(crate) const DUAL_SIMULCAST: &str = include_str!("offers/dual_simulcast.sdp");
pub(crate) const DUAL_H264: &str = include_str!("offers/dual_h264.sdp");

/// What the engine was told of a transport.
#[derive(Debug, Default)]
pub(crate) struct EngineTransport {
    pub(crate) receivers: Vec<Receiver>,
    pub(crate) senders: Vec<Sender>,
    pub(crate) connected_to: Option<String>,
    pub(crate) data_channels: bool,
    pub(crate) bandwidth_limit: Option<u64>,
}

pub(crate) struct World {
    pub(crate) room: Room,
    pub(crate) now: Now,
    pub(crate) engine: BTreeMap<TransportId, EngineTransport>,
    /// In the order in which they were opened.
    pub(crate) opened: Vec<TransportId>,
    pub(crate) data: Vec<(TransportId, DataChannelKind, Vec<u8>)>,
    pub(crate) inbox: HashMap<SessionId, Vec<Message>>,
    pub(crate) closed: BTreeSet<SessionId>,
    pub(crate) tokens: Vec<Claims>,
    /// Names of the events for webhooks, with the participant's identity.
    pub(crate) events: Vec<(String, String)>,
    /// Jobs for which a worker is wanted.
    pub(crate) jobs: Vec<Job>,
    pub(crate) terminated: Vec<String>,
    pub(crate) rpc_answers: Vec<(RpcId, Result<String, u32>)>,
    /// What was said of participants that are forwarded.
    pub(crate) forwards: Vec<(ForwardId, ForwardNews)>,
    /// Participants of other rooms that went.
    pub(crate) forwarded_left: Vec<(ForwardId, ForwardEnd)>,
    /// Who is to be forwarded again, with the room that shows it.
    pub(crate) forward_again: Vec<(String, String)>,
    /// Tracks of other rooms, by whom they are shown for.
    pub(crate) mirrors: BTreeMap<TransportId, Vec<Mirror>>,
    pub(crate) ended: bool,
}

/// Names whom and when it was asked for, in place of credentials.
#[derive(Debug)]
struct Relay;

impl IceServers for Relay {
    fn servers_for(&self, participant: &ParticipantSid, unix_s: u64) -> Vec<IceServer> {
        let urls = vec!["turn:192.0.2.1:20002?transport=udp".to_owned()];
        let (username, credential) = (participant.to_string(), unix_s.to_string());
        vec![IceServer { urls, username, credential }]
    }
}

pub(crate) fn token(identity: &str) -> Claims {
    let mut claims =
        claims(identity, Duration::from_secs(1_800_000_000), Duration::from_secs(3600));
    claims.video.room_join = true;
    claims.video.room = "lobby".to_owned();
    claims
}

pub(crate) fn params(identity: &str, mode: PeerConnectionMode) -> JoinParams {
    let mut params = JoinParams::from_query(&[], token(identity)).unwrap();
    params.mode = mode;
    params.client.protocol = 17;
    params
}

fn options(config: RoomConfig, relay_only: bool, rng: &mut StdRng) -> RoomOptions {
    RoomOptions {
        name: RoomName::new("lobby").unwrap(),
        sid: RoomSid::generate(rng),
        config,
        metadata: String::new(),
        candidates: vec![vec![
            LocalCandidate {
                protocol: CandidateProtocol::Udp,
                address: "192.0.2.1:20001".parse().unwrap(),
            },
            LocalCandidate {
                protocol: CandidateProtocol::TcpPassive,
                address: "192.0.2.1:20000".parse().unwrap(),
            },
        ]],
        fingerprint: Fingerprint([7; 32]),
        node_id: NodeId::generate(rng),
        node_name: "pod-0".to_owned(),
        ice_servers: Arc::new(Relay),
        relay_only,
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_config(RoomConfig::default())
    }

    pub(crate) fn with_config(config: RoomConfig) -> Self {
        Self::with(config, false)
    }

    /// The next home of a room that ended elsewhere.
    pub(crate) fn restored(state: RoomState) -> Self {
        let mut world = Self::new();
        let mut rng = StdRng::seed_from_u64(2);
        let options = options(RoomConfig::default(), false, &mut rng);
        world.room = Room::restore(options, state, rng, world.now);
        world
    }

    /// Clients reach the node by TURN only.
    pub(crate) fn behind_relays() -> Self {
        Self::with(RoomConfig::default(), true)
    }

    #[expect(clippy::disallowed_methods, reason = "the beginning of virtual time")]
    fn with(config: RoomConfig, relay_only: bool) -> Self {
        let now = Now { instant: Instant::now(), unix_ms: 1_800_000_000_000 };
        let mut rng = StdRng::seed_from_u64(1);
        let options = options(config, relay_only, &mut rng);
        Self {
            room: Room::new(options, rng, now),
            now,
            engine: BTreeMap::new(),
            opened: Vec::new(),
            data: Vec::new(),
            inbox: HashMap::new(),
            closed: BTreeSet::new(),
            tokens: Vec::new(),
            events: Vec::new(),
            jobs: Vec::new(),
            terminated: Vec::new(),
            rpc_answers: Vec::new(),
            forwards: Vec::new(),
            forwarded_left: Vec::new(),
            forward_again: Vec::new(),
            mirrors: BTreeMap::new(),
            ended: false,
        }
    }

    pub(crate) fn join(&mut self, params: JoinParams) -> Result<SessionId, JoinError> {
        let session = self.room.join(params, self.now);
        self.drain();
        session
    }

    pub(crate) fn resume(
        &mut self,
        identity: &str,
        mode: PeerConnectionMode,
        sid: &str,
    ) -> Result<SessionId, JoinError> {
        let mut params = params(identity, mode);
        params.reconnect = Some(Reconnect {
            participant_sid: Some(sid.to_owned()),
            reason: livekit_protocol::ReconnectReason::RrSignalDisconnected,
            sync_state: None,
        });
        self.join(params)
    }

    pub(crate) fn signal(&mut self, session: SessionId, message: signal_request::Message) {
        let request = SignalRequest { message: Some(message) };
        let before = is_ping(&request).then(|| self.state());
        self.room.handle_signal(session, request, self.now);
        self.stayed(before);
        self.drain();
    }

    pub(crate) fn media(&mut self, event: MediaEvent) {
        let before = event.is_measurement().then(|| self.state());
        self.room.handle_media(event, self.now);
        self.stayed(before);
        self.drain();
    }

    fn state(&self) -> (RoomCounts, Option<Instant>) {
        (self.room.counts(), self.room.participants_due())
    }

    /// Whoever runs a room relies on it that measurements and pings leave it as it is.
    fn stayed(&self, before: Option<(RoomCounts, Option<Instant>)>) {
        assert!(before.is_none_or(|before| before == self.state()));
    }

    pub(crate) fn connect(&mut self, transport: TransportId) {
        self.media(MediaEvent::Transport { transport, state: TransportState::Connected });
    }

    /// Lets time pass, with all timeouts in between.
    pub(crate) fn pass(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        while let Some(at) = self.room.poll_timeout().filter(|at| *at <= end.instant) {
            self.now = self.now.after(at.saturating_duration_since(self.now.instant));
            self.room.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    pub(crate) fn settle(&mut self) {
        self.pass(Duration::from_millis(20));
    }

    pub(crate) fn take(&mut self, session: SessionId) -> Vec<Message> {
        self.inbox.remove(&session).unwrap_or_default()
    }

    pub(crate) fn find<T>(
        &mut self,
        session: SessionId,
        pick: impl Fn(&Message) -> Option<T>,
    ) -> Option<T> {
        self.inbox.get(&session)?.iter().rev().find_map(pick)
    }

    pub(crate) fn me(&self, identity: &str) -> ParticipantInfo {
        self.room.participants().into_iter().find(|p| p.identity == identity).unwrap()
    }

    /// All messages of a kind that came since the last call, of any kind.
    pub(crate) fn take_all<T>(
        &mut self,
        session: SessionId,
        pick: impl Fn(Message) -> Option<T>,
    ) -> Vec<T> {
        self.take(session).into_iter().filter_map(pick).collect()
    }

    /// Changes the room as the server API does.
    pub(crate) fn call<T>(&mut self, change: impl FnOnce(&mut Room, Now) -> T) -> T {
        let result = change(&mut self.room, self.now);
        self.drain();
        result
    }

    /// The sid of somebody's track of a kind.
    pub(crate) fn track(&self, identity: &str, kind: TrackType) -> String {
        let tracks = self.me(identity).tracks;
        tracks.into_iter().find(|track| track.r#type() == kind).unwrap().sid
    }

    fn drain(&mut self) {
        while let Some(output) = self.room.poll_output() {
            match output {
                RoomOutput::Signal { session, response } => {
                    assert!(!self.closed.contains(&session), "message to a closed session");
                    let message = response.message.clone().unwrap();
                    self.inbox.entry(session).or_default().push(message);
                }
                RoomOutput::CloseSession { session } => {
                    assert!(self.closed.insert(session), "session closed twice");
                }
                RoomOutput::RefreshToken { session, claims, more_claims: _ } => {
                    self.tokens.push(*claims);
                    self.inbox
                        .entry(session)
                        .or_default()
                        .push(Message::RefreshToken(String::new()));
                }
                RoomOutput::MoveToken { session, claims, more_claims: _, moved } => {
                    self.tokens.push(*claims);
                    let message = match moved {
                        Some(moved) => Message::RoomMoved(*moved),
                        None => Message::RefreshToken(String::new()),
                    };
                    self.inbox.entry(session).or_default().push(message);
                }
                RoomOutput::RpcAnswer { id, answer } => {
                    self.rpc_answers.push((id, answer.map_err(|error| error.code)));
                }
                RoomOutput::Forwarded { id, news } => self.forwards.push((id, news)),
                RoomOutput::ForwardedLeft { id, end } => self.forwarded_left.push((id, end)),
                RoomOutput::ForwardAgain { identity, destination } => {
                    self.forward_again.push((identity.to_string(), destination.to_string()));
                }
                RoomOutput::RequestJob(job) => self.jobs.push(*job),
                RoomOutput::TerminateJob { job_id } => self.terminated.push(job_id),
                RoomOutput::Event(event) => {
                    let participant = event.participant.map(|p| p.identity).unwrap_or_default();
                    self.events.push((event.event, participant));
                }
                RoomOutput::Media(command) => self.command(command),
                RoomOutput::Ended => self.ended = true,
            }
        }
    }

    fn command(&mut self, command: MediaCommand) {
        match command {
            MediaCommand::OpenTransport { transport, worker: _, local: _ } => {
                if !self.engine.contains_key(&transport) {
                    self.opened.push(transport);
                }
                self.engine.entry(transport).or_default();
            }
            MediaCommand::ConnectTransport { transport, remote } => {
                self.transport(transport).connected_to = Some(remote.ice.ufrag);
            }
            MediaCommand::SetReceivers { transport, receivers } => {
                let known = self.transport(transport);
                assert_ne!(known.receivers, receivers, "nothing changed");
                known.receivers = receivers;
            }
            MediaCommand::SetSenders { transport, senders } => {
                let known = self.transport(transport);
                assert_ne!(known.senders, senders, "nothing changed");
                assert!(known.connected_to.is_some(), "sends to nobody");
                known.senders = senders;
            }
            MediaCommand::SetMirrors { transport, worker: _, mirrors } => {
                let known = self.mirrors.insert(transport, mirrors.clone());
                assert_ne!(known.unwrap_or_default(), mirrors, "nothing changed");
            }
            MediaCommand::LimitBandwidth { transport, limit } => {
                self.transport(transport).bandwidth_limit = limit;
            }
            MediaCommand::OpenDataChannels { transport } => {
                self.transport(transport).data_channels = true;
            }
            MediaCommand::SendData { transport, channel, payload } => {
                self.data.push((transport, channel, payload.to_vec()));
            }
            MediaCommand::CloseTransport { transport } => {
                assert!(self.engine.remove(&transport).is_some(), "closed what is not open");
            }
        }
        self.check();
    }

    fn transport(&mut self, transport: TransportId) -> &mut EngineTransport {
        self.engine.get_mut(&transport).expect("transports are opened first")
    }

    /// What holds after every single command.
    fn check(&self) {
        let mirrored = self.mirrors.values().flatten().map(|mirror| mirror.receiver.track);
        let published = self.engine.values().flat_map(|t| t.receivers.iter().map(|r| r.track));
        let received: BTreeSet<_> = published.chain(mirrored).collect();
        for transport in self.engine.values() {
            let mut mids = BTreeSet::new();
            for sender in &transport.senders {
                assert!(received.contains(&sender.track), "a sender without a receiver");
                assert!(mids.insert(&sender.mid), "two senders on a section");
                assert!(!sender.codecs.is_empty(), "a sender without codecs");
            }
        }
    }
}

pub(crate) fn offer(sdp: &str, id: u32) -> signal_request::Message {
    signal_request::Message::Offer(description("offer", sdp, id))
}

pub(crate) fn answer(sdp: &str, id: u32) -> signal_request::Message {
    signal_request::Message::Answer(description("answer", sdp, id))
}

fn description(kind: &str, sdp: &str, id: u32) -> SessionDescription {
    SessionDescription {
        r#type: kind.to_owned(),
        sdp: sdp.replace("\r\n", "\n").replace('\n', "\r\n"),
        id,
        ..SessionDescription::default()
    }
}

/// Track ids of the `a=msid` lines of an offer: video, then audio.
pub(crate) fn cids(sdp: &str) -> (String, String) {
    let mut ids = sdp
        .lines()
        .filter_map(|line| line.strip_prefix("a=msid:"))
        .map(|line| line.split(' ').nth(1).unwrap().to_owned());
    (ids.next().unwrap(), ids.next().unwrap())
}

pub(crate) fn add_track(cid: &str, kind: TrackType) -> signal_request::Message {
    let source = match kind {
        TrackType::Video => TrackSource::Camera,
        TrackType::Audio | TrackType::Data => TrackSource::Microphone,
    };
    signal_request::Message::AddTrack(AddTrackRequest {
        cid: cid.to_owned(),
        r#type: kind.into(),
        source: source.into(),
        ..AddTrackRequest::default()
    })
}

/// A browser's answer to our offer, which takes everything.
pub(crate) fn answer_to(offer: &str) -> String {
    let mut out = String::new();
    for line in offer.lines() {
        let ours = ["a=candidate", "a=end-of", "a=ice-lite", "a=msid:", "a=ssrc"];
        let line = match line {
            "a=sendonly" => "a=recvonly".to_owned(),
            "a=setup:actpass" => "a=setup:active".to_owned(),
            line if line.starts_with("a=ice-ufrag:") => "a=ice-ufrag:peer".to_owned(),
            line if line.starts_with("a=ice-pwd:") => format!("a=ice-pwd:{}", "p".repeat(24)),
            line if ours.iter().any(|prefix| line.starts_with(prefix)) => continue,
            line => line.to_owned(),
        };
        out.push_str(&line);
        out.push_str("\r\n");
    }
    out
}

/// A client of two connections that joined, offered `sdp` and answered; its publisher and
/// subscriber transports.
pub(crate) fn enter_dual(
    world: &mut World,
    name: &str,
    sdp: Option<&str>,
) -> (SessionId, TransportId, TransportId) {
    let session = world.join(params(name, PeerConnectionMode::Dual)).unwrap();
    let subscriber = *world.opened.last().unwrap();
    accept(world, session);
    world.connect(subscriber);
    let publisher = match sdp {
        Some(sdp) => {
            publish(world, session, sdp);
            *world.opened.last().unwrap()
        }
        None => subscriber,
    };
    (session, publisher, subscriber)
}

/// A client of one connection that joined and offered `sdp`.
pub(crate) fn enter_single(world: &mut World, name: &str, sdp: &str) -> (SessionId, TransportId) {
    let session = world.join(params(name, PeerConnectionMode::Single)).unwrap();
    if sdp == SINGLE_START {
        world.signal(session, offer(sdp, 1));
    } else {
        publish(world, session, sdp);
    }
    let transport = *world.opened.last().unwrap();
    world.connect(transport);
    (session, transport)
}

pub(crate) fn publish(world: &mut World, session: SessionId, sdp: &str) {
    let (video, audio) = cids(sdp);
    world.signal(session, add_track(&video, TrackType::Video));
    world.signal(session, add_track(&audio, TrackType::Audio));
    world.signal(session, offer(sdp, 1));
}

/// Answers our last offer; returns it.
pub(crate) fn accept(world: &mut World, session: SessionId) -> SessionDescription {
    let offer = world
        .find(session, |message| match message {
            Message::Offer(offer) => Some(offer.clone()),
            _ => None,
        })
        .expect("an offer was sent");
    world.signal(session, answer(&answer_to(&offer.sdp), offer.id));
    offer
}
