//! When pictures are shown: a playout delay that follows the network's jitter, as libwebrtc's
//! does, and the freezes that remain.

use std::time::{Duration, Instant};

/// Most playout delay.
const MAX_DELAY: Duration = Duration::from_millis(500);
/// Share of the playout delay that each picture gives back.
const DECAY: f64 = 0.002;
/// How fast the shortest transit is forgotten, so that the clock of another layer or a longer
/// path is followed: seconds a second.
const DRIFT: f64 = 0.005;
/// A pause that is longer than expected by this is seen as a freeze.
const VISIBLE: Duration = Duration::from_millis(150);

/// A picture on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) at: Instant,
    pub(crate) layer: u8,
    /// From capture to screen.
    pub(crate) latency: Duration,
}

/// Playout of one stream.
#[derive(Debug)]
pub(crate) struct Playout {
    start: Instant,
    /// Shortest transit that was seen lately, seconds.
    base: Option<(f64, Instant)>,
    delay: f64,
    pub(crate) shown: Vec<Shown>,
}

impl Playout {
    pub(crate) fn new(start: Instant) -> Self {
        Self { start, base: None, delay: 0.03, shown: Vec::new() }
    }

    /// A picture that was captured at `captured_ms` is decoded at `now`.
    pub(crate) fn show(&mut self, captured_ms: u32, layer: u8, now: Instant) {
        let captured = self.start + Duration::from_millis(u64::from(captured_ms));
        let transit = (now - captured).as_secs_f64();
        let base = match self.base {
            Some((base, at)) => transit.min(base + DRIFT * (now - at).as_secs_f64()),
            None => transit,
        };
        self.base = Some((base, now));
        let excess = transit - base;
        self.delay = (self.delay * (1.0 - DECAY)).max(excess).min(MAX_DELAY.as_secs_f64());
        let due = captured + Duration::from_secs_f64(base + self.delay);
        let at = due.max(now).max(self.shown.last().map_or(now, |last| last.at));
        self.shown.push(Shown { at, layer, latency: at - captured });
    }

    /// Pauses between pictures: begin and length of those longer than expected by [`VISIBLE`].
    pub(crate) fn freezes(&self, end: Instant) -> Vec<(Instant, Duration)> {
        let mut expected = 0.034;
        let mut found = Vec::new();
        let times = self.shown.iter().map(|shown| shown.at).chain([end]);
        for (from, to) in self.shown.iter().map(|shown| shown.at).zip(times.skip(1)) {
            let gap = to - from;
            if gap > Duration::from_secs_f64(expected) + VISIBLE {
                found.push((from, gap));
            } else {
                expected += (gap.as_secs_f64() - expected) / 30.0;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "virtual time begins at some real moment")]
    fn jitter_is_absorbed_and_a_pause_is_a_freeze() {
        let start = Instant::now();
        let mut playout = Playout::new(start);
        let at = |ms: u32| start + Duration::from_millis(u64::from(ms));
        for frame in 0..300u32 {
            playout.show(33 * frame, 0, at(33 * frame + 20 + frame * 37 % 60));
        }
        let (end, resumed) = (33 * 299, 33 * 299 + 1200);
        assert_eq!(playout.freezes(at(end)), []);
        playout.show(resumed - 20, 0, at(resumed));
        let freezes = playout.freezes(at(resumed));
        assert_eq!(freezes.len(), 1);
        assert!(freezes[0].1 > Duration::from_secs(1), "{freezes:?}");
    }
}
