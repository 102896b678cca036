//! A room's part in forwarding: ways to the tasks that carry news of participants between rooms.

use std::collections::HashMap;
use std::sync::Weak;

use contract::ids::{Identity, RoomName};
use livekit_protocol::DisconnectReason;
use sfu_core::room::{
    AdministrationError, ForwardEnd, ForwardError, ForwardId, ForwardNews, ForwardedParticipant,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Input, RoomHandle, RoomTask, now};
use crate::forwards;
use crate::node::Node;

/// A participant as its room forwards it.
pub struct Forwarding {
    /// Of the home of its room: that of a later home is greater.
    pub epoch: u64,
    /// How it is, as far as [`Self::next`] has told.
    pub state: ForwardedParticipant,
    /// The latest only. Closed when the room ended.
    news: watch::Receiver<Option<ForwardNews>>,
}

impl Forwarding {
    /// What comes next of it. Cancel-safe.
    pub async fn next(&mut self) -> ForwardNews {
        loop {
            if self.news.changed().await.is_err() {
                return ForwardNews::Ended(DisconnectReason::RoomClosed);
            }
            let Some(news) = self.news.borrow_and_update().clone() else { continue };
            if let ForwardNews::Changed(state) = &news {
                self.state.clone_from(state);
            }
            return news;
        }
    }
}

/// Who follows the participants that a room forwards, or shows for another; the room ends each in
/// its time.
pub struct Forwards {
    /// Finds other rooms.
    node: Weak<Node>,
    /// Participants of this room in others.
    news: HashMap<ForwardId, watch::Sender<Option<ForwardNews>>>,
    /// Participants of others in this room.
    shown: HashMap<ForwardId, oneshot::Sender<ForwardEnd>>,
}

impl Forwards {
    /// Of a room that forwards nobody.
    pub fn new(node: Weak<Node>) -> Self {
        Self { node, news: HashMap::new(), shown: HashMap::new() }
    }

    pub(super) fn tell(&mut self, id: ForwardId, news: ForwardNews) {
        let is_over = matches!(news, ForwardNews::Ended(_));
        if let Some(sender) = self.news.get(&id) {
            sender.send_replace(Some(news));
        }
        if is_over {
            self.news.remove(&id);
        }
    }

    pub(super) fn left(&mut self, id: ForwardId, end: ForwardEnd) {
        if let Some(sender) = self.shown.remove(&id) {
            // Whoever carries its news may have ended first.
            let _unheard = sender.send(end);
        }
    }

    /// Has a participant shown again whom the room's earlier home forwarded.
    pub(super) fn begin_again(
        &self,
        identity: Identity,
        destination: RoomName,
        own: mpsc::WeakSender<Input>,
    ) {
        let node = Weak::clone(&self.node);
        tokio::spawn(async move {
            if let (Some(node), Some(inputs)) = (node.upgrade(), own.upgrade()) {
                forwards::begin_again(node, RoomHandle { inputs }, identity, destination).await;
            }
        });
    }
}

impl RoomTask {
    pub(super) fn forward(
        &mut self,
        id: ForwardId,
        identity: &Identity,
        destination: RoomName,
        answer: oneshot::Sender<Result<Option<Forwarding>, AdministrationError>>,
    ) {
        let begun = self.room.forward_participant(id, identity, &destination, now());
        let begun = begun.map(|state| {
            let (sender, news) = watch::channel(None);
            let state = state?;
            self.forwards.news.insert(id, sender);
            // What is no number is of no store that has more than one home.
            let epoch = self.home.epoch().parse().unwrap_or_default();
            Some(Forwarding { epoch, state, news })
        });
        if answer.send(begun).is_err() {
            self.stop_forwarding(id);
        }
    }

    pub(super) fn show(
        &mut self,
        (id, epoch): (ForwardId, u64),
        state: &ForwardedParticipant,
        answer: oneshot::Sender<Result<oneshot::Receiver<ForwardEnd>, ForwardError>>,
    ) {
        let shown = self.room.show_forwarded(id, epoch, state, now()).map(|()| {
            let (sender, over) = oneshot::channel();
            self.forwards.shown.insert(id, sender);
            over
        });
        if let Err(Ok(_)) = answer.send(shown) {
            self.room.end_forwarded(id, DisconnectReason::UnknownReason, now());
        }
    }

    pub(super) fn stop_forwarding(&mut self, id: ForwardId) {
        self.forwards.news.remove(&id);
        self.room.stop_forwarding(id, now());
    }
}
