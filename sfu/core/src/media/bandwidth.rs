//! Bandwidth towards one subscriber: what its network carries, by the transport-wide feedback
//! that it sends (delay trend, loss, probes), or by its own estimate (REMB) where it sends none.
//!
//! The method is that of Google congestion control (draft-ietf-rmcat-gcc-02) with probing: a
//! sender that forwards what others encode cannot raise its rate a little, so it learns of spare
//! bandwidth only by padding.

mod delay;
mod history;
mod probe;
mod queue;
mod rate;
mod window;

use std::time::{Duration, Instant};

use super::rtcp::TransportFeedback;

use delay::DelayDetector;
use history::SendHistory;
use probe::Prober;
use queue::QueueDelay;
use rate::{Path, RateControl, Traffic};
use window::RateWindow;

pub(super) use probe::Padding;

/// What is assumed before the first feedback, bit/s.
pub(super) const START: u64 = 800_000;
/// Pacing rate over the estimate: a picture leaves faster than the average, but not at once.
const PACING_FACTOR: f64 = 2.5;
/// The same while the estimate is below what is being sent.
const CONGESTED_PACING_FACTOR: f64 = 1.2;
/// How far a receiver's own estimate may be below what its network carries: it is measured over
/// what came, and hardly grows while little comes.
const RECEIVER_SLACK: f64 = 1.4;
/// A path that showed no limit for this long has none.
const UNLIMITED: Duration = Duration::from_secs(30);
/// Feedback is missing for this long: what was sent since says nothing.
const SILENCE: Duration = Duration::from_secs(3);

/// Whether a path holds more than is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    /// Queues do not grow.
    Normal,
    /// Queues grow: more is sent than the path carries.
    Over,
    /// Queues empty.
    Under,
}

/// The estimator of one transport.
#[derive(Debug)]
pub(super) struct Bandwidth {
    epoch: Instant,
    history: SendHistory,
    delay: DelayDetector,
    queue: QueueDelay,
    rate: RateControl,
    prober: Prober,
    sent: RateWindow,
    acknowledged: RateWindow,
    /// What was told of, by the time at which it was sent.
    told: RateWindow,
    loss: LossWindow,
    last_feedback: Option<Instant>,
    last_reference: Option<i64>,
    round_trip: Duration,
}

/// Packets told of, and lost, since the last decision.
#[derive(Debug, Default)]
struct LossWindow {
    told: u32,
    lost: u32,
    since: Option<Instant>,
}

impl LossWindow {
    const LENGTH: Duration = Duration::from_millis(500);
    const MIN_PACKETS: u32 = 20;

    /// The lost share of a window that is complete.
    fn take(&mut self, now: Instant) -> Option<f64> {
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) < Self::LENGTH || self.told < Self::MIN_PACKETS {
            return None;
        }
        let share = f64::from(self.lost) / f64::from(self.told);
        *self = Self { since: Some(now), ..Self::default() };
        Some(share)
    }
}

