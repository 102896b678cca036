//! A scripted participant: it sends the signal messages that the script names, negotiates as a
//! client does, and keeps everything that the server sends.

use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use futures::{SinkExt as _, StreamExt as _};
use livekit_protocol::{
    ClientInfo, ConnectionSettings, DataPacket, JoinRequest, SessionDescription, SignalRequest,
    SignalResponse, SignalTarget, TrickleRequest, WrappedJoinRequest, client_info, signal_request,
    signal_response,
};
use prost::Message as _;
use serde_json::{Value, json};
use str0m::media::MediaKind;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::connection::{Change, Connection, Happening};

/// Protocol version that the clients speak: the one of livekit-client 2.23.
const PROTOCOL: i32 = 17;
/// Sections to receive that a client of one connection offers at first, for each kind.
const FIRST_SECTIONS: usize = 3;

/// How many peer connections a client has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The server offers what it sends on a second connection.
    Dual,
    /// The client offers everything.
    Single,
}

/// What the script asks for.
#[derive(Debug)]
enum Command {
    Signal(signal_request::Message),
    Change(Vec<Change>),
    Data(&'static str, DataPacket),
}

/// Everything that a participant has got, as JSON: `{"<kind>": …}`.
type Received = Arc<Mutex<Vec<Value>>>;

/// The script's side of a participant.
pub(crate) struct Participant {
    commands: UnboundedSender<Command>,
    received: Received,
    /// How much of it earlier steps have taken.
    taken: usize,
}

impl Participant {
    /// Joins the room of the token.
    pub(crate) async fn join(url: &str, token: &str, mode: Mode) -> Result<Self> {
        let url = join_url(url, token, mode);
        let (socket, _) = connect_async(&url).await.context("opening the signal connection")?;
        let (commands, queue) = unbounded_channel();
        let received = Received::default();
        let session = Session {
            mode,
            socket,
            queue,
            received: Arc::clone(&received),
            publisher: Connection::new().await?,
            subscriber: Connection::new().await?,
            wanted: Vec::new(),
            last_offer: 0,
        };
        tokio::spawn(session.run());
        Ok(Self { commands, received, taken: 0 })
    }

    /// Sends a signal message.
    pub(crate) fn signal(&self, message: signal_request::Message) {
        self.command(Command::Signal(message));
    }

    /// Negotiates changes of what is sent.
    pub(crate) fn change(&self, changes: Vec<Change>) {
        self.command(Command::Change(changes));
    }

    /// Sends a data packet on the channel of this label.
    pub(crate) fn data(&self, label: &'static str, packet: DataPacket) {
        self.command(Command::Data(label, packet));
    }

    fn command(&self, command: Command) {
        // Who has left does nothing any more, and the comparison shows it.
        let _ = self.commands.send(command);
    }

    /// What has come since the last step.
    pub(crate) fn peek(&self) -> Vec<Value> {
        lock(&self.received)[self.taken..].to_vec()
    }

    /// Takes this many of them.
    pub(crate) fn take(&mut self, count: usize) {
        self.taken += count;
    }

    /// Everything that has come.
    pub(crate) fn all(&self) -> Vec<Value> {
        lock(&self.received).clone()
    }
}

fn lock(received: &Received) -> std::sync::MutexGuard<'_, Vec<Value>> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

fn join_url(url: &str, token: &str, mode: Mode) -> String {
    let url = url.replacen("http", "ws", 1);
    match mode {
        Mode::Dual => format!(
            "{url}/rtc?access_token={token}&auto_subscribe=1&sdk=js&version=2.23.0\
             &protocol={PROTOCOL}"
        ),
        Mode::Single => {
            let client_info = ClientInfo {
                sdk: client_info::Sdk::Js.into(),
                version: "2.23.0".to_owned(),
                protocol: PROTOCOL,
                ..ClientInfo::default()
            };
            let settings = ConnectionSettings { auto_subscribe: true, ..Default::default() };
            let request = JoinRequest {
                client_info: Some(client_info),
                connection_settings: Some(settings),
                ..JoinRequest::default()
            };
            let wrapped =
                WrappedJoinRequest { join_request: request.encode_to_vec(), ..Default::default() };
            let encoded = BASE64_URL_SAFE.encode(wrapped.encode_to_vec());
            format!("{url}/rtc/v1?access_token={token}&join_request={encoded}")
        }
    }
}

/// The running side of a participant.
struct Session {
    mode: Mode,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    queue: UnboundedReceiver<Command>,
    received: Received,
    publisher: Connection,
    subscriber: Connection,
    /// Changes that wait for the open offer.
    wanted: Vec<Change>,
    last_offer: u32,
}

impl Session {
    async fn run(mut self) {
        if self.mode == Mode::Single {
            let kinds = [MediaKind::Audio, MediaKind::Video];
            self.wanted.push(Change::Channels);
            for kind in kinds {
                self.wanted.extend(vec![Change::Receive(kind); FIRST_SECTIONS]);
            }
        }
        if let Err(error) = self.turn_until_closed().await {
            self.keep(json!({ "error": format!("{error:#}") }));
        }
    }

