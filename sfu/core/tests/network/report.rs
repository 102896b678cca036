//! What a scenario showed: samples over time, and questions about them.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use sfu_core::media::{MediaEvent, TrackKey, TransportId};

use crate::playout::Shown;

/// Time between samples.
pub(crate) const SAMPLE: Duration = Duration::from_millis(100);

/// The state at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// Since the start.
    pub(crate) at: Duration,
    /// How long a packet that comes now waits at the bottleneck.
    pub(crate) queue: Duration,
    /// Bytes that the subscriber received in all.
    pub(crate) received: u64,
    /// Bytes of other traffic that passed in all.
    pub(crate) cross: u64,
    /// Last estimate that the engine told, bit/s.
    pub(crate) estimate: Option<u64>,
    /// For each video track: layer on the screen, and whether the engine paused it.
    pub(crate) video: Vec<(Option<u8>, bool)>,
    /// Audio packets sent and heard in all.
    pub(crate) audio: (u64, u64),
}

/// How one video track went.
#[derive(Debug)]
pub(crate) struct VideoReport {
    pub(crate) shown: Vec<Shown>,
    /// Begin and length of pauses on the screen, without those that the engine announced.
    pub(crate) freezes: Vec<(Duration, Duration)>,
    /// Announced pauses.
    pub(crate) pauses: Vec<(Duration, Duration)>,
    /// Pictures with a layer that has nothing to refer to.
    pub(crate) in_vain: u64,
}

/// A scenario's outcome for its subscriber.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) start: Instant,
    pub(crate) samples: Vec<Sample>,
    pub(crate) video: Vec<VideoReport>,
    /// When audio packets were sent and heard.
    pub(crate) audio_sent: Vec<Duration>,
    pub(crate) audio_heard: Vec<Duration>,
    /// Estimates and when they were told.
    pub(crate) estimates: Vec<(Duration, u64)>,
    pub(crate) key_frame_requests: u64,
}

/// A span of a scenario.
pub(crate) type Span = (Duration, Duration);

impl Report {
    /// Layer changes on the screen in a span.
    pub(crate) fn layer_changes(&self, track: usize, (from, to): Span) -> usize {
        let layers: Vec<u8> = self.shown(track, (from, to)).map(|shown| shown.layer).collect();
        layers.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }

    /// Pictures in a span.
    pub(crate) fn shown(&self, track: usize, (from, to): Span) -> impl Iterator<Item = &Shown> {
        let (from, to) = (self.start + from, self.start + to);
        self.video[track].shown.iter().filter(move |shown| (from..to).contains(&shown.at))
    }

    /// Pauses on the screen that are longer than `limit`, from a time on.
    pub(crate) fn freezes(&self, limit: Duration, from: Duration) -> Vec<(Duration, Duration)> {
        let all = self.video.iter().flat_map(|video| video.freezes.iter().copied());
        all.filter(|(at, length)| *at >= from && *length > limit).collect()
    }

    /// Share of a span's pictures that have exactly this layer.
    pub(crate) fn layer_share(&self, track: usize, layer: u8, span: Span) -> f64 {
        let those = self.shown(track, span).filter(|shown| shown.layer == layer).count();
        those as f64 / self.shown(track, span).count().max(1) as f64
    }

    /// Median time from capture to screen in a span.
    pub(crate) fn latency(&self, track: usize, span: Span) -> Option<Duration> {
        let mut found: Vec<Duration> = self.shown(track, span).map(|shown| shown.latency).collect();
        found.sort_unstable();
        found.get(found.len() / 2).copied()
    }

    /// Estimates that were told in a span, kbit/s.
    pub(crate) fn estimates_kbps(&self, (from, to): Span) -> Vec<u64> {
        let told = self.estimates.iter().filter(|(at, _)| (from..to).contains(at));
        told.map(|(_, bps)| bps / 1000).collect()
    }

    /// When a picture of at least `layer` was first shown in a span.
    pub(crate) fn first_shown(&self, track: usize, layer: u8, span: Span) -> Option<Duration> {
        let found = self.shown(track, span).find(|shown| shown.layer >= layer)?;
        Some(found.at - self.start)
    }

