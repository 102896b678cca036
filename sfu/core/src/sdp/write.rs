//! Writing our own descriptions.

use std::fmt::Write as _;

use super::codecs::{EXTENSIONS, OFFERED_EXTENSIONS, answered_extensions};
use super::{MAX_MESSAGE_SIZE, Section, SectionKind, Setup};
use crate::media::{
    CandidateProtocol, Codec, CodecKind, ExtensionIds, Fingerprint, IceCredentials, LocalCandidate,
    MediaKind, Mid, Rid, SsrcPair,
};

/// Our side of the transport.
#[derive(Debug)]
pub struct LocalTransport<'a> {
    /// Our credentials.
    pub ice: &'a IceCredentials,
    /// Our certificate.
    pub fingerprint: Fingerprint,
    /// Our part in the handshake.
    pub setup: Setup,
    /// Where we receive.
    pub candidates: &'a [LocalCandidate],
}

/// What we do in a media section.
#[derive(Debug, Clone, PartialEq)]
pub enum LocalMedia {
    /// Port 0.
    Rejected,
    /// Kept for later.
    Inactive,
    /// We receive; with the client's simulcast layers.
    Receive {
        /// As the client listed them.
        rids: Vec<Rid>,
    },
    /// We send a track.
    Send {
        /// Stream and track id of `a=msid`.
        msid: super::Msid,
        /// Our sources.
        ssrc: SsrcPair,
    },
    /// Data channels.
    Data,
}

/// One media section of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalSection {
    /// Its name.
    pub mid: Mid,
    /// First word of the `m=` line.
    pub media: String,
    /// Protocol of the `m=` line.
    pub protocol: String,
    /// What we do in it.
    pub body: LocalMedia,
    /// Negotiated or offered codecs; empty for data.
    pub codecs: Vec<Codec>,
    /// Negotiated or offered header extensions.
    pub extensions: ExtensionIds,
}

impl LocalSection {
    /// The answer to `offered`; a section without a common codec is rejected.
    pub fn answer(offered: &Section, body: LocalMedia, mut codecs: Vec<Codec>) -> Self {
        let usable = match offered.kind {
            SectionKind::Rtp(_) => !codecs.is_empty(),
            SectionKind::Data => true,
            SectionKind::Unknown => false,
        };
        let body = if offered.rejected || !usable { LocalMedia::Rejected } else { body };
        let extensions = match &body {
            LocalMedia::Receive { .. } | LocalMedia::Send { .. } | LocalMedia::Inactive => {
                answered_extensions(offered.extensions)
            }
            LocalMedia::Rejected | LocalMedia::Data => ExtensionIds::default(),
        };
        // Publishers have transport-wide feedback: we estimate nothing for them.
        let sends = matches!(body, LocalMedia::Send { .. });
        codecs.iter_mut().for_each(|codec| codec.remb &= sends);
        Self {
            mid: offered.mid.clone(),
            media: offered.media.clone(),
            protocol: offered.protocol.clone(),
            body,
            codecs,
            extensions,
        }
    }

    /// A section of our own offer that carries media.
    pub fn offer_media(mid: Mid, kind: MediaKind, body: LocalMedia, codecs: Vec<Codec>) -> Self {
        let media = match kind {
            MediaKind::Audio => "audio",
            MediaKind::Video => "video",
        };
        Self {
            mid,
            media: media.to_owned(),
            protocol: "UDP/TLS/RTP/SAVPF".to_owned(),
            body,
            codecs,
            extensions: OFFERED_EXTENSIONS,
        }
    }

    /// The section of our own offer that carries data channels.
    pub fn offer_data(mid: Mid) -> Self {
        Self {
            mid,
            media: "application".to_owned(),
            protocol: "UDP/DTLS/SCTP".to_owned(),
            body: LocalMedia::Data,
            codecs: Vec::new(),
            extensions: ExtensionIds::default(),
        }
    }
}

