//! Participants that are shown in another room, too (`ForwardParticipant` of the server API).
//!
//! The participant's own room says how it is after every change ([`ForwardNews`]); the other room
//! shows a participant of that kind, whose tracks are mirrors of its tracks. Neither room knows
//! the other: the shell carries the news, and tells a room when the other has ended it.

use std::collections::BTreeMap;

use contract::access_token::MoreClaims;
use contract::ids::{Identity, RoomName};
use livekit_protocol::participant_info::{KindDetail, State};
use livekit_protocol::{
    ClientInfo, DisconnectReason, ParticipantInfo, SubscriptionPermission, TrackInfo,
};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::info;

use super::participant::{Participant, ParticipantKey, is_dependent};
use super::publishing::Track;
use super::{AdministrationError, Room, RoomOutput};
use crate::media::engine::WorkerIndex;
use crate::media::{Codec, MediaCommand, Mirror, Receiver, TrackKey};
use crate::signal::join::{JoinParams, PeerConnectionMode};
use crate::time::Now;

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

/// Participants of this room that others show.
#[derive(Debug, Default)]
pub(super) struct Forwards(BTreeMap<ForwardId, Forward>);

#[derive(Debug)]
struct Forward {
    participant: ParticipantKey,
    destination: RoomName,
    told: ForwardedParticipant,
}

/// What this room keeps of a participant that is another room's.
#[derive(Debug)]
pub(super) struct Origin {
    id: ForwardId,
    worker: WorkerIndex,
    /// What the engine was told, with the other room's tracks.
    mirrors: Vec<Mirror>,
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
        let mut known = self.forwards.0.values();
        if known.any(|known| known.participant == key && known.destination == *destination) {
            return Ok(None);
        }
        if self.forwards.0.len() >= MAX_FORWARDS {
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
        self.forwards.0.insert(id, forward);
        self.settle(now);
        Ok(Some(told))
    }

    /// The other room does not show the participant any more.
    pub fn stop_forwarding(&mut self, id: ForwardId, now: Now) {
        if let Some(forward) = self.forwards.0.remove(&id) {
            self.demands.forward(&forward.told.sources(), &[]);
            self.settle(now);
        }
    }

