//! Sends generated media on a publisher's transport and answers what comes back about it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Result;
use sfu_core::media::ExtensionIds;
use sfu_core::media::rtcp::{self, RtcpMessage, SenderReport};
use sfu_core::media::rtp::{HeaderFields, write_header};
use sfu_core::media::srtp::Outbound;

use super::sdp::payload_types;
use super::signal::AcceptedTrack;
use crate::source::{Encoder, clock, stamp};

/// Packets that are kept for retransmission, a layer.
const HISTORY: usize = 512;
/// Seconds from 1900 to 1970.
const NTP_OFFSET: u64 = 2_208_988_800;
/// Key frames on request are at least so far apart, as an encoder's.
const KEY_FRAME_PAUSE: Duration = Duration::from_millis(250);
/// Voice, 20 dB below overload (RFC 6464).
const AUDIO_LEVEL: u8 = 0x80 | 20;

/// Everything that one participant sends.
#[derive(Debug, Default)]
pub(super) struct Publisher {
    pub(super) layers: Vec<PublishedLayer>,
    transport_sequence: u16,
}

/// One encoding of a track on its way out.
#[derive(Debug)]
pub(super) struct PublishedLayer {
    encoder: Encoder,
    pub(super) sid: String,
    /// Index in rising quality.
    pub(super) index: usize,
    mid: String,
    extensions: ExtensionIds,
    payload_types: (u8, Option<u8>),
    ssrc: u32,
    rtx_ssrc: Option<u32>,
    sequence: u64,
    rtx_sequence: u64,
    timestamp: u32,
    last_key_frame: Option<Instant>,
    history: VecDeque<Sent>,
    /// Packets and frames since the start.
    pub(super) packets: u64,
    pub(super) frames: u64,
    octets: u32,
}

#[derive(Debug)]
struct Sent {
    sequence: u64,
    timestamp: u32,
    marker: bool,
    payload: Vec<u8>,
}

/// A packet before protection: bytes, length of the header, source and index.
pub(super) struct Plain {
    pub(super) bytes: Vec<u8>,
    pub(super) header_length: usize,
    pub(super) ssrc: u32,
    pub(super) index: u64,
}

impl Plain {
    /// Protects it.
    pub(super) fn protect(mut self, outbound: &Outbound) -> Result<Vec<u8>> {
        outbound.protect_rtp(&mut self.bytes, 0, self.header_length, self.ssrc, self.index)?;
        Ok(self.bytes)
    }
}

impl Publisher {
    /// Begins to send `tracks`.
    pub(super) fn new(tracks: Vec<AcceptedTrack>, seed: u64) -> Self {
        let mut layers = Vec::new();
        for accepted in tracks {
            let media = accepted.track.media;
            for (index, spec) in media.layers().iter().enumerate() {
                layers.push(PublishedLayer {
                    encoder: Encoder::new(*spec, seed * 16 + layers.len() as u64),
                    sid: accepted.sid.clone(),
                    index,
                    mid: accepted.mid.clone(),
                    extensions: accepted.extensions,
                    payload_types: payload_types(media),
                    ssrc: accepted.track.ssrcs[index],
                    rtx_ssrc: accepted.track.rtx.get(index).copied(),
                    sequence: 1000,
                    rtx_sequence: 1,
                    timestamp: 1,
                    last_key_frame: None,
                    history: VecDeque::with_capacity(HISTORY),
                    packets: 0,
                    frames: 0,
                    octets: 0,
                });
            }
        }
        Self { layers, transport_sequence: 0 }
    }

    /// The next frame of a layer.
    pub(super) fn next_frame(&mut self, layer: usize) -> Vec<Plain> {
        let transport_sequence = &mut self.transport_sequence;
        let layer = &mut self.layers[layer];
        layer.timestamp = layer.timestamp.wrapping_add(layer.encoder.ticks());
        layer.frames += 1;
        let payloads = layer.encoder.encode();
        let last = payloads.len() - 1;
        let frame = payloads.into_iter().enumerate().map(|(index, mut payload)| {
            stamp(&mut payload, clock());
            let sent = Sent {
                sequence: layer.sequence,
                timestamp: layer.timestamp,
                // Of audio, the marker begins a talk spurt.
                marker: index == last && layer.rtx_ssrc.is_some(),
                payload,
            };
            layer.sequence += 1;
            layer.packets += 1;
            layer.octets = layer.octets.wrapping_add(sent.payload.len() as u32);
            let plain = layer.packet(&sent, transport_sequence);
            if layer.rtx_ssrc.is_some() {
                if layer.history.len() == HISTORY {
                    layer.history.pop_front();
                }
                layer.history.push_back(sent);
            }
            plain
        });
        frame.collect()
    }

