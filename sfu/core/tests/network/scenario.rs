//! A row of a scenario table: networks, what happens when, and what must come of it.

use std::time::Duration;

use sfu_core::media::{MediaEvent, MediaKind, TrackKey, VideoQuality};

use crate::cross::{Cross, CrossConfig};
use crate::link::LinkConfig;
use crate::report::{Report, SAMPLE, Sample, Span, VideoReport, pauses};
use crate::scalable::Form;
use crate::subscriber::{FeedbackMode, Wanted};
use crate::world::World;

/// The audio track of every scenario; video tracks count up from [`VIDEO`].
const AUDIO: TrackKey = TrackKey(1);
const VIDEO: u64 = 10;

/// Seconds as a duration.
pub(crate) const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Milliseconds as a duration.
pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Something that happens.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// The way to the subscriber changes.
    Down(LinkConfig),
    /// Other traffic joins at the bottleneck, or ends.
    Cross(Option<CrossConfig>),
    /// What the subscriber wants of each video track; 0 as priority leaves it to the order.
    Want(Vec<(Option<VideoQuality>, u32)>),
    /// The publisher's encoder stops or resumes a layer.
    Layer(usize, bool),
}

/// What must be true at the end.
#[derive(Debug, Clone)]
pub(crate) enum Bound {
    /// No pause on the screen is longer, from this time on.
    NoFreezeOver(Duration, Duration),
    /// At most so many visible pauses from this time on.
    Freezes(usize, Duration),
    /// A picture of at least this layer is on the screen of a track in the span.
    LayerIn(usize, u8, Span),
    /// In the span, this share of pictures of a track has exactly this layer.
    Share(usize, u8, f64, Span),
    /// Fewest pictures a second of a track over the span.
    PicturesPerSecond(usize, f64, Span),
    /// Most layer changes of a track in the span.
    LayerChanges(usize, usize, Span),
    /// Smallest share of audio packets that are heard in the span.
    Audio(f64, Span),
    /// Longest silence in the span.
    Silence(Duration, Span),
    /// The bottleneck's queue is not longer than this for more than this share of the span.
    Queue(Duration, f64, Span),
    /// Received rate over the span, kbit/s.
    Rate(u64, u64, Span),
    /// Other traffic's rate over the span, kbit/s.
    CrossRate(u64, u64, Span),
    /// Every estimate told in the span, kbit/s.
    Estimate(u64, u64, Span),
    /// A track is announced as paused throughout the span.
    Paused(usize, Span),
    /// A track is never announced as paused in the span.
    Running(usize, Span),
    /// Median time from capture to screen in the span.
    Latency(usize, Duration, Span),
    /// Most key frame requests of the subscriber.
    KeyFrameRequests(u64),
    /// Most pictures of a track with a layer that has nothing to refer to.
    InVain(usize, u64),
}

/// A row.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) length: Duration,
    /// From publisher to engine.
    pub(crate) publisher: LinkConfig,
    /// How video is published.
    pub(crate) form: Form,
    /// From engine to subscriber, at the start.
    pub(crate) down: LinkConfig,
    /// The same of further subscribers, who want the same.
    pub(crate) others: Vec<LinkConfig>,
    /// From subscriber to engine.
    pub(crate) up: LinkConfig,
    pub(crate) feedback: FeedbackMode,
    pub(crate) has_rtx: bool,
    /// Subscribers decode in the order of numbers and ask once.
    pub(crate) in_order: bool,
    /// What the subscriber wants of each video track at the start.
    pub(crate) video: Vec<(Option<VideoQuality>, u32)>,
    pub(crate) timeline: Vec<(Duration, Event)>,
    /// Of each subscriber, by its number.
    pub(crate) bounds: Vec<(usize, Bound)>,
}

impl Scenario {
    /// One video track in its best quality and an audio track, over paths that only delay.
    pub(crate) fn new(name: &'static str, length: Duration) -> Self {
        Self {
            name,
            length,
            publisher: LinkConfig::clean(15),
            form: Form::Simulcast,
            down: LinkConfig::clean(20),
            others: Vec::new(),
            up: LinkConfig::clean(20),
            feedback: FeedbackMode::TransportWide(ms(100)),
            has_rtx: true,
            in_order: false,
            video: vec![(Some(VideoQuality::High), 0)],
            timeline: Vec::new(),
            bounds: Vec::new(),
        }
    }

    pub(crate) fn down(self, down: LinkConfig) -> Self {
        Self { down, ..self }
    }

    pub(crate) fn at(mut self, time: Duration, event: Event) -> Self {
        self.timeline.push((time, event));
        self
    }

    pub(crate) fn expect(self, bound: Bound) -> Self {
        self.expect_of(0, bound)
    }

    /// Bounds another subscriber than the first.
    pub(crate) fn expect_of(mut self, subscriber: usize, bound: Bound) -> Self {
        self.bounds.push((subscriber, bound));
        self
    }

