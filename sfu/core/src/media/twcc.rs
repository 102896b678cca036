//! Transport-wide feedback to a publisher: when each of its packets arrived. Its bandwidth
//! estimator lives on it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::rtcp::write_transport_feedback;
use super::rtp::Unwrapper;

/// Time between feedback packets, as libwebrtc uses at high rates.
pub const INTERVAL: Duration = Duration::from_millis(50);
/// Most packets that one feedback tells of; more are told by the next.
const MAX_PACKETS: usize = 400;
/// Units of the reference time.
const REFERENCE_UNIT: i64 = 64_000;
/// Units of arrival deltas, in microseconds.
const DELTA_UNIT: i64 = 250;

/// Arrivals that were not told yet.
#[derive(Debug)]
pub struct ArrivalRecorder {
    epoch: Instant,
    sequence: Unwrapper,
    arrivals: BTreeMap<u64, Instant>,
    /// The first sequence number that the next feedback tells of.
    next: Option<u64>,
    feedback_count: u8,
}

impl ArrivalRecorder {
    /// A recorder; times are told relative to `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            sequence: Unwrapper::default(),
            arrivals: BTreeMap::new(),
            next: None,
            feedback_count: 0,
        }
    }

    /// Notes that the packet with this transport-wide number arrived.
    pub fn received(&mut self, sequence: u16, now: Instant) {
        let sequence = self.sequence.unwrap(sequence);
        let told = self.next.is_some_and(|next| sequence < next);
        if !told && self.arrivals.len() < 2 * MAX_PACKETS {
            self.arrivals.entry(sequence).or_insert(now);
        }
    }

    /// Whether there is something to tell.
    pub fn has_feedback(&self) -> bool {
        !self.arrivals.is_empty()
    }

    /// Appends a feedback packet for what arrived, if anything did.
    pub fn write(&mut self, out: &mut Vec<u8>, ids: (u32, u32)) {
        let Some((&first, &first_arrival)) = self.arrivals.first_key_value() else { return };
        // Tell of the hole since the last feedback too, unless it is absurd.
        let base = match self.next {
            Some(next) if next < first && first - next < MAX_PACKETS as u64 / 2 => next,
            _ => first,
        };
        let end = base + MAX_PACKETS as u64;
        let micros = |at: Instant| at.duration_since(self.epoch).as_micros() as i64;
        let reference = micros(first_arrival) / REFERENCE_UNIT;
        let mut statuses = Vec::new();
        for (&sequence, &at) in self.arrivals.range(base..end) {
            statuses.resize((sequence - base) as usize, None);
            statuses.push(Some((micros(at) - reference * REFERENCE_UNIT) / DELTA_UNIT));
        }
        let count = self.feedback_count;
        write_transport_feedback(out, ids, base as u16, reference as u32, count, &statuses);
        let next = base + statuses.len() as u64;
        self.feedback_count = count.wrapping_add(1);
        self.next = Some(next);
        self.arrivals = self.arrivals.split_off(&next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base, status count and feedback count.
    fn told(recorder: &mut ArrivalRecorder) -> (u16, u16, u8) {
        let mut out = Vec::new();
        recorder.write(&mut out, (1, 2));
        let short = |at: usize| u16::from_be_bytes([out[at], out[at + 1]]);
        (short(12), short(14), out[19])
    }

    #[test]
    fn each_packet_is_told_once_with_the_holes_between() {
        let start = Instant::now();
        let mut recorder = ArrivalRecorder::new(start);
        for (sequence, millis) in [(65_534, 0), (0, 3), (65_535, 4)] {
            recorder.received(sequence, start + Duration::from_millis(millis));
        }
        assert_eq!(told(&mut recorder), (65_534, 3, 0));
        assert!(!recorder.has_feedback());
        recorder.received(0, start);
        assert!(!recorder.has_feedback());
        recorder.received(3, start + Duration::from_millis(70));
        assert_eq!(told(&mut recorder), (1, 3, 1));
    }

    #[test]
    fn a_flood_is_bounded() {
        let start = Instant::now();
        let mut recorder = ArrivalRecorder::new(start);
        for sequence in 0..5000 {
            recorder.received(sequence, start);
        }
        assert_eq!(told(&mut recorder).1, MAX_PACKETS as u16);
        assert_eq!(told(&mut recorder).1, MAX_PACKETS as u16);
        assert!(!recorder.has_feedback());
    }
}