    /// Takes a compound RTCP packet; returns what is to be sent again.
    pub(super) fn handle_rtcp(&mut self, compound: &[u8], now: Instant) -> Vec<Plain> {
        let mut repairs = Vec::new();
        rtcp::parse(compound, |message| match message {
            RtcpMessage::KeyFrameRequest { ssrc } => {
                if let Some(layer) = self.layers.iter_mut().find(|layer| layer.ssrc == ssrc) {
                    layer.request_key_frame(now);
                }
            }
            RtcpMessage::Nack { ssrc, losses } => {
                let transport_sequence = &mut self.transport_sequence;
                if let Some(layer) = self.layers.iter_mut().find(|layer| layer.ssrc == ssrc) {
                    let repair = |lost| layer.repair(lost, transport_sequence);
                    repairs.extend(losses.sequences().filter_map(repair));
                }
            }
            // What a publisher does not care for.
            _ => {}
        });
        repairs
    }

    /// Sender reports of all layers.
    pub(super) fn reports(&self) -> Vec<u8> {
        let nanos = clock();
        let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        let ntp = ((seconds + NTP_OFFSET) << 32) | ((rest << 32) / 1_000_000_000);
        let mut out = Vec::new();
        for layer in self.layers.iter().filter(|layer| layer.packets > 0) {
            let report = SenderReport {
                ssrc: layer.ssrc,
                ntp,
                rtp_timestamp: layer.timestamp,
                packets: layer.packets as u32,
                octets: layer.octets,
            };
            rtcp::write_sender_report(&mut out, &report, "load");
        }
        out
    }
}

impl PublishedLayer {
    /// Time between frames.
    pub(super) fn interval(&self) -> Duration {
        self.encoder.interval()
    }

    /// Frames a second.
    pub(super) fn frame_rate(&self) -> u32 {
        self.encoder.spec.frame_rate
    }

    fn request_key_frame(&mut self, now: Instant) {
        if self.last_key_frame.is_none_or(|last| now >= last + KEY_FRAME_PAUSE) {
            self.last_key_frame = Some(now);
            self.encoder.request_key_frame();
        }
    }

    fn packet(&self, sent: &Sent, transport_sequence: &mut u16) -> Plain {
        let fields = HeaderFields {
            marker: sent.marker,
            payload_type: self.payload_types.0,
            sequence: sent.sequence as u16,
            timestamp: sent.timestamp,
            ssrc: self.ssrc,
        };
        let bytes = self.write(fields, self.extensions.rid, transport_sequence, &[&sent.payload]);
        self.plain(bytes, self.ssrc, sent.sequence)
    }

    /// RFC 4588: the packet's number, then its payload, as a stream of its own.
    fn repair(&mut self, lost: u16, transport_sequence: &mut u16) -> Option<Plain> {
        let ssrc = self.rtx_ssrc?;
        let payload_type = self.payload_types.1?;
        let sent = self.history.iter().rev().find(|sent| sent.sequence as u16 == lost)?;
        let fields = HeaderFields {
            marker: sent.marker,
            payload_type,
            sequence: self.rtx_sequence as u16,
            timestamp: sent.timestamp,
            ssrc,
        };
        let parts = [&lost.to_be_bytes()[..], &sent.payload];
        let bytes = self.write(fields, self.extensions.repaired_rid, transport_sequence, &parts);
        let plain = self.plain(bytes, ssrc, self.rtx_sequence);
        self.rtx_sequence += 1;
        Some(plain)
    }