impl Bandwidth {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            history: SendHistory::default(),
            delay: DelayDetector::default(),
            queue: QueueDelay::default(),
            rate: RateControl::new(START as f64),
            prober: Prober::default(),
            sent: RateWindow::default(),
            acknowledged: RateWindow::default(),
            told: RateWindow::default(),
            loss: LossWindow::default(),
            last_feedback: None,
            last_reference: None,
            round_trip: Duration::from_millis(100),
        }
    }

    fn micros(&self, now: Instant) -> i64 {
        now.saturating_duration_since(self.epoch).as_micros() as i64
    }

    /// The transport-wide number of the next packet.
    pub(super) fn next_sequence(&self) -> u16 {
        self.history.next_sequence()
    }

    /// Notes that a packet of `bytes` leaves now, under [`Self::next_sequence`].
    pub(super) fn sent(&mut self, bytes: usize, now: Instant) {
        let micros = self.micros(now);
        self.sent.add(micros, bytes);
        let cluster = self.prober.note_sent(bytes);
        self.history.push(micros, bytes, cluster);
    }

    /// Notes that a packet leaves of which no feedback will tell. What only pads is not what the
    /// subscriber gets.
    pub(super) fn sent_untold(&mut self, bytes: usize, is_padding: bool, now: Instant) {
        if !is_padding {
            self.sent.add(self.micros(now), bytes);
        }
        if self.follows_receiver() {
            self.prober.note_sent(bytes);
        }
    }

    /// Whether the receiver's own estimate counts.
    pub(super) fn follows_receiver(&self) -> bool {
        self.rate.follows_receiver()
    }

    /// Bits a second that the path carries; what is assumed before the first feedback.
    pub(super) fn estimate(&self) -> u64 {
        self.rate.estimate() as u64
    }

    /// Times the estimate that is worth a try before a subscriber gets nothing at all.
    pub(super) fn slack(&self) -> f64 {
        if self.follows_receiver() { RECEIVER_SLACK } else { 1.0 }
    }

    /// Whether the path was ever found too small for what was sent. Before that nothing is
    /// paused: the estimate is only what could be learnt so far.
    pub(super) fn was_congested(&self) -> bool {
        self.rate.was_congested()
    }

    /// Bytes a second to send at most; `None` while the path shows no limit, so that pictures
    /// are not held back for nothing.
    pub(super) fn pacing_rate(&self, now: Instant) -> Option<f64> {
        let limited = self.rate.last_decrease()?;
        if now.saturating_duration_since(limited) > UNLIMITED {
            return None;
        }
        // A receiver takes a burst for a full path.
        let is_careful = self.rate.is_congested() || self.follows_receiver();
        let factor = if is_careful { CONGESTED_PACING_FACTOR } else { PACING_FACTOR };
        Some(self.rate.estimate() * factor / 8.0)
    }

    /// Round-trip time by the feedback, which includes the peer's wait before it reports.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.last_feedback.map(|_| self.round_trip)
    }

    /// Tells what would be sent if the path carried it: `needed` bit/s, the next step up at
    /// first. `None` when nothing is left out.
    pub(super) fn set_need(&mut self, needed: Option<u64>) {
        self.prober.set_need(needed.map(|needed| needed as f64));
    }

    /// Padding that is due now to learn of spare bandwidth.
    pub(super) fn poll_padding(&mut self, now: Instant) -> Option<Padding> {
        let heard = self.last_feedback?;
        if now.duration_since(heard) > SILENCE {
            return None;
        }
        let can_judge = self.prober.knows_round_trip() && !self.prober.shows_queue(now);
        let may_probe = !self.rate.is_congested() && (can_judge || !self.follows_receiver());
        self.prober.poll(self.rate.estimate(), may_probe, now)
    }

    /// Whether a sender report is to leave now, behind the padding of a probe: where the receiver
    /// tells no more, its answer shows how long the padding took.
    pub(super) fn take_report_wish(&mut self, now: Instant) -> bool {
        self.follows_receiver() && self.prober.take_report_wish(now)
    }

    /// Takes the round trip of a sender report that left at `sent_at`; whether the estimate rose.
    pub(super) fn handle_round_trip(
        &mut self,
        sent_at: Instant,
        round_trip: Duration,
        now: Instant,
    ) -> bool {
        let verdict = self.prober.note_round_trip(sent_at, round_trip, now);
        if let Some(verdict) = verdict {
            self.rate.take_verdict(verdict, now);
        }
        verdict.is_some_and(|verdict| verdict.carries)
    }

    /// Whether a probe is being sent, so that more padding is due soon.
    pub(super) fn is_probing(&self) -> bool {
        self.prober.is_sending()
    }

    /// When [`Self::poll_padding`] may have something.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.last_feedback?;
        self.prober.poll_timeout()
    }

    /// Takes the subscriber's own estimate. Its receiver raises it only a little above what it
    /// gets, so it limits only where it is close to that.
    pub(super) fn handle_receiver_estimate(&mut self, bitrate: u64, now: Instant) {
        let sent = self.sent.rate(self.micros(now)).unwrap_or_default();
        self.last_feedback = Some(now);
        let path = if self.prober.shows_queue(now) {
            Path::Queued
        } else if self.prober.is_echo(now) {
            Path::Probed
        } else if self.prober.knows_round_trip() {
            Path::Calm
        } else {
            Path::Unknown
        };
        if self.rate.limit_by_receiver(bitrate as f64, (sent, path), now) {
            self.prober.note_full(now);
        }
        // A probe whose report was lost found nothing.
        self.prober.take_result(now);
    }

    /// Takes transport-wide feedback.
    pub(super) fn handle_feedback(&mut self, feedback: &TransportFeedback<'_>, now: Instant) {
        let reference = self.unwrap_reference(feedback.reference_micros());
        let mut usage = None;
        let mut newest_sent = None;
        for (index, arrival) in feedback.arrivals().enumerate() {
            let sequence = feedback.base.wrapping_add(index as u16);
            let Some(packet) = self.history.take(sequence, arrival.is_some()) else { continue };
            self.loss.told += 1;
            self.told.add(packet.sent_at, packet.bytes);
            let Some(arrival) = arrival else {
                self.loss.lost += 1;
                continue;
            };
            let arrival = reference + arrival;
            newest_sent = newest_sent.max(Some(packet.sent_at));
            self.acknowledged.add(arrival, packet.bytes);
            if let Some(cluster) = packet.cluster {
                self.prober.note_arrived(cluster, packet.sent_at, arrival, packet.bytes);
            }
            self.queue.add(packet.sent_at, arrival);
            usage = self.delay.add(packet.sent_at, arrival, packet.bytes).or(usage);
        }
        let Some(newest_sent) = newest_sent else { return };
        let measured = Duration::from_micros((self.micros(now) - newest_sent).max(0) as u64);
        self.round_trip = (self.round_trip * 7 + measured) / 8;
        self.last_feedback = Some(now);
        self.decide(usage, now);
    }

    fn decide(&mut self, usage: Option<Usage>, now: Instant) {
        let traffic = self.traffic();
        let usage = match usage.unwrap_or_else(|| self.delay.usage()) {
            _ if self.queue.is_long() && traffic.is_some_and(|t| t.is_more_than_arrives()) => {
                Usage::Over
            }
            usage => usage,
        };
        if let Some(lost) = self.loss.take(now) {
            self.rate.update_by_loss(lost, traffic, now);
        }
        self.rate.update_by_delay(usage, traffic, self.round_trip, now);
        if let Some(probed) = self.prober.take_result(now)
            && usage != Usage::Over
        {
            self.rate.raise(probed, now);
        }
    }

    fn traffic(&self) -> Option<Traffic> {
        Some(Traffic {
            acknowledged: self.acknowledged.latest_rate()?,
            peak: self.acknowledged.peak_rate()?,
            sent: self.told.latest_rate()?,
        })
    }

    /// Arrival times on a scale that does not wrap.
    fn unwrap_reference(&mut self, reference: i64) -> i64 {
        const PERIOD: i64 = 64_000 << 24;
        let unwrapped = match self.last_reference {
            None => reference,
            Some(last) => {
                let turns = (last - reference + PERIOD / 2).div_euclid(PERIOD);
                reference + turns * PERIOD
            }
        };
        self.last_reference = Some(unwrapped);
        unwrapped
    }
}

