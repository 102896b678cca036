//! Homes of rooms in Redis.

use std::time::{Duration, Instant};

use contract::ids::{NodeId, RoomName, RoomSid};
use contract::redis::{
    CLAIM_LIFE, CLAIM_ROOM, KEEP_ROOM, MOVE_ROOM, NodeRecord, NodeState, RELEASE_ROOM, RESERVATION,
    ROOM_ROW, UPDATE_ROOM,
};
use redis::{Script, ScriptInvocation};
use sfu_core::placement::{Candidate, Kept, Question, choose_home, count_reservation};
use tokio::time::timeout;

use super::{RedisStore, StoreError, millis};
use crate::placement::{CLAIM_TIMEOUT, HandOver, Home, PlacementError};

/// A candidate that never lives: a claim for it only finds homes that exist.
const NOBODY: &str = "none";

/// How long a claim waits where rooms begin again by themselves soon.
const CLAIM_PATIENCE: Duration = Duration::from_millis(4_500);
/// Wait before it is tried again.
const CLAIM_PAUSE: Duration = Duration::from_millis(100);

/// Nodes that are asked to take a room before the caller tries again later.
const MOVE_TRIES: u32 = 3;
/// Nodes that are asked to take a new room, of those that had a place a moment ago and have none.
const FULL_TRIES: u32 = 3;

/// What a script says of a room's home.
enum Found {
    Home(Box<Home>),
    /// No living home, and none was given.
    Nobody,
    /// The candidate takes no more rooms, and this one is new.
    Full,
    /// No room begins at the moment.
    Quiet,
    /// This node's idea of the time of Redis is wrong.
    Late,
    /// The room is not at home here.
    Lost,
}

impl RedisStore {
    /// The home of `room`, which becomes an open node where it has none. Waits where rooms begin
    /// again by themselves soon: after a start, or when Redis was away.
    pub(in crate::placement) async fn claim(
        &self,
        room: &RoomName,
    ) -> Result<Home, PlacementError> {
        let end = Instant::now() + CLAIM_PATIENCE;
        loop {
            match self.try_claim(room).await {
                Err(
                    error @ (PlacementError::Quiet
                    | PlacementError::Settling
                    | PlacementError::NotRenewing),
                ) => {
                    if Instant::now() >= end {
                        return Err(error);
                    }
                }
                done => return done,
            }
            tokio::time::sleep(CLAIM_PAUSE).await;
        }
    }

    async fn try_claim(&self, room: &RoomName) -> Result<Home, PlacementError> {
        let sid = RoomSid::generate(&mut rand::rng());
        let (mut nodes, region) = self.nodes_and_region();
        let mut full = 0;
        // A node that left since the last renewal is still in the list: then another is asked.
        loop {
            let time = self.may_begin();
            let chosen = time.and_then(|_| choose_home(&nodes, &region, &mut rand::rng()));
            // Then all are, as far as this node knows.
            let was_full = chosen.is_some_and(Candidate::is_full);
            let chosen = chosen.map(|node| node.record.id.clone());
            let candidate = chosen.as_ref().map_or(NOBODY, NodeId::as_str);
            match self.ask_claim(room, self.id.as_str(), candidate, &sid, time).await? {
                Found::Home(home) => return Ok(*home),
                Found::Full => {
                    full += 1;
                    if was_full || full == FULL_TRIES {
                        return Err(PlacementError::Full);
                    }
                }
                Found::Quiet => return Err(PlacementError::Quiet),
                Found::Late => return Err(PlacementError::NotRenewing),
                Found::Nobody | Found::Lost => {}
            }
            match (chosen, time) {
                (Some(chosen), _) => nodes.retain(|node| node.record.id != chosen),
                (None, Some(_)) if full > 0 => return Err(PlacementError::Full),
                (None, None) => return Err(PlacementError::NotRenewing),
                (None, Some(_)) => return Err(self.nobody_open()),
            }
        }
    }

    pub(in crate::placement) async fn claim_here(
        &self,
        room: &RoomName,
    ) -> Result<Home, PlacementError> {
        let sid = RoomSid::generate(&mut rand::rng());
        let time = self.may_begin().ok_or(PlacementError::NotRenewing)?;
        match self.ask_claim(room, self.id.as_str(), self.id.as_str(), &sid, Some(time)).await? {
            Found::Home(home) => Ok(*home),
            Found::Quiet => Err(PlacementError::Quiet),
            Found::Late => Err(PlacementError::NotRenewing),
            Found::Full => Err(PlacementError::Full),
            Found::Nobody | Found::Lost => Err(PlacementError::NoOpenNode),
        }
    }

    /// The living nodes, and the region that this one is in.
    fn nodes_and_region(&self) -> (Vec<Candidate>, String) {
        let shared = self.shared.lock();
        (shared.nodes.clone(), shared.region.clone())
    }

    /// Why there is no open node.
    fn nobody_open(&self) -> PlacementError {
        let is_settling = |node: &Candidate| node.record.state == NodeState::Settling;
        if self.shared.lock().nodes.iter().any(is_settling) {
            PlacementError::Settling
        } else {
            PlacementError::NoOpenNode
        }
    }

    pub(in crate::placement) async fn find(
        &self,
        room: &RoomName,
    ) -> Result<Option<Home>, PlacementError> {
        let sid = RoomSid::generate(&mut rand::rng());
        match self.ask_claim(room, NOBODY, NOBODY, &sid, None).await? {
            Found::Home(home) => Ok(Some(*home)),
            Found::Quiet => Err(PlacementError::Quiet),
            Found::Nobody | Found::Full | Found::Lost | Found::Late => Ok(None),
        }
    }

