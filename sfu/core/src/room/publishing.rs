//! Tracks that participants announce and publish.

use livekit_protocol::{
    self as proto, AddTrackRequest, AudioTrackFeature, SimulcastCodecInfo, TrackInfo,
    TrackPublishedResponse, TrackSource, TrackType, VideoLayer, VideoQuality, request_response,
    signal_response, video_layer,
};
use std::sync::Arc;

use rand::RngExt as _;

use super::Room;
use super::negotiation::Inbound;
use super::participant::{Participant, ParticipantKey, media_kind};
use super::sections::Wanted;
use crate::media::{Codec, CodecKind, MediaKind, Mid, TrackKey};
use crate::sdp::{self, Msid};
use crate::time::Now;

/// Most tracks of a participant that are announced and not yet sent.
const MAX_PENDING_TRACKS: usize = 20;
/// Most tracks of a participant in all.
const MAX_TRACKS: usize = 200;

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
    /// What it needs of a section, shared by all who want it.
    pub(super) wanted: Arc<Wanted>,
}

impl LiveTrack {
    /// Name of the first codec in LiveKit's messages: `vp8`.
    pub(super) fn codec_name(&self) -> &'static str {
        let codec = self.wanted.codecs.first().map(|codec| mime_type(codec.kind));
        match codec.and_then(|mime| mime.split_once('/')) {
            Some((_, "VP8")) => "vp8",
            Some((_, "VP9")) => "vp9",
            Some((_, "H264")) => "h264",
            Some((_, "H265")) => "h265",
            Some((_, "AV1")) => "av1",
            Some((_, other)) => other,
            None => "",
        }
    }
}

impl Room {
    pub(super) fn add_track(&mut self, key: ParticipantKey, request: AddTrackRequest, now: Now) {
        use request_response::Reason;
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let known = participant
            .tracks
            .iter()
            .find(|track| track.mid.is_none() && track.cids.contains(&request.cid));
        if let Some(track) = known {
            let track = track.info.clone();
            return self.send_track_published(key, request.cid, track);
        }
        let pending = participant.tracks.iter().filter(|track| track.mid.is_none()).count();
        let refused = if !participant.may_publish(request.source()) {
            Some((Reason::NotAllowed, "does not have permission to publish this source"))
        } else if media_kind(request.r#type()).is_none() || request.cid.is_empty() {
            Some((Reason::UnsupportedType, "only audio and video tracks with a cid"))
        } else if !request.sid.is_empty() {
            Some((Reason::UnsupportedType, "backup codecs are not supported"))
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
        };
        let info = track.info.clone();
        participant.tracks.push(track);
        self.send_track_published(key, request.cid, info);
        self.match_tracks(key, now);
    }

