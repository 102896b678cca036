//! Probes: a short run of padding at a higher rate shows whether the path carries it.
//!
//! A subscriber that tells of every packet shows it by when they came. Of one that sends only its
//! own estimate (REMB) nothing is known but round trips by its receiver reports (RFC 3550 section
//! 6.4.1): a sender report that follows the padding takes longer by the queue that it left behind.

use std::time::{Duration, Instant};

/// How long a probe lasts.
const LENGTH: Duration = Duration::from_millis(40);
/// Fewest packets that say something.
const MIN_PACKETS: u32 = 8;
/// A probe whose feedback did not come in this time failed; receiver reports are rarer.
const PATIENCE: Duration = Duration::from_millis(1200);
const REPORT_PATIENCE: Duration = Duration::from_millis(2500);
/// Times between probes that found nothing: from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(700);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// A probe goes this far above the estimate at most, and above the need.
const STEP: f64 = 3.0;
const MARGIN: f64 = 1.25;
/// Share of a probe's packets that must arrive.
const ARRIVED: f64 = 0.8;
/// What leaves in the first instant counts for this time.
const HEAD_START: Duration = Duration::from_millis(5);
/// Bytes of another round where too few packets left so far.
const MIN_BYTES: usize = 1000;
/// Shortest time between a probe's first and last packet that gives a rate, microseconds.
const MIN_SPAN: i64 = 1000;
/// A probe that found this much more than the estimate succeeded.
const GAIN: f64 = 1.1;
/// For how long the shortest round trip counts as the one without queue, at least.
const BASELINE: Duration = Duration::from_secs(30);
/// Round trips that are needed to tell which is short, and a longer one that shows a queue.
const MIN_ROUND_TRIPS: u32 = 4;
const QUEUE: Duration = Duration::from_millis(80);
/// For how long it shows one.
const RECENT: Duration = Duration::from_secs(3);
/// For how long after a probe a receiver may take the probe for a full path.
const ECHO: Duration = Duration::from_secs(1);
/// A path that got full this soon after a probe by reports found it wide shows that such probes
/// say nothing here, for a time that gets longer with each.
const TRIAL: Duration = Duration::from_secs(10);
const FIRST_DISTRUST: Duration = Duration::from_secs(30);
const LAST_DISTRUST: Duration = Duration::from_secs(120);

/// Padding to send at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Padding {
    /// Bytes on the wire.
    pub(in super::super) bytes: usize,
}

/// What a probe found by reports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Verdict {
    /// Bits a second.
    pub(super) rate: f64,
    /// The path carries what it was tried for.
    pub(super) carries: bool,
}

/// Decides on probes and evaluates them.
#[derive(Debug, Default)]
pub(super) struct Prober {
    need: Option<f64>,
    cluster: Option<Cluster>,
    last_id: u8,
    next: Option<Instant>,
    pause: Option<Duration>,
    reports: Reports,
}

/// What sender reports and the answers to them say.
#[derive(Debug, Default)]
struct Reports {
    /// Shortest round trip of this span and of the one before, and when this one began.
    shortest: [Option<Duration>; 2],
    since: Option<Instant>,
    count: u32,
    /// Reports in a row that waited in a queue, the last one, and when it was answered.
    queued: u32,
    last_sent: Option<Instant>,
    answered: Option<Instant>,
    /// The report that ends the probe left at this time.
    sent_at: Option<Instant>,
    last_success: Option<Instant>,
    distrust: Option<Duration>,
}

/// The packets of one probe.
#[derive(Debug)]
struct Cluster {
    id: u8,
    rate: f64,
    estimate_before: f64,
    started: Instant,
    /// Packets still join it.
    is_sending: bool,
    packets: u32,
    bytes: usize,
    arrived: Arrived,
}

/// What arrived of a probe; times in microseconds.
#[derive(Debug, Default)]
struct Arrived {
    packets: u32,
    bytes: usize,
    first: Option<Arrival>,
    last_sent: (i64, usize),
    last_arrival: i64,
}

#[derive(Debug, Clone, Copy)]
struct Arrival {
    sent: i64,
    arrival: i64,
    bytes: usize,
}

impl Prober {
    /// Sets the rate that would be used if the path carried it.
    pub(super) fn set_need(&mut self, need: Option<f64>) {
        self.need = need;
    }

