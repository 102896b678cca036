//! What forwarding must know of payloads: where a decoder can start, and the fields that a
//! switch between layers must keep continuous.

use super::CodecKind;

/// Whether a decoder can start with this payload, the first one of a key frame.
pub fn starts_key_frame(codec: CodecKind, payload: &[u8]) -> bool {
    match codec {
        CodecKind::Opus | CodecKind::Red | CodecKind::Pcmu | CodecKind::Pcma => true,
        CodecKind::Vp8 => vp8_starts_key_frame(payload),
        CodecKind::Vp9 => vp9_starts_key_frame(payload),
        CodecKind::H264 => h264_starts_key_frame(payload),
        CodecKind::H265 => h265_starts_key_frame(payload),
        // The N bit of the aggregation header: a new coded video sequence begins.
        CodecKind::Av1 => payload.first().is_some_and(|header| header & 0x08 != 0),
    }
}

/// RFC 7741 section 4.3: start of partition 0, and the inverse key frame bit is clear.
fn vp8_starts_key_frame(payload: &[u8]) -> bool {
    let Some(descriptor) = Vp8Descriptor::parse(payload) else { return false };
    descriptor.starts_frame && payload.get(descriptor.length).is_some_and(|frame| frame & 0x01 == 0)
}

/// RFC 9628 section 4.2: begins a frame that is not inter-picture predicted, in the lowest
/// spatial layer.
fn vp9_starts_key_frame(payload: &[u8]) -> bool {
    let Some(&flags) = payload.first() else { return false };
    let (has_id, predicted, has_layers, begins) =
        (flags & 0x80 != 0, flags & 0x40 != 0, flags & 0x20 != 0, flags & 0x08 != 0);
    if predicted || !begins {
        return false;
    }
    let mut at = 1;
    if has_id {
        let Some(id) = payload.get(at) else { return false };
        at += if id & 0x80 != 0 { 2 } else { 1 };
    }
    !has_layers || payload.get(at).is_some_and(|layers| layers & 0x0E == 0)
}

/// RFC 6184: a sequence parameter set or an IDR slice, alone, aggregated or as the first
/// fragment.
fn h264_starts_key_frame(payload: &[u8]) -> bool {
    const IDR: u8 = 5;
    const SPS: u8 = 7;
    const STAP_A: u8 = 24;
    const FU_A: u8 = 28;
    let is_key = |kind: u8| matches!(kind & 0x1F, IDR | SPS);
    let Some(&first) = payload.first() else { return false };
    match first & 0x1F {
        IDR | SPS => true,
        STAP_A => aggregated(&payload[1..]).any(|unit| unit.first().is_some_and(|&k| is_key(k))),
        FU_A => payload.get(1).is_some_and(|&header| header & 0x80 != 0 && is_key(header)),
        _ => false,
    }
}

/// RFC 7798: the same for random access pictures and parameter sets.
fn h265_starts_key_frame(payload: &[u8]) -> bool {
    const AGGREGATION: u8 = 48;
    const FRAGMENTATION: u8 = 49;
    let is_key = |kind: u8| (16..=21).contains(&kind) || (32..=34).contains(&kind);
    let Some(&first) = payload.first() else { return false };
    match first >> 1 & 0x3F {
        AGGREGATION => payload.get(2..).is_some_and(|units| {
            aggregated(units).any(|unit| unit.first().is_some_and(|&k| is_key(k >> 1 & 0x3F)))
        }),
        FRAGMENTATION => {
            payload.get(2).is_some_and(|&header| header & 0x80 != 0 && is_key(header & 0x3F))
        }
        kind => is_key(kind),
    }
}

/// Units of an aggregation packet: a length of two bytes before each.
fn aggregated(mut units: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_be_bytes(*units.first_chunk()?));
        let unit = units.get(2..2 + length)?;
        units = &units[2 + length..];
        Some(unit)
    })
}

/// The VP8 payload descriptor (RFC 7741 section 4.2), as far as forwarding changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vp8Descriptor {
    /// Bytes before the frame's data.
    pub length: usize,
    /// First packet of partition 0.
    pub starts_frame: bool,
    /// Picture id, and whether it has 15 bits.
    pub picture_id: Option<(u16, bool)>,
    /// `TL0PICIDX`.
    pub tl0_index: Option<u8>,
    /// `KEYIDX`.
    pub key_index: Option<u8>,
    picture_id_at: usize,
    tl0_at: usize,
}

impl Vp8Descriptor {
    /// Reads the descriptor at the start of `payload`.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let first = *payload.first()?;
        let mut at = 1;
        let flags = if first & 0x80 != 0 {
            at += 1;
            *payload.get(1)?
        } else {
            0
        };
        let picture_id_at = at;
        let mut picture_id = None;
        if flags & 0x80 != 0 {
            let byte = *payload.get(at)?;
            if byte & 0x80 != 0 {
                let low = *payload.get(at + 1)?;
                picture_id = Some((u16::from(byte & 0x7F) << 8 | u16::from(low), true));
                at += 2;
            } else {
                picture_id = Some((u16::from(byte), false));
                at += 1;
            }
        }
        let tl0_at = at;
        let mut tl0_index = None;
        if flags & 0x40 != 0 {
            tl0_index = Some(*payload.get(at)?);
            at += 1;
        }
        let mut key_index = None;
        if flags & 0x30 != 0 {
            let byte = *payload.get(at)?;
            key_index = (flags & 0x10 != 0).then_some(byte & 0x1F);
            at += 1;
        }
        let starts_frame = first & 0x10 != 0 && first & 0x07 == 0;
        Some(Self {
            length: at,
            starts_frame,
            picture_id,
            tl0_index,
            key_index,
            picture_id_at,
            tl0_at,
        })
    }

    /// Writes other values into `payload`, where this descriptor was read.
    pub fn rewrite(&self, payload: &mut [u8], picture_id: u16, tl0_index: u8) {
        match self.picture_id {
            Some((_, true)) => {
                let bytes = (picture_id | 0x8000).to_be_bytes();
                payload[self.picture_id_at..self.picture_id_at + 2].copy_from_slice(&bytes);
            }
            Some((_, false)) => payload[self.picture_id_at] = (picture_id & 0x7F) as u8,
            None => {}
        }
        if self.tl0_index.is_some() {
            payload[self.tl0_at] = tl0_index;
        }
    }
}

