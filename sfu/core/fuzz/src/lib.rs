//! What each fuzz target does with its input: reads it as the media node would, and checks what
//! must hold of whatever was read. `sfu/core/tests/corpora.rs` replays the corpora with the same
//! functions.

use std::time::{Duration, Instant};

use sfu_core::media::codec::{
    DependencyDescriptor, PayloadReader, Vp8Descriptor, Vp9Descriptor, primary_block,
};
use sfu_core::media::data::DataTransport;
use sfu_core::media::rtcp::{self, RtcpMessage};
use sfu_core::media::rtp::{HeaderFields, RtpHeader, write_header};
use sfu_core::media::stun::BindingRequest;
use sfu_core::media::{CodecKind, DataChannelKind};
use sfu_core::sdp::Description;
use sfu_core::signal::codec::{decode_binary, decode_text};

/// Most packets that one input is cut into.
const MAX_PARTS: usize = 64;

/// Cuts an input into parts: a byte with the length, then the part.
fn parts(mut input: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (&length, rest) = input.split_first()?;
        let (part, rest) = rest.split_at(usize::from(length).min(rest.len()));
        input = rest;
        Some(part)
    })
    .take(MAX_PARTS)
}

/// A connectivity check, and our answers to it.
pub fn stun(input: &[u8]) {
    let Some(request) = BindingRequest::parse(input) else { return };
    let _ = (request.local_ufrag(), request.remote_ufrag());
    let password = "password-of-22-letters";
    let _ = request.is_authentic(password);
    let mut answer = Vec::new();
    for source in ["192.0.2.1:5000", "[2001:db8::1]:5000"] {
        request.success(source.parse().expect("it is an address"), password, &mut answer);
        assert_eq!(BindingRequest::parse(&answer), None, "an answer is not a request");
    }
    request.error(487, "Role Conflict", password, &mut answer);
    assert_eq!(answer.len() % 4, 0);
}

/// An RTP header with its extensions, which must survive being written anew.
pub fn rtp(input: &[u8]) {
    let Some(header) = RtpHeader::parse(input) else { return };
    assert!(header.header_length <= input.len());
    let _ = header.payload(input);
    let extensions: Vec<(u8, &[u8])> =
        header.extensions(input).filter(|(id, value)| *id != 0 && value.len() < 256).collect();
    let fields = HeaderFields {
        marker: header.marker,
        payload_type: header.payload_type,
        sequence: header.sequence,
        timestamp: header.timestamp,
        ssrc: header.ssrc,
    };
    let mut written = Vec::new();
    let length = write_header(&mut written, fields, &extensions);
    let read = RtpHeader::parse(&written).expect("what we write is RTP");
    assert_eq!((read.header_length, read.sequence), (length, header.sequence));
    assert!(read.extensions(&written).eq(extensions));
}

/// A compound RTCP packet.
pub fn rtcp(input: &[u8]) {
    rtcp::parse(input, |message| match message {
        RtcpMessage::Nack { losses, .. } => {
            assert!(losses.sequences().count() <= 17 * (input.len() / 4));
        }
        RtcpMessage::TransportFeedback(feedback) => {
            assert!(feedback.arrivals().count() <= usize::from(feedback.count));
            let _ = feedback.reference_micros();
        }
        RtcpMessage::SenderReport { .. }
        | RtcpMessage::ReceptionReport { .. }
        | RtcpMessage::ReceiverEstimate { .. }
        | RtcpMessage::KeyFrameRequest { .. }
        | RtcpMessage::Goodbye { .. } => {}
    });
}