    pub(in crate::placement) async fn keep(
        &self,
        room: &RoomName,
        sid: &RoomSid,
        epoch: &str,
        question: Question,
    ) -> Result<Kept, PlacementError> {
        let script = Script::new(KEEP_ROOM);
        let mut call = script.prepare_invoke();
        call.key(self.keys.room(room))
            .key(self.keys.pulse())
            .key(self.keys.quiet())
            .arg(self.keys.node_prefix())
            .arg(self.id.as_str())
            .arg(epoch)
            .arg(sid.as_str())
            .arg(millis(ROOM_ROW))
            .arg(if question.asserts { "assert" } else { "resume" })
            .arg(if question.raises { "raise" } else { "same" })
            .arg(self.may_begin().unwrap_or_default())
            .arg(millis(CLAIM_LIFE));
        let mut connection = self.link.connection()?;
        let answer = timeout(CLAIM_TIMEOUT, call.invoke_async(&mut connection)).await;
        let answer: Vec<String> = answer.map_err(StoreError::from)?.map_err(StoreError::from)?;
        Ok(match <[String; 2]>::try_from(answer) {
            Ok([_, epoch]) => Kept::Here(epoch),
            Err(answer) if answer.first().is_some_and(|said| said == "gone") => Kept::Gone,
            Err(_) => Kept::Unknown,
        })
    }

    pub(in crate::placement) async fn hand_over(
        &self,
        room: &RoomName,
        epoch: &str,
        metadata: &str,
        state: &str,
    ) -> Result<HandOver, PlacementError> {
        let (mut nodes, region) = self.nodes_and_region();
        nodes.retain(|node| node.record.id != self.id);
        for _ in 0..MOVE_TRIES {
            let chosen = choose_home(&nodes, &region, &mut rand::rng());
            let Some(chosen) = chosen.map(|node| node.record.id.clone()) else { break };
            let script = Script::new(MOVE_ROOM);
            let mut call = script.prepare_invoke();
            call.key(self.keys.room(room))
                .key(self.keys.pulse())
                .key(self.keys.quiet())
                .arg(self.id.as_str())
                .arg(epoch)
                .arg(chosen.as_str())
                .arg(metadata)
                .arg(state)
                .arg(self.keys.node_prefix())
                .arg(self.keys.reservation_prefix())
                .arg(millis(ROOM_ROW))
                .arg(millis(RESERVATION));
            match self.ask_for_home(&call).await? {
                Found::Home(home) => return Ok(HandOver::Moved(home)),
                Found::Lost => return Ok(HandOver::Lost),
                Found::Quiet | Found::Late => break,
                Found::Nobody | Found::Full => nodes.retain(|node| node.record.id != chosen),
            }
        }
        Ok(HandOver::Refused)
    }

    /// Asks for the home of a room; `time` is what this node takes for that of Redis.
    async fn ask_claim(
        &self,
        room: &RoomName,
        caller: &str,
        candidate: &str,
        sid: &RoomSid,
        time: Option<u64>,
    ) -> Result<Found, StoreError> {
        let script = Script::new(CLAIM_ROOM);
        let mut call = script.prepare_invoke();
        call.key(self.keys.room(room))
            .key(self.keys.pulse())
            .key(self.keys.quiet())
            .arg(self.keys.node_prefix())
            .arg(self.keys.reservation_prefix())
            .arg(caller)
            .arg(candidate)
            .arg(sid.as_str())
            .arg(millis(ROOM_ROW))
            .arg(millis(RESERVATION))
            .arg(time.unwrap_or_default())
            .arg(millis(CLAIM_LIFE));
        self.ask_for_home(&call).await
    }

    async fn ask_for_home(&self, call: &ScriptInvocation<'_>) -> Result<Found, StoreError> {
        let mut connection = self.link.connection()?;
        let answer: Vec<String> =
            timeout(CLAIM_TIMEOUT, call.invoke_async(&mut connection)).await??;
        let [_, epoch, sid, metadata, state, record, reserved, earlier] =
            match <[String; 8]>::try_from(answer) {
                Ok(home) => home,
                Err(answer) => {
                    return Ok(match answer.first().map(String::as_str) {
                        Some("quiet") => Found::Quiet,
                        Some("late") => Found::Late,
                        Some("lost") => Found::Lost,
                        Some("full") => Found::Full,
                        Some(_) | None => Found::Nobody,
                    });
                }
            };
        let node: NodeRecord = serde_json::from_str(&record)?;
        let reserved = serde_json::from_str(&reserved)?;
        let mut shared = self.shared.lock();
        count_reservation(&mut shared.nodes, &node.id, reserved);
        let earlier = shared.lease.address_of(&NodeId::from(earlier));
        let sid = RoomSid::from(sid);
        Ok(Found::Home(Box::new(Home { node, epoch, sid, metadata, state, earlier })))
    }

    /// Ends a room. A node that leaves lets the rows be: its rooms go on elsewhere with their sid
    /// and metadata.
    pub(in crate::placement) async fn release(&self, room: &RoomName, epoch: &str) {
        if *self.stop.borrow() {
            return;
        }
        let script = Script::new(RELEASE_ROOM);
        let mut call = script.prepare_invoke();
        call.key(self.keys.room(room)).arg(self.id.as_str()).arg(epoch);
        self.write(&call, "release a room").await;
    }

    /// `false` when Redis says that the row is another's, or of another epoch.
    pub(in crate::placement) async fn update(
        &self,
        room: &RoomName,
        epoch: &str,
        metadata: &str,
        state: &str,
    ) -> bool {
        let script = Script::new(UPDATE_ROOM);
        let mut call = script.prepare_invoke();
        call.key(self.keys.room(room)).arg(self.id.as_str()).arg(epoch).arg(metadata).arg(state);
        self.write(&call, "write a room's metadata").await != Some(0)
    }
}
