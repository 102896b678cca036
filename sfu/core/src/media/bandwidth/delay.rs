//! Whether queues grow on the path: the trend of one-way delays over groups of packets
//! (draft-ietf-rmcat-gcc-02 sections 5.2 to 5.4, with a line fitted instead of a Kalman filter).

use std::collections::VecDeque;

use super::Usage;

/// Packets sent within this time make a group, microseconds.
const GROUP: i64 = 5_000;
/// Groups in the line's fit.
const WINDOW: usize = 20;
/// Weight of the past in smoothing.
const SMOOTHING: f64 = 0.9;
/// Scale from trend to threshold.
const GAIN: f64 = 4.0;
/// Most groups that count in the scale.
const MAX_GROUPS: u32 = 60;
/// Overuse must last this long, milliseconds.
const OVERUSE_TIME: f64 = 10.0;
/// Speeds at which the threshold follows the trend, and its limits.
const FOLLOW_UP: f64 = 0.0087;
const FOLLOW_DOWN: f64 = 0.039;
const THRESHOLD: (f64, f64) = (6.0, 600.0);

/// Packets that left together.
#[derive(Debug, Clone, Copy)]
struct Group {
    first_sent: i64,
    last_sent: i64,
    first_arrival: i64,
    last_arrival: i64,
}

/// Watches one-way delays.
#[derive(Debug)]
pub(super) struct DelayDetector {
    group: Option<Group>,
    previous: Option<Group>,
    accumulated: f64,
    smoothed: f64,
    /// Arrival in milliseconds, and smoothed delay.
    points: VecDeque<(f64, f64)>,
    first_arrival: Option<i64>,
    groups: u32,
    threshold: f64,
    last_threshold_update: Option<f64>,
    overuse_time: f64,
    overuse_groups: u32,
    last_trend: f64,
    usage: Usage,
}

impl Default for DelayDetector {
    fn default() -> Self {
        Self {
            group: None,
            previous: None,
            accumulated: 0.0,
            smoothed: 0.0,
            points: VecDeque::with_capacity(WINDOW),
            first_arrival: None,
            groups: 0,
            threshold: 12.5,
            last_threshold_update: None,
            overuse_time: 0.0,
            overuse_groups: 0,
            last_trend: 0.0,
            usage: Usage::Normal,
        }
    }
}

impl DelayDetector {
    /// What the last group said.
    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// Adds a packet by its times in microseconds, each on its own clock; answers when a group
    /// was complete.
    pub(super) fn add(&mut self, sent: i64, arrival: i64, _bytes: usize) -> Option<Usage> {
        let Some(group) = &mut self.group else {
            self.group = Some(Group::new(sent, arrival));
            return None;
        };
        if sent < group.first_sent {
            return None;
        }
        if group.takes(sent, arrival) {
            group.last_sent = group.last_sent.max(sent);
            group.last_arrival = group.last_arrival.max(arrival);
            return None;
        }
        let complete = *group;
        self.group = Some(Group::new(sent, arrival));
        let previous = self.previous.replace(complete)?;
        let millis = |micros: i64| micros as f64 / 1000.0;
        let sent_delta = millis(complete.last_sent - previous.last_sent);
        let arrival_delta = millis(complete.last_arrival - previous.last_arrival);
        if !(0.0..3000.0).contains(&arrival_delta) {
            // The peer's clock jumped, or the path was silent: delays before say nothing.
            *self = Self { threshold: self.threshold, ..Self::default() };
            return Some(Usage::Normal);
        }
        Some(self.update(arrival_delta - sent_delta, sent_delta, complete.last_arrival))
    }

    fn update(&mut self, growth: f64, sent_delta: f64, arrival: i64) -> Usage {
        self.groups = (self.groups + 1).min(MAX_GROUPS);
        let first = *self.first_arrival.get_or_insert(arrival);
        let at = (arrival - first) as f64 / 1000.0;
        self.accumulated += growth;
        self.smoothed = SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * self.accumulated;
        if self.points.len() == WINDOW {
            self.points.pop_front();
        }
        self.points.push_back((at, self.smoothed));
        let trend = if self.points.len() == WINDOW { slope(&self.points) } else { self.last_trend };
        let scaled = f64::from(self.groups) * trend * GAIN;
        self.detect(scaled, trend, sent_delta);
        self.last_trend = trend;
        self.adapt_threshold(scaled, at);
        self.usage
    }

