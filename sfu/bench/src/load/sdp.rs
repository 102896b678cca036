//! Descriptions of a client: offers of what it publishes, answers that take all that the
//! server offers.

use std::fmt::Write as _;
use std::net::SocketAddr;

use sfu_core::media::{Fingerprint, IceCredentials};

use crate::source::Media;

/// Ids of header extensions in our offers.
pub(super) const MID: u8 = 1;
const RID: u8 = 2;
const REPAIRED_RID: u8 = 3;
pub(super) const TRANSPORT_CC: u8 = 4;
const ABS_SEND_TIME: u8 = 5;
const AUDIO_LEVEL: u8 = 6;

/// Our side of a transport.
#[derive(Debug, Clone)]
pub(super) struct LocalTransport {
    pub(super) ice: IceCredentials,
    pub(super) fingerprint: Fingerprint,
}

/// A track that we send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OfferedTrack {
    pub(super) media: Media,
    /// Id in `a=msid`, as announced.
    pub(super) cid: String,
    /// One for each layer.
    pub(super) ssrcs: Vec<u32>,
    /// Those of retransmissions; none for audio.
    pub(super) rtx: Vec<u32>,
}

/// Payload type and that of retransmissions.
pub(super) fn payload_types(media: Media) -> (u8, Option<u8>) {
    match media {
        Media::Opus => (111, None),
        Media::H264 | Media::H264Slow => (106, Some(107)),
        Media::Simulcast => (96, Some(97)),
    }
}

impl LocalTransport {
    /// Attributes of every section. We begin the handshake, whoever offers.
    fn write(&self, out: &mut String) {
        let Self { ice, fingerprint } = self;
        let digits: Vec<String> = fingerprint.0.iter().map(|byte| format!("{byte:02X}")).collect();
        line(out, format_args!("a=ice-ufrag:{}", ice.ufrag));
        line(out, format_args!("a=ice-pwd:{}", ice.pwd));
        line(out, format_args!("a=fingerprint:sha-256 {}", digits.join(":")));
        line(out, format_args!("a=setup:active"));
    }
}

fn line(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing into a string cannot fail.
    let _ = out.write_fmt(arguments);
    out.push_str("\r\n");
}

fn begin(out: &mut String, mids: &[String]) {
    out.push_str("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n");
    line(out, format_args!("a=group:BUNDLE {}", mids.join(" ")));
    out.push_str("a=extmap-allow-mixed\r\na=msid-semantic: WMS *\r\n");
}

/// An offer of `tracks`, in sections named by their index.
pub(super) fn offer(transport: &LocalTransport, tracks: &[OfferedTrack]) -> String {
    let mids: Vec<String> = (0..tracks.len()).map(|index| index.to_string()).collect();
    let mut out = String::new();
    begin(&mut out, &mids);
    for (track, mid) in tracks.iter().zip(&mids) {
        let (payload_type, rtx) = payload_types(track.media);
        let kind = if track.media.is_audio() { "audio" } else { "video" };
        let formats = rtx.map(|rtx| format!(" {rtx}")).unwrap_or_default();
        line(&mut out, format_args!("m={kind} 9 UDP/TLS/RTP/SAVPF {payload_type}{formats}"));
        out.push_str("c=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\n");
        transport.write(&mut out);
        line(&mut out, format_args!("a=mid:{mid}"));
        out.push_str("a=sendonly\r\na=rtcp-mux\r\na=rtcp-rsize\r\n");
        line(&mut out, format_args!("a=msid:stream {}", track.cid));
        write_extensions(&mut out, track.media);
        write_codec(&mut out, track.media, payload_type, rtx);
        write_sources(&mut out, track);
    }
    out
}

