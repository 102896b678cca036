//! The border between rooms and the media engine.
//!
//! A room says what *shall be* with [`MediaCommand`]s: which transports exist, what each
//! receives and what each sends. Receivers and senders are always given whole, never as a
//! change: the engine compares with what is and does the difference, so a command may be
//! repeated at will. The engine reports what *happened* with [`MediaEvent`]s.

mod allocator;
mod bandwidth;
pub mod codec;
pub mod data;
pub mod dtls;
pub mod engine;
pub mod ice;
mod layer;
pub mod nack;
pub mod parameters;
pub mod ring;
pub mod rtcp;
pub mod rtp;
mod sender;
pub mod srtp;
pub mod stun;
mod track;
mod transport;
pub mod trunk;
pub mod twcc;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use parameters::{
    AudioLevel, Codec, CodecKind, ExtensionIds, MediaKind, Mid, PlayoutDelay, Rid, SsrcPair,
    VideoQuality,
};

/// A room as the engine knows it; unique on a node. Every command carries the key of its room,
/// every event too, and tracks are forwarded only within a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomKey(pub u64);

/// An address at which the engine of a room receives; goes into our descriptions as a host
/// candidate (RFC 8839).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LocalCandidate {
    /// Over what.
    pub protocol: CandidateProtocol,
    /// The advertised address.
    pub address: SocketAddr,
}

/// Transport protocol of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CandidateProtocol {
    /// Datagrams.
    Udp,
    /// A TCP connection that the peer opens (RFC 6544, `tcptype passive`).
    TcpPassive,
}

/// One ICE/DTLS transport (a peer connection, since everything is bundled); unique on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransportId(pub u64);

/// A published track as the engine knows it; unique on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TrackKey(pub u64);

/// Short-term credentials of one side of ICE (RFC 8445 section 5.3).
#[derive(Clone, PartialEq, Eq)]
pub struct IceCredentials {
    /// Username fragment, at least 4 characters. A local one is unique on the node.
    pub ufrag: String,
    /// Password, at least 22 characters.
    pub pwd: String,
}

impl std::fmt::Debug for IceCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IceCredentials").field("ufrag", &self.ufrag).finish_non_exhaustive()
    }
}

/// SHA-256 fingerprint of a DTLS certificate (RFC 8122).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

/// Who begins the DTLS handshake, seen from us (RFC 5763 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtlsRole {
    /// The peer begins (`a=setup:passive` from us).
    Server,
    /// We begin (`a=setup:active` from us).
    Client,
}

/// What a remote description says about the peer's side of a transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteTransport {
    /// The peer's credentials.
    pub ice: IceCredentials,
    /// The only certificate that the handshake accepts.
    pub fingerprint: Fingerprint,
    /// Our part in the handshake.
    pub role: DtlsRole,
}

/// LiveKit's data channels, which the engine tells apart by label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataChannelKind {
    /// `_reliable`: ordered, retransmitted.
    Reliable,
    /// `_lossy`: unordered, never retransmitted.
    Lossy,
    /// `_data_track`: unordered, never retransmitted.
    DataTrack,
}

impl DataChannelKind {
    /// The channel's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Reliable => "_reliable",
            Self::Lossy => "_lossy",
            Self::DataTrack => "_data_track",
        }
    }

    /// The kind with this label.
    pub fn from_label(label: &str) -> Option<Self> {
        [Self::Reliable, Self::Lossy, Self::DataTrack]
            .into_iter()
            .find(|kind| kind.label() == label)
    }
}

/// An RTP media section on which a transport's peer sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receiver {
    /// `a=mid` of the section.
    pub mid: Mid,
    /// The published track that its packets belong to.
    pub track: TrackKey,
    /// Audio or video.
    pub kind: MediaKind,
    /// Negotiated codecs with the payload types that the peer uses.
    pub codecs: Vec<Codec>,
    /// Negotiated header extensions.
    pub extensions: ExtensionIds,
    /// Simulcast layers in the order of rising quality; empty without simulcast.
    pub rids: Vec<Rid>,
    /// Synchronization sources that the description names; empty when it leaves them to `mid`
    /// and `rid` in the packets. With several and no `rids` (SIM group): rising quality.
    pub ssrcs: Vec<SsrcPair>,
}

