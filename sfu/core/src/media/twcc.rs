//! Transport-wide feedback to a publisher: when each of its packets arrived. Its bandwidth
//! estimator lives on it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::rtcp::write_transport_feedback;
use super::rtp::Unwrapper;

/// Time between feedback packets, as libwebrtc uses at high rates.
pub const INTERVAL: Duration = Duration::from_millis(50);
/// Most packets that one feedback tells of; more are told by the next.
const MAX_PACKETS: usize = 400;
/// Most packets that wait to be told of.
const MAX_WAITING: usize = 2 * MAX_PACKETS;
/// Units of the reference time.
const REFERENCE_UNIT: i64 = 64_000;
/// Units of arrival deltas, in microseconds.
const DELTA_UNIT: i64 = 250;

/// Arrivals that were not told yet.
#[derive(Debug)]
pub struct ArrivalRecorder {
    epoch: Instant,
    sequence: Unwrapper,
    /// Arrivals by sequence number, from `first` on.
    arrivals: VecDeque<Option<Instant>>,
    first: u64,
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
            arrivals: VecDeque::new(),
            first: 0,
            next: None,
            feedback_count: 0,
        }
    }

    /// Notes that the packet with this transport-wide number arrived.
    pub fn received(&mut self, sequence: u16, now: Instant) {
        let sequence = self.sequence.unwrap(sequence);
        if self.next.is_some_and(|next| sequence < next) {
            return;
        }
        if self.arrivals.is_empty() {
            self.first = sequence;
        }
        // What comes before the first one is rare: it was overtaken.
        while sequence < self.first && self.arrivals.len() < MAX_WAITING {
            self.arrivals.push_front(None);
            self.first -= 1;
        }
        let Some(at) = sequence.checked_sub(self.first) else { return };
        let at = at as usize;
        if at >= MAX_WAITING {
            return;
        }
        if at >= self.arrivals.len() {
            self.arrivals.resize(at + 1, None);
        }
        self.arrivals[at].get_or_insert(now);
    }

    /// Whether there is something to tell.
    pub fn has_feedback(&self) -> bool {
        !self.arrivals.is_empty()
    }

    /// Appends a feedback packet for what arrived, if anything did.
    pub fn write(&mut self, out: &mut Vec<u8>, ids: (u32, u32)) {
        let Some(Some(first_arrival)) = self.arrivals.front().copied() else {
            // A hole before what arrived is not told without it.
            return self.drop_holes();
        };
        // Tell of the hole since the last feedback too, unless it is absurd.
        let base = match self.next {
            Some(next) if next < self.first && self.first - next < MAX_PACKETS as u64 / 2 => next,
            _ => self.first,
        };
        let hole = (self.first - base) as usize;
        let count = self.arrivals.len().min(MAX_PACKETS - hole);
        let micros = |at: Instant| at.saturating_duration_since(self.epoch).as_micros() as i64;
        let reference = micros(first_arrival) / REFERENCE_UNIT;
        let told = |arrival: Option<Instant>| {
            arrival.map(|at| (micros(at) - reference * REFERENCE_UNIT) / DELTA_UNIT)
        };
        let mut statuses = vec![None; hole];
        statuses.extend(self.arrivals.iter().take(count).map(|arrival| told(*arrival)));
        let number = self.feedback_count;
        write_transport_feedback(out, ids, base as u16, reference as u32, number, &statuses);
        self.feedback_count = number.wrapping_add(1);
        self.arrivals.drain(..count);
        self.first += count as u64;
        self.next = Some(self.first);
        self.drop_holes();
    }

    /// The queue begins with something that arrived.
    fn drop_holes(&mut self) {
        while let Some(None) = self.arrivals.front() {
            self.arrivals.pop_front();
            self.first += 1;
        }
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