fn write_extensions(out: &mut String, media: Media) {
    let base = "urn:ietf:params:rtp-hdrext";
    let experiments = "http://www.webrtc.org/experiments/rtp-hdrext";
    let drafts = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
    line(out, format_args!("a=extmap:{MID} {base}:sdes:mid"));
    line(out, format_args!("a=extmap:{TRANSPORT_CC} {drafts}"));
    line(out, format_args!("a=extmap:{ABS_SEND_TIME} {experiments}/abs-send-time"));
    if media.is_audio() {
        return line(out, format_args!("a=extmap:{AUDIO_LEVEL} {base}:ssrc-audio-level"));
    }
    line(out, format_args!("a=extmap:{RID} {base}:sdes:rtp-stream-id"));
    line(out, format_args!("a=extmap:{REPAIRED_RID} {base}:sdes:repaired-rtp-stream-id"));
}

fn write_codec(out: &mut String, media: Media, payload_type: u8, rtx: Option<u8>) {
    let (name, parameters) = match media {
        Media::Opus => ("opus/48000/2", "minptime=10;useinbandfec=1"),
        Media::Simulcast => ("VP8/90000", ""),
        Media::H264 | Media::H264Slow => {
            ("H264/90000", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f")
        }
    };
    line(out, format_args!("a=rtpmap:{payload_type} {name}"));
    if !parameters.is_empty() {
        line(out, format_args!("a=fmtp:{payload_type} {parameters}"));
    }
    line(out, format_args!("a=rtcp-fb:{payload_type} transport-cc"));
    if let Some(rtx) = rtx {
        for feedback in ["ccm fir", "nack", "nack pli"] {
            line(out, format_args!("a=rtcp-fb:{payload_type} {feedback}"));
        }
        line(out, format_args!("a=rtpmap:{rtx} rtx/90000"));
        line(out, format_args!("a=fmtp:{rtx} apt={payload_type}"));
    }
}

/// Layers by their rids, a single encoding by its sources.
fn write_sources(out: &mut String, track: &OfferedTrack) {
    let rids: Vec<&str> = track.media.layers().iter().map(|layer| layer.rid).collect();
    if rids.len() > 1 {
        for rid in &rids {
            line(out, format_args!("a=rid:{rid} send"));
        }
        return line(out, format_args!("a=simulcast:send {}", rids.join(";")));
    }
    if let (Some(ssrc), Some(rtx)) = (track.ssrcs.first(), track.rtx.first()) {
        line(out, format_args!("a=ssrc-group:FID {ssrc} {rtx}"));
    }
    for ssrc in track.ssrcs.iter().chain(&track.rtx) {
        line(out, format_args!("a=ssrc:{ssrc} cname:load"));
        line(out, format_args!("a=ssrc:{ssrc} msid:stream {}", track.cid));
    }
}

/// An answer that takes every codec and extension of `offer`.
pub(super) fn answer(offer: &str, transport: &LocalTransport) -> String {
    let mut sections = offer.split("\r\nm=");
    let _session = sections.next();
    let mut mids = Vec::new();
    let mut body = String::new();
    for section in sections {
        let mut lines = section.lines();
        let head = lines.next().unwrap_or_default();
        line(&mut body, format_args!("m={head}"));
        body.push_str("c=IN IP4 0.0.0.0\r\n");
        transport.write(&mut body);
        for text in lines {
            if let Some(mid) = text.strip_prefix("a=mid:") {
                mids.push(mid.to_owned());
            }
            match text {
                "a=sendonly" | "a=sendrecv" => body.push_str("a=recvonly\r\n"),
                _ if is_taken(text) => line(&mut body, format_args!("{text}")),
                _ => {}
            }
        }
    }
    let mut out = String::new();
    begin(&mut out, &mids);
    out + &body
}

/// Lines that an answer repeats.
fn is_taken(text: &str) -> bool {
    const TAKEN: [&str; 9] = [
        "a=mid:",
        "a=rtpmap:",
        "a=fmtp:",
        "a=rtcp-fb:",
        "a=extmap:",
        "a=inactive",
        "a=rtcp-mux",
        "a=sctp-port:",
        "a=max-message-size:",
    ];
    TAKEN.iter().any(|start| text.starts_with(start))
}

/// Whether the server is an ICE-lite agent, which leaves nominating to us.
pub(super) fn is_lite(description: &str) -> bool {
    description.lines().any(|line| line == "a=ice-lite")
}

/// Addresses of UDP host candidates in a description.
pub(super) fn candidates(description: &str) -> impl Iterator<Item = SocketAddr> {
    description.lines().filter_map(|line| candidate(line.strip_prefix("a=")?))
}

/// The address of one UDP host candidate (RFC 8839 section 5.1).
pub(super) fn candidate(text: &str) -> Option<SocketAddr> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, "1", protocol, _, ip, port, "typ", "host", ..] = words.as_slice() else { return None };
    let address = SocketAddr::new(ip.parse().ok()?, port.parse().ok()?);
    (protocol.eq_ignore_ascii_case("udp") && address.is_ipv4()).then_some(address)
}

