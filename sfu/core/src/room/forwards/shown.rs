//! Participants of other rooms, as this one shows them.

use contract::access_token::MoreClaims;
use contract::ids::RoomName;
use livekit_protocol::participant_info::{KindDetail, State};
use livekit_protocol::{ClientInfo, DisconnectReason, ParticipantInfo, TrackInfo};
use rand::RngExt as _;
use tracing::info;

use super::{ForwardEnd, ForwardError, ForwardId, ForwardedParticipant, ForwardedTrack};
use crate::media::engine::WorkerIndex;
use crate::media::{MediaCommand, Mirror, Receiver, TrackKey};
use crate::room::participant::{Participant, ParticipantKey, is_dependent};
use crate::room::publishing::Track;
use crate::room::{Room, RoomOutput};
use crate::signal::join::{JoinParams, PeerConnectionMode};
use crate::time::Now;

/// What this room keeps of a participant that is another room's.
#[derive(Debug)]
pub(in crate::room) struct Origin {
    id: ForwardId,
    room: RoomName,
    /// Of that room's home.
    epoch: u64,
    worker: WorkerIndex,
    /// What the engine was told, with the other room's tracks.
    mirrors: Vec<Mirror>,
}

/// The other room.
impl Room {
    /// Shows a participant of another room from now on. `epoch` rises with each home of that room:
    /// the later one takes the place of an earlier one that was not heard to end.
    ///
    /// # Errors
    ///
    /// When somebody else of its identity is here, or nobody more may come.
    pub fn show_forwarded(
        &mut self,
        id: ForwardId,
        epoch: u64,
        state: &ForwardedParticipant,
        now: Now,
    ) -> Result<(), ForwardError> {
        if self.ended {
            return Err(ForwardError::Ending);
        }
        let identity = &state.identity;
        let known = self.identities.get(identity).copied();
        if known.is_some_and(|key| !self.gives_way(key, &state.room, epoch)) {
            return Err(ForwardError::Taken);
        }
        let is_exempt = is_dependent(state.info.kind());
        self.check_capacity(identity, is_exempt).map_err(|_| ForwardError::Full)?;
        if let Some(known) = known {
            self.remove(known, DisconnectReason::DuplicateIdentity, None, now);
        }
        let key = ParticipantKey(self.next_id());
        let mut participant = self.forwarded_participant(key, (id, epoch), state, now);
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

    fn gives_way(&self, key: ParticipantKey, room: &RoomName, epoch: u64) -> bool {
        let origin = self.participants.get(&key).and_then(|known| known.origin.as_ref());
        origin.is_some_and(|origin| origin.room == *room && origin.epoch <= epoch)
    }

    fn forwarded_key(&self, id: ForwardId) -> Option<ParticipantKey> {
        let is_it = |p: &Participant| p.origin.as_ref().is_some_and(|origin| origin.id == id);
        self.participants.iter().find(|(_, p)| is_it(p)).map(|(key, _)| *key)
    }

    fn forwarded_participant(
        &mut self,
        key: ParticipantKey,
        (id, epoch): (ForwardId, u64),
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
        let room = state.room.clone();
        participant.origin = Some(Origin { id, room, epoch, worker, mirrors: Vec::new() });
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
    pub(in crate::room) fn end_origin(
        &mut self,
        participant: &Participant,
        reason: DisconnectReason,
    ) {
        let Some(Origin { id, room: _, epoch: _, worker, mirrors }) = &participant.origin else {
            return;
        };
        if !mirrors.is_empty() {
            self.media(MediaCommand::SetMirrors {
                transport: participant.publisher.id,
                worker: *worker,
                mirrors: Vec::new(),
            });
        }
        let end = match reason {
            DisconnectReason::ServerShutdown => ForwardEnd::RoomMoves,
            _ => ForwardEnd::Over,
        };
        self.output.push_back(RoomOutput::ForwardedLeft { id: *id, end });
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
