//! Streams of three spatial and three temporal layers on one source: what stands before the
//! generated picture data in each packet, for VP9 (RFC 9628) and for AV1, whose layers only the
//! dependency descriptor tells (AV1 RTP payload format, appendix A).

use sfu_core::media::CodecKind;

use crate::vp8::Frame;

/// How a publisher sends the layers of a track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Each on a source of its own, in VP8.
    Simulcast,
    /// All on one source, in VP9.
    Vp9,
    /// All on one source, in AV1.
    Av1,
}

/// A packet's place in its picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) frame: Frame,
    /// First and last packet of the frame of one spatial layer.
    pub(crate) starts: bool,
    pub(crate) ends: bool,
    /// Number of that frame.
    pub(crate) number: u16,
}

/// Spatial layers, and temporal layers.
const SPATIAL: u8 = 3;
const TEMPORAL: u8 = 3;
/// Of each spatial layer: temporal layer, and whether it refers to the lowest one only.
const TEMPLATES: [(u8, bool); 4] = [(0, true), (1, true), (2, true), (2, false)];
/// Decode target indications.
const NOT_PRESENT: u32 = 0;
const SWITCH: u32 = 2;
const REQUIRED: u32 = 3;

impl Form {
    pub(crate) fn codec(self) -> CodecKind {
        match self {
            Self::Simulcast => CodecKind::Vp8,
            Self::Vp9 => CodecKind::Vp9,
            Self::Av1 => CodecKind::Av1,
        }
    }

    pub(crate) fn is_scalable(self) -> bool {
        self != Self::Simulcast
    }

    /// Bytes before the picture's data.
    pub(crate) fn head(self, place: &Place) -> Vec<u8> {
        let Place { frame, starts, ends, .. } = *place;
        match self {
            Self::Simulcast => Vec::new(),
            Self::Vp9 => {
                let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
                let flags = flag(!frame.is_key, 0x40) | flag(starts, 0x08) | flag(ends, 0x04);
                let [high, low] = (0x8000 | frame.picture_id).to_be_bytes();
                let layers = frame.temporal << 5 | flag(frame.is_sync, 0x10) | frame.layer << 1;
                // Each layer refers to the one below.
                vec![0xA0 | flags, high, low, layers | flag(frame.layer > 0, 1), frame.tl0]
            }
            // One element; a new coded video sequence begins.
            Self::Av1 => vec![0x10 | u8::from(frame.is_key && starts && frame.layer == 0) << 3],
        }
    }

    /// The picture's data in a payload.
    pub(crate) fn data(self, payload: &[u8]) -> &[u8] {
        let head = match self {
            Self::Simulcast => 0,
            Self::Vp9 => 5,
            Self::Av1 => 1,
        };
        payload.get(head..).unwrap_or_default()
    }

    /// The dependency descriptor, where the form has one.
    pub(crate) fn descriptor(self, place: &Place) -> Option<Vec<u8>> {
        (self == Self::Av1).then(|| {
            let Place { frame, starts, ends, number } = *place;
            let kind = (frame.temporal, frame.is_sync || frame.temporal == 0);
            let within = TEMPLATES.iter().position(|template| *template == kind).unwrap();
            let template = u32::from(frame.layer) * TEMPLATES.len() as u32 + within as u32;
            let mut bits = Bits::default();
            bits.put(u32::from(starts), 1);
            bits.put(u32::from(ends), 1);
            bits.put(template, 6);
            bits.put(u32::from(number), 16);
            if frame.is_key && starts && frame.layer == 0 {
                // A structure and nothing else of the extended fields.
                bits.put(0b10000, 5);
                put_structure(&mut bits);
            }
            bits.bytes
        })
    }
}

fn put_structure(bits: &mut Bits) {
    bits.put(0, 6);
    bits.put(u32::from(SPATIAL * TEMPORAL) - 1, 5);
    for spatial in 0..SPATIAL {
        let is_last = spatial + 1 == SPATIAL;
        for next in [1, 1, 0, if is_last { 3 } else { 2 }] {
            bits.put(next, 2);
        }
    }
    let layers = || (0..SPATIAL).flat_map(|s| TEMPLATES.map(|(t, is_sync)| (s, t, is_sync)));
    for (spatial, temporal, is_sync) in layers() {
        for target in 0..SPATIAL * TEMPORAL {
            let (s, t) = (target / TEMPORAL, target % TEMPORAL);
            let indication = match (spatial <= s && temporal <= t, is_sync) {
                (false, _) => NOT_PRESENT,
                (true, true) => SWITCH,
                (true, false) => REQUIRED,
            };
            bits.put(indication, 2);
        }
    }
    // Neither frame differences nor chains nor resolutions; zero chains of at most nine are told
    // in three bits.
    bits.put(0, layers().count());
    bits.put(0, 3);
    bits.put(0, 1);
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: usize,
}

impl Bits {
    fn put(&mut self, value: u32, width: usize) {
        for bit in (0..width).rev() {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let is_set = value.checked_shr(bit as u32).is_some_and(|value| value & 1 == 1);
            if is_set && let Some(last) = self.bytes.last_mut() {
                *last |= 0x80 >> (self.used % 8);
            }
            self.used += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use sfu_core::media::codec::PayloadReader;

    use super::*;

    #[test]
    fn the_engine_reads_the_layers_that_were_written() {
        for form in [Form::Vp9, Form::Av1] {
            let mut reader = PayloadReader::default();
            let mut number = 0;
            for (position, (temporal, is_sync)) in
                [(0, false), (2, true), (1, true), (2, false), (0, false)].into_iter().enumerate()
            {
                for layer in 0..SPATIAL {
                    number += 1;
                    let is_key = position == 0;
                    let frame = Frame {
                        is_key,
                        picture_id: 7,
                        tl0: 1,
                        temporal,
                        is_sync,
                        layer,
                        captured_ms: 0,
                    };
                    let place = Place { frame, starts: true, ends: false, number };
                    let descriptor = form.descriptor(&place);
                    let info = reader.read(form.codec(), &form.head(&place), descriptor.as_deref());
                    assert_eq!(info.key_frame, is_key && layer == 0, "{form:?} {frame:?}");
                    assert_eq!((info.spatial, info.temporal), (layer, temporal));
                    assert_eq!((info.begins_frame, info.ends_frame), (true, false));
                    for (s, t) in (0..SPATIAL).flat_map(|s| (0..TEMPORAL).map(move |t| (s, t))) {
                        let is_needed = layer <= s && temporal <= t;
                        assert_eq!(info.is_needed(s, t), is_needed, "{form:?} {frame:?} {s} {t}");
                    }
                    if temporal > 0 {
                        assert_eq!(info.temporal_sync, is_sync, "{form:?} {frame:?}");
                    }
                }
            }
        }
    }
}
