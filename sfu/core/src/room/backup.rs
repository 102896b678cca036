//! Backup codecs: a publisher can send a copy of a track in another codec, for subscribers that
//! do not decode the first. It is told to (by `subscribed_quality_update`) when such a subscriber
//! comes, announces the copy under the sid of the track, and stops when nobody needs it. By the
//! publisher's policy the copy then goes to all (regression), and the first codec rests.
//!
//! To the engine the copy is a track of its own; to everybody else there is one track.

use std::collections::BTreeMap;

use livekit_protocol::{AddTrackRequest, BackupCodecPolicy, TrackInfo, request_response};
use rand::RngExt as _;

use super::Room;
use super::participant::{Participant, ParticipantKey};
use super::publishing::{LiveTrack, Track};
use super::track_info::{cids, codec_named, mime_type};
use crate::media::{Codec, CodecKind, TrackKey, VideoQuality};
use crate::time::Now;

/// From so many participants on a copy is sent beside the track, unless its publisher says
/// otherwise (LiveKit's default).
const REGRESSION_PARTICIPANTS: usize = 5;

/// What subscribers must decode to take the copy, by what the publisher announced.
pub(super) fn codecs(info: &TrackInfo) -> Vec<Codec> {
    let kinds = info.codecs.iter().skip(1).filter_map(|codec| codec_named(&codec.mime_type));
    kinds.map(announced).collect()
}

/// A codec before it is negotiated: in the profile that browsers encode with.
fn announced(kind: CodecKind) -> Codec {
    let fmtp = match kind {
        CodecKind::H264 => "packetization-mode=1;profile-level-id=42e01f",
        CodecKind::Opus
        | CodecKind::Red
        | CodecKind::Pcmu
        | CodecKind::Pcma
        | CodecKind::Vp8
        | CodecKind::Vp9
        | CodecKind::H265
        | CodecKind::Av1 => "",
    };
    let (clock_rate, channels) = match kind {
        CodecKind::Opus | CodecKind::Red => (48_000, 2),
        CodecKind::Pcmu | CodecKind::Pcma => (8_000, 1),
        CodecKind::Vp8 | CodecKind::Vp9 | CodecKind::H264 | CodecKind::H265 | CodecKind::Av1 => {
            (90_000, 1)
        }
    };
    Codec {
        kind,
        payload_type: 0,
        rtx_payload_type: None,
        clock_rate,
        channels,
        fmtp: fmtp.to_owned(),
        nack: true,
        pli: true,
        transport_cc: true,
        remb: false,
    }
}

fn fits(section: &[Codec], track: &[Codec]) -> bool {
    section.iter().any(|codec| track.iter().any(|published| codec.matches(published)))
}

impl LiveTrack {
    /// Whether a section with these codecs carries the copy.
    fn needs_backup(&self, section: &[Codec]) -> bool {
        fits(section, self.backup_codecs())
            && (self.is_regressed || !fits(section, self.own_codecs()))
    }
}

impl Room {
    /// What the engine calls the track that goes on a section; `None` while the copy that the
    /// subscriber needs is not sent.
    pub(super) fn sent_track(&self, track: TrackKey, section: &[Codec]) -> Option<TrackKey> {
        let live = self.tracks.get(&track)?;
        if live.needs_backup(section) { live.backup } else { Some(track) }
    }

    /// The track as everybody but the engine knows it.
    pub(super) fn primary_of(&self, track: TrackKey) -> TrackKey {
        self.backups.get(&track).copied().unwrap_or(track)
    }

    /// Copies that a subscriber needs, with the best layer it wants.
    pub(super) fn needed_backups(
        &self,
        participant: &Participant,
    ) -> BTreeMap<TrackKey, VideoQuality> {
        let ready = participant.outbound.iter().filter(|section| section.ready);
        ready
            .filter_map(|section| {
                let track = section.placed.as_ref()?.track;
                let live = self.tracks.get(&track).filter(|l| l.needs_backup(&section.codecs))?;
                let settings = &participant.subscriptions.get(&track)?.settings;
                Some((track, settings.quality(live)?))
            })
            .collect()
    }

