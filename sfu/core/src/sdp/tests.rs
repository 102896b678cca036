use super::*;
use crate::media::{CandidateProtocol, CodecKind, DtlsRole, LocalCandidate};
use proptest::prelude::*;

const FINGERPRINT: &str = "00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:\
                           10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F";

/// A description as pion makes it: transport attributes in the section, sources by `a=ssrc`.
fn offer(section: &[&str]) -> String {
    let mut lines = vec![
        "v=0".to_owned(),
        "o=- 1 2 IN IP4 0.0.0.0".to_owned(),
        "s=-".to_owned(),
        "t=0 0".to_owned(),
        format!("a=fingerprint:sha-256 {FINGERPRINT}"),
        "a=group:BUNDLE 0".to_owned(),
        "m=video 9 UDP/TLS/RTP/SAVPF 96 97 98 125".to_owned(),
        "c=IN IP4 0.0.0.0".to_owned(),
        "a=setup:actpass".to_owned(),
        "a=mid:0".to_owned(),
        "a=ice-ufrag:abcd".to_owned(),
        "a=ice-pwd:abcdefghijklmnopqrstuvwx".to_owned(),
    ];
    lines.extend(section.iter().map(|line| (*line).to_owned()));
    lines.join("\r\n") + "\r\n"
}

const CODECS: [&str; 8] = [
    "a=rtpmap:96 VP8/90000",
    "a=rtcp-fb:* nack pli",
    "a=rtcp-fb:96 nack",
    "a=rtpmap:97 rtx/90000",
    "a=fmtp:97 apt=96",
    "a=rtpmap:98 VP9/90000",
    "a=fmtp:98 profile-id=2",
    "a=rtpmap:125 unknown/90000",
];

fn parse(extra: &[&str]) -> Section {
    let lines = [CODECS.as_slice(), extra].concat();
    Description::parse(&offer(&lines)).unwrap().sections.remove(0)
}

#[test]
fn only_codecs_that_we_forward_are_kept() {
    let section = parse(&[]);
    assert_eq!(section.codecs.len(), 1);
    let vp8 = &section.codecs[0];
    assert_eq!((vp8.kind, vp8.payload_type, vp8.rtx_payload_type), (CodecKind::Vp8, 96, Some(97)));
    assert!(vp8.nack && vp8.pli && !vp8.transport_cc);
}

#[test]
fn sources_are_read_by_group_and_by_line() {
    let pair = |ssrc, rtx| SsrcPair { ssrc, rtx };
    let cases: [(&[&str], Vec<SsrcPair>); 3] = [
        (&["a=ssrc:1 cname:x", "a=ssrc:1 msid:s t"], vec![pair(1, None)]),
        (&["a=ssrc-group:FID 1 2", "a=ssrc:1 cname:x", "a=ssrc:2 cname:x"], vec![pair(1, Some(2))]),
        (
            &["a=ssrc-group:SIM 1 2 3", "a=ssrc-group:FID 1 4", "a=ssrc:9 cname:x"],
            vec![pair(1, Some(4)), pair(2, None), pair(3, None)],
        ),
    ];
    for (lines, expected) in cases {
        assert_eq!(parse(lines).ssrcs, expected, "{lines:?}");
    }
}

#[test]
fn track_ids_come_from_either_form_of_msid() {
    for lines in [["a=msid:stream track"], ["a=ssrc:1 msid:stream track"]] {
        let msid = parse(&lines).msid.unwrap();
        assert_eq!((msid.stream.as_str(), msid.track.as_str()), ("stream", "track"));
    }
    assert_eq!(parse(&["a=msid:stream track", "a=recvonly"]).msid, None);
}

#[test]
fn layers_are_those_that_the_client_sends() {
    let rids = parse(&["a=simulcast:recv x send ~q;h,alternative;f;fourth"]).send_rids;
    assert_eq!(rids, ["q", "h", "f"].map(|rid| Rid(rid.to_owned())));
}

#[test]
fn a_session_level_fingerprint_serves_all_sections() {
    let description = Description::parse(&offer(&CODECS)).unwrap();
    let remote = description.transport().unwrap();
    assert_eq!(remote.fingerprint.0[31], 31);
    assert_eq!((remote.ice.ufrag.as_str(), remote.role), ("abcd", DtlsRole::Server));
    let passive = offer(&CODECS).replace("actpass", "passive");
    assert_eq!(Description::parse(&passive).unwrap().transport().unwrap().role, DtlsRole::Client);
}

#[test]
fn what_is_missing_is_named() {
    let cases = [
        ("a=ice-pwd:abcdefghijklmnopqrstuvwx", SdpError::Missing("ICE credentials")),
        ("a=fingerprint:sha-256", SdpError::Missing("a SHA-256 fingerprint")),
    ];
    for (line, error) in cases {
        let text = offer(&CODECS).replace(line, "a=x");
        let description = Description::parse(&text).unwrap();
        assert_eq!(description.transport(), Err(error));
    }
    let unnamed = offer(&CODECS).replace("a=mid:0", "a=x");
    assert_eq!(Description::parse(&unnamed), Err(SdpError::Mid(0)));
}

