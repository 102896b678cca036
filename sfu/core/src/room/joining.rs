//! Joining and resuming.

use std::time::Duration;

use contract::ids::Identity;
use livekit_protocol::participant_info::State;
use livekit_protocol::{
    self as proto, DisconnectReason, RoomAgentDispatch, RoomConfiguration, leave_request,
    signal_response,
};
use tracing::info;

use super::configuration::configuration;
use super::participant::{Participant, ParticipantKey, TransportRole, is_dependent, kind};
use super::simulate::ResumeFault;
use super::timers::{JOIN_TIMEOUT, REFRESH_INTERVAL, RESUME_TIMEOUT};
use super::{Room, RoomOutput, SessionId};
use crate::signal::join::{JoinError, JoinParams, PeerConnectionMode, Reconnect};
use crate::signal::{AGENT_PROTOCOL_VERSION, COMPATIBLE_VERSION, PROTOCOL_VERSION};
use crate::time::Now;

/// Seconds after which a client that got no pong gives the connection up.
const PING_TIMEOUT_SECONDS: i32 = 6;
/// Seconds between a client's pings.
const PING_INTERVAL_SECONDS: i32 = 2;

impl Room {
    /// Lets a participant in, or go on with its session; the answer to the client is in the
    /// output. A session that cannot be resumed is told so in a message, not by an error.
    pub fn join(&mut self, params: JoinParams, now: Now) -> Result<SessionId, JoinError> {
        if self.ended {
            return Err(JoinError::room_not_found());
        }
        self.check_token(&params.identity, &params.claims, now)?;
        if let Some(reconnect) = params.reconnect.clone() {
            let session = self.resume(&params, reconnect, now);
            self.settle(now);
            return Ok(session);
        }
        self.check_capacity(&params.identity, is_dependent(kind(&params.claims.kind)))?;
        let configuration =
            if self.visited { None } else { Some(self.token_configuration(&params)?) };
        if let Some(old) = self.identities.get(&params.identity).copied() {
            self.remove(old, DisconnectReason::DuplicateIdentity, None, now);
        }
        let identity = params.identity.clone();
        let agents = configuration.map(|wish| self.begin_configured(wish, now));
        let session = self.enter(params, now);
        self.forward_again(&identity, now);
        if let Some(agents) = agents {
            self.begin_dispatches(agents, now);
        }
        self.settle(now);
        Ok(session)
    }

    pub(super) fn check_capacity(
        &self,
        identity: &Identity,
        is_exempt: bool,
    ) -> Result<(), JoinError> {
        let limit = usize::try_from(self.options.config.max_participants).unwrap_or(usize::MAX);
        let others = self
            .participants
            .values()
            .filter(|p| !p.is_dependent() && p.identity != *identity)
            .count();
        if limit > 0 && !is_exempt && others >= limit {
            return Err(JoinError::new(403, "room has exceeded its max participants"));
        }
        Ok(())
    }

    /// What the token of the first participant says of the room (`roomConfig`, `roomPreset`).
    fn token_configuration(&self, params: &JoinParams) -> Result<RoomConfiguration, JoinError> {
        let wish = params.claims.room_config.clone().unwrap_or_default();
        let preset = &params.more_claims.room_preset;
        let wish = configuration(wish, preset, &self.options.config.presets);
        wish.map_err(|error| JoinError::new(400, error.to_string()))
    }

    /// Makes the room as its first participant wants it; returns the agents that belong to it.
    fn begin_configured(
        &mut self,
        mut wish: RoomConfiguration,
        now: Now,
    ) -> Vec<RoomAgentDispatch> {
        if !self.options.metadata.is_empty() {
            wish.metadata.clear();
        }
        let agents = std::mem::take(&mut wish.agents);
        self.update(wish.into(), now);
        agents
    }

