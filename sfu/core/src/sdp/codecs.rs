//! Codecs and header extensions: what we know of what a client lists.

use std::collections::BTreeMap;

use crate::media::{Codec, CodecKind, ExtensionIds, MediaKind};

/// Reads the codecs of a section that can be forwarded, in the order of the `m=` line.
pub(super) fn parse(
    kind: MediaKind,
    formats: &[String],
    rtpmap: &[&str],
    fmtp: &[&str],
    feedback: &[&str],
) -> Vec<Codec> {
    let maps = by_payload_type(rtpmap);
    let parameters = by_payload_type(fmtp);
    let rtx = retransmissions(&maps, &parameters);
    formats
        .iter()
        .filter_map(|format| format.parse::<u8>().ok())
        .filter(|payload_type| *payload_type <= 127)
        .filter_map(|payload_type| {
            let fmtp = parameters.get(&payload_type).copied().unwrap_or_default();
            let (codec, clock_rate, channels) = known(kind, maps.get(&payload_type)?, fmtp)?;
            let has = |wanted: &str| {
                feedback.iter().any(|line| {
                    line.split_once(' ').is_some_and(|(target, value)| {
                        value == wanted && (target == "*" || target.parse() == Ok(payload_type))
                    })
                })
            };
            Some(Codec {
                kind: codec,
                payload_type,
                rtx_payload_type: rtx.get(&payload_type).copied(),
                clock_rate,
                channels,
                fmtp: fmtp.to_owned(),
                nack: kind == MediaKind::Video && has("nack"),
                pli: has("nack pli"),
                transport_cc: has("transport-cc"),
                remb: has("goog-remb"),
            })
        })
        .collect()
}

/// `96 VP8/90000` → (96, `VP8/90000`).
fn by_payload_type<'a>(lines: &[&'a str]) -> BTreeMap<u8, &'a str> {
    lines
        .iter()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(payload_type, rest)| Some((payload_type.parse().ok()?, rest.trim())))
        .collect()
}

/// Media payload type → that of its retransmissions (RFC 4588 section 8).
fn retransmissions(maps: &BTreeMap<u8, &str>, fmtp: &BTreeMap<u8, &str>) -> BTreeMap<u8, u8> {
    maps.iter()
        .filter(|(_, map)| map.to_ascii_lowercase().starts_with("rtx/"))
        .filter_map(|(rtx, _)| {
            let apt = fmtp.get(rtx)?.split(';').find_map(|p| p.trim().strip_prefix("apt="))?;
            Some((apt.parse().ok()?, *rtx))
        })
        .collect()
}

/// The codec of an `a=rtpmap`, where we forward it, with clock rate and channels.
fn known(kind: MediaKind, map: &str, fmtp: &str) -> Option<(CodecKind, u32, u8)> {
    let lower = map.to_ascii_lowercase();
    match (kind, lower.as_str()) {
        (MediaKind::Audio, "opus/48000/2") => Some((CodecKind::Opus, 48_000, 2)),
        (MediaKind::Audio, "red/48000/2") => Some((CodecKind::Red, 48_000, 2)),
        (MediaKind::Audio, "pcmu/8000") => Some((CodecKind::Pcmu, 8_000, 1)),
        (MediaKind::Audio, "pcma/8000") => Some((CodecKind::Pcma, 8_000, 1)),
        (MediaKind::Video, "vp8/90000") => Some((CodecKind::Vp8, 90_000, 1)),
        (MediaKind::Video, "h264/90000") => Some((CodecKind::H264, 90_000, 1)),
        (MediaKind::Video, "h265/90000") => Some((CodecKind::H265, 90_000, 1)),
        (MediaKind::Video, "av1/90000") => Some((CodecKind::Av1, 90_000, 1)),
        // Other profiles have more bits or colours than most receivers decode.
        (MediaKind::Video, "vp9/90000")
            if !fmtp.split(';').any(|p| {
                p.trim().strip_prefix("profile-id=").is_some_and(|profile| profile != "0")
            }) =>
        {
            Some((CodecKind::Vp9, 90_000, 1))
        }
        _ => None,
    }
}

