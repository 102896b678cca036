//! A peer connection of the scripted client: ICE, DTLS, SRTP and SCTP by str0m, one UDP socket.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::channel::{ChannelConfig, ChannelId, Reliability};
use str0m::media::{Direction, Frequency, MediaKind, MediaTime, Mid};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};
use tokio::net::UdpSocket;

/// Labels of LiveKit's data channels.
pub(crate) const RELIABLE: &str = "_reliable";
const LOSSY: &str = "_lossy";
const DATA_TRACK: &str = "_data_track";

/// Time between two audio packets.
const AUDIO_INTERVAL: Duration = Duration::from_millis(20);
/// Time between two pictures.
const VIDEO_INTERVAL: Duration = Duration::from_millis(100);
/// Loudness that makes a speaker, in dBov.
const LOUD: i8 = -20;
/// A frame of silence in Opus: whether it is heard is said by its level.
const OPUS_FRAME: [u8; 3] = [0xf8, 0xff, 0xfe];
/// A key frame of VP8 of 320 × 180 pixels, as far as a server reads it.
const VP8_FRAME: [u8; 32] = {
    let mut frame = [0; 32];
    let header = [0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xb4, 0x00];
    let mut index = 0;
    while index < header.len() {
        frame[index] = header[index];
        index += 1;
    }
    frame
};

/// A change that an offer brings.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// The three data channels.
    Channels,
    /// A section to receive a track.
    Receive(MediaKind),
    /// A section that sends the track of this client id.
    Send(MediaKind, String),
    /// The track of this client id is sent no more.
    Stop(String),
    /// Nothing but another round of offer and answer.
    Renegotiate,
}

/// What happened on a connection.
#[derive(Debug)]
pub(crate) enum Happening {
    /// ICE and DTLS are through.
    Connected,
    /// A data channel of this label is open.
    Open(String),
    /// Data of the channel of this label.
    Data(String, Vec<u8>),
}

/// A track that is sent.
struct Source {
    mid: Mid,
    kind: MediaKind,
    since: Instant,
    next: Instant,
}

/// A peer connection.
pub(crate) struct Connection {
    rtc: Rtc,
    socket: UdpSocket,
    address: SocketAddr,
    pending: Option<SdpPendingOffer>,
    sources: BTreeMap<String, Source>,
    channels: HashMap<ChannelId, String>,
    connected: bool,
    /// Sections that receive, whatever the server answers for now.
    receiving: Vec<Mid>,
}