/// An RTP media section on which we send one published track to a subscriber.
#[derive(Debug, Clone, PartialEq)]
pub struct Sender {
    /// `a=mid` of the section.
    pub mid: Mid,
    /// The published track that is forwarded; its receiver is on the same engine.
    pub track: TrackKey,
    /// Audio or video.
    pub kind: MediaKind,
    /// Our synchronization source, and that of retransmissions.
    pub ssrc: SsrcPair,
    /// Codecs that the subscriber takes, with its payload types. A packet goes out only in a
    /// codec that [`Codec::matches`] the published one; redundant audio also as Opus alone.
    pub codecs: Vec<Codec>,
    /// Negotiated header extensions.
    pub extensions: ExtensionIds,
    /// Best layer that the subscriber wants; `None` pauses the track.
    pub max_quality: Option<VideoQuality>,
    /// Highest frame rate that the subscriber wants, frames a second; `None` without a limit.
    pub max_frame_rate: Option<u32>,
    /// Order in which a subscriber's tracks get what bandwidth there is: 1 is served first. 0
    /// leaves it to the order of the sections.
    pub priority: u32,
    /// The track may rest where the bandwidth suffices for no layer.
    pub may_pause: bool,
    /// What the subscriber is told to hold back; `None` leaves it to the publisher.
    pub playout_delay: Option<PlayoutDelay>,
}

/// A track of another room on the same node that is shown in this one.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    /// The other room's track.
    pub source: TrackKey,
    /// The same in this room: the key is this room's, all else is the source's.
    pub receiver: Receiver,
}

/// What a room wants of the media engine.
#[derive(Debug, Clone, PartialEq)]
pub enum MediaCommand {
    /// Makes a transport that answers connectivity checks for `local`; with a known id and new
    /// credentials: an ICE restart, where the old ones stay valid until the new path is used.
    OpenTransport {
        /// Which one.
        transport: TransportId,
        /// The worker whose candidates its description names; a transport stays where it is.
        worker: engine::WorkerIndex,
        /// Our credentials.
        local: IceCredentials,
    },
    /// Sets what the peer's description says; the handshake may begin.
    ConnectTransport {
        /// Which one.
        transport: TransportId,
        /// The peer's side.
        remote: RemoteTransport,
    },
    /// All sections on which this peer sends.
    SetReceivers {
        /// The publisher's transport.
        transport: TransportId,
        /// The whole list.
        receivers: Vec<Receiver>,
    },
    /// All sections on which we send to this peer.
    SetSenders {
        /// The subscriber's transport.
        transport: TransportId,
        /// The whole list.
        senders: Vec<Sender>,
    },
    /// All tracks of other rooms that are shown in this one for one participant, which has no
    /// transport of its own.
    SetMirrors {
        /// Names the participant; never opened.
        transport: TransportId,
        /// The worker that receives the tracks.
        worker: engine::WorkerIndex,
        /// The whole list; empty ends it.
        mirrors: Vec<Mirror>,
    },
    /// Takes a subscriber's network for no wider than this, whatever it carries; `None` takes it
    /// as it is.
    LimitBandwidth {
        /// Which one.
        transport: TransportId,
        /// Bits a second.
        limit: Option<u64>,
    },
    /// Opens our own data channels once SCTP is up (subscriber connection of two).
    OpenDataChannels {
        /// Which one.
        transport: TransportId,
    },
    /// Sends one message; dropped when the channel's queue is full or it never opened.
    SendData {
        /// To whom.
        transport: TransportId,
        /// On which channel.
        channel: DataChannelKind,
        /// A serialized `DataPacket`.
        payload: Bytes,
    },
    /// Ends a transport and all that hangs on it.
    CloseTransport {
        /// Which one.
        transport: TransportId,
    },
}

