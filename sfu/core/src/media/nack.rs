//! Which packets of a published layer are missing, and when to ask for them again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Most packets that are waited for; a larger hole is left to a key frame.
const MAX_MISSING: usize = 250;
/// Most requests for one packet.
const MAX_REQUESTS: u8 = 6;
/// Time between requests for the same packet: above most round trips, below a freeze.
const REPEAT: Duration = Duration::from_millis(60);
/// Reordering that is not taken for loss: a packet is asked for when this time passed.
const PATIENCE: Duration = Duration::from_millis(8);

#[derive(Debug)]
struct Missing {
    sequence: u64,
    next_request: Instant,
    requests: u8,
}

/// Missing packets in order of their sequence numbers.
#[derive(Debug, Default)]
pub struct NackGenerator {
    highest: Option<u64>,
    missing: VecDeque<Missing>,
}

impl NackGenerator {
    /// Notes that `sequence` arrived. Returns `false` when the hole before it is too large to
    /// fill, so that only a key frame helps.
    pub fn received(&mut self, sequence: u64, now: Instant) -> bool {
        let Some(highest) = self.highest else {
            self.highest = Some(sequence);
            return true;
        };
        if sequence <= highest {
            self.missing.retain(|missing| missing.sequence != sequence);
            return true;
        }
        self.highest = Some(sequence);
        if sequence - highest > MAX_MISSING as u64 {
            self.missing.clear();
            return false;
        }
        let next_request = now + PATIENCE;
        self.missing.extend((highest + 1..sequence).map(|sequence| Missing {
            sequence,
            next_request,
            requests: 0,
        }));
        let surplus = self.missing.len().saturating_sub(MAX_MISSING);
        self.missing.drain(..surplus);
        surplus == 0
    }

    /// Appends the packets to ask for at `now`, in order.
    pub fn due(&mut self, now: Instant, lost: &mut Vec<u16>) {
        for missing in &mut self.missing {
            if missing.next_request <= now {
                lost.push(missing.sequence as u16);
                missing.requests += 1;
                missing.next_request = now + REPEAT;
            }
        }
        self.missing.retain(|missing| missing.requests < MAX_REQUESTS);
    }

    /// Whether `sequence` may still come: it is being asked for.
    pub fn awaits(&self, sequence: u64) -> bool {
        self.missing.iter().any(|missing| missing.sequence == sequence)
    }

    /// When [`Self::due`] has something.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.missing.iter().map(|missing| missing.next_request).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(nack: &mut NackGenerator, now: Instant) -> Vec<u16> {
        let mut lost = Vec::new();
        nack.due(now, &mut lost);
        lost
    }

    #[test]
    fn a_hole_is_asked_for_after_patience_and_repeated_to_a_bound() {
        let start = Instant::now();
        let mut nack = NackGenerator::default();
        assert!(nack.received(65_535, start));
        assert!(nack.received(65_538, start));
        assert!(due(&mut nack, start).is_empty());
        assert_eq!(due(&mut nack, start + PATIENCE), [0, 1]);
        assert!(due(&mut nack, start + PATIENCE).is_empty());
        nack.received(65_536, start);
        let mut now = start + PATIENCE;
        for _ in 1..MAX_REQUESTS {
            now += REPEAT;
            assert!(nack.awaits(65_537) && !nack.awaits(65_536));
            assert_eq!(due(&mut nack, now), [1]);
        }
        assert!(!nack.awaits(65_537));
        assert_eq!(nack.poll_timeout(), None);
    }

    #[test]
    fn a_reordered_packet_is_not_asked_for() {
        let start = Instant::now();
        let mut nack = NackGenerator::default();
        for sequence in [10, 12, 11] {
            nack.received(sequence, start);
        }
        assert_eq!(nack.poll_timeout(), None);
    }

    #[test]
    fn a_hole_too_large_is_given_up() {
        let start = Instant::now();
        let mut nack = NackGenerator::default();
        nack.received(1, start);
        assert!(!nack.received(3 + MAX_MISSING as u64, start));
        assert_eq!(nack.poll_timeout(), None);
    }
}
