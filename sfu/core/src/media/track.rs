//! A published track in the engine: its layers and the subscribers it goes to.

use std::time::Instant;

use super::layer::Layer;
use super::parameters::{AudioLevel, Codec};
use super::{Receiver, RoomKey};

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

/// A published track.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) room: RoomKey,
    /// Index of the publisher's transport.
    pub(super) publisher: usize,
    pub(super) config: Receiver,
    pub(super) layers: Vec<Layer>,
    /// Which layers send, as of the last look.
    pub(super) active: Vec<bool>,
    pub(super) routes: Vec<Route>,
    level: LevelMeter,
}

#[derive(Debug)]
struct LevelMeter {
    loudest_dbov: u8,
    packets: u32,
    active_packets: u32,
}

impl Default for LevelMeter {
    fn default() -> Self {
        Self { loudest_dbov: 127, packets: 0, active_packets: 0 }
    }
}

impl Track {
    /// A track that has not sent yet.
    pub(super) fn new(room: RoomKey, publisher: usize, config: Receiver) -> Self {
        let count = config.rids.len().max(config.ssrcs.len()).clamp(1, MAX_LAYERS);
        let layers = (0..count).map(|_| Layer::new(config.kind)).collect();
        Self {
            room,
            publisher,
            config,
            layers,
            active: vec![false; count],
            routes: Vec::new(),
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

    /// Looks again which layers send.
    pub(super) fn refresh_active(&mut self, now: Instant) {
        for (active, layer) in self.active.iter_mut().zip(&self.layers) {
            *active = layer.is_active(now);
        }
    }

    /// Notes the level of an audio packet (RFC 6464: 7 bits, 0 is loudest).
    pub(super) fn meter(&mut self, level: u8) {
        let level = level & 0x7F;
        self.level.loudest_dbov = self.level.loudest_dbov.min(level);
        self.level.packets += 1;
        self.level.active_packets += u32::from(level <= ACTIVE_DBOV);
    }

    /// The level since the last call, if packets came.
    pub(super) fn take_level(&mut self) -> Option<AudioLevel> {
        let LevelMeter { loudest_dbov, packets, active_packets } = std::mem::take(&mut self.level);
        let percent = (100 * active_packets).checked_div(packets)?;
        Some(AudioLevel { loudest_dbov, active_percent: percent as u8 })
    }
}
