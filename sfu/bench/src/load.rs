//! The load of one run: joins everybody, lets media flow, and counts what arrives while it
//! reads the server's CPU time. Runs in a network namespace of its own.

mod data;
mod dtls;
mod media;
mod publisher;
mod sdp;
mod session;
mod signal;
pub(crate) mod socket;
mod stun;
mod totals;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use contract::access_token::ApiKeys;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::workload::{self, Scenario, quality};
use e2e::bench::Usage;
use media::{Media, Published};
use signal::{Role, Signalling};
use totals::percentile;

/// Patience with a starting server.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// Patience after the last join.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Time that servers get to bring every subscriber to its layer.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Media is settled when so much of it arrives in one [`SETTLE_STEP`].
const SETTLED: f64 = 0.98;
const SETTLE_STEP: Duration = Duration::from_secs(1);
/// Nothing is sent for so long before and after a window, so that counts at both ends match.
const QUIET: Duration = Duration::from_millis(250);
/// Idle subscribers are left alone for so long before memory is read.
const IDLE_SETTLE: Duration = Duration::from_secs(3);

/// What the load is.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub(crate) struct LoadArgs {
    /// Name of the workload.
    #[arg(long)]
    pub(crate) workload: String,
    /// Its size.
    #[arg(long)]
    pub(crate) size: usize,
    /// Address of the signal port.
    #[arg(long)]
    pub(crate) server: SocketAddr,
    /// Process whose CPU time and memory are read.
    #[arg(long)]
    pub(crate) server_pid: u32,
    /// API key of both servers.
    #[arg(long)]
    pub(crate) key: String,
    /// Its secret.
    #[arg(long)]
    pub(crate) secret: String,
    /// Length of the window.
    #[arg(long)]
    pub(crate) seconds: f64,
    /// Joins a second.
    #[arg(long)]
    pub(crate) pace: f64,
    /// Let the kernel split what the server sends at once.
    #[arg(long)]
    pub(crate) no_gro: bool,
}

/// What came out of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct LoadReport {
    /// Participants that joined and connected, of how many.
    pub(crate) joined: usize,
    pub(crate) participants: usize,
    /// An error of one that did not.
    pub(crate) join_error: Option<String>,
    /// Media packets that the window's publishing asked for at the receivers, and how many came.
    pub(crate) expected: u64,
    pub(crate) delivered: u64,
    /// Frames that publishers sent, of what their frame rates ask for.
    pub(crate) paced: f64,
    /// Media packets at the receivers, their bytes, and other RTP and RTCP packets.
    pub(crate) datagrams: u64,
    pub(crate) bytes: u64,
    pub(crate) extra: u64,
    pub(crate) control: u64,
    /// RTP of sources that were never described.
    pub(crate) unknown: u64,
    pub(crate) sampled: u64,
    pub(crate) forged: u64,
    /// Length of the window.
    pub(crate) seconds: f64,
    /// CPU time of the server in the window, microseconds.
    pub(crate) server_cpu_us: f64,
    /// The same of this process.
    pub(crate) load_cpu_us: f64,
    /// Resident memory of the server before the joins and at the end, bytes.
    pub(crate) memory_before: u64,
    pub(crate) memory_after: u64,
    /// From publisher to subscriber, microseconds.
    pub(crate) latency_p50_us: u32,
    pub(crate) latency_p99_us: u32,
    /// From the beginning of a join to the first whole frame, milliseconds.
    pub(crate) first_frame_p50_ms: u32,
    pub(crate) first_frame_p99_ms: u32,
}

impl LoadReport {
    /// Share of the expected packets that came; 1 when none were expected.
    pub(crate) fn delivered_share(&self) -> f64 {
        if self.expected == 0 { 1.0 } else { self.delivered as f64 / self.expected as f64 }
    }

    /// Server CPU, microseconds a media packet at the receivers.
    pub(crate) fn cost(&self) -> f64 {
        self.server_cpu_us / self.datagrams.max(1) as f64
    }
}