    /// Bits a second that the subscriber received in a span, and those of other traffic.
    pub(crate) fn rates(&self, (from, to): Span) -> (f64, f64) {
        let near = |at: Duration| {
            self.samples
                .iter()
                .find(|sample| sample.at >= at)
                .or_else(|| self.samples.last())
                .unwrap()
        };
        let (first, last) = (near(from), near(to));
        let seconds = (last.at - first.at).as_secs_f64();
        let rate = |before: u64, after: u64| (after - before) as f64 * 8.0 / seconds;
        (rate(first.received, last.received), rate(first.cross, last.cross))
    }

    /// Share of audio packets sent in a span that were heard.
    pub(crate) fn audio_share(&self, (from, to): Span) -> f64 {
        let count = |times: &[Duration], shift: Duration| {
            times.iter().filter(|at| (from + shift..to + shift).contains(*at)).count()
        };
        let sent = count(&self.audio_sent, Duration::ZERO).max(1);
        // What was sent at the end is heard later: the path's delay hardly moves the share.
        count(&self.audio_heard, Duration::from_millis(60)) as f64 / sent as f64
    }

    /// Longest silence between audio packets in a span.
    pub(crate) fn longest_silence(&self, (from, to): Span) -> Duration {
        let heard: Vec<Duration> =
            self.audio_heard.iter().copied().filter(|at| (from..to).contains(at)).collect();
        heard.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(to - from)
    }

    /// The share of samples in a span whose queue is longer than `limit`, and the longest.
    pub(crate) fn queue_over(&self, limit: Duration, (from, to): Span) -> (f64, Duration) {
        let samples: Vec<Duration> = self
            .samples
            .iter()
            .filter(|sample| (from..to).contains(&sample.at))
            .map(|sample| sample.queue)
            .collect();
        let over = samples.iter().filter(|queue| **queue > limit).count();
        (over as f64 / samples.len().max(1) as f64, samples.into_iter().max().unwrap_or_default())
    }

    /// The samples as comma-separated values.
    pub(crate) fn series(&self) -> String {
        let mut out = String::from(
            "seconds,queue_ms,received_kbps,cross_kbps,estimate_kbps,audio_heard_percent,layers\n",
        );
        for pair in self.samples.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            let kbps = |before: u64, after: u64| {
                (after - before) as f64 * 8.0 / SAMPLE.as_secs_f64() / 1000.0
            };
            let (sent, heard) = (after.audio.0 - before.audio.0, after.audio.1 - before.audio.1);
            let layers: Vec<String> = after
                .video
                .iter()
                .map(|(layer, is_paused)| match (is_paused, layer) {
                    (true, _) => "paused".to_owned(),
                    (false, Some(layer)) => layer.to_string(),
                    (false, None) => "-".to_owned(),
                })
                .collect();
            let _ = writeln!(
                out,
                "{:.1},{},{:.0},{:.0},{},{},{}",
                after.at.as_secs_f64(),
                after.queue.as_millis(),
                kbps(before.received, after.received),
                kbps(before.cross, after.cross),
                after.estimate.map_or(0, |bps| bps / 1000),
                (100 * heard).checked_div(sent).unwrap_or(0),
                layers.join(" "),
            );
        }
        out
    }
}

/// Announced pauses of a track towards a subscriber until `end`.
pub(crate) fn pauses(
    events: &[(Instant, MediaEvent)],
    (to, track): (TransportId, TrackKey),
    start: Instant,
    end: Instant,
) -> Vec<(Duration, Duration)> {
    let mut found = Vec::new();
    let mut since = None;
    for (at, event) in events {
        if let MediaEvent::StreamState { transport, track: of, is_paused } = event
            && (*transport, *of) == (to, track)
        {
            match (since, is_paused) {
                (None, true) => since = Some(*at),
                (Some(from), false) => {
                    found.push((from - start, *at - start));
                    since = None;
                }
                (None, false) | (Some(_), true) => {}
            }
        }
    }
    found.extend(since.map(|from| (from - start, end - start)));
    found
}