/// Writes a description; `version` rises with each one of a session `id`.
pub fn write(
    id: u64,
    version: u64,
    transport: &LocalTransport<'_>,
    sections: &[LocalSection],
) -> String {
    // 63 bits: some parsers read a signed number.
    let mut out = format!(
        "v=0\r\no=- {} {version} IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-lite\r\n",
        id >> 1
    );
    let in_use = || sections.iter().filter(|section| section.body != LocalMedia::Rejected);
    if in_use().next().is_some() {
        out.push_str("a=group:BUNDLE");
        for section in in_use() {
            line(&mut out, format_args!(" {}", section.mid.0));
        }
        out.push_str("\r\n");
    }
    out.push_str("a=extmap-allow-mixed\r\na=msid-semantic:WMS *\r\n");
    let tagged = in_use().next().map(|section| &section.mid);
    for section in sections {
        let candidates = if Some(&section.mid) == tagged { transport.candidates } else { &[] };
        write_section(&mut out, section, transport, candidates);
    }
    out
}

/// Appends; writing into a `String` cannot fail.
fn line(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(arguments);
}

fn write_section(
    out: &mut String,
    section: &LocalSection,
    transport: &LocalTransport<'_>,
    candidates: &[LocalCandidate],
) {
    let rejected = section.body == LocalMedia::Rejected;
    let port = if rejected { 0 } else { 9 };
    line(out, format_args!("m={} {port} {}", section.media, section.protocol));
    write_formats(out, section);
    out.push_str("\r\nc=IN IP4 0.0.0.0\r\n");
    if rejected {
        line(out, format_args!("a=inactive\r\na=mid:{}\r\n", section.mid.0));
        return;
    }
    line(
        out,
        format_args!(
            "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\na=fingerprint:sha-256 {}\r\na=setup:{}\r\na=mid:{}\r\n",
            transport.ice.ufrag,
            transport.ice.pwd,
            hex(transport.fingerprint),
            match transport.setup {
                Setup::Active => "active",
                Setup::Passive => "passive",
                Setup::ActPass => "actpass",
            },
            section.mid.0,
        ),
    );
    for (index, candidate) in candidates.iter().enumerate() {
        line(out, format_args!("a={}\r\n", candidate_line(index, candidate)));
    }
    if !candidates.is_empty() {
        out.push_str("a=end-of-candidates\r\n");
    }
    match &section.body {
        LocalMedia::Data => {
            line(out, format_args!("a=sctp-port:5000\r\na=max-message-size:{MAX_MESSAGE_SIZE}\r\n"))
        }
        LocalMedia::Inactive | LocalMedia::Receive { .. } | LocalMedia::Send { .. } => {
            write_rtp(out, section);
        }
        LocalMedia::Rejected => {}
    }
}

fn write_formats(out: &mut String, section: &LocalSection) {
    if section.codecs.is_empty() {
        let data = section.media == "application";
        out.push_str(if data { " webrtc-datachannel" } else { " 0" });
    }
    for codec in &section.codecs {
        line(out, format_args!(" {}", codec.payload_type));
        if let Some(rtx) = codec.rtx_payload_type {
            line(out, format_args!(" {rtx}"));
        }
    }
}

fn write_rtp(out: &mut String, section: &LocalSection) {
    out.push_str(match &section.body {
        LocalMedia::Receive { .. } => "a=recvonly\r\n",
        LocalMedia::Send { .. } => "a=sendonly\r\n",
        LocalMedia::Inactive | LocalMedia::Rejected | LocalMedia::Data => "a=inactive\r\n",
    });
    out.push_str("a=rtcp-mux\r\na=rtcp-rsize\r\n");
    let mut ids = section.extensions;
    for (uri, slot) in EXTENSIONS {
        if let Some(id) = slot(&mut ids) {
            line(out, format_args!("a=extmap:{id} {uri}\r\n"));
        }
    }
    for codec in &section.codecs {
        write_codec(out, codec);
    }
    match &section.body {
        LocalMedia::Receive { rids } if !rids.is_empty() => {
            for rid in rids {
                line(out, format_args!("a=rid:{} recv\r\n", rid.0));
            }
            let names: Vec<&str> = rids.iter().map(|rid| rid.0.as_str()).collect();
            line(out, format_args!("a=simulcast:recv {}\r\n", names.join(";")));
        }
        LocalMedia::Send { msid, ssrc } => write_source(out, msid, *ssrc),
        LocalMedia::Receive { .. }
        | LocalMedia::Inactive
        | LocalMedia::Rejected
        | LocalMedia::Data => {}
    }
}

