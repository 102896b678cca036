//! A participant: identity, rights, transports, tracks, subscriptions.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use contract::access_token::{Claims, MoreClaims, MoreGrants};
use contract::ids::{Identity, ParticipantSid, generate_id};
use livekit_protocol::participant_info::{Kind, KindDetail, State};
use livekit_protocol::{
    ClientInfo, DataTrackInfo, DisconnectReason, ParticipantInfo, ParticipantPermission,
    SubscriptionPermission, TrackSource,
};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::SessionId;
use super::data_tracks::DataSubscriptions;
use super::forwards::Origin;
use super::negotiation::{Inbound, Negotiation};
use super::publishing::Track;
use super::quality::Quality;
use super::sections::{SendSection, WantedTracks};
use super::simulate::ResumeFault;
use super::subscribing::Subscription;
use crate::media::engine::WorkerIndex;
use crate::media::{
    IceCredentials, MediaKind, Receiver, RemoteTransport, Sender, TrackKey, TransportId,
    VideoQuality,
};
use crate::signal::join::{JoinParams, PeerConnectionMode};

/// A participant within its room; rises with every join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ParticipantKey(pub(super) u64);

/// Which of a participant's transports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum TransportRole {
    /// The client offers; the only one of a single peer connection.
    Publisher,
    /// We offer.
    Subscriber,
}

/// One peer connection of a participant.
#[derive(Debug)]
pub(super) struct PeerTransport {
    pub(super) id: TransportId,
    /// The worker that it is on.
    pub(super) worker: WorkerIndex,
    pub(super) local: IceCredentials,
    pub(super) remote: Option<RemoteTransport>,
    pub(super) connected: bool,
    /// Session id and version of our descriptions.
    pub(super) sdp_id: u64,
    pub(super) sdp_version: u64,
    /// What the engine was told last.
    pub(super) receivers: Vec<Receiver>,
    /// What the engine was told last.
    pub(super) senders: Vec<Sender>,
}

impl PeerTransport {
    pub(super) fn new(worker: WorkerIndex, rng: &mut StdRng) -> Self {
        Self {
            id: TransportId(rng.random()),
            worker,
            local: credentials(rng),
            remote: None,
            connected: false,
            sdp_id: rng.random(),
            sdp_version: 0,
            receivers: Vec::new(),
            senders: Vec::new(),
        }
    }
}

/// New credentials: 69 bits of name, 138 of password.
pub(super) fn credentials(rng: &mut StdRng) -> IceCredentials {
    IceCredentials {
        ufrag: generate_id("", rng),
        pwd: format!("{}{}", generate_id("", rng), generate_id("", rng)),
    }
}

/// When something is due.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// Not active until then: removed.
    pub(super) join: Option<Instant>,
    /// The media connection was lost and did not come back until then: removed.
    pub(super) media: Option<Instant>,
    /// The signal connection was lost without media until then: removed.
    pub(super) signal: Option<Instant>,
    /// The next token.
    pub(super) refresh: Option<Instant>,
}

/// A participant of a room.
#[derive(Debug)]
pub(super) struct Participant {
    pub(super) key: ParticipantKey,
    pub(super) sid: ParticipantSid,
    pub(super) identity: Identity,
    pub(super) name: String,
    pub(super) metadata: String,
    pub(super) attributes: HashMap<String, String>,
    pub(super) kind: Kind,
    pub(super) kind_details: Vec<i32>,
    /// Of a participant that is another room's.
    pub(super) origin: Option<Origin>,
    pub(super) claims: Claims,
    pub(super) more_claims: MoreClaims,
    pub(super) permission: ParticipantPermission,
    pub(super) client: ClientInfo,
    pub(super) mode: PeerConnectionMode,
    pub(super) auto_subscribe: bool,
    pub(super) auto_subscribe_data_track: bool,
    /// The client will say what it shows.
    pub(super) adaptive_stream: bool,
    /// The client takes it that tracks rest for want of bandwidth.
    pub(super) allow_pause: bool,
    pub(super) state: State,
    pub(super) version: u32,
    pub(super) joined_at_ms: u64,
    pub(super) session: Option<SessionId>,
    pub(super) publisher: PeerTransport,
    pub(super) subscriber: Option<PeerTransport>,
    /// Announced and published tracks.
    pub(super) tracks: Vec<Track>,
    /// Client ids of tracks that ended last: a section of theirs carries no other track.
    pub(super) retired_cids: VecDeque<String>,
    /// Sections of the client's last offer on which it sends.
    pub(super) inbound: Vec<Inbound>,
    /// Sections on which we may send.
    pub(super) outbound: Vec<SendSection>,
    pub(super) negotiation: Negotiation,
    pub(super) subscriptions: BTreeMap<TrackKey, Subscription>,
    /// Subscriptions that were ever made.
    pub(super) subscription_count: u64,
    /// Copies in another codec that this participant needs.
    pub(super) needed_backups: BTreeMap<TrackKey, VideoQuality>,
    /// What follows from the subscriptions, rights and rules.
    pub(super) wanted: WantedTracks,
    /// Who may subscribe to this participant's tracks; everybody when `None`.
    pub(super) subscribers: Option<SubscriptionPermission>,
    /// Highest sequence of a reliable packet that came.
    pub(super) last_sequence: u32,
    pub(super) data_tracks: Vec<DataTrackInfo>,
    pub(super) data_subscriptions: DataSubscriptions,
    pub(super) quality: Quality,
    pub(super) resume_fault: ResumeFault,
    pub(super) deadlines: Deadlines,
}