    /// The publisher announces the copy of a track.
    pub(super) fn add_backup(&mut self, key: ParticipantKey, request: AddTrackRequest, now: Now) {
        use request_response::Reason;
        let refuse = |room: &mut Self, reason, message, request| {
            let request = request_response::Request::AddTrack(request);
            room.respond(key, 0, reason, message, Some(request));
        };
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let codec = request.simulcast_codecs.first().and_then(|codec| codec_named(&codec.codec));
        let primary = participant
            .tracks
            .iter_mut()
            .find(|track| track.info.sid == request.sid && track.backup_of.is_none());
        let Some(primary) = primary else {
            return refuse(self, Reason::NotFound, "track is not found", request);
        };
        let entry = primary
            .info
            .codecs
            .iter_mut()
            .skip(1)
            .find(|known| codec.is_some_and(|codec| known.mime_type == mime_type(codec)));
        let (Some(entry), Some(preferred)) = (entry, codec) else {
            let message = "the track was announced without this codec";
            return refuse(self, Reason::UnsupportedType, message, request);
        };
        entry.cid.clone_from(&request.cid);
        let info = primary.info.clone();
        let backup = Track {
            key: TrackKey(self.rng.random()),
            cids: cids(&request),
            info: info.clone(),
            mid: None,
            preferred: Some(preferred),
            subscribed: true,
            backup_of: Some(primary.key),
        };
        let primary = primary.key;
        // One copy at a time: a new announcement replaces one that was not sent.
        participant.tracks.retain(|track| track.backup_of != Some(primary) || track.mid.is_some());
        participant.tracks.push(backup);
        self.send_track_published(key, request.cid, info);
        self.match_tracks(key, now);
    }

    /// The copy has its section.
    pub(super) fn begin_backup(&mut self, primary: TrackKey, backup: TrackKey) {
        let is_regressed = self.regresses(primary);
        let Some(live) = self.tracks.get_mut(&primary) else { return };
        live.backup = Some(backup);
        live.is_regressed = is_regressed;
        self.backups.insert(backup, primary);
        self.wake_subscribers(primary);
    }

    /// Whether the copy, once it is sent, goes to all who decode it: as the publisher said, or
    /// where it leaves the choice, in a small room.
    fn regresses(&self, primary: TrackKey) -> bool {
        let publisher = self.tracks.get(&primary).map(|live| live.publisher);
        let publisher = publisher.and_then(|key| self.participants.get(&key));
        let mut tracks = publisher.into_iter().flat_map(|publisher| &publisher.tracks);
        let Some(track) = tracks.find(|track| track.key == primary) else { return false };
        match track.info.backup_codec_policy() {
            BackupCodecPolicy::Simulcast => false,
            BackupCodecPolicy::Regression => true,
            BackupCodecPolicy::PreferRegression => {
                self.participants.len() < REGRESSION_PARTICIPANTS
            }
        }
    }

    /// The copy is no longer sent.
    pub(super) fn end_backup(&mut self, backup: TrackKey) {
        let Some(primary) = self.backups.remove(&backup) else { return };
        if let Some(live) = self.tracks.get_mut(&primary).filter(|l| l.backup == Some(backup)) {
            live.backup = None;
            live.is_regressed = false;
        }
        self.tracks_ended = true;
        self.wake_subscribers(primary);
    }

    /// Senders of those who have the track may change.
    fn wake_subscribers(&mut self, track: TrackKey) {
        let wanting = self.participants.iter().filter(|(_, p)| p.wanted.contains_key(&track));
        self.dirty.extend(wanting.map(|(key, _)| *key).collect::<Vec<_>>());
    }
}