fn write_codec(out: &mut String, codec: &Codec) {
    let payload_type = codec.payload_type;
    let rate = codec.clock_rate;
    line(out, format_args!("a=rtpmap:{payload_type} {}/{rate}", name(codec.kind)));
    if codec.channels > 1 {
        line(out, format_args!("/{}", codec.channels));
    }
    out.push_str("\r\n");
    if !codec.fmtp.is_empty() {
        line(out, format_args!("a=fmtp:{payload_type} {}\r\n", codec.fmtp));
    }
    let feedback = [
        (codec.transport_cc, "transport-cc"),
        (codec.remb, "goog-remb"),
        (codec.pli, "ccm fir"),
        (codec.nack, "nack"),
        (codec.pli, "nack pli"),
    ];
    for (_, value) in feedback.into_iter().filter(|(negotiated, _)| *negotiated) {
        line(out, format_args!("a=rtcp-fb:{payload_type} {value}\r\n"));
    }
    if let Some(rtx) = codec.rtx_payload_type {
        line(out, format_args!("a=rtpmap:{rtx} rtx/{rate}\r\na=fmtp:{rtx} apt={payload_type}\r\n"));
    }
}

fn write_source(out: &mut String, msid: &super::Msid, ssrc: SsrcPair) {
    let super::Msid { stream, track } = msid;
    line(out, format_args!("a=msid:{stream} {track}\r\n"));
    if let Some(rtx) = ssrc.rtx {
        line(out, format_args!("a=ssrc-group:FID {} {rtx}\r\n", ssrc.ssrc));
    }
    for id in [Some(ssrc.ssrc), ssrc.rtx].into_iter().flatten() {
        line(out, format_args!("a=ssrc:{id} cname:{stream}\r\n"));
        line(out, format_args!("a=ssrc:{id} msid:{stream} {track}\r\n"));
    }
}

/// The name in `a=rtpmap`.
fn name(kind: CodecKind) -> &'static str {
    match kind {
        CodecKind::Opus => "opus",
        CodecKind::Red => "red",
        CodecKind::Pcmu => "PCMU",
        CodecKind::Pcma => "PCMA",
        CodecKind::Vp8 => "VP8",
        CodecKind::Vp9 => "VP9",
        CodecKind::H264 => "H264",
        CodecKind::H265 => "H265",
        CodecKind::Av1 => "AV1",
    }
}

/// `candidate:…` (RFC 8839 section 5.1, RFC 6544 section 4.5): datagrams are preferred, and
/// earlier addresses before later ones.
pub fn candidate_line(index: usize, candidate: &LocalCandidate) -> String {
    // Recommended type preference of host candidates (RFC 8445), and a lower one for TCP.
    let (protocol, preference, suffix) = match candidate.protocol {
        CandidateProtocol::Udp => ("udp", 126_u32, ""),
        CandidateProtocol::TcpPassive => ("tcp", 90, " tcptype passive"),
    };
    let local = 65_535 - u32::try_from(index).unwrap_or(u32::MAX).min(65_535);
    let priority = (preference << 24) | (local << 8) | 255;
    format!(
        "candidate:{} 1 {protocol} {priority} {} {} typ host{suffix}",
        index + 1,
        candidate.address.ip(),
        candidate.address.port(),
    )
}

fn hex(fingerprint: Fingerprint) -> String {
    fingerprint.0.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}
