//! A participant of the call: its signalling, and what it has of the other.

use std::convert::Infallible;
use std::fmt;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use futures::{SinkExt as _, StreamExt as _};
use hyper::Uri;
use livekit_protocol::{
    AddTrackRequest, ClientInfo, ConnectionSettings, DataPacket, JoinRequest, Ping,
    SessionDescription, SignalRequest, SignalResponse, TrackSource, TrackType, TrickleRequest,
    UserPacket, WrappedJoinRequest, client_info, data_packet, signal_request, signal_response,
};
use prost::Message as _;
use thiserror::Error;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::error::Error as WebSocketError;

use super::connection::{Connection, ConnectionError, Happening};
use super::websocket::{self, ConnectError, WebSocket};

/// Protocol that the participant speaks: one peer connection, as livekit-client 2.23 has.
const PROTOCOL: i32 = 17;
const VERSION: &str = "2.23.0";
/// The id that the participant gives its microphone.
const MICROPHONE: &str = "microphone";
/// Topic of its messages.
const TOPIC: &str = "test-call";
/// Audio packets of the other that are a conversation: half a second.
const ENOUGH_AUDIO: u32 = 25;
/// Time between two messages: who comes later must get one, too.
const MESSAGE_INTERVAL: Duration = Duration::from_millis(500);
/// Time between two signs of life.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Why a participant gave up.
#[derive(Debug, Error)]
pub enum ParticipantError {
    /// There is no signal connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The signal connection broke.
    #[error("the signal connection broke")]
    Signal(#[from] Box<WebSocketError>),
    /// The server closed it.
    #[error("the server closed the signal connection")]
    Closed,
    /// The server sent the participant away.
    #[error("the server sent the participant away: {0}")]
    Left(&'static str),
    /// What came is no message.
    #[error("the server sent nonsense")]
    Nonsense(#[from] prost::DecodeError),
    /// The peer connection failed.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The network between the media node and here broke.
    #[error("the media node is not reached any more")]
    Lost,
}

/// What a participant has so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// It is in the room.
    pub(super) joined: bool,
    /// ICE and DTLS are through.
    pub(super) connected: bool,
    /// Audio packets of the other.
    pub(super) heard: u32,
    /// A message of the other has come.
    pub(super) read: bool,
}

impl Progress {
    /// Nothing is missing.
    pub(super) const fn is_complete(&self) -> bool {
        self.heard >= ENOUGH_AUDIO && self.read
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { joined, connected, heard, read } = *self;
        let text = match (joined, connected) {
            (false, _) => "did not get into the room",
            (true, false) => "reached no media node by UDP",
            (true, true) if heard < ENOUGH_AUDIO && read => "heard too little",
            (true, true) if read => "was complete",
            (true, true) if heard < ENOUGH_AUDIO => "heard too little and read nothing",
            (true, true) => "read nothing",
        };
        f.write_str(text)
    }
}

/// A participant that is in the room, or about to be.
pub(super) struct Participant<'a> {
    socket: WebSocket,
    connection: Connection,
    progress: &'a watch::Sender<Progress>,
    /// Sections to receive that wait for the next offer; `None` when none is due.
    wanted_ears: Option<usize>,
    last_offer: u32,
    next_message: Instant,
    next_ping: Instant,
}

impl<'a> Participant<'a> {
    /// Joins the room of the token and stays until something fails.
    pub(super) async fn run(
        url: &Uri,
        token: &str,
        progress: &'a watch::Sender<Progress>,
    ) -> Result<Infallible, ParticipantError> {
        let (socket, local) = websocket::open(url, &join_path(token)).await?;
        let now = Instant::now();
        let mut participant = Self {
            socket,
            connection: Connection::new(local).await?,
            progress,
            wanted_ears: None,
            last_offer: 0,
            next_message: now,
            next_ping: now + PING_INTERVAL,
        };
        loop {
            participant.offer().await?;
            let until = participant.advance().await?;
            tokio::select! {
                frame = participant.socket.next() => match frame {
                    Some(Ok(Frame::Binary(bytes))) => {
                        let response = SignalResponse::decode(bytes)?;
                        participant.take(response).await?;
                    }
                    Some(Ok(Frame::Close(_))) | None => return Err(ParticipantError::Closed),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(Box::new(error).into()),
                },
                received = participant.connection.receive() => received?,
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }

    async fn take(&mut self, response: SignalResponse) -> Result<(), ParticipantError> {
        match response.message {
            Some(signal_response::Message::Join(_)) => {
                self.progress.send_modify(|progress| progress.joined = true);
                let microphone = AddTrackRequest {
                    cid: MICROPHONE.to_owned(),
                    name: MICROPHONE.to_owned(),
                    r#type: TrackType::Audio.into(),
                    source: TrackSource::Microphone.into(),
                    ..AddTrackRequest::default()
                };
                self.send(signal_request::Message::AddTrack(microphone)).await?;
            }
            // What is sent may be offered from here on.
            Some(signal_response::Message::TrackPublished(_)) => self.wanted_ears = Some(1),
            Some(signal_response::Message::MediaSectionsRequirement(needed)) => {
                let more = usize::try_from(needed.num_audios).unwrap_or_default();
                self.wanted_ears = Some(self.wanted_ears.unwrap_or_default() + more);
            }
            // Answers to offers of which a later one has been made mean nothing any more.
            Some(signal_response::Message::Answer(answer)) if answer.id == self.last_offer => {
                self.connection.accept_answer(&answer.sdp)?;
            }
            Some(signal_response::Message::Trickle(trickle)) => self.take_candidate(&trickle)?,
            Some(signal_response::Message::Leave(leave)) => {
                return Err(ParticipantError::Left(leave.reason().as_str_name()));
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    fn take_candidate(&mut self, trickle: &TrickleRequest) -> Result<(), ParticipantError> {
        let init: serde_json::Value =
            serde_json::from_str(&trickle.candidate_init).unwrap_or_default();
        // An empty one says that there are no more.
        match init["candidate"].as_str().filter(|text| !text.is_empty()) {
            Some(candidate) => Ok(self.connection.add_candidate(candidate)?),
            None => Ok(()),
        }
    }

    /// Offers what is wanted, unless an earlier offer waits for its answer.
    async fn offer(&mut self) -> Result<(), ParticipantError> {
        let Some(ears) = self.wanted_ears else { return Ok(()) };
        let Some(sdp) = self.connection.offer(MICROPHONE, ears) else { return Ok(()) };
        self.wanted_ears = None;
        self.last_offer += 1;
        let offer = SessionDescription {
            r#type: "offer".to_owned(),
            sdp,
            id: self.last_offer,
            ..SessionDescription::default()
        };
        self.send(signal_request::Message::Offer(offer)).await
    }

    /// Does what is due; returns when to come back.
    async fn advance(&mut self) -> Result<Instant, ParticipantError> {
        let now = Instant::now();
        if now >= self.next_ping {
            self.next_ping = now + PING_INTERVAL;
            self.send(signal_request::Message::PingReq(Ping::default())).await?;
        }
        if now >= self.next_message {
            self.next_message = now + MESSAGE_INTERVAL;
            self.connection.send(&message().encode_to_vec())?;
        }
        let (happened, deadline) = self.connection.advance()?;
        for happening in happened {
            match happening {
                Happening::Connected => {
                    self.progress.send_modify(|progress| progress.connected = true);
                }
                Happening::Heard => self.progress.send_modify(|progress| progress.heard += 1),
                Happening::Data(data) => {
                    let packet = DataPacket::decode(data.as_slice())?;
                    if is_message(&packet) {
                        self.progress.send_modify(|progress| progress.read = true);
                    }
                }
                Happening::Lost => return Err(ParticipantError::Lost),
            }
        }
        Ok(deadline.min(self.next_message).min(self.next_ping))
    }

    async fn send(&mut self, message: signal_request::Message) -> Result<(), ParticipantError> {
        let request = SignalRequest { message: Some(message) };
        let frame = Frame::Binary(request.encode_to_vec().into());
        self.socket.send(frame).await.map_err(Box::new)?;
        Ok(())
    }
}

fn join_path(token: &str) -> String {
    let request = JoinRequest {
        client_info: Some(ClientInfo {
            sdk: client_info::Sdk::Js.into(),
            version: VERSION.to_owned(),
            protocol: PROTOCOL,
            ..ClientInfo::default()
        }),
        connection_settings: Some(ConnectionSettings {
            auto_subscribe: true,
            ..ConnectionSettings::default()
        }),
        ..JoinRequest::default()
    };
    let wrapped = WrappedJoinRequest {
        join_request: request.encode_to_vec(),
        ..WrappedJoinRequest::default()
    };
    let encoded = BASE64_URL_SAFE.encode(wrapped.encode_to_vec());
    format!("/rtc/v1?access_token={token}&join_request={encoded}")
}

fn message() -> DataPacket {
    let user = UserPacket {
        payload: b"hello".to_vec(),
        topic: Some(TOPIC.to_owned()),
        ..UserPacket::default()
    };
    DataPacket { value: Some(data_packet::Value::User(user)), ..DataPacket::default() }
}

fn is_message(packet: &DataPacket) -> bool {
    matches!(&packet.value, Some(data_packet::Value::User(user)) if user.topic.as_deref() == Some(TOPIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        let none = Progress::default();
        let joined = Progress { joined: true, ..none };
        let connected = Progress { connected: true, ..joined };
        let heard = Progress { heard: ENOUGH_AUDIO, ..connected };
        let complete = Progress { read: true, ..heard };
        for (progress, text) in [
            (none, "did not get into the room"),
            (joined, "reached no media node by UDP"),
            (connected, "heard too little and read nothing"),
            (heard, "read nothing"),
            (Progress { heard: ENOUGH_AUDIO - 1, ..complete }, "heard too little"),
            (complete, "was complete"),
        ] {
            assert_eq!(progress.to_string(), text);
            assert_eq!(progress.is_complete(), progress == complete);
        }
    }

    #[test]
    fn only_the_others_message_counts() {
        assert!(is_message(&message()));
        assert!(!is_message(&DataPacket::default()));
        let other = UserPacket { topic: Some("chat".to_owned()), ..UserPacket::default() };
        let value = Some(data_packet::Value::User(other));
        assert!(!is_message(&DataPacket { value, ..DataPacket::default() }));
    }
}
