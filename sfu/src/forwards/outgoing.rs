//! The side of a participant's own room: tells the node that shows it how it is, and sends it what
//! it publishes.

use std::collections::BTreeSet;
use std::time::Instant;

use contract::ids::RoomName;
use contract::redis::NodeRecord;
use sfu_core::media::engine::SiblingMessage;
use sfu_core::room::{ForwardEnd, ForwardNews, ForwardedParticipant};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::wire::{
    Control, FORWARDS, Frame, FrameReader, PROTOCOL, Refusal, put_control, put_media,
};
use super::{Alive, BeginError, CONTROL_TIMEOUT, Connection, MESSAGES, write};
use crate::node::Node;
use crate::rtc::Trunk;
use crate::session::Forwarding;

/// Messages that are written at once at most.
const BATCH: usize = 64;

/// The connection to the node that shows a participant.
pub(super) struct Outgoing {
    trunk: Trunk,
    media: mpsc::Receiver<SiblingMessage>,
    reader: FrameReader<ReadHalf<Connection>>,
    writer: WriteHalf<Connection>,
    alive: Alive,
    /// What came with the answer.
    first: Vec<Frame>,
}

impl Outgoing {
    /// Shows a participant in a room that lives on another node.
    pub(super) async fn begin(
        node: &Node,
        home: &NodeRecord,
        destination: &RoomName,
        epoch: u64,
        state: &ForwardedParticipant,
    ) -> Result<Self, BeginError> {
        let peers = node.peers.as_ref().ok_or(BeginError::Elsewhere)?;
        let from = &node.settings.node_name;
        let connection = peers.upgrade(home.address, from, FORWARDS, PROTOCOL).await?;
        let (reader, mut writer) = tokio::io::split(connection);
        let mut reader = FrameReader::new(reader);
        let (destination, state_at_first) = (destination.clone(), Box::new(state.clone()));
        let begin = Control::Begin { destination, epoch, state: state_at_first };
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
        let (trunk, alive, first) = (node.media.trunk(to), Alive::new(), frames.collect());
        let mut outgoing = Self { trunk, media, reader, writer, alive, first };
        outgoing.follow(state);
        Ok(outgoing)
    }

    /// Goes on until one side ends or the connection does.
    pub(super) async fn run(mut self, forwarding: &mut Forwarding) -> ForwardEnd {
        let first = std::mem::take(&mut self.first);
        let mut end = self.take(first);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            if let Some(end) = end {
                return end;
            }
            let mut bytes = Vec::new();
            tokio::select! {
                news = forwarding.next() => end = self.tell(news, &mut bytes),
                _ = self.media.recv_many(&mut batch, BATCH) => {
                    let now = Instant::now();
                    for message in batch.drain(..) {
                        put_media(&message, now, &mut bytes);
                    }
                }
                frames = self.reader.next() => match frames {
                    Ok(frames) => {
                        self.alive.heard();
                        end = self.take(frames);
                    }
                    Err(error) => {
                        tracing::info!(%error, "The node that shows a participant is gone");
                        end = Some(ForwardEnd::RoomMoves);
                    }
                },
                is_alive = self.alive.tick() => {
                    put_control(&Control::Alive, &mut bytes);
                    end = (!is_alive).then_some(ForwardEnd::RoomMoves);
                }
            }
            if write(&mut self.writer, &bytes).await.is_err() {
                end = end.or(Some(ForwardEnd::RoomMoves));
            }
        }
    }

    /// Takes what the other node says: what ends it, if something does.
    fn take(&self, frames: Vec<Frame>) -> Option<ForwardEnd> {
        let mut wishes = Vec::new();
        for frame in frames {
            match frame {
                Frame::Media(wish) => wishes.push(wish),
                Frame::Control(Control::Alive) => {}
                Frame::Control(Control::Over(end)) => return Some(end),
                Frame::Control(
                    Control::Begin { .. }
                    | Control::Shown
                    | Control::Refused(_)
                    | Control::Changed(_)
                    | Control::Ended(_),
                ) => return Some(ForwardEnd::Over),
            }
        }
        self.trunk.hand_in(wishes);
        None
    }

    /// Writes how the participant is: what ends it, when it left.
    fn tell(&mut self, news: ForwardNews, bytes: &mut Vec<u8>) -> Option<ForwardEnd> {
        match news {
            ForwardNews::Changed(state) => {
                self.follow(&state);
                put_control(&Control::Changed(state), bytes);
                None
            }
            ForwardNews::Ended(reason) => {
                put_control(&Control::Ended(reason.into()), bytes);
                Some(ForwardEnd::Over)
            }
        }
    }

    fn follow(&mut self, state: &ForwardedParticipant) {
        let tracks: BTreeSet<_> = state.tracks.iter().map(|track| track.receiver.track).collect();
        self.trunk.set_tracks(state.worker, tracks);
    }
}