/// Where a transport is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportState {
    /// Connectivity checks passed and the handshake is complete.
    Connected,
    /// The handshake failed, the peer closed it, or no authenticated check came for 30 s.
    Failed,
}

/// What happened in the media engine.
#[derive(Debug, Clone, PartialEq)]
pub enum MediaEvent {
    /// A transport changed its state.
    Transport {
        /// Which one.
        transport: TransportId,
        /// Its state.
        state: TransportState,
    },
    /// A data channel can be used.
    DataChannelOpen {
        /// Which transport.
        transport: TransportId,
        /// Which channel.
        channel: DataChannelKind,
    },
    /// A message came.
    Data {
        /// From whom.
        transport: TransportId,
        /// On which channel.
        channel: DataChannelKind,
        /// A serialized `DataPacket`.
        payload: Bytes,
    },
    /// The first packet of a layer arrived, or the first after a silence.
    LayerActive {
        /// The published track.
        track: TrackKey,
        /// Index in rising quality; 0 without simulcast.
        layer: u8,
        /// Its synchronization source.
        ssrc: u32,
        /// What it is encoded with.
        codec: CodecKind,
    },
    /// The first packet of a track went to a subscriber.
    ForwardingStarted {
        /// The subscriber's transport.
        transport: TransportId,
        /// The published track.
        track: TrackKey,
    },
    /// A subscriber's bandwidth does not suffice for this track, which is paused, or suffices
    /// again (LiveKit's stream state). Said when it changes.
    StreamState {
        /// The subscriber's transport.
        transport: TransportId,
        /// The published track.
        track: TrackKey,
        /// Whether it is paused.
        is_paused: bool,
    },
    /// How a transport did in the last interval ([`parameters::STATISTICS_INTERVAL`]).
    Statistics(TransportStatistics),
    /// Loudness of the audio tracks of one worker that sent in the last interval, and silence,
    /// once, of those that stopped
    /// ([`parameters::AUDIO_LEVEL_INTERVAL`]).
    AudioLevels(Vec<(TrackKey, AudioLevel)>),
}

impl MediaEvent {
    /// Whether it comes again and again for as long as media flows, and changes neither who and
    /// what is in a room nor what is due of its participants: in a room of thousands, nobody but
    /// those whom it names is looked at for it.
    pub fn is_measurement(&self) -> bool {
        matches!(self, Self::Statistics(_) | Self::AudioLevels(_))
    }
}

/// How the streams of one transport did in the last interval.
#[derive(Debug, Clone, PartialEq)]
pub struct TransportStatistics {
    /// Which one.
    pub transport: TransportId,
    /// Round-trip time, where the peer reported enough to know it.
    pub round_trip: Option<Duration>,
    /// Estimated bandwidth towards the peer, bit/s, where it reports what it receives.
    pub estimate: Option<u64>,
    /// Nothing has come from the peer for longer than a peer keeps quiet.
    pub is_silent: bool,
    /// What the peer publishes, one entry for each track that sent.
    pub received: Vec<StreamStatistics>,
    /// What is sent to the peer, one entry for each track that was forwarded.
    pub sent: Vec<StreamStatistics>,
}

/// How one track did on one transport in the last interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamStatistics {
    /// The published track.
    pub track: TrackKey,
    /// Media packets that arrived (received) or left (sent), without retransmissions.
    pub packets: u64,
    /// Their bytes, payload only.
    pub bytes: u64,
    /// Packets that were lost on the way and not repaired (received), or that the peer reported
    /// as lost (sent).
    pub lost: u64,
    /// Interarrival jitter, milliseconds (RFC 3550 section 6.4.1).
    pub jitter_ms: f64,
    /// Layer in rising quality that was received last or is being sent; 0 without simulcast.
    pub layer: u8,
}
