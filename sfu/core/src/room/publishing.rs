//! Tracks that participants announce and publish.

use std::sync::Arc;

use livekit_protocol::{
    self as proto, AddTrackRequest, AudioTrackFeature, TrackInfo, TrackPublishedResponse,
    VideoLayer, VideoQuality, request_response, signal_response,
};
use rand::RngExt as _;

use super::Room;
use super::negotiation::Inbound;
use super::participant::{Participant, ParticipantKey, media_kind};
use super::sections::Wanted;
use super::track_info::{cids, codec_named, mime_type, track_info};
use crate::media::{Codec, CodecKind, MediaKind, Mid, TrackKey};
use crate::sdp::{self, Msid};
use crate::time::Now;

/// Most tracks of a participant that are announced and not yet sent.
const MAX_PENDING_TRACKS: usize = 20;
/// Most tracks of a participant in all.
const MAX_TRACKS: usize = 200;
/// Most client ids of ended tracks that are remembered; a client offers anew soon after.
const MAX_RETIRED_CIDS: usize = 64;

/// A track of a participant, from its announcement on.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) key: TrackKey,
    /// Client ids that may stand in the description's `msid`.
    pub(super) cids: Vec<String>,
    pub(super) info: TrackInfo,
    /// Section on which it is sent; `None` while only announced.
    pub(super) mid: Option<Mid>,
    /// Codec that the client asked to send.
    pub(super) preferred: Option<CodecKind>,
    /// The publisher was told that somebody receives it.
    pub(super) subscribed: bool,
    /// The track of which this one is a copy in another codec.
    pub(super) backup_of: Option<TrackKey>,
}

impl Track {
    pub(super) fn kind(&self) -> Option<MediaKind> {
        media_kind(self.info.r#type())
    }

    /// Whether Opus is to be stereo, and to send nothing in silence.
    #[expect(deprecated, reason = "older clients say it so")]
    pub(super) fn opus_wishes(&self) -> (bool, bool) {
        let has = |feature: AudioTrackFeature| self.info.audio_features.contains(&feature.into());
        let stereo = self.info.stereo || has(AudioTrackFeature::TfStereo);
        (stereo, !(self.info.disable_dtx || has(AudioTrackFeature::TfNoDtx)))
    }
}

/// What subscribers need to know of a published track.
#[derive(Debug, Clone)]
pub(super) struct LiveTrack {
    pub(super) publisher: ParticipantKey,
    pub(super) publisher_sid: String,
    pub(super) sid: String,
    pub(super) kind: MediaKind,
    pub(super) layers: Vec<VideoLayer>,
    /// Best layer that came lately.
    pub(super) best_layer: u8,
    /// What it needs of a section, shared by all who want it: with the codecs of a copy that the
    /// publisher can make.
    pub(super) wanted: Arc<Wanted>,
    /// How many of the wanted codecs are the track's own; those of the copy follow.
    pub(super) own_codecs: usize,
    /// The copy in another codec, while it is sent.
    pub(super) backup: Option<TrackKey>,
    /// All who decode the copy get it, so that the publisher need not encode twice.
    pub(super) is_regressed: bool,
}

impl LiveTrack {
    /// The track's own codecs.
    pub(super) fn own_codecs(&self) -> &[Codec] {
        self.wanted.codecs.get(..self.own_codecs).unwrap_or_default()
    }

    /// Takes what the track turned out to be encoded with.
    pub(super) fn set_own_codecs(&mut self, mut codecs: Vec<Codec>) {
        let own_codecs = codecs.len();
        codecs.extend_from_slice(self.backup_codecs());
        self.own_codecs = own_codecs;
        self.wanted = Arc::new(Wanted { codecs, ..(*self.wanted).clone() });
    }

