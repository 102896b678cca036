//! Bit rates of the layers of one stream.

use std::time::{Duration, Instant};

use super::super::codec::{MAX_SPATIAL, MAX_TEMPORAL, PacketInfo};

/// Bytes are counted over this time.
const WINDOW: Duration = Duration::from_millis(500);
/// Weight of a new count in the mean: about two seconds count, so that the key frame which
/// every switch begins with does not make the layer look too large for what it was chosen by.
const NEWEST: f64 = 0.25;
/// A stream is looked at this long before its rate is believed.
const SETTLING: u32 = 2;

const SPATIAL: usize = MAX_SPATIAL as usize;
const TEMPORAL: usize = MAX_TEMPORAL as usize;

/// Rates of the spatial layers, each with what it needs of the layers below.
#[derive(Debug, Default)]
pub(super) struct LayerRates {
    since: Option<Instant>,
    bytes: [u64; SPATIAL],
    frames: [u32; TEMPORAL],
    /// Bits a second, smoothed.
    rates: [f64; SPATIAL],
    /// Frames a second of each temporal layer alone.
    frame_rates: [f64; TEMPORAL],
    /// Frames a second: rises at once, and falls slowly, since a window with a pause tells little.
    frame_rate: f64,
    windows: u32,
    spatial_layers: u8,
}

impl LayerRates {
    /// Counts a packet.
    pub(super) fn add(
        &mut self,
        info: &PacketInfo,
        ends_picture: bool,
        bytes: usize,
        now: Instant,
    ) {
        let since = *self.since.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= WINDOW {
            self.close(elapsed, now);
        }
        self.spatial_layers = self.spatial_layers.max((info.spatial + 1).min(MAX_SPATIAL));
        for (spatial, sum) in (0..MAX_SPATIAL).zip(&mut self.bytes) {
            if info.is_needed(spatial, MAX_TEMPORAL - 1) {
                *sum += bytes as u64;
            }
        }
        if ends_picture {
            self.frames[usize::from(info.temporal.min(MAX_TEMPORAL - 1))] += 1;
        }
    }

    fn close(&mut self, elapsed: Duration, now: Instant) {
        let seconds = elapsed.as_secs_f64();
        let weight = f64::max(NEWEST, 1.0 / f64::from(self.windows + 1));
        for (rate, bytes) in self.rates.iter_mut().zip(&mut self.bytes) {
            let counted = std::mem::take(bytes) as f64 * 8.0 / seconds;
            *rate += (counted - *rate) * weight;
        }
        for (rate, frames) in self.frame_rates.iter_mut().zip(&mut self.frames) {
            *rate = f64::from(std::mem::take(frames)) / seconds;
        }
        let counted = self.frame_rates.iter().sum::<f64>();
        let falling = self.frame_rate + (counted - self.frame_rate) * NEWEST;
        self.frame_rate = counted.max(falling);
        self.windows = (self.windows + 1).min(1 << 16);
        self.since = Some(now);
    }

    /// Bits a second up to a spatial layer, once known.
    pub(super) fn rate(&self, spatial: u8) -> Option<f64> {
        let rate = self.rates[usize::from(spatial.min(MAX_SPATIAL - 1))];
        (self.windows >= SETTLING).then_some(rate)
    }

    /// Spatial layers that were seen.
    pub(super) fn spatial_layers(&self) -> u8 {
        self.spatial_layers
    }

    /// Frames a second of all temporal layers, 0 until known.
    pub(super) fn frame_rate(&self) -> f64 {
        self.frame_rate
    }

    /// Highest temporal layer with which at most `limit` frames a second come, the lowest at
    /// least.
    pub(super) fn temporal_for(&self, limit: u32) -> u8 {
        // A rate is measured over half a second: a frame more or less is no reason.
        let limit = f64::from(limit) * 1.15 + 1.0;
        let mut sum = 0.0;
        let fits = |rate: &&f64| {
            sum += **rate;
            sum <= limit
        };
        let fitting = self.frame_rates.iter().take_while(fits).count();
        (fitting as u8).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_what_a_layer_needs() {
        let start = Instant::now();
        let mut rates = LayerRates::default();
        let layer = |spatial: u8, temporal: u8, needed| PacketInfo {
            spatial,
            temporal,
            needed,
            ..PacketInfo::default()
        };
        for frame in 0..60u32 {
            let now = start + Duration::from_millis(u64::from(frame) * 33);
            let temporal = (frame % 2) as u8;
            rates.add(&layer(0, temporal, u16::MAX), false, 100, now);
            rates.add(&layer(1, temporal, 0xFFF0), true, 300, now);
        }
        assert_eq!(rates.spatial_layers(), 2);
        let (low, high) = (rates.rate(0).unwrap(), rates.rate(1).unwrap());
        assert!((20_000.0..30_000.0).contains(&low), "{low}");
        assert!((3.9..4.1).contains(&(high / low)));
        assert_eq!([30, 20, 15, 5].map(|limit| rates.temporal_for(limit)), [3, 0, 0, 0]);
    }
}
