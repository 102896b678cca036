//! One received RTP stream: which packets are missing and when to ask for them again, and what
//! a receiver report says of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sfu_core::media::rtcp::ReportBlock;
use sfu_core::media::rtp::Unwrapper;

/// Most requests for a packet, as libwebrtc has it.
const MAX_REQUESTS: u8 = 10;
/// Most packets that are waited for; more is left to a key frame.
const MAX_MISSING: usize = 1000;

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// New, under this extended number.
    New(u64),
    /// Came before.
    Known,
    /// New, but more is missing than can be asked for.
    Overrun(u64),
}

#[derive(Debug, Clone, Copy)]
struct Missing {
    next: Instant,
    requests: u8,
}

/// Reception of one stream.
#[derive(Debug)]
pub(crate) struct Reception {
    pub(crate) ssrc: u32,
    clock_rate: f64,
    unwrapper: Unwrapper,
    received: BTreeMap<u64, ()>,
    first: Option<u64>,
    count: u64,
    missing: BTreeMap<u64, Missing>,
    /// Expected and received at the last report.
    reported: (u64, u64),
    transit: Option<f64>,
    jitter: f64,
    last_sender_report: Option<(u32, Instant)>,
    pub(crate) last_packet: Option<Instant>,
}

impl Reception {
    pub(crate) fn new(ssrc: u32, clock_rate: u32) -> Self {
        Self {
            ssrc,
            clock_rate: f64::from(clock_rate),
            unwrapper: Unwrapper::default(),
            received: BTreeMap::new(),
            first: None,
            count: 0,
            missing: BTreeMap::new(),
            reported: (0, 0),
            transit: None,
            jitter: 0.0,
            last_sender_report: None,
            last_packet: None,
        }
    }

    /// Takes a packet; `repaired` when it came as a retransmission. `now` counts from `start`.
    pub(crate) fn take(
        &mut self,
        sequence: u16,
        timestamp: u32,
        repaired: bool,
        start: Instant,
        now: Instant,
    ) -> Arrival {
        let highest = self.unwrapper.highest();
        let index = self.unwrapper.unwrap(sequence);
        if self.received.insert(index, ()).is_some() {
            return Arrival::Known;
        }
        if self.received.len() > 4096 {
            self.received.pop_first();
        }
        self.count += 1;
        self.missing.remove(&index);
        self.first = Some(self.first.map_or(index, |first| first.min(index)));
        self.last_packet = Some(now);
        if !repaired {
            let transit = (now - start).as_secs_f64() * self.clock_rate - f64::from(timestamp);
            if let Some(last) = self.transit.replace(transit) {
                let difference = (transit - last).abs();
                if difference < self.clock_rate {
                    self.jitter += (difference - self.jitter) / 16.0;
                }
            }
        }
        if let Some(highest) = highest.filter(|highest| *highest < index) {
            if index - highest > MAX_MISSING as u64 {
                self.missing.clear();
                return Arrival::Overrun(index);
            }
            let missing = Missing { next: now, requests: 0 };
            self.missing.extend((highest + 1..index).map(|index| (index, missing)));
            if self.missing.len() > MAX_MISSING {
                self.missing.clear();
                return Arrival::Overrun(index);
            }
        }
        Arrival::New(index)
    }

    /// Numbers that have not come.
    pub(crate) fn missing(&self) -> impl Iterator<Item = u64> {
        self.missing.keys().copied()
    }

    /// What to ask for at `now`; again after `round_trip`.
    pub(crate) fn due(&mut self, round_trip: Duration, now: Instant) -> Vec<u16> {
        let mut due = Vec::new();
        for (index, missing) in &mut self.missing {
            if missing.next <= now {
                due.push(*index as u16);
                missing.requests += 1;
                missing.next = now + round_trip;
            }
        }
        self.missing.retain(|_, missing| missing.requests < MAX_REQUESTS);
        due
    }

    /// Notes the sender's clock.
    pub(crate) fn handle_sender_report(&mut self, ntp: u64, now: Instant) {
        self.last_sender_report = Some(((ntp >> 16) as u32, now));
    }

    /// The block of a receiver report, once something came.
    pub(crate) fn report(&mut self, now: Instant) -> Option<ReportBlock> {
        let (first, highest) = (self.first?, self.unwrapper.highest()?);
        let expected = highest - first + 1;
        let (expected_now, received_now) =
            (expected - self.reported.0, self.count.saturating_sub(self.reported.1));
        self.reported = (expected, self.count);
        let lost_now = expected_now.saturating_sub(received_now);
        let fraction = (lost_now * 256).checked_div(expected_now).unwrap_or(0).min(255);
        let (last_sender_report, delay_since) = self
            .last_sender_report
            .map_or((0, 0), |(ntp, at)| (ntp, ((now - at).as_secs_f64() * 65_536.0) as u32));
        Some(ReportBlock {
            ssrc: self.ssrc,
            fraction_lost: fraction as u8,
            cumulative_lost: expected.saturating_sub(self.count) as u32,
            highest_sequence: (highest - (1 << 16)) as u32,
            jitter: self.jitter as u32,
            last_sender_report,
            delay_since,
        })
    }
}
