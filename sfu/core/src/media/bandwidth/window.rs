//! A rate over the last half second.

/// Parts of the window and the length of each, microseconds.
const PARTS: usize = 10;
const PART: i64 = 50_000;

/// Bytes in the last half second, in parts.
#[derive(Debug, Default)]
pub(super) struct RateWindow {
    parts: [u64; PARTS],
    /// Number of the newest part.
    newest: Option<i64>,
    first: i64,
}

impl RateWindow {
    /// Adds bytes at a time on a scale that never jumps back by much.
    pub(super) fn add(&mut self, micros: i64, bytes: usize) {
        self.advance(micros);
        let newest = self.newest.unwrap_or_default();
        let part = (micros / PART).max(newest - PARTS as i64 + 1);
        self.parts[part.rem_euclid(PARTS as i64) as usize] += bytes as u64;
    }

    /// Bits a second at `micros`; `None` before a fifth of the window has passed.
    pub(super) fn rate(&mut self, micros: i64) -> Option<f64> {
        self.newest?;
        self.advance(micros);
        self.latest_rate()
    }

    /// Bits a second at the newest time.
    pub(super) fn latest_rate(&self) -> Option<f64> {
        let newest = self.newest?;
        let covered = (newest - self.first + 1).min(PARTS as i64);
        if covered < PARTS as i64 / 5 {
            return None;
        }
        let bytes: u64 = self.parts.iter().sum();
        // The newest part is half full on average.
        let seconds = (covered as f64 - 0.5) * PART as f64 / 1e6;
        Some(bytes as f64 * 8.0 / seconds)
    }

    /// Bits a second in the busiest three parts in a row: while a queue grows, what the
    /// bottleneck lets through, however little was sent before.
    pub(super) fn peak_rate(&self) -> Option<f64> {
        let newest = self.newest?;
        let part = |number: i64| self.parts[number.rem_euclid(PARTS as i64) as usize];
        let first = self.first.max(newest - PARTS as i64 + 1);
        let sums = (first + 2..=newest).map(|last| (last - 2..=last).map(part).sum::<u64>());
        let bytes = sums.max()?;
        Some(bytes as f64 * 8e6 / (3 * PART) as f64)
    }

    fn advance(&mut self, micros: i64) {
        let part = micros / PART;
        let Some(newest) = self.newest else {
            (self.newest, self.first) = (Some(part), part);
            return;
        };
        for between in newest + 1..=part.min(newest + PARTS as i64) {
            self.parts[between.rem_euclid(PARTS as i64) as usize] = 0;
        }
        self.newest = Some(newest.max(part));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_the_peak() {
        let mut window = RateWindow::default();
        for millis in 0..1000 {
            window.add(millis * 1000, if millis < 700 { 10 } else { 125 });
        }
        let (mean, peak) = (window.latest_rate().unwrap(), window.peak_rate().unwrap());
        assert!((peak - 1e6).abs() < 0.05e6 && mean < 0.7e6, "{mean} {peak}");
    }

    #[test]
    fn a_steady_stream_has_its_rate_and_silence_has_none() {
        let mut window = RateWindow::default();
        window.add(0, 125);
        assert_eq!(window.latest_rate(), None);
        for millis in 1..2000 {
            window.add(millis * 1000, 125);
        }
        let rate = window.latest_rate().unwrap();
        assert!((rate - 1e6).abs() < 0.06e6, "{rate}");
        assert!(window.rate(3_000_000).unwrap() < 1.0);
    }
}