    /// Counts a packet that leaves; answers the probe that it is part of.
    pub(super) fn note_sent(&mut self, bytes: usize) -> Option<u8> {
        let cluster = self.cluster.as_mut().filter(|cluster| cluster.is_sending)?;
        cluster.bytes += bytes;
        cluster.packets += 1;
        Some(cluster.id)
    }

    /// Padding that is due.
    pub(super) fn poll(&mut self, estimate: f64, may_begin: bool, now: Instant) -> Option<Padding> {
        if self.cluster.is_none() {
            self.begin(estimate, may_begin, now)?;
        }
        let cluster = self.cluster.as_mut().filter(|cluster| cluster.is_sending)?;
        let elapsed = now.duration_since(cluster.started);
        if elapsed >= LENGTH && cluster.packets >= MIN_PACKETS {
            cluster.is_sending = false;
            return None;
        }
        // The first packets leave at once, so that there is something to measure between.
        let share = (elapsed + HEAD_START).min(LENGTH + HEAD_START).as_secs_f64();
        let due = (cluster.rate * share / 8.0) as usize;
        let least = if elapsed >= LENGTH { MIN_BYTES } else { 0 };
        let bytes = due.saturating_sub(cluster.bytes).max(least);
        (bytes > 0).then_some(Padding { bytes })
    }

    /// Whether packets still join a probe.
    pub(super) fn is_sending(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.is_sending)
    }

    /// Whether a sender report is to follow the padding of a probe now.
    pub(super) fn take_report_wish(&mut self, now: Instant) -> bool {
        let is_due = self.cluster.as_ref().is_some_and(|cluster| !cluster.is_sending)
            && self.reports.sent_at.is_none();
        if is_due {
            self.reports.sent_at = Some(now);
        }
        is_due
    }

    /// Takes the round trip of a sender report that left at `sent_at`. What a probe found, when it
    /// was the one behind its padding.
    pub(super) fn note_round_trip(
        &mut self,
        sent_at: Instant,
        round_trip: Duration,
        now: Instant,
    ) -> Option<Verdict> {
        let is_behind = self.reports.sent_at == Some(sent_at);
        let Some(cluster) = self.cluster.take_if(|cluster| is_behind && !cluster.is_sending) else {
            self.reports.note(round_trip, now);
            // Each source has an answer to the report behind a probe.
            if !is_behind {
                self.reports.note_queue(round_trip, sent_at, now);
            }
            return None;
        };
        self.reports.note(round_trip, now);
        let queue = round_trip.saturating_sub(self.reports.shortest().unwrap_or_default());
        let took = (sent_at.duration_since(cluster.started) + queue).max(LENGTH);
        let rate = cluster.bytes as f64 * 8.0 / took.as_secs_f64();
        let carries = rate * MARGIN >= cluster.rate;
        if carries {
            self.reports.last_success = Some(now);
        }
        self.end(carries, now);
        Some(Verdict { rate, carries })
    }

    /// Whether enough round trips are known to judge another by.
    pub(super) fn knows_round_trip(&self) -> bool {
        self.reports.count >= MIN_ROUND_TRIPS
    }

    /// Whether round trips show that packets wait on the path.
    pub(super) fn shows_queue(&self, now: Instant) -> bool {
        let is_recent = self.reports.answered.is_some_and(|at| now < at + RECENT);
        self.knows_round_trip() && is_recent && self.reports.queued >= 2
    }

    /// Whether what a receiver says at `now` may be about a probe.
    pub(super) fn is_echo(&self, now: Instant) -> bool {
        self.is_sending() || self.reports.sent_at.is_some_and(|at| now < at + ECHO)
    }

    /// Notes that the path is full.
    pub(super) fn note_full(&mut self, now: Instant) {
        if self.reports.last_success.take().is_some_and(|at| now < at + TRIAL) {
            let next = self.reports.distrust.map_or(FIRST_DISTRUST, |last| 2 * last);
            let distrust = next.min(LAST_DISTRUST);
            self.reports.distrust = Some(distrust);
            self.next = Some(now + distrust);
        }
    }

    /// When the next probe may begin.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.cluster.is_some() { None } else { self.need.and(self.next) }
    }

    fn begin(&mut self, estimate: f64, may_begin: bool, now: Instant) -> Option<()> {
        let need = self.need.filter(|need| *need > estimate)?;
        if !may_begin || now < *self.next.get_or_insert(now) {
            return None;
        }
        self.last_id = self.last_id % u8::MAX + 1;
        self.reports.sent_at = None;
        self.cluster = Some(Cluster {
            id: self.last_id,
            rate: (need * MARGIN).min(estimate * STEP).max(estimate * 1.2),
            estimate_before: estimate,
            started: now,
            is_sending: true,
            packets: 0,
            bytes: 0,
            arrived: Arrived::default(),
        });
        Some(())
    }

    /// Notes that a packet of a probe arrived.
    pub(super) fn note_arrived(&mut self, id: u8, sent: i64, arrival: i64, bytes: usize) {
        let Some(cluster) = self.cluster.as_mut().filter(|cluster| cluster.id == id) else {
            return;
        };
        let arrived = &mut cluster.arrived;
        arrived.packets += 1;
        arrived.bytes += bytes;
        arrived.first.get_or_insert(Arrival { sent, arrival, bytes });
        arrived.last_sent = arrived.last_sent.max((sent, bytes));
        arrived.last_arrival = arrived.last_arrival.max(arrival);
    }

    /// The rate that a complete probe found, bit/s.
    pub(super) fn take_result(&mut self, now: Instant) -> Option<f64> {
        let cluster = self.cluster.as_ref().filter(|cluster| !cluster.is_sending)?;
        let is_complete = cluster.arrived.packets >= cluster.packets;
        let has_enough = f64::from(cluster.arrived.packets) >= ARRIVED * f64::from(cluster.packets);
        let patience = if self.reports.sent_at.is_some() { REPORT_PATIENCE } else { PATIENCE };
        let has_waited = now.duration_since(cluster.started) >= patience;
        if !is_complete && !has_waited {
            return None;
        }
        let found = if has_enough { cluster.arrived.rate() } else { None };
        let has_gained = found.is_some_and(|rate| rate > GAIN * cluster.estimate_before);
        self.cluster = None;
        self.end(has_gained, now);
        found
    }

    /// Plans the next probe.
    fn end(&mut self, has_gained: bool, now: Instant) {
        self.pause = Some(match self.pause {
            // What succeeded goes on at once: the need may be higher still.
            _ if has_gained => Duration::ZERO,
            None | Some(Duration::ZERO) => FIRST_PAUSE,
            Some(pause) => (2 * pause).min(LAST_PAUSE),
        });
        self.next = self.pause.map(|pause| now + pause).max(self.next);
    }
}