impl Participant {
    pub(super) fn new(
        key: ParticipantKey,
        params: JoinParams,
        worker: WorkerIndex,
        joined_at_ms: u64,
        rng: &mut StdRng,
    ) -> Self {
        let permission = permission(&params.claims, &params.more_claims);
        let dual = params.mode == PeerConnectionMode::Dual && permission.can_subscribe;
        Self {
            key,
            sid: ParticipantSid::generate(rng),
            identity: params.identity,
            name: params.claims.name.clone(),
            metadata: params.metadata,
            attributes: params.attributes,
            kind: kind(&params.claims.kind),
            kind_details: kind_details(&params.more_claims),
            origin: None,
            claims: params.claims,
            more_claims: params.more_claims,
            permission,
            client: params.client,
            mode: params.mode,
            auto_subscribe: params.auto_subscribe,
            auto_subscribe_data_track: params.auto_subscribe_data_track,
            adaptive_stream: params.adaptive_stream,
            allow_pause: params.allow_pause,
            state: State::Joining,
            version: 0,
            joined_at_ms,
            session: None,
            publisher: PeerTransport::new(worker, rng),
            subscriber: dual.then(|| PeerTransport::new(worker, rng)),
            tracks: Vec::new(),
            retired_cids: VecDeque::new(),
            inbound: Vec::new(),
            outbound: Vec::new(),
            negotiation: Negotiation::default(),
            subscriptions: BTreeMap::new(),
            subscription_count: 0,
            needed_backups: BTreeMap::new(),
            wanted: WantedTracks::new(),
            subscribers: None,
            last_sequence: 0,
            data_tracks: Vec::new(),
            data_subscriptions: DataSubscriptions::default(),
            quality: Quality::default(),
            resume_fault: ResumeFault::default(),
            deadlines: Deadlines::default(),
        }
    }

    pub(super) fn transports(&self) -> impl Iterator<Item = &PeerTransport> {
        std::iter::once(&self.publisher).chain(&self.subscriber)
    }

    pub(super) fn transport_mut(&mut self, role: TransportRole) -> Option<&mut PeerTransport> {
        match role {
            TransportRole::Publisher => Some(&mut self.publisher),
            TransportRole::Subscriber => self.subscriber.as_mut(),
        }
    }

    /// The transport on which we send media and data.
    pub(super) fn sending_transport(&self) -> &PeerTransport {
        self.subscriber.as_ref().unwrap_or(&self.publisher)
    }

    /// The transport whose connection makes the participant active.
    pub(super) fn primary(&self) -> TransportRole {
        if self.subscriber.is_some() { TransportRole::Subscriber } else { TransportRole::Publisher }
    }

    pub(super) fn is_publisher(&self) -> bool {
        self.tracks.iter().any(|track| track.mid.is_some())
    }

    /// Whether others wait for something of this participant.
    pub(super) fn publishes(&self) -> bool {
        self.is_publisher() || !self.data_tracks.is_empty()
    }

    pub(super) fn is_dependent(&self) -> bool {
        is_dependent(self.kind)
    }

    pub(super) fn may_publish(&self, source: TrackSource) -> bool {
        let sources = &self.permission.can_publish_sources;
        self.permission.can_publish && (sources.is_empty() || sources.contains(&source.into()))
    }

