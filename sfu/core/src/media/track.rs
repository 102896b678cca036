//! A published track in the engine: its layers and the subscribers it goes to.

use std::time::Instant;

use super::codec::MAX_SPATIAL;
use super::engine::WorkerIndex;
use super::layer::Layer;
use super::parameters::{AudioLevel, Codec, VideoQuality};
use super::sender::Selection;
use super::{Receiver, RoomKey, TrackKey, TransportId};

/// Packets louder than this count as voice: dB below overload, LiveKit's threshold.
const ACTIVE_DBOV: u8 = 35;
/// Most layers of a track.
pub(super) const MAX_LAYERS: usize = 3;

/// A subscriber's sender: index of the transport and of the sender in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) transport: usize,
    pub(super) sender: usize,
}

/// Where the packets of a track come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The publisher's transport, by its index.
    Transport(usize),
    /// The engine of another worker.
    Sibling(WorkerIndex),
    /// A track of another room, on this engine or at another node.
    Mirror {
        /// Which one.
        of: TrackKey,
        /// Who has it in its room: a participant without a transport.
        owner: TransportId,
    },
}

/// A published track.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) room: RoomKey,
    /// Where its packets come from.
    pub(super) source: Source,
    /// Workers whose engines take part.
    pub(super) exports: Vec<WorkerIndex>,
    pub(super) config: Receiver,
    pub(super) layers: Vec<Layer>,
    /// Which layers send, as of the last look.
    pub(super) active: Vec<bool>,
    pub(super) routes: Vec<Route>,
    /// Forwarded at all: among the loudest where only those are.
    pub(super) is_audible: bool,
    loudness: Loudness,
    /// In the engine's list of tracks that may have to ask for something.
    pub(super) is_restless: bool,
    /// A subscriber may wait for a key frame.
    pub(super) may_wait: bool,
    level: LevelMeter,
}

/// Smoothed loudness.
#[derive(Debug, Default)]
struct Loudness {
    /// dB above silence (127 dB below overload).
    level: f64,
    at: Option<Instant>,
}

/// Weight of a new packet in the loudness, when it is louder and when it is not: a voice is heard
/// at once and keeps its place through a pause.
const ATTACK: f64 = 0.5;
const RELEASE: f64 = 0.03;
/// A track without packets for this long is silent.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// Bits a second that are assumed of sound until they are known.
const ASSUMED_AUDIO: f64 = 40e3;
/// Bits a second that are assumed of a video layer until they are known, in rising quality.
const ASSUMED_RATES: [f64; 3] = [150e3, 500e3, 1_700e3];

#[derive(Debug)]
struct LevelMeter {
    loudest_dbov: u8,
    packets: u32,
    active_packets: u32,
    /// Something was told last time.
    told: bool,
}

/// What is told of a track that stopped.
const SILENCE: AudioLevel = AudioLevel { loudest_dbov: 127, active_percent: 0 };

impl Default for LevelMeter {
    fn default() -> Self {
        Self { loudest_dbov: 127, packets: 0, active_packets: 0, told: false }
    }
}

impl Track {
    /// A track that has not sent yet.
    pub(super) fn new(room: RoomKey, source: Source, config: Receiver) -> Self {
        let count = config.rids.len().max(config.ssrcs.len()).clamp(1, MAX_LAYERS);
        let layers = (0..count).map(|_| Layer::new(config.kind)).collect();
        Self {
            room,
            source,
            exports: Vec::new(),
            config,
            layers,
            active: vec![false; count],
            routes: Vec::new(),
            is_audible: true,
            loudness: Loudness::default(),
            is_restless: false,
            may_wait: false,
            level: LevelMeter::default(),
        }
    }

    /// Takes a changed description; layers that have sent go on.
    pub(super) fn update(&mut self, config: Receiver) {
        let count = config.rids.len().max(config.ssrcs.len()).clamp(1, MAX_LAYERS);
        while self.layers.len() < count {
            self.layers.push(Layer::new(config.kind));
            self.active.push(false);
        }
        self.config = config;
    }

    /// Index and parameters of the codec with this payload type; for a retransmission's type,
    /// those of what is retransmitted.
    pub(super) fn codec(&self, payload_type: u8, is_rtx: bool) -> Option<(u8, &Codec)> {
        let fits = |codec: &Codec| match is_rtx {
            true => codec.rtx_payload_type == Some(payload_type),
            false => codec.payload_type == payload_type,
        };
        let index = self.config.codecs.iter().position(fits)?;
        Some((index as u8, &self.config.codecs[index]))
    }

