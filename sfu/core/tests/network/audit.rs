//! What leaves the engine for one subscriber, seen before any network touches it: nonces,
//! sequence numbers, timestamps and picture ids.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use sfu_core::media::rtp::RtpHeader;
use sfu_core::media::srtp::{Inbound, SrtpError};

use crate::endpoint::client_keys;
use crate::vp8::{self, Payload};

/// A media packet on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) at: Instant,
    pub(crate) timestamp: u32,
    /// What the publisher wrote, where the payload is a generated video packet.
    pub(crate) video: Option<Payload>,
    /// Bytes of payload, of which none are padding.
    pub(crate) payload: usize,
}

/// Every RTP packet that went to one subscriber.
pub(crate) struct Audit {
    inbound: Inbound,
    /// Whole datagrams that were sent, so that an exact repetition is known: it uses a nonce
    /// again, but for the same content.
    datagrams: HashSet<Vec<u8>>,
    /// By source: extended sequence number to packet.
    pub(crate) streams: HashMap<u32, BTreeMap<u64, Sent>>,
    /// Bytes of datagrams, RTCP included.
    pub(crate) bytes: u64,
}

impl Audit {
    pub(crate) fn new() -> Self {
        let (inbound, _) = client_keys();
        Self { inbound, datagrams: HashSet::new(), streams: HashMap::new(), bytes: 0 }
    }

    /// Notes a datagram. Fails the test when it does not decrypt, or when its nonce protected
    /// other content before.
    pub(crate) fn note(&mut self, datagram: &[u8], now: Instant) {
        self.bytes += datagram.len() as u64;
        if datagram[0] < 128 || matches!(datagram[1], 192..=223) {
            return;
        }
        let mut packet = datagram.to_vec();
        let header = RtpHeader::parse(&packet).unwrap();
        if self.datagrams.contains(datagram) {
            return;
        }
        let mut opened = self.inbound.unprotect_rtp(&mut packet, header.header_length);
        if opened == Err(SrtpError::Replay) {
            // Too old for the window or really used before: the index tells. Within a test it
            // is below the first wrap.
            let (mut fresh, _) = client_keys();
            opened = fresh.unprotect_rtp(&mut packet, header.header_length);
        }
        let (length, index) = match opened {
            Ok(opened) => opened,
            Err(error) => panic!("{header:?} does not decrypt: {error}"),
        };
        self.datagrams.insert(datagram.to_vec());
        let payload = header.payload(&packet[..length]).unwrap();
        let timestamp = header.timestamp;
        let video = vp8::parse(payload);
        let sent = Sent { at: now, timestamp, video, payload: payload.len() };
        let known = self.streams.entry(header.ssrc).or_default().insert(index, sent);
        assert_eq!(known, None, "nonce ({}, {index}) protects two contents", header.ssrc);
    }

    /// The packets of a source in the order of their numbers.
    pub(crate) fn stream(&self, ssrc: u32) -> impl Iterator<Item = (u64, Sent)> {
        self.streams.get(&ssrc).into_iter().flatten().map(|(index, sent)| (*index, *sent))
    }
}

#[cfg(test)]
mod tests {
    use sfu_core::media::srtp::{Outbound, SrtpProfile};

    use super::*;

    /// A packet as the engine would seal it, under one number.
    fn seal(payload: u8) -> Vec<u8> {
        let material: Vec<u8> = (0..SrtpProfile::AeadAes128Gcm.keying_material_length())
            .map(|byte| byte as u8)
            .collect();
        let key = material[16..32].first_chunk().unwrap();
        let outbound = Outbound::new(SrtpProfile::AeadAes128Gcm, key, &material[44..]);
        let mut packet = vec![0x80, 96, 0, 9, 0, 0, 0, 0, 0, 0, 0, 7, payload];
        outbound.protect_rtp(&mut packet, 0, 12, 7, 9).unwrap();
        packet
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "virtual time begins at some real moment")]
    fn a_repetition_is_allowed_but_not_a_second_content() {
        let now = Instant::now();
        let mut audit = Audit::new();
        audit.note(&seal(1), now);
        audit.note(&seal(1), now);
        assert_eq!(audit.stream(7).count(), 1);
        let second = std::panic::catch_unwind(move || audit.note(&seal(2), now));
        assert!(second.is_err());
    }
}