/// Keeps VP8 picture ids continuous over switches between layers.
#[derive(Debug, Default, Clone, Copy)]
pub struct Vp8Continuity {
    picture_id_offset: u16,
    tl0_offset: u8,
    last: Option<(u16, u8)>,
}

impl Vp8Continuity {
    /// Begins another layer with this packet: its numbers follow the last ones sent.
    pub fn switch(&mut self, descriptor: &Vp8Descriptor) {
        let Some((last_id, last_tl0)) = self.last else { return };
        if let Some((id, _)) = descriptor.picture_id {
            self.picture_id_offset = last_id.wrapping_add(1).wrapping_sub(id);
        }
        if let Some(tl0) = descriptor.tl0_index {
            self.tl0_offset = last_tl0.wrapping_add(1).wrapping_sub(tl0);
        }
    }

    /// The numbers to send for a packet of the current layer.
    pub fn map(&mut self, descriptor: &Vp8Descriptor) -> (u16, u8) {
        let id = descriptor.picture_id.map_or(0, |(id, _)| id);
        let mapped_id = id.wrapping_add(self.picture_id_offset) & 0x7FFF;
        let mapped_tl0 = descriptor.tl0_index.unwrap_or(0).wrapping_add(self.tl0_offset);
        let is_newer =
            self.last.is_none_or(|(last, _)| mapped_id.wrapping_sub(last) & 0x7FFF < 0x4000);
        if is_newer {
            self.last = Some((mapped_id, mapped_tl0));
        }
        (mapped_id, mapped_tl0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn key_frames_are_found() {
        let cases: [(CodecKind, &[u8], bool); 14] = [
            (CodecKind::Vp8, &[0x90, 0x80, 0x81, 0x02, 0x10], true),
            (CodecKind::Vp8, &[0x90, 0x80, 0x81, 0x02, 0x11], false),
            (CodecKind::Vp8, &[0x80, 0x80, 0x81, 0x02, 0x10], false),
            (CodecKind::H264, &[0x67, 1], true),
            (CodecKind::H264, &[0x41, 1], false),
            (CodecKind::H264, &[0x78, 0, 1, 0x09, 0, 1, 0x67], true),
            (CodecKind::H264, &[0x7C, 0x85, 0], true),
            (CodecKind::H264, &[0x7C, 0x05, 0], false),
            (CodecKind::Vp9, &[0xA8, 0x80, 0x01, 0x00], true),
            (CodecKind::Vp9, &[0xA8, 0x80, 0x01, 0x02], false),
            (CodecKind::Vp9, &[0xE8, 0x80, 0x01, 0x00], false),
            (CodecKind::H265, &[0x40, 0x01], true),
            (CodecKind::Av1, &[0x18], true),
            (CodecKind::Av1, &[0x10], false),
        ];
        for (codec, payload, expected) in cases {
            assert_eq!(starts_key_frame(codec, payload), expected, "{codec:?} {payload:x?}");
        }
    }

    #[test]
    fn picture_ids_continue_over_a_switch_and_wrap() {
        let packet = |id: u16, tl0: u8| {
            let [high, low] = (id | 0x8000).to_be_bytes();
            vec![0x90, 0xE0, high, low, tl0, 0x20, 0]
        };
        let mut continuity = Vp8Continuity::default();
        let mut send = |payload: &mut Vec<u8>, switch: bool| {
            let descriptor = Vp8Descriptor::parse(payload).unwrap();
            if switch {
                continuity.switch(&descriptor);
            }
            let (id, tl0) = continuity.map(&descriptor);
            descriptor.rewrite(payload, id, tl0);
            let written = Vp8Descriptor::parse(payload).unwrap();
            (written.picture_id.unwrap().0, written.tl0_index.unwrap())
        };
        assert_eq!(send(&mut packet(0x7FFE, 255), true), (0x7FFE, 255));
        assert_eq!(send(&mut packet(0x7FFF, 0), false), (0x7FFF, 0));
        assert_eq!(send(&mut packet(500, 9), true), (0, 1));
        assert_eq!(send(&mut packet(501, 9), false), (1, 1));
        assert_eq!(send(&mut packet(500, 9), false), (0, 1));
    }

    proptest! {
        #[test]
        fn random_payloads_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            for codec in [CodecKind::Vp8, CodecKind::Vp9, CodecKind::H264, CodecKind::H265, CodecKind::Av1] {
                let _ = starts_key_frame(codec, &bytes);
            }
            if let Some(descriptor) = Vp8Descriptor::parse(&bytes) {
                descriptor.rewrite(&mut bytes, 1, 2);
            }
        }
    }
}
