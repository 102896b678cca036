//! Participants of one room in another of this node: carries what their own room says of them to
//! the room that shows them, and ends both sides together.

use std::sync::Arc;

use contract::ids::{Identity, RoomName};
use livekit_protocol::DisconnectReason;
use rand::RngExt as _;
use sfu_core::room::{AdministrationError, ForwardError, ForwardId, ForwardNews};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::node::{Node, Route};
use crate::placement::PlacementError;
use crate::session::{Forwarding, RoomHandle};

/// Why a participant is not forwarded.
#[derive(Debug, Error)]
pub enum BeginError {
    /// The participant's room has ended.
    #[error("participant does not exist")]
    NoSource,
    /// The participant's room refused.
    #[error(transparent)]
    Source(AdministrationError),
    /// The other room does not exist, and is not made by joining.
    #[error("requested room does not exist")]
    NoDestination,
    /// The other room lives on another node.
    #[error("the destination room has its home on another media node")]
    Elsewhere,
    /// The other room got no home.
    #[error("the destination room has no home")]
    Unplaced(#[source] PlacementError),
    /// The other room refused.
    #[error(transparent)]
    Destination(ForwardError),
}

/// Shows a participant of `source` in `destination` from now on, until it leaves, is removed
/// there, or one of the rooms ends. Again is no error. A destination that does not exist is made
/// only where joining makes rooms, or for somebody who `may_create` them.
///
/// # Errors
///
/// When it is not there, or the other room cannot show it.
pub async fn begin(
    node: &Arc<Node>,
    source: RoomHandle,
    identity: Identity,
    destination: &RoomName,
    may_create: bool,
) -> Result<(), BeginError> {
    let may_create = may_create || node.settings.config.room.auto_create;
    let shown_in = find_destination(node, &source, &identity, destination, may_create).await?;
    let id = ForwardId(rand::rng().random());
    let begun = source.forward(id, identity, destination.clone()).await;
    let begun = begun.map_err(|_| BeginError::NoSource)?.map_err(BeginError::Source)?;
    let Some(Forwarding { state, news }) = begun else { return Ok(()) };
    let shown = shown_in.show(id, state).await;
    let shown = shown.map_err(|_| ForwardError::Ending).and_then(|shown| shown);
    match shown {
        Ok(over) => {
            tokio::spawn(carry(id, source, shown_in, news, over));
            Ok(())
        }
        Err(error) => {
            source.stop_forwarding(id).await;
            Err(BeginError::Destination(error))
        }
    }
}

/// The other room; one that does not exist begins here, but only for somebody who is there.
async fn find_destination(
    node: &Arc<Node>,
    source: &RoomHandle,
    identity: &Identity,
    destination: &RoomName,
    may_create: bool,
) -> Result<RoomHandle, BeginError> {
    let wanted = identity.clone();
    let is_there = source.call(move |room, _| room.participant(&wanted).is_some()).await;
    if !is_there.unwrap_or_default() {
        return Err(BeginError::NoSource);
    }
    if !may_create && node.rooms.get(destination).is_none() {
        return match node.placement.find(destination).await {
            Ok(Some(_)) => Err(BeginError::Elsewhere),
            Ok(None) => Err(BeginError::NoDestination),
            Err(error) => Err(BeginError::Unplaced(error)),
        };
    }
    match node.route_here(destination).await.map_err(BeginError::Unplaced)? {
        Route::Local(handle) => Ok(handle),
        Route::Remote(_) => Err(BeginError::Elsewhere),
    }
}

/// Carries news until one side ends.
async fn carry(
    id: ForwardId,
    source: RoomHandle,
    shown_in: RoomHandle,
    mut news: tokio::sync::watch::Receiver<Option<ForwardNews>>,
    mut over: oneshot::Receiver<()>,
) {
    loop {
        let changed = tokio::select! {
            changed = news.changed() => changed,
            _ = &mut over => return source.stop_forwarding(id).await,
        };
        let latest = match changed {
            Ok(()) => news.borrow_and_update().clone(),
            // The participant's room ended.
            Err(_) => Some(ForwardNews::Ended(DisconnectReason::RoomClosed)),
        };
        match latest {
            Some(ForwardNews::Changed(state)) => {
                // A room that ended, or does not show it, has closed `over`.
                let _shown =
                    shown_in.call(move |room, now| room.update_forwarded(id, &state, now)).await;
            }
            Some(ForwardNews::Ended(reason)) => {
                let _ended =
                    shown_in.call(move |room, now| room.end_forwarded(id, reason, now)).await;
                return;
            }
            None => {}
        }
    }
}