/// Where the id of a header extension is kept; `None` for unknown ones.
pub(super) fn extension_slot<'a>(
    ids: &'a mut ExtensionIds,
    uri: &str,
) -> Option<&'a mut Option<u8>> {
    let (_, slot) = EXTENSIONS.iter().find(|(known, _)| *known == uri)?;
    Some(slot(ids))
}

type Slot = fn(&mut ExtensionIds) -> &mut Option<u8>;

/// The header extensions that we negotiate.
pub(super) const EXTENSIONS: [(&str, Slot); 10] = [
    ("urn:ietf:params:rtp-hdrext:sdes:mid", |ids| &mut ids.mid),
    ("urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id", |ids| &mut ids.rid),
    ("urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id", |ids| &mut ids.repaired_rid),
    ("urn:ietf:params:rtp-hdrext:ssrc-audio-level", |ids| &mut ids.audio_level),
    ("http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01", |ids| {
        &mut ids.transport_cc
    }),
    ("http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time", |ids| &mut ids.abs_send_time),
    (
        "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension",
        |ids| &mut ids.dependency_descriptor,
    ),
    ("http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time", |ids| {
        &mut ids.abs_capture_time
    }),
    ("urn:3gpp:video-orientation", |ids| &mut ids.video_orientation),
    ("http://www.webrtc.org/experiments/rtp-hdrext/playout-delay", |ids| &mut ids.playout_delay),
];

/// What we really send to a subscriber of what was negotiated: nothing that names the
/// publisher's layers.
pub fn sending_extensions(offered: ExtensionIds) -> ExtensionIds {
    ExtensionIds { rid: None, repaired_rid: None, ..offered }
}

/// What an answer says in every section, whoever sends there: libwebrtc offers a track that is
/// published later on the same connection only with extensions that were negotiated before.
pub(super) fn answered_extensions(offered: ExtensionIds) -> ExtensionIds {
    ExtensionIds { abs_send_time: None, ..offered }
}

/// Codecs of an answer's section: all that were offered and can be forwarded, first those that
/// match `published`.
pub fn accepted_codecs(offered: &[Codec], published: &[Codec]) -> Vec<Codec> {
    let mut codecs = offered.to_vec();
    codecs.sort_by_key(|codec| !published.iter().any(|published| codec.matches(published)));
    codecs
}

/// Of the codecs of an answer, those that the publisher will use: the first one's kind, in all
/// its profiles, and what redundant audio is made of.
pub fn published_codecs(answered: &[Codec]) -> Vec<Codec> {
    let Some(first) = answered.first() else { return Vec::new() };
    let used = |codec: &&Codec| {
        codec.kind == first.kind || (first.kind == CodecKind::Red && codec.kind == CodecKind::Opus)
    };
    answered.iter().filter(used).cloned().collect()
}

/// Tells a publisher of Opus (RFC 7587 section 6.1) whether to send stereo, and whether to send
/// nothing in silence.
pub fn set_opus(codecs: &mut [Codec], stereo: bool, dtx: bool) {
    for codec in codecs.iter_mut().filter(|codec| codec.kind == CodecKind::Opus) {
        let kept = codec.fmtp.split(';').map(str::trim).filter(|parameter| {
            let name = parameter.split('=').next().unwrap_or_default().to_ascii_lowercase();
            !parameter.is_empty()
                && !["stereo", "usedtx", "maxaveragebitrate"].contains(&name.as_str())
        });
        let mut parameters: Vec<&str> = kept.collect();
        if stereo {
            // The highest of RFC 7587: two channels of music.
            parameters.extend(["stereo=1", "maxaveragebitrate=510000"]);
        }
        if dtx {
            parameters.push("usedtx=1");
        }
        codec.fmtp = parameters.join(";");
    }
}