    fn wanted(&self, video: &[(Option<VideoQuality>, u32)]) -> Vec<Wanted> {
        let audio = Wanted {
            track: AUDIO,
            kind: MediaKind::Audio,
            form: self.form,
            in_order: false,
            quality: Some(VideoQuality::High),
            priority: 0,
            has_rtx: false,
        };
        let video = video.iter().enumerate().map(|(index, (quality, priority))| Wanted {
            track: TrackKey(VIDEO + index as u64),
            kind: MediaKind::Video,
            form: self.form,
            in_order: self.in_order,
            quality: *quality,
            priority: *priority,
            has_rtx: self.has_rtx,
        });
        std::iter::once(audio).chain(video).collect()
    }

    /// Plays the scenario; a report for each subscriber.
    pub(crate) fn run(&self) -> Vec<Report> {
        let tracks = self.video.len() as u64;
        let seed =
            self.name.bytes().fold(7, |seed: u64, byte| seed * 31 % 1_000_003 + u64::from(byte));
        let mut world = World::new(seed);
        let video: Vec<TrackKey> = (0..tracks).map(|index| TrackKey(VIDEO + index)).collect();
        world.publish(&[AUDIO], (&video, self.form), self.publisher);
        let downs: Vec<LinkConfig> =
            std::iter::once(self.down).chain(self.others.iter().copied()).collect();
        for (subscriber, down) in downs.iter().enumerate() {
            world.subscribe(self.feedback, self.up, *down);
            world.want(subscriber, &self.wanted(&self.video));
        }
        let mut samples = vec![Vec::new(); downs.len()];
        let mut timeline = self.timeline.clone();
        timeline.sort_by_key(|(at, _)| *at);
        let mut timeline = timeline.into_iter().peekable();
        while world.elapsed() < self.length {
            while let Some((_, event)) = timeline.next_if(|(at, _)| *at <= world.elapsed()) {
                self.apply(&mut world, event);
            }
            world.run_until(world.elapsed() + SAMPLE);
            for (subscriber, samples) in samples.iter_mut().enumerate() {
                samples.push(self.sample(&world, subscriber));
            }
        }
        let reports = samples.into_iter().enumerate();
        reports.map(|(subscriber, samples)| self.report(&world, subscriber, samples)).collect()
    }

    fn apply(&self, world: &mut World, event: Event) {
        let now = world.now;
        let to = &mut world.subscribers[0];
        match event {
            Event::Down(config) => to.site.down.set(config, now),
            Event::Cross(config) => to.cross = config.map(|config| Cross::new(config, now)),
            Event::Want(video) => world.want(0, &self.wanted(&video)),
            Event::Layer(layer, is_on) => world.publishers[0].client.set_layer(layer, is_on),
        }
    }

    fn sample(&self, world: &World, subscriber: usize) -> Sample {
        let to = &world.subscribers[subscriber];
        let streams = &to.site.client.streams;
        let video = streams.iter().filter(|stream| stream.wanted.kind == MediaKind::Video);
        let estimate = world.events.iter().rev().find_map(|(_, event)| match event {
            MediaEvent::Statistics(told) if told.transport == to.site.endpoint.id => told.estimate,
            _ => None,
        });
        Sample {
            at: world.elapsed(),
            queue: to.site.down.queue_delay(),
            received: to.site.received,
            cross: to.cross.as_ref().map_or(0, |cross| cross.delivered),
            estimate,
            video: video
                .map(|stream| {
                    let layer = stream.playout.shown.last().map(|shown| shown.layer);
                    let of = (to.site.endpoint.id, stream.wanted.track);
                    let paused = pauses(&world.events, of, world.start, world.now);
                    (layer, paused.last().is_some_and(|(_, to)| *to == world.elapsed()))
                })
                .collect(),
            audio: (
                world.publishers[0].client.audio_sent.len() as u64,
                streams.iter().map(|stream| stream.heard.len() as u64).sum(),
            ),
        }
    }

    fn report(&self, world: &World, subscriber: usize, samples: Vec<Sample>) -> Report {
        let (start, end) = (world.start, world.now);
        let client = &world.subscribers[subscriber].site.client;
        let id = world.subscribers[subscriber].site.endpoint.id;
        let mut video = Vec::new();
        let mut audio_heard = Vec::new();
        for stream in &client.streams {
            if stream.wanted.kind == MediaKind::Audio {
                audio_heard = stream.heard.iter().map(|at| *at - start).collect();
                continue;
            }
            let pauses = pauses(&world.events, (id, stream.wanted.track), start, end);
            let announced = |from: Duration, length: Duration| {
                // Before the first picture after a pause a key frame has to come.
                pauses.iter().any(|(f, t)| *f < from + length && from < *t + ms(500))
            };
            let freezes = stream.playout.freezes(end);
            video.push(VideoReport {
                shown: stream.playout.shown.clone(),
                freezes: freezes
                    .into_iter()
                    .map(|(at, length)| (at - start, length))
                    .filter(|(at, length)| !announced(*at, *length))
                    .collect(),
                pauses,
                in_vain: stream.in_vain(),
            });
        }
        let estimates = world.events.iter().filter_map(|(at, event)| match event {
            MediaEvent::Statistics(told) if told.transport == id => {
                told.estimate.map(|estimate| (*at - start, estimate))
            }
            _ => None,
        });
        Report {
            start,
            samples,
            video,
            audio_sent: world.publishers[0]
                .client
                .audio_sent
                .iter()
                .map(|at| *at - start)
                .collect(),
            audio_heard,
            estimates: estimates.collect(),
            key_frame_requests: client.key_frame_requests,
        }
    }