    fn write(
        &self,
        fields: HeaderFields,
        rid_id: Option<u8>,
        transport_sequence: &mut u16,
        payload: &[&[u8]],
    ) -> (Vec<u8>, usize) {
        let number = transport_sequence.to_be_bytes();
        *transport_sequence = transport_sequence.wrapping_add(1);
        let send_time = absolute_send_time(clock());
        let rid = self.encoder.spec.rid;
        let is_audio = self.encoder.spec.media.is_audio();
        let values: [(Option<u8>, &[u8]); 5] = [
            (self.extensions.mid, self.mid.as_bytes()),
            (rid_id.filter(|_| !rid.is_empty()), rid.as_bytes()),
            (self.extensions.transport_cc, &number),
            (self.extensions.abs_send_time, &send_time),
            (self.extensions.audio_level.filter(|_| is_audio), &[AUDIO_LEVEL]),
        ];
        let extensions: Vec<(u8, &[u8])> =
            values.into_iter().filter_map(|(id, value)| Some((id?, value))).collect();
        let mut bytes = Vec::with_capacity(1300);
        let header_length = write_header(&mut bytes, fields, &extensions);
        for part in payload {
            bytes.extend_from_slice(part);
        }
        (bytes, header_length)
    }

    fn plain(&self, (bytes, header_length): (Vec<u8>, usize), ssrc: u32, index: u64) -> Plain {
        Plain { bytes, header_length, ssrc, index }
    }
}

/// Seconds in 6.18 bits.
fn absolute_send_time(nanos: u64) -> [u8; 3] {
    let fixed = u128::from(nanos % 64_000_000_000) * (1 << 18) / 1_000_000_000;
    let [.., a, b, c] = (fixed as u32).to_be_bytes();
    [a, b, c]
}

#[cfg(test)]
mod tests {
    use sfu_core::media::rtp::RtpHeader;

    use super::super::sdp::OfferedTrack;
    use super::*;
    use crate::source::{Media, stamped};

    fn publisher() -> Publisher {
        let track = OfferedTrack {
            media: Media::Simulcast,
            cid: "c".to_owned(),
            ssrcs: vec![1, 2, 3],
            rtx: vec![11, 12, 13],
        };
        let extensions = ExtensionIds {
            mid: Some(1),
            rid: Some(2),
            repaired_rid: Some(3),
            transport_cc: Some(4),
            ..ExtensionIds::default()
        };
        let accepted =
            AcceptedTrack { track, sid: "TR_1".to_owned(), mid: "0".to_owned(), extensions };
        Publisher::new(vec![accepted], 1)
    }

    #[test]
    fn packets_carry_section_layer_and_rising_numbers() {
        let mut publisher = publisher();
        let packets: Vec<Plain> = (0..3).flat_map(|layer| publisher.next_frame(layer)).collect();
        for (number, plain) in packets.iter().enumerate() {
            let header = RtpHeader::parse(&plain.bytes).unwrap();
            assert_eq!(header.header_length, plain.header_length);
            let extension = |id| header.extension(&plain.bytes, Some(id));
            assert_eq!(extension(1), Some(&b"0"[..]));
            let rid = ["q", "h", "f"][header.ssrc as usize - 1];
            assert_eq!(extension(2), Some(rid.as_bytes()));
            assert_eq!(extension(4), Some(&(number as u16).to_be_bytes()[..]));
            assert!(stamped(header.payload(&plain.bytes).unwrap()).unwrap() <= clock());
        }
    }

    #[test]
    fn what_was_lost_is_sent_again_under_another_source() {
        let mut publisher = publisher();
        let sent = publisher.next_frame(2).remove(1);
        let sent_header = RtpHeader::parse(&sent.bytes).unwrap();
        let mut compound = Vec::new();
        rtcp::write_nack(&mut compound, 9, 3, &[sent_header.sequence, 7]);
        let repairs = publisher.handle_rtcp(&compound, Instant::now());
        let [repair] = repairs.as_slice() else { panic!("{}", repairs.len()) };
        let header = RtpHeader::parse(&repair.bytes).unwrap();
        assert_eq!((header.ssrc, header.payload_type), (13, 97));
        assert_eq!(header.extension(&repair.bytes, Some(3)), Some(&b"f"[..]));
        let (original, payload) =
            header.payload(&repair.bytes).unwrap().split_first_chunk().unwrap();
        assert_eq!(u16::from_be_bytes(*original), sent_header.sequence);
        assert_eq!(payload, sent_header.payload(&sent.bytes).unwrap());
    }

    #[test]
    fn send_times_wrap_at_64_seconds() {
        assert_eq!(absolute_send_time(64_500_000_000), [0x02, 0, 0]);
    }
}