    fn send_track_published(&mut self, key: ParticipantKey, cid: String, track: TrackInfo) {
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
            let response = proto::TrackUnpublishedResponse { track_sid: track.info.sid.clone() };
            self.send(key, signal_response::Message::TrackUnpublished(response));
        }
        if gone.is_empty() && begun.is_empty() {
            return;
        }
        self.broadcast_participant(key, false, now);
        let Some(participant) = self.participants.get(&key) else { return };
        let info = participant.info();
        for track in gone {
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

    fn begin_track(&mut self, key: ParticipantKey, track: TrackKey, codecs: &[Codec], now: Now) {
        let Some(participant) = self.participants.get(&key) else { return };
        let Some(track) = participant.tracks.iter().find(|t| t.key == track) else { return };
        let Some(kind) = track.kind() else { return };
        // Nobody sees a hidden participant or its tracks.
        if participant.permission.hidden {
            return;
        }
        let (sid, publisher_sid) = (track.info.sid.clone(), participant.sid.to_string());
        let msid = Msid { stream: format!("{publisher_sid}|{sid}"), track: sid.clone() };
        let codecs = sdp::published_codecs(codecs);
        let wanted = Wanted { kind, sid: sid.clone(), msid, codecs };
        let layers = track.info.codecs.first().map(|c| c.layers.clone()).unwrap_or_default();
        let track = track.key;
        self.track_sids.insert(sid.clone(), track);
        self.changed_tracks.insert(track);
        if kind == MediaKind::Video {
            self.demands.begin(track, now);
        }
        let wanted = Arc::new(wanted);
        let live =
            LiveTrack { publisher: key, publisher_sid, sid, kind, layers, best_layer: 0, wanted };
        self.tracks.insert(track, live);
    }

    /// A track goes to nobody any more.
    pub(super) fn end_track(&mut self, track: TrackKey) {
        let Some(live) = self.tracks.remove(&track) else { return };
        self.track_sids.remove(&live.sid);
        self.demands.end(track);
        self.changed_tracks.insert(track);
        self.tracks_ended = true;
    }

    pub(super) fn set_muted(&mut self, key: ParticipantKey, sid: &str, muted: bool, now: Now) {
        self.change_track(key, sid, now, |info| info.muted = muted);
    }

    /// Changes what is known of a track and tells the others when it made a difference.
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
            self.broadcast_participant(key, false, now);
        }
        true
    }

    /// The first packets tell what a track is really encoded with.
    pub(super) fn published_codec(&mut self, track: TrackKey, codec: CodecKind, now: Now) {
        let Some(live) = self.tracks.get_mut(&track) else { return };
        let (key, sid) = (live.publisher, live.sid.clone());
        if live.wanted.codecs.first().is_some_and(|first| first.kind != codec) {
            let inbound = self.participants.get(&key).map(|p| p.inbound.as_slice());
            let sections = inbound.unwrap_or_default().iter().map(|section| &section.codecs);
            let codecs: Vec<Codec> =
                sections.flatten().filter(|known| known.kind == codec).cloned().collect();
            live.wanted = Arc::new(Wanted { codecs, ..(*live.wanted).clone() });
            self.changed_tracks.insert(track);
        }
        let mime = mime_type(codec);
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
    let ends = |participant: &Participant, track: &Track| {
        track.mid.as_ref().is_some_and(|mid| {
            !participant.may_publish(track.info.source())
                || !participant.inbound.iter().any(|s| s.mid == *mid && s.carries(track))
        })
    };
    let tracks = std::mem::take(&mut participant.tracks);
    let (gone, kept) = tracks.into_iter().partition(|track| ends(participant, track));
    participant.tracks = kept;
    gone
}

