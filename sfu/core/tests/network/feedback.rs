//! Transport-wide feedback as libwebrtc's receiver writes it
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01): run lengths where symbols repeat, one
//! bit a packet where no delta is large, two bits else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sfu_core::media::rtp::Unwrapper;

/// Units of the reference time and of deltas.
const REFERENCE: Duration = Duration::from_millis(64);
const DELTA_US: i64 = 250;
/// How long an arrival is kept to be told again with one that comes late.
const BACK_WINDOW: Duration = Duration::from_millis(500);
/// Packets that one feedback packet tells of.
const MAX_STATUSES: usize = 500;
/// Symbols.
const LOST: u8 = 0;
const SMALL: u8 = 1;
const LARGE: u8 = 2;

/// Arrivals of late.
#[derive(Debug)]
pub(crate) struct TransportFeedback {
    start: Instant,
    unwrapper: Unwrapper,
    arrivals: BTreeMap<u64, Instant>,
    /// The first number that was not told yet.
    next: Option<u64>,
    count: u8,
}

impl TransportFeedback {
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            start,
            unwrapper: Unwrapper::default(),
            arrivals: BTreeMap::new(),
            next: None,
            count: 0,
        }
    }

    /// Notes a packet. One that was told as lost is told after all, with what is behind it.
    pub(crate) fn received(&mut self, sequence: u16, now: Instant) {
        let sequence = self.unwrapper.unwrap(sequence);
        let next = self.next.unwrap_or(sequence);
        self.arrivals.retain(|known, at| *known >= next || now - *at < BACK_WINDOW);
        if self.arrivals.contains_key(&sequence) {
            return;
        }
        self.arrivals.insert(sequence, now);
        if self.next.is_some_and(|next| sequence < next) {
            self.next = Some(sequence);
        }
    }

    /// The feedback packets that are due: more than one when many packets came.
    pub(crate) fn poll(&mut self, sender: u32, media: u32) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        while let Some((&first, &arrival)) = self.arrivals.range(self.next.unwrap_or(0)..).next() {
            let base =
                self.next.unwrap_or(first).max(first.saturating_sub(MAX_STATUSES as u64 / 2));
            let reference = (arrival - self.start).as_millis() / REFERENCE.as_millis();
            let mut last = (reference * REFERENCE.as_micros()) as i64 / DELTA_US;
            let mut symbols = Vec::new();
            let mut deltas = Vec::new();
            for (&sequence, &at) in self.arrivals.range(base..base + MAX_STATUSES as u64) {
                let time = (at - self.start).as_micros() as i64 / DELTA_US;
                let Ok(delta) = i16::try_from(time - last) else { break };
                symbols.resize((sequence - base) as usize, LOST);
                match u8::try_from(delta) {
                    Ok(small) => {
                        symbols.push(SMALL);
                        deltas.push(small);
                    }
                    Err(_) => {
                        symbols.push(LARGE);
                        deltas.extend_from_slice(&delta.to_be_bytes());
                    }
                }
                last = time;
            }
            self.next = Some(base + symbols.len() as u64);
            packets.push(self.write(
                (sender, media),
                base as u16,
                reference as u32,
                &symbols,
                deltas,
            ));
        }
        packets
    }

    fn write(
        &mut self,
        (sender, media): (u32, u32),
        base: u16,
        reference: u32,
        symbols: &[u8],
        deltas: Vec<u8>,
    ) -> Vec<u8> {
        let mut out = vec![0x8F, 205, 0, 0];
        out.extend_from_slice(&sender.to_be_bytes());
        out.extend_from_slice(&media.to_be_bytes());
        out.extend_from_slice(&base.to_be_bytes());
        out.extend_from_slice(&(symbols.len() as u16).to_be_bytes());
        out.extend_from_slice(&(reference << 8 | u32::from(self.count)).to_be_bytes());
        self.count = self.count.wrapping_add(1);
        write_chunks(&mut out, symbols);
        out.extend(deltas);
        let padding = out.len().next_multiple_of(4) - out.len();
        if padding > 0 {
            out[0] |= 0x20;
            out.resize(out.len() + padding - 1, 0);
            out.push(padding as u8);
        }
        let words = (out.len() / 4 - 1) as u16;
        out[2..4].copy_from_slice(&words.to_be_bytes());
        out
    }
}

fn write_chunks(out: &mut Vec<u8>, mut symbols: &[u8]) {
    while let Some(&first) = symbols.first() {
        let run = symbols.iter().take_while(|symbol| **symbol == first).count();
        let fourteen = &symbols[..symbols.len().min(14)];
        let (chunk, told) = if run > 14 || run == symbols.len() {
            (u16::from(first) << 13 | run as u16, run)
        } else if fourteen.iter().all(|symbol| *symbol != LARGE) {
            (vector(fourteen, 13, 1) | 1 << 15, fourteen.len())
        } else {
            let seven = &symbols[..symbols.len().min(7)];
            (vector(seven, 12, 2) | 0b11 << 14, seven.len())
        };
        out.extend_from_slice(&chunk.to_be_bytes());
        symbols = &symbols[told..];
    }
}

/// Symbols of `width` bits, the first at bit `top`.
fn vector(symbols: &[u8], top: usize, width: usize) -> u16 {
    symbols
        .iter()
        .enumerate()
        .fold(0, |chunk, (at, symbol)| chunk | u16::from(*symbol) << (top - width * at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "virtual time begins at some real moment")]
    fn every_kind_of_chunk_is_written_as_the_draft_has_it() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut feedback = TransportFeedback::new(start);
        for sequence in 0..20u16 {
            feedback.received(sequence, at(128));
        }
        feedback.received(21, at(129));
        feedback.received(22, at(529));
        let packets = feedback.poll(1, 2);
        assert_eq!(packets.len(), 1);
        let packet = &packets[0];
        // Statuses, reference of 2 × 64 ms, first count.
        assert_eq!(packet[12..20], [0, 0, 0, 23, 0, 0, 2, 0]);
        // A run of 20 small deltas; then lost, small, large.
        assert_eq!(packet[20..22], (1u16 << 13 | 20).to_be_bytes());
        assert_eq!(packet[22..24], 0b1100_0110_0000_0000_u16.to_be_bytes());
        assert_eq!(packet[24..44], [0; 20]);
        assert_eq!(packet[44..47], [4, 0x06, 0x40]);
        assert_eq!((packet[0] & 0x20, packet[47]), (0x20, 1));
        feedback.received(23, at(530));
        feedback.received(20, at(531));
        let packet = &feedback.poll(1, 2)[0];
        // What came late is told, and what is behind it again: small, large, large, small.
        assert_eq!(packet[12..16], [0, 20, 0, 4]);
        assert_eq!(packet[20..22], 0b1101_1010_0100_0000_u16.to_be_bytes());
        assert_eq!(packet[22..28], [76, 0xF9, 0xB8, 0x06, 0x40, 4]);
    }
}
