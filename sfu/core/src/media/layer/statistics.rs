//! Reception statistics of one stream.

use std::time::Instant;

/// Reception statistics (RFC 3550 section 6.4.1 and appendix A).
#[derive(Debug, Default)]
pub(super) struct Statistics {
    first: Option<u64>,
    received: u64,
    expected_before: u64,
    received_before: u64,
    pub(super) jitter: f64,
    last_transit: Option<f64>,
    epoch: Option<Instant>,
    bytes: u64,
    /// Counts at the last interval's end: expected, received, bytes.
    told: (u64, u64, u64),
}

/// What came of a stream in an interval.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(in super::super) struct Received {
    /// Packets.
    pub(in super::super) packets: u64,
    /// Payload bytes.
    pub(in super::super) bytes: u64,
    /// Packets that are missing for good or still.
    pub(in super::super) lost: u64,
    /// Interarrival jitter.
    pub(in super::super) jitter_ms: f64,
}

impl Statistics {
    pub(super) fn received(
        &mut self,
        sequence: u64,
        timestamp: u32,
        clock_rate: u32,
        bytes: usize,
        now: Instant,
    ) {
        self.bytes += bytes as u64;
        self.first = Some(self.first.map_or(sequence, |first| first.min(sequence)));
        self.received += 1;
        // Only differences of transit times count, so the epoch may be any moment.
        let epoch = *self.epoch.get_or_insert(now);
        let arrival = now.saturating_duration_since(epoch).as_secs_f64();
        let transit = arrival * f64::from(clock_rate) - f64::from(timestamp);
        if let Some(last) = self.last_transit {
            let difference = (transit - last).abs();
            // A wrapped or restarted timestamp says nothing about jitter.
            if difference < f64::from(clock_rate) {
                self.jitter += (difference - self.jitter) / 16.0;
            }
        }
        self.last_transit = Some(transit);
    }

    /// Fraction lost since the last call, of 256, and packets lost in all.
    pub(super) fn losses(&mut self, highest: u64) -> Option<(u8, u32)> {
        let expected = highest - self.first? + 1;
        let cumulative = expected.saturating_sub(self.received);
        let expected_now = expected - self.expected_before;
        let received_now = self.received - self.received_before;
        self.expected_before = expected;
        self.received_before = self.received;
        let lost_now = expected_now.saturating_sub(received_now);
        let fraction = (lost_now * 256).checked_div(expected_now).unwrap_or(0).min(255);
        Some((fraction as u8, cumulative.min(0x7F_FFFF) as u32))
    }

    /// What came since the last call; jitter is in RTP ticks.
    pub(super) fn take_received(&mut self, highest: Option<u64>) -> Received {
        let expected = match (self.first, highest) {
            (Some(first), Some(highest)) => highest - first + 1,
            _ => 0,
        };
        let (expected_before, received_before, bytes_before) = self.told;
        self.told = (expected, self.received, self.bytes);
        let packets = self.received - received_before;
        Received {
            packets,
            bytes: self.bytes - bytes_before,
            lost: (expected - expected_before).saturating_sub(packets),
            jitter_ms: self.jitter,
        }
    }
}
