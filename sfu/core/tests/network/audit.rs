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
