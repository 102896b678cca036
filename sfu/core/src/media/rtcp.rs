//! RTCP (RFC 3550, RFC 4585, RFC 5104): the packets an SFU reads and writes. Others are skipped.

mod transport_feedback;
mod write;

pub use transport_feedback::TransportFeedback;
pub use write::{
    ReportBlock, SenderReport, write_nack, write_pli, write_receiver_report, write_sender_report,
    write_transport_feedback,
};

/// Packet types.
mod packet_type {
    pub(super) const SENDER_REPORT: u8 = 200;
    pub(super) const RECEIVER_REPORT: u8 = 201;
    pub(super) const SOURCE_DESCRIPTION: u8 = 202;
    pub(super) const GOODBYE: u8 = 203;
    pub(super) const TRANSPORT_FEEDBACK: u8 = 205;
    pub(super) const PAYLOAD_FEEDBACK: u8 = 206;
}

/// Feedback message types: generic NACK and transport-wide feedback of type 205, the rest 206.
mod feedback {
    pub(super) const NACK: u8 = 1;
    pub(super) const TRANSPORT_WIDE: u8 = 15;
    pub(super) const PICTURE_LOSS: u8 = 1;
    pub(super) const FULL_INTRA_REQUEST: u8 = 4;
    pub(super) const APPLICATION: u8 = 15;
}

/// Something that a peer reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RtcpMessage<'a> {
    /// The clock of a stream that the peer sends.
    SenderReport {
        /// The stream.
        ssrc: u32,
        /// NTP time, 32.32 seconds since 1900.
        ntp: u64,
        /// The same moment in RTP ticks.
        rtp_timestamp: u32,
    },
    /// How the peer receives a stream of ours.
    ReceptionReport {
        /// Our stream.
        ssrc: u32,
        /// Lost since the last report, of 256.
        fraction_lost: u8,
        /// Interarrival jitter in RTP ticks.
        jitter: u32,
        /// Middle 32 bits of our last sender report's NTP time.
        last_sender_report: u32,
        /// Time since then, in 1/65536 seconds.
        delay_since: u32,
    },
    /// The peer misses packets of a stream of ours.
    Nack {
        /// Our stream.
        ssrc: u32,
        /// Pairs of packet id and bit mask of following losses.
        losses: Losses<'a>,
    },
    /// The peer needs a key frame of a stream of ours (PLI or FIR).
    KeyFrameRequest {
        /// Our stream.
        ssrc: u32,
    },
    /// When packets of ours arrived, over all streams of the transport.
    TransportFeedback(TransportFeedback<'a>),
    /// Bandwidth that the peer estimates for all that we send (draft-alvestrand-rmcat-remb).
    ReceiverEstimate {
        /// Bits a second.
        bitrate: u64,
    },
    /// A stream of the peer ended.
    Goodbye {
        /// The stream.
        ssrc: u32,
    },
}

/// The packet ids of a generic NACK (RFC 4585 section 6.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Losses<'a>(&'a [u8]);

