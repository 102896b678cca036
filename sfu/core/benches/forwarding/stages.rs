//! What happens to a packet, one stage at a time.

use std::hint::black_box;

use sfu_core::media::codec::Vp8Descriptor;
use sfu_core::media::rtp::{HeaderFields, RtpHeader, write_header};
use sfu_core::media::srtp::{Inbound, Outbound, SrtpProfile};

/// Payload of a video packet.
const PAYLOAD: [u8; 1100] = [0x55; 1100];
const KEY: [u8; 16] = [7; 16];
const SALT: [u8; 14] = [9; 14];

/// Protection profiles by their names in the registry of DTLS-SRTP.
pub(crate) const PROFILES: [(&str, SrtpProfile); 2] = [
    ("AEAD_AES_128_GCM", SrtpProfile::AeadAes128Gcm),
    ("AES128_CM_SHA1_80", SrtpProfile::Aes128CmSha1_80),
];

/// Fields of a video packet.
pub(crate) fn fields(sequence: u16) -> HeaderFields {
    HeaderFields { marker: false, payload_type: 96, sequence, timestamp: 0, ssrc: 1 }
}

/// A plain packet with the extensions that subscribers get, and the length of its header.
fn packet(sequence: u16) -> (Vec<u8>, usize) {
    let mut packet = Vec::with_capacity(1300);
    let header_length =
        write_header(&mut packet, fields(sequence), &[(1, b"1"), (4, &sequence.to_be_bytes())]);
    packet.extend_from_slice(&PAYLOAD);
    (packet, header_length)
}

/// Writes the header and the VP8 descriptor anew, as for one subscriber.
pub(crate) fn rewrite() -> impl FnMut() {
    // Key frame of VP8 with picture id, `TL0PICIDX` and temporal layer.
    let mut payload = vec![0x90, 0xE0, 0x81, 0x02, 9, 0x20, 0x10];
    payload.resize(PAYLOAD.len(), 0x55);
    let mut out = Vec::with_capacity(1300);
    move || {
        out.clear();
        let length = write_header(&mut out, black_box(fields(7)), &[(4, &[0, 7])]);
        out.extend_from_slice(black_box(&payload));
        let vp8 = Vp8Descriptor::parse(&payload).expect("it was written so");
        vp8.rewrite(&mut out[length..], 0x234, 10);
        black_box(&out);
    }
}

/// Copies a packet and protects it, as for one subscriber.
pub(crate) fn protect(profile: SrtpProfile) -> impl FnMut() {
    let outbound = Outbound::new(profile, &KEY, &SALT[..profile.salt_length()]);
    let (plain, header_length) = packet(1);
    let mut buffer = Vec::with_capacity(1300);
    let mut index = 0;
    move || {
        buffer.clear();
        buffer.extend_from_slice(&plain);
        index += 1;
        outbound
            .protect_rtp(&mut buffer, 0, header_length, 1, index)
            .expect("indices do not run out");
    }
}

/// Protected packets of a publisher, one after the other.
pub(crate) fn protected(profile: SrtpProfile) -> impl FnMut() -> Vec<u8> {
    let outbound = Outbound::new(profile, &KEY, &SALT[..profile.salt_length()]);
    let mut index = 0_u64;
    move || {
        index += 1;
        let (mut bytes, header_length) = packet(index as u16);
        outbound
            .protect_rtp(&mut bytes, 0, header_length, 1, index)
            .expect("indices do not run out");
        bytes
    }
}

/// Reads the header and takes the protection off.
pub(crate) fn unprotect(profile: SrtpProfile) -> impl FnMut(Vec<u8>) {
    let mut inbound = Inbound::new(profile, &KEY, &SALT[..profile.salt_length()]);
    move |mut bytes| {
        let header = RtpHeader::parse(&bytes).expect("it was written so");
        inbound.unprotect_rtp(&mut bytes, header.header_length).expect("it is authentic");
    }
}