    /// What is not as it must be.
    pub(crate) fn failures(&self, reports: &[Report]) -> Vec<String> {
        let check = |(subscriber, bound): &(usize, Bound)| {
            let failure = bound.check(&reports[*subscriber]).err()?;
            let many = reports.len() > 1;
            Some(if many { format!("subscriber {subscriber}: {failure}") } else { failure })
        };
        self.bounds.iter().filter_map(check).collect()
    }
}

impl Bound {
    /// Says what is wrong.
    fn check(&self, report: &Report) -> Result<(), String> {
        let (holds, found) = self.measure(report);
        if holds { Ok(()) } else { Err(format!("{self:?}: {found}")) }
    }

    /// Whether the bound holds, and what was found.
    fn measure(&self, report: &Report) -> (bool, String) {
        match *self {
            Self::NoFreezeOver(limit, from) => {
                let found = report.freezes(limit, from);
                (found.is_empty(), format!("{found:?}"))
            }
            Self::Freezes(most, from) => {
                let found = report.freezes(Duration::ZERO, from);
                (found.len() <= most, format!("{found:?}"))
            }
            Self::LayerIn(track, layer, span) => {
                let found = report.first_shown(track, layer, span);
                (found.is_some(), format!("{found:?}"))
            }
            Self::Share(track, layer, least, span) => {
                let share = report.layer_share(track, layer, span);
                (share >= least, format!("{share:.2}"))
            }
            Self::PicturesPerSecond(track, least, span) => {
                let rate =
                    report.shown(track, span).count() as f64 / (span.1 - span.0).as_secs_f64();
                (rate >= least, format!("{rate:.1}"))
            }
            Self::LayerChanges(track, most, span) => {
                let found = report.layer_changes(track, span);
                (found <= most, format!("{found}"))
            }
            Self::Audio(least, span) => {
                let share = report.audio_share(span);
                (share >= least, format!("{share:.4}"))
            }
            Self::Silence(most, span) => {
                let found = report.longest_silence(span);
                (found <= most, format!("{found:?}"))
            }
            Self::Queue(limit, most, span) => {
                let (share, longest) = report.queue_over(limit, span);
                (share <= most, format!("{share:.2} of the time, longest {longest:?}"))
            }
            Self::Rate(least, most, span) => in_range(report.rates(span).0, least, most),
            Self::CrossRate(least, most, span) => in_range(report.rates(span).1, least, most),
            Self::Estimate(least, most, span) => {
                let told = report.estimates_kbps(span);
                let fit = |kbps: &u64| (least..=most).contains(kbps);
                (!told.is_empty() && told.iter().all(fit), format!("{told:?} kbit/s"))
            }
            Self::Paused(track, (from, to)) => {
                let pauses = &report.video[track].pauses;
                (pauses.iter().any(|(f, t)| *f <= from && *t >= to), format!("{pauses:?}"))
            }
            Self::Running(track, (from, to)) => {
                let pauses = &report.video[track].pauses;
                (!pauses.iter().any(|(f, t)| *f < to && *t > from), format!("{pauses:?}"))
            }
            Self::Latency(track, most, span) => {
                let found = report.latency(track, span);
                (found.is_some_and(|found| found <= most), format!("{found:?}"))
            }
            Self::InVain(track, most) => {
                let found = report.video[track].in_vain;
                (found <= most, found.to_string())
            }
            Self::KeyFrameRequests(most) => {
                (report.key_frame_requests <= most, report.key_frame_requests.to_string())
            }
        }
    }
}

fn in_range(bps: f64, least: u64, most: u64) -> (bool, String) {
    let kbps = bps / 1000.0;
    ((least as f64..=most as f64).contains(&kbps), format!("{kbps:.0} kbit/s"))
}

/// Plays a table; fails with every bound of every row that does not hold.
pub(crate) fn play(table: Vec<Scenario>) {
    let mut failures = String::new();
    for scenario in table {
        let reports = scenario.run();
        let found = scenario.failures(&reports);
        if let Some(directory) = std::env::var_os("NETWORK_SERIES") {
            let name = scenario.name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            for (subscriber, report) in reports.iter().enumerate() {
                let file = format!("{name}-{subscriber}.csv");
                let lines =
                    found.iter().fold(String::new(), |text, line| text + "# " + line + "\n");
                let text = lines + &report.series();
                std::fs::write(std::path::Path::new(&directory).join(file), text).unwrap();
            }
        }
        if !found.is_empty() {
            failures += &format!("\n{}:\n  {}", scenario.name, found.join("\n  "));
        }
    }
    assert!(failures.is_empty(), "{failures}");
}
