//! How good connections are, by LiveKit's rule: a simplified E-model (ITU-T G.107) of loss and
//! delay, a level less for every layer that is missing, falling fast and recovering slowly.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use livekit_protocol::{
    self as proto, ConnectionQuality, ConnectionQualityInfo, TrackType, signal_response,
};

use super::Room;
use super::participant::{Participant, ParticipantKey};
use crate::media::{MediaKind, StreamStatistics, TrackKey, TransportId, TransportStatistics};
use crate::time::Now;

/// Changes within this time are told together.
const GATHER: Duration = Duration::from_millis(500);
/// Score of a stream without fault.
const BEST: f64 = 100.0;
/// Lowest score of a stream that runs, so that it can recover in reasonable time.
const WORST: f64 = 30.0;
/// Score of a track that should send and does not: poor at once.
const SILENT: f64 = POOR;
/// Above: excellent.
const GOOD: f64 = 80.0;
/// Above: good.
const POOR: f64 = 40.0;
/// Weight of a new measurement when it is better, or worse, than the score.
const RISE: f64 = 0.4;
const FALL: f64 = 0.8;
/// Points for each percent of lost packets: Opus repairs a part of them itself.
const AUDIO_LOSS: f64 = 8.0 / 1.5;
const VIDEO_LOSS: f64 = 10.0;
/// Points for each layer below the wanted one.
const LAYER: f64 = 35.0;

/// What is known of a participant's connection.
#[derive(Debug, Default)]
pub(super) struct Quality {
    scores: BTreeMap<(TransportId, TrackKey), f64>,
    /// The media connection has failed.
    lost: bool,
    /// Transports on which nothing comes from the participant.
    silent: BTreeSet<TransportId>,
    /// The participant is there to be told of.
    introduced: bool,
    /// What the others were told.
    told: Option<ConnectionQuality>,
}

impl Quality {
    fn score(&self) -> f64 {
        if self.is_lost() { 0.0 } else { self.scores.values().copied().fold(BEST, f64::min) }
    }

    fn is_lost(&self) -> bool {
        self.lost || !self.silent.is_empty()
    }

    fn level(&self) -> ConnectionQuality {
        match self.score() {
            _ if self.is_lost() => ConnectionQuality::Lost,
            score if score > GOOD => ConnectionQuality::Excellent,
            score if score > POOR => ConnectionQuality::Good,
            _ => ConnectionQuality::Poor,
        }
    }

    fn is_news(&self) -> bool {
        self.introduced && self.told != Some(self.level())
    }

    /// Takes a measurement of one stream.
    fn measure(&mut self, stream: (TransportId, TrackKey), measured: f64) {
        let score = self.scores.entry(stream).or_insert(BEST);
        let weight = if measured < *score { FALL } else { RISE };
        *score = (weight * measured + (1.0 - weight) * *score).max(WORST);
    }
}

impl Participant {
    fn quality_info(&self) -> ConnectionQualityInfo {
        ConnectionQualityInfo {
            participant_sid: self.sid.to_string(),
            quality: self.quality.level().into(),
            score: mean_opinion_score(self.quality.score()),
        }
    }
}

impl Room {
    /// Takes an interval's measurements of a transport.
    pub(super) fn measure_quality(&mut self, statistics: &TransportStatistics, now: Now) {
        let Some((key, _)) = self.transports.get(&statistics.transport).copied() else { return };
        let Some(participant) = self.participants.get(&key) else { return };
        let transport = statistics.transport;
        let mut scores: Vec<(TrackKey, f64)> = Vec::new();
        for stream in &statistics.received {
            let Some(live) = self.tracks.get(&stream.track) else { continue };
            scores.push((stream.track, packet_score(live.kind, stream, None)));
        }
        let silent = self.silent_tracks(participant, statistics);
        for stream in &statistics.sent {
            let Some(live) = self.tracks.get(&stream.track) else { continue };
            let missing = participant
                .sending_transport()
                .senders
                .iter()
                .find(|sender| sender.track == stream.track && live.kind == MediaKind::Video)
                .and_then(|sender| sender.max_quality)
                .map_or(0, |wanted| {
                    let best = live.best_layer.min(wanted as u8);
                    best.saturating_sub(stream.layer)
                });
            let packets = packet_score(live.kind, stream, statistics.round_trip);
            scores.push((stream.track, packets.min(BEST - LAYER * f64::from(missing))));
        }
        for stream in &statistics.received {
            if let Some(live) = self.tracks.get_mut(&stream.track) {
                live.best_layer = stream.layer;
            }
        }
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let quality = &mut participant.quality;
        // A stream that rests says nothing of the connection.
        quality.scores.retain(|(on, track), _| {
            *on != transport
                || silent.contains(track)
                || scores.iter().any(|(measured, _)| measured == track)
        });
        if statistics.is_silent {
            quality.silent.insert(transport);
        } else {
            quality.silent.remove(&transport);
        }
        for track in silent {
            quality.scores.insert((transport, track), SILENT);
        }
        for (track, score) in scores {
            quality.measure((transport, track), score);
        }
        self.quality_changed(key, now);
    }

    /// Published tracks that should send and did not.
    fn silent_tracks(
        &self,
        participant: &Participant,
        statistics: &TransportStatistics,
    ) -> Vec<TrackKey> {
        if statistics.transport != participant.publisher.id {
            return Vec::new();
        }
        participant
            .tracks
            .iter()
            .filter(|track| track.info.r#type() == TrackType::Video && track.backup_of.is_none())
            // Scores begin with the first packets.
            .filter(|track| {
                participant.quality.scores.contains_key(&(statistics.transport, track.key))
            })
            .filter(|track| !track.info.muted && self.demands.is_sent(track.key))
            .filter(|track| !statistics.received.iter().any(|stream| stream.track == track.key))
            .map(|track| track.key)
            .collect()
    }

    /// The media connection is lost, or there again.
    pub(super) fn set_lost(&mut self, key: ParticipantKey, lost: bool, now: Now) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        participant.quality.lost = lost;
        if !lost {
            participant.quality.silent.clear();
        }
        self.quality_changed(key, now);
    }

