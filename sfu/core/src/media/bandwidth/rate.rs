//! From what was observed to a rate: additive and multiplicative increase, multiplicative
//! decrease (draft-ietf-rmcat-gcc-02 sections 5.5 and 6).

use std::time::{Duration, Instant};

use super::Usage;
use super::probe::Verdict;

/// What remains of the acknowledged rate after overuse that is ours.
const DECREASE: f64 = 0.85;
/// What remains of the estimate after overuse that others cause: as much arrives as was sent.
const YIELD: f64 = 0.96;
/// How far the estimate yields to others at most, and how much further after each time.
const YIELD_FLOOR: f64 = 0.75;
const YIELD_TIME: Duration = Duration::from_secs(10);
const YIELD_MORE: f64 = 0.9;
/// For how long a rate that was too much is not tried again: at first, and at most.
const FIRST_HOLD: Duration = Duration::from_secs(30);
const LAST_HOLD: Duration = Duration::from_secs(120);
/// A probe that finds this much more than what was too much shows another path.
const OUTDATED: f64 = 1.15;
/// Share of a rate that was too much to which the estimate may grow without such a probe.
const BELOW_LIMIT: f64 = 0.92;
/// Growth for each message of a receiver that reports its own estimate and is far from it.
const RECEIVER_GROWTH: f64 = 1.05;
/// For how long a rate that a probe found counts before it is sent.
const PROVEN_TIME: Duration = Duration::from_secs(5);
/// For how long it grows no further than to what a probe found that found too little.
const FOUND_TIME: Duration = Duration::from_secs(10);
/// How far above what is sent such growth goes: to the next layer, and to the lowest one where
/// only audio flows.
const RECEIVER_TRIAL: f64 = 4.0;
const LOWEST_TRIAL: f64 = 300_000.0;
/// Part of its last estimate below which a receiver says that the path is full.
const RECEIVER_FALL: f64 = 0.97;
/// Share of what was sent that arrives, above which the overuse is not ours.
const OURS: f64 = 0.85;
/// Decreases that follow one another faster than this are about the same queue.
const EPISODE: Duration = Duration::from_secs(2);
/// Growth a second far from the last known limit.
const INCREASE: f64 = 1.08;
/// Lowest estimate: audio and a little more, bit/s.
const FLOOR: f64 = 50_000.0;
/// Highest estimate, bit/s.
const CEILING: f64 = 200e6;
/// Loss that is congestion, and loss below which the rate may grow.
const HIGH_LOSS: f64 = 0.15;
const LOW_LOSS: f64 = 0.02;
/// What is kept over what arrives when much is lost: loss that is not congestion, around ten
/// percent, shall not take a layer away and give it back.
const LOSS_MARGIN: f64 = 1.08;
/// Bits of a packet, the step of additive increase.
const PACKET: f64 = 1200.0 * 8.0;
/// After a decrease: how long the path counts as congested.
const CONGESTED: Duration = Duration::from_millis(1000);

/// What is known of the traffic when a decision is made, bit/s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Traffic {
    /// What arrived lately.
    pub(super) acknowledged: f64,
    /// The most that arrived in a moment of late.
    pub(super) peak: f64,
    /// What was sent in the time in which that arrived.
    pub(super) sent: f64,
}

/// What round trips say of a path whose receiver reports its own estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    /// Nothing yet.
    Unknown,
    /// No packets wait on it.
    Calm,
    /// Packets wait on it.
    Queued,
    /// A probe was on it a moment ago.
    Probed,
}

impl Traffic {
    /// Whether a queue grows because of what we send.
    pub(super) fn is_more_than_arrives(&self) -> bool {
        self.acknowledged <= OURS * self.sent
    }
}

/// A rate that was found too much.
#[derive(Debug, Clone, Copy)]
struct Limit {
    rate: f64,
    until: Instant,
    hold: Duration,
}

/// The estimate and what it is based on.
#[derive(Debug)]
pub(super) struct RateControl {
    estimate: f64,
    /// Rate at which the path was found full, and how far that varies, bit/s.
    capacity: Option<(f64, f64)>,
    last_update: Option<Instant>,
    last_decrease: Option<Instant>,
    congested_until: Option<Instant>,
    limit: Option<Limit>,
    /// Lowest estimate that others may push us to, and until when.
    yield_floor: Option<(f64, Instant)>,
    /// What the receiver said last.
    receiver_estimate: Option<f64>,
    /// That was less than before.
    receiver_fell: bool,
    /// What a probe found that the receiver cannot tell of, and until when it counts.
    proven: Option<(f64, Instant)>,
    /// The same of one that found too little.
    found: Option<(f64, Instant)>,
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
            limit: None,
            yield_floor: None,
            receiver_estimate: None,
            receiver_fell: false,
            proven: None,
            found: None,
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