/// Runs the load and gives its report.
pub(crate) fn run(args: &LoadArgs) -> Result<LoadReport> {
    let workload = workload::named(&args.workload).context("no such workload")?;
    let scenario = workload.scenario(args.size);
    let mut media = Media::new(scenario.participants.len(), !args.no_gro)?;
    wait_for_server(args.server)?;
    let before = Usage::of(args.server_pid)?;
    let signalling = Signalling {
        server: args.server,
        keys: ApiKeys::from_iter([(args.key.clone(), args.secret.clone())]),
        fingerprint: media.dtls.fingerprint,
        media: media.sender(),
        pace: args.pace,
        cameras: Mutex::default(),
    };
    let joining = scenario.clone();
    // It ends with the process.
    std::thread::Builder::new()
        .name("signalling".to_owned())
        .spawn(move || signalling.run(&joining))?;

    let mut report = LoadReport {
        participants: scenario.participants.len(),
        memory_before: before.memory,
        ..LoadReport::default()
    };
    let patience = Duration::from_secs_f64(scenario.participants.len() as f64 / args.pace);
    let is_complete = media.run(Instant::now() + patience + CONNECT_TIMEOUT, |media| {
        connected(media, &scenario) == scenario.participants.len() || !media.failed.is_empty()
    })?;
    report.joined = connected(&media, &scenario);
    report.join_error = media.failed.values().next().cloned();
    if !is_complete || report.join_error.is_some() {
        return Ok(report);
    }
    if workload.is_idle() {
        media.run_for(IDLE_SETTLE)?;
    } else {
        settle(&mut media, &scenario)?;
    }
    measure(&mut media, &scenario, args, &mut report)?;
    report.joined = connected(&media, &scenario);
    report.join_error = media.failed.values().next().cloned();
    Ok(report)
}

