//! Which codecs may be published in a room, and which of an offer's a track is asked to use.

use contract::sfu_config::RoomConfig;
use livekit_protocol::{self as proto, encryption};

use super::Room;
use super::publishing::Track;
use super::track_info::{codec_named, mime_type};
use crate::media::{Codec, CodecKind, MediaKind};
use crate::sdp;

/// All that can be forwarded.
const KNOWN: [CodecKind; 9] = [
    CodecKind::Opus,
    CodecKind::Red,
    CodecKind::Pcmu,
    CodecKind::Pcma,
    CodecKind::Vp8,
    CodecKind::H264,
    CodecKind::Vp9,
    CodecKind::Av1,
    CodecKind::H265,
];

/// Whether a codec of this media type (`video/VP8`) can be forwarded. `video/rtx` counts:
/// repairs are no codec here, but LiveKit lists them.
pub fn is_known_codec(mime: &str) -> bool {
    codec_named(mime).is_some() || mime.eq_ignore_ascii_case("video/rtx")
}

impl Room {
    /// Whether a codec may be published here.
    pub(super) fn is_enabled(&self, kind: CodecKind) -> bool {
        is_enabled(&self.options.config, kind)
    }

    /// Codecs that may be published, as clients are told.
    pub(super) fn enabled_codecs(&self) -> Vec<proto::Codec> {
        let enabled = KNOWN.into_iter().filter(|kind| self.is_enabled(*kind)).map(mime_type);
        enabled
            .map(|mime| proto::Codec { mime: mime.to_owned(), fmtp_line: String::new() })
            .collect()
    }
}

/// Whether a codec may be published in rooms of this configuration.
pub(super) fn is_enabled(config: &RoomConfig, kind: CodecKind) -> bool {
    let enabled = &config.enabled_codecs;
    enabled.is_empty() || enabled.iter().any(|mime| codec_named(mime) == Some(kind))
}

impl Track {
    /// Whether its sound is to be sent twice, so that a lost packet is no gap: unless the client
    /// says otherwise. What is encrypted cannot be taken apart for those who want it once.
    fn is_redundant(&self) -> bool {
        let is_clear = self.info.encryption() == encryption::Type::None;
        let is_wanted = match self.preferred {
            Some(preferred) => preferred == CodecKind::Red,
            None => !self.info.disable_red,
        };
        is_clear && is_wanted
    }
}

/// What an answer says of the codecs of an offered section, in the order in which `track` shall
/// use them.
pub(super) fn answered(
    mut codecs: Vec<Codec>,
    kind: MediaKind,
    track: Option<&Track>,
    config: &RoomConfig,
) -> Vec<Codec> {
    codecs.retain(|codec| is_enabled(config, codec.kind));
    let Some(track) = track else { return codecs };
    if let Some(preferred) = track.preferred {
        sdp::prefer(&mut codecs, preferred);
    }
    if kind == MediaKind::Audio {
        let opus = codecs.iter().find(|codec| codec.kind == CodecKind::Opus);
        let opus = opus.map(|codec| codec.payload_type);
        let is_redundant = track.is_redundant();
        codecs.retain(|codec| {
            codec.kind != CodecKind::Red || is_redundant && codec.red_block() == opus
        });
        if is_redundant {
            sdp::prefer(&mut codecs, CodecKind::Red);
        }
        let (stereo, dtx) = track.opus_wishes();
        sdp::set_opus(&mut codecs, stereo, dtx);
    }
    codecs
}