    fn quality_changed(&mut self, key: ParticipantKey, now: Now) {
        let Some(participant) = self.participants.get(&key) else { return };
        if participant.quality.is_news() {
            self.quality_due.get_or_insert(now.instant + GATHER);
        }
    }

    pub(super) fn quality_due(&self) -> Option<Instant> {
        self.quality_due.filter(|_| !self.participants.is_empty())
    }

    /// Tells all whose quality changed.
    pub(super) fn tell_quality(&mut self) {
        self.quality_due = None;
        let mut visible = Vec::new();
        let mut hidden = Vec::new();
        for (key, participant) in &mut self.participants {
            if !participant.quality.is_news() {
                continue;
            }
            participant.quality.told = Some(participant.quality.level());
            if participant.permission.hidden {
                hidden.push((*key, participant.quality_info()));
            } else {
                visible.push(participant.quality_info());
            }
        }
        for (key, info) in hidden {
            self.send(key, quality_message(vec![info]));
        }
        if !visible.is_empty() {
            self.send_to_all(&quality_message(visible), None);
        }
    }

    /// Connections count as excellent until they are measured. A newcomer learns of everybody at
    /// once, the others of it with what else changes.
    pub(super) fn introduce_quality(&mut self, key: ParticipantKey, now: Now) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        participant.quality.introduced = true;
        let everybody: Vec<ConnectionQualityInfo> = self
            .participants
            .iter()
            .filter(|(other, p)| **other == key || !p.permission.hidden)
            .map(|(_, p)| p.quality_info())
            .collect();
        self.send(key, quality_message(everybody));
        self.quality_changed(key, now);
    }
}

fn quality_message(updates: Vec<ConnectionQualityInfo>) -> signal_response::Message {
    signal_response::Message::ConnectionQuality(proto::ConnectionQualityUpdate { updates })
}

/// Points left after loss and delay. Towards us only loss counts: the round trip is measured
/// with what we send.
fn packet_score(kind: MediaKind, stream: &StreamStatistics, round_trip: Option<Duration>) -> f64 {
    let delay = round_trip.map_or(0.0, |time| time.as_secs_f64() * 1000.0 / 2.0);
    let delay_effect = if delay > 160.0 { (delay - 120.0) / 10.0 } else { delay / 40.0 };
    let weight = match kind {
        MediaKind::Audio => AUDIO_LOSS,
        MediaKind::Video => VIDEO_LOSS,
    };
    let packets = stream.packets.max(1);
    let lost_percent = stream.lost as f64 * 100.0 / packets as f64;
    (BEST - delay_effect - lost_percent * weight).max(0.0)
}

/// The score as a mean opinion score, 1 to 4.5 (ITU-T G.107 annex B).
fn mean_opinion_score(score: f64) -> f32 {
    let score = score.clamp(0.0, BEST);
    let mos = 1.0 + 0.035 * score + score * (score - 60.0) * (BEST - score) * 7e-6;
    mos.clamp(1.0, 4.5) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(packets: u64, lost: u64) -> StreamStatistics {
        let track = TrackKey(1);
        StreamStatistics { track, packets, bytes: 0, lost, jitter_ms: 0.0, layer: 0 }
    }

    fn level(kind: MediaKind, lost: u64, round_trip_ms: u64) -> ConnectionQuality {
        let mut quality = Quality::default();
        let round_trip = Some(Duration::from_millis(round_trip_ms));
        for _ in 0..10 {
            let score = packet_score(kind, &stream(1000, lost), round_trip);
            quality.measure((TransportId(1), TrackKey(1)), score);
        }
        quality.level()
    }

    #[test]
    fn levels_follow_loss_and_delay() {
        use ConnectionQuality::{Excellent, Good, Poor};
        let cases = [
            (MediaKind::Video, 0, 20, Excellent),
            (MediaKind::Video, 15, 20, Excellent),
            (MediaKind::Video, 25, 20, Good),
            (MediaKind::Video, 70, 20, Poor),
            (MediaKind::Audio, 30, 20, Excellent),
            (MediaKind::Audio, 45, 20, Good),
            (MediaKind::Audio, 130, 20, Poor),
            (MediaKind::Audio, 0, 700, Good),
        ];
        for (kind, lost, round_trip, expected) in cases {
            assert_eq!(level(kind, lost, round_trip), expected, "{kind:?} {lost} {round_trip}");
        }
    }

    #[test]
    fn quality_falls_faster_than_it_recovers() {
        let stream = (TransportId(1), TrackKey(1));
        let mut quality = Quality::default();
        quality.measure(stream, 0.0);
        assert_eq!(quality.level(), ConnectionQuality::Poor);
        quality.measure(stream, BEST);
        assert_eq!(quality.level(), ConnectionQuality::Good);
        quality.measure(stream, BEST);
        quality.measure(stream, BEST);
        assert_eq!(quality.level(), ConnectionQuality::Excellent);
    }

    #[test]
    fn scores_of_opinion_have_their_known_ends() {
        assert!((mean_opinion_score(0.0) - 1.0).abs() < 0.001);
        assert!((mean_opinion_score(100.0) - 4.5).abs() < 0.001);
    }
}