impl Losses<'_> {
    /// Sequence numbers that are missing.
    pub fn sequences(&self) -> impl Iterator<Item = u16> {
        self.0.as_chunks::<4>().0.iter().flat_map(|entry| {
            let first = u16::from_be_bytes([entry[0], entry[1]]);
            let mask = u16::from_be_bytes([entry[2], entry[3]]);
            let following = (0..16).filter(move |bit| mask >> bit & 1 == 1);
            std::iter::once(first).chain(following.map(move |bit| first.wrapping_add(bit + 1)))
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Calls `handle` for each message of a compound packet. A malformed one hides none of the others;
/// what follows a lying length is not read.
pub fn parse<'a>(mut compound: &'a [u8], mut handle: impl FnMut(RtcpMessage<'a>)) {
    while let Some(header) = compound.first_chunk::<4>() {
        let length = 4 * (usize::from(u16::from_be_bytes([header[2], header[3]])) + 1);
        let (Some(packet), 2) = (compound.get(..length), header[0] >> 6) else { return };
        let count = header[0] & 0x1F;
        // What a malformed one says is skipped, from where it ends too soon.
        let _read = parse_packet(header[1], count, packet, &mut handle);
        compound = &compound[length..];
    }
}

fn parse_packet<'a>(
    kind: u8,
    count: u8,
    packet: &'a [u8],
    handle: &mut impl FnMut(RtcpMessage<'a>),
) -> Option<()> {
    match (kind, count) {
        (packet_type::SENDER_REPORT, _) => {
            handle(RtcpMessage::SenderReport {
                ssrc: word(packet, 4)?,
                ntp: u64::from(word(packet, 8)?) << 32 | u64::from(word(packet, 12)?),
                rtp_timestamp: word(packet, 16)?,
            });
            parse_reports(packet.get(28..)?, count, handle)
        }
        (packet_type::RECEIVER_REPORT, _) => parse_reports(packet.get(8..)?, count, handle),
        (packet_type::GOODBYE, _) => {
            for at in 0..usize::from(count) {
                handle(RtcpMessage::Goodbye { ssrc: word(packet, 4 + 4 * at)? });
            }
            Some(())
        }
        (packet_type::TRANSPORT_FEEDBACK, feedback::NACK) => {
            let losses = Losses(packet.get(12..)?);
            handle(RtcpMessage::Nack { ssrc: word(packet, 8)?, losses });
            Some(())
        }
        (packet_type::TRANSPORT_FEEDBACK, feedback::TRANSPORT_WIDE) => {
            let feedback = TransportFeedback::parse(packet.get(12..)?)?;
            handle(RtcpMessage::TransportFeedback(feedback));
            Some(())
        }
        (packet_type::PAYLOAD_FEEDBACK, feedback::APPLICATION) => {
            if packet.get(12..16)? == b"REMB" {
                let word = word(packet, 16)?;
                let (exponent, mantissa) = (word >> 18 & 0x3F, u64::from(word & 0x3_FFFF));
                let bitrate = mantissa.checked_shl(exponent).unwrap_or(u64::MAX);
                handle(RtcpMessage::ReceiverEstimate { bitrate });
            }
            Some(())
        }
        (packet_type::PAYLOAD_FEEDBACK, feedback::PICTURE_LOSS) => {
            handle(RtcpMessage::KeyFrameRequest { ssrc: word(packet, 8)? });
            Some(())
        }
        (packet_type::PAYLOAD_FEEDBACK, feedback::FULL_INTRA_REQUEST) => {
            for entry in packet.get(12..)?.as_chunks::<8>().0 {
                handle(RtcpMessage::KeyFrameRequest { ssrc: word(entry, 0)? });
            }
            Some(())
        }
        _ => Some(()),
    }
}

fn parse_reports<'a>(
    blocks: &[u8],
    count: u8,
    handle: &mut impl FnMut(RtcpMessage<'a>),
) -> Option<()> {
    for index in 0..usize::from(count) {
        let block = blocks.get(24 * index..24 * (index + 1))?;
        handle(RtcpMessage::ReceptionReport {
            ssrc: word(block, 0)?,
            fraction_lost: block[4],
            jitter: word(block, 12)?,
            last_sender_report: word(block, 16)?,
            delay_since: word(block, 20)?,
        });
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn messages(compound: &[u8]) -> Vec<RtcpMessage<'_>> {
        let mut found = Vec::new();
        parse(compound, |message| found.push(message));
        found
    }

    #[test]
    fn a_compound_of_ours_is_read_back() {
        let mut out = Vec::new();
        let report = SenderReport {
            ssrc: 1,
            ntp: 0x1122_3344_5566_7788,
            rtp_timestamp: 9,
            packets: 2,
            octets: 3,
        };
        write_sender_report(&mut out, &report, "cname");
        write_pli(&mut out, 1, 2);
        write_nack(&mut out, 1, 2, &[10, 11, 27, 60, 65_535, 0]);
        let found = messages(&out);
        assert_eq!(
            found[0],
            RtcpMessage::SenderReport { ssrc: 1, ntp: report.ntp, rtp_timestamp: 9 }
        );
        assert_eq!(found[1], RtcpMessage::KeyFrameRequest { ssrc: 2 });
        let RtcpMessage::Nack { ssrc: 2, losses } = found[2] else { panic!("{found:?}") };
        let mut lost: Vec<u16> = losses.sequences().collect();
        lost.sort_unstable();
        assert_eq!(lost, [0, 10, 11, 27, 60, 65_535]);
    }

    #[test]
    fn reports_carry_their_blocks() {
        let mut out = Vec::new();
        let block = ReportBlock {
            ssrc: 7,
            fraction_lost: 12,
            cumulative_lost: 34,
            highest_sequence: 56,
            jitter: 78,
            last_sender_report: 90,
            delay_since: 11,
        };
        write_receiver_report(&mut out, 1, &[block], "cname");
        assert_eq!(
            messages(&out),
            [RtcpMessage::ReceptionReport {
                ssrc: 7,
                fraction_lost: 12,
                jitter: 78,
                last_sender_report: 90,
                delay_since: 11
            }]
        );
    }

    #[test]
    fn a_malformed_packet_hides_none_of_those_behind_it() {
        // Transport-wide feedback and a report that end too soon, and a type that nobody knows.
        let mut compound = vec![0x8F, 205, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
        compound.extend_from_slice(&[0x82, 201, 0, 1, 0, 0, 0, 1]);
        compound.extend_from_slice(&[0x80, 199, 0, 0]);
        write_pli(&mut compound, 1, 2);
        assert_eq!(messages(&compound), [RtcpMessage::KeyFrameRequest { ssrc: 2 }]);
        compound[3] = 200;
        assert_eq!(messages(&compound), [], "its end is not known");
    }

    #[test]
    fn a_receiver_estimate_is_read() {
        // Exponent 3, mantissa 100,000.
        let word = (3u32 << 18 | 100_000).to_be_bytes();
        let mut packet = vec![0x8F, 206, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0];
        packet.extend_from_slice(b"REMB");
        packet.push(1);
        packet.extend_from_slice(&word[1..]);
        packet.extend_from_slice(&[0, 0, 0, 9]);
        assert_eq!(messages(&packet), [RtcpMessage::ReceiverEstimate { bitrate: 800_000 }]);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            parse(&bytes, |message| {
                match message {
                    RtcpMessage::Nack { losses, .. } => drop(losses.sequences().count()),
                    RtcpMessage::TransportFeedback(feedback) => {
                        assert!(feedback.arrivals().count() <= usize::from(feedback.count));
                    }
                    _ => {}
                }
            });
        }
    }
}
