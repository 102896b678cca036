//! The signal connections of all participants: a thread of its own, so that the media path
//! has no tasks. It tells the media loop what was negotiated.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use contract::access_token::{ApiKeys, VideoGrants, claims};
use futures::{SinkExt as _, StreamExt as _};
use livekit_protocol::{
    AddTrackRequest, Ping, SessionDescription, SignalRequest, SignalResponse, SignalTarget,
    SimulcastCodec, TrackSource, TrackType, UpdateTrackSettings, VideoLayer, VideoQuality,
    signal_request, signal_response,
};
use parking_lot::Mutex;
use prost::Message as _;
use rand::RngExt as _;
use sfu_core::media::{ExtensionIds, Fingerprint, IceCredentials, MediaKind, RemoteTransport};
use sfu_core::sdp::{Description, SectionKind};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message as WebSocketMessage;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::media::MediaSender;
use super::sdp::{self, LocalTransport, OfferedTrack};
use crate::source::Media;
use crate::workload::{Participant, Quality, Scenario, quality};

/// A join that takes longer has failed.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);

/// One of a participant's two peer connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Publisher,
    Subscriber,
}

/// A peer connection of the whole load: participant and role.
pub(super) type SessionKey = (usize, Role);

/// The other end of a transport, as the server describes it.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) transport: RemoteTransport,
    pub(super) is_lite: bool,
}

/// A source that the server will send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OfferedSource {
    pub(super) ssrc: u32,
    pub(super) is_rtx: bool,
    /// Whether every packet is a frame.
    pub(super) is_audio: bool,
    /// `TR_…`
    pub(super) track_sid: String,
    pub(super) transport_cc: Option<u8>,
}

/// A track that may be sent.
#[derive(Debug)]
pub(super) struct AcceptedTrack {
    pub(super) track: OfferedTrack,
    pub(super) sid: String,
    pub(super) mid: String,
    pub(super) extensions: ExtensionIds,
}

/// What the media loop is told.
#[derive(Debug)]
pub(super) enum Negotiated {
    /// A transport shall be made; `since` is when the participant began to join.
    Open { key: SessionKey, local: IceCredentials, remote: Box<Remote>, since: Instant },
    /// Where the server is.
    Candidate { key: SessionKey, address: SocketAddr },
    /// All that the server sends on a transport.
    Sources { key: SessionKey, sources: Vec<OfferedSource> },
    /// The server takes these tracks.
    Publish { key: SessionKey, tracks: Vec<AcceptedTrack> },
    /// A participant gave up.
    Failed { participant: usize, error: String },
}

/// What all participants share.
pub(super) struct Signalling {
    pub(super) server: SocketAddr,
    pub(super) keys: ApiKeys,
    pub(super) fingerprint: Fingerprint,
    pub(super) media: MediaSender,
    /// Joins a second.
    pub(super) pace: f64,
    /// Video tracks and the seats of their publishers.
    pub(super) cameras: Mutex<BTreeMap<String, usize>>,
}

