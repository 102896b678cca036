//! What all sessions of a load received together.

use sfu_core::media::rtp::RtpHeader;

use crate::source::stamped;

/// Most latencies that are kept of a window.
const MAX_LATENCIES: usize = 1 << 20;

/// Packets by what they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// Media packets, without retransmissions and padding, and their bytes.
    pub(super) media: u64,
    pub(super) media_bytes: u64,
    /// Retransmissions and padding.
    pub(super) extra: u64,
    /// RTCP packets.
    pub(super) control: u64,
    /// RTP packets of sources that no description named.
    pub(super) unknown: u64,
    /// Decrypted samples, and those that were not authentic.
    pub(super) sampled: u64,
    pub(super) forged: u64,
}

impl Counters {
    /// What was counted after `start`.
    pub(super) fn since(&self, start: &Self) -> Self {
        Self {
            media: self.media - start.media,
            media_bytes: self.media_bytes - start.media_bytes,
            extra: self.extra - start.extra,
            control: self.control - start.control,
            unknown: self.unknown - start.unknown,
            sampled: self.sampled - start.sampled,
            forged: self.forged - start.forged,
        }
    }
}

/// Counts since the start, and latencies since [`Totals::begin_window`].
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) counters: Counters,
    /// From sending at the publisher to arrival, microseconds.
    latencies: Vec<u32>,
}

impl Totals {
    /// Forgets the latencies so far; returns the counts so far.
    pub(super) fn begin_window(&mut self) -> Counters {
        self.latencies.clear();
        self.counters
    }

    /// Counts a sample; `None` did not decrypt.
    pub(super) fn sample(&mut self, plain: Option<&[u8]>, nanos: u64) {
        self.counters.sampled += 1;
        let payload = plain.and_then(|plain| RtpHeader::parse(plain)?.payload(plain));
        let Some(payload) = payload else {
            self.counters.forged += 1;
            return;
        };
        if let Some(sent) = stamped(payload)
            && self.latencies.len() < MAX_LATENCIES
        {
            let micros = nanos.saturating_sub(sent) / 1000;
            self.latencies.push(u32::try_from(micros).unwrap_or(u32::MAX));
        }
    }

    /// Latency below which a share of the window's samples lies, microseconds.
    pub(super) fn latency(&mut self, share: f64) -> u32 {
        percentile(&mut self.latencies, share)
    }
}

/// The value below which `share` of `values` lie; 0 without values.
pub(super) fn percentile(values: &mut [u32], share: f64) -> u32 {
    values.sort_unstable();
    let at = (values.len() as f64 * share) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_values() {
        assert_eq!(percentile(&mut [], 0.5), 0);
        assert_eq!(percentile(&mut [3, 1, 2], 0.5), 2);
        assert_eq!(percentile(&mut [3, 1, 2], 0.99), 3);
    }

    #[test]
    fn a_sample_that_does_not_decrypt_is_counted() {
        let mut totals = Totals::default();
        totals.sample(None, 5);
        assert_eq!((totals.counters.sampled, totals.counters.forged), (1, 1));
    }
}
