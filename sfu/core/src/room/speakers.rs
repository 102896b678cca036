//! Who speaks, and how good connections are.

use std::collections::BTreeMap;

use livekit_protocol::{
    self as proto, ConnectionQuality, ConnectionQualityInfo, SpeakerInfo, SpeakersChanged,
    signal_response,
};

use super::Room;
use super::participant::ParticipantKey;
use crate::media::{AudioLevel, TrackKey};

/// Loudness from which somebody speaks, dB below overload.
const ACTIVE_DBOV: u8 = 35;
/// Share of packets that must be that loud.
const ACTIVE_PERCENT: u8 = 40;
/// Levels are told in steps of this size, so that small changes make no messages.
const LEVEL_STEP: f32 = 0.125;
/// LiveKit's score of an excellent connection.
const EXCELLENT_SCORE: f32 = 5.0;

impl Room {
    /// Tells all who began, stopped, or became clearly louder or quieter.
    pub(super) fn update_speakers(&mut self, levels: &[(TrackKey, AudioLevel)]) {
        let mut speakers: BTreeMap<ParticipantKey, f32> = BTreeMap::new();
        for (track, level) in levels {
            let Some(track) = self.tracks.get(track) else { continue };
            if level.loudest_dbov <= ACTIVE_DBOV && level.active_percent >= ACTIVE_PERCENT {
                let entry = speakers.entry(track.publisher).or_default();
                *entry = entry.max(linear(level.loudest_dbov));
            }
        }
        let stopped = self.speakers.keys().filter(|key| !speakers.contains_key(key));
        let changed: Vec<(ParticipantKey, Option<f32>)> = stopped
            .map(|key| (*key, None))
            .chain(
                speakers
                    .iter()
                    .filter(|(key, level)| self.speakers.get(key) != Some(level))
                    .map(|(key, level)| (*key, Some(*level))),
            )
            .collect();
        self.speakers = speakers;
        let mut infos: Vec<SpeakerInfo> = changed
            .into_iter()
            .filter_map(|(key, level)| {
                let participant = self.participants.get(&key)?;
                if participant.permission.hidden {
                    return None;
                }
                Some(SpeakerInfo {
                    sid: participant.sid.to_string(),
                    level: level.unwrap_or_default(),
                    active: level.is_some(),
                })
            })
            .collect();
        infos.sort_by(|a, b| b.level.total_cmp(&a.level));
        if !infos.is_empty() {
            let message = SpeakersChanged { speakers: infos };
            self.send_to_all(&signal_response::Message::SpeakersChanged(message), None);
        }
    }

    pub(super) fn forget_speaker(&mut self, key: ParticipantKey, sid: &str) {
        if self.speakers.remove(&key).is_some() {
            let info = SpeakerInfo { sid: sid.to_owned(), level: 0.0, active: false };
            let message = SpeakersChanged { speakers: vec![info] };
            self.send_to_all(&signal_response::Message::SpeakersChanged(message), None);
        }
    }

    /// Connections count as excellent until they are measured.
    pub(super) fn introduce_quality(&mut self, key: ParticipantKey) {
        let everybody: Vec<ConnectionQualityInfo> = self
            .participants
            .iter()
            .filter(|(other, p)| **other == key || !p.permission.hidden)
            .map(|(_, p)| excellent(p.sid.as_str()))
            .collect();
        let Some(participant) = self.participants.get(&key) else { return };
        let (hidden, own) = (participant.permission.hidden, excellent(participant.sid.as_str()));
        self.send(key, quality_message(everybody));
        if !hidden {
            self.send_to_all(&quality_message(vec![own]), Some(key));
        }
    }
}

fn excellent(sid: &str) -> ConnectionQualityInfo {
    ConnectionQualityInfo {
        participant_sid: sid.to_owned(),
        quality: ConnectionQuality::Excellent.into(),
        score: EXCELLENT_SCORE,
    }
}

fn quality_message(updates: Vec<ConnectionQualityInfo>) -> signal_response::Message {
    signal_response::Message::ConnectionQuality(proto::ConnectionQualityUpdate { updates })
}

/// dB below overload as a share of full loudness, in steps.
fn linear(dbov: u8) -> f32 {
    let level = 10_f32.powf(-f32::from(dbov) / 20.0);
    (level / LEVEL_STEP).ceil() * LEVEL_STEP
}
