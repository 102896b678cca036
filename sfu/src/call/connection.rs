//! A peer connection for what is sent and what is received: str0m and one UDP socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::channel::{ChannelConfig, ChannelId, Reliability};
use str0m::error::{IceError, SdpError};
use str0m::media::{Direction, Frequency, MediaKind, MediaTime, Mid};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig, RtcError};
use thiserror::Error;
use tokio::net::UdpSocket;

/// LiveKit's reliable data channel.
const RELIABLE: &str = "_reliable";
/// Time between two packets of the microphone.
const INTERVAL: Duration = Duration::from_millis(20);
/// A frame of silence in Opus: whether somebody speaks is said by its level.
const SILENCE: [u8; 3] = [0xf8, 0xff, 0xfe];
/// Loudness that makes a speaker, in dBov.
const LOUD: i8 = -20;
/// Most bytes of a datagram.
const MAX_DATAGRAM: usize = 2000;

/// Why a peer connection is of no use.
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// The socket failed.
    #[error("the media socket failed")]
    Socket(#[from] io::Error),
    /// ICE, DTLS, SRTP or SCTP failed.
    #[error("the peer connection failed")]
    Rtc(#[from] RtcError),
    /// A description cannot be read.
    #[error("an answer cannot be read")]
    Sdp(#[from] SdpError),
    /// A candidate cannot be read.
    #[error("a candidate cannot be read")]
    Candidate(#[from] IceError),
    /// An answer came that nobody asked for.
    #[error("an answer without an offer")]
    Unasked,
}

/// What happened on a connection.
#[derive(Debug)]
pub(super) enum Happening {
    /// ICE and DTLS are through.
    Connected,
    /// Audio of somebody else came.
    Heard,
    /// Data came on the reliable channel.
    Data(Vec<u8>),
    /// ICE or DTLS ended.
    Lost,
}

/// A peer connection that sends a microphone and data.
pub(super) struct Connection {
    rtc: Rtc,
    socket: UdpSocket,
    address: SocketAddr,
    offered: Option<SdpPendingOffer>,
    microphone: Option<Mid>,
    channel: Option<ChannelId>,
    is_channel_open: bool,
    /// Sections that receive.
    ears: Vec<Mid>,
    begun: Instant,
    next_frame: Instant,
}

impl Connection {
    /// A connection from this address of the machine.
    pub(super) async fn new(local: IpAddr) -> Result<Self, ConnectionError> {
        let socket = UdpSocket::bind((local, 0)).await?;
        let address = socket.local_addr()?;
        let now = Instant::now();
        let mut rtc = RtcConfig::new().clear_codecs().enable_opus(true, false).build(now);
        rtc.add_local_candidate(Candidate::host(address, "udp")?);
        Ok(Self {
            rtc,
            socket,
            address,
            offered: None,
            microphone: None,
            channel: None,
            is_channel_open: false,
            ears: Vec::new(),
            begun: now,
            next_frame: now,
        })
    }

    /// Offers so many more sections that receive, and at first the data channel and a microphone
    /// with this id. `None` while an offer waits for its answer.
    pub(super) fn offer(&mut self, microphone: &str, more_ears: usize) -> Option<String> {
        if self.offered.is_some() {
            return None;
        }
        let mut api = self.rtc.sdp_api();
        // Whatever an earlier answer made of them, as with the transceivers of browsers. An offer
        // without any change is not foreseen, but one whose changes cancel each other.
        for ear in &self.ears {
            api.set_direction(*ear, Direction::Inactive);
            api.set_direction(*ear, Direction::RecvOnly);
        }
        if self.channel.is_none() {
            self.channel = Some(api.add_channel_with_config(ChannelConfig {
                label: RELIABLE.to_owned(),
                ordered: true,
                reliability: Reliability::Reliable,
                ..ChannelConfig::default()
            }));
        }
        if self.microphone.is_none() {
            let (stream, track) = (Some("call".to_owned()), Some(microphone.to_owned()));
            let section = api.add_media(MediaKind::Audio, Direction::SendOnly, stream, track, None);
            self.microphone = Some(section);
        }
        for _ in 0..more_ears {
            self.ears.push(api.add_media(MediaKind::Audio, Direction::RecvOnly, None, None, None));
        }
        let (offer, pending) = api.apply()?;
        self.offered = Some(pending);
        Some(offer.to_sdp_string())
    }

    /// Takes the answer to the offer.
    pub(super) fn accept_answer(&mut self, sdp: &str) -> Result<(), ConnectionError> {
        let offered = self.offered.take().ok_or(ConnectionError::Unasked)?;
        let answer = SdpAnswer::from_sdp_string(sdp)?;
        self.rtc.sdp_api().accept_answer(offered, answer)?;
        Ok(())
    }

    /// Takes a candidate of the server if its address can be reached from here by UDP.
    pub(super) fn add_candidate(&mut self, candidate: &str) -> Result<(), ConnectionError> {
        let candidate = Candidate::from_sdp_string(candidate)?;
        if candidate.proto() == Protocol::Udp
            && candidate.addr().is_ipv4() == self.address.is_ipv4()
        {
            self.rtc.add_remote_candidate(candidate);
        }
        Ok(())
    }

    /// Sends data on the reliable channel; `false` while it is not open.
    pub(super) fn send(&mut self, data: &[u8]) -> Result<bool, ConnectionError> {
        let open = self.channel.filter(|_| self.is_channel_open);
        let Some(mut channel) = open.and_then(|id| self.rtc.channel(id)) else { return Ok(false) };
        Ok(channel.write(true, data)?)
    }

    /// Waits for a datagram and takes it.
    pub(super) async fn receive(&mut self) -> Result<(), ConnectionError> {
        let mut buffer = [0; MAX_DATAGRAM];
        let (length, source) = self.socket.recv_from(&mut buffer).await?;
        // What is no packet of WebRTC is nobody's.
        let Ok(contents) = buffer[..length].try_into() else { return Ok(()) };
        let receive = Receive { proto: Protocol::Udp, source, destination: self.address, contents };
        self.rtc.handle_input(Input::Receive(Instant::now(), receive))?;
        Ok(())
    }

    /// Does what is due; returns what happened and when to come back.
    pub(super) fn advance(&mut self) -> Result<(Vec<Happening>, Instant), ConnectionError> {
        let mut happened = Vec::new();
        let now = Instant::now();
        self.rtc.handle_input(Input::Timeout(now))?;
        let mut deadline = self.drain(&mut happened)?;
        if self.rtc.is_connected() {
            if now >= self.next_frame {
                self.speak(now)?;
                deadline = self.drain(&mut happened)?;
            }
            deadline = deadline.min(self.next_frame);
        }
        Ok((happened, deadline))
    }

    fn speak(&mut self, now: Instant) -> Result<(), ConnectionError> {
        self.next_frame = now + INTERVAL;
        // Before the answer there is nothing to write to.
        let Some(writer) = self.microphone.and_then(|section| self.rtc.writer(section)) else {
            return Ok(());
        };
        let Some(payload_type) = writer.payload_params().next().map(|params| params.pt()) else {
            return Ok(());
        };
        let rate = Frequency::FORTY_EIGHT_KHZ;
        let ticks = (now - self.begun).as_micros() * u128::from(rate.get()) / 1_000_000;
        let time = MediaTime::new(u64::try_from(ticks).unwrap_or_default(), rate);
        let frame: Arc<[u8]> = SILENCE.into();
        writer.audio_level(LOUD, true).write(payload_type, now, time, frame)?;
        Ok(())
    }

    fn drain(&mut self, happened: &mut Vec<Happening>) -> Result<Instant, ConnectionError> {
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
            Event::Connected => Some(Happening::Connected),
            Event::IceConnectionStateChange(state) if state.is_disconnected() => {
                Some(Happening::Lost)
            }
            Event::ChannelOpen(id, _) => {
                self.is_channel_open |= self.channel == Some(id);
                None
            }
            Event::ChannelData(data) => Some(Happening::Data(data.data)),
            Event::MediaData(media) => self.ears.contains(&media.mid).then_some(Happening::Heard),
            _ => None,
        }
    }
}