    fn detect(&mut self, scaled: f64, trend: f64, sent_delta: f64) {
        if scaled > self.threshold {
            self.overuse_time +=
                if self.overuse_groups == 0 { sent_delta / 2.0 } else { sent_delta };
            self.overuse_groups += 1;
            if self.overuse_time > OVERUSE_TIME
                && self.overuse_groups > 1
                && trend >= self.last_trend
            {
                self.overuse_time = 0.0;
                self.overuse_groups = 0;
                self.usage = Usage::Over;
            }
        } else {
            self.overuse_time = 0.0;
            self.overuse_groups = 0;
            self.usage = if scaled < -self.threshold { Usage::Under } else { Usage::Normal };
        }
    }

    /// The threshold follows the trend slowly, so that other traffic which fills queues does
    /// not starve us.
    fn adapt_threshold(&mut self, scaled: f64, at: f64) {
        let since = at - self.last_threshold_update.unwrap_or(at);
        self.last_threshold_update = Some(at);
        if scaled.abs() > self.threshold + 15.0 {
            return;
        }
        let speed = if scaled.abs() < self.threshold { FOLLOW_DOWN } else { FOLLOW_UP };
        self.threshold += speed * (scaled.abs() - self.threshold) * since.min(100.0);
        self.threshold = self.threshold.clamp(THRESHOLD.0, THRESHOLD.1);
    }
}

impl Group {
    fn new(sent: i64, arrival: i64) -> Self {
        Self { first_sent: sent, last_sent: sent, first_arrival: arrival, last_arrival: arrival }
    }

    /// Whether a packet belongs to the group: it left with it, or came in one burst with it,
    /// which says nothing of queues.
    fn takes(&self, sent: i64, arrival: i64) -> bool {
        if sent - self.first_sent <= GROUP {
            return true;
        }
        let arrival_delta = arrival - self.last_arrival;
        let growth = arrival_delta - (sent - self.last_sent);
        growth < 0 && arrival_delta <= GROUP && arrival - self.first_arrival < 100_000
    }
}

/// Slope of the line through the points, by least squares.
fn slope(points: &VecDeque<(f64, f64)>) -> f64 {
    let count = points.len() as f64;
    let (sum_x, sum_y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    let (mean_x, mean_y) = (sum_x / count, sum_y / count);
    let (mut numerator, mut denominator) = (0.0, 0.0);
    for (x, y) in points {
        numerator += (x - mean_x) * (y - mean_y);
        denominator += (x - mean_x) * (x - mean_x);
    }
    if denominator == 0.0 { 0.0 } else { numerator / denominator }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets every 10 ms whose delay grows by `growth` microseconds each.
    fn run(detector: &mut DelayDetector, from: i64, count: i64, growth: i64) -> bool {
        let mut was_over = false;
        for index in 0..count {
            let sent = (from + index) * 10_000;
            let arrival = sent + 30_000 + growth * index;
            was_over |= detector.add(sent, arrival, 1200) == Some(Usage::Over);
        }
        was_over
    }

    #[test]
    fn growing_delays_are_overuse_and_steady_ones_are_not() {
        let mut detector = DelayDetector::default();
        assert!(!run(&mut detector, 0, 500, 0));
        assert!(run(&mut detector, 500, 100, 2000));
        let mut steady = DelayDetector::default();
        run(&mut steady, 0, 500, 0);
        assert_eq!(steady.usage(), Usage::Normal);
    }

    #[test]
    fn shrinking_delays_are_underuse() {
        let mut detector = DelayDetector::default();
        run(&mut detector, 0, 100, 0);
        run(&mut detector, 100, 60, -1000);
        assert_eq!(detector.usage(), Usage::Under);
    }
}
