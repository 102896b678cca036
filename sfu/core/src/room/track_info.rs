//! What the others are told of a track, made from what its publisher announced.

use livekit_protocol::{
    AddTrackRequest, BackupCodecPolicy, SimulcastCodecInfo, TrackInfo, TrackSource, TrackType,
    video_layer,
};

use crate::media::CodecKind;

pub(super) fn cids(request: &AddTrackRequest) -> Vec<String> {
    let mut cids = vec![request.cid.clone()];
    cids.extend(request.simulcast_codecs.first().map(|codec| codec.cid.clone()));
    cids.retain(|cid| !cid.is_empty());
    cids
}

pub(super) fn track_info(request: &AddTrackRequest, rng: &mut rand::rngs::StdRng) -> TrackInfo {
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
        }]
        .into_iter()
        .chain(backups(request))
        .collect(),
        stereo: request.stereo,
        disable_red: request.disable_red,
        encryption: request.encryption,
        stream: stream_name(request),
        audio_features: request.audio_features.clone(),
        backup_codec_policy: match request.r#type() {
            // As LiveKit says of audio, whose copies are made beside each other if at all.
            TrackType::Audio => BackupCodecPolicy::Simulcast.into(),
            TrackType::Video | TrackType::Data => request.backup_codec_policy,
        },
        packet_trailer_features: request.packet_trailer_features.clone(),
        ..TrackInfo::default()
    }
}

/// Further codecs that the client can send the track with, when somebody needs them.
fn backups(request: &AddTrackRequest) -> impl Iterator<Item = SimulcastCodecInfo> {
    request.simulcast_codecs.iter().skip(1).filter_map(|codec| {
        Some(SimulcastCodecInfo {
            mime_type: mime_type(codec_named(&codec.codec)?).to_owned(),
            layers: codec.layers.clone(),
            video_layer_mode: codec.video_layer_mode,
            ..SimulcastCodecInfo::default()
        })
    })
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
        (TrackType::Data, _) => video_layer::Mode::Unused,
        (TrackType::Audio, _) => video_layer::Mode::OneSpatialLayerPerStream,
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
pub(super) fn codec_named(name: &str) -> Option<CodecKind> {
    let lower = name.to_ascii_lowercase();
    match lower.rsplit('/').next().unwrap_or_default() {
        "opus" => Some(CodecKind::Opus),
        "red" => Some(CodecKind::Red),
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

/// Name of a codec in messages about layers: `vp8`.
pub(super) fn codec_name(codec: CodecKind) -> String {
    let mime = mime_type(codec);
    mime.split_once('/').map_or(mime, |(_, name)| name).to_ascii_lowercase()
}
