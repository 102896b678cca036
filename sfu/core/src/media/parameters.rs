//! Negotiated parameters of RTP media sections, in the words of RFC 8829 and RFC 9143.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How often [`super::MediaEvent::AudioLevels`] comes: LiveKit's interval of speaker updates.
pub const AUDIO_LEVEL_INTERVAL: Duration = Duration::from_millis(400);

/// How often [`super::MediaEvent::Statistics`] comes: LiveKit's interval of quality updates.
pub const STATISTICS_INTERVAL: Duration = Duration::from_secs(5);
/// A peer that sends neither RTP nor RTCP still checks its path every 4 to 6 seconds
/// (RFC 7675 section 5.1); one that is silent for longer cannot reach us.
pub const SILENCE: Duration = Duration::from_millis(6500);

/// `a=mid`: names a media section (RFC 9143), at most 16 bytes as a header extension.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mid(pub String);

/// `a=rid`: names a simulcast layer (RFC 8851).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rid(pub String);

/// Audio or video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MediaKind {
    /// Sound.
    Audio,
    /// Pictures.
    Video,
}

/// A synchronization source and that of its retransmissions (RFC 4588).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SsrcPair {
    /// The media stream.
    pub ssrc: u32,
    /// Its retransmissions, where negotiated.
    pub rtx: Option<u32>,
}

/// Quality that a subscriber asks for, in rising order (LiveKit's `VideoQuality`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VideoQuality {
    /// The lowest layer.
    Low,
    /// The middle layer.
    Medium,
    /// The highest layer.
    High,
}

/// The codecs that are forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CodecKind {
    /// RFC 7587.
    Opus,
    /// Redundant audio, RFC 2198.
    Red,
    /// ITU-T G.711 μ-law.
    Pcmu,
    /// ITU-T G.711 A-law.
    Pcma,
    /// RFC 7741.
    Vp8,
    /// RFC 9628.
    Vp9,
    /// RFC 6184.
    H264,
    /// RFC 7798.
    H265,
    /// AOMedia AV1 RTP payload.
    Av1,
}

/// One codec of a media section with its payload types.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Codec {
    /// What it is.
    pub kind: CodecKind,
    /// RTP payload type.
    pub payload_type: u8,
    /// Payload type of retransmissions (`rtx` with `apt`), where negotiated.
    pub rtx_payload_type: Option<u8>,
    /// RTP ticks a second.
    pub clock_rate: u32,
    /// Channels; 1 for video.
    pub channels: u8,
    /// `a=fmtp` parameters as written, without the payload type.
    pub fmtp: String,
    /// Generic NACK negotiated (RFC 4585).
    pub nack: bool,
    /// Picture loss indication negotiated.
    pub pli: bool,
    /// Transport-wide feedback negotiated.
    pub transport_cc: bool,
    /// The receiver's own estimate of bandwidth negotiated (draft-alvestrand-rmcat-remb).
    pub remb: bool,
}

impl Codec {
    /// Whether a receiver of `self` can decode a stream of `published`: same codec and, for
    /// H264 (RFC 6184 section 8.2.2) and VP9, same profile and packetization.
    pub fn matches(&self, published: &Self) -> bool {
        self.kind == published.kind
            && self.clock_rate == published.clock_rate
            && match self.kind {
                CodecKind::H264 => {
                    self.h264_profile() == published.h264_profile()
                        && self.parameter("packetization-mode").unwrap_or("0")
                            == published.parameter("packetization-mode").unwrap_or("0")
                }
                CodecKind::Vp9 => {
                    self.parameter("profile-id").unwrap_or("0")
                        == published.parameter("profile-id").unwrap_or("0")
                }
                // The blocks name the codec within by its payload type.
                CodecKind::Red => self.red_block() == published.red_block(),
                CodecKind::Opus
                | CodecKind::Pcmu
                | CodecKind::Pcma
                | CodecKind::Vp8
                | CodecKind::H265
                | CodecKind::Av1 => true,
            }
    }

    /// The value of an `a=fmtp` parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.fmtp.split(';').find_map(|pair| {
            let (key, value) = pair.trim().split_once('=')?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// Payload type of the codec that redundant audio consists of (RFC 2198 section 5).
    pub fn red_block(&self) -> Option<u8> {
        self.fmtp.split('/').next()?.trim().parse().ok()
    }