/// Gives announced tracks their sections: by client id, or where an id was changed on the way
/// and only one track and one section of a kind are left, to each other.
fn begin_tracks(participant: &mut Participant) -> Vec<(TrackKey, Vec<Codec>)> {
    let mut begun = Vec::new();
    let Participant { tracks, inbound, .. } = participant;
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
        let index =
            tracks.iter().position(matches).or_else(|| only_pending(tracks, inbound, section));
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

fn cids(request: &AddTrackRequest) -> Vec<String> {
    let mut cids = vec![request.cid.clone()];
    cids.extend(request.simulcast_codecs.first().map(|codec| codec.cid.clone()));
    cids.retain(|cid| !cid.is_empty());
    cids
}

fn track_info(request: &AddTrackRequest, rng: &mut rand::rngs::StdRng) -> TrackInfo {
    let first = request.simulcast_codecs.first();
    let layers = first.map(|codec| &codec.layers).filter(|layers| !layers.is_empty());
    let layers = layers.unwrap_or(&request.layers).clone();
    let mime = first
        .and_then(|codec| codec_named(&codec.codec))
        .map(mime_type)
        .unwrap_or_else(|| if request.r#type() == TrackType::Audio { "audio/opus" } else { "" });
    let mode = layer_mode(request);
    #[expect(deprecated, reason = "older clients read these fields")]
    TrackInfo {
        sid: contract::ids::generate_id(sid_prefix(request.r#type(), request.source()), rng),
        r#type: request.r#type,
        name: request.name.clone(),
        muted: request.muted,
        width: request.width,
        height: request.height,
        simulcast: layers.len() > 1,
        disable_dtx: request.disable_dtx,
        source: request.source,
        layers: layers.clone(),
        mime_type: mime.to_owned(),
        codecs: vec![SimulcastCodecInfo {
            mime_type: mime.to_owned(),
            cid: request.cid.clone(),
            layers,
            video_layer_mode: mode.into(),
            ..SimulcastCodecInfo::default()
        }],
        stereo: request.stereo,
        disable_red: request.disable_red,
        encryption: request.encryption,
        stream: stream_name(request),
        audio_features: request.audio_features.clone(),
        backup_codec_policy: request.backup_codec_policy,
        packet_trailer_features: request.packet_trailer_features.clone(),
        ..TrackInfo::default()
    }
}

/// How layers are sent: as the client says, else as browsers do with its codec.
fn layer_mode(request: &AddTrackRequest) -> video_layer::Mode {
    let first = request.simulcast_codecs.first();
    let said = first.map_or(video_layer::Mode::Unused, |codec| codec.video_layer_mode());
    let scalable = || {
        let codec = first.and_then(|codec| codec_named(&codec.codec));
        matches!(codec, Some(CodecKind::Vp9 | CodecKind::Av1))
    };
    match (request.r#type(), said) {
        (TrackType::Audio | TrackType::Data, _) => video_layer::Mode::Unused,
        (TrackType::Video, video_layer::Mode::Unused) if scalable() => {
            video_layer::Mode::MultipleSpatialLayersPerStream
        }
        (TrackType::Video, video_layer::Mode::Unused) => {
            video_layer::Mode::OneSpatialLayerPerStream
        }
        (TrackType::Video, said) => said,
    }
}

/// Tracks of one stream are played in step: camera with microphone, screen with its sound.
fn stream_name(request: &AddTrackRequest) -> String {
    if !request.stream.is_empty() {
        return request.stream.clone();
    }
    match request.source() {
        TrackSource::Camera | TrackSource::Microphone => "camera",
        TrackSource::ScreenShare | TrackSource::ScreenShareAudio => "screen_share",
        TrackSource::Unknown => "unknown",
    }
    .to_owned()
}

fn sid_prefix(track_type: TrackType, source: TrackSource) -> &'static str {
    match (track_type, source) {
        (TrackType::Video, TrackSource::Camera) => "TR_VC",
        (TrackType::Video, TrackSource::ScreenShare) => "TR_VS",
        (TrackType::Audio, TrackSource::Microphone) => "TR_AM",
        (TrackType::Audio, TrackSource::ScreenShareAudio) => "TR_As",
        (TrackType::Video, _) => "TR_V",
        (TrackType::Audio, _) => "TR_A",
        (TrackType::Data, _) => "TR_D",
    }
}

/// `vp8` or `video/VP8` as a codec.
fn codec_named(name: &str) -> Option<CodecKind> {
    let lower = name.to_ascii_lowercase();
    match lower.rsplit('/').next().unwrap_or_default() {
        "opus" | "red" => Some(CodecKind::Opus),
        "pcmu" => Some(CodecKind::Pcmu),
        "pcma" => Some(CodecKind::Pcma),
        "vp8" => Some(CodecKind::Vp8),
        "vp9" => Some(CodecKind::Vp9),
        "h264" => Some(CodecKind::H264),
        "h265" => Some(CodecKind::H265),
        "av1" => Some(CodecKind::Av1),
        _ => None,
    }
}

/// The media type of a codec.
pub(super) fn mime_type(codec: CodecKind) -> &'static str {
    match codec {
        CodecKind::Opus => "audio/opus",
        CodecKind::Red => "audio/red",
        CodecKind::Pcmu => "audio/PCMU",
        CodecKind::Pcma => "audio/PCMA",
        CodecKind::Vp8 => "video/VP8",
        CodecKind::Vp9 => "video/VP9",
        CodecKind::H264 => "video/H264",
        CodecKind::H265 => "video/H265",
        CodecKind::Av1 => "video/AV1",
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