/// Waits until the server listens, and a moment for what it does at its start.
fn wait_for_server(server: SocketAddr) -> Result<()> {
    let end = Instant::now() + START_TIMEOUT;
    while let Err(error) = TcpStream::connect_timeout(&server, START_TIMEOUT) {
        ensure!(Instant::now() < end, "the server does not listen on {server}: {error}");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(QUIET);
    Ok(())
}

/// Participants all of whose transports are connected.
fn connected(media: &Media, scenario: &Scenario) -> usize {
    let is_up = |index: usize, role: Role| {
        media.session((index, role)).is_some_and(session::Session::is_connected)
    };
    let participants = scenario.participants.iter().enumerate();
    participants
        .filter(|(index, participant)| {
            (participant.publishes.is_empty() || is_up(*index, Role::Publisher))
                && (!participant.subscribes || is_up(*index, Role::Subscriber))
        })
        .count()
}

/// Runs until nearly all that is published arrives where it should, or patience ends: the
/// window will tell.
fn settle(media: &mut Media, scenario: &Scenario) -> Result<()> {
    let end = Instant::now() + SETTLE_TIMEOUT;
    while Instant::now() < end {
        let start = Counts::of(media);
        media.run_for(SETTLE_STEP)?;
        let (expected, delivered) = Counts::of(media).since(&start).compare(scenario);
        if expected > 0 && delivered as f64 >= expected as f64 * SETTLED {
            return Ok(());
        }
    }
    Ok(())
}

fn measure(
    media: &mut Media,
    scenario: &Scenario,
    args: &LoadArgs,
    report: &mut LoadReport,
) -> Result<()> {
    media.set_publishing(false);
    media.run_for(QUIET)?;
    let start = Counts::of(media);
    let (server, load) = (Usage::of(args.server_pid)?, Usage::of(std::process::id())?);
    let totals = media.totals.begin_window();
    media.set_publishing(true);
    let began = Instant::now();
    media.run_for(Duration::from_secs_f64(args.seconds))?;
    media.set_publishing(false);
    report.seconds = began.elapsed().as_secs_f64();
    media.run_for(QUIET)?;
    let (server_end, load_end) = (Usage::of(args.server_pid)?, Usage::of(std::process::id())?);
    let counts = Counts::of(media).since(&start);
    media.set_publishing(true);

    (report.expected, report.delivered) = counts.compare(scenario);
    report.paced = counts.paced(report.seconds);
    report.server_cpu_us = server_end.cpu_us - server.cpu_us;
    report.load_cpu_us = load_end.cpu_us - load.cpu_us;
    report.memory_after = server_end.memory;
    let window = media.totals.counters.since(&totals);
    report.datagrams = window.media;
    report.bytes = window.media_bytes;
    report.extra = window.extra;
    report.control = window.control;
    report.unknown = window.unknown;
    report.sampled = window.sampled;
    report.forged = window.forged;
    report.latency_p50_us = media.totals.latency(0.5);
    report.latency_p99_us = media.totals.latency(0.99);
    let mut first: Vec<u32> = media
        .sessions()
        .filter_map(session::Session::first_frame)
        .map(|time| u32::try_from(time.as_millis()).unwrap_or(u32::MAX))
        .collect();
    report.first_frame_p50_ms = percentile(&mut first, 0.5);
    report.first_frame_p99_ms = percentile(&mut first, 0.99);
    Ok(())
}

/// Packets by track at both ends.
#[derive(Debug, Default)]
struct Counts {
    published: BTreeMap<(String, usize), Published>,
    /// By participant and track id.
    received: BTreeMap<(usize, String), u64>,
    /// Which tracks a participant publishes.
    tracks: BTreeMap<usize, Vec<String>>,
}

impl Counts {
    fn of(media: &Media) -> Self {
        let mut counts = Self { published: media.published(), ..Self::default() };
        for (participant, session) in media.numbered_sessions() {
            for stream in &session.streams {
                let key = (participant, stream.track_sid.clone());
                *counts.received.entry(key).or_default() += stream.packets;
            }
            for layer in &session.publisher.layers {
                let tracks = counts.tracks.entry(participant).or_default();
                if !tracks.contains(&layer.sid) {
                    tracks.push(layer.sid.clone());
                }
            }
        }
        counts
    }

    fn since(mut self, start: &Self) -> Self {
        for (key, published) in &mut self.published {
            let before = start.published.get(key).copied().unwrap_or_default();
            published.packets -= before.packets;
            published.frames -= before.frames;
        }
        for (key, packets) in &mut self.received {
            *packets -= start.received.get(key).copied().unwrap_or_default();
        }
        self
    }

    /// Packets that should have arrived and that did; more than expected of a track, as of a
    /// larger layer than asked for, do not make up for others.
    fn compare(&self, scenario: &Scenario) -> (u64, u64) {
        let (mut expected, mut delivered) = (0, 0);
        for (index, publisher) in scenario.participants.iter().enumerate() {
            let Some(sids) = self.tracks.get(&index) else { continue };
            for (media, sid) in publisher.publishes.iter().zip(sids) {
                for (at, other) in scenario.participants.iter().enumerate() {
                    if at == index || !other.subscribes || other.room != publisher.room {
                        continue;
                    }
                    let layer = media.layer_of(quality(other.seat, publisher.seat));
                    let sent = self.published.get(&(sid.clone(), layer));
                    let sent = sent.map_or(0, |published| published.packets);
                    let got = self.received.get(&(at, sid.clone())).copied().unwrap_or_default();
                    expected += sent;
                    delivered += got.min(sent);
                }
            }
        }
        (expected, delivered)
    }

    /// Frames that were sent, of those that the frame rates ask for.
    fn paced(&self, seconds: f64) -> f64 {
        let layers = self.published.values();
        let wanted: f64 = layers.clone().map(|layer| f64::from(layer.frame_rate) * seconds).sum();
        let sent: f64 = layers.map(|layer| layer.frames as f64).sum();
        if wanted == 0.0 { 1.0 } else { sent / wanted }
    }
}