#[cfg(test)]
mod tests {
    use sfu_core::media::DtlsRole;
    use sfu_core::sdp::Description;

    use super::*;

    fn transport() -> LocalTransport {
        let ice = IceCredentials { ufrag: "abcd".to_owned(), pwd: "x".repeat(24) };
        LocalTransport { ice, fingerprint: Fingerprint([0xAB; 32]) }
    }

    fn track(media: Media) -> OfferedTrack {
        let layers = media.layers().len() as u32;
        let rtx = if media.is_audio() { Vec::new() } else { (100..100 + layers).collect() };
        OfferedTrack { media, cid: "cid".to_owned(), ssrcs: (1..=layers).collect(), rtx }
    }

    #[test]
    fn the_server_reads_an_offer_as_meant() {
        let tracks = [track(Media::Simulcast), track(Media::H264), track(Media::Opus)];
        let description = Description::parse(&offer(&transport(), &tracks)).unwrap();
        assert_eq!(description.transport().unwrap().role, DtlsRole::Server);
        let [simulcast, h264, opus] = description.sections.as_slice() else { panic!() };
        assert_eq!(
            simulcast.send_rids.iter().map(|rid| &rid.0).collect::<Vec<_>>(),
            ["q", "h", "f"]
        );
        assert!(simulcast.ssrcs.is_empty());
        assert_eq!((h264.ssrcs[0].ssrc, h264.ssrcs[0].rtx), (1, Some(100)));
        for (section, media) in
            [(simulcast, Media::Simulcast), (h264, Media::H264), (opus, Media::Opus)]
        {
            let codec = &section.codecs[0];
            assert_eq!((codec.payload_type, codec.rtx_payload_type), payload_types(media));
            assert_eq!(section.extensions.mid, Some(MID));
            assert_eq!(section.msid.as_ref().unwrap().track, "cid");
        }
        assert_eq!(opus.extensions.audio_level, Some(AUDIO_LEVEL));
    }

    #[test]
    fn an_answer_takes_all_and_receives_only() {
        let theirs = offer(&transport(), &[track(Media::H264), track(Media::Opus)]);
        let text = answer(&theirs, &transport());
        let description = Description::parse(&text).unwrap();
        assert_eq!(description.sections.len(), 2);
        for section in &description.sections {
            assert!(!section.direction.sends() && section.direction.receives());
            assert_eq!(section.codecs.len(), 1);
            assert!(section.ssrcs.is_empty());
        }
    }

    #[test]
    fn only_udp_host_candidates_of_ipv4_count() {
        let cases = [
            ("candidate:1 1 udp 2130706431 10.0.0.1 7882 typ host", Some("10.0.0.1:7882")),
            ("candidate:1 1 UDP 1 10.0.0.1 7882 typ host generation 0", Some("10.0.0.1:7882")),
            ("candidate:1 1 tcp 1 10.0.0.1 7881 typ host tcptype passive", None),
            ("candidate:1 1 udp 1 fe80::1 7882 typ host", None),
            ("candidate:1 1 udp 1 10.0.0.1 1 typ srflx raddr 0.0.0.0 rport 1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(candidate(text), expected.map(|address| address.parse().unwrap()), "{text}");
        }
    }
}
