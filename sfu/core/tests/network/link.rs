//! One direction of a network path: loss, a bottleneck with a drop-tail queue, propagation,
//! jitter and reordering, in this order.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Bytes of IPv4 and UDP headers, which a bottleneck carries too.
const OVERHEAD: usize = 28;

/// How packets are lost before the bottleneck.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Loss {
    /// None.
    None,
    /// Each with this probability.
    Random(f64),
    /// Gilbert–Elliott: probability to enter the bad state, to leave it, and to lose a packet
    /// in it.
    Burst { enter: f64, leave: f64, loss: f64 },
}

/// A direction's properties.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LinkConfig {
    /// Propagation delay.
    pub(crate) delay: Duration,
    /// Most additional delay of a packet; uniform, and without overtaking.
    pub(crate) jitter: Duration,
    /// Share of packets that are held back by up to 30 ms and overtaken.
    pub(crate) reordered: f64,
    /// Share of packets that arrive twice.
    pub(crate) duplicated: f64,
    /// Loss before the queue.
    pub(crate) loss: Loss,
    /// Bottleneck, bit/s; `None` without one.
    pub(crate) rate: Option<u64>,
    /// Bytes that wait at the bottleneck before packets are dropped.
    pub(crate) queue: usize,
}

impl LinkConfig {
    /// A path that only delays.
    pub(crate) fn clean(delay_ms: u64) -> Self {
        Self {
            delay: Duration::from_millis(delay_ms),
            jitter: Duration::ZERO,
            reordered: 0.0,
            duplicated: 0.0,
            loss: Loss::None,
            rate: None,
            queue: usize::MAX,
        }
    }

    /// The same with a bottleneck whose queue holds `queue_ms` at its rate.
    pub(crate) fn limited(self, kbps: u64, queue_ms: u64) -> Self {
        let queue = (kbps * queue_ms / 8) as usize;
        Self { rate: Some(kbps * 1000), queue, ..self }
    }

    pub(crate) fn loss(self, loss: Loss) -> Self {
        Self { loss, ..self }
    }

    pub(crate) fn jitter(self, jitter_ms: u64) -> Self {
        Self { jitter: Duration::from_millis(jitter_ms), ..self }
    }

    pub(crate) fn reordered(self, reordered: f64) -> Self {
        Self { reordered, ..self }
    }
}

/// What travels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cargo {
    /// A datagram of a peer or of the engine.
    Datagram(Vec<u8>),
    /// A packet of other traffic: its size and number.
    Cross(usize, u64),
}

impl Cargo {
    fn size(&self) -> usize {
        match self {
            Self::Datagram(bytes) => bytes.len() + OVERHEAD,
            Self::Cross(size, _) => *size,
        }
    }
}

/// What came out of a link.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) cargo: Cargo,
    /// How long it waited at the bottleneck.
    pub(crate) queued: Duration,
}

/// A direction of a path.
#[derive(Debug)]
pub(crate) struct Link {
    config: LinkConfig,
    rng: StdRng,
    in_bad_state: bool,
    /// Packets that wait at the bottleneck with the time they came; the first is being sent.
    queue: VecDeque<(Cargo, Instant)>,
    queued_bytes: usize,
    /// When the first of the queue has been sent.
    head_done: Option<Instant>,
    flying: BinaryHeap<Reverse<(Instant, u64, Duration, Cargo)>>,
    last_arrival: Option<Instant>,
    counter: u64,
}

impl Link {
    pub(crate) fn new(config: LinkConfig, seed: u64) -> Self {
        Self {
            config,
            rng: StdRng::seed_from_u64(seed),
            in_bad_state: false,
            queue: VecDeque::new(),
            queued_bytes: 0,
            head_done: None,
            flying: BinaryHeap::new(),
            last_arrival: None,
            counter: 0,
        }
    }

    /// Changes the properties; what waits stays, and is sent at the new rate.
    pub(crate) fn set(&mut self, config: LinkConfig, now: Instant) {
        self.config = config;
        if config.rate.is_none() {
            while let Some((cargo, came)) = self.queue.pop_front() {
                self.fly(cargo, now, now - came);
            }
            (self.queued_bytes, self.head_done) = (0, None);
        } else if self.head_done.is_some() {
            self.head_done = Some(now + self.transmission());
        }
    }

    /// Takes a packet; `false` when the queue had no room for it.
    pub(crate) fn send(&mut self, cargo: Cargo, now: Instant) -> bool {
        if self.is_lost() {
            return true;
        }
        let size = cargo.size();
        if self.config.rate.is_none() {
            self.fly(cargo, now, Duration::ZERO);
            return true;
        }
        if self.queued_bytes + size > self.config.queue {
            return false;
        }
        self.queued_bytes += size;
        self.queue.push_back((cargo, now));
        if self.head_done.is_none() {
            self.head_done = Some(now + self.transmission());
        }
        true
    }

