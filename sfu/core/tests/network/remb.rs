//! Receiver estimated maximum bitrate (draft-alvestrand-rmcat-remb-03): what a receiver without
//! transport-wide feedback tells the sender.
//!
//! A libwebrtc receiver finds congestion in the spacing of packets; here the link says how long
//! each waited, and the reaction is the one of draft-ietf-rmcat-gcc-02 section 5.5: 85 % of what
//! arrived when the queue grows, else eight percent more each second.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What counts as a queue.
const CONGESTED: Duration = Duration::from_millis(40);
/// Over how long the received rate is measured.
const WINDOW: Duration = Duration::from_millis(500);
/// Time between messages.
pub(crate) const INTERVAL: Duration = Duration::from_millis(200);

/// The estimate of one receiver.
#[derive(Debug)]
pub(crate) struct Remb {
    received: VecDeque<(Instant, usize)>,
    first: Option<Instant>,
    worst: Duration,
    last_worst: Duration,
    bps: f64,
}

impl Remb {
    pub(crate) fn new() -> Self {
        Self {
            received: VecDeque::new(),
            first: None,
            worst: Duration::ZERO,
            last_worst: Duration::ZERO,
            bps: 300_000.0,
        }
    }

    /// Notes a packet of `bytes` that waited for `queued`.
    pub(crate) fn received(&mut self, bytes: usize, queued: Duration, now: Instant) {
        self.first.get_or_insert(now);
        self.received.push_back((now, bytes));
        self.worst = self.worst.max(queued);
        while self.received.front().is_some_and(|(at, _)| now - *at > WINDOW) {
            self.received.pop_front();
        }
    }

    /// The message for the streams `media`, every [`INTERVAL`] once there is a rate.
    pub(crate) fn poll(&mut self, sender: u32, media: &[u32], now: Instant) -> Option<Vec<u8>> {
        self.first.filter(|first| now - *first >= WINDOW)?;
        let bytes: usize = self.received.iter().map(|(_, bytes)| bytes).sum();
        let rate = bytes as f64 * 8.0 / WINDOW.as_secs_f64();
        let worst = std::mem::take(&mut self.worst);
        let before = std::mem::replace(&mut self.last_worst, worst);
        if worst > CONGESTED && worst > before {
            self.bps = self.bps.min(0.85 * rate);
        } else if worst <= CONGESTED {
            let grown = self.bps * 1.08f64.powf(INTERVAL.as_secs_f64());
            self.bps = grown.min(1.5 * rate + 10_000.0).max(self.bps.min(grown));
        }
        self.bps = self.bps.max(50_000.0);
        Some(write(sender, media, self.bps as u64))
    }
}

/// Payload-specific feedback of format 15: `REMB`, a count, a rate of 18 bits with an exponent
/// of 6, and the streams.
fn write(sender: u32, media: &[u32], bps: u64) -> Vec<u8> {
    let exponent = (64 - bps.leading_zeros()).saturating_sub(18);
    let mantissa = (bps >> exponent) as u32;
    let words = 4 + media.len() as u16;
    let mut out = vec![0x8F, 206];
    out.extend_from_slice(&words.to_be_bytes());
    out.extend_from_slice(&sender.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(b"REMB");
    let word = (media.len() as u32) << 24 | exponent << 18 | mantissa;
    out.extend_from_slice(&word.to_be_bytes());
    for ssrc in media {
        out.extend_from_slice(&ssrc.to_be_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_written_with_its_exponent() {
        let packet = write(1, &[7, 8], 1_000_000);
        assert_eq!((packet.len(), packet[2..4].to_vec()), (28, vec![0, 6]));
        // 1,000,000 is 250,000 × 2².
        assert_eq!(packet[16..20], (2u32 << 24 | 2 << 18 | 250_000).to_be_bytes());
    }
}
