//! What forwarding must know of payloads: where a decoder can start, which layers of a scalable
//! stream need a packet, and the fields that a switch between streams must keep continuous.

mod dependency;
mod h26x;
mod red;
mod vp8;
mod vp9;

use super::CodecKind;

pub use dependency::{DependencyDescriptor, DependencyStructure};
pub use red::primary_block;
pub use vp8::{Vp8Continuity, Vp8Descriptor};
pub use vp9::Vp9Descriptor;

/// Most spatial layers of one stream.
pub const MAX_SPATIAL: u8 = 4;
/// Most temporal layers of one stream.
pub const MAX_TEMPORAL: u8 = 4;

/// What a packet is within its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketInfo {
    /// Begins a key frame: a decoder can start here.
    pub key_frame: bool,
    /// First packet of a frame (of one spatial layer).
    pub begins_frame: bool,
    /// Last packet of a frame (of one spatial layer), where the payload tells.
    pub ends_frame: bool,
    /// Spatial layer of a scalable stream.
    pub spatial: u8,
    /// Temporal layer of a scalable stream.
    pub temporal: u8,
    /// A receiver of lower temporal layers can begin to take [`Self::temporal`] here.
    pub temporal_sync: bool,
    /// Who needs the packet: bit [`layer_bit`] for each pair of a spatial and a temporal layer.
    pub needed: u16,
}

impl Default for PacketInfo {
    fn default() -> Self {
        Self::PLAIN
    }
}

impl PacketInfo {
    /// A packet of a stream without layers.
    const PLAIN: Self = Self {
        key_frame: false,
        begins_frame: true,
        ends_frame: false,
        spatial: 0,
        temporal: 0,
        temporal_sync: false,
        needed: u16::MAX,
    };

    /// Whether a receiver of these layers needs the packet.
    pub fn is_needed(&self, spatial: u8, temporal: u8) -> bool {
        self.needed >> layer_bit(spatial, temporal) & 1 == 1
    }
}

/// The bit of a pair of layers in [`PacketInfo::needed`].
pub fn layer_bit(spatial: u8, temporal: u8) -> u32 {
    u32::from(spatial.min(MAX_SPATIAL - 1)) * u32::from(MAX_TEMPORAL)
        + u32::from(temporal.min(MAX_TEMPORAL - 1))
}

/// All pairs of layers that `needs` holds for.
fn layer_mask(needs: impl Fn(u8, u8) -> bool) -> u16 {
    let mut mask = 0;
    for spatial in 0..MAX_SPATIAL {
        for temporal in 0..MAX_TEMPORAL {
            mask |= u16::from(needs(spatial, temporal)) << layer_bit(spatial, temporal);
        }
    }
    mask
}

/// Reads the packets of one stream. What a scalable stream consists of is told at its key
/// frames only, so it is remembered.
#[derive(Debug, Default)]
pub struct PayloadReader {
    structure: Option<Box<DependencyStructure>>,
    /// VP9: upper layers refer to lower ones at key frames only (`L3T3_KEY`), so that between
    /// them a receiver needs its own layer alone.
    is_key_dependent: bool,
}

impl PayloadReader {
    /// What the packet with this payload is; `dependency` is its dependency descriptor, if it
    /// has one.
    pub fn read(
        &mut self,
        codec: CodecKind,
        payload: &[u8],
        dependency: Option<&[u8]>,
    ) -> PacketInfo {
        let info = self.read_payload(codec, payload);
        let Some(bytes) = dependency else { return info };
        let Some(descriptor) = DependencyDescriptor::parse(bytes, self.structure.as_deref()) else {
            return info;
        };
        let described = PacketInfo {
            key_frame: descriptor.structure.is_some() && descriptor.starts_frame,
            begins_frame: descriptor.starts_frame,
            ends_frame: descriptor.ends_frame,
            spatial: descriptor.spatial,
            temporal: descriptor.temporal,
            temporal_sync: descriptor.temporal_sync,
            needed: descriptor.needed,
        };
        if let Some(structure) = descriptor.structure {
            self.structure = Some(structure);
        }
        match codec {
            // The dependency descriptor alone tells the layers.
            CodecKind::Av1 | CodecKind::Vp9 => described,
            CodecKind::Opus
            | CodecKind::Red
            | CodecKind::Pcmu
            | CodecKind::Pcma
            | CodecKind::Vp8
            | CodecKind::H264
            | CodecKind::H265 => PacketInfo { key_frame: info.key_frame, ..described },
        }
    }

    fn read_payload(&mut self, codec: CodecKind, payload: &[u8]) -> PacketInfo {
        let key_frame = match codec {
            CodecKind::Opus | CodecKind::Red | CodecKind::Pcmu | CodecKind::Pcma => true,
            CodecKind::H264 => h26x::h264_starts_key_frame(payload),
            CodecKind::H265 => h26x::h265_starts_key_frame(payload),
            // The N bit of the aggregation header: a new coded video sequence begins.
            CodecKind::Av1 => payload.first().is_some_and(|header| header & 0x08 != 0),
            CodecKind::Vp8 => return vp8_info(payload),
            CodecKind::Vp9 => return self.vp9_info(payload),
        };
        PacketInfo { key_frame, ..PacketInfo::PLAIN }
    }

    fn vp9_info(&mut self, payload: &[u8]) -> PacketInfo {
        let Some(descriptor) = Vp9Descriptor::parse(payload) else { return PacketInfo::PLAIN };
        let Vp9Descriptor { spatial, temporal, is_predicted, .. } = descriptor;
        if spatial > 0 && is_predicted && descriptor.begins_frame {
            self.is_key_dependent = !descriptor.depends_on_lower;
        }
        let own_layer_only = self.is_key_dependent && is_predicted;
        PacketInfo {
            key_frame: descriptor.begins_frame && !is_predicted && spatial == 0,
            begins_frame: descriptor.begins_frame,
            ends_frame: descriptor.ends_frame,
            spatial,
            temporal,
            temporal_sync: descriptor.switching_up,
            needed: layer_mask(|s, t| {
                temporal <= t && if own_layer_only { spatial == s } else { spatial <= s }
            }),
        }
    }

    /// Highest spatial layer that the stream has, where it told.
    pub fn max_spatial(&self) -> Option<u8> {
        self.structure.as_ref().map(|structure| structure.max_spatial())
    }
}

fn vp8_info(payload: &[u8]) -> PacketInfo {
    let Some(descriptor) = Vp8Descriptor::parse(payload) else { return PacketInfo::PLAIN };
    PacketInfo {
        key_frame: descriptor.is_key_frame(payload),
        begins_frame: descriptor.starts_frame,
        temporal: descriptor.temporal,
        temporal_sync: descriptor.layer_sync,
        needed: layer_mask(|_, t| descriptor.temporal <= t),
        ..PacketInfo::PLAIN
    }
}

#[cfg(test)]
mod tests;
