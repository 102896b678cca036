//! Who speaks.

use std::collections::BTreeMap;
use std::time::Duration;

use livekit_protocol::{SpeakerInfo, SpeakersChanged, signal_response};

use super::Room;
use super::participant::ParticipantKey;
use crate::media::{AudioLevel, TrackKey};
use crate::time::Now;

/// Loudness from which somebody speaks, dB below overload.
const ACTIVE_DBOV: u8 = 35;
/// Share of packets that must be that loud.
const ACTIVE_PERCENT: u8 = 40;
/// Levels are told in steps of this size, so that small changes make no messages.
const LEVEL_STEP: f32 = 0.125;
/// Loudness of a simulated speaker.
const SIMULATED_LEVEL: f32 = 0.75;
/// Longest simulated speech.
const MAX_SIMULATED_SECONDS: u64 = 60;

impl Room {
    /// Tells all who began, stopped, or became clearly louder or quieter.
    pub(super) fn update_speakers(&mut self, levels: &[(TrackKey, AudioLevel)]) {
        for (track, level) in levels {
            let is_active =
                level.loudest_dbov <= ACTIVE_DBOV && level.active_percent >= ACTIVE_PERCENT;
            if is_active {
                self.loudness.insert(*track, linear(level.loudest_dbov));
            } else {
                self.loudness.remove(track);
            }
        }
        let mut speakers: BTreeMap<ParticipantKey, f32> = BTreeMap::new();
        self.loudness.retain(|track, loudness| {
            let Some(track) = self.tracks.get(track) else { return false };
            let entry = speakers.entry(track.publisher).or_default();
            *entry = entry.max(*loudness);
            true
        });
        if let Some((key, _)) = self.simulated_speaker {
            speakers.insert(key, SIMULATED_LEVEL);
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

    /// Shows a participant as speaking for some seconds.
    pub(super) fn simulate_speaker(&mut self, key: ParticipantKey, seconds: i32, now: Now) {
        let seconds = u64::try_from(seconds).unwrap_or(0).min(MAX_SIMULATED_SECONDS);
        self.simulated_speaker = Some((key, now.instant + Duration::from_secs(seconds)));
        self.update_speakers(&[]);
    }

    pub(super) fn end_simulated_speaker(&mut self) {
        self.simulated_speaker = None;
        self.update_speakers(&[]);
    }
}

/// dB below overload as a share of full loudness, in steps.
fn linear(dbov: u8) -> f32 {
    let level = 10_f32.powf(-f32::from(dbov) / 20.0);
    (level / LEVEL_STEP).ceil() * LEVEL_STEP
}