    /// When [`Self::receive`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let arrival = self.flying.peek().map(|Reverse((at, ..))| *at);
        arrival.into_iter().chain(self.head_done).min()
    }

    /// The next packet that has arrived at `now`.
    pub(crate) fn receive(&mut self, now: Instant) -> Option<Delivery> {
        while let Some(done) = self.head_done.filter(|done| *done <= now) {
            let (cargo, came) = self.queue.pop_front()?;
            let transmission = self.duration_of(cargo.size());
            self.queued_bytes -= cargo.size();
            let queued = (done - came).saturating_sub(transmission);
            self.fly(cargo, done, queued);
            self.head_done = (!self.queue.is_empty()).then(|| done + self.transmission());
        }
        if self.flying.peek().is_none_or(|Reverse((at, ..))| *at > now) {
            return None;
        }
        let Reverse((_, _, queued, cargo)) = self.flying.pop()?;
        Some(Delivery { cargo, queued })
    }

    /// How long a packet that comes now would wait.
    pub(crate) fn queue_delay(&self) -> Duration {
        self.duration_of(self.queued_bytes)
    }

    fn transmission(&self) -> Duration {
        self.queue.front().map_or(Duration::ZERO, |(cargo, _)| self.duration_of(cargo.size()))
    }

    fn duration_of(&self, bytes: usize) -> Duration {
        let rate = self.config.rate.unwrap_or(u64::MAX);
        Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64)
    }

    fn is_lost(&mut self) -> bool {
        let draw: f64 = self.rng.random();
        match self.config.loss {
            Loss::None => false,
            Loss::Random(share) => draw < share,
            Loss::Burst { enter, leave, loss } => {
                let change: f64 = self.rng.random();
                self.in_bad_state =
                    if self.in_bad_state { change >= leave } else { change < enter };
                self.in_bad_state && draw < loss
            }
        }
    }

    fn fly(&mut self, cargo: Cargo, now: Instant, queued: Duration) {
        let jitter = self.config.jitter.mul_f64(self.rng.random());
        let mut arrival = now + self.config.delay + jitter;
        if self.rng.random::<f64>() < self.config.reordered {
            arrival += Duration::from_millis(self.rng.random_range(2..30));
        } else {
            arrival = arrival.max(self.last_arrival.unwrap_or(arrival));
            self.last_arrival = Some(arrival);
        }
        if self.rng.random::<f64>() < self.config.duplicated {
            let copy = (arrival + Duration::from_millis(3), self.counter, queued, cargo.clone());
            self.flying.push(Reverse(copy));
            self.counter += 1;
        }
        self.flying.push(Reverse((arrival, self.counter, queued, cargo)));
        self.counter += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "virtual time begins at some real moment")]
    fn begin() -> Instant {
        Instant::now()
    }

    /// Arrival times of `count` packets of 1000 bytes that were sent `gap_ms` apart.
    fn arrivals(link: &mut Link, count: u64, gap_ms: u64) -> Vec<(u64, Duration)> {
        let start = begin();
        let mut found = Vec::new();
        for number in 0..count {
            let now = start + Duration::from_millis(gap_ms * number);
            link.send(Cargo::Cross(1000, number), now);
        }
        while let Some(at) = link.poll_timeout() {
            while let Some(delivery) = link.receive(at) {
                let Cargo::Cross(_, number) = delivery.cargo else { continue };
                found.push((number, at - start));
            }
        }
        found
    }

    #[test]
    fn a_bottleneck_spaces_packets_by_its_rate_and_drops_what_its_queue_cannot_hold() {
        // 1000 bytes take 10 ms at 800 kbit/s; the queue holds ten of them.
        let mut link = Link::new(LinkConfig::clean(20).limited(800, 100), 1);
        let found = arrivals(&mut link, 15, 0);
        let expected: Vec<_> = (0..10).map(|n| (n, Duration::from_millis(30 + 10 * n))).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn waiting_packets_follow_a_change_of_the_rate() {
        let start = begin();
        let mut link = Link::new(LinkConfig::clean(0).limited(8000, 1000), 1);
        for number in 0..10 {
            link.send(Cargo::Cross(1000, number), start);
        }
        assert_eq!(link.queue_delay(), Duration::from_millis(10));
        link.set(LinkConfig::clean(0).limited(800, 1000), start);
        assert_eq!(link.queue_delay(), Duration::from_millis(100));
        let mut last = start;
        while let Some(at) = link.poll_timeout() {
            while link.receive(at).is_some() {}
            last = at;
        }
        assert_eq!(last, start + Duration::from_millis(100));
    }

    #[test]
    fn loss_has_the_configured_mean_and_bursts_are_longer_than_chance() {
        let mean_run = |loss| {
            let mut link = Link::new(LinkConfig::clean(0).loss(loss), 7);
            let found = arrivals(&mut link, 20_000, 1);
            let gaps: Vec<u64> =
                found.windows(2).map(|pair| pair[1].0 - pair[0].0 - 1).filter(|g| *g > 0).collect();
            let lost = 20_000 - found.len();
            (lost as f64 / 20_000.0, gaps.iter().sum::<u64>() as f64 / gaps.len() as f64)
        };
        let (random, single) = mean_run(Loss::Random(0.05));
        assert!((0.045..0.055).contains(&random), "{random}");
        assert!(single < 1.2, "{single}");
        let (burst, long) = mean_run(Loss::Burst { enter: 0.0125, leave: 0.2, loss: 0.85 });
        assert!((0.04..0.06).contains(&burst), "{burst}");
        assert!(long > 2.0, "{long}");
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let in_order = |found: &[(u64, Duration)]| found.is_sorted_by_key(|(number, _)| *number);
        let mut link = Link::new(LinkConfig::clean(10).jitter(50), 3);
        let found = arrivals(&mut link, 500, 5);
        assert!(found.len() == 500 && in_order(&found));
        let mut link = Link::new(LinkConfig::clean(10).reordered(0.05), 3);
        let found = arrivals(&mut link, 500, 5);
        assert!(found.len() == 500 && !in_order(&found));
    }
}