impl Signalling {
    /// Joins everybody and keeps them in their rooms until the process ends.
    pub(super) fn run(self, scenario: &Scenario) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.join_all(scenario));
        Ok(())
    }

    async fn join_all(self, scenario: &Scenario) {
        let shared = Arc::new(self);
        let publishers = scenario.participants.iter().filter(|p| !p.publishes.is_empty()).count();
        let (published, mut is_published) = watch::channel(0_usize);
        let published = Arc::new(published);
        let pause = Duration::from_secs_f64(1.0 / shared.pace);
        for (index, participant) in scenario.participants.iter().enumerate() {
            if participant.publishes.is_empty() {
                // The audience comes when there is something to see. The channel stays open.
                let _ = is_published.wait_for(|count| *count >= publishers).await;
            }
            let (shared, published) = (Arc::clone(&shared), Arc::clone(&published));
            let participant = participant.clone();
            tokio::spawn(async move {
                let client = Client { index, participant, shared: Arc::clone(&shared), published };
                if let Err(error) = client.run().await {
                    let error = format!("{error:#}");
                    shared.media.send(Negotiated::Failed { participant: index, error });
                }
            });
            tokio::time::sleep(pause).await;
        }
        std::future::pending::<()>().await;
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

struct Client {
    index: usize,
    participant: Participant,
    shared: Arc<Signalling>,
    published: Arc<watch::Sender<usize>>,
}

/// What a client remembers while it is in the room.
struct Joined {
    socket: Socket,
    since: Instant,
    publisher: LocalTransport,
    subscriber: LocalTransport,
    offered: Vec<(OfferedTrack, Option<String>)>,
    /// Tracks whose layer was asked for.
    asked: BTreeSet<String>,
    opened: bool,
}

impl Client {
    async fn run(self) -> Result<()> {
        let since = Instant::now();
        let joining = tokio::time::timeout(JOIN_TIMEOUT, self.join(since));
        let (mut joined, ping) = joining.await.context("joining took too long")??;
        let mut pings = tokio::time::interval(ping);
        loop {
            tokio::select! {
                message = next(&mut joined.socket) => self.handle(&mut joined, message?).await?,
                _ = pings.tick() => {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
                    let ping = Ping { timestamp: i64::try_from(now)?, rtt: 1 };
                    send(&mut joined.socket, signal_request::Message::PingReq(ping)).await?;
                }
            }
        }
    }

    async fn join(&self, since: Instant) -> Result<(Joined, Duration)> {
        let url = format!(
            "ws://{}/rtc?access_token={}&protocol=16&auto_subscribe=1&sdk=go&version=2.18.1",
            self.shared.server,
            self.token()?,
        );
        let (mut socket, _) =
            tokio_tungstenite::connect_async(url).await.context("opening the WebSocket")?;
        let join = match next(&mut socket).await? {
            signal_response::Message::Join(join) => join,
            other => bail!("expected a join response, not {other:?}"),
        };
        let transport = || LocalTransport {
            ice: credentials(self.index),
            fingerprint: self.shared.fingerprint,
        };
        let mut joined = Joined {
            socket,
            since,
            publisher: transport(),
            subscriber: transport(),
            offered: Vec::new(),
            asked: BTreeSet::new(),
            opened: false,
        };
        for media in &self.participant.publishes {
            let track = offered_track(*media, self.index, joined.offered.len());
            send(&mut joined.socket, signal_request::Message::AddTrack(announcement(&track)))
                .await?;
            joined.offered.push((track, None));
        }
        let ping = Duration::from_secs(u64::try_from(join.ping_interval.max(1))?);
        Ok((joined, ping))
    }

    fn token(&self) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let mut claims = claims(&self.participant.identity, now, Duration::from_secs(3600));
        claims.video = VideoGrants {
            room_join: true,
            room: self.participant.room.clone(),
            can_publish: Some(true),
            can_subscribe: Some(self.participant.subscribes),
            hidden: self.participant.hidden,
            ..VideoGrants::default()
        };
        let (key, _) = self.shared.keys.signing().context("there is a key")?;
        Ok(self.shared.keys.sign(key, claims)?)
    }

    async fn handle(&self, joined: &mut Joined, message: signal_response::Message) -> Result<()> {
        use signal_response::Message as Response;
        match message {
            Response::TrackPublished(published) => {
                let sid = published.track.context("a published track has its description")?.sid;
                for (track, known) in &mut joined.offered {
                    if track.cid == published.cid {
                        *known = Some(sid.clone());
                        if !track.media.is_audio() {
                            self.shared.cameras.lock().insert(sid.clone(), self.participant.seat);
                        }
                    }
                }
                if joined.offered.iter().all(|(_, sid)| sid.is_some()) {
                    self.offer(joined).await?;
                }
            }
            Response::Answer(answer) => self.take_answer(joined, &answer.sdp)?,
            Response::Offer(offer) => self.answer(joined, offer).await?,
            Response::Trickle(trickle) => {
                let role = match trickle.target() {
                    SignalTarget::Publisher => Role::Publisher,
                    SignalTarget::Subscriber => Role::Subscriber,
                };
                let init: serde_json::Value =
                    serde_json::from_str(&trickle.candidate_init).unwrap_or_default();
                if let Some(address) = init["candidate"].as_str().and_then(sdp::candidate) {
                    self.tell(Negotiated::Candidate { key: (self.index, role), address });
                }
            }
            Response::Leave(leave) => bail!("the server said goodbye: {:?}", leave.reason()),
            _ => {}
        }
        Ok(())
    }

    fn tell(&self, negotiated: Negotiated) {
        self.shared.media.send(negotiated);
    }

    async fn offer(&self, joined: &mut Joined) -> Result<()> {
        let tracks: Vec<OfferedTrack> =
            joined.offered.iter().map(|(track, _)| track.clone()).collect();
        let offer = SessionDescription {
            r#type: "offer".to_owned(),
            sdp: sdp::offer(&joined.publisher, &tracks),
            id: 1,
            ..SessionDescription::default()
        };
        send(&mut joined.socket, signal_request::Message::Offer(offer)).await
    }

    fn take_answer(&self, joined: &Joined, text: &str) -> Result<()> {
        let key = (self.index, Role::Publisher);
        let description = Description::parse(text).context("the server's answer")?;
        self.open(key, joined.publisher.ice.clone(), &description, text, joined.since)?;
        let mut tracks = Vec::new();
        for ((track, sid), section) in joined.offered.iter().zip(&description.sections) {
            let (payload_type, _) = sdp::payload_types(track.media);
            let is_taken = section.codecs.iter().any(|codec| codec.payload_type == payload_type);
            ensure!(!section.rejected && is_taken, "the server refused {:?}", track.media);
            tracks.push(AcceptedTrack {
                track: track.clone(),
                sid: sid.clone().context("announced before")?,
                mid: section.mid.0.clone(),
                extensions: section.extensions,
            });
        }
        self.tell(Negotiated::Publish { key, tracks });
        self.published.send_modify(|count| *count += 1);
        Ok(())
    }

    async fn answer(&self, joined: &mut Joined, offer: SessionDescription) -> Result<()> {
        let key = (self.index, Role::Subscriber);
        let description = Description::parse(&offer.sdp).context("the server's offer")?;
        let answer = SessionDescription {
            r#type: "answer".to_owned(),
            sdp: sdp::answer(&offer.sdp, &joined.subscriber),
            id: offer.id,
            ..SessionDescription::default()
        };
        send(&mut joined.socket, signal_request::Message::Answer(answer)).await?;
        if !joined.opened {
            joined.opened = true;
            let local = joined.subscriber.ice.clone();
            self.open(key, local, &description, &offer.sdp, joined.since)?;
        }
        let sources = offered_sources(&description);
        self.ask_for_layers(joined, &sources).await?;
        self.tell(Negotiated::Sources { key, sources });
        Ok(())
    }

    fn open(
        &self,
        key: SessionKey,
        local: IceCredentials,
        description: &Description,
        text: &str,
        since: Instant,
    ) -> Result<()> {
        let transport = description.transport()?;
        let remote = Box::new(Remote { transport, is_lite: sdp::is_lite(text) });
        self.tell(Negotiated::Open { key, local, remote, since });
        if let Some(address) = sdp::candidates(text).next() {
            self.tell(Negotiated::Candidate { key, address });
        }
        Ok(())
    }

    /// Asks for the layer that this seat wants of each new video track.
    async fn ask_for_layers(&self, joined: &mut Joined, sources: &[OfferedSource]) -> Result<()> {
        for source in sources {
            if !joined.asked.insert(source.track_sid.clone()) {
                continue;
            }
            let Some(seat) = self.shared.cameras.lock().get(&source.track_sid).copied() else {
                continue;
            };
            let wanted = match quality(self.participant.seat, seat) {
                Quality::Low => VideoQuality::Low,
                Quality::Medium => VideoQuality::Medium,
                Quality::High => VideoQuality::High,
            };
            let settings = UpdateTrackSettings {
                track_sids: vec![source.track_sid.clone()],
                quality: wanted as i32,
                ..UpdateTrackSettings::default()
            };
            send(&mut joined.socket, signal_request::Message::TrackSetting(settings)).await?;
        }
        Ok(())
    }
}

