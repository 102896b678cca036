//! Tracks that participants announce and publish.

use livekit_protocol::{
    self as proto, AddTrackRequest, SimulcastCodecInfo, TrackInfo, TrackPublishedResponse,
    TrackSource, TrackType, VideoLayer, VideoQuality, request_response, signal_response,
    video_layer,
};
use rand::RngExt as _;

use super::Room;
use super::negotiation::Inbound;
use super::participant::{Participant, ParticipantKey, media_kind};
use crate::media::{Codec, CodecKind, MediaKind, Mid, TrackKey};

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
}

/// What subscribers need to know of a published track.
#[derive(Debug, Clone)]
pub(super) struct LiveTrack {
    pub(super) publisher: ParticipantKey,
    pub(super) publisher_sid: String,
    pub(super) sid: String,
    pub(super) kind: MediaKind,
    pub(super) codecs: Vec<Codec>,
    pub(super) layers: Vec<VideoLayer>,
}

impl Room {
    pub(super) fn add_track(&mut self, key: ParticipantKey, request: AddTrackRequest) {
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
        self.match_tracks(key);
    }

    fn send_track_published(&mut self, key: ParticipantKey, cid: String, track: TrackInfo) {
        let response = TrackPublishedResponse { cid, track: Some(track) };
        self.send(key, signal_response::Message::TrackPublished(response));
    }

    /// Brings announced tracks and the sections of the last offer together, in whichever order
    /// they came; ends tracks whose section no longer sends.
    pub(super) fn match_tracks(&mut self, key: ParticipantKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let gone = end_tracks(participant);
        let begun = begin_tracks(participant);
        let publisher_sid = participant.sid.to_string();
        // Nobody sees a hidden participant or its tracks.
        let visible = begun.iter().filter(|_| !participant.permission.hidden);
        for (track, codecs) in visible {
            let Some(track) = participant.tracks.iter().find(|t| t.key == *track) else { continue };
            let Some(kind) = track.kind() else { continue };
            let layers = track.info.codecs.first().map(|c| c.layers.clone()).unwrap_or_default();
            let live = LiveTrack {
                publisher: key,
                publisher_sid: publisher_sid.clone(),
                sid: track.info.sid.clone(),
                kind,
                codecs: codecs.clone(),
                layers,
            };
            self.tracks.insert(track.key, live);
        }
        for (track, sid) in &gone {
            self.tracks.remove(track);
            let response = proto::TrackUnpublishedResponse { track_sid: sid.clone() };
            self.send(key, signal_response::Message::TrackUnpublished(response));
        }
        // The sections may have changed for tracks that stay, too.
        self.dirty.insert(key);
        self.tracks_ended |= !gone.is_empty();
        if !gone.is_empty() || !begun.is_empty() {
            self.dirty.extend(self.participants.keys().copied());
            self.broadcast_participant(key, false);
        }
    }

    pub(super) fn set_muted(&mut self, key: ParticipantKey, sid: &str, muted: bool) {
        self.change_track(key, sid, |info| info.muted = muted);
    }

    /// Changes what is known of a track and tells the others when it made a difference.
    pub(super) fn change_track(
        &mut self,
        key: ParticipantKey,
        sid: &str,
        change: impl FnOnce(&mut TrackInfo),
    ) -> bool {
        let Some(participant) = self.participants.get_mut(&key) else { return false };
        let Some(track) = participant.tracks.iter_mut().find(|t| t.info.sid == sid) else {
            return false;
        };
        let before = track.info.clone();
        change(&mut track.info);
        if track.info != before && track.mid.is_some() {
            self.broadcast_participant(key, false);
        }
        true
    }

    /// The first packets tell what a track is really encoded with.
    pub(super) fn published_codec(&mut self, track: TrackKey, codec: CodecKind) {
        let Some(live) = self.tracks.get(&track) else { return };
        let (key, sid) = (live.publisher, live.sid.clone());
        let Some(mime) = mime_type(codec) else { return };
        self.change_track(key, &sid, |info| {
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
fn end_tracks(participant: &mut Participant) -> Vec<(TrackKey, String)> {
    let inbound = &participant.inbound;
    let gone: Vec<(TrackKey, String)> = participant
        .tracks
        .iter()
        .filter(|track| {
            track.mid.as_ref().is_some_and(|mid| {
                !inbound.iter().any(|section| section.mid == *mid && section.carries(track))
            })
        })
        .map(|track| (track.key, track.info.sid.clone()))
        .collect();
    participant.tracks.retain(|track| !gone.iter().any(|(key, _)| *key == track.key));
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
    if let Some(mime) = section.codecs.first().and_then(|codec| mime_type(codec.kind)) {
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
        .and_then(mime_type)
        .unwrap_or_else(|| if request.r#type() == TrackType::Audio { "audio/opus" } else { "" });
    let mode = match request.r#type() {
        TrackType::Video => video_layer::Mode::OneSpatialLayerPerStream,
        TrackType::Audio | TrackType::Data => video_layer::Mode::Unused,
    };
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
        ..TrackInfo::default()
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
        "vp8" => Some(CodecKind::Vp8),
        "vp9" => Some(CodecKind::Vp9),
        "h264" => Some(CodecKind::H264),
        "av1" => Some(CodecKind::Av1),
        _ => None,
    }
}

/// The media type of a codec that we negotiate.
pub(super) fn mime_type(codec: CodecKind) -> Option<&'static str> {
    match codec {
        CodecKind::Opus => Some("audio/opus"),
        CodecKind::Vp8 => Some("video/VP8"),
        CodecKind::Vp9 => Some("video/VP9"),
        CodecKind::H264 => Some("video/H264"),
        CodecKind::Av1 => Some("video/AV1"),
        CodecKind::Red | CodecKind::Pcmu | CodecKind::Pcma | CodecKind::H265 => None,
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