    /// Codecs of the copy.
    pub(super) fn backup_codecs(&self) -> &[Codec] {
        self.wanted.codecs.get(self.own_codecs..).unwrap_or_default()
    }
}

impl Room {
    pub(super) fn add_track(
        &mut self,
        key: ParticipantKey,
        mut request: AddTrackRequest,
        now: Now,
    ) {
        use request_response::Reason;
        let is_enabled = |name: &str| codec_named(name).is_none_or(|kind| self.is_enabled(kind));
        request.simulcast_codecs.retain(|codec| is_enabled(&codec.codec));
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let known = participant
            .tracks
            .iter()
            .find(|track| track.mid.is_none() && track.cids.contains(&request.cid));
        if let Some(track) = known {
            let track = track.info.clone();
            return self.send_track_published(key, request.cid, track);
        }
        if !request.sid.is_empty() {
            return self.add_backup(key, request, now);
        }
        let pending = participant.tracks.iter().filter(|track| track.mid.is_none()).count();
        let refused = if !participant.may_publish(request.source()) {
            Some((Reason::NotAllowed, "does not have permission to publish this source"))
        } else if media_kind(request.r#type()).is_none() || request.cid.is_empty() {
            Some((Reason::UnsupportedType, "only audio and video tracks with a cid"))
        } else if pending >= MAX_PENDING_TRACKS || participant.tracks.len() >= MAX_TRACKS {
            Some((Reason::LimitExceeded, "too many tracks"))
        } else {
            None
        };
        if let Some((reason, message)) = refused {
            let request = request_response::Request::AddTrack(request);
            return self.respond(key, 0, reason, message, Some(request));
        }
        let track = Track {
            key: TrackKey(self.rng.random()),
            cids: cids(&request),
            preferred: request.simulcast_codecs.first().and_then(|codec| codec_named(&codec.codec)),
            info: track_info(&request, &mut self.rng),
            mid: None,
            subscribed: false,
            backup_of: None,
        };
        let info = track.info.clone();
        participant.tracks.push(track);
        self.send_track_published(key, request.cid, info);
        self.match_tracks(key, now);
    }

    pub(super) fn send_track_published(
        &mut self,
        key: ParticipantKey,
        cid: String,
        track: TrackInfo,
    ) {
        let response = TrackPublishedResponse { cid, track: Some(track) };
        self.send(key, signal_response::Message::TrackPublished(response));
    }

    /// Brings announced tracks and the sections of the last offer together, in whichever order
    /// they came; ends tracks whose section no longer sends.
    pub(super) fn match_tracks(&mut self, key: ParticipantKey, now: Now) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let gone = end_tracks(participant);
        let begun = begin_tracks(participant);
        // The sections may have changed for tracks that stay, too.
        self.dirty.insert(key);
        for (track, codecs) in &begun {
            self.begin_track(key, *track, codecs, now);
        }
        for track in &gone {
            self.end_track(track.key);
            // Who stops a track knows it; who must stop is told.
            let is_own_doing = self
                .participants
                .get(&key)
                .is_some_and(|participant| participant.may_publish(track.info.source()));
            if track.backup_of.is_some() || is_own_doing {
                continue;
            }
            let response = proto::TrackUnpublishedResponse { track_sid: track.info.sid.clone() };
            self.send(key, signal_response::Message::TrackUnpublished(response));
        }
        if gone.is_empty() && begun.is_empty() {
            return;
        }
        self.broadcast_participant(key, true, now);
        let Some(participant) = self.participants.get(&key) else { return };
        let info = participant.info();
        for track in gone.into_iter().filter(|track| track.backup_of.is_none()) {
            self.emit_track("track_unpublished", info.clone(), track.info);
        }
        let begun = begun.iter().filter_map(|(begun, _)| {
            info.tracks
                .iter()
                .find(|track| self.tracks.get(begun).is_some_and(|t| t.sid == track.sid))
        });
        let begun: Vec<TrackInfo> = begun.cloned().collect();
        if !begun.is_empty() {
            self.participant_published_jobs(key);
        }
        for track in begun {
            self.emit_track("track_published", info.clone(), track);
        }
    }