/// Sources of all sections on which the server sends.
fn offered_sources(description: &Description) -> Vec<OfferedSource> {
    let mut sources = Vec::new();
    for section in &description.sections {
        let (SectionKind::Rtp(kind), Some(msid)) = (section.kind, &section.msid) else { continue };
        for pair in &section.ssrcs {
            let ids = [(Some(pair.ssrc), false), (pair.rtx, true)];
            sources.extend(ids.into_iter().filter_map(|(ssrc, is_rtx)| {
                Some(OfferedSource {
                    ssrc: ssrc?,
                    is_rtx,
                    is_audio: kind == MediaKind::Audio,
                    track_sid: msid.track.clone(),
                    transport_cc: section.extensions.transport_cc,
                })
            }));
        }
    }
    sources
}

/// Credentials that tell participants apart in a capture.
fn credentials(index: usize) -> IceCredentials {
    let digits = |count: usize| -> String {
        let mut rng = rand::rng();
        (0..count).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect()
    };
    IceCredentials { ufrag: format!("{}{index}", digits(4)), pwd: digits(24) }
}

fn offered_track(media: Media, participant: usize, index: usize) -> OfferedTrack {
    let layers = media.layers().len();
    let base = u32::try_from((participant * 8 + index) * 8 + 1000).unwrap_or(u32::MAX - 8);
    let ids = |first: u32| (first..).take(layers).collect::<Vec<u32>>();
    OfferedTrack {
        media,
        cid: format!("cid-{participant}-{index}"),
        ssrcs: ids(base),
        rtx: if media.is_audio() { Vec::new() } else { ids(base + 4) },
    }
}

