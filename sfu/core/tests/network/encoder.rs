//! The frame sizes of a real-time VP8 encoder at a constant bit rate: key frames are several
//! times larger than others and are paid back, three temporal layers differ in size.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Frames a second.
pub(crate) const FRAME_RATE: u64 = 30;
/// Temporal layer, whether it is a synchronization point, and its share of the mean size.
const PATTERN: [(u8, bool, f64); 4] =
    [(0, false, 1.6), (2, true, 0.7), (1, true, 1.0), (2, false, 0.7)];
/// Size of a key frame, in mean frames.
const KEY_FRAME: f64 = 5.0;
/// Share of the debt of a large frame that each following frame pays back.
const REPAYMENT: f64 = 0.08;

/// An encoded frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) is_key: bool,
    pub(crate) temporal: u8,
    pub(crate) is_sync: bool,
    /// Bytes.
    pub(crate) size: usize,
}

/// One simulcast layer's encoder.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// Bytes of a frame in the mean.
    mean: f64,
    rng: StdRng,
    position: usize,
    debt: f64,
    key_wanted: bool,
}

impl Encoder {
    pub(crate) fn new(kbps: u64, seed: u64) -> Self {
        Self {
            mean: kbps as f64 * 1000.0 / 8.0 / FRAME_RATE as f64,
            rng: StdRng::seed_from_u64(seed),
            position: 0,
            debt: 0.0,
            key_wanted: true,
        }
    }

    /// The next frame is to be a key frame.
    pub(crate) fn request_key_frame(&mut self) {
        self.key_wanted = true;
    }

    pub(crate) fn encode(&mut self) -> Encoded {
        let is_key = std::mem::take(&mut self.key_wanted);
        if is_key {
            self.position = 0;
        }
        let (temporal, is_sync, share) = PATTERN[self.position % PATTERN.len()];
        self.position += 1;
        let noise = self.rng.random_range(0.75..1.25);
        let share = if is_key { KEY_FRAME } else { share };
        let repaid = if is_key { 0.0 } else { self.debt * REPAYMENT };
        let wanted = self.mean * share * noise;
        let size = (wanted - repaid).max(wanted * 0.4);
        self.debt += size - self.mean * if is_key { 1.0 } else { share };
        Encoded { is_key, temporal, is_sync, size: size as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_over_key_frames() {
        let mut encoder = Encoder::new(1000, 1);
        let mut bytes = 0;
        for frame in 0..30 * 20 {
            if frame % 150 == 0 {
                encoder.request_key_frame();
            }
            let encoded = encoder.encode();
            assert_eq!(encoded.is_key, frame % 150 == 0);
            bytes += encoded.size;
        }
        let kbps = bytes as f64 * 8.0 / 20.0 / 1000.0;
        assert!((900.0..1100.0).contains(&kbps), "{kbps}");
    }
}