    fn enter(&mut self, mut params: JoinParams, now: Now) -> SessionId {
        let key = ParticipantKey(self.next_id());
        let session = SessionId(self.next_id());
        let offer = params.publisher_offer.take();
        let requests = std::mem::take(&mut params.add_track_requests);
        let mut participant =
            Participant::new(key, params, self.worker, now.unix_ms, &mut self.rng);
        participant.session = Some(session);
        participant.deadlines.join = Some(now.instant + JOIN_TIMEOUT);
        participant.deadlines.refresh = Some(now.instant + REFRESH_INTERVAL);
        info!(room = %self.options.name, participant = %participant.sid, "Participant joins");
        if !std::mem::replace(&mut self.visited, true) {
            self.state_changed();
        }
        self.ends_at = None;
        self.identities.insert(participant.identity.clone(), key);
        self.sessions.insert(session, key);
        self.transports.insert(participant.publisher.id, (key, TransportRole::Publisher));
        if let Some(subscriber) = &participant.subscriber {
            self.transports.insert(subscriber.id, (key, TransportRole::Subscriber));
        }
        let was_recorded = self.is_recorded();
        self.participants.insert(key, participant);
        let response = self.join_response(key, now);
        self.send(key, signal_response::Message::Join(response));
        self.refresh_token(key, now);
        if let Some(participant) = self.participants.get_mut(&key) {
            participant.state = State::Joined;
        }
        self.broadcast_participant(key, false, now);
        self.recording_changed(key, was_recorded);
        self.count_changed(now);
        // Before the offer: its answer shall carry the tracks that are there.
        self.refresh_wanted(key);
        self.sync_data_subscriptions(key);
        for request in requests {
            self.add_track(key, request, now);
        }
        if let Some(offer) = offer {
            self.handle_offer(key, &offer, now);
        }
        self.dirty.insert(key);
        let dual = self.participants.get(&key).is_some_and(|p| p.subscriber.is_some());
        if dual {
            self.negotiate(key, now);
        }
        session
    }

    fn join_response(&self, key: ParticipantKey, now: Now) -> proto::JoinResponse {
        let participant = self.participants.get(&key);
        let other_participants = self
            .participants
            .iter()
            .filter(|(other, p)| **other != key && !p.permission.hidden)
            .map(|(_, other)| other.info())
            .collect();
        proto::JoinResponse {
            room: Some(self.info()),
            participant: participant.map(Participant::info),
            other_participants,
            server_version: COMPATIBLE_VERSION.to_owned(),
            ice_servers: self.ice_servers(key, now),
            subscriber_primary: participant.is_some_and(|p| p.subscriber.is_some()),
            client_configuration: participant.and_then(|p| self.client_configuration(&p.identity)),
            ping_timeout: PING_TIMEOUT_SECONDS,
            ping_interval: PING_INTERVAL_SECONDS,
            server_info: Some(self.server_info()),
            sif_trailer: self.sif_trailer.clone(),
            enabled_publish_codecs: self.enabled_codecs(),
            fast_publish: participant.is_some_and(|p| p.permission.can_publish),
            alternative_url: String::new(),
            server_region: String::new(),
        }
    }

    fn ice_servers(&self, key: ParticipantKey, now: Now) -> Vec<proto::IceServer> {
        let participant = self.participants.get(&key);
        let servers = |participant: &Participant| {
            self.options.ice_servers.servers_for(&participant.sid, now.unix_ms / 1000)
        };
        participant.map(servers).unwrap_or_default()
    }

    fn server_info(&self) -> proto::ServerInfo {
        proto::ServerInfo {
            edition: proto::server_info::Edition::Standard.into(),
            version: COMPATIBLE_VERSION.to_owned(),
            protocol: PROTOCOL_VERSION,
            region: String::new(),
            node_id: self.options.node_id.to_string(),
            debug_info: format!(
                "livecluster {} on {}",
                env!("CARGO_PKG_VERSION"),
                self.options.node_name
            ),
            agent_protocol: AGENT_PROTOCOL_VERSION,
        }
    }

    /// A new connection of a known session; anything else has to join anew.
    fn resume(&mut self, params: &JoinParams, reconnect: Reconnect, now: Now) -> SessionId {
        let session = SessionId(self.next_id());
        let known = self.identities.get(&params.identity).copied().filter(|key| {
            self.participants.get(key).is_some_and(|participant| {
                let sid = reconnect.participant_sid.as_deref();
                participant.origin.is_none()
                    && participant.mode == params.mode
                    && sid.is_none_or(|sid| sid == participant.sid.as_str())
            })
        });
        let Some(key) = known else {
            self.refuse_resume(session);
            return session;
        };
        if let Some(old) = self.participants.get_mut(&key).and_then(|p| p.session.replace(session))
        {
            self.sessions.remove(&old);
            self.output.push_back(RoomOutput::CloseSession { session: old });
        }
        self.sessions.insert(session, key);
        let fault = self.take_resume_fault(key);
        if fault == ResumeFault::BeforeMessages {
            self.break_session(key, now);
            return session;
        }
        self.welcome_back(key, params, now);
        if let Some(state) = reconnect.sync_state {
            self.sync_state(key, &state, now);
        }
        // Our description shall say what is wanted by now.
        self.refresh_wanted(key);
        if params.mode == PeerConnectionMode::Dual {
            self.restart_subscriber(key, now);
        }
        if let Some(offer) = &params.publisher_offer {
            self.handle_offer(key, offer, now);
        }
        self.repeat_demands(key);
        self.repeat_data_handles(key);
        if fault == ResumeFault::AfterMessages {
            self.break_session(key, now);
        }
        session
    }

