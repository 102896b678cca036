//! Reading transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01).

/// Microseconds of the reference time's unit and of the deltas' unit.
const REFERENCE_UNIT: i64 = 64_000;
const DELTA_UNIT: i64 = 250;

/// When packets of ours arrived at a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransportFeedback<'a> {
    /// Transport-wide sequence number of the first packet that is told of.
    pub base: u16,
    /// How many packets are told of.
    pub count: u16,
    /// Start of the arrival times on the peer's clock, 24 bits, in units of 64 ms.
    pub reference: u32,
    body: &'a [u8],
}

impl<'a> TransportFeedback<'a> {
    /// Reads what follows the two sources.
    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let head = body.first_chunk::<8>()?;
        Some(Self {
            base: u16::from_be_bytes([head[0], head[1]]),
            count: u16::from_be_bytes([head[2], head[3]]),
            reference: u32::from_be_bytes([0, head[4], head[5], head[6]]),
            body: &body[8..],
        })
    }

    /// For each packet from [`Self::base`] on: its arrival in microseconds after the reference
    /// time, or `None` where it did not arrive. Ends early where the packet is malformed.
    pub fn arrivals(&self) -> impl Iterator<Item = Option<i64>> + use<'a> {
        let statuses = Statuses { bytes: self.body, run: (0, 0), left: self.count };
        let chunks = statuses.chunk_bytes();
        let mut deltas = self.body.get(chunks..).unwrap_or_default();
        let mut at = 0;
        statuses.map_while(move |status| {
            let delta = match status {
                0 => return Some(None),
                1 => {
                    let (&delta, rest) = deltas.split_first()?;
                    deltas = rest;
                    i64::from(delta)
                }
                2 => {
                    let (delta, rest) = deltas.split_first_chunk::<2>()?;
                    deltas = rest;
                    i64::from(i16::from_be_bytes(*delta))
                }
                _ => return None,
            };
            at += delta * DELTA_UNIT;
            Some(Some(at))
        })
    }

    /// The reference time in microseconds; wraps every twelve days.
    pub fn reference_micros(&self) -> i64 {
        i64::from(self.reference) * REFERENCE_UNIT
    }
}

/// Status symbols out of their chunks.
#[derive(Clone)]
struct Statuses<'a> {
    bytes: &'a [u8],
    /// A chunk that is being read, and symbols left in it.
    run: (u16, u16),
    left: u16,
}

impl Statuses<'_> {
    /// Bytes that the chunks take.
    fn chunk_bytes(&self) -> usize {
        let mut all = self.clone();
        let before = all.bytes.len();
        while all.next().is_some() {}
        before - all.bytes.len()
    }
}

impl Iterator for Statuses<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        self.left = self.left.checked_sub(1)?;
        if self.run.1 == 0 {
            let (chunk, rest) = self.bytes.split_first_chunk::<2>()?;
            self.bytes = rest;
            let chunk = u16::from_be_bytes(*chunk);
            let symbols = match chunk >> 14 {
                0 | 1 => chunk & 0x1FFF,
                2 => 14,
                _ => 7,
            };
            self.run = (chunk, symbols);
        }
        let (chunk, left) = self.run;
        self.run.1 = left.checked_sub(1)?;
        Some(match chunk >> 14 {
            0 | 1 => chunk >> 13 & 3,
            2 => chunk >> (left - 1) & 1,
            _ => chunk >> (2 * (left - 1)) & 3,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RtcpMessage, parse, write_transport_feedback};
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let arrivals = [Some(4), None, Some(400), Some(399), None, None, Some(9000), Some(9001)];
        let mut out = Vec::new();
        write_transport_feedback(&mut out, (1, 2), 0xFFFE, 5, 7, &arrivals);
        let mut read = None;
        parse(&out, |message| {
            if let RtcpMessage::TransportFeedback(feedback) = message {
                read = Some((feedback.base, feedback.reference, feedback.arrivals().collect()));
            }
        });
        let expected: Vec<Option<i64>> =
            arrivals.iter().map(|arrival| arrival.map(|units| units * DELTA_UNIT)).collect();
        assert_eq!(read, Some((0xFFFE, 5, expected)));
    }

    #[test]
    fn run_lengths_and_one_bit_vectors_are_read() {
        // Five lost, then a one-bit vector of fourteen of which the first two arrived.
        let body = [0, 10, 0, 19, 0, 0, 1, 0, 0x00, 0x05, 0xB0, 0x00, 1, 2];
        let feedback = TransportFeedback::parse(&body).unwrap();
        let arrived: Vec<usize> = feedback
            .arrivals()
            .enumerate()
            .filter_map(|(index, arrival)| arrival.map(|_| index))
            .collect();
        assert_eq!((feedback.arrivals().count(), arrived), (19, vec![5, 6]));
    }

    #[test]
    fn a_cut_packet_ends_early() {
        let body = [0, 0, 0, 200, 0, 0, 0, 0, 0x20, 0xC8, 1];
        let feedback = TransportFeedback::parse(&body).unwrap();
        assert_eq!(feedback.arrivals().count(), 1);
    }
}