    /// Looks again which layers send; `true` when that changed.
    pub(super) fn refresh_active(&mut self, now: Instant) -> bool {
        let newest = self.layers.iter().filter_map(Layer::last_packet).max();
        let mut has_changed = false;
        for (active, layer) in self.active.iter_mut().zip(&self.layers) {
            let is_active = layer.is_active(newest, now);
            has_changed |= *active != is_active;
            *active = is_active;
        }
        has_changed
    }

    /// Whether something is to be asked of the publisher.
    pub(super) fn has_requests(&self) -> bool {
        self.may_wait || self.layers.iter().any(Layer::is_restless)
    }

    /// What a subscriber who wants `quality` may get, in rising quality, with bits a second.
    /// Empty while nothing comes.
    pub(super) fn steps(
        &self,
        quality: VideoQuality,
        frame_rate: Option<u32>,
    ) -> Vec<(Selection, f64)> {
        let streams = self.layers.len();
        let top = |count: usize| match quality {
            VideoQuality::Low => 0,
            VideoQuality::Medium => 1.min(count - 1),
            VideoQuality::High => count - 1,
        };
        let assumed = |index: usize, count: usize| {
            ASSUMED_RATES[if count == 1 { 1 } else { index.min(ASSUMED_RATES.len() - 1) }]
        };
        let select = |stream: usize, spatial: u8| Selection {
            stream: stream as u8,
            spatial,
            temporal: self.layers[stream].temporal_for(frame_rate),
        };
        if streams > 1 {
            let step = |stream: usize| {
                let spatial = MAX_SPATIAL - 1;
                let rate = self.layers[stream].rate(spatial);
                (select(stream, spatial), rate.unwrap_or_else(|| assumed(stream, streams)))
            };
            let wanted = (0..=top(streams)).filter(|&stream| self.active[stream]);
            let steps: Vec<_> = wanted.map(step).collect();
            if !steps.is_empty() {
                return steps;
            }
            // Better too much than nothing.
            let above = (top(streams)..streams).find(|&stream| self.active[stream]);
            return above.map(step).into_iter().collect();
        }
        if !self.active[0] {
            return Vec::new();
        }
        let spatial_layers = usize::from(self.layers[0].spatial_layers().max(1));
        (0..=top(spatial_layers))
            .map(|spatial| {
                let rate = self.layers[0].rate(spatial as u8);
                (select(0, spatial as u8), rate.unwrap_or_else(|| assumed(spatial, spatial_layers)))
            })
            .collect()
    }

    /// Bits a second of the first stream.
    pub(super) fn rate(&self) -> f64 {
        self.layers.first().and_then(|layer| layer.rate(MAX_SPATIAL - 1)).unwrap_or(ASSUMED_AUDIO)
    }

    /// Loudness in dB above silence.
    pub(super) fn loudness(&self, now: Instant) -> f64 {
        let is_recent = self.loudness.at.is_some_and(|at| now.duration_since(at) < PAUSE);
        if is_recent { self.loudness.level } else { 0.0 }
    }

    /// Notes the level of an audio packet (RFC 6464: 7 bits, 0 is loudest).
    pub(super) fn meter(&mut self, level: u8, now: Instant) {
        let level = level & 0x7F;
        let loudness = f64::from(127 - level);
        let weight = if loudness > self.loudness.level { ATTACK } else { RELEASE };
        self.loudness.level += weight * (loudness - self.loudness.level);
        self.loudness.at = Some(now);
        self.level.loudest_dbov = self.level.loudest_dbov.min(level);
        self.level.packets += 1;
        self.level.active_packets += u32::from(level <= ACTIVE_DBOV);
    }

    /// The level since the last call, if packets came; silence once when they end.
    pub(super) fn take_level(&mut self) -> Option<AudioLevel> {
        let was_told = self.level.packets > 0;
        let LevelMeter { loudest_dbov, packets, active_packets, told } =
            std::mem::take(&mut self.level);
        self.level.told = was_told;
        match (100 * active_packets).checked_div(packets) {
            Some(percent) => Some(AudioLevel { loudest_dbov, active_percent: percent as u8 }),
            None => told.then_some(SILENCE),
        }
    }
}