    /// Whether the receiver's own estimate counts.
    pub(super) fn follows_receiver(&self) -> bool {
        self.receiver_estimate.is_some()
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
    pub(super) fn raise(&mut self, probed: f64, now: Instant) {
        if self.limit.is_some_and(|limit| probed > OUTDATED * limit.rate) {
            self.limit = None;
        }
        let allowed = self.limit_at(now).map_or(probed, |limit| probed.min(DECREASE * limit));
        if allowed > self.estimate {
            self.set(allowed);
            // What was known of the limit is outdated.
            self.capacity = None;
        }
    }

    /// Takes what a probe found of a receiver that does not tell of it.
    pub(super) fn take_verdict(&mut self, verdict: Verdict, now: Instant) {
        if verdict.carries {
            self.raise(verdict.rate, now);
            self.proven = Some((self.estimate, now + PROVEN_TIME));
            self.found = None;
        } else {
            self.found = Some((verdict.rate, now + FOUND_TIME));
        }
    }

    /// The rate that was too much a while ago.
    fn limit_at(&self, now: Instant) -> Option<f64> {
        self.limit.filter(|limit| now < limit.until).map(|limit| limit.rate)
    }

    /// Notes that `rate` is what the path carries: more is not tried for a while, which gets
    /// longer each time that it is found again soon.
    fn note_limit(&mut self, rate: f64, now: Instant) {
        let hold = match self.limit {
            // Still within the time: the same queue.
            Some(limit) if now < limit.until => limit.hold,
            Some(limit) if now < limit.until + LAST_HOLD => (2 * limit.hold).min(LAST_HOLD),
            Some(_) | None => FIRST_HOLD,
        };
        self.limit = Some(Limit { rate, until: now + hold, hold });
    }

    /// Decreases on overuse, increases otherwise.
    pub(super) fn update_by_delay(
        &mut self,
        usage: Usage,
        traffic: Option<Traffic>,
        round_trip: Duration,
        now: Instant,
    ) {
        self.is_congested = self.congested_until.is_some_and(|until| now < until);
        let elapsed = self.last_update.map_or(0.0, |last| now.duration_since(last).as_secs_f64());
        self.last_update = Some(now);
        match (usage, traffic) {
            (Usage::Over, Some(traffic)) => self.decrease(traffic, round_trip, now),
            (Usage::Normal, Some(traffic)) if !self.is_lossy => {
                self.increase(traffic.acknowledged, round_trip, elapsed.min(1.0), now);
            }
            // Queues that empty shall empty first.
            (Usage::Over | Usage::Under | Usage::Normal, _) => {}
        }
    }

    /// Takes the share of packets that were lost. Much loss may be a full queue, whose delay
    /// does not grow any more; but whatever arrives is carried.
    pub(super) fn update_by_loss(&mut self, lost: f64, traffic: Option<Traffic>, now: Instant) {
        self.is_lossy = lost > LOW_LOSS;
        if let Some(traffic) = traffic.filter(|_| lost > HIGH_LOSS) {
            self.was_congested = true;
            self.last_decrease = Some(now);
            let carried = LOSS_MARGIN * traffic.acknowledged;
            self.set(self.estimate.min(carried.max(self.estimate * 0.5)));
        }
    }

    /// Takes a subscriber's own estimate, `sent` being what it gets. It grows by a few percent a
    /// second and hardly beyond what comes, so that below what is sent it may only lag behind;
    /// where it falls and round trips do not contradict, the path is full: a key frame alone makes it
    /// fall once. Answers whether it is.
    pub(super) fn limit_by_receiver(
        &mut self,
        bitrate: f64,
        (sent, path): (f64, Path),
        now: Instant,
    ) -> bool {
        let last = self.receiver_estimate.replace(bitrate);
        let falls = last.is_none_or(|last| bitrate < RECEIVER_FALL * last);
        let fell_before = std::mem::replace(&mut self.receiver_fell, falls);
        let is_full = bitrate < sent
            && match path {
                Path::Queued => true,
                Path::Unknown => falls,
                Path::Calm => falls && fell_before,
                Path::Probed => false,
            };
        if is_full {
            self.proven = None;
            self.was_congested = true;
            self.last_decrease = Some(now);
            self.congested_until = Some(now + CONGESTED);
            // What arrived, of which a receiver leaves some to let the queue empty.
            self.note_limit(bitrate / DECREASE, now);
            self.is_congested = true;
            self.set(bitrate);
            return true;
        }
        self.is_congested = self.congested_until.is_some_and(|until| now < until);
        if self.limit.is_some_and(|limit| sent > limit.rate && bitrate > OUTDATED * limit.rate) {
            self.limit = None;
        }
        if bitrate < 1.3 * sent {
            self.set(self.estimate.max(bitrate));
            return false;
        }
        // It proves no more than what it gets: the next layer is a trial.
        let trial = (RECEIVER_TRIAL * sent).max(LOWEST_TRIAL);
        // It grows only with what it gets, so its limits hold less long.
        let limit = self.limit.filter(|limit| now + limit.hold * 2 / 3 < limit.until);
        let trial = limit.map_or(trial, |limit| trial.min(BELOW_LIMIT * limit.rate));
        let valid = |rate: Option<(f64, Instant)>| rate.filter(|(_, until)| now < *until);
        let proven = valid(self.proven).map_or(0.0, |(rate, _)| rate);
        let most = valid(self.found).map_or(f64::INFINITY, |(rate, _)| rate.max(self.estimate));
        let grown = (self.estimate * RECEIVER_GROWTH).min(most).min(trial).max(bitrate.min(trial));
        // What it says itself holds, whatever was too much before.
        self.set(grown.max(proven).max(self.estimate.min(bitrate)));
        false
    }

    fn decrease(&mut self, traffic: Traffic, round_trip: Duration, now: Instant) {
        self.was_congested = true;
        self.is_congested = true;
        self.congested_until = Some(now + CONGESTED);
        // One decrease a round trip: its effect must be seen first.
        let patience = round_trip.clamp(Duration::from_millis(50), Duration::from_millis(300));
        let since = self.last_decrease.map(|last| now.duration_since(last));
        if since.is_some_and(|since| since < patience) {
            return;
        }
        self.last_decrease = Some(now);
        // At first the window still holds what was before the queue; then it is the bottleneck's
        // rate.
        let is_first = since.is_none_or(|since| since > EPISODE);
        if is_first {
            self.note_limit(traffic.peak, now);
        }
        if !traffic.is_more_than_arrives() {
            return self.give_way(now);
        }
        let basis = if is_first { traffic.peak } else { traffic.acknowledged };
        self.note_capacity(basis);
        self.yield_floor = None;
        self.set(self.estimate.min(DECREASE * basis));
    }

    /// Lowers the estimate a little: others may go on, but shall not push us out.
    fn give_way(&mut self, now: Instant) {
        let floor = match self.yield_floor {
            Some((floor, until)) if now < until => floor,
            Some((floor, until)) if now < until + YIELD_TIME => {
                self.yield_floor = Some((YIELD_MORE * floor, now + YIELD_TIME));
                YIELD_MORE * floor
            }
            Some(_) | None => {
                self.yield_floor = Some((YIELD_FLOOR * self.estimate, now + YIELD_TIME));
                YIELD_FLOOR * self.estimate
            }
        };
        self.set((self.estimate * YIELD).max(floor.min(self.estimate)));
    }

    fn increase(&mut self, acknowledged: f64, round_trip: Duration, elapsed: f64, now: Instant) {
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
        let proven = 1.5 * acknowledged + 10_000.0;
        let allowed = self.limit_at(now).map_or(proven, |limit| proven.min(BELOW_LIMIT * limit));
        let limit = allowed.max(self.estimate);
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

    fn traffic(acknowledged: f64, sent: f64) -> Option<Traffic> {
        Some(Traffic { acknowledged, peak: acknowledged, sent })
    }

    #[test]
    fn overuse_falls_below_what_arrives_and_is_counted_once_a_round_trip() {
        let now = Instant::now();
        let mut rate = RateControl::new(3e6);
        rate.update_by_delay(Usage::Over, traffic(2e6, 3e6), ROUND_TRIP, now);
        assert_eq!(rate.estimate(), 1.7e6);
        rate.update_by_delay(Usage::Over, traffic(1e6, 3e6), ROUND_TRIP, now + ROUND_TRIP / 2);
        assert_eq!(rate.estimate(), 1.7e6);
        assert!(rate.is_congested() && rate.was_congested());
    }

    #[test]
    fn overuse_that_others_cause_lowers_the_estimate_only_a_little() {
        let now = Instant::now();
        let mut rate = RateControl::new(1e6);
        rate.update_by_delay(Usage::Over, traffic(480e3, 500e3), ROUND_TRIP, now);
        assert_eq!(rate.estimate(), YIELD * 1e6);
    }

    #[test]
    fn the_first_decrease_is_to_the_bottlenecks_rate() {
        let now = Instant::now();
        let mut rate = RateControl::new(1e6);
        let burst = Traffic { acknowledged: 300e3, peak: 700e3, sent: 500e3 };
        rate.update_by_delay(Usage::Over, Some(burst), ROUND_TRIP, now);
        assert_eq!(rate.estimate(), DECREASE * 700e3);
        rate.update_by_delay(Usage::Over, Some(burst), ROUND_TRIP, now + 2 * ROUND_TRIP);
        assert_eq!(rate.estimate(), DECREASE * 300e3);
    }

    #[test]
    fn what_was_too_much_is_not_tried_again_until_the_path_is_another() {
        let start = Instant::now();
        let mut rate = RateControl::new(1e6);
        rate.update_by_delay(Usage::Over, traffic(600e3, 1e6), ROUND_TRIP, start);
        rate.raise(650e3, start + FIRST_HOLD / 2);
        assert_eq!(rate.estimate(), DECREASE * 600e3);
        rate.raise(800e3, start + FIRST_HOLD / 2);
        assert_eq!(rate.estimate(), 800e3);
    }

    #[test]
    fn growth_stops_where_nothing_is_sent_to_prove_it() {
        let start = Instant::now();
        let mut rate = RateControl::new(300_000.0);
        for step in 0..600 {
            let now = start + Duration::from_millis(50 * step);
            rate.update_by_delay(Usage::Normal, traffic(300e3, 300e3), ROUND_TRIP, now);
        }
        assert_eq!(rate.estimate(), 460_000.0);
        rate.raise(2e6, start);
        assert_eq!(rate.estimate(), 2e6);
        rate.raise(1e6, start);
        assert_eq!(rate.estimate(), 2e6);
    }

    #[test]
    fn heavy_loss_leaves_what_arrives_or_half_and_light_loss_only_holds() {
        let now = Instant::now();
        let mut rate = RateControl::new(1e6);
        rate.update_by_loss(0.05, traffic(0.9e6, 1e6), now);
        assert_eq!(rate.estimate(), 1e6);
        rate.update_by_loss(0.2, traffic(0.9e6, 1.1e6), now);
        assert_eq!(rate.estimate(), LOSS_MARGIN * 0.9e6);
        rate.update_by_loss(0.9, traffic(1000.0, 1e6), now);
        assert_eq!(rate.estimate(), LOSS_MARGIN * 0.45e6);
    }

    #[test]
    fn a_receivers_estimate_limits_where_it_falls_and_grows_to_a_trial_where_it_is_far_above() {
        let now = Instant::now();
        let mut rate = RateControl::new(1e6);
        rate.limit_by_receiver(500_000.0, (480_000.0, Path::Unknown), now);
        assert_eq!(rate.estimate(), 1e6, "what is near may lag behind");
        assert!(!rate.was_congested());
        // It falls: 85 % of what arrived.
        rate.limit_by_receiver(425_000.0, (480_000.0, Path::Unknown), now);
        assert!(rate.was_congested() && rate.is_congested());
        assert_eq!(rate.estimate(), 425_000.0);
        for _ in 0..20 {
            rate.limit_by_receiver(430_000.0, (150_000.0, Path::Unknown), now + FIRST_HOLD / 6);
        }
        assert_eq!(rate.estimate(), BELOW_LIMIT * 500_000.0, "more is not tried for a while");
        for _ in 0..20 {
            rate.limit_by_receiver(430_000.0, (150_000.0, Path::Unknown), now + FIRST_HOLD / 2);
        }
        assert_eq!(rate.estimate(), RECEIVER_TRIAL * 150_000.0);
        assert!(!rate.limit_by_receiver(400_000.0, (480_000.0, Path::Probed), now + FIRST_HOLD));
        // The layer that came up is more than the receiver has caught up with.
        rate.limit_by_receiver(440_000.0, (600_000.0, Path::Unknown), now + FIRST_HOLD / 2);
        assert_eq!(rate.estimate(), RECEIVER_TRIAL * 150_000.0);
    }
}