    pub(super) fn begin_track(
        &mut self,
        key: ParticipantKey,
        track: TrackKey,
        codecs: &[Codec],
        now: Now,
    ) {
        let Some(participant) = self.participants.get(&key) else { return };
        let Some(track) = participant.tracks.iter().find(|t| t.key == track) else { return };
        let Some(kind) = track.kind() else { return };
        if let Some(primary) = track.backup_of {
            return self.begin_backup(primary, track.key);
        }
        let (sid, publisher_sid) = (track.info.sid.clone(), participant.sid.to_string());
        // Sections of one stream are played in step.
        let is_synchronous = self.options.config.sync_streams;
        let stream = if is_synchronous { &track.info.stream } else { &sid };
        let msid = Msid { stream: format!("{publisher_sid}|{stream}"), track: sid.clone() };
        let mut codecs = sdp::published_codecs(codecs);
        let own_codecs = codecs.len();
        codecs.extend(super::backup::codecs(&track.info));
        let layers = track.info.codecs.first().map(|c| c.layers.clone()).unwrap_or_default();
        let track = track.key;
        self.track_sids.insert(sid.clone(), track);
        self.changed_tracks.insert(track);
        // Sound has nothing to leave out but a copy.
        if kind == MediaKind::Video || codecs.len() > own_codecs {
            self.demands.begin(track, now);
        }
        let wanted = Arc::new(Wanted { kind, sid: sid.clone(), msid, codecs });
        let live = LiveTrack {
            publisher: key,
            publisher_sid,
            sid,
            kind,
            layers,
            best_layer: 0,
            wanted,
            own_codecs,
            backup: None,
            is_regressed: false,
        };
        self.tracks.insert(track, live);
    }

    /// A track goes to nobody any more.
    pub(super) fn end_track(&mut self, track: TrackKey) {
        self.end_backup(track);
        let Some(live) = self.tracks.remove(&track) else { return };
        if let Some(backup) = live.backup {
            self.backups.remove(&backup);
        }
        self.track_sids.remove(&live.sid);
        self.demands.end(track);
        self.changed_tracks.insert(track);
        self.tracks_ended = true;
    }

    /// Returns whether the participant has the track.
    pub(super) fn set_muted(
        &mut self,
        key: ParticipantKey,
        sid: &str,
        muted: bool,
        now: Now,
    ) -> bool {
        self.change_track(key, sid, now, |info| info.muted = muted)
    }

    /// Changes what is known of a track and tells everybody when it made a difference.
    pub(super) fn change_track(
        &mut self,
        key: ParticipantKey,
        sid: &str,
        now: Now,
        change: impl FnOnce(&mut TrackInfo),
    ) -> bool {
        let Some(participant) = self.participants.get_mut(&key) else { return false };
        let Some(track) = participant.tracks.iter_mut().find(|t| t.info.sid == sid) else {
            return false;
        };
        let before = track.info.clone();
        change(&mut track.info);
        if track.info != before && track.mid.is_some() {
            self.broadcast_participant(key, true, now);
        }
        true
    }

    /// The first packets tell what a track is really encoded with.
    pub(super) fn published_codec(&mut self, track: TrackKey, codec: CodecKind, now: Now) {
        let Some(live) = self.tracks.get_mut(&track) else { return };
        let (key, sid) = (live.publisher, live.sid.clone());
        let is_told = live.own_codecs().iter().any(|known| known.kind == codec);
        if !is_told {
            let inbound = self.participants.get(&key).map(|p| p.inbound.as_slice());
            let sections = inbound.unwrap_or_default().iter().map(|section| &section.codecs);
            let codecs = sections.flatten().filter(|known| known.kind == codec).cloned();
            live.set_own_codecs(codecs.collect());
            self.changed_tracks.insert(track);
        }
        // Redundant audio may begin with what it consists of.
        let told = live.own_codecs().first().map_or(codec, |first| first.kind);
        let mime = mime_type(told);
        self.change_track(key, &sid, now, |info| {
            mime.clone_into(&mut info.mime_type);
            if let Some(first) = info.codecs.first_mut() {
                mime.clone_into(&mut first.mime_type);
            }
        });
    }

    /// Tells a publisher, once, that somebody receives its track.
    pub(super) fn track_subscribed(&mut self, track: TrackKey) {
        let Some(live) = self.tracks.get(&track) else { return };
        let key = live.publisher;
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let Some(track) = participant.tracks.iter_mut().find(|t| t.key == track) else { return };
        if !std::mem::replace(&mut track.subscribed, true) {
            let message = proto::TrackSubscribed { track_sid: track.info.sid.clone() };
            self.send(key, signal_response::Message::TrackSubscribed(message));
        }
    }
}

