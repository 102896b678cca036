//! Writing RTCP packets; each function appends one packet (or a report with its source
//! description) to a compound.

use super::{feedback, packet_type};

/// A block of a receiver report (RFC 3550 section 6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportBlock {
    /// The stream that is reported.
    pub ssrc: u32,
    /// Lost since the last report, of 256.
    pub fraction_lost: u8,
    /// Lost since the beginning, packets; 24 bits are written.
    pub cumulative_lost: u32,
    /// Highest sequence number, with the number of wraps above it.
    pub highest_sequence: u32,
    /// Interarrival jitter in RTP ticks.
    pub jitter: u32,
    /// Middle 32 bits of the last sender report's NTP time.
    pub last_sender_report: u32,
    /// Time since then, in 1/65536 seconds.
    pub delay_since: u32,
}

/// A sender report without blocks (RFC 3550 section 6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderReport {
    /// Our stream.
    pub ssrc: u32,
    /// NTP time, 32.32 seconds since 1900.
    pub ntp: u64,
    /// The same moment in RTP ticks.
    pub rtp_timestamp: u32,
    /// Packets sent, modulo 2³².
    pub packets: u32,
    /// Payload bytes sent, modulo 2³².
    pub octets: u32,
}

/// Begins a packet; [`finish`] writes its length.
fn begin(out: &mut Vec<u8>, count: u8, kind: u8) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0x80 | count, kind, 0, 0]);
    start
}

fn finish(out: &mut Vec<u8>, start: usize) {
    let length = (out.len() - start).next_multiple_of(4);
    out.resize(start + length, 0);
    let words = (length / 4 - 1) as u16;
    out[start + 2..start + 4].copy_from_slice(&words.to_be_bytes());
}