    /// Says how forwarded participants are, where that changed.
    pub(super) fn tell_forwards(&mut self) {
        let changed: Vec<(ForwardId, ForwardedParticipant)> = self
            .forwards
            .0
            .iter()
            .filter_map(|(id, forward)| Some((*id, self.forwarded(forward.participant)?)))
            .filter(|(id, state)| self.forwards.0.get(id).is_some_and(|f| f.told != *state))
            .collect();
        for (id, state) in changed {
            let Some(forward) = self.forwards.0.get_mut(&id) else { continue };
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
        let Self { forwards, output, demands, .. } = self;
        forwards.0.retain(|id, forward| {
            if forward.participant == key {
                demands.forward(&forward.told.sources(), &[]);
                let news = ForwardNews::Ended(reason);
                output.push_back(RoomOutput::Forwarded { id: *id, news });
            }
            forward.participant != key
        });
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

/// The other room.
impl Room {
    /// Shows a participant of another room from now on.
    ///
    /// # Errors
    ///
    /// When somebody of its identity is here, or nobody more may come.
    pub fn show_forwarded(
        &mut self,
        id: ForwardId,
        state: &ForwardedParticipant,
        now: Now,
    ) -> Result<(), ForwardError> {
        if self.ended {
            return Err(ForwardError::Ending);
        }
        let identity = &state.identity;
        if self.identities.contains_key(identity) {
            return Err(ForwardError::Taken);
        }
        let is_exempt = is_dependent(state.info.kind());
        self.check_capacity(identity, is_exempt).map_err(|_| ForwardError::Full)?;
        let key = ParticipantKey(self.next_id());
        let mut participant = self.forwarded_participant(key, id, state, now);
        take_description(&mut participant, &state.info);
        let (info, sid) = (participant.info(), participant.sid.clone());
        info!(room = %self.options.name, participant = %sid, "Shows a participant of another room");
        self.ends_at = None;
        self.identities.insert(identity.clone(), key);
        self.participants.insert(key, participant);
        let is_first = !std::mem::replace(&mut self.visited, true);
        self.broadcast_participant(key, false, now);
        self.emit("participant_joined", Some(info), None);
        self.take_forwarded(key, state, now);
        if is_first {
            self.begin_dispatches(Vec::new(), now);
        }
        self.participant_joined_jobs(key);
        self.count_changed(now);
        self.settle(now);
        Ok(())
    }

    /// Follows a participant of another room; `false` when it is not shown any more.
    pub fn update_forwarded(
        &mut self,
        id: ForwardId,
        state: &ForwardedParticipant,
        now: Now,
    ) -> bool {
        let Some(key) = self.forwarded_key(id) else { return false };
        self.take_forwarded(key, state, now);
        self.settle(now);
        true
    }

    /// A participant of another room left it.
    pub fn end_forwarded(&mut self, id: ForwardId, reason: DisconnectReason, now: Now) {
        if let Some(key) = self.forwarded_key(id) {
            self.remove(key, reason, None, now);
            self.settle(now);
        }
    }

    fn forwarded_key(&self, id: ForwardId) -> Option<ParticipantKey> {
        let is_it = |p: &Participant| p.origin.as_ref().is_some_and(|origin| origin.id == id);
        self.participants.iter().find(|(_, p)| is_it(p)).map(|(key, _)| *key)
    }

    fn forwarded_participant(
        &mut self,
        key: ParticipantKey,
        id: ForwardId,
        state: &ForwardedParticipant,
        now: Now,
    ) -> Participant {
        let (identity, worker) = (&state.identity, state.worker);
        let since = std::time::Duration::from_millis(now.unix_ms);
        let params = JoinParams {
            // It never has a token of this room.
            claims: contract::access_token::claims(identity.as_str(), since, since),
            more_claims: MoreClaims::default(),
            identity: identity.clone(),
            room: self.options.name.clone(),
            client: ClientInfo::default(),
            mode: PeerConnectionMode::Single,
            auto_subscribe: false,
            auto_subscribe_data_track: false,
            adaptive_stream: false,
            allow_pause: true,
            attributes: std::collections::HashMap::new(),
            metadata: String::new(),
            publisher_offer: None,
            add_track_requests: Vec::new(),
            reconnect: None,
        };
        let mut participant = Participant::new(key, params, worker, now.unix_ms, &mut self.rng);
        participant.state = State::Active;
        participant.origin = Some(Origin { id, worker, mirrors: Vec::new() });
        participant
    }

    /// Brings a shown participant in line with what its own room says.
    fn take_forwarded(&mut self, key: ParticipantKey, state: &ForwardedParticipant, now: Now) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let before = participant.info();
        take_description(participant, &state.info);
        let changes_visibility = before
            .permission
            .as_ref()
            .is_some_and(|known| known.hidden != participant.permission.hidden);
        let rules = state.subscribers.clone();
        if participant.subscribers != rules {
            participant.subscribers.clone_from(&rules);
            self.changed_tracks.extend(participant.tracks.iter().map(|track| track.key));
        }
        let (gone, begun) = self.take_forwarded_tracks(key, &state.tracks);
        for track in &gone {
            self.end_track(track.key);
        }
        // A sender never names a track that the engine does not have.
        self.prune_senders();
        self.set_mirrors(key, state);
        for (track, forwarded) in begun {
            self.begin_track(key, track, &forwarded.codecs, now);
        }
        for forwarded in &state.tracks {
            self.take_forwarded_codecs(key, forwarded);
        }
        if changes_visibility {
            self.visibility_changed(key, now);
        }
        self.tell_forwarded(key, &before, gone, now);
    }

    /// Takes the list of tracks; returns those that ended, and the keys of those that began.
    fn take_forwarded_tracks<'a>(
        &mut self,
        key: ParticipantKey,
        tracks: &'a [ForwardedTrack],
    ) -> (Vec<Track>, Vec<(TrackKey, &'a ForwardedTrack)>) {
        let Some(participant) = self.participants.get_mut(&key) else {
            return (Vec::new(), Vec::new());
        };
        let known = std::mem::take(&mut participant.tracks);
        let is_there = |track: &Track| tracks.iter().any(|t| t.info.sid == track.info.sid);
        let (kept, gone) = known.into_iter().partition(is_there);
        participant.tracks = kept;
        let mut begun = Vec::new();
        for forwarded in tracks {
            let is_known = |track: &&mut Track| track.info.sid == forwarded.info.sid;
            if let Some(track) = participant.tracks.iter_mut().find(is_known) {
                track.info.clone_from(&forwarded.info);
                continue;
            }
            let track = TrackKey(self.rng.random());
            begun.push((track, forwarded));
            participant.tracks.push(Track {
                key: track,
                cids: Vec::new(),
                info: forwarded.info.clone(),
                mid: Some(forwarded.receiver.mid.clone()),
                preferred: None,
                subscribed: true,
                backup_of: None,
            });
        }
        (gone, begun)
    }

    fn set_mirrors(&mut self, key: ParticipantKey, state: &ForwardedParticipant) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let key_of = |sid: &str| {
            participant.tracks.iter().find(|track| track.info.sid == sid).map(|track| track.key)
        };
        let mirrors: Vec<Mirror> = state
            .tracks
            .iter()
            .filter_map(|track| {
                let source = track.receiver.track;
                let own = key_of(&track.info.sid)?;
                Some(Mirror { source, receiver: Receiver { track: own, ..track.receiver.clone() } })
            })
            .collect();
        let transport = participant.publisher.id;
        let Some(origin) = participant.origin.as_mut().filter(|o| o.mirrors != mirrors) else {
            return;
        };
        origin.mirrors.clone_from(&mirrors);
        let worker = origin.worker;
        self.media(MediaCommand::SetMirrors { transport, worker, mirrors });
    }

    /// The first packets may have told that a track is encoded with something else.
    fn take_forwarded_codecs(&mut self, key: ParticipantKey, forwarded: &ForwardedTrack) {
        let Some(track) = self.track_by_sid(&forwarded.info.sid) else { return };
        let Some(live) = self.tracks.get_mut(&track).filter(|live| live.publisher == key) else {
            return;
        };
        if live.own_codecs() != forwarded.codecs {
            live.set_own_codecs(forwarded.codecs.clone());
            self.changed_tracks.insert(track);
        }
    }

    fn tell_forwarded(
        &mut self,
        key: ParticipantKey,
        before: &ParticipantInfo,
        gone: Vec<Track>,
        now: Now,
    ) {
        let Some(info) = self.participants.get(&key).map(Participant::info) else { return };
        if info == *before {
            return;
        }
        self.broadcast_participant(key, false, now);
        for track in gone {
            self.emit_track("track_unpublished", info.clone(), track.info);
        }
        let is_new = |track: &&TrackInfo| before.tracks.iter().all(|known| known.sid != track.sid);
        let begun: Vec<TrackInfo> = info.tracks.iter().filter(is_new).cloned().collect();
        if !begun.is_empty() {
            self.participant_published_jobs(key);
        }
        for track in begun {
            self.emit_track("track_published", info.clone(), track);
        }
    }

    /// A shown participant goes: the engine forgets its tracks, the other room is told.
    pub(super) fn end_origin(&mut self, participant: &Participant) {
        let Some(Origin { id, worker, mirrors }) = &participant.origin else { return };
        if !mirrors.is_empty() {
            self.media(MediaCommand::SetMirrors {
                transport: participant.publisher.id,
                worker: *worker,
                mirrors: Vec::new(),
            });
        }
        self.output.push_back(RoomOutput::ForwardedLeft { id: *id });
    }
}

fn take_description(participant: &mut Participant, info: &ParticipantInfo) {
    participant.name.clone_from(&info.name);
    participant.metadata.clone_from(&info.metadata);
    participant.attributes.clone_from(&info.attributes);
    participant.kind = info.kind();
    participant.kind_details.clone_from(&info.kind_details);
    let forwarded = i32::from(KindDetail::Forwarded);
    if !participant.kind_details.contains(&forwarded) {
        participant.kind_details.push(forwarded);
    }
    participant.permission = info.permission.clone().unwrap_or_default();
    participant.client.client_protocol = info.client_protocol;
    participant.client.capabilities.clone_from(&info.capabilities);
}
