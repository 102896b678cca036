//! The side of a participant's own room: tells the node that shows it how it is, and sends it what
//! it publishes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use contract::ids::RoomName;
use contract::redis::NodeRecord;
use livekit_protocol::DisconnectReason;
use sfu_core::media::engine::SiblingMessage;
use sfu_core::room::{ForwardId, ForwardNews, ForwardedParticipant};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::wire::{
    Control, FORWARDS, Frame, FrameReader, PROTOCOL, Refusal, put_control, put_media,
};
use super::{Alive, BeginError, CONTROL_TIMEOUT, Connection, MESSAGES, write};
use crate::node::Node;
use crate::rtc::Trunk;
use crate::session::{Forwarding, RoomHandle};

/// Messages that are written at once at most.
const BATCH: usize = 64;

/// Shows a participant in a room that lives on another node.
pub(super) async fn begin(
    node: &Arc<Node>,
    home: &NodeRecord,
    destination: &RoomName,
    id: ForwardId,
    source: RoomHandle,
    forwarding: Forwarding,
) -> Result<(), BeginError> {
    let peers = node.peers.as_ref().ok_or(BeginError::Elsewhere)?;
    let from = &node.settings.node_name;
    let connection = peers.upgrade(home.address, from, FORWARDS, PROTOCOL).await?;
    let (reader, mut writer) = tokio::io::split(connection);
    let mut reader = FrameReader::new(reader);
    let Forwarding { state, news } = forwarding;
    let begin = Control::Begin { destination: destination.clone(), state: Box::new(state.clone()) };
    let mut bytes = Vec::new();
    put_control(&begin, &mut bytes);
    write(&mut writer, &bytes).await?;
    let mut frames = timeout(CONTROL_TIMEOUT, reader.next()).await??.into_iter();
    match frames.next() {
        Some(Frame::Control(Control::Shown)) => {}
        Some(Frame::Control(Control::Refused(Refusal::Room(error)))) => {
            return Err(BeginError::Destination(error));
        }
        _ => return Err(BeginError::Elsewhere),
    }
    let (to, media) = mpsc::channel(MESSAGES);
    let mut outgoing =
        Outgoing { trunk: node.media.trunk(to), reader, writer, alive: Alive::new() };
    outgoing.follow(&state);
    let rest = frames.collect();
    tokio::spawn(async move {
        outgoing.run(news, media, rest).await;
        source.stop_forwarding(id).await;
    });
    Ok(())
}

struct Outgoing {
    trunk: Trunk,
    reader: FrameReader<ReadHalf<Connection>>,
    writer: WriteHalf<Connection>,
    alive: Alive,
}

impl Outgoing {
    /// Goes on until one side ends or the connection does.
    async fn run(
        &mut self,
        mut news: watch::Receiver<Option<ForwardNews>>,
        mut media: mpsc::Receiver<SiblingMessage>,
        first: Vec<Frame>,
    ) {
        let mut goes_on = self.take(first);
        let mut batch = Vec::with_capacity(BATCH);
        while goes_on {
            let mut bytes = Vec::new();
            tokio::select! {
                changed = news.changed() => {
                    let latest = match changed {
                        Ok(()) => news.borrow_and_update().clone(),
                        // The participant's room ended.
                        Err(_) => Some(ForwardNews::Ended(DisconnectReason::RoomClosed)),
                    };
                    goes_on = self.tell(latest, &mut bytes);
                }
                _ = media.recv_many(&mut batch, BATCH) => {
                    let now = Instant::now();
                    for message in batch.drain(..) {
                        put_media(&message, now, &mut bytes);
                    }
                }
                frames = self.reader.next() => match frames {
                    Ok(frames) => {
                        self.alive.heard();
                        goes_on = self.take(frames);
                    }
                    Err(error) => {
                        tracing::info!(%error, "The node that shows a participant is gone");
                        goes_on = false;
                    }
                },
                is_alive = self.alive.tick() => {
                    put_control(&Control::Alive, &mut bytes);
                    goes_on = is_alive;
                }
            }
            goes_on &= write(&mut self.writer, &bytes).await.is_ok();
        }
    }

    /// Takes what the other node says; `false` when that ends it.
    fn take(&self, frames: Vec<Frame>) -> bool {
        let mut wishes = Vec::new();
        for frame in frames {
            match frame {
                Frame::Media(wish) => wishes.push(wish),
                Frame::Control(Control::Alive) => {}
                Frame::Control(
                    Control::Over
                    | Control::Begin { .. }
                    | Control::Shown
                    | Control::Refused(_)
                    | Control::Changed(_)
                    | Control::Ended(_),
                ) => return false,
            }
        }
        self.trunk.hand_in(wishes);
        true
    }

    /// Writes how the participant is; `false` when it left.
    fn tell(&mut self, news: Option<ForwardNews>, bytes: &mut Vec<u8>) -> bool {
        match news {
            Some(ForwardNews::Changed(state)) => {
                self.follow(&state);
                put_control(&Control::Changed(state), bytes);
                true
            }
            Some(ForwardNews::Ended(reason)) => {
                put_control(&Control::Ended(reason.into()), bytes);
                false
            }
            None => true,
        }
    }

    fn follow(&mut self, state: &ForwardedParticipant) {
        let tracks: BTreeSet<_> = state.tracks.iter().map(|track| track.receiver.track).collect();
        self.trunk.set_tracks(state.worker, tracks);
    }
}