impl Reports {
    fn note(&mut self, round_trip: Duration, now: Instant) {
        if now.duration_since(*self.since.get_or_insert(now)) >= BASELINE {
            self.shortest = [None, self.shortest[0]];
            self.since = Some(now);
        }
        self.count = self.count.saturating_add(1);
        let shortest = &mut self.shortest[0];
        *shortest = Some(shortest.map_or(round_trip, |known| known.min(round_trip)));
    }

    fn note_queue(&mut self, round_trip: Duration, sent_at: Instant, now: Instant) {
        // A report tells of every source.
        if self.last_sent.replace(sent_at) == Some(sent_at) {
            return;
        }
        let waited = self.shortest().is_some_and(|shortest| round_trip > shortest + QUEUE);
        // A key frame makes one report wait.
        self.queued = if waited { self.queued + 1 } else { 0 };
        self.answered = Some(now);
    }

    fn shortest(&self) -> Option<Duration> {
        self.shortest.iter().flatten().min().copied()
    }
}

impl Arrived {
    /// The lower of the rates at which the packets left and arrived. What arrives slower than
    /// it left has filled a queue: then a little less is right.
    fn rate(&self) -> Option<f64> {
        let first = self.first?;
        let left = self.last_sent.0 - first.sent;
        let arrived = self.last_arrival - first.arrival;
        if left < MIN_SPAN || arrived < MIN_SPAN {
            return None;
        }
        let rate = |bytes: usize, micros: i64| bytes as f64 * 8e6 / micros as f64;
        let send_rate = rate(self.bytes - self.last_sent.1, left);
        let receive_rate = rate(self.bytes - first.bytes, arrived);
        Some(if receive_rate < 0.9 * send_rate {
            0.95 * receive_rate
        } else {
            send_rate.min(receive_rate)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs one probe over a path of `capacity` bit/s; what it found.
    fn probe(prober: &mut Prober, estimate: f64, capacity: f64, start: Instant) -> Option<f64> {
        let mut queue_free_at = 0i64;
        for millis in (0..60).step_by(5) {
            let now = start + Duration::from_millis(millis);
            let Some(padding) = prober.poll(estimate, true, now) else { continue };
            for _ in 0..padding.bytes.div_ceil(290) {
                let Some(id) = prober.note_sent(290) else { continue };
                let sent = millis as i64 * 1000;
                queue_free_at = queue_free_at.max(sent) + (290.0 * 8e6 / capacity) as i64;
                prober.note_arrived(id, sent, queue_free_at, 290);
            }
        }
        prober.take_result(start + Duration::from_millis(100))
    }

    #[test]
    fn a_probe_finds_spare_bandwidth_and_its_limit() {
        let start = Instant::now();
        let mut prober = Prober::default();
        prober.set_need(Some(2e6));
        let found = probe(&mut prober, 1e6, 50e6, start).unwrap();
        assert!((2e6..3.2e6).contains(&found), "{found}");
        let later = start + Duration::from_secs(1);
        let mut limited = Prober::default();
        limited.set_need(Some(4e6));
        let found = probe(&mut limited, 1e6, 1.5e6, later).unwrap();
        assert!((1.2e6..1.6e6).contains(&found), "{found}");
    }

    /// One probe of a path of `capacity` bit/s, without queue 50 ms long, of which only reports
    /// tell.
    fn probe_by_report(prober: &mut Prober, capacity: f64, start: Instant) -> Option<Verdict> {
        let at = |millis| start + Duration::from_millis(millis);
        let mut bytes = 0;
        for millis in (0..50).step_by(5) {
            if let Some(padding) = prober.poll(1e6, true, at(millis)) {
                prober.note_sent(padding.bytes);
                for _ in 0..MIN_PACKETS {
                    prober.note_sent(0);
                }
                bytes += padding.bytes;
            }
        }
        assert!(prober.take_report_wish(at(45)) && !prober.take_report_wish(at(45)));
        let took = Duration::from_secs_f64(bytes as f64 * 8.0 / capacity);
        let queue = took.saturating_sub(Duration::from_millis(45));
        assert_eq!(prober.note_round_trip(at(0), Duration::from_millis(50), at(60)), None);
        let answer = Duration::from_millis(50) + queue;
        let found = prober.note_round_trip(at(45), answer, at(800));
        assert_eq!(prober.note_round_trip(at(45), answer, at(800)), None, "of another source");
        found
    }

    #[test]
    fn the_time_that_a_report_takes_behind_a_probe_tells_what_the_path_carries() {
        let start = Instant::now();
        let mut prober = Prober::default();
        let round_trip = |prober: &mut Prober, second, millis| {
            let at = start + Duration::from_secs(second);
            prober.note_round_trip(at, Duration::from_millis(millis), at);
        };
        (0..4).for_each(|second| round_trip(&mut prober, second, 50));
        assert!(prober.knows_round_trip());
        prober.set_need(Some(2e6));
        let narrow = probe_by_report(&mut prober, 1e6, start + Duration::from_secs(4)).unwrap();
        assert!(!narrow.carries && (0.9e6..1.1e6).contains(&narrow.rate), "{narrow:?}");
        let wide = probe_by_report(&mut prober, 5e6, start + Duration::from_secs(10)).unwrap();
        assert!(wide.carries && wide.rate > 2e6, "{wide:?}");
        // The path that was found wide is full: the next probe waits.
        let now = start + Duration::from_secs(12);
        prober.note_full(now);
        assert_eq!(prober.poll_timeout(), Some(now + FIRST_DISTRUST));
        assert!(!prober.shows_queue(now));
        for second in [12, 13] {
            round_trip(&mut prober, second, 150);
        }
        assert!(prober.shows_queue(start + Duration::from_secs(13)));
        assert!(!prober.shows_queue(start + Duration::from_secs(17)));
    }

    #[test]
    fn nothing_is_probed_without_need_and_failures_make_pauses() {
        let start = Instant::now();
        let mut prober = Prober::default();
        assert_eq!(prober.poll(1e6, true, start), None);
        prober.set_need(Some(3e6));
        assert_eq!(prober.poll(4e6, true, start), None);
        assert_eq!(prober.poll(1e6, false, start), None);
        let mut times = Vec::new();
        for millis in 0..20_000u64 {
            let now = start + Duration::from_millis(millis);
            let is_new = prober.cluster.is_none();
            if prober.poll(1e6, true, now).is_some_and(|_| is_new) {
                times.push(millis);
            }
            // Everything that leaves is lost.
            prober.note_sent(290);
            assert_eq!(prober.take_result(now), None);
        }
        let pauses: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.is_sorted() && pauses[0] >= 1_900 && pauses.len() <= 6, "{pauses:?}");
    }
}
