//! The side of the room that shows a participant of another node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use livekit_protocol::DisconnectReason;
use rand::RngExt as _;
use sfu_core::media::TrackKey;
use sfu_core::media::engine::{SiblingMessage, WorkerIndex};
use sfu_core::room::{ForwardEnd, ForwardError, ForwardId, ForwardedParticipant, Room};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::wire::{Control, Frame, FrameReader, Refusal, put_control, put_media};
use super::{Alive, CONTROL_TIMEOUT, Connection, MESSAGES, write};
use crate::node::{Node, Route};
use crate::rtc::Trunk;
use crate::session::RoomHandle;

/// Serves a node that wants a participant shown.
pub async fn serve(node: Arc<Node>, connection: Connection) {
    let (reader, mut writer) = tokio::io::split(connection);
    let mut reader = FrameReader::new(reader);
    let first = timeout(CONTROL_TIMEOUT, reader.next()).await;
    let mut frames = first.ok().and_then(Result::ok).unwrap_or_default().into_iter();
    let Some(Frame::Control(Control::Begin { destination, epoch, mut state })) = frames.next()
    else {
        return tracing::warn!("A node began to forward without saying whom");
    };
    let room = match node.route(&destination).await {
        Ok(Route::Local(room)) => room,
        Ok(Route::Remote(_)) | Err(_) => return refuse(&mut writer, Refusal::Elsewhere).await,
    };
    let mut names = Names { worker: node.media.least_loaded(), salt: rand::rng().random() };
    let (to, wishes) = mpsc::channel(MESSAGES);
    let mut trunk = node.media.trunk(to);
    names.take(&mut state, &mut trunk);
    let id = ForwardId(rand::rng().random());
    let shown = room.show(id, epoch, *state).await;
    let over = match shown.map_err(|_| ForwardError::Ending).and_then(|shown| shown) {
        Ok(over) => over,
        Err(error) => return refuse(&mut writer, Refusal::Room(error)).await,
    };
    let alive = Alive::new();
    let mut incoming = Incoming { id, room, names, trunk, reader, writer, alive };
    let rest = frames.collect();
    let reason = incoming.run(over, wishes, rest).await;
    let _ended = incoming.room.call(move |room, now| room.end_forwarded(id, reason, now)).await;
}

async fn refuse(writer: &mut WriteHalf<Connection>, refusal: Refusal) {
    let mut bytes = Vec::new();
    put_control(&Control::Refused(refusal), &mut bytes);
    if let Err(error) = write(writer, &bytes).await {
        tracing::debug!(%error, "A node did not wait for an answer");
    }
}

/// What the other node's names are here: its tracks have keys that are unique there.
struct Names {
    worker: WorkerIndex,
    salt: u64,
}

impl Names {
    fn track(&self, other: TrackKey) -> TrackKey {
        TrackKey(other.0 ^ self.salt)
    }

    /// Says a participant in words of this node, and has its tracks received.
    fn take(&mut self, state: &mut ForwardedParticipant, trunk: &mut Trunk) {
        state.worker = self.worker;
        let mut tracks = BTreeSet::new();
        for track in &mut state.tracks {
            track.receiver.track = self.track(track.receiver.track);
            tracks.insert(track.receiver.track);
        }
        trunk.set_tracks(self.worker, tracks);
    }
}

struct Incoming {
    id: ForwardId,
    room: RoomHandle,
    names: Names,
    trunk: Trunk,
    reader: FrameReader<ReadHalf<Connection>>,
    writer: WriteHalf<Connection>,
    alive: Alive,
}

/// What ends it.
enum End {
    /// The participant left its room, or its node is gone.
    There(DisconnectReason),
    /// It is not shown any more.
    Here(ForwardEnd),
}

impl Incoming {
    /// Goes on until one side ends or the connection does; says why.
    async fn run(
        &mut self,
        mut over: oneshot::Receiver<ForwardEnd>,
        mut wishes: mpsc::Receiver<SiblingMessage>,
        first: Vec<Frame>,
    ) -> DisconnectReason {
        let mut bytes = Vec::new();
        put_control(&Control::Shown, &mut bytes);
        let mut end = self.take(first).await;
        loop {
            if let Some(End::Here(end)) = end {
                put_control(&Control::Over(end), &mut bytes);
            }
            let written = write(&mut self.writer, &bytes).await;
            match end {
                Some(End::There(reason)) => return reason,
                Some(End::Here(_)) => return DisconnectReason::UnknownReason,
                None if written.is_err() => return DisconnectReason::ConnectionTimeout,
                None => bytes.clear(),
            }
            tokio::select! {
                over = &mut over => {
                    end = Some(End::Here(over.unwrap_or(ForwardEnd::RoomMoves)));
                }
                Some(SiblingMessage { track, layer, content }) = wishes.recv() => {
                    let wish = SiblingMessage { track: self.names.track(track), layer, content };
                    put_media(&wish, Instant::now(), &mut bytes);
                }
                frames = self.reader.next() => match frames {
                    Ok(frames) => {
                        self.alive.heard();
                        end = self.take(frames).await;
                    }
                    Err(error) => {
                        tracing::info!(%error, "The node of a shown participant is gone");
                        end = Some(End::There(DisconnectReason::ConnectionTimeout));
                    }
                },
                is_alive = self.alive.tick() => {
                    put_control(&Control::Alive, &mut bytes);
                    if !is_alive {
                        end = Some(End::There(DisconnectReason::ConnectionTimeout));
                    }
                }
            }
        }
    }

    async fn take(&mut self, frames: Vec<Frame>) -> Option<End> {
        let mut media = Vec::new();
        for frame in frames {
            match frame {
                Frame::Media(SiblingMessage { track, layer, content }) => {
                    let track = self.names.track(track);
                    media.push(SiblingMessage { track, layer, content });
                }
                Frame::Control(Control::Changed(mut state)) => {
                    // What came before is of the tracks before.
                    self.trunk.hand_in(std::mem::take(&mut media));
                    self.names.take(&mut state, &mut self.trunk);
                    let id = self.id;
                    let follow = move |room: &mut Room, now| room.update_forwarded(id, &state, now);
                    // A room that ended, or does not show it, has answered `over`.
                    let _shown = self.room.call(follow).await;
                }
                Frame::Control(Control::Ended(reason)) => {
                    let reason = DisconnectReason::try_from(reason).unwrap_or_default();
                    return Some(End::There(reason));
                }
                Frame::Control(Control::Alive) => {}
                Frame::Control(
                    Control::Begin { .. } | Control::Shown | Control::Refused(_) | Control::Over(_),
                ) => return Some(End::There(DisconnectReason::UnknownReason)),
            }
        }
        self.trunk.hand_in(media);
        None
    }
}