/// Moves the codecs of `kind` to the front: a publisher encodes with the first of the answer.
pub fn prefer(codecs: &mut [Codec], kind: CodecKind) {
    codecs.sort_by_key(|codec| codec.kind != kind);
}

/// Payload types of our own offers, media and retransmissions, by codec and H264 profile with
/// its packetization mode: in a bundle a number means the same codec in every section.
const OFFERED: [(CodecKind, &str, u8, Option<u8>); 16] = [
    (CodecKind::Opus, "minptime=10;useinbandfec=1", 111, None),
    // Two frames of the Opus above in each packet.
    (CodecKind::Red, "111/111", 63, None),
    // Static payload types (RFC 3551 section 6).
    (CodecKind::Pcmu, "", 0, None),
    (CodecKind::Pcma, "", 8, None),
    (CodecKind::Vp8, "", 96, Some(97)),
    (CodecKind::Vp9, "profile-id=0", 98, Some(99)),
    (CodecKind::H264, "packetization-mode=1;profile-level-id=42001f", 102, Some(103)),
    (CodecKind::H264, "packetization-mode=0;profile-level-id=42001f", 104, Some(105)),
    (CodecKind::H264, "packetization-mode=1;profile-level-id=42e01f", 106, Some(107)),
    (CodecKind::H264, "packetization-mode=0;profile-level-id=42e01f", 108, Some(109)),
    (CodecKind::H264, "packetization-mode=1;profile-level-id=4d001f", 112, Some(113)),
    (CodecKind::H264, "packetization-mode=0;profile-level-id=4d001f", 114, Some(115)),
    (CodecKind::H264, "packetization-mode=1;profile-level-id=640c1f", 116, Some(117)),
    (CodecKind::H264, "packetization-mode=1;profile-level-id=64001f", 118, Some(119)),
    (CodecKind::Av1, "", 45, Some(46)),
    (CodecKind::H265, "", 49, Some(50)),
];

/// Codecs of our offer of a track that was published with `published`, in that order.
pub fn offered_codecs(published: &[Codec]) -> Vec<Codec> {
    let mut codecs: Vec<Codec> = Vec::new();
    for track in published {
        let table = OFFERED.iter().map(|(kind, fmtp, payload_type, rtx)| Codec {
            kind: *kind,
            payload_type: *payload_type,
            rtx_payload_type: *rtx,
            clock_rate: track.clock_rate,
            channels: track.channels,
            fmtp: match kind {
                CodecKind::H264 => format!("level-asymmetry-allowed=1;{fmtp}"),
                CodecKind::Opus if track.parameter("stereo") == Some("1") => {
                    format!("{fmtp};sprop-stereo=1")
                }
                // Level and tier are the publisher's.
                CodecKind::H265 => track.fmtp.clone(),
                CodecKind::Opus
                | CodecKind::Red
                | CodecKind::Pcmu
                | CodecKind::Pcma
                | CodecKind::Vp8
                | CodecKind::Vp9
                | CodecKind::Av1 => (*fmtp).to_owned(),
            },
            nack: rtx.is_some(),
            pli: rtx.is_some(),
            transport_cc: true,
            remb: rtx.is_some(),
        });
        for codec in table.filter(|codec| codec.matches(track)) {
            if !codecs.contains(&codec) {
                codecs.push(codec);
            }
        }
    }
    codecs
}

/// Ids of the header extensions of our own offers.
pub(super) const OFFERED_EXTENSIONS: ExtensionIds = ExtensionIds {
    mid: Some(1),
    abs_capture_time: Some(2),
    video_orientation: Some(3),
    transport_cc: Some(4),
    dependency_descriptor: Some(5),
    playout_delay: Some(6),
    audio_level: Some(7),
    rid: None,
    repaired_rid: None,
    abs_send_time: Some(8),
};