    pub(super) fn info(&self) -> ParticipantInfo {
        ParticipantInfo {
            sid: self.sid.to_string(),
            identity: self.identity.to_string(),
            state: self.state.into(),
            tracks: self
                .tracks
                .iter()
                .filter(|track| track.mid.is_some() && track.backup_of.is_none())
                .map(|track| track.info.clone())
                .collect(),
            metadata: self.metadata.clone(),
            joined_at: i64::try_from(self.joined_at_ms / 1000).unwrap_or(i64::MAX),
            joined_at_ms: i64::try_from(self.joined_at_ms).unwrap_or(i64::MAX),
            name: self.name.clone(),
            version: self.version,
            permission: Some(self.permission.clone()),
            is_publisher: self.publishes(),
            data_tracks: self.data_tracks.clone(),
            kind: self.kind.into(),
            kind_details: self.kind_details.clone(),
            attributes: self.attributes.clone(),
            client_protocol: self.client.client_protocol,
            capabilities: self.client.capabilities.clone(),
            ..ParticipantInfo::default()
        }
    }

    /// How the others see that this participant left.
    pub(super) fn departed_info(&self, reason: DisconnectReason) -> ParticipantInfo {
        ParticipantInfo {
            state: State::Disconnected.into(),
            version: self.version + 1,
            tracks: Vec::new(),
            data_tracks: Vec::new(),
            disconnect_reason: reason.into(),
            ..self.info()
        }
    }

    /// Keeps the claims of new tokens in line with rights that the server API changed.
    #[expect(deprecated, reason = "tokens say these, too")]
    pub(super) fn permission_to_claims(&mut self) {
        let permission = &self.permission;
        self.more_claims.video = MoreGrants {
            can_subscribe_metrics: permission.can_subscribe_metrics,
            can_manage_agent_session: permission.can_manage_agent_session,
        };
        let video = &mut self.claims.video;
        video.hidden = permission.hidden;
        video.recorder = permission.recorder;
        video.agent = permission.agent;
        video.can_subscribe = Some(permission.can_subscribe);
        video.can_publish = Some(permission.can_publish);
        video.can_publish_data = Some(permission.can_publish_data);
        video.can_update_own_metadata = Some(permission.can_update_metadata);
        video.can_publish_sources = permission
            .can_publish_sources
            .iter()
            .filter_map(|source| TrackSource::try_from(*source).ok())
            .map(|source| source.as_str_name().to_ascii_lowercase())
            .collect();
    }

    /// Claims of a new token: as now, valid for at least ten minutes more.
    pub(super) fn refreshed_claims(&self, unix_seconds: u64) -> Claims {
        const LEAST_SECONDS: u64 = 600;
        let least = usize::try_from(unix_seconds + LEAST_SECONDS).unwrap_or(usize::MAX);
        Claims {
            exp: self.claims.exp.max(least),
            nbf: usize::try_from(unix_seconds).unwrap_or_default(),
            name: self.name.clone(),
            metadata: self.metadata.clone(),
            attributes: self.attributes.clone(),
            ..self.claims.clone()
        }
    }
}

fn permission(claims: &Claims, more: &MoreClaims) -> ParticipantPermission {
    let video = &claims.video;
    #[expect(deprecated, reason = "older clients read these flags")]
    ParticipantPermission {
        can_subscribe: video.can_subscribe(),
        can_publish: video.can_publish(),
        can_publish_data: video.can_publish_data(),
        can_publish_sources: video
            .can_publish_sources
            .iter()
            .filter_map(|name| TrackSource::from_str_name(&name.to_ascii_uppercase()))
            .map(i32::from)
            .collect(),
        hidden: video.hidden,
        recorder: video.recorder,
        can_update_metadata: video.can_update_own_metadata(),
        agent: video.agent,
        can_subscribe_metrics: more.video.can_subscribe_metrics,
        can_manage_agent_session: more.video.can_manage_agent_session,
    }
}

fn kind_details(more: &MoreClaims) -> Vec<i32> {
    let known = more.kind_details.iter();
    let known = known.filter_map(|name| KindDetail::from_str_name(&name.to_ascii_uppercase()));
    // Only a server forwards.
    known.filter(|detail| *detail != KindDetail::Forwarded).map(i32::from).collect()
}

/// Egress and agents are not counted against a room's limit.
pub(super) fn is_dependent(kind: Kind) -> bool {
    matches!(kind, Kind::Egress | Kind::Agent)
}

pub(super) fn kind(name: &str) -> Kind {
    Kind::from_str_name(&name.to_ascii_uppercase()).unwrap_or(Kind::Standard)
}

/// LiveKit's track type as a media kind; data has none.
pub(super) fn media_kind(track_type: livekit_protocol::TrackType) -> Option<MediaKind> {
    match track_type {
        livekit_protocol::TrackType::Audio => Some(MediaKind::Audio),
        livekit_protocol::TrackType::Video => Some(MediaKind::Video),
        livekit_protocol::TrackType::Data => None,
    }
}