impl Connection {
    pub(crate) async fn new() -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = socket.local_addr()?;
        let config = RtcConfig::new().clear_codecs().enable_opus(true, false).enable_vp8(true);
        let mut rtc = config.enable_h264(true).build(Instant::now());
        rtc.add_local_candidate(Candidate::host(address, "udp")?);
        Ok(Self {
            rtc,
            socket,
            address,
            pending: None,
            sources: BTreeMap::new(),
            channels: HashMap::new(),
            connected: false,
            receiving: Vec::new(),
        })
    }

    /// Whether an offer waits for its answer.
    pub(crate) fn is_offering(&self) -> bool {
        self.pending.is_some()
    }

    /// Makes an offer of these changes; `None` if they change nothing.
    pub(crate) fn offer(&mut self, changes: Vec<Change>) -> Option<String> {
        let now = Instant::now();
        let stopped: BTreeMap<String, Mid> =
            self.sources.iter().map(|(cid, source)| (cid.clone(), source.mid)).collect();
        let mut api = self.rtc.sdp_api();
        // As with the transceivers of browsers.
        for mid in &self.receiving {
            api.set_direction(*mid, Direction::RecvOnly);
        }
        for change in changes {
            match change {
                Change::Channels => {
                    for (label, reliability) in [
                        (RELIABLE, Reliability::Reliable),
                        (LOSSY, Reliability::MaxRetransmits { retransmits: 0 }),
                        (DATA_TRACK, Reliability::MaxRetransmits { retransmits: 0 }),
                    ] {
                        let (label, ordered) = (label.to_owned(), label == RELIABLE);
                        let config = ChannelConfig {
                            label: label.clone(),
                            ordered,
                            reliability,
                            ..ChannelConfig::default()
                        };
                        self.channels.insert(api.add_channel_with_config(config), label);
                    }
                }
                Change::Receive(kind) => {
                    let mid = api.add_media(kind, Direction::RecvOnly, None, None, None);
                    self.receiving.push(mid);
                }
                Change::Send(kind, cid) => {
                    let stream = Some("scripted".to_owned());
                    let mid =
                        api.add_media(kind, Direction::SendOnly, stream, Some(cid.clone()), None);
                    self.sources.insert(cid, Source { mid, kind, since: now, next: now });
                }
                Change::Renegotiate => {
                    // An offer without any change is not foreseen, but one whose changes cancel
                    // each other.
                    if let Some(mid) = self.receiving.first() {
                        api.set_direction(*mid, Direction::Inactive);
                        api.set_direction(*mid, Direction::RecvOnly);
                    }
                }
                Change::Stop(cid) => {
                    if let Some(mid) = stopped.get(&cid) {
                        api.set_direction(*mid, Direction::Inactive);
                        self.sources.remove(&cid);
                    }
                }
            }
        }
        let (offer, pending) = api.apply()?;
        self.pending = Some(pending);
        Some(offer.to_sdp_string())
    }

    /// Takes the answer to the open offer.
    pub(crate) fn accept_answer(&mut self, sdp: &str) -> Result<()> {
        let pending = self.pending.take().context("an answer without an offer")?;
        let answer = SdpAnswer::from_sdp_string(sdp).context("reading an answer")?;
        self.rtc.sdp_api().accept_answer(pending, answer).context("accepting an answer")
    }

    /// Answers an offer.
    pub(crate) fn accept_offer(&mut self, sdp: &str) -> Result<String> {
        let offer = SdpOffer::from_sdp_string(sdp).context("reading an offer")?;
        let answer = self.rtc.sdp_api().accept_offer(offer).context("accepting an offer")?;
        Ok(answer.to_sdp_string())
    }

    /// Takes a candidate of the server; those of TCP are left out.
    pub(crate) fn add_candidate(&mut self, candidate: &str) -> Result<()> {
        let candidate = Candidate::from_sdp_string(candidate)?;
        if candidate.proto() == Protocol::Udp && candidate.addr().is_ipv4() {
            self.rtc.add_remote_candidate(candidate);
        }
        Ok(())
    }

    /// Sends on the data channel of this label.
    pub(crate) fn send(&mut self, label: &str, data: &[u8]) -> Result<()> {
        let id = self.channels.iter().find(|(_, name)| *name == label).map(|(id, _)| *id);
        let id = id.with_context(|| format!("no channel {label}"))?;
        let mut channel = self.rtc.channel(id).with_context(|| format!("{label} is closed"))?;
        channel.write(true, data)?;
        Ok(())
    }

    /// Waits for a packet and takes it.
    pub(crate) async fn receive(&mut self) -> Result<()> {
        let mut buffer = [0; 2000];
        let (length, source) = self.socket.recv_from(&mut buffer).await?;
        let contents = buffer[..length].try_into()?;
        let receive = Receive { proto: Protocol::Udp, source, destination: self.address, contents };
        self.rtc.handle_input(Input::Receive(Instant::now(), receive))?;
        Ok(())
    }

    /// Does what is due; returns what happened and when to come back.
    pub(crate) fn advance(&mut self) -> Result<(Vec<Happening>, Instant)> {
        let mut happened = Vec::new();
        let now = Instant::now();
        self.rtc.handle_input(Input::Timeout(now))?;
        let mut deadline = self.drain(&mut happened)?;
        if self.connected {
            for cid in self.sources.keys().cloned().collect::<Vec<_>>() {
                self.send_media(&cid, now)?;
                deadline = self.drain(&mut happened)?;
            }
            let next = self.sources.values().map(|source| source.next).min();
            deadline = next.map_or(deadline, |next| next.min(deadline));
        }
        Ok((happened, deadline))
    }

    fn send_media(&mut self, cid: &str, now: Instant) -> Result<()> {
        let Some(source) = self.sources.get_mut(cid).filter(|source| source.next <= now) else {
            return Ok(());
        };
        let (interval, rate) = match source.kind {
            MediaKind::Audio => (AUDIO_INTERVAL, Frequency::FORTY_EIGHT_KHZ),
            MediaKind::Video => (VIDEO_INTERVAL, Frequency::NINETY_KHZ),
        };
        source.next = now + interval;
        let ticks = (now - source.since).as_micros() * u128::from(rate.get()) / 1_000_000;
        let time = MediaTime::new(u64::try_from(ticks)?, rate);
        // Before the answer there is nothing to write to.
        let Some(writer) = self.rtc.writer(source.mid) else { return Ok(()) };
        let Some(pt) = writer.payload_params().next().map(|params| params.pt()) else {
            return Ok(());
        };
        match source.kind {
            MediaKind::Audio => {
                let frame: Arc<[u8]> = OPUS_FRAME.into();
                writer.audio_level(LOUD, true).write(pt, now, time, frame)?;
            }
            MediaKind::Video => {
                let frame: Arc<[u8]> = VP8_FRAME.into();
                writer.write(pt, now, time, frame)?;
            }
        }
        Ok(())
    }

    fn drain(&mut self, happened: &mut Vec<Happening>) -> Result<Instant> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(deadline) => return Ok(deadline),
                Output::Transmit(packet) => {
                    // What does not go out is lost, as on any network.
                    let _ = self.socket.try_send_to(&packet.contents, packet.destination);
                }
                Output::Event(event) => happened.extend(self.note(event)),
            }
        }
    }

    fn note(&mut self, event: Event) -> Option<Happening> {
        match event {
            Event::Connected => {
                self.connected = true;
                Some(Happening::Connected)
            }
            Event::ChannelOpen(id, label) => {
                self.channels.insert(id, label.clone());
                Some(Happening::Open(label))
            }
            Event::ChannelData(data) => {
                let label = self.channels.get(&data.id).cloned().unwrap_or_default();
                Some(Happening::Data(label, data.data))
            }
            _ => None,
        }
    }
}