#[cfg(test)]
mod tests {
    use super::super::rtcp::{RtcpMessage, parse, write_transport_feedback};
    use super::*;

    /// A path of `capacity` bit/s with a queue, and a subscriber behind it that reports every
    /// 50 ms.
    struct Path {
        capacity: f64,
        free_at: i64,
        told: Vec<(u16, i64)>,
        count: u8,
    }

    impl Path {
        fn carry(&mut self, sequence: u16, sent: i64, bytes: usize) {
            self.free_at = self.free_at.max(sent) + (bytes as f64 * 8e6 / self.capacity) as i64;
            self.told.push((sequence, self.free_at + 20_000));
        }

        fn report(&mut self, bandwidth: &mut Bandwidth, micros: i64, now: Instant) {
            let arrived: Vec<(u16, i64)> =
                self.told.iter().copied().filter(|told| told.1 <= micros).collect();
            self.told.retain(|told| told.1 > micros);
            let Some(&(base, first)) = arrived.first() else { return };
            let reference = first / 64_000;
            let units = |at: i64| Some((at - reference * 64_000) / 250);
            let arrivals: Vec<Option<i64>> = arrived.iter().map(|told| units(told.1)).collect();
            let mut out = Vec::new();
            write_transport_feedback(
                &mut out,
                (1, 2),
                base,
                reference as u32,
                self.count,
                &arrivals,
            );
            self.count = self.count.wrapping_add(1);
            parse(&out, |message| {
                if let RtcpMessage::TransportFeedback(feedback) = message {
                    bandwidth.handle_feedback(&feedback, now);
                }
            });
        }
    }

    /// Sends `rate` bit/s for `seconds` with probes towards `need`; the estimate at the end.
    fn run(
        bandwidth: &mut Bandwidth,
        path: &mut Path,
        start: Instant,
        (rate, need): (f64, Option<u64>),
        (from, to): (i64, i64),
    ) -> u64 {
        let mut owed = 0.0;
        for millis in from..to {
            let now = start + Duration::from_millis(millis as u64);
            let micros = millis * 1000;
            owed += rate / 8000.0;
            while owed > 1200.0 {
                owed -= 1200.0;
                path.carry(bandwidth.next_sequence(), micros, 1200);
                bandwidth.sent(1200, now);
            }
            bandwidth.set_need(need);
            if millis % 5 == 0
                && let Some(padding) = bandwidth.poll_padding(now)
            {
                for _ in 0..padding.bytes.div_ceil(290) {
                    path.carry(bandwidth.next_sequence(), micros, 290);
                    bandwidth.sent(290, now);
                }
            }
            if millis % 50 == 0 {
                path.report(bandwidth, micros, now);
            }
        }
        bandwidth.estimate()
    }

    #[test]
    fn the_estimate_finds_the_path_and_follows_it() {
        let start = Instant::now();
        let mut bandwidth = Bandwidth::new(start);
        assert_eq!((bandwidth.estimate(), bandwidth.pacing_rate(start)), (START, None));
        let mut path = Path { capacity: 300_000.0, free_at: 0, told: Vec::new(), count: 0 };
        let found = run(&mut bandwidth, &mut path, start, (600_000.0, None), (0, 3000));
        assert!((150_000..320_000).contains(&found), "{found}");
        assert!(bandwidth.was_congested());
        // The sender follows; the path gets wide again.
        run(&mut bandwidth, &mut path, start, (150_000.0, None), (3000, 8000));
        path.capacity = 5e6;
        let found =
            run(&mut bandwidth, &mut path, start, (150_000.0, Some(2_000_000)), (8000, 14_000));
        assert!(found >= 2_000_000, "{found}");
    }

    #[test]
    fn without_need_the_estimate_stays_usable() {
        let start = Instant::now();
        let mut bandwidth = Bandwidth::new(start);
        let mut path = Path { capacity: 5e6, free_at: 0, told: Vec::new(), count: 0 };
        let found = run(&mut bandwidth, &mut path, start, (50_000.0, None), (0, 20_000));
        assert!(found >= START, "{found}");
    }
}
