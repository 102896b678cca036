//! From what was observed to a rate: additive and multiplicative increase, multiplicative
//! decrease (draft-ietf-rmcat-gcc-02 sections 5.5 and 6).

use std::time::{Duration, Instant};

use super::Usage;

/// What remains of the acknowledged rate after overuse.
const DECREASE: f64 = 0.85;
/// Growth a second far from the last known limit.
const INCREASE: f64 = 1.08;
/// Lowest estimate: audio and a little more, bit/s.
const FLOOR: f64 = 50_000.0;
/// Highest estimate, bit/s.
const CEILING: f64 = 200e6;
/// Loss that is congestion, and loss below which the rate may grow.
const HIGH_LOSS: f64 = 0.10;
const LOW_LOSS: f64 = 0.02;
/// Bits of a packet, the step of additive increase.
const PACKET: f64 = 1200.0 * 8.0;
/// After a decrease: how long the path counts as congested.
const CONGESTED: Duration = Duration::from_millis(1000);

/// The estimate and what it is based on.
#[derive(Debug)]
pub(super) struct RateControl {
    estimate: f64,
    /// Rate at which the path was found full, and how far that varies, bit/s.
    capacity: Option<(f64, f64)>,
    last_update: Option<Instant>,
    last_decrease: Option<Instant>,
    congested_until: Option<Instant>,
    is_lossy: bool,
    was_congested: bool,
    is_congested: bool,
}

impl RateControl {
    pub(super) fn new(start: f64) -> Self {
        Self {
            estimate: start,
            capacity: None,
            last_update: None,
            last_decrease: None,
            congested_until: None,
            is_lossy: false,
            was_congested: false,
            is_congested: false,
        }
    }

    /// Bits a second.
    pub(super) fn estimate(&self) -> f64 {
        self.estimate
    }

    /// Whether a decrease ever happened.
    pub(super) fn was_congested(&self) -> bool {
        self.was_congested
    }

    /// When the rate was lowered last.
    pub(super) fn last_decrease(&self) -> Option<Instant> {
        self.last_decrease
    }

    /// Whether one happened a moment ago.
    pub(super) fn is_congested(&self) -> bool {
        self.is_congested
    }

    /// Takes what a probe found.
    pub(super) fn raise(&mut self, probed: f64) {
        if probed > self.estimate {
            self.set(probed);
            // What was known of the limit is outdated.
            self.capacity = None;
        }
    }

    /// Decreases on overuse, increases otherwise. `acknowledged` is the rate at which packets
    /// arrive.
    pub(super) fn update_by_delay(
        &mut self,
        usage: Usage,
        acknowledged: Option<f64>,
        round_trip: Duration,
        now: Instant,
    ) {
        self.is_congested = self.congested_until.is_some_and(|until| now < until);
        let elapsed = self.last_update.map_or(0.0, |last| now.duration_since(last).as_secs_f64());
        self.last_update = Some(now);
        match (usage, acknowledged) {
            (Usage::Over, Some(acknowledged)) => self.decrease(acknowledged, round_trip, now),
            (Usage::Normal, Some(acknowledged)) if !self.is_lossy => {
                self.increase(acknowledged, round_trip, elapsed.min(1.0));
            }
            // Queues that empty shall empty first.
            (Usage::Over | Usage::Under | Usage::Normal, _) => {}
        }
    }

    /// Takes the share of packets that were lost of `sent` bit/s.
    pub(super) fn update_by_loss(&mut self, lost: f64, sent: f64, now: Instant) {
        self.is_lossy = lost > LOW_LOSS;
        if lost > HIGH_LOSS {
            self.was_congested = true;
            self.last_decrease = Some(now);
            let limit = sent * (1.0 - 0.5 * lost);
            self.set(self.estimate.min(limit.max(self.estimate * 0.5)));
        }
    }

    /// Takes a subscriber's own estimate, `sent` being what it gets.
    pub(super) fn limit_by_receiver(&mut self, bitrate: f64, sent: f64, now: Instant) {
        if bitrate < sent * 0.95 {
            self.was_congested = true;
            self.last_decrease = Some(now);
            self.congested_until = Some(now + CONGESTED);
        }
        self.is_congested = self.congested_until.is_some_and(|until| now < until);
        let is_limiting = bitrate < 1.3 * sent;
        self.set(if is_limiting { bitrate } else { bitrate.max(2.0 * sent) });
    }