#[test]
fn sections_are_bounded() {
    let many = |count: usize| {
        let mut text = "v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n".to_owned();
        for mid in 0..count {
            text.push_str(&format!("m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:{mid}\r\n"));
        }
        Description::parse(&text)
    };
    assert_eq!(many(MAX_SECTIONS).unwrap().sections.len(), MAX_SECTIONS);
    assert_eq!(many(MAX_SECTIONS + 1), Err(SdpError::TooManySections(MAX_SECTIONS + 1)));
}

#[test]
fn candidates_prefer_datagrams() {
    let line = |index, protocol| {
        let address = "192.0.2.1:7".parse().unwrap();
        candidate_line(index, &LocalCandidate { protocol, address })
    };
    assert_eq!(
        line(0, CandidateProtocol::Udp),
        "candidate:1 1 udp 2130706431 192.0.2.1 7 typ host"
    );
    assert_eq!(
        line(1, CandidateProtocol::TcpPassive),
        "candidate:2 1 tcp 1526726399 192.0.2.1 7 typ host tcptype passive"
    );
}

#[test]
fn a_section_without_a_common_codec_is_rejected_and_not_bundled() {
    let section = Section { codecs: Vec::new(), ..parse(&[]) };
    let body = LocalMedia::Receive { rids: Vec::new() };
    let local = LocalSection::answer(&section, body, Vec::new());
    assert_eq!(local.body, LocalMedia::Rejected);
    let ice = IceCredentials { ufrag: "abcd".to_owned(), pwd: "x".repeat(24) };
    let transport = LocalTransport {
        ice: &ice,
        fingerprint: Fingerprint([0; 32]),
        setup: Setup::Passive,
        candidates: &[],
    };
    let text = write(1, 1, &transport, &[local]);
    assert!(text.contains("m=video 0 UDP/TLS/RTP/SAVPF 0\r\n") && !text.contains("BUNDLE"));
}

#[test]
fn our_offer_names_what_was_published() {
    let published = parse(&[]).codecs;
    let offered = offered_codecs(&published);
    assert_eq!(offered.len(), 1);
    assert!(offered[0].matches(&published[0]));
    assert!(offered[0].nack && offered[0].pli && offered[0].transport_cc);
}

#[test]
fn audio_besides_opus_and_h265_are_known() {
    let map = ["0 PCMU/8000", "8 PCMA/8000", "63 red/48000/2", "111 opus/48000/2"];
    let formats = ["63", "111", "0", "8", "9"].map(str::to_owned);
    let kinds = |kind, formats: &[String], map: &[&str]| {
        codecs::parse(kind, formats, map, &["63 111/111"], &[])
            .into_iter()
            .map(|codec| (codec.kind, codec.clock_rate))
            .collect::<Vec<_>>()
    };
    let expected = [
        (CodecKind::Red, 48_000),
        (CodecKind::Opus, 48_000),
        (CodecKind::Pcmu, 8_000),
        (CodecKind::Pcma, 8_000),
    ];
    assert_eq!(kinds(MediaKind::Audio, &formats, &map), expected);
    let video = kinds(MediaKind::Video, &["49".to_owned()], &["49 H265/90000"]);
    assert_eq!(video, [(CodecKind::H265, 90_000)]);
}

#[test]
fn opus_is_told_of_stereo_and_silence() {
    let opus = |fmtp: &str| {
        codecs::parse(
            MediaKind::Audio,
            &["111".to_owned()],
            &["111 opus/48000/2"],
            &[&format!("111 {fmtp}")],
            &[],
        )
    };
    let cases = [
        ("minptime=10;useinbandfec=1", false, true, "minptime=10;useinbandfec=1;usedtx=1"),
        ("minptime=10; usedtx=1", false, false, "minptime=10"),
        ("minptime=10", true, false, "minptime=10;stereo=1;maxaveragebitrate=510000"),
    ];
    for (offered, stereo, dtx, expected) in cases {
        let mut codecs = opus(offered);
        set_opus(&mut codecs, stereo, dtx);
        assert_eq!(codecs[0].fmtp, expected, "{offered}");
    }
    let offered = offered_codecs(&opus("stereo=1"));
    assert!(offered[0].fmtp.contains("sprop-stereo=1"), "{}", offered[0].fmtp);
}

#[test]
fn a_publisher_uses_the_first_codec_of_the_answer() {
    let codec = |kind, payload_type| Codec { kind, payload_type, ..parse(&[]).codecs[0].clone() };
    use CodecKind::{H264, Opus, Red, Vp8};
    let answered = [codec(H264, 102), codec(Vp8, 96), codec(H264, 104)];
    let used = |codecs: &[Codec]| -> Vec<u8> {
        published_codecs(codecs).iter().map(|codec| codec.payload_type).collect()
    };
    assert_eq!(used(&answered), [102, 104]);
    assert_eq!(used(&[codec(Opus, 111), codec(Red, 63)]), [111]);
    assert_eq!(used(&[codec(Red, 63), codec(Opus, 111)]), [63, 111]);
}

proptest! {
    #[test]
    fn random_text_never_panics(text in "(v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n)?(m=[a-z]{1,9} [0-9]{1,6} [A-Z/]{0,12}[0-9 ]{0,9}\r\n)?(a=[a-z-]{1,12}:?[ -~]{0,40}\r\n){0,20}.*") {
        let _ = Description::parse(&text);
    }
}