fn announcement(track: &OfferedTrack) -> AddTrackRequest {
    let layers = track.media.layers();
    if track.media.is_audio() {
        return AddTrackRequest {
            cid: track.cid.clone(),
            name: "microphone".to_owned(),
            r#type: TrackType::Audio as i32,
            source: TrackSource::Microphone as i32,
            disable_red: true,
            ..AddTrackRequest::default()
        };
    }
    let layer = |(index, spec): (usize, &crate::source::LayerSpec)| VideoLayer {
        // A single layer is the highest.
        quality: if layers.len() == 1 { 2 } else { i32::try_from(index).unwrap_or(2) },
        width: spec.width,
        height: spec.height,
        bitrate: spec.bitrate,
        ..VideoLayer::default()
    };
    let layers: Vec<VideoLayer> = layers.iter().enumerate().map(layer).collect();
    let codec = if track.media == Media::Simulcast { "vp8" } else { "h264" };
    AddTrackRequest {
        cid: track.cid.clone(),
        name: "camera".to_owned(),
        r#type: TrackType::Video as i32,
        source: TrackSource::Camera as i32,
        width: 1280,
        height: 720,
        simulcast_codecs: vec![SimulcastCodec {
            codec: codec.to_owned(),
            cid: track.cid.clone(),
            layers: layers.clone(),
            ..SimulcastCodec::default()
        }],
        layers,
        ..AddTrackRequest::default()
    }
}

async fn send(socket: &mut Socket, message: signal_request::Message) -> Result<()> {
    let request = SignalRequest { message: Some(message) };
    let bytes = request.encode_to_vec().into();
    socket.send(WebSocketMessage::Binary(bytes)).await.context("writing to the WebSocket")
}

async fn next(socket: &mut Socket) -> Result<signal_response::Message> {
    loop {
        match socket.next().await.context("the server closed the WebSocket")?? {
            WebSocketMessage::Binary(bytes) => {
                if let Some(message) = SignalResponse::decode(bytes)?.message {
                    return Ok(message);
                }
            }
            WebSocketMessage::Close(frame) => bail!("the server closed the WebSocket: {frame:?}"),
            _ => {}
        }
    }
}