    /// `profile_idc` and constraint flags of `profile-level-id`, without the level.
    fn h264_profile(&self) -> String {
        // The default of RFC 6184: baseline.
        let id = self.parameter("profile-level-id").unwrap_or("420010");
        id.get(..4).unwrap_or(id).to_ascii_lowercase()
    }
}

/// Ids of the negotiated RTP header extensions (RFC 8285), `None` where not negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExtensionIds {
    /// `urn:ietf:params:rtp-hdrext:sdes:mid`
    pub mid: Option<u8>,
    /// `urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id`
    pub rid: Option<u8>,
    /// `urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id`
    pub repaired_rid: Option<u8>,
    /// `urn:ietf:params:rtp-hdrext:ssrc-audio-level`
    pub audio_level: Option<u8>,
    /// `http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01`
    pub transport_cc: Option<u8>,
    /// `http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time`
    pub abs_send_time: Option<u8>,
    /// `https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension`
    pub dependency_descriptor: Option<u8>,
    /// `http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time`
    pub abs_capture_time: Option<u8>,
    /// `urn:3gpp:video-orientation`
    pub video_orientation: Option<u8>,
    /// `http://www.webrtc.org/experiments/rtp-hdrext/playout-delay`
    pub playout_delay: Option<u8>,
}

/// How long a receiver shall hold pictures back before it shows them, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlayoutDelay {
    /// At least.
    pub min_ms: u32,
    /// At most.
    pub max_ms: u32,
}

impl PlayoutDelay {
    /// Most that the header extension can say.
    pub const MAX_MS: u32 = 40_950;

    /// The value of the header extension: 12 bits each, in steps of 10 ms.
    pub fn to_extension(self) -> [u8; 3] {
        let steps = |ms: u32| ms.min(Self::MAX_MS) / 10;
        let [_, bytes @ ..] = (steps(self.min_ms) << 12 | steps(self.max_ms)).to_be_bytes();
        bytes
    }
}

/// Loudness over an interval (RFC 6464).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioLevel {
    /// Loudest packet: dB below overload, 0 (loudest) to 127 (silence).
    pub loudest_dbov: u8,
    /// Share of the interval's packets that were active (louder than 35 dB below overload),
    /// percent.
    pub active_percent: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codec(kind: CodecKind, fmtp: &str) -> Codec {
        Codec {
            kind,
            payload_type: 96,
            rtx_payload_type: None,
            clock_rate: 90_000,
            channels: 1,
            fmtp: fmtp.to_owned(),
            nack: true,
            pli: true,
            transport_cc: true,
            remb: false,
        }
    }

    #[test]
    fn h264_matches_by_profile_and_packetization_but_not_by_level() {
        let published = codec(
            CodecKind::H264,
            "packetization-mode=1;profile-level-id=42e01f;level-asymmetry-allowed=1",
        );
        let cases = [
            ("profile-level-id=42e034;packetization-mode=1", true),
            ("profile-level-id=42e01f", false),
            ("profile-level-id=640c1f;packetization-mode=1", false),
        ];
        for (fmtp, expected) in cases {
            assert_eq!(codec(CodecKind::H264, fmtp).matches(&published), expected, "{fmtp}");
        }
    }

    #[test]
    fn redundant_audio_matches_by_what_it_consists_of() {
        let published = codec(CodecKind::Red, "111/111");
        for (fmtp, expected) in [("111/111", true), ("111/111/111", true), ("109/109", false)] {
            assert_eq!(codec(CodecKind::Red, fmtp).matches(&published), expected, "{fmtp}");
        }
    }

    #[test]
    fn a_playout_delay_is_two_times_twelve_bits_of_ten_milliseconds() {
        let delay = |min_ms, max_ms| PlayoutDelay { min_ms, max_ms }.to_extension();
        assert_eq!(delay(100, 10_000), [0x00, 0xA3, 0xE8]);
        assert_eq!(delay(0, 99_999), [0x00, 0x0F, 0xFF]);
    }

    #[test]
    fn vp9_profile_defaults_to_zero() {
        assert!(codec(CodecKind::Vp9, "").matches(&codec(CodecKind::Vp9, "profile-id=0")));
        assert!(!codec(CodecKind::Vp9, "profile-id=2").matches(&codec(CodecKind::Vp9, "")));
    }

    #[test]
    fn parameters_are_read_without_regard_to_case_and_space() {
        let codec = codec(CodecKind::Opus, "minptime=10; UseInbandFec=1");
        assert_eq!(codec.parameter("useinbandfec"), Some("1"));
        assert_eq!(codec.parameter("stereo"), None);
    }
}