    fn refuse_resume(&mut self, session: SessionId) {
        let leave = super::leaving::leave_request(
            DisconnectReason::StateMismatch,
            leave_request::Action::Reconnect,
        );
        self.send_to(session, signal_response::Message::Leave(leave));
        self.output.push_back(RoomOutput::CloseSession { session });
    }

    fn welcome_back(&mut self, key: ParticipantKey, params: &JoinParams, now: Now) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        info!(room = %self.options.name, participant = %participant.sid, "Participant resumes");
        participant.client = params.client.clone();
        participant.deadlines.signal = None;
        // What was asked on the old connection is asked again.
        participant.negotiation.pending = None;
        let lost = participant.deadlines.media.is_some();
        participant.deadlines.media = lost.then(|| now.instant + RESUME_TIMEOUT);
        let last_message_seq = participant.last_sequence;
        let response = proto::ReconnectResponse {
            ice_servers: self.ice_servers(key, now),
            client_configuration: self.client_configuration(&params.identity),
            server_info: Some(self.server_info()),
            last_message_seq,
        };
        self.send(key, signal_response::Message::Reconnect(response));
        let present = self
            .participants
            .iter()
            .filter(|(other, p)| **other == key || !p.permission.hidden)
            .map(|(_, p)| p.info());
        let gone = self
            .departed
            .iter()
            .map(|(_, info)| info.clone())
            .filter(|info| info.identity != params.identity.as_str());
        let participants = gone.chain(present).collect();
        let update = proto::ParticipantUpdate { participants };
        self.send(key, signal_response::Message::Update(update));
        let update = proto::RoomUpdate { room: Some(self.info()) };
        self.send(key, signal_response::Message::RoomUpdate(update));
        self.refresh_token(key, now);
        self.dirty.insert(key);
    }

    /// What a client that resumes says it has. Its descriptions and published tracks are those
    /// that we know: a session is resumed only where it began.
    pub(super) fn sync_state(&mut self, key: ParticipantKey, state: &proto::SyncState, now: Now) {
        if let Some(subscription) = &state.subscription {
            self.update_subscription(key, subscription);
        }
        self.disable_tracks(key, &state.track_sids_disabled);
        self.sync_data_tracks(key, &state.publish_data_tracks, now);
        if let Some(subscription) = &state.data_subscription {
            self.update_data_subscription(key, subscription);
        }
        self.replay_data(key, &state.datachannel_receive_states);
    }

    /// Tells a client which of the data tracks that it believes published are not.
    fn sync_data_tracks(
        &mut self,
        key: ParticipantKey,
        published: &[proto::PublishDataTrackResponse],
        now: Now,
    ) {
        let Some(participant) = self.participants.get(&key) else { return };
        let lost: Vec<proto::DataTrackInfo> = published
            .iter()
            .filter_map(|response| response.info.clone())
            .filter(|info| !participant.data_tracks.iter().any(|known| known.sid == info.sid))
            .collect();
        for info in lost {
            let request = proto::PublishDataTrackRequest {
                pub_handle: info.pub_handle,
                name: info.name,
                encryption: info.encryption,
                frame_encoding: info.frame_encoding,
                schema: info.schema,
            };
            self.publish_data_track(key, request, now);
        }
    }

    pub(super) fn refresh_token(&mut self, key: ParticipantKey, now: Now) {
        let Some(participant) = self.participants.get(&key) else { return };
        if let Some(session) = participant.session {
            let claims = Box::new(participant.refreshed_claims(now.unix_seconds()));
            let more_claims = participant.more_claims.clone();
            self.output.push_back(RoomOutput::RefreshToken { session, claims, more_claims });
        }
    }

    pub(super) fn is_recorded(&self) -> bool {
        self.participants.values().any(Participant::is_recorder)
    }

    /// Tells the others at once that the room is recorded, or no longer.
    pub(super) fn recording_changed(&mut self, cause: ParticipantKey, was_recorded: bool) {
        if self.is_recorded() != was_recorded {
            let update = proto::RoomUpdate { room: Some(self.info()) };
            self.send_to_all(&signal_response::Message::RoomUpdate(update), Some(cause));
        }
    }

    /// Tells the others the number of participants, a little later.
    pub(super) fn count_changed(&mut self, now: Now) {
        const DELAY: Duration = Duration::from_secs(5);
        self.update_at.get_or_insert(now.instant + DELAY);
    }
}
