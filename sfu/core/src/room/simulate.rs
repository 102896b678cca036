//! Scenarios by which the clients' own tests make a server misbehave.

use std::collections::VecDeque;

use contract::ids::Identity;
use livekit_protocol::simulate_scenario::Scenario;
use livekit_protocol::{
    CandidateProtocol, ClientConfigSetting, ClientConfiguration, DisconnectReason,
    SimulateScenario, leave_request::Action,
};

use super::participant::ParticipantKey;
use super::{Room, RoomOutput};
use crate::media::engine::WorkerIndex;
use crate::media::{self, LocalCandidate, MediaCommand};
use crate::time::Now;

/// Most participants whose wish for another protocol is remembered.
const MAX_PREFERENCES: usize = 128;

/// What goes wrong at the next resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum ResumeFault {
    #[default]
    None,
    /// The connection closes after the messages of the resume.
    AfterMessages,
    /// The connection closes before any.
    BeforeMessages,
}

/// Over what participants that asked for it shall connect, the latest last.
#[derive(Debug, Default)]
pub(super) struct Preferences(VecDeque<(Identity, CandidateProtocol)>);

impl Preferences {
    fn set(&mut self, identity: Identity, protocol: CandidateProtocol) {
        self.0.retain(|(known, _)| *known != identity);
        if self.0.len() == MAX_PREFERENCES {
            self.0.pop_front();
        }
        self.0.push_back((identity, protocol));
    }

    fn of(&self, identity: &Identity) -> Option<CandidateProtocol> {
        self.0.iter().find(|(known, _)| known == identity).map(|(_, protocol)| *protocol)
    }
}

impl Room {
    pub(super) fn simulate(&mut self, key: ParticipantKey, request: SimulateScenario, now: Now) {
        match request.scenario {
            Some(Scenario::SpeakerUpdate(seconds)) => self.simulate_speaker(key, seconds, now),
            // The node knows nothing of the participant any more and says nothing.
            Some(Scenario::NodeFailure(true)) => self.remove_silently(key, now),
            Some(Scenario::Migration(true)) => {
                self.remove(key, DisconnectReason::Migration, Some(Action::Reconnect), now);
            }
            Some(Scenario::ServerLeave(true)) => {
                self.remove(key, DisconnectReason::ServerShutdown, None, now);
            }
            Some(Scenario::LeaveRequestFullReconnect(true)) => {
                self.remove(key, DisconnectReason::UnknownReason, Some(Action::Reconnect), now);
            }
            Some(Scenario::SwitchCandidateProtocol(protocol)) => {
                let protocol = CandidateProtocol::try_from(protocol).unwrap_or_default();
                if let Some(participant) = self.participants.get(&key) {
                    self.preferences.set(participant.identity.clone(), protocol);
                }
            }
            Some(Scenario::DisconnectSignalOnResume(true)) => {
                self.set_resume_fault(key, ResumeFault::AfterMessages);
            }
            Some(Scenario::DisconnectSignalOnResumeNoMessages(true)) => {
                self.set_resume_fault(key, ResumeFault::BeforeMessages);
            }
            Some(
                Scenario::NodeFailure(false)
                | Scenario::Migration(false)
                | Scenario::ServerLeave(false)
                | Scenario::LeaveRequestFullReconnect(false)
                | Scenario::DisconnectSignalOnResume(false)
                | Scenario::DisconnectSignalOnResumeNoMessages(false),
            ) => {}
            Some(Scenario::SubscriberBandwidth(bits)) => {
                let Some(participant) = self.participants.get(&key) else { return };
                let transport = participant.sending_transport().id;
                let limit = u64::try_from(bits).ok().filter(|bits| *bits > 0);
                self.media(MediaCommand::LimitBandwidth { transport, limit });
            }
            None => self.unsupported(key, 0),
        }
    }

    fn set_resume_fault(&mut self, key: ParticipantKey, fault: ResumeFault) {
        if let Some(participant) = self.participants.get_mut(&key) {
            participant.resume_fault = fault;
        }
    }

    /// Takes the fault of this resume, if any.
    pub(super) fn take_resume_fault(&mut self, key: ParticipantKey) -> ResumeFault {
        self.participants
            .get_mut(&key)
            .map(|participant| std::mem::take(&mut participant.resume_fault))
            .unwrap_or_default()
    }

    /// The signal connection breaks; the participant may resume.
    pub(super) fn break_session(&mut self, key: ParticipantKey, now: Now) {
        let Some(session) = self.participants.get(&key).and_then(|p| p.session) else { return };
        self.output.push_back(RoomOutput::CloseSession { session });
        self.handle_session_closed(session, now);
    }

    /// Where we receive from a participant.
    pub(super) fn candidates_for(
        &self,
        identity: &Identity,
        worker: WorkerIndex,
    ) -> Vec<LocalCandidate> {
        let datagrams = !matches!(self.preferences.of(identity), Some(CandidateProtocol::Tcp));
        let all = self.options.candidates_of(worker);
        let wanted: Vec<LocalCandidate> = all
            .iter()
            .filter(|c| datagrams || c.protocol == media::CandidateProtocol::TcpPassive)
            .copied()
            .collect();
        // A node without TCP is reached by datagrams or not at all.
        if wanted.is_empty() { all.to_vec() } else { wanted }
    }

    /// TLS is spoken by relays only.
    pub(super) fn client_configuration(&self, identity: &Identity) -> Option<ClientConfiguration> {
        let wants_tls = self.preferences.of(identity) == Some(CandidateProtocol::Tls);
        (wants_tls || self.options.relay_only).then(|| ClientConfiguration {
            force_relay: ClientConfigSetting::Enabled.into(),
            ..ClientConfiguration::default()
        })
    }
}