/// Payloads of one stream: the first byte names the codec.
pub fn payloads(input: &[u8]) {
    const CODECS: [CodecKind; 6] = [
        CodecKind::Vp8,
        CodecKind::Vp9,
        CodecKind::H264,
        CodecKind::H265,
        CodecKind::Av1,
        CodecKind::Opus,
    ];
    let Some((&codec, rest)) = input.split_first() else { return };
    let codec = CODECS[usize::from(codec) % CODECS.len()];
    let mut reader = PayloadReader::default();
    for payload in parts(rest) {
        let info = reader.read(codec, payload, None);
        assert!(primary_block(payload).is_none_or(|at| at < payload.len()));
        let _ = info.is_needed(u8::MAX, u8::MAX);
        if let Some(descriptor) = Vp9Descriptor::parse(payload) {
            assert!(descriptor.spatial < 8 && descriptor.temporal < 8);
        }
        if let Some(descriptor) = Vp8Descriptor::parse(payload) {
            let mut rewritten = payload.to_vec();
            descriptor.rewrite(&mut rewritten, 0x1234, 0x56);
            let read = Vp8Descriptor::parse(&rewritten).expect("it was one before");
            assert_eq!(read.length, descriptor.length);
            assert_eq!(read.tl0_index, descriptor.tl0_index.map(|_| 0x56));
            assert_eq!(rewritten[read.length..], payload[read.length..]);
        }
    }
}

/// Dependency descriptors of one stream, each read with the structure that came last.
pub fn dependency_descriptor(input: &[u8]) {
    let mut structure = None;
    let mut reader = PayloadReader::default();
    for bytes in parts(input) {
        let _ = reader.read(CodecKind::Av1, &[0], Some(bytes));
        let known = structure.as_deref();
        let Some(descriptor) = DependencyDescriptor::parse(bytes, known) else { continue };
        structure = descriptor.structure.or(structure);
    }
}

/// A description of a client.
pub fn sdp(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(description) = Description::parse(text) else { return };
    let _ = description.transport();
    for section in &description.sections {
        let found = description.section(&section.mid).expect("its mid is in the description");
        assert_eq!(found.mid, section.mid);
    }
}

/// A signal message, binary and as text.
pub fn signal(input: &[u8]) {
    let _ = decode_binary(input);
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = decode_text(text);
    }
}

/// SCTP packets for an association that is up: each part is the chunks of a packet whose header
/// is right, since the rest would be refused at its check sum.
#[allow(clippy::disallowed_methods, reason = "virtual time begins at some real moment")]
pub fn sctp(input: &[u8]) {
    let mut now = Instant::now();
    let mut server = DataTransport::new(false);
    let tag = connect(&mut server, now).expect("the server answers INIT with a cookie");
    for chunks in parts(input) {
        now += Duration::from_millis(20);
        server.handle(sctp_packet(tag, chunks), now);
        server.handle_timeout(now);
        server.send(DataChannelKind::Reliable, &bytes::Bytes::from_static(b"data"), now);
        while server.poll_event().is_some() {}
        while server.poll_transmit(now).is_some() {}
    }
}

/// Does the client's part of the handshake (RFC 9260 section 5.1); answers the server's tag.
fn connect(server: &mut DataTransport, now: Instant) -> Option<u32> {
    const INIT: [u8; 20] = [1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1];
    const STATE_COOKIE: [u8; 2] = [0, 7];
    server.handle(sctp_packet(0, &INIT), now);
    let answer = server.poll_transmit(now)?.into_iter().next()?;
    let tag = u32::from_be_bytes(*answer.get(16..)?.first_chunk()?);
    let mut parameters = answer.get(32..)?;
    while let Some(head) = parameters.first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if head[..2] == STATE_COOKIE {
            let mut echo = parameters.get(..length)?.to_vec();
            echo[..2].copy_from_slice(&[10, 0]);
            echo.resize(echo.len().next_multiple_of(4), 0);
            server.handle(sctp_packet(tag, &echo), now);
            return Some(tag);
        }
        parameters = parameters.get(length.next_multiple_of(4).max(4)..)?;
    }
    None
}

/// A packet with a right header.
fn sctp_packet(tag: u32, chunks: &[u8]) -> Vec<u8> {
    let mut packet = [5000u16.to_be_bytes(); 2].concat();
    packet.extend_from_slice(&tag.to_be_bytes());
    packet.extend_from_slice(&[0; 4]);
    packet.extend_from_slice(chunks);
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

/// CRC-32C, the check sum of SCTP (RFC 9260 appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _: u32| if sum & 1 == 1 { sum >> 1 ^ 0x82F6_3B78 } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}