    async fn turn_until_closed(&mut self) -> Result<()> {
        loop {
            self.offer().await?;
            let until = self.advance()?;
            tokio::select! {
                frame = self.socket.next() => match frame {
                    Some(Ok(Frame::Close(_))) | None => break,
                    Some(frame) => self.take_frame(frame?).await?,
                },
                command = self.queue.recv() => match command {
                    Some(command) => self.obey(command).await?,
                    None => break,
                },
                result = self.publisher.receive() => result?,
                result = self.subscriber.receive() => result?,
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
        self.keep(json!({ "closed": {} }));
        // The script may go on to speak to who has left.
        pending().await
    }

    fn advance(&mut self) -> Result<Instant> {
        let mut until = Instant::now() + std::time::Duration::from_secs(1);
        for name in ["publisher", "subscriber"] {
            let connection = match name {
                "publisher" => &mut self.publisher,
                _ => &mut self.subscriber,
            };
            let (happened, deadline) = connection.advance()?;
            until = until.min(deadline);
            for happening in happened {
                match happening {
                    Happening::Connected => self.keep(json!({ "connected": { "to": name } })),
                    Happening::Open(label) => self.keep(json!({ "channel": { "label": label } })),
                    Happening::Data(label, data) => {
                        let packet = DataPacket::decode(data.as_slice())?;
                        self.keep(json!({ "data": { "channel": label, "packet": packet } }));
                    }
                }
            }
        }
        Ok(until)
    }

    fn keep(&self, value: Value) {
        lock(&self.received).push(value);
    }

    async fn obey(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Signal(message) => self.send(message).await,
            Command::Change(changes) => {
                self.wanted.extend(changes);
                Ok(())
            }
            Command::Data(label, packet) => self.publisher.send(label, &packet.encode_to_vec()),
        }
    }

    async fn send(&mut self, message: signal_request::Message) -> Result<()> {
        let request = SignalRequest { message: Some(message) };
        self.socket.send(Frame::Binary(request.encode_to_vec().into())).await?;
        Ok(())
    }

    /// Offers the changes that wait.
    async fn offer(&mut self) -> Result<()> {
        if self.wanted.is_empty() || self.publisher.is_offering() {
            return Ok(());
        }
        let Some(sdp) = self.publisher.offer(std::mem::take(&mut self.wanted)) else {
            return Ok(());
        };
        self.last_offer += 1;
        let offer = description("offer", sdp, self.last_offer);
        self.send(signal_request::Message::Offer(offer)).await
    }

    async fn take_frame(&mut self, frame: Frame) -> Result<()> {
        let Frame::Binary(bytes) = frame else { return Ok(()) };
        let response = SignalResponse::decode(bytes)?;
        self.keep(serde_json::to_value(&response)?);
        match response.message.context("an empty signal message")? {
            signal_response::Message::Answer(answer) => {
                ensure!(answer.id == self.last_offer, "an answer to offer {}", answer.id);
                self.publisher.accept_answer(&answer.sdp)
            }
            signal_response::Message::Offer(offer) => {
                let sdp = self.subscriber.accept_offer(&offer.sdp)?;
                let answer = description("answer", sdp, offer.id);
                self.send(signal_request::Message::Answer(answer)).await
            }
            signal_response::Message::Trickle(trickle) => self.take_candidate(&trickle),
            signal_response::Message::MediaSectionsRequirement(needed) => {
                for (kind, count) in
                    [(MediaKind::Audio, needed.num_audios), (MediaKind::Video, needed.num_videos)]
                {
                    self.wanted.extend(vec![Change::Receive(kind); usize::try_from(count)?]);
                }
                self.wanted.push(Change::Renegotiate);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn take_candidate(&mut self, trickle: &TrickleRequest) -> Result<()> {
        if trickle.candidate_init.is_empty() {
            return Ok(());
        }
        let init: Value = serde_json::from_str(&trickle.candidate_init)?;
        let Some(candidate) = init["candidate"].as_str().filter(|text| !text.is_empty()) else {
            return Ok(());
        };
        match trickle.target() {
            SignalTarget::Publisher => self.publisher.add_candidate(candidate),
            SignalTarget::Subscriber if self.mode == Mode::Dual => {
                self.subscriber.add_candidate(candidate)
            }
            SignalTarget::Subscriber => bail!("a candidate of a second connection"),
        }
    }
}

fn description(kind: &str, sdp: String, id: u32) -> SessionDescription {
    SessionDescription { r#type: kind.to_owned(), sdp, id, ..SessionDescription::default() }
}
