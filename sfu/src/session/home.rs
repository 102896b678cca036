//! The home of one room in the store: its row is written and confirmed beside the room's work,
//! which waits for it only while the room moves.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use contract::ids::{NodeId, RoomName, RoomSid};
use contract::redis::{NodeRecord, ROOM_RENEWAL};
use futures::FutureExt as _;
use futures::future::Fuse;
use sfu_core::placement::{Hold, Kept, Question, Verdict};
use sfu_core::room::Room;
use tokio::sync::watch;
use tokio::time::{Interval, interval};

use crate::peer::PeerClient;
use crate::placement::{HandOver, Home, Placement, PlacementError};

/// Path by which a room's old home has the new one begin it; the body is the room's name.
pub const ADOPT: &str = "/peer/rooms/adopt";
/// Time that the new home gets to begin a room. One that does not answer begins it with the first
/// client that comes.
const ADOPT_TIMEOUT: Duration = Duration::from_secs(1);
/// Wait before a home that could not be confirmed is asked for again.
const KEEP_PAUSE: Duration = Duration::from_secs(1);

/// What a question to the store came to.
pub(super) enum Stored {
    /// The room's state was written, as far as one can tell; `false` when the row is not ours.
    Written(bool),
    /// The store was asked for the home.
    Kept(Question, Result<Kept, PlacementError>),
}

type Work = Fuse<Pin<Box<dyn Future<Output = Stored> + Send>>>;

/// A room's home as this node has it.
pub struct RoomHome {
    name: RoomName,
    /// Outlives the home.
    sid: RoomSid,
    hold: Hold,
    placement: Arc<Placement>,
    peers: Option<Arc<PeerClient>>,
    node_name: String,
    node_id: NodeId,
    /// Version of the room's state that the store has.
    written: Option<u64>,
    is_keep_due: bool,
    work: Work,
    renewal: Interval,
    returns: watch::Receiver<()>,
}

impl RoomHome {
    /// The home that was claimed in this `term` of the node.
    pub fn new(
        name: RoomName,
        home: &Home,
        term: u64,
        placement: Arc<Placement>,
        peers: Option<Arc<PeerClient>>,
        node_name: String,
    ) -> Self {
        let mut renewal = interval(ROOM_RENEWAL);
        renewal.reset();
        let returns = placement.returns();
        // A term that began since was said to nobody who has just subscribed.
        let is_keep_due = term != placement.term();
        Self {
            name,
            sid: home.sid.clone(),
            hold: Hold::new(home.epoch.clone(), term),
            node_id: placement.node_id(),
            placement,
            peers,
            node_name,
            written: None,
            is_keep_due,
            work: Fuse::terminated(),
            renewal,
            returns,
        }
    }

    pub(super) fn name(&self) -> &RoomName {
        &self.name
    }

    /// This node.
    pub(super) fn node_id(&self) -> &NodeId {
        &self.node_id
    }

    pub(super) fn epoch(&self) -> &str {
        self.hold.epoch()
    }

    /// Whether the room may admit participants.
    pub(super) fn may_admit(&self) -> bool {
        self.placement.may_admit() && self.hold.may_admit(self.placement.term())
    }

    /// Waits until there is something to do or an answer is there. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Stored> {
        tokio::select! {
            stored = &mut self.work => return Some(stored),
            _ = self.renewal.tick() => {}
            Ok(()) = self.returns.changed() => {}
        }
        self.is_keep_due = true;
        None
    }

    /// Takes an answer of the store; `true` when the room has another home and ends here.
    pub(super) fn stored(&mut self, stored: Stored) -> bool {
        let (question, kept) = match stored {
            Stored::Written(is_ours) => {
                self.is_keep_due |= !is_ours;
                return false;
            }
            Stored::Kept(question, kept) => (question, kept),
        };
        let kept = kept.unwrap_or_else(|error| {
            tracing::warn!(room = %self.name, %error, "Room's home not kept");
            Kept::Unknown
        });
        if kept == Kept::Gone {
            tracing::warn!(room = %self.name, "Room has another home");
        }
        match self.hold.kept(question, kept) {
            Verdict::Stays => false,
            Verdict::Rewrite => {
                self.written = None;
                false
            }
            Verdict::AskAgain => {
                self.is_keep_due = true;
                false
            }
            Verdict::Gone => true,
        }
    }

    /// Begins what is due next, unless the store has not answered the last yet.
    pub(super) fn go_on(&mut self, room: &Room) {
        use futures::future::FusedFuture as _;
        if !self.work.is_terminated() || self.hold.has_moved() {
            return;
        }
        let placement = Arc::clone(&self.placement);
        let (name, sid, epoch) =
            (self.name.clone(), self.sid.clone(), self.hold.epoch().to_owned());
        let version = room.state_version();
        if std::mem::take(&mut self.is_keep_due) {
            let question = self.hold.question(placement.term(), placement.fenced_term());
            let work = async move {
                let kept = placement.keep(&name, &sid, &epoch, question).await;
                if !matches!(kept, Ok(Kept::Here(_) | Kept::Gone)) {
                    tokio::time::sleep(KEEP_PAUSE).await;
                }
                Stored::Kept(question, kept)
            };
            self.work = work.boxed().fuse();
        } else if self.written != Some(version) {
            self.written = Some(version);
            let (metadata, state) = (room.info().metadata, room.state().to_json());
            let work = async move {
                Stored::Written(placement.update(&name, &epoch, &metadata, &state).await)
            };
            self.work = work.boxed().fuse();
        }
    }

    /// Gives the room to another node: first in the store, so that from then on nobody is admitted
    /// here; then the new home begins it. `true` when the room is to end here.
    pub(super) async fn hand_over(&mut self, room: &Room) -> bool {
        let (metadata, state) = (room.info().metadata, room.state().to_json());
        match self.placement.hand_over(&self.name, self.hold.epoch(), &metadata, &state).await {
            Ok(HandOver::Moved(home)) => {
                tracing::info!(room = %self.name, home = home.node.name, "Room moves");
                self.hold.moved();
                self.adopt(&home.node).await;
                true
            }
            Ok(HandOver::Refused) => false,
            Ok(HandOver::Lost) => {
                self.doubt();
                false
            }
            Err(error) => {
                // It may have moved all the same.
                tracing::warn!(room = %self.name, %error, "Room not moved");
                self.doubt();
                false
            }
        }
    }

    /// Has the epoch compared with the store's.
    pub(super) fn confirm(&mut self) {
        self.is_keep_due = true;
    }

    /// Has the home confirmed before the next join.
    fn doubt(&mut self) {
        self.hold.doubt();
        self.is_keep_due = true;
    }

    async fn adopt(&mut self, home: &NodeRecord) {
        let Some(peers) = &self.peers else { return };
        let name = self.name.to_string().into();
        if peers.post(home.address, &self.node_name, ADOPT, name, ADOPT_TIMEOUT).await.is_none() {
            tracing::warn!(room = %self.name, home = home.name, "New home has not begun the room");
        }
    }

    /// The room is over: the next of its name is another.
    pub(super) async fn release(&mut self) {
        if !self.hold.has_moved() {
            self.placement.release(&self.name, self.hold.epoch()).await;
        }
    }
}
