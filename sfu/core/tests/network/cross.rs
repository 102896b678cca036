//! Other traffic at a bottleneck: a steady or pulsating flow, and one that takes what it can
//! get as TCP does.

use std::time::{Duration, Instant};

/// Bytes of a packet.
const PACKET: usize = 1500;
/// Fewest packets in flight: what TCP falls back to after a loss.
const MIN_WINDOW: f64 = 2.0;

/// Which flow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum CrossConfig {
    /// `kbps` for `on`, then silence for `off`, again and again; steady with `off` of zero.
    Pulse { kbps: u64, on: Duration, off: Duration },
    /// Additive increase, multiplicative decrease; an acknowledgement is back after `back`.
    Aimd { back: Duration },
}

/// A flow from its start on.
#[derive(Debug)]
pub(crate) struct Cross {
    config: CrossConfig,
    start: Instant,
    next_send: Instant,
    next_number: u64,
    /// Congestion window, packets.
    window: f64,
    slow_start: bool,
    in_flight: u64,
    /// What comes back to the sender: when, and whether the packet arrived.
    answers: Vec<(Instant, bool)>,
    /// One decrease a round trip.
    recovers_until: Instant,
    /// Bytes that arrived.
    pub(crate) delivered: u64,
}

impl Cross {
    pub(crate) fn new(config: CrossConfig, now: Instant) -> Self {
        Self {
            config,
            start: now,
            next_send: now,
            next_number: 0,
            window: 4.0,
            slow_start: true,
            in_flight: 0,
            answers: Vec::new(),
            recovers_until: now,
            delivered: 0,
        }
    }

    /// When [`Self::poll_transmit`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.config {
            CrossConfig::Pulse { .. } => Some(self.next_send),
            CrossConfig::Aimd { .. } if self.has_room() => Some(self.next_send),
            CrossConfig::Aimd { .. } => self.answers.iter().map(|(at, _)| *at).min(),
        }
    }

    /// Size and number of the next packet to send at `now`.
    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<(usize, u64)> {
        match self.config {
            CrossConfig::Pulse { kbps, on, off } => {
                if now < self.next_send {
                    return None;
                }
                let gap = Duration::from_secs_f64(PACKET as f64 * 8.0 / (kbps as f64 * 1000.0));
                self.next_send += gap;
                let period = (on + off).as_secs_f64();
                let phase = (self.next_send - self.start).as_secs_f64() % period;
                if phase >= on.as_secs_f64() {
                    self.next_send += Duration::from_secs_f64(period - phase);
                }
            }
            CrossConfig::Aimd { .. } => {
                self.take_answers(now);
                if !self.has_room() || now < self.next_send {
                    return None;
                }
                // A window is not sent in one burst: senders pace, and links clock them.
                self.next_send = now + Duration::from_micros(200);
                self.in_flight += 1;
            }
        }
        self.next_number += 1;
        Some((PACKET, self.next_number))
    }

    /// The link delivered a packet (`true`) or its queue had no room (`false`).
    pub(crate) fn handle_fate(&mut self, arrived: bool, now: Instant) {
        self.delivered += if arrived { PACKET as u64 } else { 0 };
        if let CrossConfig::Aimd { back } = self.config {
            // A loss shows when later packets are acknowledged.
            self.answers.push((now + if arrived { back } else { 2 * back }, arrived));
        }
    }

    fn has_room(&self) -> bool {
        (self.in_flight as f64) < self.window
    }

    fn take_answers(&mut self, now: Instant) {
        let CrossConfig::Aimd { back } = self.config else { return };
        let (due, later): (Vec<_>, Vec<_>) = self.answers.drain(..).partition(|(at, _)| *at <= now);
        self.answers = later;
        for (_, arrived) in due {
            self.in_flight = self.in_flight.saturating_sub(1);
            if arrived {
                self.window += if self.slow_start { 1.0 } else { 1.0 / self.window };
            } else if now >= self.recovers_until {
                self.window = (self.window / 2.0).max(MIN_WINDOW);
                self.slow_start = false;
                self.recovers_until = now + 2 * back;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Cargo, Link, LinkConfig};

    /// Bit/s that a flow alone gets of a link in ten seconds.
    #[allow(clippy::disallowed_methods, reason = "virtual time begins at some real moment")]
    fn throughput(config: CrossConfig, link: LinkConfig) -> f64 {
        let start = Instant::now();
        let mut link = Link::new(link, 1);
        let mut cross = Cross::new(config, start);
        while let Some(now) = cross.poll_timeout().into_iter().chain(link.poll_timeout()).min()
            && now < start + Duration::from_secs(10)
        {
            while let Some((size, number)) = cross.poll_transmit(now) {
                if !link.send(Cargo::Cross(size, number), now) {
                    cross.handle_fate(false, now);
                }
            }
            while link.receive(now).is_some() {
                cross.handle_fate(true, now);
            }
        }
        cross.delivered as f64 * 8.0 / 10.0
    }

    #[test]
    fn an_aimd_flow_fills_a_link_of_its_own() {
        let back = Duration::from_millis(20);
        let rate = throughput(CrossConfig::Aimd { back }, LinkConfig::clean(20).limited(2000, 100));
        assert!((1.7e6..=2.0e6).contains(&rate), "{rate}");
    }

    #[test]
    fn a_pulsating_flow_has_its_duty_cycle() {
        let second = Duration::from_secs(1);
        let pulse = CrossConfig::Pulse { kbps: 1000, on: second, off: second };
        let rate = throughput(pulse, LinkConfig::clean(20));
        assert!((0.45e6..0.56e6).contains(&rate), "{rate}");
    }
}