    fn decrease(&mut self, acknowledged: f64, round_trip: Duration, now: Instant) {
        self.was_congested = true;
        self.is_congested = true;
        self.congested_until = Some(now + CONGESTED);
        // One decrease a round trip: its effect must be seen first.
        let patience = round_trip.clamp(Duration::from_millis(50), Duration::from_millis(300));
        if self.last_decrease.is_some_and(|last| now.duration_since(last) < patience) {
            return;
        }
        self.last_decrease = Some(now);
        // Where little is sent, what arrives says little of the path.
        let basis = acknowledged.max(self.estimate * 0.4);
        self.note_capacity(basis);
        self.set(self.estimate.min(DECREASE * basis));
    }

    fn increase(&mut self, acknowledged: f64, round_trip: Duration, elapsed: f64) {
        let is_near = self.capacity.is_some_and(|(mean, deviation)| {
            (acknowledged - mean).abs() < 3.0 * deviation || acknowledged < mean
        });
        if self.capacity.is_some_and(|(mean, deviation)| acknowledged > mean + 3.0 * deviation) {
            self.capacity = None;
        }
        let step = if is_near {
            // A packet for each time that a reaction takes.
            PACKET / (round_trip.as_secs_f64() + 0.1) * elapsed
        } else {
            self.estimate * (INCREASE.powf(elapsed) - 1.0)
        };
        let limit = (1.5 * acknowledged + 10_000.0).max(self.estimate);
        self.set((self.estimate + step.max(1000.0 * elapsed)).min(limit));
    }

    fn note_capacity(&mut self, rate: f64) {
        self.capacity = Some(match self.capacity {
            None => (rate, 0.1 * rate),
            Some((mean, deviation)) => {
                let error = (rate - mean).abs();
                (mean * 0.95 + rate * 0.05, (deviation * 0.95 + error * 0.05).max(0.02 * mean))
            }
        });
    }

    fn set(&mut self, rate: f64) {
        self.estimate = rate.clamp(FLOOR, CEILING);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(50);

    #[test]
    fn overuse_falls_below_what_arrives_and_is_counted_once_a_round_trip() {
        let now = Instant::now();
        let mut rate = RateControl::new(3e6);
        rate.update_by_delay(Usage::Over, Some(2e6), ROUND_TRIP, now);
        assert_eq!(rate.estimate(), 1.7e6);
        rate.update_by_delay(Usage::Over, Some(1e6), ROUND_TRIP, now + ROUND_TRIP / 2);
        assert_eq!(rate.estimate(), 1.7e6);
        assert!(rate.is_congested() && rate.was_congested());
    }

    #[test]
    fn growth_stops_where_nothing_is_sent_to_prove_it() {
        let start = Instant::now();
        let mut rate = RateControl::new(300_000.0);
        for step in 0..600 {
            let now = start + Duration::from_millis(50 * step);
            rate.update_by_delay(Usage::Normal, Some(300_000.0), ROUND_TRIP, now);
        }
        assert_eq!(rate.estimate(), 460_000.0);
        rate.raise(2e6);
        assert_eq!(rate.estimate(), 2e6);
        rate.raise(1e6);
        assert_eq!(rate.estimate(), 2e6);
    }

    #[test]
    fn heavy_loss_halves_at_most_and_light_loss_only_holds() {
        let now = Instant::now();
        let mut rate = RateControl::new(1e6);
        rate.update_by_loss(0.05, 1e6, now);
        assert_eq!(rate.estimate(), 1e6);
        rate.update_by_loss(0.2, 1e6, now);
        assert_eq!(rate.estimate(), 0.9e6);
        rate.update_by_loss(0.9, 1000.0, now);
        assert_eq!(rate.estimate(), 0.45e6);
    }

    #[test]
    fn a_receivers_estimate_limits_only_near_what_it_gets() {
        let now = Instant::now();
        let mut rate = RateControl::new(1e6);
        rate.limit_by_receiver(500_000.0, 480_000.0, now);
        assert_eq!(rate.estimate(), 500_000.0);
        rate.limit_by_receiver(300_000.0, 150_000.0, now);
        assert_eq!(rate.estimate(), 300_000.0);
        assert!(!rate.was_congested());
        rate.limit_by_receiver(300_000.0, 480_000.0, now);
        assert!(rate.was_congested() && rate.is_congested());
    }
}
