//! One participant in one other room, wherever that lives: until the participant leaves or is not
//! wanted there any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::ids::{Identity, RoomName};
use rand::RngExt as _;
use sfu_core::room::{ForwardEnd, ForwardError, ForwardId, ForwardNews};
use tokio::sync::oneshot;
use tokio::time::interval;

use super::outgoing::Outgoing;
use super::{BeginError, find_destination};
use crate::node::{Node, Route};
use crate::session::{Forwarding, RoomHandle};

/// How long the other room is looked for: longer than it takes until the lease of a node that died
/// has ended and Redis, which was away, has every room's home again.
const SHOW_AGAIN: Duration = Duration::from_secs(60);
/// Wait between two looks for it.
const SHOW_AGAIN_PAUSE: Duration = Duration::from_millis(250);

/// The participant's own room forwards it as long as this is there.
pub(super) struct Carrier {
    node: Arc<Node>,
    id: ForwardId,
    source: RoomHandle,
    destination: RoomName,
    /// Whether the other room is made where it does not exist.
    may_create: bool,
    forwarding: Forwarding,
}

/// Where the participant is shown.
pub(super) enum Shown {
    Here { room: RoomHandle, over: oneshot::Receiver<ForwardEnd> },
    There(Outgoing),
}

impl Carrier {
    /// Has the participant's own room forward it; `None` when it does already.
    pub(super) async fn new(
        node: Arc<Node>,
        source: RoomHandle,
        identity: Identity,
        destination: RoomName,
        may_create: bool,
    ) -> Result<Option<Self>, BeginError> {
        let id = ForwardId(rand::rng().random());
        let begun = source.forward(id, identity, destination.clone()).await;
        let begun = begun.map_err(|_| BeginError::NoSource)?.map_err(BeginError::Source)?;
        Ok(begun.map(|forwarding| Self { node, id, source, destination, may_create, forwarding }))
    }

    /// Shows the participant there, and goes on beside the caller.
    pub(super) async fn begin(self, room: Route) -> Result<(), BeginError> {
        match self.show(room).await {
            Ok(shown) => {
                tokio::spawn(self.run(Some(shown)));
                Ok(())
            }
            Err(error) => {
                self.source.stop_forwarding(self.id).await;
                Err(error)
            }
        }
    }

    /// Goes on until it is over; first shows the participant where it is not yet.
    pub(super) async fn run(mut self, mut shown: Option<Shown>) {
        loop {
            let Some(there) = shown.take() else {
                shown = self.show_again().await;
                if shown.is_none() {
                    break;
                }
                continue;
            };
            let end = match there {
                Shown::Here { room, over } => self.carry(&room, over).await,
                Shown::There(outgoing) => outgoing.run(&mut self.forwarding).await,
            };
            match end {
                ForwardEnd::Over => break,
                ForwardEnd::RoomMoves => {
                    tracing::debug!(destination = %self.destination, "Room of a forwarding moves");
                }
            }
        }
        self.source.stop_forwarding(self.id).await;
    }

    async fn show(&self, room: Route) -> Result<Shown, BeginError> {
        let Forwarding { epoch, state, .. } = &self.forwarding;
        match room {
            Route::Local(room) => {
                let shown = room.show(self.id, *epoch, state.clone()).await;
                let shown = shown.map_err(|_| ForwardError::Ending).and_then(|shown| shown);
                let over = shown.map_err(BeginError::Destination)?;
                Ok(Shown::Here { room, over })
            }
            Route::Remote(home) => {
                let destination = &self.destination;
                let begun = Outgoing::begin(&self.node, &home, destination, *epoch, state).await;
                begun.map(Shown::There)
            }
        }
    }

    /// Shows the participant where the other room lives by now; `None` when it is over.
    async fn show_again(&mut self) -> Option<Shown> {
        let started = Instant::now();
        let mut tries = interval(SHOW_AGAIN_PAUSE);
        while started.elapsed() < SHOW_AGAIN {
            tokio::select! {
                biased;
                news = self.forwarding.next() => match news {
                    ForwardNews::Ended(_) => return None,
                    ForwardNews::Changed(_) => continue,
                },
                _ = tries.tick() => {}
            }
            let shown = match find_destination(&self.node, &self.destination, self.may_create).await
            {
                Ok(room) => self.show(room).await,
                Err(error) => Err(error),
            };
            match shown {
                Ok(shown) => return Some(shown),
                // The participant itself is there, or it is shown for a later home of its room.
                Err(BeginError::Destination(ForwardError::Taken)) => return None,
                Err(error) => {
                    tracing::debug!(destination = %self.destination, %error, "Not shown again yet");
                }
            }
        }
        tracing::info!(destination = %self.destination, "A forwarding ends: the room is not found");
        None
    }

    /// Carries news to a room of this node.
    async fn carry(
        &mut self,
        room: &RoomHandle,
        mut over: oneshot::Receiver<ForwardEnd>,
    ) -> ForwardEnd {
        let id = self.id;
        loop {
            let news = tokio::select! {
                news = self.forwarding.next() => news,
                end = &mut over => return end.unwrap_or(ForwardEnd::RoomMoves),
            };
            // A room that ended, or does not show it, has answered `over`.
            match news {
                ForwardNews::Changed(state) => {
                    let _shown =
                        room.call(move |room, now| room.update_forwarded(id, &state, now)).await;
                }
                ForwardNews::Ended(reason) => {
                    let _ended =
                        room.call(move |room, now| room.end_forwarded(id, reason, now)).await;
                    return ForwardEnd::Over;
                }
            }
        }
    }
}