fn put(out: &mut Vec<u8>, words: &[u32]) {
    for word in words {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

/// Appends a sender report and the source description that must follow it.
pub fn write_sender_report(out: &mut Vec<u8>, report: &SenderReport, cname: &str) {
    let start = begin(out, 0, packet_type::SENDER_REPORT);
    let SenderReport { ssrc, ntp, rtp_timestamp, packets, octets } = *report;
    put(out, &[ssrc, (ntp >> 32) as u32, ntp as u32, rtp_timestamp, packets, octets]);
    finish(out, start);
    write_source_description(out, ssrc, cname);
}

/// Appends a receiver report of at most 31 blocks and a source description.
pub fn write_receiver_report(out: &mut Vec<u8>, ssrc: u32, blocks: &[ReportBlock], cname: &str) {
    let blocks = &blocks[..blocks.len().min(31)];
    let start = begin(out, blocks.len() as u8, packet_type::RECEIVER_REPORT);
    put(out, &[ssrc]);
    for block in blocks {
        let lost = u32::from(block.fraction_lost) << 24 | (block.cumulative_lost & 0x00FF_FFFF);
        put(
            out,
            &[
                block.ssrc,
                lost,
                block.highest_sequence,
                block.jitter,
                block.last_sender_report,
                block.delay_since,
            ],
        );
    }
    finish(out, start);
    write_source_description(out, ssrc, cname);
}

/// RFC 3550 section 6.5: one chunk with a CNAME of at most 255 bytes.
fn write_source_description(out: &mut Vec<u8>, ssrc: u32, cname: &str) {
    const CNAME: u8 = 1;
    let cname = &cname.as_bytes()[..cname.len().min(255)];
    let start = begin(out, 1, packet_type::SOURCE_DESCRIPTION);
    put(out, &[ssrc]);
    out.extend_from_slice(&[CNAME, cname.len() as u8]);
    out.extend_from_slice(cname);
    // At least one zero byte ends the chunk.
    out.push(0);
    finish(out, start);
}

/// Appends a picture loss indication.
pub fn write_pli(out: &mut Vec<u8>, sender: u32, media: u32) {
    let start = begin(out, feedback::PICTURE_LOSS, packet_type::PAYLOAD_FEEDBACK);
    put(out, &[sender, media]);
    finish(out, start);
}

/// Appends a generic NACK for `lost`, which is in order of sending.
pub fn write_nack(out: &mut Vec<u8>, sender: u32, media: u32, lost: &[u16]) {
    let start = begin(out, feedback::NACK, packet_type::TRANSPORT_FEEDBACK);
    put(out, &[sender, media]);
    let mut at = 0;
    while let Some(&first) = lost.get(at) {
        let mut mask = 0u16;
        at += 1;
        while let Some(&next) = lost.get(at) {
            match next.wrapping_sub(first) {
                distance @ 1..=16 => mask |= 1 << (distance - 1),
                _ => break,
            }
            at += 1;
        }
        put(out, &[u32::from(first) << 16 | u32::from(mask)]);
    }
    finish(out, start);
}

/// Appends transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01).
/// `arrivals` starts at sequence number `base`: `None` is lost, else the time since
/// `reference`, in units of 250 µs; `reference` counts 64 ms.
pub fn write_transport_feedback(
    out: &mut Vec<u8>,
    ids: (u32, u32),
    base: u16,
    reference: u32,
    feedback_count: u8,
    arrivals: &[Option<i64>],
) {
    let start = begin(out, feedback::TRANSPORT_WIDE, packet_type::TRANSPORT_FEEDBACK);
    put(out, &[ids.0, ids.1]);
    put(out, &[u32::from(base) << 16 | arrivals.len() as u32]);
    put(out, &[(reference & 0x00FF_FFFF) << 8 | u32::from(feedback_count)]);
    let deltas = deltas(arrivals);
    write_status_chunks(out, &deltas);
    for delta in deltas.into_iter().flatten() {
        match u8::try_from(delta) {
            Ok(small) => out.push(small),
            Err(_) => out.extend_from_slice(&delta.to_be_bytes()),
        }
    }
    finish(out, start);
}

/// Differences between successive arrivals; one that does not fit 16 bits is told as lost.
fn deltas(arrivals: &[Option<i64>]) -> Vec<Option<i16>> {
    let mut last = 0;
    let delta = |arrival: &Option<i64>| {
        let arrival = (*arrival)?;
        let delta = i16::try_from(arrival - last).ok()?;
        last = arrival;
        Some(delta)
    };
    arrivals.iter().map(delta).collect()
}

/// Two-bit status vectors of seven packets: 0 lost, 1 small delta, 2 large delta.
fn write_status_chunks(out: &mut Vec<u8>, deltas: &[Option<i16>]) {
    for seven in deltas.chunks(7) {
        let mut chunk = 0b11u16 << 14;
        for (index, delta) in seven.iter().enumerate() {
            let symbol = match delta {
                None => 0,
                Some(0..=255) => 1,
                Some(_) => 2,
            };
            chunk |= symbol << (12 - 2 * index);
        }
        out.extend_from_slice(&chunk.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transport_feedback_has_the_drafts_layout() {
        let mut out = Vec::new();
        let arrivals = [Some(4), None, Some(400), Some(399)];
        write_transport_feedback(&mut out, (1, 2), 0xFFFE, 5, 7, &arrivals);
        assert_eq!(out[..4], [0x8F, 205, 0, 6]);
        assert_eq!(out[12..20], [0xFF, 0xFE, 0, 4, 0, 0, 5, 7]);
        // small, lost, large, large (negative).
        assert_eq!(out[20..22], (0b1101_0010_1000_0000_u16).to_be_bytes());
        assert_eq!(out[22..27], [4, 0x01, 0x8C, 0xFF, 0xFF]);
        assert_eq!(out.len(), 28);
    }

    #[test]
    fn an_arrival_too_far_away_is_told_as_lost() {
        assert_eq!(deltas(&[Some(0), Some(1 << 20), Some(1)]), [Some(0), None, Some(1)]);
    }
}