/// Removes tracks whose section ended, sends another track, or may no longer be published.
fn end_tracks(participant: &mut Participant) -> Vec<Track> {
    let is_there = |key: TrackKey| participant.tracks.iter().any(|track| track.key == key);
    let orphans: Vec<TrackKey> = participant
        .tracks
        .iter()
        .filter(|track| track.backup_of.is_some_and(|primary| !is_there(primary)))
        .map(|track| track.key)
        .collect();
    let ends = |participant: &Participant, track: &Track| {
        orphans.contains(&track.key)
            || track.mid.as_ref().is_some_and(|mid| {
                !participant.may_publish(track.info.source())
                    || !participant.inbound.iter().any(|s| s.mid == *mid && s.carries(track))
            })
    };
    let tracks = std::mem::take(&mut participant.tracks);
    let (gone, kept): (Vec<Track>, _) = tracks.into_iter().partition(|t| ends(participant, t));
    participant.tracks = kept;
    participant.retired_cids.extend(gone.iter().flat_map(|track| track.cids.clone()));
    let excess = participant.retired_cids.len().saturating_sub(MAX_RETIRED_CIDS);
    participant.retired_cids.drain(..excess);
    gone
}

/// Gives announced tracks their sections: by client id, or where an id was changed on the way
/// and only one track and one section of a kind are left, to each other.
fn begin_tracks(participant: &mut Participant) -> Vec<(TrackKey, Vec<Codec>)> {
    let mut begun = Vec::new();
    let Participant { tracks, inbound, retired_cids, .. } = participant;
    for section in inbound.iter() {
        let taken = |tracks: &[Track]| tracks.iter().any(|t| t.mid.as_ref() == Some(&section.mid));
        if taken(tracks) {
            continue;
        }
        let matches = |track: &Track| {
            track.mid.is_none()
                && track.kind() == Some(section.kind)
                && section.cid.as_ref().is_some_and(|cid| track.cids.contains(cid))
        };
        // What a client sends on until it offers anew.
        let is_retired = section.cid.as_ref().is_some_and(|cid| retired_cids.contains(cid));
        let index = tracks
            .iter()
            .position(matches)
            .or_else(|| if is_retired { None } else { only_pending(tracks, inbound, section) });
        if let Some(track) = index.and_then(|index| tracks.get_mut(index)) {
            publish(track, section);
            begun.push((track.key, section.codecs.clone()));
        }
    }
    begun
}

fn only_pending(tracks: &[Track], inbound: &[Inbound], section: &Inbound) -> Option<usize> {
    let known = |cid: &Option<String>| {
        cid.as_ref().is_some_and(|cid| tracks.iter().any(|track| track.cids.contains(cid)))
    };
    let sections = inbound
        .iter()
        .filter(|other| {
            other.kind == section.kind
                && !known(&other.cid)
                && !tracks.iter().any(|t| t.mid.as_ref() == Some(&other.mid))
        })
        .count();
    let mut pending = tracks.iter().enumerate().filter(|(_, track)| {
        track.mid.is_none()
            && track.kind() == Some(section.kind)
            && !inbound.iter().any(|s| s.cid.as_ref().is_some_and(|c| track.cids.contains(c)))
    });
    let (index, _) = pending.next()?;
    (sections == 1 && pending.next().is_none() && !known(&section.cid)).then_some(index)
}

fn publish(track: &mut Track, section: &Inbound) {
    track.mid = Some(section.mid.clone());
    track.info.mid.clone_from(&section.mid.0);
    if let Some(cid) = &section.cid
        && !track.cids.contains(cid)
    {
        track.cids.push(cid.clone());
        if let Some(codec) = track.info.codecs.first_mut() {
            codec.sdp_cid.clone_from(cid);
        }
    }
    if let Some(mime) = section.codecs.first().map(|codec| mime_type(codec.kind)) {
        mime.clone_into(&mut track.info.mime_type);
        if let Some(codec) = track.info.codecs.first_mut() {
            mime.clone_into(&mut codec.mime_type);
            codec.mid.clone_from(&section.mid.0);
        }
    }
}

/// The lowest layer that is at least as large as `width` × `height`.
pub(super) fn quality_for_size(layers: &[VideoLayer], width: u32, height: u32) -> VideoQuality {
    let area = |width: u32, height: u32| u64::from(width) * u64::from(height);
    layers
        .iter()
        .filter(|layer| area(layer.width, layer.height) >= area(width, height))
        .min_by_key(|layer| area(layer.width, layer.height))
        .map_or(VideoQuality::High, VideoLayer::quality)
}
