//! Participants that are shown in another room, too (`ForwardParticipant` of the server API).
//!
//! The participant's own room says how it is after every change ([`ForwardNews`]); the other room
//! shows a participant of that kind, whose tracks are mirrors of its tracks. Neither room knows
//! the other: the shell carries the news, and tells a room when the other has ended it.
//!
//! A forwarding outlives the home of either room: what a participant's room forwards is part of
//! its state (`carried`), and a room that moves says so of whom it shows ([`ForwardEnd`]).

mod carried;
mod shown;

use std::collections::BTreeMap;

use contract::ids::{Identity, RoomName};
use livekit_protocol::{DisconnectReason, ParticipantInfo, SubscriptionPermission, TrackInfo};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::info;

use super::participant::ParticipantKey;
use super::{AdministrationError, Room, RoomOutput};
use crate::media::engine::WorkerIndex;
use crate::media::{Codec, Receiver, TrackKey};
use crate::time::Now;
use carried::Carried;
pub(super) use carried::KeptForward;
pub(super) use shown::Origin;

/// Most participants of a room that are forwarded, counted for each destination.
const MAX_FORWARDS: usize = 256;

/// One participant in one other room; unique on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForwardId(pub u64);

/// A participant as another room shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForwardedParticipant {
    /// Who it is, there as here.
    pub identity: Identity,
    /// The room that it is in.
    pub room: RoomName,
    /// Name, metadata, attributes, kind and rights; without tracks, ids and state.
    pub info: ParticipantInfo,
    /// Who may subscribe to its tracks; everybody when `None`.
    pub subscribers: Option<SubscriptionPermission>,
    /// The worker that receives its tracks.
    pub worker: WorkerIndex,
    /// What it publishes.
    pub tracks: Vec<ForwardedTrack>,
}

/// A track of a forwarded participant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForwardedTrack {
    /// As its own room knows it.
    pub info: TrackInfo,
    /// What the media engine receives.
    pub receiver: Receiver,
    /// What it is encoded with.
    pub codecs: Vec<Codec>,
}

/// What a room says of a participant that it forwards.
#[derive(Debug, Clone, PartialEq)]
pub enum ForwardNews {
    /// It is like this now.
    Changed(Box<ForwardedParticipant>),
    /// It left.
    Ended(DisconnectReason),
}

/// Why a room does not show a participant of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum ForwardError {
    /// Somebody of this identity is there.
    #[error("a participant of this identity is in the destination room")]
    Taken,
    /// The room has as many participants as it may.
    #[error("room has exceeded its max participants")]
    Full,
    /// The room ends.
    #[error("the destination room is ending")]
    Ending,
}

/// What becomes of a forwarding when a room does not show the participant any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForwardEnd {
    /// It is over.
    Over,
    /// The room goes on at another home, which may show the participant again.
    RoomMoves,
}

/// Participants of this room that others show.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    live: BTreeMap<ForwardId, Forward>,
    /// Forwarded at the room's earlier home.
    carried: Vec<Carried>,
}

#[derive(Debug)]
struct Forward {
    participant: ParticipantKey,
    destination: RoomName,
    told: ForwardedParticipant,
}

impl ForwardedParticipant {
    /// The other room's track keys.
    fn sources(&self) -> Vec<TrackKey> {
        self.tracks.iter().map(|track| track.receiver.track).collect()
    }
}

/// The participant's own room.
impl Room {
    /// Begins to say how a participant is, for `destination`; `None` when that is done already.
    ///
    /// # Errors
    ///
    /// When the participant is not there, or is itself shown for another room.
    pub fn forward_participant(
        &mut self,
        id: ForwardId,
        identity: &Identity,
        destination: &RoomName,
        now: Now,
    ) -> Result<Option<ForwardedParticipant>, AdministrationError> {
        let key = self.key_of(identity)?;
        let mut known = self.forwards.live.values();
        if known.any(|known| known.participant == key && known.destination == *destination) {
            return Ok(None);
        }
        if self.forwards.live.len() >= MAX_FORWARDS {
            return Err(AdministrationError::TooManyForwards);
        }
        let told = self.forwarded(key).ok_or(AdministrationError::NoParticipant)?;
        info!(room = %self.options.name, %destination, "Participant is forwarded");
        self.demands.forward(&[], &told.sources());
        for source in told.sources() {
            self.track_subscribed(source);
        }
        let forward =
            Forward { participant: key, destination: destination.clone(), told: told.clone() };
        self.forwards.live.insert(id, forward);
        self.forwards.take_up(identity, destination);
        self.state_changed();
        self.settle(now);
        Ok(Some(told))
    }

    /// The other room does not show the participant any more.
    pub fn stop_forwarding(&mut self, id: ForwardId, now: Now) {
        if let Some(forward) = self.forwards.live.remove(&id) {
            self.demands.forward(&forward.told.sources(), &[]);
            self.state_changed();
            self.settle(now);
        }
    }

    /// Says how forwarded participants are, where that changed.
    pub(super) fn tell_forwards(&mut self) {
        let changed: Vec<(ForwardId, ForwardedParticipant)> = self
            .forwards
            .live
            .iter()
            .filter_map(|(id, forward)| Some((*id, self.forwarded(forward.participant)?)))
            .filter(|(id, state)| self.forwards.live.get(id).is_some_and(|f| f.told != *state))
            .collect();
        for (id, state) in changed {
            let Some(forward) = self.forwards.live.get_mut(&id) else { continue };
            let (before, after) = (forward.told.sources(), state.sources());
            forward.told = state.clone();
            self.demands.forward(&before, &after);
            for source in after {
                self.track_subscribed(source);
            }
            let news = ForwardNews::Changed(Box::new(state));
            self.output.push_back(RoomOutput::Forwarded { id, news });
        }
    }

    /// A participant left: other rooms end it.
    pub(super) fn end_forwards(&mut self, key: ParticipantKey, reason: DisconnectReason) {
        let before = self.forwards.live.len();
        let Self { forwards, output, demands, .. } = self;
        forwards.live.retain(|id, forward| {
            if forward.participant == key {
                demands.forward(&forward.told.sources(), &[]);
                let news = ForwardNews::Ended(reason);
                output.push_back(RoomOutput::Forwarded { id: *id, news });
            }
            forward.participant != key
        });
        if self.forwards.live.len() != before {
            self.state_changed();
        }
    }

    fn forwarded(&self, key: ParticipantKey) -> Option<ForwardedParticipant> {
        let participant = self.participants.get(&key)?;
        let known = participant.info();
        let tracks = participant.tracks.iter().filter_map(|track| {
            let live = self.tracks.get(&track.key)?;
            let receivers = &participant.publisher.receivers;
            let receiver = receivers.iter().find(|receiver| receiver.track == track.key)?;
            // Copies in other codecs stay in their room.
            let mut info = track.info.clone();
            info.codecs.truncate(1);
            let codecs = live.own_codecs().to_vec();
            Some(ForwardedTrack { info, receiver: receiver.clone(), codecs })
        });
        Some(ForwardedParticipant {
            identity: participant.identity.clone(),
            room: self.options.name.clone(),
            info: ParticipantInfo {
                name: known.name,
                metadata: known.metadata,
                attributes: known.attributes,
                kind: known.kind,
                kind_details: known.kind_details,
                permission: known.permission,
                client_protocol: known.client_protocol,
                capabilities: known.capabilities,
                ..ParticipantInfo::default()
            },
            subscribers: participant.subscribers.clone(),
            worker: participant.publisher.worker,
            tracks: tracks.collect(),
        })
    }
}
